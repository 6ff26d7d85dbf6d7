//! Every limit and every kind of isolation, as the process inside sees it, against the real daemon.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::fs;
use std::path::Path;

use common::{Daemon, PATIENCE};
use dray_testkit::eventually;

fn run(daemon: &Daemon, options: &[&str], script: &str) -> String {
    daemon.ok(&[&["run", "--rm"], options, &["box", "sh", "-c", script]].concat())
}

/// A script that shows a control group's file, under its name in version 2 or 1.
fn group_file(v2: &str, v1: &str) -> String {
    format!("cat /sys/fs/cgroup/{v2} 2>/dev/null || cat /sys/fs/cgroup/{v1}")
}

/// Whether this host's groups are of version 2 only.
fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

#[test]
fn limits_are_read_back_inside() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let mut rows = vec![
        (vec!["--memory", "64m"], "memory.max", "memory/memory.limit_in_bytes", "67108864"),
        (
            vec!["--memory", "64m", "--memory-reservation", "32m"],
            "memory.low",
            "memory/memory.soft_limit_in_bytes",
            "33554432",
        ),
        (vec!["--cpu-quota", "20000", "--cpu-period", "50000"], "cpu.max", "cpu/cpu.cfs_quota_us", "20000"),
        (vec!["--cpuset-cpus", "0"], "cpuset.cpus", "cpuset/cpuset.cpus", "0"),
        (vec!["--cpuset-mems", "0"], "cpuset.mems", "cpuset/cpuset.mems", "0"),
        (vec!["--pids-limit", "23"], "pids.max", "pids/pids.max", "23"),
    ];
    if !is_unified() {
        rows.extend([
            (vec!["--cpu-shares", "512"], "", "cpu/cpu.shares", "512"),
            (vec!["--cpu-period", "50000", "--cpu-quota", "20000"], "", "cpu/cpu.cfs_period_us", "50000"),
        ]);
        // The kernel may be without one of these; the host's own group tells.
        for (option, file, value) in [
            (vec!["--memory-swappiness", "17"], "memory/memory.swappiness", "17"),
            (
                vec!["--memory", "64m", "--memory-swap", "96m"],
                "memory/memory.memsw.limit_in_bytes",
                "100663296",
            ),
            (vec!["--blkio-weight", "300"], "blkio/blkio.bfq.weight", "300"),
            (vec!["--blkio-weight", "300"], "blkio/blkio.weight", "300"),
        ] {
            if Path::new("/sys/fs/cgroup").join(file).exists() {
                rows.push((option, "", file, value));
            }
        }
    }
    for (options, v2, v1, wanted) in rows {
        let seen = run(&daemon, &options, &group_file(v2, v1));
        let first = seen.split_whitespace().next().unwrap_or_default();
        assert_eq!(first, wanted, "{options:?}");
    }
    if !is_unified() {
        let oom = run(
            &daemon,
            &["--memory", "64m", "--oom-kill-disable"],
            "cat /sys/fs/cgroup/memory/memory.oom_control",
        );
        assert!(oom.contains("oom_kill_disable 1"), "{oom}");
    }

    for (options, script, wanted) in [
        (&["--ulimit", "nofile=99:111"][..], "ulimit -Sn; ulimit -Hn", "99\n111"),
        (&["--ulimit", "core=0"], "ulimit -c", "0"),
        (&["--oom-score-adj", "500"], "cat /proc/self/oom_score_adj", "500"),
        (&["--shm-size", "3m"], "df -k /dev/shm | tail -1 | awk '{print $2}'", "3072"),
        (&["--sysctl", "net.ipv4.ip_default_ttl=77"], "cat /proc/sys/net/ipv4/ip_default_ttl", "77"),
        (&["--sysctl", "kernel.msgmax=9000"], "cat /proc/sys/kernel/msgmax", "9000"),
        (
            &["--hostname", "me", "--domainname", "here"],
            "hostname; cat /proc/sys/kernel/domainname",
            "me\nhere",
        ),
        (&["--device", "/dev/zero:/dev/nil"], "head -c 3 /dev/nil | od -An -tx1 | tr -d ' '", "000000"),
        (&["--user", "12:34", "--group-add", "56"], "id -u; id -g; id -G", "12\n34\n34 56"),
        (&["--ipc", "none"], "ls -d /dev/shm 2>/dev/null || echo none", "none"),
        (&["--read-only"], "touch /x 2>/dev/null || echo ro", "ro"),
        (&["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status | tail -c 2", "1"),
        (&["--security-opt", "seccomp=unconfined"], "grep Seccomp: /proc/self/status | tail -c 2", "0"),
        (&[], "grep Seccomp: /proc/self/status | tail -c 2", "2"),
    ] {
        assert_eq!(run(&daemon, options, script), wanted, "{options:?}");
    }
    for (options, words) in [
        (&["--memory", "1m"][..], "Minimum memory limit allowed is 6MB"),
        (&["--cpuset-cpus", "4096"], "Requested CPUs are not available - requested 4096, available: 0"),
        (&["--cpu-period", "10"], "CPU cfs period can not be less than 1ms"),
        (&["--cpus", "1", "--cpu-quota", "50000"], "Nano CPUs and CPU Quota cannot both be set."),
        (&["--blkio-weight", "5"], "Range of blkio weight is from 10 to 1000"),
        (&["--memory", "64m", "--memory-reservation", "65m"], "less than memory reservation limit"),
        (&["--device", "/dev/nothing"], "error gathering device information"),
        (&["--gpus", "all"], "could not select device driver \"\" with capabilities: [[gpu]]"),
        (&["--runtime", "kata"], "unknown or invalid runtime name: kata"),
        (&["--sysctl", "kernel.panic=1"], "kernel.panic"),
        (&["--ulimit", "bogus=1"], "invalid ulimit type: bogus"),
    ] {
        daemon.refused(&[&["run", "--rm"], options, &["box", "true"]].concat(), words);
        for id in daemon.ok(&["ps", "-aq"]).lines() {
            // Docker, too, keeps what was created and could not be started.
            daemon.ok(&["rm", id]);
        }
    }
    daemon.assert_nothing_left();
}

