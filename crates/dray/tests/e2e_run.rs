//! `docker run` and what is done to containers, against the real daemon.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Stdio};

use common::{Daemon, PATIENCE, fetch};
use dray_testkit::eventually;

/// A command on a terminal of its own, as `script` gives it.
struct Terminal {
    child: Child,
    seen: std::path::PathBuf,
}

impl Terminal {
    fn open(daemon: &Daemon, name: &str, command: &str) -> Self {
        let seen = daemon.path(name);
        fs::write(&seen, "").unwrap();
        let docker = daemon.command(&[]);
        let environment: Vec<_> =
            docker.get_envs().map(|(k, v)| (k.to_owned(), v.unwrap().to_owned())).collect();
        let child = std::process::Command::new("script")
            .args(["-qefc", command])
            .arg(&seen)
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("install util-linux");
        Self { child, seen }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    fn wait_for(&self, words: &str) -> String {
        eventually(words, PATIENCE, || {
            let text = String::from_utf8_lossy(&fs::read(&self.seen).unwrap()).into_owned();
            text.contains(words).then_some(text)
        })
    }

    fn end(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap()
    }
}

#[test]
fn terminals_have_a_size_and_can_be_left() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let mut terminal =
        Terminal::open(&daemon, "one", "stty rows 33 cols 77; docker run -it --rm --name one box sh");
    terminal.wait_for("# ");
    terminal.send(b"test -t 0 && test -t 1 && echo is-a-$((40 + 2))-terminal\n");
    terminal.wait_for("is-a-42-terminal");
    // The client tells the size right after the start.
    terminal.send(b"until [ \"$(stty size)\" = '33 77' ]; do :; done; echo size-$((1 + 1))\n");
    terminal.wait_for("size-2");
    terminal.send(b"exit 5\n");
    assert_eq!(terminal.end(), 5);

    let mut terminal = Terminal::open(&daemon, "two", "docker run -it --name kept box sh");
    terminal.wait_for("# ");
    terminal.send(b"x=left\n\x10\x11");
    assert_eq!(terminal.end(), 0, "the detach keys end the client alone");
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.State.Running}}", "kept"]), "true");
    let mut terminal = Terminal::open(&daemon, "three", "docker attach --detach-keys ctrl-x,x kept");
    terminal.send(b"echo $x-and-found\n");
    terminal.wait_for("left-and-found");
    terminal.send(b"\x18x");
    terminal.end();
    let mut terminal = Terminal::open(&daemon, "four", "docker exec -it kept sh");
    terminal.wait_for("# ");
    terminal.send(b"tty=$(test -t 0 && echo yes); echo exec-$tty; exit 3\n");
    terminal.wait_for("exec-yes");
    assert_eq!(terminal.end(), 3);
    daemon.ok(&["rm", "-f", "kept"]);
    daemon.assert_nothing_left();
}

