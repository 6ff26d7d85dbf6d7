//! What an earlier build wrote is read by this one. `cargo xtask suite upgrade` has a running container change builds.
//!
//! The records below `records/DATE` are as the build of that day left them; a change of a record's form keeps them
//! readable, and adds its own.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::fs;
use std::path::Path;

use common::Daemon;

/// Copies a directory, with the daemon's data directory in place of `@DATA@`.
fn copy(from: &Path, to: &Path, data: &str) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target, data);
        } else {
            fs::write(target, fs::read_to_string(entry.path()).unwrap().replace("@DATA@", data)).unwrap();
        }
    }
}

#[test]
fn records_of_earlier_builds_are_read() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    let records = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/records");
    let mut builds: Vec<_> = fs::read_dir(records).unwrap().map(|entry| entry.unwrap().path()).collect();
    builds.sort();
    for build in builds {
        daemon.kill();
        let data = daemon.path("d");
        copy(&build, &data, data.to_str().unwrap());
        for volume in fs::read_dir(data.join("volumes")).unwrap() {
            fs::create_dir_all(volume.unwrap().path().join("_data")).unwrap();
        }
        daemon.up();
        let inspect = |what: &str, name: &str| daemon.ok(&["inspect", "-f", what, name]);
        assert_eq!(inspect("{{.State.Status}} {{.State.ExitCode}} {{.Config.User}}", "code"), "exited 7 5");
        assert_eq!(
            inspect(
                "{{.HostConfig.Memory}} {{.HostConfig.RestartPolicy.Name}} {{.Config.StopSignal}}",
                "old"
            ),
            "67108864 on-failure SIGINT"
        );
        assert_eq!(inspect("{{(index .NetworkSettings.Networks \"before\").Aliases}}", "old"), "[alias]");
        let network = "{{(index .IPAM.Config 0).Subnet}} {{.Labels.a}}";
        assert_eq!(daemon.ok(&["network", "inspect", "-f", network, "before"]), "10.91.0.0/24 b");
        assert_eq!(daemon.ok(&["volume", "inspect", "-f", "{{.Labels.c}}", "kept"]), "d");
        daemon.refused(&["volume", "rm", "kept"], "volume is in use");
        assert_eq!(
            daemon.ok(&[
                "run",
                "--rm",
                "--network",
                "before",
                "box",
                "sh",
                "-c",
                "ip addr show eth0 | grep -c 10.91.0."
            ]),
            "1"
        );
        daemon.ok(&["rm", "-v", "old", "code"]);
        daemon.ok(&["network", "rm", "before"]);
        daemon.ok(&["volume", "rm", "kept"]);
        assert_eq!(daemon.ok(&["volume", "ls", "-q"]), "", "the anonymous volume went with its container");
        daemon.assert_nothing_left();
    }
}
