//! A mount and a network namespace for one test, so that nothing it makes reaches the host.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Moves the calling thread, and every thread and process it starts later, into a new mount and a new network
/// namespace: mounts no longer propagate to the host, and only a loopback interface exists, which is up.
///
/// # Panics
/// When the test does not run as root, or the kernel refuses the namespaces: a test that needs isolation must
/// not go on without it.
pub fn isolate() {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .expect("cannot unshare mount and network namespaces: run the tests as root");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .expect("cannot make mounts private");
    loopback_up();
}

fn loopback_up() {
    let status = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(
        status.expect("cannot run ip: install iproute2").success(),
        "cannot set the loopback interface up"
    );
}
