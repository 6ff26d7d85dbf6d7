//! What can go wrong in the engine, by what the caller can do about it.

use std::path::{Path, PathBuf};

use dray_runtime::protocol::{Failure, FailureKind};

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the engine refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing of this kind has that name or id.
    #[error("No such {kind}: {name}")]
    NotFound {
        /// `container`, `volume`, `exec instance`, …
        kind: &'static str,
        /// As the caller gave it.
        name: String,
    },
    /// A network of that name does not exist; Docker words this differently.
    #[error("network {name} not found")]
    NetworkNotFound {
        /// As the caller gave it.
        name: String,
    },
    /// A container has nothing at that path.
    #[error("Could not find the file {path} in container {container}")]
    NoSuchPath {
        /// The path as the caller gave it.
        path: String,
        /// The container's name.
        container: String,
    },
    /// The request contradicts what exists.
    #[error("{message}")]
    Conflict {
        /// In the words that Docker's API uses.
        message: String,
    },
    /// What exists does not allow it.
    #[error("{message}")]
    Forbidden {
        /// In the words that Docker's API uses.
        message: String,
    },
    /// The request makes no sense.
    #[error("{message}")]
    Invalid {
        /// What is wrong, and with which value.
        message: String,
    },
    /// The state asked for is the state it has.
    #[error("{what} is already in that state")]
    NotModified {
        /// What was asked to change.
        what: String,
    },
    /// The process could not be made or run.
    #[error("failed to create task for container: {message}")]
    Start {
        /// Whether the program is missing, cannot be run, or something else.
        kind: FailureKind,
        /// The runtime's words.
        message: String,
    },
    /// A port of the host that a container publishes cannot be had.
    #[error("driver failed programming external connectivity on endpoint {name}: {why}")]
    Port {
        /// The container's name.
        name: String,
        /// Which port, and who has it.
        why: String,
    },
    /// The image store refused or failed.
    #[error(transparent)]
    Image(#[from] dray_image::Error),
    /// The kernel's network refused.
    #[error("cannot {action}")]
    Network {
        /// What was tried, as a verb.
        action: String,
        /// The network's reason.
        #[source]
        source: dray_network::Error,
    },
    /// The runtime refused.
    #[error("cannot {action}")]
    Runtime {
        /// What was tried, as a verb.
        action: String,
        /// The runtime's reason.
        #[source]
        source: Box<dray_runtime::Error>,
    },
    /// The shim answered something else than its protocol says, or nothing.
    #[error("the shim of {id} does not answer as expected: {why}")]
    Shim {
        /// The container or exec.
        id: String,
        /// What came instead.
        why: String,
    },
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A record on disk does not parse.
    #[error("damaged record {}", path.display())]
    Record {
        /// Its path.
        path: PathBuf,
        /// The parser's reason.
        #[source]
        source: serde_json::Error,
    },
    /// A blocking task of the engine ended by itself, which is a bug.
    #[error("an operation of the engine ended unexpectedly")]
    Interrupted,
}

impl Error {
    pub(crate) fn no_container(name: impl Into<String>) -> Self {
        Self::NotFound { kind: "container", name: name.into() }
    }

    /// A request that makes no sense.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into() }
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::Conflict { message: message.into() }
    }

    pub(crate) fn start(failure: Failure) -> Self {
        Self::Start { kind: failure.kind, message: failure.message }
    }

    /// The error and all that lies behind it, in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }
}

/// Adds what was tried, and on which path, to an error of the system.
pub(crate) trait IoContext<T> {
    fn io(self, action: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn io(self, action: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.as_ref().to_owned(), source: source.into() })
    }
}

/// Adds what was tried to an error of the network or the runtime.
pub(crate) trait Trying<T> {
    fn trying(self, action: impl Into<String>) -> Result<T>;
}

impl<T> Trying<T> for std::result::Result<T, dray_network::Error> {
    fn trying(self, action: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Network { action: action.into(), source })
    }
}

impl<T> Trying<T> for std::result::Result<T, dray_runtime::Error> {
    fn trying(self, action: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Runtime { action: action.into(), source: Box::new(source) })
    }
}
