//! What the fuzz targets share. `cargo xtask fuzz` builds and runs them; each is a parser of bytes from outside, and
//! `corpus/NAME` holds where its search begins.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// A place in memory to unpack into, with something beside it that nobody may touch. The disk is read-only for this process,
/// but for the directory that it runs in.
pub struct Cage {
    root: PathBuf,
    kept: (fs::Metadata, Vec<u8>),
}

impl Cage {
    /// Takes the process off the host's mounts.
    pub fn close() -> Self {
        // SAFETY: no other thread has been started, and nothing depends on the mounts of before.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.expect("fuzz as root");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .expect("private mounts");
        let here = std::env::current_dir().expect("a directory to run in");
        mount_bind(&here, &here).expect("mount the working directory");
        std::env::set_current_dir(&here).expect("enter the mount");
        let root = PathBuf::from("/mnt");
        mount("fuzz", &root, "tmpfs", MountFlags::NOSUID, c"size=256m")
            .expect("mount a file system in memory");
        mount_remount("/", MountFlags::BIND | MountFlags::RDONLY, c"").expect("make the disk read-only");
        fs::create_dir(root.join("canary")).expect("make the canary");
        fs::write(root.join("canary/file"), "whole").expect("make the canary");
        let kept = Self::state(&root);
        Self { root, kept }
    }

    fn state(root: &Path) -> (fs::Metadata, Vec<u8>) {
        let file = root.join("canary/file");
        (fs::metadata(&file).expect("the canary lives"), fs::read(&file).expect("the canary lives"))
    }

    /// A directory to fill.
    pub fn fresh(&self) -> PathBuf {
        let path = self.root.join("inside");
        fs::create_dir(&path).expect("make a directory to fill");
        path
    }

    /// Empties the place, and sees to it that nothing else was touched.
    ///
    /// # Panics
    /// When something was.
    pub fn check(&self) {
        use std::os::unix::fs::MetadataExt as _;
        fs::remove_dir_all(self.root.join("inside")).expect("what was unpacked can be removed");
        let (now, content) = Self::state(&self.root);
        let facts = |meta: &fs::Metadata| {
            (meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.nlink(), meta.ino())
        };
        assert_eq!(facts(&now), facts(&self.kept.0), "the canary's attributes");
        assert_eq!(content, self.kept.1, "the canary's content");
        let names: Vec<_> =
            fs::read_dir(&self.root).expect("list").map(|entry| entry.expect("list").file_name()).collect();
        assert_eq!(names, ["canary"], "nothing was made outside");
    }
}
