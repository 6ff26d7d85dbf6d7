//! Waiting for a descriptor to become readable.

use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Registers an owned descriptor with the asynchronous runtime.
#[allow(
    deprecated,
    reason = "the successor is unsafe because a type might change its descriptor; OwnedFd does not"
)]
pub(crate) fn watch(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}
