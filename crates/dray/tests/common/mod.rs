//! What the end-to-end tests share: a daemon in namespaces of the test's own, and images made from nothing.

#![allow(missing_docs, dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test uses its part")]

pub mod network;
pub mod plugins;
pub mod registry;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use dray_testkit::{eventually, isolate};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon in namespaces of the test's own.
pub struct Daemon {
    directory: tempfile::TempDir,
    process: Option<Child>,
}

impl Daemon {
    pub fn start() -> Self {
        isolate();
        let mut daemon = Self { directory: tempfile::tempdir().unwrap(), process: None };
        daemon.up();
        daemon
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn up(&mut self) {
        self.up_with(&[], &[]);
    }

    /// Starts the daemon with more in its environment and on its command line.
    pub fn up_with(&mut self, environment: &[(&str, &str)], options: &[&str]) {
        let _ = fs::remove_file(self.path("out"));
        let listen = ["--api-listen", "127.0.0.1:6443"];
        let listen = if options.contains(&listen[0]) { &[][..] } else { &listen };
        let process = Command::new(env!("CARGO_BIN_EXE_dray"))
            .env("DRAY_CONNECT_GROUP", "none")
            .envs(environment.iter().copied())
            .arg("up")
            .arg("--data-dir")
            .arg(self.path("d"))
            .arg("--run-dir")
            .arg(self.path("r"))
            .args(listen)
            .args(options)
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

    /// Its process while it runs.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// Whether its process has ended by itself.
    pub fn has_died(&mut self) -> bool {
        let has_died = self.process.as_mut().is_none_or(|process| process.try_wait().unwrap().is_some());
        if has_died {
            self.process = None;
        }
        has_died
    }

    pub fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Stops it as its user would, and waits for its end.
    pub fn down(&mut self, options: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dray"));
        command.arg("down").args(options).arg("--run-dir").arg(self.path("r"));
        assert!(command.status().unwrap().success());
        self.process.take().unwrap().wait().unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", format!("unix://{}", self.path("r/docker.sock").display()));
        command.env("DOCKER_CONFIG", self.path("config"));
        command.env("DOCKER_BUILDKIT", "0");
        command.args(arguments).stdin(Stdio::null());
        command
    }

    pub fn docker(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("cannot run docker: install its command line")
    }

    /// Sends a document to the Docker API as it is, and answers what comes back, with its head.
    pub fn post(&self, path: &str, document: &serde_json::Value) -> String {
        self.request("POST", path, &document.to_string())
    }

    /// The document that the Docker API answers at a path.
    pub fn get(&self, path: &str) -> serde_json::Value {
        let answer = self.request("GET", path, "");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
        serde_json::from_str(body).unwrap()
    }

    /// Sends a request to the Docker API as it is, and answers what comes back until the connection ends.
    pub fn request(&self, method: &str, path: &str, body: &str) -> String {
        String::from_utf8(self.request_bytes(method, path, body)).unwrap()
    }

    /// As [`Daemon::request`], of what is no text.
    pub fn request_bytes(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        use std::io::{Read as _, Write as _};
        let mut stream = std::os::unix::net::UnixStream::connect(self.path("r/docker.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    /// What a command that succeeds prints.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.docker(arguments);
        assert!(
            output.status.success(),
            "docker {arguments:?}: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            fs::read_to_string(self.path("log")).unwrap_or_default()
        );
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// What a command that fails says on its error output.
    pub fn refused(&self, arguments: &[&str], words: &str) -> String {
        let output = self.docker(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && errors.contains(words), "docker {arguments:?}: {errors}");
        errors
    }

    /// Nothing of a container or an exec is left but those that `ps -a` knows.
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.ok(&["ps", "-aq"]), "", "no container is left");
        for place in ["r/c", "r/e", "r/n", "d/containers", "d/scratch", "d/image/ingest"] {
            eventually(place, PATIENCE, || {
                fs::read_dir(self.path(place))
                    .map_or(true, |mut entries| entries.next().is_none())
                    .then_some(())
            });
        }
    }

    pub fn code(&self, arguments: &[&str]) -> i32 {
        self.docker(arguments).status.code().unwrap()
    }

    pub fn load_busybox(&self) {
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
            // The containers of pods would be started again by anything less.
            .args(["down", "--all", "--run-dir"])
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
pub fn fetch(address: &str) -> Option<String> {
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let answer = std::io::read_to_string(&mut stream).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// Writes an archive in Docker's format with a static busybox, named `box:latest`.
pub fn busybox_image(path: &Path) {
    fs::write(path, dray_testkit::busybox_archive("box:latest")).unwrap();
}
