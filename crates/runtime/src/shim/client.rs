//! The engine's side: starting a shim and the plain requests. Blocking; an asynchronous engine speaks
//! [`crate::protocol`] itself.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags, open};

use crate::error::Context as _;
use crate::protocol::{Exit, Reply, Request, State};
use crate::{Error, Executable, Process, Result};

/// Longest answer of a shim in bytes.
const REPLY_LIMIT: u64 = 64 << 10;

/// A process that a shim has made and that waits for [`Request::Start`].
pub type Created = Process;

/// Starts a shim for the launch directory and waits until its process is created.
///
/// The directory holds `launch.json`, see [`crate::LaunchSpec::write`]. Fails with [`Error::Start`] and the message
/// for the user when the process cannot be made as asked; then the shim is gone and nothing is left behind.
pub fn spawn(executable: &Executable, launch_directory: &Path) -> Result<Created> {
    // No directory is set here: the standard library would fork the daemon, with all its page tables, to set it.
    let mut child = Command::new(executable.path())
        .arg0(super::PROCESS_NAME)
        .arg(launch_directory)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .to("start a shim")?;
    let mut answer = Vec::new();
    // To the end of the line, not of the pipe: the new process has it open until it runs its program.
    let read = match child.stdout.take() {
        Some(pipe) => BufReader::new(pipe.take(REPLY_LIMIT)).read_until(b'\n', &mut answer),
        None => Ok(0),
    };
    // The process that was started ends at once; the shim is its child.
    child.wait().to("wait for the shim's parent")?;
    read.to("read a shim's report")?;
    match serde_json::from_slice(&answer) {
        Ok(Reply::Created(process)) => Ok(process),
        Ok(Reply::Error(failure)) => Err(Error::Start(failure)),
        _ if answer.is_empty() => Err(Error::ShimVanished { directory: launch_directory.into() }),
        _ => Err(unexpected(&answer)),
    }
}

fn unexpected(answer: &[u8]) -> Error {
    let answer = String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned();
    Error::UnexpectedAnswer { answer }
}

/// Blocking requests to one shim.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Names a shim by its socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.into() }
    }

    /// Connects. Paths too long for a socket address go through a descriptor of their directory.
    pub fn connect(&self) -> Result<UnixStream> {
        let failed = |source| Error::File { operation: "connect to", path: self.socket.clone(), source };
        if self.socket.as_os_str().len() < 100 {
            return UnixStream::connect(&self.socket).map_err(failed);
        }
        let parent = self.socket.parent().unwrap_or(Path::new("/"));
        let directory = open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| failed(errno.into()))?;
        let name = self.socket.file_name().unwrap_or_default();
        let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        UnixStream::connect(short).map_err(failed)
    }

    /// Sends a request and reads the one line of the answer; the stream is then at what follows.
    pub fn request(&self, request: &Request) -> Result<(Reply, UnixStream)> {
        let mut stream = self.connect()?;
        let mut line = serde_json::to_vec(request).map_err(|source| Error::Json {
            what: "request",
            path: self.socket.clone(),
            source,
        })?;
        line.push(b'\n');
        stream.write_all(&line).to("send a request to a shim")?;
        let mut answer = Vec::new();
        let mut byte = [0];
        // Byte by byte: what follows the line belongs to whoever gets the stream.
        while (answer.len() as u64) < REPLY_LIMIT && stream.read(&mut byte).to("read a shim's answer")? == 1 {
            if byte[0] == b'\n' {
                break;
            }
            answer.push(byte[0]);
        }
        match serde_json::from_slice(&answer) {
            Ok(Reply::Error(failure)) => Err(Error::Start(failure)),
            Ok(reply) => Ok((reply, stream)),
            Err(_) if answer.is_empty() => Err(Error::ShimVanished { directory: self.socket.clone() }),
            Err(_) => Err(unexpected(&answer)),
        }
    }

    fn ok(&self, request: &Request) -> Result<UnixStream> {
        match self.request(request)? {
            (Reply::Ok(true), stream) => Ok(stream),
            (other, _) => Err(unexpected(format!("{other:?}").as_bytes())),
        }
    }

    /// Lets the process run its program.
    pub fn start(&self) -> Result<()> {
        self.ok(&Request::Start).map(drop)
    }

    /// Joins the process' stdio.
    pub fn attach(&self, stdin: bool, stdout: bool, stderr: bool) -> Result<UnixStream> {
        self.ok(&Request::Attach { stdin, stdout, stderr })
    }

    /// Changes the size of the terminal.
    pub fn resize(&self, width: u16, height: u16) -> Result<()> {
        self.ok(&Request::Resize { width, height }).map(drop)
    }

    /// Closes the process' standard input.
    pub fn close_stdin(&self) -> Result<()> {
        self.ok(&Request::CloseStdin).map(drop)
    }

    /// Waits until the process has ended.
    pub fn wait(&self) -> Result<Exit> {
        match self.request(&Request::Wait)? {
            (Reply::Exit(exit), _) => Ok(exit),
            (other, _) => Err(unexpected(format!("{other:?}").as_bytes())),
        }
    }

    /// What the shim knows about the process.
    pub fn state(&self) -> Result<State> {
        match self.request(&Request::State)? {
            (Reply::State(state), _) => Ok(state),
            (other, _) => Err(unexpected(format!("{other:?}").as_bytes())),
        }
    }
}
