//! Talking to shims from the asynchronous side: one connection, one request.

use std::path::Path;

use dray_runtime::protocol::{Exit, Reply, Request, State};
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::os::fd::AsRawFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::error::IoContext;
use crate::{Error, Result};

/// The socket's name in a shim's directory.
pub(crate) const SOCKET: &str = "s";
/// Longest answer of a shim.
const REPLY_LIMIT: u64 = 64 * 1024;

/// Which streams a client joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachOptions {
    /// Send standard input.
    pub stdin: bool,
    /// Receive standard output.
    pub stdout: bool,
    /// Receive standard error.
    pub stderr: bool,
}

/// Connects through a descriptor of the directory: the path of a socket may have 107 bytes only.
pub(crate) async fn connect(directory: &Path) -> Result<UnixStream> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(CWD, directory, flags, Mode::empty()).io("open", directory)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", fd.as_raw_fd()))
        .await
        .io("connect to", directory)
}

async fn send(directory: &Path, request: &Request) -> Result<UnixStream> {
    let mut stream = connect(directory).await?;
    let mut line =
        serde_json::to_vec(request).map_err(|source| Error::Record { path: directory.to_owned(), source })?;
    line.push(b'\n');
    stream.write_all(&line).await.io("write to", directory)?;
    Ok(stream)
}

/// Sends a request and reads its one answer; none means that the shim has gone.
async fn call(directory: &Path, request: &Request) -> Result<Option<Reply>> {
    let stream = send(directory, request).await?;
    let mut reader = BufReader::with_capacity(1024, stream).take(REPLY_LIMIT);
    let mut line = Vec::new();
    if reader.read_until(b'\n', &mut line).await.io("read from", directory)? == 0 {
        return Ok(None);
    }
    serde_json::from_slice(&line)
        .map(Some)
        .map_err(|error| Error::Shim { id: directory.display().to_string(), why: error.to_string() })
}

fn unexpected<T>(directory: &Path, reply: Option<Reply>) -> Result<T> {
    let why = match reply {
        Some(Reply::Error(failure)) => return Err(Error::start(failure)),
        Some(reply) => format!("{reply:?}"),
        None => "it has gone".to_owned(),
    };
    Err(Error::Shim { id: directory.display().to_string(), why })
}

/// Lets the created process run.
pub(crate) async fn start(directory: &Path) -> Result<()> {
    match call(directory, &Request::Start).await? {
        Some(Reply::Ok(_)) => Ok(()),
        other => unexpected(directory, other),
    }
}

/// Answers when the process has ended; `None` when the shim has gone without a word.
pub(crate) async fn wait(directory: &Path) -> Result<Option<Exit>> {
    match call(directory, &Request::Wait).await {
        Ok(Some(Reply::Exit(exit))) => Ok(Some(exit)),
        Ok(None) | Err(Error::Io { .. }) => Ok(None),
        Ok(other) => unexpected(directory, other),
        Err(error) => Err(error),
    }
}

/// What the shim knows about its process.
pub(crate) async fn state(directory: &Path) -> Result<State> {
    match call(directory, &Request::State).await? {
        Some(Reply::State(state)) => Ok(state),
        other => unexpected(directory, other),
    }
}

/// Changes the size of the terminal.
pub(crate) async fn resize(directory: &Path, width: u16, height: u16) -> Result<()> {
    match call(directory, &Request::Resize { width, height }).await? {
        Some(Reply::Ok(_)) => Ok(()),
        other => unexpected(directory, other),
    }
}

/// Joins the process' stdio. The stream carries output in Docker's frames (raw with a terminal) and takes input.
pub(crate) async fn attach(directory: &Path, options: AttachOptions) -> Result<UnixStream> {
    let AttachOptions { stdin, stdout, stderr } = options;
    let mut stream = send(directory, &Request::Attach { stdin, stdout, stderr }).await?;
    // The answer comes before the stream; it says that nothing written from now on is missed.
    let mut line = Vec::new();
    loop {
        let byte = stream.read_u8().await.io("read from", directory)?;
        if byte == b'\n' {
            break;
        }
        line.push(byte);
        if line.len() as u64 > REPLY_LIMIT {
            return Err(Error::Shim {
                id: directory.display().to_string(),
                why: "its answer has no end".into(),
            });
        }
    }
    match serde_json::from_slice(&line) {
        Ok(Reply::Ok(_)) => Ok(stream),
        Ok(reply) => unexpected(directory, Some(reply)),
        Err(error) => Err(Error::Shim { id: directory.display().to_string(), why: error.to_string() }),
    }
}
