//! The real daemon and the real `docker`: what a user does, end to end.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use dray_testkit::{eventually, isolate};

const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon in namespaces of the test's own.
struct Daemon {
    directory: tempfile::TempDir,
    process: Option<Child>,
}

impl Daemon {
    fn start() -> Self {
        isolate();
        let mut daemon = Self { directory: tempfile::tempdir().unwrap(), process: None };
        daemon.up();
        daemon
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn up(&mut self) {
        let _ = fs::remove_file(self.path("out"));
        let process = Command::new(env!("CARGO_BIN_EXE_dray"))
            .arg("up")
            .arg("--data-dir")
            .arg(self.path("d"))
            .arg("--run-dir")
            .arg(self.path("r"))
            .args(["--api-listen", "127.0.0.1:6443"])
            .stdout(fs::File::create(self.path("out")).unwrap())
            .stderr(fs::File::options().create(true).append(true).open(self.path("log")).unwrap())
            .spawn()
            .unwrap();
        self.process = Some(process);
        eventually("the daemon to be ready", PATIENCE, || {
            let out = fs::read_to_string(self.path("out")).unwrap();
            out.contains("export KUBECONFIG=").then_some(())
        });
    }

    fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", format!("unix://{}", self.path("r/docker.sock").display()));
        command.env("DOCKER_CONFIG", self.path("config"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    fn docker(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("cannot run docker: install its command line")
    }

    /// What a command that succeeds prints.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.docker(arguments);
        assert!(
            output.status.success(),
            "docker {arguments:?}: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            fs::read_to_string(self.path("log")).unwrap_or_default()
        );
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn code(&self, arguments: &[&str]) -> i32 {
        self.docker(arguments).status.code().unwrap()
    }

    fn load_busybox(&self) {
        let archive = self.path("image.tar");
        busybox_image(&archive);
        assert_eq!(self.ok(&["load", "-i", archive.to_str().unwrap()]), "Loaded image: box:latest");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.process.is_none() {
            self.up();
        }
        let ids = String::from_utf8(self.docker(&["ps", "-aq"]).stdout).unwrap_or_default();
        for id in ids.lines() {
            let _ = self.docker(&["rm", "-f", id]);
        }
        let down = Command::new(env!("CARGO_BIN_EXE_dray"))
            .arg("down")
            .arg("--run-dir")
            .arg(self.path("r"))
            .status();
        if down.is_ok_and(|status| status.success())
            && let Some(mut process) = self.process.take()
        {
            let _ = process.wait();
        }
    }
}

/// The body that a web server answers, when one does.
fn fetch(address: &str) -> Option<String> {
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let answer = std::io::read_to_string(&mut stream).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

fn entry_header() -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_mode(0o777);
    header
}

/// An archive in Docker's format: one layer with a static busybox.
fn busybox_image(path: &Path) {
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = entry_header();
    for name in ["bin/", "etc/", "tmp/"] {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        layer.append_data(&mut header, name, std::io::empty()).unwrap();
    }
    let mut file = |name: &str, mode: u32, bytes: &[u8]| {
        let mut header = entry_header();
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        layer.append_data(&mut header, name, bytes).unwrap();
    };
    file("bin/busybox", 0o755, &fs::read("/bin/busybox").expect("install busybox-static"));
    file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n");
    for applet in
        ["sh", "echo", "cat", "sleep", "true", "false", "id", "wget", "httpd", "touch", "ls", "stty"]
    {
        let mut header = entry_header();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    let layer = layer.into_inner().unwrap();
    let config = serde_json::json!({
        "architecture": dray_image::ImageConfig::host_architecture(), "os": "linux",
        "config": { "Env": ["PATH=/bin", "GREETING=hello"], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [dray_image::Digest::of(&layer)] },
    })
    .to_string();
    let manifest = r#"[{"Config":"config.json","RepoTags":["box:latest"],"Layers":["layer.tar"]}]"#;
    let mut archive = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, bytes) in [
        ("layer.tar", layer.as_slice()),
        ("config.json", config.as_bytes()),
        ("manifest.json", manifest.as_bytes()),
    ] {
        let mut header = entry_header();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).unwrap();
    }
    archive.finish().unwrap();
}

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
    assert_eq!(daemon.ok(&["run", "--rm", "-e", "A=1", "box", "sh", "-c", "echo $GREETING $A"]), "hello 1");
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
    let refused = |arguments: &[&str], words: &str| {
        let output = daemon.docker(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && errors.contains(words), "docker {arguments:?}: {errors}");
    };
    refused(&["create", "--name", "taken", "box"], "is already in use by container");
    refused(&["create", "--memory", "1m", "box"], "Minimum memory limit allowed is 6MB");
    refused(&["inspect", "nothing"], "No such object: nothing");
    refused(&["kill", "taken"], "is not running");
    refused(&["rmi", "box"], "is using its referenced image");
    refused(&["network", "rm", "bridge"], "pre-defined network");
    refused(&["run", "--rm", "--network", "nowhere", "box", "true"], "network nowhere not found");
    fs::write(daemon.path("damaged.tar"), b"no archive").unwrap();
    refused(&["load", "-i", daemon.path("damaged.tar").to_str().unwrap()], "invalid image archive");
    assert_eq!(daemon.ok(&["ps", "-aq"]).lines().count(), 1, "nothing half-made is left");
    assert_eq!(daemon.ok(&["network", "ls", "--format", "{{.Name}}"]).lines().count(), 3);
}
