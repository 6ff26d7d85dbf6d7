//! The command line with real bundles. Needs root and busybox-static.
#![allow(clippy::unwrap_used, reason = "a test that cannot prepare fails")]

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(20);
const BINARY: &str = env!("CARGO_BIN_EXE_dray-runtime-test");

/// A bundle with busybox, and a state directory.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new(arguments: &[&str]) -> Self {
        dray_testkit::isolate();
        let place = Self { directory: tempfile::tempdir().unwrap() };
        let root = place.path("bundle/rootfs");
        for name in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("install busybox-static");
        for name in ["sh", "cat", "echo", "sleep", "true", "id", "ls", "tty", "stat", "touch", "readlink"] {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        let bundle = place.path("bundle");
        assert!(place.runtime(&["spec", "--bundle", bundle.to_str().unwrap()]).status.success());
        place.configure(|config| {
            config["process"]["terminal"] = json!(false);
            config["process"]["args"] = json!(arguments);
            config["root"]["readonly"] = json!(false);
        });
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn configure(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path("bundle/config.json");
        let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(path, config.to_string()).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.arg("runtime").arg("--root").arg(self.path("state")).args(arguments);
        command
    }

    fn runtime(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that must succeed, and gives its output.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.runtime(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// As [`Self::ok`] for what a container keeps open: its output goes to a file.
    fn create(&self, id: &str, more: &[&str]) {
        let output = std::fs::File::create(self.path(id)).unwrap();
        let bundle = self.path("bundle");
        let mut arguments = vec!["create", "--bundle", bundle.to_str().unwrap()];
        arguments.extend(more);
        arguments.push(id);
        let error = std::fs::File::create(self.path("error")).unwrap();
        let mut command = self.command(&arguments);
        let status = command.stdin(Stdio::null()).stdout(output).stderr(error).status().unwrap();
        assert!(status.success(), "{}", std::fs::read_to_string(self.path("error")).unwrap());
    }

    fn output(&self, id: &str) -> String {
        std::fs::read_to_string(self.path(id)).unwrap()
    }

    fn status(&self, id: &str) -> String {
        let state: Value = serde_json::from_str(&self.ok(&["state", id])).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }

    fn await_status(&self, id: &str, status: &str) {
        dray_testkit::eventually(status, DEADLINE, || (self.status(id) == status).then_some(()));
    }

    fn run(&self, id: &str, more: &[&str]) -> Output {
        let bundle = self.path("bundle");
        let mut arguments = vec!["run", "--bundle", bundle.to_str().unwrap()];
        arguments.extend(more);
        arguments.push(id);
        self.runtime(&arguments)
    }

    fn name(&self, prefix: &str) -> String {
        format!("dray-oci-{prefix}-{}", std::process::id())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_container_goes_through_its_life() {
    let place = Place::new(&["sh", "-c", "echo started; sleep 1000"]);
    let id = &place.name("life");
    let pid_file = place.path("pid");
    place.create(id, &["--pid-file", pid_file.to_str().unwrap()]);
    assert_eq!(place.status(id), "created");
    assert_eq!(place.output(id), "");
    let state: Value = serde_json::from_str(&place.ok(&["state", id])).unwrap();
    assert_eq!(state["pid"].to_string(), std::fs::read_to_string(&pid_file).unwrap());
    assert!(!place.run(id, &[]).status.success(), "the name is taken");
    place.ok(&["start", id]);
    assert_eq!(place.status(id), "running");
    assert!(text(&place.runtime(&["start", id]).stderr).contains("cannot start a container that is running"));
    dray_testkit::eventually("output", DEADLINE, || (place.output(id) == "started\n").then_some(()));
    assert!(!place.runtime(&["delete", id]).status.success(), "it runs");

    assert_eq!(place.ok(&["exec", "--env", "X=1", id, "sh", "-c", "echo $X; id -u"]), "1\n0\n");
    assert_eq!(place.runtime(&["exec", id, "sh", "-c", "exit 9"]).status.code(), Some(9));
    assert_eq!(place.runtime(&["exec", id, "not-there"]).status.code(), Some(127));
    assert_eq!(place.ok(&["exec", "--user", "5:6", id, "sh", "-c", "id -u; id -g"]), "5\n6\n");
    let pids: Vec<i32> = serde_json::from_str(&place.ok(&["ps", "--format", "json", id])).unwrap();
    assert_eq!(json!(pids[0]), state["pid"]);
    assert!(place.ok(&["ps", id]).contains("sleep 1000"));
    place.ok(&["update", "--pids-limit", "77", id]);
    let stats: Value = serde_json::from_str(&place.ok(&["events", "--stats", id])).unwrap();
    assert_eq!(stats["data"]["pids"]["limit"], 77);
    place.ok(&["pause", id]);
    assert_eq!(place.status(id), "paused");
    assert!(!place.runtime(&["exec", id, "true"]).status.success());
    place.ok(&["resume", id]);
    assert_eq!(place.ok(&["list", "--quiet"]), format!("{id}\n"));

    place.ok(&["kill", id, "KILL"]);
    place.await_status(id, "stopped");
    assert!(!place.runtime(&["kill", id, "KILL"]).status.success());
    place.ok(&["delete", id]);
    assert!(text(&place.runtime(&["state", id]).stderr).contains("does not exist"));
    place.ok(&["delete", "--force", id]);
}

#[test]
fn run_stays_passes_signals_and_gives_the_exit_code() {
    let place = Place::new(&["sh", "-c", "trap 'exit 42' TERM; echo ready; while true; do sleep 0.1; done"]);
    let id = place.name("run");
    let bundle = place.path("bundle");
    let mut child = place
        .command(&["run", "--bundle", bundle.to_str().unwrap(), &id])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0u8; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(42));
    assert_eq!(place.ok(&["list", "--quiet"]), "");
    assert!(!Path::new("/sys/fs/cgroup/pids").join(&id).exists());
}

#[test]
fn hooks_run_in_order_and_are_told_the_state() {
    let place = Place::new(&["echo", "program"]);
    let log = place.path("log");
    std::fs::write(&log, "").unwrap();
    let hook = |name: &str| {
        let script = format!("read state; echo \"{name} $state\" >> {}", log.display());
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"] }])
    };
    place.configure(|config| {
        config["hooks"] = json!({
            "prestart": hook("prestart"), "createRuntime": hook("createRuntime"),
            "createContainer": hook("createContainer"), "poststart": hook("poststart"), "poststop": hook("poststop"),
            // Inside: the host's file is not there, so it says so on what it has.
            "startContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", "cat > /state; exit 0"] }],
        });
        config["annotations"] = json!({ "key": "value" });
    });
    let id = &place.name("hooks");
    place.create(id, &[]);
    let lines = |log: &Path| -> Vec<(String, Value)> {
        let text = std::fs::read_to_string(log).unwrap();
        let parse = |line: &str| {
            let (name, state) = line.split_once(' ').unwrap();
            (name.to_owned(), serde_json::from_str(state).unwrap())
        };
        text.lines().map(parse).collect()
    };
    let names = |log: &Path| -> Vec<String> { lines(log).into_iter().map(|(name, _)| name).collect() };
    assert_eq!(names(&log), ["prestart", "createRuntime", "createContainer"]);
    assert!(!place.path("bundle/rootfs/state").exists());
    place.ok(&["start", id]);
    place.await_status(id, "stopped");
    let inside: Value =
        serde_json::from_slice(&std::fs::read(place.path("bundle/rootfs/state")).unwrap()).unwrap();
    assert_eq!((inside["status"].as_str(), inside["pid"].as_i64()), (Some("created"), Some(1)));
    place.ok(&["delete", id]);
    assert_eq!(names(&log), ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]);
    for (name, state) in lines(&log) {
        assert_eq!(state["id"], json!(id), "{name}");
        assert_eq!(state["annotations"]["key"], "value", "{name}");
        let status = match name.as_str() {
            "prestart" => "created",
            "createRuntime" | "createContainer" => "creating",
            "poststart" => "running",
            _ => "stopped",
        };
        assert_eq!(state["status"], status, "{name}");
    }
}

