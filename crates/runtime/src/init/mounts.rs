//! The mounts of the specification, each made without a path and put on its destination by descriptor.
//!
//! A destination is resolved inside the container's root by the kernel and then only used as that descriptor, so
//! exchanging a part of its path leads nowhere else (CVE-2021-30465).

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Component, Path};

use oci_spec::runtime::Mount;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, fstatfs, mkdirat, openat, openat2};

use super::cgroups;
use super::filesystem::{attach, change, clone_mount, new_filesystem, propagate};
use super::options::Options;
use crate::rootfs::{Root, open_host_path};
use crate::{Error, Result};

/// A mount of the specification; the source of a bind mount is already cloned.
pub(super) struct Prepared<'a> {
    pub(super) mount: &'a Mount,
    options: Options,
    source: Option<OwnedFd>,
}

impl Prepared<'_> {
    pub(super) fn kind(&self) -> &str {
        if self.options.bind { "bind" } else { self.mount.typ().as_deref().unwrap_or("none") }
    }
}

fn failed(mount: &Mount, source: impl Into<io::Error>) -> Error {
    Error::Mount {
        mount_source: mount
            .source()
            .clone()
            .unwrap_or_else(|| mount.typ().clone().unwrap_or_default().into()),
        destination: mount.destination().clone(),
        source: source.into(),
    }
}

/// Reads the options and clones what bind mounts name, while the host's tree is still the root.
pub(super) fn prepare(mounts: &[Mount]) -> Result<Vec<Prepared<'_>>> {
    mounts.iter().map(prepare_one).collect()
}

fn prepare_one(mount: &Mount) -> Result<Prepared<'_>> {
    if !mount.destination().is_absolute() {
        return Err(Error::Invalid {
            field: "mounts.destination",
            reason: format!("{} is not absolute", mount.destination().display()),
        });
    }
    if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
        return Err(Error::Invalid { field: "mounts.uidMappings", reason: "it is not supported".into() });
    }
    let mut options = Options::parse(mount.options().iter().flatten())?;
    options.bind |= mount.typ().as_deref() == Some("bind");
    let source = if options.bind {
        let path = mount.source().as_deref().unwrap_or(Path::new(""));
        if !path.is_absolute() {
            return Err(Error::Invalid {
                field: "mounts.source",
                reason: format!("{} is not absolute", path.display()),
            });
        }
        let source = open_host_path(path, true).map_err(|source| failed(mount, source))?;
        Some(clone_mount(source.as_fd(), options.recursive).map_err(|source| failed(mount, source))?)
    } else {
        None
    };
    Ok(Prepared { mount, options, source })
}

/// Puts a mount on its destination below the root.
pub(super) fn put(root: &Root, prepared: Prepared<'_>, own_cgroup: Option<&Path>) -> Result<()> {
    let mount = prepared.mount;
    if mount.typ().as_deref() == Some("cgroup") && prepared.source.is_none() {
        let destination = destination(root, &prepared, true)?;
        return cgroups::mount(&destination, &prepared.options, own_cgroup)
            .map_err(|source| failed(mount, source));
    }
    match &prepared.source {
        Some(source) => {
            let stat = fstat(source).map_err(|errno| failed(mount, errno))?;
            let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let destination = destination(root, &prepared, directory)?;
            refuse_over_proc(&prepared, source, &destination)?;
            bind(source, &prepared.options, &destination).map_err(|source| failed(mount, source))
        }
        None => {
            let destination = destination(root, &prepared, true)?;
            let new = new_mount(&prepared, &destination).map_err(|source| failed(mount, source))?;
            attach(&new, destination.as_fd()).map_err(|source| failed(mount, source))?;
            set_propagation(&new, &prepared.options).map_err(|source| failed(mount, source))
        }
    }
}

/// Superblock magic of procfs (linux/magic.h).
const PROC_MAGIC: u64 = 0x9fa0;

/// Files of `/proc` that may be replaced, for example by lxcfs.
const REPLACEABLE: [&str; 8] =
    ["cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo"];

