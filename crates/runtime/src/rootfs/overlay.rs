//! Layers put together by overlayfs as a mount without a path.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::identities::Identities;
use crate::{Error, Result};

/// Mounts of layers for whoever works in a stopped container.
#[derive(Debug)]
pub struct OverlayMount;

impl OverlayMount {
    /// Mounts layers without a path on the host and returns the root directory; closing it unmounts.
    ///
    /// `lower` has the uppermost layer first. Without `upper` the mount is read-only.
    pub fn detached(lower: &[PathBuf], upper: Option<&Path>, work: Option<&Path>) -> Result<OwnedFd> {
        overlay(lower, upper, work, None).map_err(|source| Error::Mount {
            mount_source: "overlay".into(),
            destination: upper.or(lower.first().map(PathBuf::as_path)).unwrap_or(Path::new("/")).into(),
            source,
        })
    }
}

/// A detached overlay mount. The layers are named through descriptors: the kernel takes at most 255 bytes a
/// value, and a container's mount table then tells nothing of the host's directories.
///
/// With `mapped`, a user namespace and its mappings, layers that hold an image's own numbers show them as those of the
/// namespace, and what is written gets the image's numbers again (Linux 5.19 or later).
pub(crate) fn overlay(
    lower: &[PathBuf],
    upper: Option<&Path>,
    work: Option<&Path>,
    mapped: Option<(BorrowedFd<'_>, &Identities)>,
) -> io::Result<OwnedFd> {
    if mapped.is_none() {
        return assemble(lower, upper, work, None);
    }
    // Mapped layers must be mounted somewhere: in a mount namespace that ends with a thread.
    std::thread::scope(|scope| {
        let assembled = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
            let root = directory("/")?;
            crate::sys::mount_setattr(root.as_fd(), true, 0, 0, libc::MS_SLAVE, None)?;
            assemble(lower, upper, work, mapped)
        });
        assembled.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })
}

fn assemble(
    lower: &[PathBuf],
    upper: Option<&Path>,
    work: Option<&Path>,
    mapped: Option<(BorrowedFd<'_>, &Identities)>,
) -> io::Result<OwnedFd> {
    let namespace = mapped.map(|(namespace, _)| namespace);
    let layers: Vec<OwnedFd> =
        lower.iter().map(|layer| shown(layer, namespace)).collect::<io::Result<_>>()?;
    let (upper, work) = match (upper, work, namespace) {
        (Some(upper), Some(work), Some(namespace)) => {
            let (upper, work) = shown_together(upper, work, namespace)?;
            (Some(upper), Some(work))
        }
        (upper, work, _) => (upper.map(directory).transpose()?, work.map(directory).transpose()?),
    };
    if layers.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // One layer and nothing to write on is no overlay; the caller gets a read-only clone of it.
    if let ([only], None) = (layers.as_slice(), &upper) {
        let mount = clone(only)?;
        crate::sys::mount_setattr(mount.as_fd(), false, libc::MOUNT_ATTR_RDONLY, 0, 0, None)?;
        return Ok(mount);
    }
    let context = match begin(&layers, true) {
        Err(Errno::INVAL) => begin(&layers, false)?,
        result => result?,
    };
    if let (Some(upper), Some(work)) = (&upper, &work) {
        fsconfig_set_string(&context, "upperdir", name(upper))?;
        fsconfig_set_string(&context, "workdir", name(work))?;
        // The upper directory becomes a layer, so it must hold whole files and whole directories, whatever the
        // kernel's own default is. One that does not know an option does not do what it forbids.
        for option in ["metacopy", "redirect_dir", "index"] {
            match fsconfig_set_string(&context, option, "off") {
                Ok(()) | Err(Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    match mapped {
        Some((_, identities)) => as_root_of(identities, || Ok(fsconfig_create(&context)?))?,
        None => fsconfig_create(&context)?,
    }
    let attributes =
        if upper.is_some() { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_RDONLY };
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Runs a closure as the user namespace's root as far as file systems see it: overlayfs writes as whoever mounts it,
/// and our own number has no meaning on mapped layers.
fn as_root_of<T>(identities: &Identities, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let (Some(uid), Some(gid)) = (identities.host_uid(0), identities.host_gid(0)) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "user or group 0 is not mapped"));
    };
    // This thread ends soon, so nothing is set back.
    crate::sys::set_file_system_identity(uid, gid);
    // The change takes rights to files away; they are only wanted the more.
    let sets = crate::sys::capabilities()?;
    crate::sys::set_capabilities(crate::sys::CapabilityBits { effective: sets.permitted, ..sets })?;
    work()
}

fn clone(directory: &OwnedFd) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(directory, "", flags)?)
}

/// A layer as it is, or a mount of its own that shows its owners mapped.
fn shown(path: &PathBuf, namespace: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let layer = directory(path)?;
    let Some(namespace) = namespace else { return Ok(layer) };
    let mount = clone(&layer)?;
    crate::sys::mount_setattr(mount.as_fd(), false, libc::MOUNT_ATTR_IDMAP, 0, 0, Some(namespace))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&mount, "", &layer, "", flags)?;
    Ok(mount)
}

/// Upper and work directory through one mapped mount: overlayfs wants them on the same.
fn shown_together(upper: &Path, work: &Path, namespace: BorrowedFd<'_>) -> io::Result<(OwnedFd, OwnedFd)> {
    let common =
        upper.ancestors().find(|ancestor| work.starts_with(ancestor)).ok_or(io::ErrorKind::InvalidInput)?;
    let mount = shown(&common.to_path_buf(), Some(namespace))?;
    let below = |path: &Path| {
        let path = path.strip_prefix(common).unwrap_or(path);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&mount, path, flags, Mode::empty())
    };
    Ok((below(upper)?, below(work)?))
}

fn begin(layers: &[OwnedFd], one_by_one: bool) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "overlay")?;
    if one_by_one {
        for layer in layers {
            fsconfig_set_string(&context, "lowerdir+", name(layer))?;
        }
    } else {
        let joined: Vec<String> = layers.iter().map(name).collect();
        fsconfig_set_string(&context, "lowerdir", joined.join(":"))?;
    }
    Ok(context)
}

fn name(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}

fn directory(path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path.as_ref(), flags, Mode::empty()).map_err(|errno| {
        let error = io::Error::from(errno);
        io::Error::new(error.kind(), format!("{}: {error}", path.as_ref().display()))
    })
}
