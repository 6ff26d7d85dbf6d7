//! What is told of containers: their health and what they write, against the real daemon.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::collections::BTreeMap;
use std::fs;

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
    assert!(fs::metadata(&path).unwrap().len() <= 8192);
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
    let line: serde_json::Value = serde_json::from_str(fs::read_to_string(path).unwrap().trim()).unwrap();
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

/// The files of a container's control groups, version 1 or 2, with the name of the controller in version 1.
fn group_file(pid: &str, controller: &str, name: &str) -> String {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let of_controller = groups.lines().find_map(|line| {
        let [_, names, path] = line.splitn(3, ':').collect::<Vec<_>>()[..] else { return None };
        names.split(',').any(|name| name == controller).then(|| format!("/sys/fs/cgroup/{controller}{path}"))
    });
    let unified =
        || groups.lines().find_map(|line| Some(format!("/sys/fs/cgroup{}", line.strip_prefix("0::")?)));
    let directory = of_controller.or_else(unified).unwrap();
    fs::read_to_string(format!("{directory}/{name}")).unwrap()
}

#[test]
fn stats_are_what_the_kernel_counts() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let script = "dd if=/dev/zero of=/file bs=1M count=8; cat /file > /dev/null; exec sleep 1000";
    daemon.ok(&["run", "-d", "--name", "cc", "-m", "64m", "--pids-limit", "20", "box", "sh", "-c", script]);
    let pid = daemon.ok(&["inspect", "-f", "{{.State.Pid}}", "cc"]);
    let program = format!("/proc/{pid}/cmdline");
    eventually("the work to be done", PATIENCE, || {
        fs::read_to_string(&program).unwrap().starts_with("sleep").then_some(())
    });
    let is_v1 = !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let counters = |text: &str| -> BTreeMap<String, u64> {
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.map(|(key, value)| (key.to_owned(), value.trim().parse().unwrap())).collect()
    };
    // Some of the kernel's counters lag behind, so both are read until they agree.
    let stats = eventually("the memory to be what the kernel says", PATIENCE, || {
        let stats = daemon.get("/v1.43/containers/cc/stats?stream=0&one-shot=1");
        let memory: BTreeMap<String, u64> =
            serde_json::from_value(stats["memory_stats"]["stats"].clone()).unwrap();
        (memory == counters(&group_file(&pid, "memory", "memory.stat"))).then_some(stats)
    });
    let memory = &stats["memory_stats"];
    assert_eq!(memory["limit"], 64 << 20);
    assert!(memory["usage"].as_u64().unwrap() >= 4096, "{memory}");
    assert!(!is_v1 || memory["stats"]["hierarchical_memory_limit"] == 64 << 20, "{memory}");
    assert_eq!((&stats["pids_stats"]["current"], &stats["pids_stats"]["limit"]), (&1.into(), &20.into()));
    let cpu = |text: String| text.trim().parse::<u64>().unwrap();
    if is_v1 {
        let used = &stats["cpu_stats"]["cpu_usage"];
        let now = cpu(group_file(&pid, "cpuacct", "cpuacct.usage"));
        let total = used["total_usage"].as_u64().unwrap();
        assert!(total > 1_000_000 && total <= now, "{total} {now}");
        let each: u64 = used["percpu_usage"].as_array().unwrap().iter().filter_map(|n| n.as_u64()).sum();
        assert!(each >= total && each <= now, "the processors' shares are read after the sum: {used}");
    }
    let interfaces = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    let line = interfaces.lines().find_map(|line| line.trim().strip_prefix("eth0:")).unwrap();
    let counted: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let told = &daemon.get("/v1.43/containers/cc/stats?stream=0&one-shot=1")["networks"]["eth0"];
    assert!(told["rx_bytes"].as_u64().unwrap() >= counted[0], "{told} {line}");
    assert_eq!(told["tx_dropped"], counted[11]);

    // Two readings a second apart, as `docker stats --no-stream` asks for.
    let stats = daemon.get("/v1.43/containers/cc/stats?stream=0");
    let total = |which: &str| stats[which]["cpu_usage"]["total_usage"].as_u64().unwrap();
    assert!(total("precpu_stats") <= total("cpu_stats"), "{stats}");
    assert!(
        stats["precpu_stats"]["system_cpu_usage"].as_u64() < stats["cpu_stats"]["system_cpu_usage"].as_u64()
    );
    daemon.ok(&["rm", "-f", "cc"]);
}
