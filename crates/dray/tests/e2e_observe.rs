//! What is told of containers: their health and what they write, against the real daemon.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use common::{Daemon, PATIENCE};
use dray_testkit::eventually;

#[test]
fn health_checks_tell_how_a_container_is() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    let health = |daemon: &Daemon, name: &str, what: &str| {
        daemon.ok(&["inspect", "-f", &format!("{{{{.State.Health.{what}}}}}"), name])
    };
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "checked",
        "--health-cmd",
        "echo looked; test -e /well",
        "--health-interval",
        "100ms",
        "--health-retries",
        "2",
        "box",
        "sleep",
        "1000",
    ]);
    let becomes = |daemon: &Daemon, wanted: &str| {
        eventually(wanted, PATIENCE, || (health(daemon, "checked", "Status") == wanted).then_some(()));
    };
    becomes(&daemon, "unhealthy");
    assert!(health(&daemon, "checked", "FailingStreak").parse::<u32>().unwrap() >= 2);
    let last = daemon.ok(&["inspect", "-f", "{{(index .State.Health.Log 0).Output}}", "checked"]);
    assert_eq!(last.trim(), "looked");
    assert!(daemon.ok(&["ps", "--format", "{{.Status}}"]).ends_with("(unhealthy)"));
    daemon.ok(&["exec", "checked", "touch", "/well"]);
    becomes(&daemon, "healthy");
    assert_eq!(daemon.ok(&["ps", "-q", "--filter", "health=healthy"]).lines().count(), 1);
    assert_eq!(daemon.ok(&["ps", "-q", "--filter", "health=none"]), "");

    // A daemon that comes back goes on checking.
    daemon.kill();
    daemon.up();
    assert_eq!(health(&daemon, "checked", "Status"), "healthy");
    daemon.ok(&["exec", "checked", "rm", "/well"]);
    becomes(&daemon, "unhealthy");
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let until = (since + 1).to_string();
    let events =
        daemon.ok(&["events", "--since", "1h", "--until", &until, "--filter", "event=health_status"]);
    assert!(events.contains("health_status: unhealthy"), "{events}");
    daemon.ok(&["stop", "-t", "0", "checked"]);
    assert_eq!(health(&daemon, "checked", "Status"), "unhealthy", "nobody checks any more");

    // One that takes too long has failed, and its process goes.
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "slow",
        "--health-cmd",
        "exec sleep 1234",
        "--health-interval",
        "100ms",
        "--health-timeout",
        "200ms",
        "--health-retries",
        "1",
        "box",
        "sleep",
        "1000",
    ]);
    eventually("the slow check to fail", PATIENCE, || {
        (health(&daemon, "slow", "Status") == "unhealthy").then_some(())
    });
    let said = daemon.ok(&[
        "inspect",
        "-f",
        "{{with index .State.Health.Log 0}}{{.ExitCode}} {{.Output}}{{end}}",
        "slow",
    ]);
    assert_eq!(said, "-1 Health check exceeded timeout (200ms)");
    daemon.ok(&["rm", "-f", "checked", "slow"]);
    daemon.refused(
        &["run", "--health-interval", "1ns", "box", "true"],
        "Interval in Healthcheck cannot be less than 1ms",
    );
    daemon.assert_nothing_left();
}