#[test]
fn a_hook_that_fails_or_hangs_ends_the_creation() {
    for (script, timeout, expected) in
        [("echo why; exit 3", 10, "exit status 3: why"), ("sleep 100", 1, "within 1")]
    {
        let place = Place::new(&["true"]);
        place.configure(|config| {
            config["hooks"] = json!({ "createRuntime": [
                { "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], "timeout": timeout },
            ] });
        });
        let id = place.name("fail");
        let output = place.run(&id, &[]);
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
        assert_eq!(place.ok(&["list", "--quiet"]), "");
        assert!(!Path::new("/sys/fs/cgroup/pids").join(&id).exists());
    }
}

/// Takes the one descriptor that is sent over a new connection, with what comes along.
fn receive_descriptor(listener: &UnixListener) -> (OwnedFd, Vec<u8>, UnixStream) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let (stream, _) = listener.accept().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0u8; 65536];
    let mut slices = [std::io::IoSliceMut::new(&mut bytes)];
    let count = recvmsg(stream.as_fd(), &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
    bytes.truncate(count);
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut all) => all.next(),
        _ => None,
    });
    (descriptor.unwrap(), bytes, stream)
}

#[test]
fn a_terminal_is_sent_over_the_console_socket() {
    let place = Place::new(&["sh", "-c", "tty; read line; echo got $line"]);
    place.configure(|config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["consoleSize"] = json!({ "width": 81, "height": 25 });
    });
    let id = &place.name("tty");
    assert!(text(&place.run(id, &["--detach"]).stderr).contains("console socket"));
    let path = place.path("console");
    let listener = UnixListener::bind(&path).unwrap();
    place.create(id, &["--console-socket", path.to_str().unwrap()]);
    let (terminal, _, _stream) = receive_descriptor(&listener);
    assert_eq!(rustix::termios::tcgetwinsize(&terminal).unwrap().ws_col, 81);
    place.ok(&["start", id]);
    let mut terminal = std::fs::File::from(terminal);
    terminal.write_all(b"hello\n").unwrap();
    let mut seen = String::new();
    let mut buffer = [0u8; 256];
    // Ends with EIO when the container has.
    while let Ok(count) = terminal.read(&mut buffer) {
        seen.push_str(&text(&buffer[..count]));
    }
    assert!(seen.contains("/dev/pts/0") && seen.contains("got hello"), "{seen}");
    place.ok(&["delete", "--force", id]);
}