#[test]
fn limits_and_isolation_are_seen_inside() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let run = |options: &[&str], script: &str| {
        daemon.ok(&[&["run", "--rm"], options, &["box", "sh", "-c", script]].concat())
    };
    let limit = |name_v2: &str, name_v1: &str| {
        format!("cat /sys/fs/cgroup/{name_v2} 2>/dev/null || cat /sys/fs/cgroup/{name_v1}")
    };
    assert_eq!(run(&["--memory", "32m"], &limit("memory.max", "memory/memory.limit_in_bytes")), "33554432");
    assert_eq!(run(&["--pids-limit", "17"], &limit("pids.max", "pids/pids.max")), "17");
    let quota = run(&["--cpus", "0.5"], &limit("cpu.max", "cpu/cpu.cfs_quota_us"));
    assert!(["50000", "50000 100000"].contains(&quota.as_str()), "{quota}");
    assert_eq!(
        daemon.code(&[
            "run",
            "--rm",
            "--pids-limit",
            "8",
            "box",
            "sh",
            "-c",
            "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; exit 9"
        ]),
        2,
        "no more than eight"
    );

    assert_eq!(run(&["--read-only"], "touch /x 2>&1; echo $?").lines().last(), Some("1"));
    assert_eq!(run(&["--read-only", "--tmpfs", "/tmp"], "touch /tmp/x; echo $?"), "0");
    let capabilities = "grep CapEff /proc/self/status | cut -f2 2>/dev/null || grep CapEff /proc/self/status";
    let effective = |options: &[&str]| {
        let line = run(options, capabilities);
        let last = line.split_whitespace().last().unwrap_or_default().to_owned();
        u64::from_str_radix(&last, 16).unwrap()
    };
    const CHOWN: u64 = 1;
    const NET_ADMIN: u64 = 1 << 12;
    assert_eq!(effective(&[]) & (CHOWN | NET_ADMIN), CHOWN);
    assert_eq!(effective(&["--cap-drop", "ALL"]), 0);
    assert_eq!(
        effective(&["--cap-drop", "CHOWN", "--cap-add", "NET_ADMIN"]) & (CHOWN | NET_ADMIN),
        NET_ADMIN
    );
    assert_eq!(effective(&["--cap-drop", "all", "--cap-add", "CAP_CHOWN"]), CHOWN);
    assert_eq!(daemon.ok(&["run", "--rm", "--entrypoint", "echo", "box", "given"]), "given");
    assert_eq!(
        run(
            &["-v", "vol:/data", "-v", "/etc:/host:ro"],
            "echo x > /data/x; touch /host/x 2>/dev/null || cat /data/x"
        ),
        "x"
    );
    assert_eq!(
        run(
            &["-v", "vol:/data:ro", "--hostname", "h"],
            "cat /data/x; hostname; touch /data/y 2>/dev/null || echo ro"
        ),
        "x\nh\nro"
    );

    assert_eq!(run(&["--network", "none"], "ls /sys/class/net"), "lo");
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "server",
        "box",
        "sh",
        "-c",
        "echo page > /tmp/index.html; httpd -f -p 80 -h /tmp",
    ]);
    eventually("the server in a joined network", PATIENCE, || {
        let joined = daemon.docker(&[
            "run",
            "--rm",
            "--network",
            "container:server",
            "box",
            "wget",
            "-q",
            "-O",
            "-",
            "http://127.0.0.1/",
        ]);
        (joined.stdout == b"page\n").then_some(())
    });
    assert!(
        run(&["--network", "host"], "ls /sys/class/net").lines().any(|name| name != "eth0" && name != "lo"),
        "the host's bridge is seen"
    );
    daemon.ok(&["rm", "-f", "server"]);

    // Networks of one's own, and names in them.
    daemon.ok(&["network", "create", "front"]);
    daemon.ok(&["network", "create", "--subnet", "10.77.0.0/24", "back"]);
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "db",
        "--network",
        "back",
        "--network-alias",
        "store",
        "--ip",
        "10.77.0.9",
        "box",
        "sleep",
        "1000",
    ]);
    assert!(run(&["--network", "back"], "nslookup store 127.0.0.11").contains("10.77.0.9"));
    assert!(run(&["--network", "back"], "nslookup db").contains("10.77.0.9"));
    let other = daemon.docker(&["run", "--rm", "--network", "front", "box", "nslookup", "db"]);
    assert!(
        !String::from_utf8_lossy(&other.stdout).contains("10.77.0.9"),
        "another network does not know the name"
    );
    daemon.refused(&["network", "rm", "back"], "has active endpoints");
    assert_eq!(daemon.ok(&["network", "prune", "-f"]).lines().last(), Some("front"));
    daemon.ok(&["rm", "-f", "db"]);
    daemon.ok(&["network", "rm", "back"]);
    daemon.refused(&["network", "create", "bridge"], "not permitted on predefined bridge network");
    daemon.ok(&["volume", "rm", "vol"]);
    daemon.assert_nothing_left();
}

