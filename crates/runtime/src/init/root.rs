//! A container's root: put together, entered, and closed behind.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{ContainerState, Hooks, LinuxNamespaceType, Process, Spec};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use rustix::process::{chdir, fchdir};

use super::channel::Channel;
use super::devices::Terminal;
use super::filesystem::{attach, change, clone_mount, new_filesystem, propagate};
use super::sources::Sources;
use super::{Container, devices, has_namespace, is_new_namespace, mounts};
use crate::error::Context as _;
use crate::identities::Identities;
use crate::launch::Rootfs;
use crate::rootfs::{Root, open_host_path, overlay};
use crate::{Error, Result};

/// Makes the container's file system the root of this process. Returns its terminal, when it has one.
pub(super) fn assemble(
    container: &Container<'_>,
    sources: Sources<'_>,
    process: &Process,
    channel: &mut Channel,
) -> Result<Option<Terminal>> {
    let spec = container.spec;
    if !has_namespace(spec, LinuxNamespaceType::Mount) {
        return Err(Error::Invalid {
            field: "linux.namespaces",
            reason: "a container needs a mount namespace".into(),
        });
    }
    let user_namespace = has_namespace(spec, LinuxNamespaceType::User);
    let linux = spec.linux().as_ref();
    let rootfs_propagation =
        linux.and_then(|linux| linux.rootfs_propagation().as_deref()).filter(|name| !name.is_empty());
    let (kind, recursive) = propagation(rootfs_propagation)?;
    // Mounts made here must not reach the host; "slave" still lets the host's reach the container.
    let host = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .to("open the host's root")?;
    let for_host = if kind == libc::MS_SHARED { kind } else { libc::MS_SLAVE };
    propagate(host.as_fd(), for_host, true).to("cut mounts off from the host")?;

    let null = super::open_null()?;
    let nodes = devices::prepare(linux.and_then(|linux| linux.devices().as_deref()), user_namespace)?;
    let Sources { mounts: prepared, root: mounted } = sources;
    let mount = match mounted {
        Some(mount) => mount,
        None => mount_root(container.rootfs, None)?,
    };
    // A root with a path of the host is mounted there, where hooks look for it; any other on the host's.
    let place = match container.rootfs {
        Rootfs::Path(path) if !container.options.no_pivot => open_host_path(path, true).ok(),
        _ => None,
    };
    let place = place.as_ref().unwrap_or(&host);
    if for_host == libc::MS_SHARED {
        // The parent of a root must not be shared (pivot_root(2)).
        let base = clone_mount(mount.as_fd(), true).to("mount the container's root")?;
        attach(&base, place.as_fd()).to("mount the container's root")?;
        propagate(base.as_fd(), libc::MS_PRIVATE, false).to("make the container's root private")?;
        attach(&mount, base.as_fd()).to("mount the container's root")?;
    } else {
        attach(&mount, place.as_fd()).to("mount the container's root")?;
    }
    propagate(mount.as_fd(), libc::MS_PRIVATE, false).to("make the container's root private")?;
    let root = Root::from_descriptor(mount);

    let own_device_directory =
        prepared.iter().any(|one| one.mount.destination() == Path::new("/dev") && one.kind() != "bind");
    let new_cgroup_namespace = is_new_namespace(spec, LinuxNamespaceType::Cgroup);
    // Without a cgroup namespace the container sees its own groups only, by bind mounts.
    let own_cgroup = if has_namespace(spec, LinuxNamespaceType::Cgroup) {
        None
    } else {
        Some(container.cgroup.unwrap_or(Path::new("")))
    };
    let mut in_cgroup_namespace = false;
    for one in prepared {
        if matches!(one.kind(), "cgroup" | "cgroup2") && !in_cgroup_namespace {
            enter_cgroup_namespace(new_cgroup_namespace, channel)?;
            in_cgroup_namespace = true;
        }
        mounts::put(&root, one, own_cgroup)?;
    }
    if !in_cgroup_namespace {
        enter_cgroup_namespace(new_cgroup_namespace, channel)?;
    }
    devices::make(&root, nodes, own_device_directory)?;
    let terminal = match container.terminal {
        None => None,
        Some(size) => {
            let terminal = devices::open_terminal(&root, size)?;
            if own_device_directory {
                devices::mount_console(&root, &terminal)?;
            }
            Some(terminal)
        }
    };
    if let Some(sysctl) = linux.and_then(|linux| linux.sysctl().as_ref()).filter(|all| !all.is_empty()) {
        set_sysctls(sysctl.iter(), spec)?;
    }
    // The working directory before the root may become read-only.
    if !process.cwd().as_os_str().is_empty() {
        super::program::make_directory(&root, process.cwd());
    }
    for path in linux.iter().flat_map(|linux| linux.readonly_paths().iter().flatten()) {
        make_read_only(&root, Path::new(path))?;
    }
    let mut masks = Masks { null, directory: None };
    for path in linux.iter().flat_map(|linux| linux.masked_paths().iter().flatten()) {
        masks.cover(&root, Path::new(path))?;
    }
    if spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly) == Some(true) {
        change(root.as_fd(), false, libc::MOUNT_ATTR_RDONLY, 0).to("make the root read-only")?;
    }
    if let Some(hooks) = spec.hooks().as_ref().filter(|_| container.options.state.is_some()) {
        run_hooks(hooks, container, channel)?;
    }
    enter(&root, container.options.no_pivot)?;
    if rootfs_propagation.is_some() {
        propagate(root.as_fd(), kind, recursive).to("set the propagation of the root")?;
    }
    Ok(terminal)
}

