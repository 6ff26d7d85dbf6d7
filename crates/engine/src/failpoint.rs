//! Places where a test can end the daemon as a crash would, between two changes of the disk or the kernel.
//!
//! Only builds with debug assertions have them: `DRAY_FAILPOINT=NAME` kills the process with SIGKILL as soon as it
//! comes by NAME. What must hold afterwards is tested end to end.

/// Every failpoint, in the order of a container's life.
pub const FAILPOINTS: &[&str] = &[
    "network.before-record",
    "network.recorded",
    "network.bridged",
    "volume.made",
    "volume.recorded",
    "create.reserved",
    "create.directory-made",
    "create.leased",
    "create.volumes-made",
    "create.recorded",
    "start.namespace-made",
    "start.connected",
    "start.published",
    "start.mounts-resolved",
    "start.directory-made",
    "start.spawned",
    "start.attached",
    "start.started",
    "start.recorded",
    "exec.directory-made",
    "exec.spawned",
    "exec.started",
    "connect.linked",
    "connect.recorded",
    "disconnect.recorded",
    "disconnect.left",
    "pause.frozen",
    "pause.recorded",
    "update.applied",
    "update.recorded",
    "rename.recorded",
    "commit.layer-made",
    "commit.written",
    "stop.recorded",
    "stop.signalled",
    "end.seen",
    "end.recorded-early",
    "end.taken-down",
    "end.recorded",
    "remove.marked",
    "remove.record-gone",
    "remove.directory-gone",
    "remove.released",
    "remove.volumes-gone",
    "volume.remove-begun",
    "network.remove-begun",
    "network.unbridged",
];

/// Ends the process when this is the point that was asked for.
#[cfg(debug_assertions)]
pub(crate) fn failpoint(name: &'static str) {
    use std::sync::LazyLock;

    static WANTED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("DRAY_FAILPOINT").ok());
    debug_assert!(FAILPOINTS.contains(&name), "{name} is not in the list");
    if WANTED.as_deref() == Some(name) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// A release has no failpoints.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn failpoint(_name: &'static str) {}