#[test]
fn restarts_by_policy_and_tells_what_happens() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let inspect = |name: &str, what: &str| daemon.ok(&["inspect", "-f", what, name]);
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "thrice",
        "--restart",
        "on-failure:2",
        "box",
        "sh",
        "-c",
        "echo run; exit 4",
    ]);
    eventually("the last attempt", PATIENCE, || {
        (inspect("thrice", "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}") == "exited 2 4")
            .then_some(())
    });
    assert_eq!(daemon.ok(&["logs", "thrice"]), "run\nrun\nrun");
    daemon.ok(&["run", "-d", "--name", "well", "--restart", "on-failure", "box", "true"]);
    assert_eq!(daemon.ok(&["wait", "well"]), "0");
    for policy in ["always", "unless-stopped"] {
        daemon.ok(&["run", "-d", "--name", policy, "--restart", policy, "box", "sleep", "1000"]);
        let first = inspect(policy, "{{.State.Pid}}");
        std::process::Command::new("kill").args(["-9", &first]).status().unwrap();
        eventually("the next process", PATIENCE, || {
            let now = inspect(policy, "{{.State.Status}} {{.State.Pid}}");
            (now.starts_with("running ") && now != format!("running {first}")).then_some(())
        });
        daemon.ok(&["stop", "-t", "0", policy]);
        assert_eq!(
            inspect(policy, "{{.State.Status}}"),
            "exited",
            "a stop by hand is no reason to start again"
        );
    }
    let mut daemon = daemon;
    daemon.kill();
    daemon.up();
    eventually("always is always", PATIENCE, || {
        (daemon.ok(&["inspect", "-f", "{{.State.Status}}", "always"]) == "running").then_some(())
    });
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.State.Status}}", "unless-stopped"]), "exited");
    daemon.ok(&["rm", "-f", "always", "unless-stopped", "thrice", "well"]);

    // Events of a whole life, and filters.
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert_eq!(daemon.code(&["run", "--name", "life", "--label", "a=b", "box", "sh", "-c", "exit 6"]), 6);
    daemon.ok(&["rename", "life", "afterlife"]);
    daemon.ok(&["rm", "afterlife"]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64() + 1.0;
    let events = daemon.ok(&[
        "events",
        "--since",
        &format!("{since:.3}"),
        "--until",
        &format!("{now:.3}"),
        "--filter",
        "type=container",
        "--format",
        "{{.Action}} {{index .Actor.Attributes \"name\"}} {{index .Actor.Attributes \"exitCode\"}}",
    ]);
    let lines: Vec<&str> = events.lines().map(str::trim_end).collect();
    assert_eq!(
        lines,
        ["create life", "attach life", "start life", "die life 6", "rename afterlife", "destroy afterlife"]
    );
    daemon.assert_nothing_left();
}

#[test]
fn a_shim_killed_alone_ends_its_container() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&["run", "-d", "--name", "orphan", "box", "sleep", "1000"]);
    let pid = daemon.ok(&["inspect", "-f", "{{.State.Pid}}", "orphan"]);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let shim = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().to_owned();
    std::process::Command::new("kill").args(["-9", &shim]).status().unwrap();
    let state = || daemon.ok(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "orphan"]);
    eventually("the end to be known", PATIENCE, || (state() == "exited 137").then_some(()));
    // Whoever inherits it may not have looked at its end yet.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_else(|_| "x) Z".to_owned());
    assert!(stat.rsplit_once(") ").unwrap().1.starts_with('Z'), "the process went with its shim");
    daemon.ok(&["start", "orphan"]);
    assert_eq!(state(), "running 0");
    daemon.ok(&["rm", "-f", "orphan"]);
    daemon.assert_nothing_left();
}

