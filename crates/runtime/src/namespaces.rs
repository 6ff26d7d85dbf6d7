//! Namespaces that live without a process: kept alive by a mount of their file.
//!
//! A pod's containers share its network, IPC and UTS namespaces without a pause process. It knows the kinds and
//! the files; addresses and routes are the network's.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{UnmountFlags, mount_bind, unmount};

use crate::error::Context as _;
use crate::{Error, Result};

/// A kind of namespace that can be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceKind {
    /// Network interfaces, addresses, routes, firewall.
    Network,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host name and domain name.
    Uts,
}

impl NamespaceKind {
    /// Name of the file in `/proc/PID/ns` and in the directory of [`pin`].
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Network => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
        }
    }

    fn flag(self) -> libc::c_int {
        match self {
            Self::Network => libc::CLONE_NEWNET,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Uts => libc::CLONE_NEWUTS,
        }
    }
}

/// Makes new namespaces of these kinds and mounts them on files `net`, `ipc`, `uts` in an existing directory.
///
/// `hostname` is set in a new UTS namespace. The mounts must be visible to later shims: the caller's mount
/// namespace is that of the daemon. On failure nothing is left mounted. Returns the files in the order of `kinds`.
pub fn pin(kinds: &[NamespaceKind], directory: &Path, hostname: Option<&str>) -> Result<Vec<PathBuf>> {
    let pinned = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("namespaces".into())
            .stack_size(128 << 10)
            .spawn_scoped(scope, || pin_on_this_thread(kinds, directory, hostname))
            .to("start a thread for new namespaces")
            .and_then(|thread| {
                thread.join().unwrap_or(Err(Error::System {
                    operation: "make new namespaces",
                    source: std::io::ErrorKind::Other.into(),
                }))
            })
    });
    if pinned.is_err() {
        for kind in kinds {
            let _ = unpin(&directory.join(kind.file_name()));
        }
    }
    pinned
}

fn pin_on_this_thread(
    kinds: &[NamespaceKind],
    directory: &Path,
    hostname: Option<&str>,
) -> Result<Vec<PathBuf>> {
    let flags = kinds.iter().fold(0, |flags, kind| flags | kind.flag());
    let flags = nix::sched::CloneFlags::from_bits_truncate(flags);
    nix::sched::unshare(flags).to("make new namespaces")?;
    if let Some(name) = hostname.filter(|_| kinds.contains(&NamespaceKind::Uts)) {
        rustix::system::sethostname(name.as_bytes()).to("set the host name")?;
    }
    let mut paths = Vec::with_capacity(kinds.len());
    for kind in kinds {
        let path = directory.join(kind.file_name());
        std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|source| Error::File { operation: "create", path: path.clone(), source })?;
        let source = Path::new("/proc/thread-self/ns").join(kind.file_name());
        mount_bind(&source, &path).map_err(|errno| Error::Mount {
            mount_source: source,
            destination: path.clone(),
            source: errno.into(),
        })?;
        paths.push(path);
    }
    Ok(paths)
}

/// Lets a pinned namespace go and removes its file; one that is not there is fine.
pub fn unpin(path: &Path) -> Result<()> {
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(errno) => {
            return Err(Error::File { operation: "unmount", path: path.into(), source: errno.into() });
        }
    }
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::File { operation: "remove", path: path.into(), source }),
    }
}

/// Opens a namespace file (a pinned one or one of `/proc/PID/ns`).
pub(crate) fn open_namespace(path: &Path) -> Result<OwnedFd> {
    open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| Error::File {
        operation: "open the namespace",
        path: path.into(),
        source: errno.into(),
    })
}

/// Runs a closure on a thread of its own inside a namespace, for example to set up a pinned network.
pub fn run_inside<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let namespace = open_namespace(path)?;
    std::thread::scope(|scope| {
        scope
            .spawn(move || {
                crate::sys::setns(namespace.as_fd(), 0).to("join the namespace")?;
                Ok(work())
            })
            .join()
            .unwrap_or(Err(Error::System {
                operation: "run inside the namespace",
                source: std::io::ErrorKind::Other.into(),
            }))
    })
}

/// Whether this process sees its mount namespace from the namespace's own root, and not from a directory below it that
/// `chroot(2)` made its root.
///
/// In a `chroot` a container would not be confined: what joins its mount namespace later, as an exec does, begins at the
/// namespace's root (`setns(2)`), which is the host's.
///
/// # Errors
/// When the kernel refuses to look.
pub fn root_is_whole() -> Result<bool> {
    let identity = || {
        let stat = rustix::fs::stat("/").to("look at the root directory")?;
        Ok((stat.st_dev, stat.st_ino))
    };
    let seen = identity()?;
    let namespace = open_namespace(Path::new("/proc/self/ns/mnt"))?;
    std::thread::scope(|scope| {
        scope
            .spawn(move || {
                // A thread that shares its root directory with others may not join a mount namespace.
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).to("part a thread's root directory")?;
                crate::sys::setns(namespace.as_fd(), libc::CLONE_NEWNS).to("join the mount namespace")?;
                Ok(identity()? == seen)
            })
            .join()
            .unwrap_or(Err(Error::System {
                operation: "look at the root directory",
                source: std::io::ErrorKind::Other.into(),
            }))
    })
}

/// Whether a file name is one that [`pin`] makes, for whoever cleans a directory.
pub fn is_pin_name(name: &OsStr) -> bool {
    [NamespaceKind::Network, NamespaceKind::Ipc, NamespaceKind::Uts]
        .iter()
        .any(|kind| name == kind.file_name())
}
