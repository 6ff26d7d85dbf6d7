//! Telling the service manager how the daemon does, as `sd_notify(3)` describes.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The manager's socket; an `@` at its beginning stands for an abstract name.
const SOCKET: &str = "NOTIFY_SOCKET";

/// The daemon answers requests.
pub(crate) fn ready() {
    tell("READY=1\nSTATUS=Both APIs answer\n");
}

/// The daemon ends.
pub(crate) fn stopping() {
    tell("STOPPING=1\n");
}

fn tell(message: &str) {
    let Some(path) = std::env::var_os(SOCKET) else { return };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let sent =
        address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, socket = %path.display(), "cannot notify the service manager");
    }
}
