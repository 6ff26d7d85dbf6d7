//! A real daemon in namespaces of its own: what the demo and the benchmarks work with.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{Error, describe, program, run, tools};

/// Set for a process that runs in namespaces of its own already: the paths of its binaries, which were built outside.
const ISOLATED: &str = "DRAY_XTASK_ISOLATED";
/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something that nobody announces.
const PAUSE: Duration = Duration::from_millis(2);

/// Builds packages for release, and goes on in a network and a mount namespace of its own, so that the host's links, packet
/// rules and mounts stay as they are. Answers the binaries.
pub(crate) fn prepare<const N: usize>(root: &Path, packages: [&str; N]) -> Result<[PathBuf; N], Error> {
    if let Some(built) = isolated_with()? {
        let wrong = |_| Error::Unexpected { what: format!("{ISOLATED} does not name {N} binaries") };
        return built.try_into().map_err(wrong);
    }
    let built = packages.iter().map(|package| release(root, package)).collect::<Result<Vec<_>, _>>()?;
    Err(isolate(&built))
}

/// Goes on in namespaces of its own with a binary that is built already.
pub(crate) fn isolated(binary: PathBuf) -> Result<PathBuf, Error> {
    match isolated_with()? {
        Some(_) => Ok(binary),
        None => Err(isolate(&[binary])),
    }
}

/// The binaries to go on with, in namespaces of its own.
fn isolated_with() -> Result<Option<Vec<PathBuf>>, Error> {
    let Some(paths) = std::env::var_os(ISOLATED) else { return Ok(None) };
    run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    Ok(Some(std::env::split_paths(&paths).collect()))
}

/// Begins anew in namespaces of its own. Everything is built by then, as no network is in reach there.
fn isolate(binaries: &[PathBuf]) -> Error {
    if let Err(error) = tools::install_packages() {
        return error;
    }
    let paths = match std::env::join_paths(binaries) {
        Ok(paths) => paths,
        Err(error) => return Error::Unexpected { what: format!("the build directory: {error}") },
    };
    let executable = match std::env::current_exe() {
        Ok(executable) => executable,
        Err(source) => return Error::File { path: PathBuf::from("/proc/self/exe"), source },
    };
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(executable)
        .args(std::env::args_os().skip(1))
        .env(ISOLATED, paths)
        .env("CARGO_NET_OFFLINE", "true");
    Error::Start { program: program(&command), source: command.exec() }
}

/// Builds a package for release and answers its binary.
fn release(root: &Path, package: &str) -> Result<PathBuf, Error> {
    let mut command = Command::new("cargo");
    command.args(["build", "--package", package, "--message-format=json"]);
    // Suites are as true of a build for debugging, which is there sooner.
    if std::env::var_os("DRAY_XTASK_DEBUG").is_none() {
        command.arg("--release");
    }
    command.current_dir(root).stderr(Stdio::inherit());
    println!("xtask: {}", describe(&command));
    let output = command.output().map_err(|source| Error::Start { program: program(&command), source })?;
    if !output.status.success() {
        return Err(Error::Failed { command: describe(&command), status: output.status });
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let built = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back();
    built.ok_or_else(|| Error::Missing { path: PathBuf::from(package) })
}

/// A directory below the temporary one that goes when it is dropped.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Result<Self, Error> {
        let path = std::env::temp_dir().join(format!("dray-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|source| Error::File { path: path.clone(), source })?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("xtask: cannot remove {}: {error}", self.0.display());
        }
    }
}

/// A running `dray up`.
pub(crate) struct Daemon {
    child: Child,
    dray: PathBuf,
    directory: PathBuf,
}

impl Daemon {
    /// Starts one whose state is below `directory`, and waits until it says that both APIs answer.
    pub(crate) fn start(dray: &Path, directory: &Path) -> Result<Self, Error> {
        Self::start_with(dray, directory, &[])
    }