#[test]
fn calls_are_left_to_a_listener_that_gets_the_descriptor() {
    let place = Place::new(&["sh", "-c", "sleep 1000"]);
    let path = place.path("listener");
    place.configure(|config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": path, "listenerMetadata": "about it",
            "syscalls": [{ "names": ["mkdirat", "mkdir"], "action": "SCMP_ACT_NOTIFY" }],
        });
    });
    let listener = UnixListener::bind(&path).unwrap();
    let id = &place.name("notify");
    place.create(id, &[]);
    let (_listener, bytes, mut stream) = receive_descriptor(&listener);
    let mut bytes = bytes;
    stream.read_to_end(&mut bytes).unwrap();
    let message: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(message["fds"], json!(["seccompFd"]));
    assert_eq!(message["metadata"], "about it");
    assert_eq!(message["state"]["id"], json!(id));
    place.ok(&["start", id]);
    place.ok(&["delete", "--force", id]);
}

#[test]
fn descriptors_are_handed_on_only_when_asked() {
    let place = Place::new(&["sh", "-c", "cat <&3; ls /proc/self/fd"]);
    let file = place.path("file");
    std::fs::write(&file, "inherited\n").unwrap();
    let bundle = place.path("bundle");
    let script = format!(
        "exec 3<{} 4</etc/passwd; exec {BINARY} runtime --root {} run --preserve-fds 1 --bundle {} {}",
        file.display(),
        place.path("state").display(),
        bundle.display(),
        place.name("fds"),
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    // ls itself has opened the fourth.
    assert_eq!(text(&output.stdout), "inherited\n0\n1\n2\n3\n4\n", "{}", text(&output.stderr));
    let output = place.run(&place.name("none"), &["--preserve-fds", "9"]);
    assert!(!output.status.success(), "there are none to hand on");
}

/// Killed at any moment of a creation, what is left can be deleted and nothing stays.
#[test]
fn an_interrupted_creation_can_be_deleted() {
    let place = Place::new(&["sleep", "1000"]);
    let bundle = place.path("bundle");
    for round in 0..30u32 {
        let id = place.name(&format!("cut{round}"));
        let mut child = place
            .command(&["create", "--bundle", bundle.to_str().unwrap(), &id])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The moments themselves are what is tried here.
        std::thread::sleep(Duration::from_micros(u64::from(round) * 1500));
        let _ = child.kill();
        child.wait().unwrap();
        let gone = || {
            let output = place.runtime(&["delete", "--force", &id]);
            output.status.success().then_some(())
        };
        dray_testkit::eventually("deletion", DEADLINE, gone);
        assert!(!Path::new("/sys/fs/cgroup/pids").join(&id).exists(), "{round}");
        assert!(!place.path("state").join(&id).exists(), "{round}");
        dray_testkit::eventually("no process left", DEADLINE, || (!is_running(&id)).then_some(()));
    }
}

/// Whether some process that has not ended has the word among its arguments.
fn is_running(word: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        arguments.split(|&byte| byte == 0).any(|argument| argument == word.as_bytes())
    })
}