#[test]
fn device_rules_let_through_what_they_name() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    // A container may make the node of a loop device, but not open it.
    let open = "mknod /tmp/loop b 7 0 && (exec 3</tmp/loop) 2>&1 && echo opened || echo refused";
    assert!(run(&daemon, &[], open).ends_with("refused"));
    let with_rule = run(&daemon, &["--device-cgroup-rule", "b 7:0 r"], open);
    assert!(with_rule.ends_with("opened"), "{with_rule}");
    daemon.refused(
        &["run", "--rm", "--device-cgroup-rule", "x 1:1 r", "box", "true"],
        "invalid device cgroup format",
    );
    daemon.assert_nothing_left();
}

#[test]
fn an_init_process_reaps_and_hands_signals_on() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    assert_eq!(run(&daemon, &["--init"], "cat /proc/1/comm; echo $$"), "docker-init\n2");
    assert_eq!(daemon.code(&["run", "--rm", "--init", "box", "sh", "-c", "exit 9"]), 9);
    assert_eq!(daemon.code(&["run", "--rm", "--init", "box", "no-such-program"]), 127);
    // An orphan that ends is taken in: no process stays a zombie.
    let orphans = "(sleep 0.1 &); (true &); sleep 0.3; ps -o stat | grep -c Z";
    assert_eq!(run(&daemon, &["--init"], &format!("{orphans} || true")), "0");
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "listens",
        "--init",
        "box",
        "sh",
        "-c",
        "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.05; done",
    ]);
    eventually("the trap to be set", PATIENCE, || (daemon.ok(&["logs", "listens"]) == "ready").then_some(()));
    daemon.ok(&["stop", "listens"]);
    assert_eq!(daemon.ok(&["logs", "listens"]), "ready\ngot it");
    assert_eq!(
        daemon.ok(&["inspect", "-f", "{{.State.ExitCode}} {{.HostConfig.Init}}", "listens"]),
        "3 true"
    );
    assert_eq!(daemon.code(&["run", "--rm", "--init", "box", "sh", "-c", "kill -SEGV $$"]), 139);
    daemon.ok(&["rm", "listens"]);
    daemon.assert_nothing_left();
}

#[test]
fn namespaces_are_shared_as_asked() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "first",
        "--ipc",
        "shareable",
        "--hostname",
        "first",
        "box",
        "sh",
        "-c",
        "echo shared > /dev/shm/note; exec sleep 1000",
    ]);
    let first = daemon.ok(&["inspect", "-f", "{{.State.Pid}}", "first"]);
    let namespace = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    for (option, kind) in [
        (["--pid", "container:first"], "pid"),
        (["--ipc", "container:first"], "ipc"),
        (["--network", "container:first"], "net"),
    ] {
        daemon.ok(&[&["run", "-d", "--name", "second"], &option[..], &["box", "sleep", "1000"]].concat());
        let second = daemon.ok(&["inspect", "-f", "{{.State.Pid}}", "second"]);
        assert_eq!(namespace(&first, kind), namespace(&second, kind), "{option:?}");
        assert_ne!(namespace(&first, "mnt"), namespace(&second, "mnt"));
        daemon.ok(&["rm", "-f", "second"]);
    }
    eventually("the first to have written", PATIENCE, || {
        (run(&daemon, &["--ipc", "container:first"], "cat /dev/shm/note || true") == "shared").then_some(())
    });
    daemon.ok(&["run", "-d", "--name", "private", "box", "sleep", "1000"]);
    daemon.refused(&["run", "--rm", "--ipc", "container:private", "box", "true"], "non-shareable IPC");
    daemon.ok(&["rm", "-f", "private"]);
    for kind in ["pid", "ipc", "uts", "cgroup"] {
        let option = if kind == "cgroup" { "--cgroupns" } else { &format!("--{kind}") };
        daemon.ok(&["run", "-d", "--name", "host", option, "host", "box", "sleep", "1000"]);
        let pid = daemon.ok(&["inspect", "-f", "{{.State.Pid}}", "host"]);
        assert_eq!(namespace(&pid, kind), namespace("self", kind), "{kind}");
        daemon.ok(&["rm", "-f", "host"]);
    }
    daemon.ok(&["rm", "-f", "first"]);
    daemon.refused(&["run", "--rm", "--pid", "container:nobody", "box", "true"], "No such container: nobody");
    daemon.refused(&["run", "--rm", "--ipc", "bogus", "box", "true"], "bogus");
    for id in daemon.ok(&["ps", "-aq"]).lines() {
        daemon.ok(&["rm", "-f", id]);
    }
    daemon.assert_nothing_left();
}