    /// The same with more on its command line.
    pub(crate) fn start_with(dray: &Path, directory: &Path, options: &[&str]) -> Result<Self, Error> {
        let path = |name: &str| directory.join(name);
        let log = path("log");
        let file = fs::OpenOptions::new().create(true).append(true).open(&log);
        let file = file.map_err(|source| Error::File { path: log.clone(), source })?;
        let mut command = Command::new(dray);
        command.arg("up").arg("--data-dir").arg(path("data")).arg("--run-dir").arg(path("run"));
        // Nothing of the host's is attached to, unless the options say so.
        command.env("DRAY_CONNECT_GROUP", "none");
        command.args(["--node-name", "node"]).args(options).stdout(Stdio::piped()).stderr(file);
        let mut child =
            command.spawn().map_err(|source| Error::Start { program: program(&command), source })?;
        let output = child.stdout.take().into_iter().flat_map(|output| BufReader::new(output).lines());
        let said = output.map_while(Result::ok).find(|line| line.starts_with("export KUBECONFIG="));
        if said.is_none() {
            let log = fs::read_to_string(&log).unwrap_or_default();
            return Err(Error::Unexpected { what: format!("the daemon did not start: {}", log.trim()) });
        }
        Ok(Self { child, dray: dray.to_owned(), directory: directory.to_owned() })
    }

    /// Where the Docker API listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("run/docker.sock")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The command `dray …` as a client of this daemon.
    pub(crate) fn client(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.dray);
        command.args(arguments);
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command.env("KUBECONFIG", self.directory.join("data/kubeconfig"));
        command
    }

    /// Runs such a command and answers what it prints.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<String, Error> {
        output(&mut self.client(arguments))
    }

    /// Asks again until the answer is as it should be.
    pub(crate) fn ask_until(
        &self,
        arguments: &[&str],
        mut is_right: impl FnMut(&str) -> bool,
    ) -> Result<String, Error> {
        let begin = Instant::now();
        loop {
            let answer = self.ask(arguments)?;
            if is_right(&answer) {
                return Ok(answer);
            }
            if begin.elapsed() > PATIENCE {
                let command = arguments.join(" ");
                return Err(Error::Unexpected { what: format!("`dray {command}` still answers {answer:?}") });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Ends the daemon; with its containers, if `all`.
    pub(crate) fn stop(mut self, all: bool) -> Result<(), Error> {
        let mut command = Command::new(&self.dray);
        command.arg("down").arg("--run-dir").arg(self.directory.join("run"));
        if all {
            command.arg("--all");
        }
        output(&mut command)?;
        let waited = self.child.wait();
        waited.map(|_| ()).map_err(|source| Error::Start { program: program(&command), source })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Only when something failed before: then nothing of it may stay behind.
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let run_dir = self.directory.join("run");
            let down = Command::new(&self.dray).args(["down", "--all", "--run-dir"]).arg(run_dir).status();
            if !down.is_ok_and(|status| status.success()) {
                let _ = self.child.kill();
            }
            let _ = self.child.wait();
        }
    }
}

/// What a command prints, if it succeeds.
pub(crate) fn output(command: &mut Command) -> Result<String, Error> {
    let output = command.output().map_err(|source| Error::Start { program: program(command), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    Err(Error::Failed { command: describe(command), status: output.status })
}

/// The body of a page, once a program that has just been started serves it.
pub(crate) fn fetch_when_served(address: SocketAddr) -> Result<String, Error> {
    let begin = Instant::now();
    loop {
        match fetch(address) {
            Err(_) if begin.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
}

/// The body of a page.
pub(crate) fn fetch(address: SocketAddr) -> Result<String, Error> {
    let failed = |source| Error::Connection { address, source };
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n").map_err(failed)?;
    let mut page = String::new();
    stream.read_to_string(&mut page).map_err(failed)?;
    Ok(page.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim().to_owned())
}