#[test]
fn looks_at_pauses_and_updates_containers() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "cc",
        "--memory",
        "64m",
        "box",
        "sh",
        "-c",
        "echo data > /written; sleep 1000",
    ]);
    let top = daemon.ok(&["top", "cc"]);
    assert!(top.starts_with("UID") && top.contains("sleep 1000"), "{top}");
    let top = daemon.ok(&["top", "cc", "aux"]);
    assert!(top.contains("PID") && top.contains("sleep 1000"), "{top}");
    let stats = daemon.ok(&["stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}}", "cc"]);
    assert!(stats.starts_with("cc ") && stats.contains("/ 64MiB"), "{stats}");
    assert_eq!(daemon.ok(&["inspect", "-s", "-f", "{{.SizeRw}}", "cc"]), "5");
    let listed = daemon.ok(&["ps", "-s", "--format", "{{.Size}}"]);
    assert!(listed.starts_with("5B (virtual "), "{listed}");

    daemon.ok(&["pause", "cc"]);
    assert_eq!(
        daemon.ok(&["ps", "--filter", "status=paused", "--format", "{{.Status}}"]).split_once('(').unwrap().1,
        "Paused)"
    );
    daemon.refused(&["pause", "cc"], "is already paused");
    daemon.refused(&["exec", "cc", "true"], "is paused, unpause the container before exec");
    daemon.ok(&["unpause", "cc"]);
    daemon.refused(&["unpause", "cc"], "is not paused");
    assert_eq!(daemon.ok(&["exec", "cc", "cat", "/written"]), "data");
    daemon.ok(&["update", "--memory", "48m", "--memory-swap", "96m", "--restart", "always", "cc"]);
    assert_eq!(
        daemon.ok(&[
            "exec",
            "cc",
            "sh",
            "-c",
            "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
        ]),
        "50331648"
    );
    assert_eq!(
        daemon.ok(&["inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.RestartPolicy.Name}}", "cc"]),
        "50331648 always"
    );
    daemon.refused(&["update", "--memory", "1m", "cc"], "Minimum memory limit allowed is 6MB");
    let usage = daemon.ok(&["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"]);
    assert_eq!(usage, "Images 1 1\nContainers 1 1\nLocal Volumes 0 0\nBuild Cache 0 0");
    // One that stands still can be stopped and removed.
    daemon.ok(&["pause", "cc"]);
    daemon.ok(&["kill", "cc"]);
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.State.Status}}", "cc"]), "exited");
    assert!(daemon.ok(&["container", "prune", "-f"]).contains("Total reclaimed space: 5B"));

    daemon.ok(&["run", "--rm", "-v", "named:/d", "box", "sh", "-c", "echo 1234567 > /d/x"]);
    daemon.ok(&["create", "-v", "/anonymous", "--name", "user", "box", "true"]);
    assert!(daemon.ok(&["volume", "prune", "-f"]).ends_with("Total reclaimed space: 0B"));
    assert_eq!(daemon.ok(&["volume", "ls", "-q"]).lines().count(), 2);
    daemon.ok(&["rm", "user"]);
    daemon.ok(&["volume", "prune", "-f"]);
    assert_eq!(daemon.ok(&["volume", "ls", "-q"]), "named");
    assert!(
        daemon.ok(&["volume", "prune", "-f", "--filter", "all=1"]).ends_with("Total reclaimed space: 8B")
    );
    daemon.ok(&["image", "prune", "-af"]);
    assert_eq!(daemon.ok(&["images", "-q"]), "");
    daemon.assert_nothing_left();
}

