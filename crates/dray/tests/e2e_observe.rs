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

#[test]
fn logs_rotate_and_followers_miss_nothing() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    let count = |total: u32| {
        format!("i=0; while [ $i -lt {total} ]; do echo line $i; i=$((i+1)); usleep 500; done; sleep 0.2")
    };
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "many",
        "--log-opt",
        "max-size=8k",
        "--log-opt",
        "max-file=3",
        "box",
        "sh",
        "-c",
        &count(1500),
    ]);
    let followed =
        daemon.command(&["logs", "-f", "many"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    // The follower of a daemon that goes has to come again; the log has no gap where its daemon was away.
    let first = followed.wait_with_output().unwrap();
    let lines: Vec<&str> = std::str::from_utf8(&first.stdout).unwrap().lines().collect();
    assert_eq!(lines.len(), 1500);
    assert!(lines.iter().enumerate().all(|(index, line)| *line == format!("line {index}")));
    let kept = daemon.ok(&["logs", "many"]);
    assert!(kept.lines().count() < 1500 && kept.ends_with("line 1499"), "only three files are kept");
    let path = daemon.ok(&["inspect", "-f", "{{.LogPath}}", "many"]);
    assert!(std::fs::metadata(&path).unwrap().len() <= 8192);
    assert!(std::path::Path::new(&format!("{path}.2")).exists());
    assert!(!std::path::Path::new(&format!("{path}.3")).exists());
    daemon.ok(&["rm", "many"]);

    daemon.ok(&["run", "-d", "--name", "steady", "--log-driver", "local", "box", "sh", "-c", &count(3000)]);
    eventually("some lines", PATIENCE, || {
        (daemon.ok(&["logs", "steady"]).lines().count() > 50).then_some(())
    });
    daemon.kill();
    daemon.up();
    let all = daemon.ok(&["logs", "-f", "steady"]);
    assert_eq!(all.lines().count(), 3000);
    assert!(all.lines().enumerate().all(|(index, line)| line == format!("line {index}")));
    daemon.ok(&["rm", "-f", "steady"]);
    daemon.assert_nothing_left();
}

#[test]
fn lines_go_to_the_hosts_log_as_well() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let path = daemon.path("syslog");
    let receiver = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = format!("syslog-address=unix://{}", path.display());
    let options =
        ["--log-driver", "syslog", "--log-opt", &address, "--log-opt", "tag={{.Name}}/{{.ImageName}}"];
    daemon
        .ok(&[&["run", "--name", "sends"], &options[..], &["box", "sh", "-c", "echo out; echo err >&2"]]
            .concat());
    let mut messages: Vec<String> = (0..2)
        .map(|_| {
            let mut buffer = [0; 512];
            let n = receiver.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..n]).into_owned()
        })
        .collect();
    messages.sort();
    assert!(messages[0].starts_with("<27>") && messages[0].ends_with(": err"), "{messages:?}");
    assert!(
        messages[1].starts_with("<30>")
            && messages[1].contains("sends/box[")
            && messages[1].ends_with(": out")
    );
    // What is sent away can be read here, too.
    assert_eq!(daemon.ok(&["logs", "sends"]), "out");
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.HostConfig.LogConfig.Type}}", "sends"]), "syslog");
    daemon.ok(&["rm", "sends"]);
    let nowhere = ["--log-driver", "syslog", "--log-opt", "syslog-address=unix:///nowhere/log"];
    let run = [&["run", "--rm"], &nowhere[..], &["box", "true"]].concat();
    daemon.refused(&run, "failed to initialize logging driver");
    daemon.ok(&[
        "run",
        "--name",
        "marked",
        "--label",
        "team=a",
        "-e",
        "STAGE=b",
        "--log-opt",
        "labels=team",
        "--log-opt",
        "env=STAGE",
        "box",
        "echo",
        "text",
    ]);
    let path = daemon.ok(&["inspect", "-f", "{{.LogPath}}", "marked"]);
    let line: serde_json::Value =
        serde_json::from_str(std::fs::read_to_string(path).unwrap().trim()).unwrap();
    assert_eq!(line["attrs"], serde_json::json!({ "STAGE": "b", "team": "a" }));
    assert_eq!(daemon.ok(&["logs", "--details", "marked"]), "STAGE=b,team=a text");
    daemon.ok(&["rm", "marked"]);
    daemon.refused(
        &["run", "--rm", "--log-driver", "gelf", "box", "true"],
        "no log driver named 'gelf' is registered",
    );
    daemon.ok(&["run", "--name", "silent", "--log-driver", "none", "box", "echo", "x"]);
    daemon.refused(&["logs", "silent"], "configured logging driver does not support reading");
    daemon.ok(&["rm", "silent"]);
    daemon.assert_nothing_left();
}