#[test]
fn names_that_leave_the_state_directory_are_refused() {
    let place = Place::new(&["true"]);
    for id in ["..", ".", "", "a/b", "../x", "a b", "a\nb"] {
        assert!(!place.run(id, &[]).status.success(), "{id:?}");
    }
    assert!(!place.path("x").exists());
}

#[test]
fn cve_2024_25621_state_directories_are_private_and_stay_so() {
    let place = Place::new(&["sleep", "1000"]);
    let state = place.path("state");
    // Somebody has made it for everybody.
    std::fs::create_dir_all(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).unwrap();
    let id = &place.name("private");
    place.create(id, &[]);
    let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&state.join(id))), (0o700, 0o700));
    for name in ["state.json", "config.json"] {
        assert_eq!(mode(&state.join(id).join(name)), 0o600, "{name}");
    }
    place.ok(&["delete", "--force", id]);
    // A link to elsewhere is not followed.
    let elsewhere = place.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::remove_dir_all(&state).unwrap();
    symlink(&elsewhere, &state).unwrap();
    assert!(!place.run(&place.name("link"), &[]).status.success());
    assert_eq!(std::fs::read_dir(elsewhere).unwrap().count(), 0);
}

/// The container's program is our own binary, opened through `/proc`, and something in the container writes to it.
#[test]
fn cve_2019_5736_the_runtimes_binary_cannot_be_overwritten() {
    let place = Place::new(&["sh", "-c", "sleep 1000"]);
    let before = std::fs::read(BINARY).unwrap();
    let id = &place.name("exe");
    place.configure(|config| {
        let all = json!(["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"]);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = all.clone();
        }
    });
    place.create(id, &[]);
    let state: Value = serde_json::from_str(&place.ok(&["state", id])).unwrap();
    // The waiting first process still is the runtime.
    let path = format!("/proc/{}/exe", state["pid"]);
    let error = std::fs::OpenOptions::new().write(true).open(&path).unwrap_err();
    assert!(
        matches!(
            error.kind(),
            std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::ExecutableFileBusy
        ),
        "{error}"
    );
    let status = rustix::fs::statvfs(path.as_str()).unwrap();
    assert!(status.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    place.ok(&["start", id]);
    // An exec of the runtime's own binary by a link of the image.
    symlink("/proc/self/exe", place.path("bundle/rootfs/bin/evil")).unwrap();
    let _ = place.runtime(&["exec", id, "/bin/evil"]);
    let script = "for p in /proc/[0-9]*/exe; do echo evil > $p; done 2>/dev/null; true";
    place.ok(&["exec", id, "sh", "-c", script]);
    place.ok(&["delete", "--force", id]);
    assert!(std::fs::read(BINARY).unwrap() == before);
}

