//! The real daemon and the real `docker`: what a user does, end to end.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{Daemon, PATIENCE, fetch};
use dray_testkit::eventually;

#[test]
fn runs_containers_and_reports_their_exit_codes() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    assert_eq!(daemon.ok(&["run", "--rm", "box", "echo", "hello"]), "hello");
    assert_eq!(daemon.code(&["run", "--rm", "box", "false"]), 1);
    assert_eq!(daemon.code(&["run", "--rm", "box", "sh", "-c", "exit 42"]), 42);
    assert_eq!(daemon.code(&["run", "--rm", "box", "nosuch"]), 127);
    assert_eq!(daemon.code(&["run", "--rm", "box", "/etc/passwd"]), 126);
    assert_eq!(daemon.code(&["run", "--rm", "no-such-image"]), 125);
    assert_eq!(daemon.ok(&["run", "--rm", "-e", "A=1", "box", "sh", "-c", "echo $PATH $A"]), "/bin 1");
    assert_eq!(
        daemon.ok(&["run", "--rm", "-u", "user", "-w", "/tmp", "box", "sh", "-c", "id -u; pwd"]),
        "1000\n/tmp"
    );
    assert_eq!(daemon.ok(&["ps", "-aq"]), "", "nothing is left behind");
    for place in ["c", "e", "n"] {
        assert_eq!(
            fs::read_dir(daemon.path("r").join(place)).unwrap().count(),
            0,
            "nothing is left in {place}"
        );
    }
}

#[test]
fn passes_input_and_terminal_through() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let mut command = daemon.command(&["run", "-i", "--rm", "box", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"through").unwrap();
    drop(child.stdin.take());
    assert_eq!(child.wait_with_output().unwrap().stdout, b"through");
}

#[test]
fn publishes_ports_resolves_names_and_survives_kill_9() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    let script = "echo page > /tmp/index.html; echo started; exec httpd -f -p 80 -h /tmp";
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "127.0.0.1:8080:80",
        "--memory",
        "32m",
        "box",
        "sh",
        "-c",
        script,
    ]);
    let page = || fetch("127.0.0.1:8080");
    assert_eq!(eventually("the published port", PATIENCE, page), "page\n");
    assert_eq!(daemon.ok(&["run", "--rm", "box", "wget", "-q", "-O", "-", "http://web/"]), "page");
    daemon.kill();
    assert_eq!(eventually("the port without a daemon", PATIENCE, page), "page\n");
    daemon.up();
    assert_eq!(daemon.ok(&["ps", "--format", "{{.Names}}"]), "web");
    assert_eq!(daemon.ok(&["logs", "web"]), "started");
    assert_eq!(daemon.ok(&["exec", "web", "echo", "again"]), "again");
    assert_eq!(daemon.code(&["exec", "web", "false"]), 1);
    assert_eq!(eventually("the port after the restart", PATIENCE, page), "page\n");
    daemon.ok(&["kill", "web"]);
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.State.ExitCode}} {{.State.Status}}", "web"]), "137 exited");
    daemon.ok(&["start", "web"]);
    assert_eq!(eventually("the port after a start", PATIENCE, page), "page\n");
}

#[test]
fn an_exit_while_the_daemon_is_dead_is_not_lost() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "job",
        "-v",
        "data:/data",
        "box",
        "sh",
        "-c",
        "while [ ! -e /data/go ]; do :; done; echo last; exit 7",
    ]);
    let mountpoint = daemon.ok(&["volume", "inspect", "-f", "{{.Mountpoint}}", "data"]);
    let pid = daemon.ok(&["inspect", "-f", "{{.State.Pid}}", "job"]);
    daemon.kill();
    fs::write(Path::new(&mountpoint).join("go"), "").unwrap();
    let stat = PathBuf::from(format!("/proc/{pid}"));
    eventually("the process to end", PATIENCE, || (!stat.exists()).then_some(()));
    daemon.up();
    let state = || {
        Some(daemon.ok(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "job"]))
            .filter(|s| s != "running 0")
    };
    assert_eq!(eventually("the end to be known", PATIENCE, state), "exited 7");
    assert_eq!(daemon.ok(&["logs", "job"]), "last");
}

#[test]
fn refuses_what_docker_refuses() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&["create", "--name", "taken", "box"]);
    daemon.refused(&["create", "--name", "taken", "box"], "is already in use by container");
    daemon.refused(&["create", "--memory", "1m", "box"], "Minimum memory limit allowed is 6MB");
    daemon.refused(&["inspect", "nothing"], "No such object: nothing");
    daemon.refused(&["images", "--filter", "reference=b[x"], "invalid filter 'reference=b[x'");
    for (pattern, found) in [("b?x", 1), ("[a-c]o*:lat*", 1), ("*", 1), ("bo", 0), ("x/*", 0)] {
        let listed = daemon.ok(&["images", "-q", "--filter", &format!("reference={pattern}")]);
        assert_eq!(listed.lines().count(), found, "{pattern}");
    }
    daemon.refused(&["kill", "taken"], "is not running");
    daemon.refused(&["rmi", "box"], "is using its referenced image");
    daemon.refused(&["network", "rm", "bridge"], "pre-defined network");
    daemon.refused(&["run", "--rm", "--network", "nowhere", "box", "true"], "network nowhere not found");
    fs::write(daemon.path("damaged.tar"), b"no archive").unwrap();
    daemon.refused(&["load", "-i", daemon.path("damaged.tar").to_str().unwrap()], "invalid image archive");
    assert_eq!(daemon.ok(&["ps", "-aq"]).lines().count(), 1, "nothing half-made is left");
    assert_eq!(daemon.ok(&["network", "ls", "--format", "{{.Name}}"]).lines().count(), 3);
}
