//! A container made of busybox for one test: real shim, real kernel, no engine.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::io::{Read, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dray_runtime::cgroup::Cgroup;
use dray_runtime::launch::{Kind, LogFile, Rootfs, Stdio};
use dray_runtime::protocol::Exit;
use dray_runtime::shim::{Client, spawn};
use dray_runtime::{Error, Executable, LaunchSpec, Process, Result, defaults};
use oci_spec::runtime::Spec;

pub const DEADLINE: Duration = Duration::from_secs(20);

/// Where Debian's busybox-static puts it.
const BUSYBOX: &str = "/bin/busybox";

/// A place for containers: layers, state, sockets.
pub struct Place {
    pub directory: tempfile::TempDir,
    pub executable: Executable,
}

pub fn place() -> Place {
    dray_testkit::isolate();
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let root = directory.path().join("layer");
    for name in ["bin", "etc", "tmp", "proc", "sys", "dev", "root", "home"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::fs::copy(BUSYBOX, root.join("bin/busybox")).expect("install busybox-static");
    for name in [
        "sh", "true", "false", "cat", "echo", "sleep", "id", "ls", "mount", "stat", "tty", "stty", "env",
        "pwd", "hostname", "unshare", "dd", "kill", "touch", "mkdir", "readlink", "grep", "head", "printf",
        "yes", "nc", "ps", "mknod", "chmod", "rm", "seq", "tail", "wc", "umount", "ln",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n").unwrap();
    let executable = Executable::open_path(Path::new(env!("CARGO_BIN_EXE_dray-shim-test"))).unwrap();
    Place { directory, executable }
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A container that is not launched yet.
pub struct Plan {
    pub spec: Spec,
    pub rootfs: Rootfs,
    pub stdio: Stdio,
    pub cgroup: Option<PathBuf>,
    pub name: String,
}

/// A launched one.
pub struct Running {
    pub process: Process,
    pub client: Client,
    pub launch: LaunchSpec,
    pub state: PathBuf,
}

impl Place {
    /// A container that runs a command line of the shell.
    pub fn shell(&self, script: &str) -> Plan {
        self.plan(&["sh", "-c", script])
    }

    pub fn plan(&self, arguments: &[&str]) -> Plan {
        let name = format!("c{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let layers = self.directory.path().join(&name);
        for part in ["upper", "work"] {
            std::fs::create_dir_all(layers.join(part)).unwrap();
        }
        let mut spec = defaults::spec();
        set_arguments(&mut spec, arguments);
        spec.set_hostname(Some("box".into()));
        Plan {
            spec,
            rootfs: Rootfs::Overlay {
                lower: vec![self.directory.path().join("layer")],
                upper: Some(layers.join("upper")),
                work: Some(layers.join("work")),
            },
            stdio: Stdio::default(),
            cgroup: Some(format!("dray-test-{}/{name}", std::process::id()).into()),
            name,
        }
    }

    pub fn upper(&self, plan_name: &str) -> PathBuf {
        self.directory.path().join(plan_name).join("upper")
    }

    pub fn launch(&self, plan: Plan) -> Result<Running> {
        let Plan { spec, rootfs, stdio, cgroup, name } = plan;
        self.launch_kind(&name, Kind::Init { spec: Box::new(spec), rootfs }, stdio, cgroup)
    }

    pub fn launch_kind(
        &self,
        name: &str,
        kind: Kind,
        mut stdio: Stdio,
        cgroup: Option<PathBuf>,
    ) -> Result<Running> {
        let state = self.directory.path().join(format!("{name}.state"));
        std::fs::create_dir_all(&state).unwrap();
        stdio.log.get_or_insert(LogFile {
            path: state.join("log"),
            max_size: None,
            max_files: 1,
            attributes: Default::default(),
            forward: None,
        });
        let launch = LaunchSpec {
            id: name.into(),
            kind,
            cgroup,
            stdio,
            socket: state.join("socket"),
            exit_file: state.join("exit"),
            pid_file: state.join("pid"),
        };
        launch.write(&state)?;
        let process = spawn(&self.executable, &state)?;
        Ok(Running { process, client: Client::new(&launch.socket), launch, state })
    }

    /// Launches, starts, waits, and gives exit and log.
    pub fn run(&self, plan: Plan) -> (Exit, String) {
        let running = self.launch(plan).unwrap_or_else(|error| panic!("{}", error.chain()));
        let waiter = running.client.clone();
        let stream = waiter.request_wait();
        running.client.start().unwrap_or_else(|error| panic!("{}", error.chain()));
        let exit = stream.finish();
        (exit, running.log())
    }

    /// The output of a shell script in a container that must succeed.
    pub fn output(&self, script: &str) -> String {
        let (exit, log) = self.run(self.shell(script));
        assert_eq!(exit.code, 0, "{script}: {log}");
        log
    }

    /// A process in a running container.
    pub fn exec(
        &self,
        running: &Running,
        stdio: Stdio,
        process: oci_spec::runtime::Process,
    ) -> Result<Running> {
        let name = format!("e{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let kind = Kind::Exec {
            target: running.process,
            process: Box::new(process),
            seccomp: Some(defaults::seccomp(&defaults::CAPABILITIES)),
        };
        self.launch_kind(&name, kind, stdio, running.launch.cgroup.clone())
    }
}

pub fn set_arguments(spec: &mut Spec, arguments: &[&str]) {
    let arguments = arguments.iter().map(|&one| one.to_owned()).collect();
    spec.process_mut().as_mut().unwrap().set_args(Some(arguments));
}

pub fn process(arguments: &[&str]) -> oci_spec::runtime::Process {
    let mut spec = defaults::spec();
    set_arguments(&mut spec, arguments);
    spec.process().clone().unwrap()
}

/// A wait request that was made before the start.
pub struct Wait(std::thread::JoinHandle<Exit>);

impl Wait {
    pub fn finish(self) -> Exit {
        self.0.join().unwrap()
    }
}

pub trait RequestWait {
    fn request_wait(&self) -> Wait;
}

impl RequestWait for Client {
    fn request_wait(&self) -> Wait {
        // The request is on its way before this returns: a shim that has ended has no socket any more.
        let mut stream = self.connect().unwrap();
        stream.write_all(b"{\"op\":\"wait\"}\n").unwrap();
        Wait(std::thread::spawn(move || {
            let mut answer = String::new();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream.read_to_string(&mut answer).unwrap();
            match serde_json::from_str(&answer).unwrap() {
                dray_runtime::protocol::Reply::Exit(exit) => exit,
                other => panic!("{other:?}"),
            }
        }))
    }
}

impl Running {
    /// Text of all log entries.
    pub fn log(&self) -> String {
        self.log_of(|_| true)
    }

    pub fn log_of(&self, stream: impl Fn(&str) -> bool) -> String {
        let path = &self.launch.stdio.log.as_ref().unwrap().path;
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .filter(|entry| stream(entry["stream"].as_str().unwrap()))
            .map(|entry| entry["log"].as_str().unwrap().to_owned())
            .collect()
    }

    pub fn start_and_wait(&self) -> Exit {
        let wait = self.client.request_wait();
        self.client.start().unwrap_or_else(|error| panic!("{}", error.chain()));
        wait.finish()
    }

    /// Ends the container and waits for its shim.
    pub fn kill(&self) -> Exit {
        let wait = self.client.request_wait();
        self.process.signal(libc::SIGKILL).unwrap();
        wait.finish()
    }

    pub fn cgroup(&self) -> Cgroup {
        Cgroup::new(self.launch.cgroup.as_ref().unwrap()).unwrap()
    }

    /// Waits until the log holds a text.
    pub fn await_log(&self, text: &str) {
        dray_testkit::eventually(text, DEADLINE, || self.log().contains(text).then_some(()));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The parent group of this test process' containers.
        if let Ok(cgroup) = Cgroup::new(Path::new(&format!("dray-test-{}", std::process::id()))) {
            let _ = cgroup.kill_all();
            let _ = cgroup.delete();
        }
    }
}

/// Reads frames until the end and joins the bytes of one stream.
pub fn read_frames(stream: &mut UnixStream) -> (Vec<u8>, Vec<u8>) {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let (mut output, mut error) = (Vec::new(), Vec::new());
    let mut header = [0u8; 8];
    while stream.read_exact(&mut header).is_ok() {
        let length = u32::from_be_bytes(header[4..].try_into().unwrap()) as usize;
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).unwrap();
        match header[0] {
            1 => output.extend(bytes),
            2 => error.extend(bytes),
            other => panic!("stream {other}"),
        }
    }
    (output, error)
}

/// The failure's message of a launch that must not succeed.
pub fn refusal(result: Result<Running>) -> String {
    match result {
        Ok(_) => panic!("it was launched"),
        Err(Error::Start(failure)) => failure.message,
        Err(other) => panic!("{}", other.chain()),
    }
}