/// Without any right, in a user namespace of its own.
#[test]
fn a_user_without_rights_runs_containers() {
    let place = Place::new(&[]);
    let binary = place.path("runc");
    std::fs::copy(BINARY, &binary).unwrap();
    std::fs::remove_file(place.path("bundle/config.json")).unwrap();
    let user = |script: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "1000", "--regid", "1000", "--clear-groups", "sh", "-c", script]);
        command
            .current_dir(place.path("bundle"))
            .env("XDG_RUNTIME_DIR", place.path("run"))
            .stdin(Stdio::null());
        command.output().unwrap()
    };
    std::fs::create_dir(place.path("run")).unwrap();
    let owned = Command::new("chown").args(["-R", "1000:1000"]).arg(place.directory.path()).status().unwrap();
    assert!(owned.success());
    assert!(user("../runc spec --rootless").status.success());
    place.configure(|config| {
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["sh", "-c", "id -u; exit 3"]);
    });
    let output = user("../runc run box");
    if user("unshare --user true").status.success() {
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(3), "0\n".to_owned()), "{output:?}");
    } else {
        // A host may keep user namespaces from everybody.
        assert!(text(&output.stderr).contains("cannot create the container"), "{output:?}");
    }
    assert_eq!(text(&user("../runc list --quiet").stdout), "");
}

#[test]
fn namespaces_of_another_container_are_joined() {
    let place = Place::new(&["sleep", "1000"]);
    let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    place.configure(|config| {
        config["linux"]["uidMappings"] = mapping.clone();
        config["linux"]["gidMappings"] = mapping.clone();
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    });
    let (first, second) = (&place.name("first"), &place.name("second"));
    place.create(first, &[]);
    place.ok(&["start", first]);
    let state: Value = serde_json::from_str(&place.ok(&["state", first])).unwrap();
    let namespace = |kind: &str| format!("/proc/{}/ns/{kind}", state["pid"]);
    let script = "id -u; for kind in user net ipc uts pid mnt; do readlink /proc/self/ns/$kind; done";
    place.configure(|config| {
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["linux"]["uidMappings"] = Value::Null;
        config["linux"]["gidMappings"] = Value::Null;
        config["linux"]["namespaces"] = json!([
            { "type": "user", "path": namespace("user") }, { "type": "network", "path": namespace("net") },
            { "type": "ipc", "path": namespace("ipc") }, { "type": "uts", "path": namespace("uts") },
            { "type": "pid" }, { "type": "mount" }, { "type": "cgroup" },
        ]);
    });
    let output = place.run(second, &[]);
    let lines = text(&output.stdout);
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.first(), Some(&"0"), "{output:?}");
    for (index, kind) in ["user", "net", "ipc", "uts", "pid", "mnt"].into_iter().enumerate() {
        let theirs = std::fs::read_link(namespace(kind)).unwrap();
        assert_eq!(Path::new(lines[index + 1]) == theirs, index < 4, "{kind}: {lines:?}");
    }
    // The host's mounts are nobody's to join.
    place.configure(|config| {
        config["linux"]["namespaces"] = json!([{ "type": "mount", "path": "/proc/self/ns/mnt" }]);
    });
    let output = place.run(second, &[]);
    let words = "the host's mount namespace cannot be joined";
    assert!(text(&output.stderr).contains(words), "{output:?}");
    place.ok(&["delete", "--force", first]);
}

#[test]
fn a_root_that_cannot_be_pivoted_is_changed() {
    let place = Place::new(&["ls", "/"]);
    let output = place.run(&place.name("ramdisk"), &["--no-pivot"]);
    assert_eq!(text(&output.stdout), "bin\ndev\netc\nproc\nsys\ntmp\n", "{}", text(&output.stderr));
}
