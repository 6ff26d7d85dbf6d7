//! Working inside another network namespace, and making and pinning new ones.
//!
//! A thread belongs to one namespace; a socket keeps the namespace it was opened in. So work is done on a
//! fresh thread that joins the namespace and ends: the caller's thread never moves.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags};
use nix::sched::{CloneFlags, setns, unshare};

use crate::link::Netlink;
use crate::{Error, Result};

const STACK: usize = 256 * 1024;

/// Runs `work` on a fresh thread inside the network namespace whose file (`/run/…/netns/x`,
/// `/proc/PID/ns/net`) is given, and waits for it.
pub fn within<T: Send>(namespace: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = open(namespace)?;
    within_descriptor(file.as_fd(), namespace, work)
}

/// As [`within`], for a descriptor that is already open; `path` only names it in errors.
pub fn within_descriptor<T: Send>(
    namespace: BorrowedFd<'_>,
    path: &Path,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    on_thread(path, || {
        setns(namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|error| Error::EnterNamespace { path: path.to_owned(), source: error.into() })?;
        work()
    })
}

/// Opens a namespace file for [`within_descriptor`]; close-on-exec.
pub fn open(namespace: &Path) -> Result<File> {
    File::open(namespace).map_err(|source| Error::EnterNamespace { path: namespace.to_owned(), source })
}

/// Makes a new network namespace with its loopback up and pins it at `path` (a file that must not exist; its
/// directory must). Takes about 0.3 ms; the namespace lives until [`remove`].
pub fn create(path: &Path) -> Result<()> {
    let failed = |source: io::Error| Error::CreateNamespace { path: path.to_owned(), source };
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let pinned = on_thread(path, || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| failed(error.into()))?;
        Netlink::open()?.loopback_up()?;
        nix::mount::mount(
            Some("/proc/thread-self/ns/net"),
            path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(|error| failed(error.into()))
    });
    if pinned.is_err() {
        let _ = fs::remove_file(path);
    }
    pinned
}

/// Pins the namespace pinned at `from` at `to` instead (a file that must not exist; its directory must).
pub fn move_pin(from: &Path, to: &Path) -> Result<()> {
    let failed = |source: io::Error| Error::CreateNamespace { path: to.to_owned(), source };
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(failed)?;
    if let Err(error) = nix::mount::mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>) {
        let _ = fs::remove_file(to);
        return Err(failed(error.into()));
    }
    remove(from)
}

/// Unpins the namespace at `path`; what still runs in it keeps it. A path that does not exist is success.
pub fn remove(path: &Path) -> Result<()> {
    let failed = |source: io::Error| Error::RemoveNamespace { path: path.to_owned(), source };
    match nix::mount::umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // EINVAL: the file is there but nothing is mounted on it, as after a crash or a reboot.
        Ok(()) | Err(nix::errno::Errno::ENOENT | nix::errno::Errno::EINVAL) => {}
        Err(error) => return Err(failed(error.into())),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

fn on_thread<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, work)
            .map_err(|source| Error::Thread { source })?
            .join()
            .unwrap_or_else(|_| Err(Error::ThreadDied { path: path.to_owned() }))
    })
}
