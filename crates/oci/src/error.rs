//! The one error type of this crate.

use std::io;
use std::path::PathBuf;

/// A result of this crate.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, on what.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file could not be used.
    #[error("cannot {operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    /// A system call that is not about one file failed.
    #[error("cannot {operation}")]
    System { operation: &'static str, source: io::Error },
    /// A file is no JSON of the expected shape.
    #[error("{} is not a valid {what}", path.display())]
    Json { what: &'static str, path: PathBuf, source: serde_json::Error },
    /// A file is larger than what is read.
    #[error("{} is larger than {limit} bytes", path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    /// The bundle's configuration asks for something that cannot be.
    #[error("invalid {field}: {reason}")]
    Invalid { field: &'static str, reason: String },
    /// The id cannot name a container.
    #[error("invalid container id format: {id:?}")]
    InvalidId { id: String },
    /// Another container has this id.
    #[error("container with given ID already exists: {id}")]
    Exists { id: String },
    /// No container has this id.
    #[error("container does not exist: {id}")]
    Missing { id: String },
    /// The container's state does not allow the operation.
    #[error("cannot {operation} a container that is {status}: {id}")]
    Status { operation: &'static str, status: &'static str, id: String },
    /// A signal cannot be sent because nothing runs.
    #[error("container not running: {id}")]
    NotRunning { id: String },
    /// A signal's name or number is unknown.
    #[error("unknown signal {name:?}")]
    UnknownSignal { name: String },
    /// A terminal was asked for and nobody would hold it.
    #[error("cannot allocate tty if the runtime will detach without setting console socket")]
    NoConsole,
    /// A console socket was given and there is no terminal to send.
    #[error("cannot use console socket if the runtime will not detach or allocate tty")]
    NeedlessConsole,
    /// Processes cannot be written to disk.
    #[error("checkpoint and restore need CRIU, which this runtime does not use")]
    NoCheckpoints,
    /// A process could not be added to a container.
    #[error("cannot exec")]
    Exec { source: dray_runtime::Error },
    /// The runtime refused or failed.
    #[error("cannot {operation}")]
    Runtime { operation: &'static str, source: dray_runtime::Error },
}

impl Error {
    /// The message with its sources, joined by colons.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }

    /// Exit code of the command line: that of the program that could not be run, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Exec { source: dray_runtime::Error::Start(failure) } => match failure.kind.exit_code() {
                code @ (126 | 127) => code,
                _ => 255,
            },
            _ => 1,
        }
    }
}

/// Says what was tried of a failed call of the runtime.
pub(crate) trait Context<T> {
    /// Names what was tried, as a verb with its object.
    fn to(self, operation: &'static str) -> Result<T>;
}

impl<T> Context<T> for dray_runtime::Result<T> {
    fn to(self, operation: &'static str) -> Result<T> {
        self.map_err(|source| Error::Runtime { operation, source })
    }
}

/// Says which file a failed operation was about.
pub(crate) trait OnFile<T> {
    /// Names what was tried and the file.
    fn on(self, operation: &'static str, path: &std::path::Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> OnFile<T> for std::result::Result<T, E> {
    fn on(self, operation: &'static str, path: &std::path::Path) -> Result<T> {
        self.map_err(|source| Error::File { operation, path: path.into(), source: source.into() })
    }
}

/// Says what was tried of a failed system call.
pub(crate) trait Trying<T> {
    /// Names what was tried, as a verb with its object.
    fn trying(self, operation: &'static str) -> Result<T>;
}

impl<T, E: Into<io::Error>> Trying<T> for std::result::Result<T, E> {
    fn trying(self, operation: &'static str) -> Result<T> {
        self.map_err(|source| Error::System { operation, source: source.into() })
    }
}
