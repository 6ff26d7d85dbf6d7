//! `/sys/fs/cgroup` of a container.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::mount::MountAttrFlags;

use super::filesystem::{attach, change, clone_mount, new_filesystem};
use super::options::Options;
use crate::cgroup::{Hierarchy, Version};
use crate::rootfs::open_host_path;

/// Shows the container its own control groups. With a cgroup namespace the file system itself does that; without,
/// `own` (the path below the hierarchies' roots) is bound.
pub(super) fn mount(destination: &OwnedFd, options: &Options, own: Option<&Path>) -> io::Result<()> {
    let hierarchy = Hierarchy::detect().map_err(|error| io::Error::other(error.chain()))?;
    let attributes = options.attributes();
    if hierarchy.version() == Version::V2 {
        let mount = match own {
            None => new_filesystem("cgroup2", Some("cgroup"), &[], attributes)?,
            Some(own) => {
                let root = hierarchy.roots().next().unwrap_or(Path::new("/sys/fs/cgroup"));
                bound(&root.join(own), options)?
            }
        };
        return attach(&mount, destination.as_fd());
    }
    // Version 1: a small tmpfs with one directory a hierarchy.
    let data = [("mode".to_owned(), Some("755".to_owned()))];
    let container = attributes & !MountAttrFlags::MOUNT_ATTR_RDONLY;
    let tmpfs = new_filesystem("tmpfs", Some("tmpfs"), &data, container)?;
    attach(&tmpfs, destination.as_fd())?;
    for (root, controllers) in hierarchy.mounted() {
        let Some(name) = root.file_name() else { continue };
        mkdirat(&tmpfs, name, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let at = openat(&tmpfs, name, flags, Mode::empty())?;
        let mount = match own {
            None => {
                let data: Vec<_> = controllers.iter().map(|&one| (one.to_owned(), None)).collect();
                new_filesystem("cgroup", Some("cgroup"), &data, attributes)
            }
            // Not every hierarchy has a group of every container.
            Some(own) => bound(&root.join(own), options),
        };
        match mount {
            Ok(mount) => attach(&mount, at.as_fd())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        // Hosts that mount two controllers together name them together too.
        for controller in controllers {
            if Path::new(controller) != Path::new(name) {
                symlinkat(name, &tmpfs, controller)?;
            }
        }
    }
    change(tmpfs.as_fd(), false, options.set & libc::MOUNT_ATTR_RDONLY, 0)
}

fn bound(path: &Path, options: &Options) -> io::Result<OwnedFd> {
    let mount = clone_mount(open_host_path(path, false)?.as_fd(), false)?;
    change(mount.as_fd(), false, options.set, options.clear)?;
    Ok(mount)
}
