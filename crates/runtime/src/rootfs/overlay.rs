//! Layers put together by overlayfs as a mount without a path.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use crate::{Error, Result};

/// Mounts of layers for whoever works in a stopped container.
#[derive(Debug)]
pub struct OverlayMount;

impl OverlayMount {
    /// Mounts layers without a path on the host and returns the root directory; closing it unmounts.
    ///
    /// `lower` has the uppermost layer first. Without `upper` the mount is read-only.
    pub fn detached(lower: &[PathBuf], upper: Option<&Path>, work: Option<&Path>) -> Result<OwnedFd> {
        overlay(lower, upper, work, false).map_err(|source| Error::Mount {
            mount_source: "overlay".into(),
            destination: upper.or(lower.first().map(PathBuf::as_path)).unwrap_or(Path::new("/")).into(),
            source,
        })
    }
}

/// A detached overlay mount. The layers are named through descriptors: the kernel takes at most 255 bytes a
/// value, and a container's mount table then tells nothing of the host's directories.
pub(crate) fn overlay(
    lower: &[PathBuf],
    upper: Option<&Path>,
    work: Option<&Path>,
    user_namespace: bool,
) -> io::Result<OwnedFd> {
    let layers: Vec<OwnedFd> = lower.iter().map(directory).collect::<io::Result<_>>()?;
    let upper = upper.map(directory).transpose()?;
    let work = work.map(directory).transpose()?;
    if layers.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // One layer and nothing to write on is no overlay; the caller gets a read-only clone of it.
    if let ([only], None) = (layers.as_slice(), &upper) {
        let flags = rustix::mount::OpenTreeFlags::OPEN_TREE_CLONE
            | rustix::mount::OpenTreeFlags::OPEN_TREE_CLOEXEC
            | rustix::mount::OpenTreeFlags::AT_EMPTY_PATH;
        let mount = rustix::mount::open_tree(only, "", flags)?;
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
    if user_namespace {
        fsconfig_set_flag(&context, "userxattr")?;
    }
    fsconfig_create(&context)?;
    let attributes =
        if upper.is_some() { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_RDONLY };
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
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
