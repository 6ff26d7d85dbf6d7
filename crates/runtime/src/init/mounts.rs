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
use super::filesystem::{attach, change, clone_mount, map_identities, new_filesystem, propagate};
use super::options::Options;
use super::sources::Mapped;
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
pub(super) fn prepare<'a>(mounts: &'a [Mount], mapped: &mut Mapped<'_>) -> Result<Vec<Prepared<'a>>> {
    mounts.iter().map(|mount| prepare_one(mount, mapped)).collect()
}

fn prepare_one<'a>(mount: &'a Mount, mapped: &mut Mapped<'_>) -> Result<Prepared<'a>> {
    if !mount.destination().is_absolute() {
        return Err(Error::Invalid {
            field: "mounts.destination",
            reason: format!("{} is not absolute", mount.destination().display()),
        });
    }
    let mut options = Options::parse(mount.options().iter().flatten());
    options.bind |= mount.typ().as_deref() == Some("bind");
    if options.idmap.is_none() && (mount.uid_mappings().is_some() || mount.gid_mappings().is_some()) {
        options.idmap = Some(false);
    }
    if options.idmap.is_some() && !options.bind {
        return Err(Error::Invalid {
            field: "mounts.uidMappings",
            reason: format!("{} is no bind mount", mount.destination().display()),
        });
    }
    let source = if options.bind && !options.remount {
        let path = mount.source().as_deref().unwrap_or(Path::new(""));
        if !path.is_absolute() {
            return Err(Error::Invalid {
                field: "mounts.source",
                reason: format!("{} is not absolute", path.display()),
            });
        }
        let source = open_host_path(path, true).map_err(|source| failed(mount, source))?;
        let clone = clone_mount(source.as_fd(), options.recursive).map_err(|source| failed(mount, source))?;
        if let Some(recursive) = options.idmap {
            let namespace = mapped.namespace(Some(mount))?;
            map_identities(clone.as_fd(), recursive, namespace.as_fd())
                .map_err(|source| failed(mount, source))?;
        }
        Some(clone)
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
    if prepared.options.remount {
        let options = &prepared.options;
        let at = root.resolve(mount.destination(), OFlags::PATH, Mode::empty());
        return at
            .and_then(|at| {
                change(at.as_fd(), false, options.set, options.clear)?;
                change(at.as_fd(), true, options.recursive_set, options.recursive_clear)
            })
            .map_err(|source| failed(mount, source));
    }
    match &prepared.source {
        Some(source) => {
            let stat = fstat(source).map_err(|errno| failed(mount, errno))?;
            let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let destination = destination(root, &prepared, directory)?;
            refuse_over_proc(&prepared, Some(source), &destination)?;
            bind(source, &prepared.options, &destination).map_err(|source| failed(mount, source))
        }
        None => {
            let destination = destination(root, &prepared, true)?;
            if prepared.kind() != "proc" {
                refuse_over_proc(&prepared, None, &destination)?;
            }
            let new = new_mount(&prepared, &destination).map_err(|source| failed(mount, source))?;
            if prepared.options.copy_up && prepared.kind() == "tmpfs" {
                copy_tree(&destination, &new, 0).map_err(|source| failed(mount, source))?;
                let options = &prepared.options;
                change(new.as_fd(), false, options.set & libc::MOUNT_ATTR_RDONLY, 0)
                    .map_err(|source| failed(mount, source))?;
            }
            attach(&new, destination.as_fd()).map_err(|source| failed(mount, source))?;
            set_propagation(&new, &prepared.options).map_err(|source| failed(mount, source))
        }
    }
}

/// Makes the mount when it is of sysfs, which shows the network namespace of whoever makes it.
pub(super) fn mount_sysfs(prepared: &mut Prepared<'_>) -> Result<()> {
    if prepared.kind() != "sysfs" {
        return Ok(());
    }
    let options = &prepared.options;
    let made = new_filesystem("sysfs", Some("sysfs"), &options.data, options.attributes());
    prepared.source = Some(made.map_err(|source| failed(prepared.mount, source))?);
    Ok(())
}

/// Superblock magic of procfs (linux/magic.h).
const PROC_MAGIC: u64 = 0x9fa0;

/// Files of `/proc` that may be replaced, for example by lxcfs.
const REPLACEABLE: [&str; 8] =
    ["cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo"];

/// A volume over `/proc` would take away what masks and labels are applied to (CVE-2019-16884, CVE-2025-52881).
fn refuse_over_proc(prepared: &Prepared<'_>, source: Option<&OwnedFd>, destination: &OwnedFd) -> Result<()> {
    let mount = prepared.mount;
    let path = mount.destination();
    let is_proc = |file: &OwnedFd| {
        fstatfs(file).map(|system| system.f_type as u64 == PROC_MAGIC).map_err(|errno| failed(mount, errno))
    };
    let over = path == Path::new("/proc") || is_proc(destination)?;
    let replaceable = REPLACEABLE.iter().any(|name| path == &Path::new("/proc").join(name));
    let whole_proc = match source {
        Some(source) => path == Path::new("/proc") && is_proc(source)?,
        None => false,
    };
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
    let mut attributes = prepared.options.attributes();
    if prepared.options.copy_up {
        attributes.remove(rustix::mount::MountAttrFlags::MOUNT_ATTR_RDONLY);
    }
    new_filesystem(kind, source, &data, attributes)
}

/// Copies files, directories and links from one open directory into another. Other kinds stay behind, and nothing is
/// followed.
fn copy_tree(from: &OwnedFd, into: &OwnedFd, depth: usize) -> io::Result<()> {
    if depth > 64 {
        return Err(rustix::io::Errno::NAMETOOLONG.into());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for entry in rustix::fs::Dir::new(openat(from, ".", flags, Mode::empty())?)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let stat = fstat(openat(from, name, flags, Mode::empty())?)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                mkdirat(into, name, mode)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let (from, into) =
                    (openat(from, name, flags, Mode::empty())?, openat(into, name, flags, Mode::empty())?);
                copy_tree(&from, &into, depth + 1)?;
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let mut from = std::fs::File::from(openat(from, name, flags, Mode::empty())?);
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let mut copy = std::fs::File::from(openat(into, name, flags, mode)?);
                io::copy(&mut from, &mut copy)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target, into, name)?;
            }
            _ => continue,
        }
        let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(into, name, Some(uid), Some(gid), flags)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            rustix::fs::chmodat(into, name, mode, rustix::fs::AtFlags::empty())?;
        }
    }
    Ok(())
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