#[test]
fn bad_input_is_refused_as_docker_does_and_leaves_nothing() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let output = daemon.docker(&["run", "--rm", "nosuch:tag"]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125));
    assert!(
        errors.contains("Unable to find image 'nosuch:tag' locally")
            && errors.contains("registry-1.docker.io"),
        "{errors}"
    );
    daemon.refused(&["create", "--pull", "never", "nosuch"], "No such image: nosuch:latest");

    daemon.ok(&["run", "-d", "--name", "first", "-p", "127.0.0.1:8099:80", "box", "sleep", "1000"]);
    let output =
        daemon.docker(&["run", "-d", "--name", "second", "-p", "127.0.0.1:8099:80", "box", "sleep", "1000"]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125));
    assert!(
        errors.contains("driver failed programming external connectivity on endpoint second")
            && errors.contains("port is already allocated"),
        "{errors}"
    );
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.State.Status}}", "second"]), "created");
    let listener = std::net::TcpListener::bind("127.0.0.1:8098").unwrap();
    let errors =
        daemon.refused(&["run", "--name", "third", "-p", "127.0.0.1:8098:80", "box", "true"], "8098");
    assert!(errors.contains("address already in use"), "{errors}");
    drop(listener);
    daemon.ok(&["rm", "-f", "first", "second", "third"]);

    for (arguments, words) in [
        (&["run", "--rm", "-m", "1x", "box"][..], "invalid"),
        (&["run", "--rm", "--cap-add", "NOSUCH", "box"], "NOSUCH"),
        (&["run", "--rm", "--name", "-x", "box"], "Invalid container name"),
        (&["run", "--rm", "--network", "container:nosuch", "box"], "No such container: nosuch"),
        (&["run", "--rm", "-v", "relative/path:/x", "box"], "relative/path"),
        (&["run", "--rm", "-w", "relative", "box"], "needs to be an absolute path"),
        (&["run", "--rm", "--cpus", "1000", "box"], "range of CPUs is from 0.01 to"),
        (&["run", "--rm", "--restart", "no:3", "box"], "restart"),
        (&["run", "--rm", "-u", "nosuch", "box"], "nosuch"),
        (&["run", "--rm", "-e", "=x", "box"], "invalid environment variable"),
        (&["start", "nosuch"], "No such container: nosuch"),
        (&["exec", "nosuch", "true"], "No such container: nosuch"),
        (&["rmi", "nosuch"], "No such image: nosuch"),
        (&["tag", "box", "UPPER"], "must be lowercase"),
        // Older clients have words of their own for these two.
        (&["volume", "rm", "nosuch"], "o such volume"),
        (&["network", "rm", "nosuch"], "nosuch"),
        (&["kill", "-s", "NOSUCH", "box"], ""),
        (&["logs", "nosuch"], "No such container: nosuch"),
    ] {
        daemon.refused(arguments, words);
    }
    // What the client itself would never send.
    for (method, path, body, status) in [
        ("POST", "/containers/create", "{", "400"),
        ("POST", "/containers/create", "[]", "400"),
        ("POST", "/containers/create", "{\"Image\":\"box\",\"HostConfig\":{\"Memory\":\"x\"}}", "400"),
        ("POST", "/networks/create", "{\"Name\":\"\"}", "400"),
        ("GET", "/containers/json?filters=x", "", "400"),
        ("GET", "/containers/json?limit=x", "", "400"),
        ("POST", "/build?buildargs=x", "", "400"),
        ("POST", "/build?labels=%7B", "", "400"),
        ("POST", "/build?t=A%20B", "", "400"),
        ("GET", "/v9.99/info", "", "400"),
        ("GET", "/nosuch", "", "404"),
    ] {
        let mut stream = std::os::unix::net::UnixStream::connect(daemon.path("r/docker.sock")).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains("{\"message\":\""),
            "{path}: {answer}"
        );
    }
    let archive = daemon.path("image.tar");
    let whole = fs::read(&archive).unwrap();
    fs::write(daemon.path("cut.tar"), &whole[..whole.len() / 2]).unwrap();
    daemon.refused(&["load", "-i", daemon.path("cut.tar").to_str().unwrap()], "");
    assert_eq!(daemon.ok(&["images", "-q"]).lines().count(), 1);
    assert_eq!(daemon.ok(&["network", "ls", "-q"]).lines().count(), 3);
    assert_eq!(fetch("127.0.0.1:8099"), None);
    daemon.assert_nothing_left();
}

#[test]
fn what_a_crash_leaves_is_cleared_and_what_runs_goes_on() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&["run", "-d", "--name", "runs", "box", "sleep", "1000"]);
    daemon.ok(&[
        "exec",
        "-d",
        "runs",
        "sh",
        "-c",
        "until [ -e /go ]; do sleep 0.01; done; echo done > /went",
    ]);
    daemon.kill();
    // What is in /sys belongs to the namespace that it was mounted in, so `ip` is asked.
    let ip = |arguments: &[&str]| std::process::Command::new("ip").args(arguments).output().unwrap();
    let bridges = String::from_utf8(ip(&["-o", "link", "show", "type", "bridge"]).stdout).unwrap();
    let bridge = bridges.split(": ").nth(1).unwrap().to_owned();
    for arguments in [
        &["link", "add", "vethdead", "type", "veth", "peer", "name", "vethpeer"][..],
        &["link", "set", "vethdead", "master", &bridge],
    ] {
        assert!(ip(arguments).status.success());
    }
    for place in ["p", "e", "c"] {
        fs::create_dir(daemon.path("r").join(place).join("dead")).unwrap();
    }
    for place in ["n", "q"] {
        fs::write(daemon.path("r").join(place).join("dead"), "").unwrap();
    }
    fs::create_dir_all(daemon.path("d/scratch/dead")).unwrap();
    daemon.up();
    for path in ["r/p/dead", "r/e/dead", "r/c/dead", "r/n/dead", "r/q/dead", "d/scratch/dead"] {
        assert!(!daemon.path(path).exists(), "{path}");
    }
    assert!(!ip(&["link", "show", "vethdead"]).status.success(), "the cable is gone");
    let execs = || fs::read_dir(daemon.path("r/e")).unwrap().count();
    assert_eq!(execs(), 1, "the exec of the daemon before goes on");
    daemon.ok(&["exec", "runs", "touch", "/go"]);
    eventually("the exec to end", PATIENCE, || (execs() == 0).then_some(()));
    assert_eq!(daemon.ok(&["exec", "runs", "cat", "/went"]), "done");
    daemon.ok(&["rm", "-f", "runs"]);
    daemon.assert_nothing_left();
}