#[test]
fn users_are_others_outside_where_they_are_remapped() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    daemon.kill();
    daemon.up_with(&[], &["--userns-remap", "100000-165535"]);
    assert!(run(&daemon, &[], "cat /proc/self/uid_map").split_whitespace().eq(["0", "100000", "65536"]));
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "mapped",
        "-v",
        "data:/data",
        "-v",
        "/etc:/host:ro",
        "box",
        "sh",
        "-c",
        "id -u > /data/me; chown 5:6 /data/me; touch /root/mine; exec sleep 1000",
    ]);
    let pid = daemon.ok(&["inspect", "-f", "{{.State.Pid}}", "mapped"]);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t100000\t100000"), "root inside is nobody in particular outside: {status}");
    // Files on disk have the numbers that containers see, so that layers and volumes are shared with all.
    use std::os::unix::fs::MetadataExt;
    eventually("the volume's file to be given away", PATIENCE, || {
        let file = fs::metadata(daemon.path("d/volumes/data/_data/me")).ok()?;
        ((file.uid(), file.gid()) == (5, 6)).then_some(())
    });
    assert_eq!(daemon.ok(&["exec", "mapped", "stat", "-c", "%u:%g", "/data/me", "/root/mine"]), "5:6\n0:0");
    // What the host owns is nobody's inside, and its root's secrets stay closed (CVE-2021-21284).
    assert_eq!(daemon.ok(&["exec", "mapped", "stat", "-c", "%u", "/host/passwd"]), "65534");
    daemon.refused(&["exec", "mapped", "cat", "/host/shadow"], "ermission denied");
    assert_eq!(daemon.ok(&["exec", "-u", "7", "mapped", "id", "-u"]), "7");
    daemon.ok(&["cp", "mapped:/data/me", daemon.path("me").to_str().unwrap()]);
    assert_eq!(fs::read_to_string(daemon.path("me")).unwrap(), "0\n");
    daemon.ok(&["commit", "mapped", "again"]);
    assert_eq!(
        daemon.ok(&["run", "--rm", "--userns", "host", "again", "stat", "-c", "%u", "/root/mine"]),
        "0"
    );
    assert!(run(&daemon, &["--userns", "host"], "cat /proc/self/uid_map").split_whitespace().eq([
        "0",
        "0",
        "4294967295"
    ]));
    daemon.refused(
        &["run", "--rm", "--privileged", "box", "true"],
        "privileged mode is incompatible with user namespaces",
    );
    daemon.refused(
        &["run", "--rm", "--network", "host", "box", "true"],
        "cannot share the host's network namespace",
    );
    daemon.ok(&["rm", "-f", "mapped"]);
    daemon.ok(&["rmi", "again"]);
    daemon.ok(&["volume", "rm", "data"]);
    daemon.assert_nothing_left();
}

#[test]
fn a_filter_of_ones_own_refuses_what_it_names() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let profile = daemon.path("profile.json");
    let rules = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#;
    fs::write(&profile, rules).unwrap();
    let option = format!("seccomp={}", profile.display());
    let said = run(&daemon, &["--security-opt", &option], "mkdir /x 2>&1; touch /y && echo made");
    assert_eq!(said, "mkdir: can't create directory '/x': Function not implemented\nmade");
    daemon.ok(&["run", "-d", "--name", "filtered", "--security-opt", &option, "box", "sleep", "1000"]);
    assert_eq!(daemon.code(&["exec", "filtered", "mkdir", "/x"]), 1, "an exec has the filter, too");
    assert_eq!(daemon.code(&["exec", "--privileged", "filtered", "mkdir", "/x"]), 0);
    fs::write(&profile, r#"{"defaultAction":"SCMP_ACT_BOGUS"}"#).unwrap();
    daemon.refused(
        &["run", "--rm", "--security-opt", &option, "box", "true"],
        "loading seccomp profile failed",
    );
    daemon.ok(&["rm", "-f", "filtered"]);
    daemon.assert_nothing_left();
}
