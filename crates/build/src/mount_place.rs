//! Where the mounts of a RUN wait for its container: paths of the host that only root reaches, and that nobody who is
//! built can change between a look and a mount (CVE-2024-23651).
//!
//! They are never removed with what is below them: a path that is still mounted on stays.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, FileType, fstat};
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, move_mount, open_tree, unmount,
};

use crate::Result;
use crate::error::IoContext;

/// The mounts of one RUN, which end when this is dropped.
pub(crate) struct MountPlace {
    directory: PathBuf,
    made: Vec<PathBuf>,
}

static COUNT: AtomicU64 = AtomicU64::new(0);

/// Takes away what a crash left.
pub(crate) fn tidy(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).io("create", directory)?;
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).io("change mode of", directory)?;
    for entry in fs::read_dir(directory).io("list", directory)? {
        take_away(&entry.io("list", directory)?.path());
    }
    Ok(())
}

/// Unmounts a path, and removes it if it then is empty.
fn take_away(path: &Path) {
    while unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
    let _ = fs::remove_dir(path).or_else(|_| fs::remove_file(path));
}

impl MountPlace {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, made: Vec::new() }
    }

    fn next(&mut self, is_directory: bool) -> Result<PathBuf> {
        let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = self.directory.join(name);
        if is_directory {
            fs::create_dir(&path).io("create", &path)?;
        } else {
            fs::File::create_new(&path).io("create", &path)?;
        }
        self.made.push(path.clone());
        Ok(path)
    }

    /// Mounts what an open file or directory is, whatever has its name by then.
    pub(crate) fn bind(&mut self, source: BorrowedFd<'_>) -> Result<PathBuf> {
        let stat = fstat(source).io("look at", "a mount's source")?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let path = self.next(is_directory)?;
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = open_tree(source, "", flags).io("bind", &path)?;
        self.attach(&tree, path)
    }

    /// Mounts a file system that is mounted nowhere yet.
    pub(crate) fn place(&mut self, detached: &OwnedFd) -> Result<PathBuf> {
        let path = self.next(true)?;
        self.attach(detached, path)
    }

    fn attach(&mut self, tree: &OwnedFd, path: PathBuf) -> Result<PathBuf> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(tree.as_fd(), "", CWD, &path, flags).io("mount on", &path)?;
        Ok(path)
    }

    /// A directory in memory that is never swapped to a disk's file system.
    pub(crate) fn memory(&mut self) -> Result<PathBuf> {
        let path = self.next(true)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let options = CString::new("mode=0700,size=16m").unwrap_or_default();
        mount("build", &path, "tmpfs", flags, options.as_c_str()).io("mount memory on", &path)?;
        Ok(path)
    }
}

impl Drop for MountPlace {
    fn drop(&mut self) {
        for path in self.made.iter().rev() {
            take_away(path);
        }
    }
}