#[test]
fn copies_files_in_and_out() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let host = |name: &str| daemon.path(name).to_str().unwrap().to_owned();
    fs::create_dir_all(daemon.path("tree/sub")).unwrap();
    fs::write(daemon.path("tree/a"), "a").unwrap();
    fs::write(daemon.path("tree/sub/b"), "b").unwrap();
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "box1",
        "-v",
        "vol:/data",
        "box",
        "sh",
        "-c",
        "ln -s /etc/passwd /link; ln -s /tmp /to; sleep 1000",
    ]);
    eventually("the links", PATIENCE, || {
        (daemon.code(&["exec", "box1", "test", "-L", "/to"]) == 0).then_some(())
    });
    daemon.ok(&["cp", &host("tree"), "box1:/tmp"]);
    daemon.ok(&["cp", &host("tree/."), "box1:/data"]);
    daemon.ok(&["cp", &host("tree/a"), "box1:/to/renamed"]);
    assert_eq!(daemon.ok(&["exec", "box1", "cat", "/tmp/tree/sub/b", "/data/sub/b", "/tmp/renamed"]), "bba");
    daemon.ok(&["cp", "box1:/tmp/tree/", &host("back")]);
    assert_eq!(fs::read_to_string(daemon.path("back/sub/b")).unwrap(), "b");
    daemon.ok(&["cp", "-L", "box1:/link", &host("passwd")]);
    assert!(fs::read_to_string(daemon.path("passwd")).unwrap().starts_with("root:"));
    daemon.ok(&["cp", "box1:/link", &host("copied-link")]);
    assert_eq!(fs::read_link(daemon.path("copied-link")).unwrap(), std::path::Path::new("/etc/passwd"));
    // Clients of different ages put it in different words.
    daemon.refused(&["cp", "box1:/nosuch", "-"], "/nosuch");
    daemon.refused(&["cp", &host("tree/a"), "box1:/nosuch/"], "no such directory");
    daemon.refused(&["cp", &host("tree/a"), "nosuch:/x"], "No such container");
    daemon.ok(&["kill", "box1"]);
    daemon.ok(&["cp", &host("tree/a"), "box1:/stopped"]);
    daemon.ok(&["cp", "box1:/tmp/renamed", &host("from-stopped")]);
    assert_eq!(fs::read_to_string(daemon.path("from-stopped")).unwrap(), "a");
    daemon.ok(&["start", "box1"]);
    assert_eq!(daemon.ok(&["exec", "box1", "cat", "/stopped"]), "a");
    // A link to a place that only the host has leads to the container's own, if anywhere.
    daemon.ok(&["exec", "box1", "ln", "-s", &host("tree"), "/escape"]);
    daemon.refused(&["cp", "box1:/escape/a", "-"], "/escape/a");
    daemon.ok(&["rm", "-f", "box1"]);
    daemon.ok(&["run", "--name", "ro", "--read-only", "box", "true"]);
    daemon.refused(&["cp", &host("tree/a"), "ro:/x"], "container rootfs is marked read-only");
    daemon.ok(&["rm", "ro"]);
    daemon.assert_nothing_left();
}
