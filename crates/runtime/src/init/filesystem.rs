//! New mounts without a path, by the kernel's file descriptor based mount interface.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

/// A new file system of a kind, mounted nowhere yet.
pub(super) fn new_filesystem(
    kind: &str,
    source: Option<&str>,
    data: &[(String, Option<String>)],
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    if let Some(source) = source.filter(|source| !source.is_empty()) {
        fsconfig_set_string(&context, "source", source)?;
    }
    for (key, value) in data {
        let set = match value {
            Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str()),
            None => fsconfig_set_flag(&context, key.as_str()),
        };
        set.map_err(|errno| {
            let error = io::Error::from(errno);
            io::Error::new(error.kind(), format!("option {key}: {error}"))
        })?;
    }
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A copy of the mount at an open file or directory, mounted nowhere yet.
pub(super) fn clone_mount(at: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(at, "", flags)?)
}

/// Mounts on an open file or directory: no path is looked at again, so none can be exchanged.
pub(super) fn attach(mount: &OwnedFd, at: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", at, "", flags)?)
}

/// Sets and clears attributes of a mount.
pub(super) fn change(mount: BorrowedFd<'_>, recursive: bool, set: u64, clear: u64) -> io::Result<()> {
    if set | clear == 0 {
        return Ok(());
    }
    crate::sys::mount_setattr(mount, recursive, set, clear, 0, None)
}

/// Sets the propagation of a mount.
pub(super) fn propagate(mount: BorrowedFd<'_>, kind: u64, recursive: bool) -> io::Result<()> {
    crate::sys::mount_setattr(mount, recursive, 0, 0, kind, None)
}

/// Shows the owners of a mount that is attached nowhere as a user namespace maps them.
pub(crate) fn map_identities(
    mount: BorrowedFd<'_>,
    recursive: bool,
    namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    crate::sys::mount_setattr(mount, recursive, libc::MOUNT_ATTR_IDMAP, 0, 0, Some(namespace))
}
