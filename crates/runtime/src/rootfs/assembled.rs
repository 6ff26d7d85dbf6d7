//! The file system of a container that does not run, with all that would be mounted in it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::Root;
use crate::{Error, Result};

/// Something of the host that belongs into a root.
#[derive(Clone, Debug)]
pub struct Inside {
    /// Its path on the host.
    pub source: PathBuf,
    /// Its path in the root.
    pub target: PathBuf,
    /// Whether it cannot be written.
    pub read_only: bool,
}

/// Runs `work` on a root with `mounts` in it. Nobody else sees them: they are in a mount namespace that ends with
/// `work`. `place` is a directory of the caller's own to mount on. Targets that are not there are made.
///
/// # Errors
/// [`Error::Mount`] when the kernel refuses.
pub fn with_mounts<T: Send>(
    root: OwnedFd,
    mounts: &[Inside],
    place: &Path,
    work: impl FnOnce(&Root) -> T + Send,
) -> Result<T> {
    let at = |source: &Path, destination: &Path| {
        let (mount_source, destination) = (source.display().to_string(), destination.to_owned());
        move |source: io::Error| Error::Mount { mount_source: mount_source.into(), destination, source }
    };
    // Taken before the thread parts: a descriptor belongs to the mounts that it was opened among.
    let mut sources = Vec::with_capacity(mounts.len());
    for mount in mounts {
        sources.push(take(mount).map_err(at(&mount.source, &mount.target))?);
    }
    std::thread::scope(|scope| {
        let done = scope.spawn(|| {
            let prepared = part().and_then(|()| mount_on(root, place));
            prepared.map_err(at(Path::new("the container's root"), place))?;
            let root = Root::open(place)?;
            for (mount, source) in mounts.iter().zip(&sources) {
                put(&root, &mount.target, source).map_err(at(&mount.source, &mount.target))?;
            }
            Ok(work(&root))
        });
        done.join().unwrap_or_else(|_| Err(at(Path::new("/"), place)(io::ErrorKind::Other.into())))
    })
}

/// Parts this thread's mounts from all others'.
fn part() -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    let root = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    crate::sys::mount_setattr(root.as_fd(), true, 0, 0, libc::MS_SLAVE, None)
}

fn mount_on(root: OwnedFd, place: &Path) -> io::Result<()> {
    let onto = open(place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    match move_mount(&root, "", &onto, "", flags) {
        // A plain directory is no mount yet.
        Err(Errno::INVAL) => Ok(move_mount(clone(&root)?, "", &onto, "", flags)?),
        moved => Ok(moved?),
    }
}

fn clone(directory: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(directory, "", flags)?)
}

/// A source's mount, mounted nowhere yet, and whether it is a directory.
fn take(mount: &Inside) -> io::Result<(OwnedFd, bool)> {
    let source = open(&mount.source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let is_directory = FileType::from_raw_mode(fstat(&source)?.st_mode) == FileType::Directory;
    let cloned = clone(&source)?;
    if mount.read_only {
        crate::sys::mount_setattr(cloned.as_fd(), true, libc::MOUNT_ATTR_RDONLY, 0, 0, None)?;
    }
    Ok((cloned, is_directory))
}

fn put(root: &Root, target: &Path, (source, is_directory): &(OwnedFd, bool)) -> io::Result<()> {
    let target = Path::new("/").join(target);
    let onto = match root.locate(&target) {
        Ok(onto) => onto,
        Err(_) if *is_directory => root.make_all(&target, Mode::from_raw_mode(0o755))?,
        Err(_) => root.create(&target, Mode::from_raw_mode(0o644)).map_err(io::Error::other)?,
    };
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(source, "", &onto, "", flags)?)
}
