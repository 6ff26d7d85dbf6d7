//! What can go wrong between a user and a daemon.

use std::path::PathBuf;

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a command failed. The display is what the user is shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens.
    #[error("cannot connect to the daemon at {host}; is it running? Start it with: dray up")]
    Connect {
        /// Where it was expected.
        host: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The address of the daemon has no known form.
    #[error("invalid daemon address {host:?}: it must begin with unix:// or tcp://")]
    Host {
        /// The address.
        host: String,
    },
    /// The connection broke.
    #[error("lost the connection to the daemon")]
    Connection {
        /// What happened to it.
        source: hyper::Error,
    },
    /// The request could not be formed, because a name cannot stand in an address.
    #[error("{what:?} cannot be part of a request")]
    Request {
        /// The path and query.
        what: String,
        /// Why.
        source: http::Error,
    },
    /// The daemon refused.
    #[error("Error response from daemon: {message}")]
    Daemon {
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The API server refused.
    #[error("Error from server ({reason}): {message}")]
    Server {
        /// The HTTP status.
        status: u16,
        /// The reason, as `NotFound`.
        reason: String,
        /// What it said.
        message: String,
    },
    /// The daemon answered something that is not what its API promises.
    #[error("unexpected answer from the daemon")]
    Answer {
        /// Why it could not be read.
        source: serde_json::Error,
    },
    /// A file, the terminal or a stream of this process.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An option's value cannot be used.
    #[error("invalid {what}: {why}")]
    Invalid {
        /// The option or argument.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Something failed while the daemon worked; it said what.
    #[error("{message}")]
    Failed {
        /// What it said.
        message: String,
    },
}

impl Error {
    pub(crate) fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), why: why.into() }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn stream(source: std::io::Error) -> Self {
        Self::Io { action: "use the stream to", path: "the daemon".into(), source }
    }
}