fn propagation(name: Option<&str>) -> Result<(u64, bool)> {
    let Some(name) = name else { return Ok((libc::MS_PRIVATE, true)) };
    let (name, recursive) = match name.strip_prefix('r') {
        Some(name) => (name, true),
        None => (name, false),
    };
    let kind = match name {
        "private" => libc::MS_PRIVATE,
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "unbindable" => libc::MS_UNBINDABLE,
        other => {
            return Err(Error::Invalid {
                field: "linux.rootfsPropagation",
                reason: format!("{other:?} is no propagation"),
            });
        }
    };
    Ok((kind as u64, recursive))
}

/// Hooks of the point where everything is mounted and the host's root is still ours.
fn run_hooks(hooks: &Hooks, container: &Container<'_>, channel: &mut Channel) -> Result<()> {
    #[allow(deprecated, reason = "engines still use them")]
    let outside = [hooks.prestart(), hooks.create_runtime()];
    if outside.iter().any(|list| list.as_ref().is_some_and(|list| !list.is_empty())) {
        channel.wait_for_hooks()?;
    }
    match (hooks.create_container(), container.options.state) {
        (Some(list), Some(state)) => {
            super::run_hooks("createContainer", list, state, ContainerState::Creating)
        }
        _ => Ok(()),
    }
}

/// The root as a mount without a path. `mapped` shows the owners of layers as a user namespace maps them.
pub(super) fn mount_root(rootfs: &Rootfs, mapped: Option<(BorrowedFd<'_>, &Identities)>) -> Result<OwnedFd> {
    match rootfs {
        Rootfs::Overlay { lower, upper, work } => overlay(lower, upper.as_deref(), work.as_deref(), mapped)
            .map_err(|source| Error::Mount {
                mount_source: "overlay".into(),
                destination: "/".into(),
                source,
            }),
        Rootfs::Path(path) => {
            let failed =
                |source| Error::Mount { mount_source: path.clone(), destination: "/".into(), source };
            let directory = open_host_path(path, true).map_err(failed)?;
            let failed =
                |source| Error::Mount { mount_source: path.clone(), destination: "/".into(), source };
            clone_mount(directory.as_fd(), true).map_err(failed)
        }
    }
}

/// The namespace shows the group that the process is in when it makes the namespace.
fn enter_cgroup_namespace(new: bool, channel: &mut Channel) -> Result<()> {
    channel.wait_until_placed()?;
    if new {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP).to("make a cgroup namespace")?;
    }
    Ok(())
}

/// pivot_root with the old root stacked on the new one (pivot_root(2), notes), then unmounted.
///
/// Without pivot_root(2), as an initial ramdisk needs it, the host's mounts stay below and only chroot(2) hides them.
fn enter(root: &Root, no_pivot: bool) -> Result<()> {
    fchdir(root).to("enter the container's root")?;
    if no_pivot {
        rustix::process::chroot(".").to("change the root")?;
        return chdir("/").to("enter the container's root");
    }
    rustix::process::pivot_root(".", ".").to("change the root")?;
    unmount(".", UnmountFlags::DETACH).to("let the host's root go")?;
    chdir("/").to("enter the container's root")
}