/// A volume over `/proc` would take away what masks and labels are applied to (CVE-2019-16884).
fn refuse_over_proc(prepared: &Prepared<'_>, source: &OwnedFd, destination: &OwnedFd) -> Result<()> {
    let mount = prepared.mount;
    let path = mount.destination();
    let is_proc = |file: &OwnedFd| {
        fstatfs(file).map(|system| system.f_type as u64 == PROC_MAGIC).map_err(|errno| failed(mount, errno))
    };
    let over = path == Path::new("/proc") || is_proc(destination)?;
    let replaceable = REPLACEABLE.iter().any(|name| path == &Path::new("/proc").join(name));
    let whole_proc = path == Path::new("/proc") && is_proc(source)?;
    if over && !replaceable && !whole_proc {
        return Err(Error::Invalid {
            field: "mounts.destination",
            reason: format!("{} is inside /proc, where nothing can be mounted", path.display()),
        });
    }
    Ok(())
}

fn bind(source: &OwnedFd, options: &Options, destination: &OwnedFd) -> io::Result<()> {
    change(source.as_fd(), false, options.set, options.clear)?;
    change(source.as_fd(), true, options.recursive_set, options.recursive_clear)?;
    // Nothing that the container mounts may show on the host unless it was asked for.
    let (kind, recursive) = options.propagation.unwrap_or((libc::MS_PRIVATE, true));
    propagate(source.as_fd(), kind, recursive)?;
    attach(source, destination.as_fd())
}

fn set_propagation(mount: &OwnedFd, options: &Options) -> io::Result<()> {
    match options.propagation {
        Some((kind, recursive)) => propagate(mount.as_fd(), kind, recursive),
        None => Ok(()),
    }
}

fn new_mount(prepared: &Prepared<'_>, destination: &OwnedFd) -> io::Result<OwnedFd> {
    let kind = prepared.mount.typ().as_deref().unwrap_or("none");
    let source = prepared.mount.source().as_deref().and_then(Path::to_str);
    let mut data = prepared.options.data.clone();
    // A tmpfs looks like the directory that it covers unless told otherwise.
    if kind == "tmpfs" && !data.iter().any(|(key, _)| key == "mode") {
        let mode = fstat(destination)?.st_mode & 0o7777;
        data.push(("mode".into(), Some(format!("{mode:o}"))));
    }
    new_filesystem(kind, source, &data, prepared.options.attributes())
}

/// The kernel's own file systems must be where programs look for them, not where a link of the image leads: what is
/// masked at `/proc/kcore` must be the real one (CVE-2019-19921, CVE-2026-41579).
fn must_not_be_a_link(prepared: &Prepared<'_>) -> bool {
    let kernel = matches!(prepared.kind(), "proc" | "sysfs" | "devpts" | "mqueue" | "cgroup" | "cgroup2");
    let destination = prepared.mount.destination();
    let special = ["/proc", "/sys", "/dev"].iter().any(|path| destination.as_path() == Path::new(path));
    kernel || special
}

/// The destination, made where it is missing.
fn destination(root: &Root, prepared: &Prepared<'_>, directory: bool) -> Result<OwnedFd> {
    let path = prepared.mount.destination();
    if must_not_be_a_link(prepared) {
        return without_links(root, path).map_err(|source| failed(prepared.mount, source));
    }
    if directory {
        return root.make_directories(path, Mode::from_raw_mode(0o755));
    }
    make_file(root, path).map_err(|source| failed(prepared.mount, source))
}

/// A plain file to mount on, made with its parents where it is missing.
pub(super) fn make_file(root: &Root, path: &Path) -> io::Result<OwnedFd> {
    if let Ok(found) = root.resolve(path, OFlags::PATH, Mode::empty()) {
        return Ok(found);
    }
    let to_io = |error: Error| match error {
        Error::InRoot { source, .. } => source,
        other => io::Error::other(other.to_string()),
    };
    if let Some(parent) = path.parent() {
        root.make_directories(parent, Mode::from_raw_mode(0o755)).map_err(to_io)?;
    }
    let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK;
    drop(root.resolve(path, flags, Mode::from_raw_mode(0o644))?);
    root.resolve(path, OFlags::PATH, Mode::empty())
}

fn without_links(root: &Root, path: &Path) -> io::Result<OwnedFd> {
    let mut current: Option<OwnedFd> = None;
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        let parent = current.as_ref().map_or_else(|| root.as_fd(), |parent| parent.as_fd());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = match openat(parent, name, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => {
                mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
                openat(parent, name, flags, Mode::empty())?
            }
            result => result?,
        };
        current = Some(next);
    }
    current.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Opens a path below a directory without following any link.
pub(super) fn open_plain(root: &Root, path: &Path) -> io::Result<OwnedFd> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS)?)
}