/// Writes kernel settings through a proc file system of our own: what the container mounted at `/proc` could be
/// anything (CVE-2025-52881).
fn set_sysctls<'a>(all: impl Iterator<Item = (&'a String, &'a String)>, spec: &Spec) -> Result<()> {
    let proc = new_filesystem("proc", Some("proc"), &[], MountAttrFlags::empty()).to("mount proc")?;
    for (name, value) in all {
        let invalid =
            |reason: &str| Error::Invalid { field: "linux.sysctl", reason: format!("{name} {reason}") };
        // Either form is used: net.ipv4.conf.eth0/1.forwarding or net/ipv4/...
        let path = match (name.find('/'), name.find('.')) {
            (Some(slash), Some(dot)) if slash < dot => name.clone(),
            (Some(_), None) => name.clone(),
            _ => name
                .chars()
                .map(|c| {
                    if c == '.' {
                        '/'
                    } else if c == '/' {
                        '.'
                    } else {
                        c
                    }
                })
                .collect(),
        };
        if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return Err(invalid("is not the name of a setting"));
        }
        if !is_namespaced(&path, spec) {
            return Err(invalid("is not in a separate kernel namespace"));
        }
        let path = Path::new("sys").join(&path);
        let file = crate::rootfs::resolve_in(proc.as_fd(), &path, OFlags::WRONLY, Mode::empty()).map_err(
            |source| Error::File { operation: "open", path: Path::new("/proc").join(&path), source },
        )?;
        rustix::io::write(&file, value.as_bytes()).map_err(|errno| Error::File {
            operation: "write",
            path: Path::new("/proc").join(&path),
            source: errno.into(),
        })?;
    }
    Ok(())
}

/// Whether a setting is the container's own, in a namespace that it has; any other would be the host's.
fn is_namespaced(path: &str, spec: &Spec) -> bool {
    const IPC: [&str; 9] =
        ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced", "auto_msgmni"];
    let has = |kind| has_namespace(spec, kind);
    match path.split_once('/') {
        Some(("net", _)) => has(LinuxNamespaceType::Network),
        Some(("user", _)) => has(LinuxNamespaceType::User),
        Some(("fs", rest)) => rest.starts_with("mqueue/") && has(LinuxNamespaceType::Ipc),
        Some(("kernel", "domainname" | "hostname")) => has(LinuxNamespaceType::Uts),
        Some(("kernel", name)) => IPC.contains(&name) && has(LinuxNamespaceType::Ipc),
        _ => false,
    }
}

/// Paths that do not exist, or lead elsewhere by links, need no protection.
fn absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR))
}

fn make_read_only(root: &Root, path: &Path) -> Result<()> {
    let failed = |source| Error::Mount { mount_source: path.into(), destination: path.into(), source };
    let at = match root.resolve(path, OFlags::PATH, Mode::empty()) {
        Err(error) if absent(&error) => return Ok(()),
        result => result.map_err(failed)?,
    };
    let mount = clone_mount(at.as_fd(), true).map_err(failed)?;
    change(mount.as_fd(), false, libc::MOUNT_ATTR_RDONLY, 0).map_err(failed)?;
    attach(&mount, at.as_fd()).map_err(failed)
}

/// What covers masked paths: the real null device over files, one empty read-only directory over directories.
struct Masks {
    null: OwnedFd,
    directory: Option<OwnedFd>,
}

impl Masks {
    fn cover(&mut self, root: &Root, path: &Path) -> Result<()> {
        let failed = |source: io::Error| Error::Mount {
            mount_source: "mask".into(),
            destination: path.into(),
            source,
        };
        let at = match root.resolve(path, OFlags::PATH, Mode::empty()) {
            Err(error) if absent(&error) => return Ok(()),
            result => result.map_err(failed)?,
        };
        let stat = fstat(&at).map_err(|errno| failed(errno.into()))?;
        let mask = if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            clone_mount(self.null.as_fd(), false).map_err(failed)?
        } else if let Some(mounted) = &self.directory {
            clone_mount(mounted.as_fd(), false).map_err(failed)?
        } else {
            let data = ["nr_blocks", "nr_inodes"].map(|key| (key.to_owned(), Some("1".to_owned())));
            let mask = new_filesystem("tmpfs", Some("tmpfs"), &data, MountAttrFlags::MOUNT_ATTR_RDONLY);
            let mask = mask.map_err(failed)?;
            attach(&mask, at.as_fd()).map_err(failed)?;
            self.directory = Some(mask);
            return Ok(());
        };
        attach(&mask, at.as_fd()).map_err(failed)
    }
}
