//! The one error type of this crate.

use std::io;
use std::path::PathBuf;

use crate::protocol::Failure;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, on what.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A log's receiver cannot be reached.
    #[error("failed to initialize logging driver: cannot connect to {address}")]
    LogReceiver {
        /// Its address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// A file of the host could not be used.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A system call that is not about one file failed.
    #[error("cannot {operation}")]
    System {
        /// What was tried, as a verb with its object.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file holds no valid JSON of the expected shape.
    #[error("the {what} in {} is not valid", path.display())]
    Json {
        /// What was expected.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Where it is wrong.
        source: serde_json::Error,
    },
    /// A file is larger than what is read.
    #[error("{} is larger than {limit} bytes", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// The specification asks for something that cannot be.
    #[error("invalid {field}: {reason}")]
    Invalid {
        /// Field of the specification.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A mount of the container could not be made.
    #[error("cannot mount {} at {}", mount_source.display(), destination.display())]
    Mount {
        /// What was to be mounted.
        mount_source: PathBuf,
        /// Where in the container.
        destination: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A hook of the bundle failed.
    #[error("the {kind} hook {} failed: {reason}", path.display())]
    Hook {
        /// When it was to run.
        kind: &'static str,
        /// Which program.
        path: PathBuf,
        /// How it ended, with the first of its output.
        reason: String,
    },
    /// A path in a container's root could not be used.
    #[error("cannot {operation} {} in the container's root", path.display())]
    InRoot {
        /// What was tried, as a verb.
        operation: &'static str,
        /// Path as seen in the container.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The shim reported why the process could not be made or started.
    #[error("{0}")]
    Start(Failure),
    /// The shim went away without a word.
    #[error("the shim of {} ended before it reported", directory.display())]
    ShimVanished {
        /// Its launch directory.
        directory: PathBuf,
    },
    /// The shim answered something unexpected.
    #[error("unexpected answer of a shim: {answer}")]
    UnexpectedAnswer {
        /// What it said, shortened.
        answer: String,
    },
    /// No process with this pid and start time exists.
    #[error("process {pid} no longer exists")]
    NoSuchProcess {
        /// The pid.
        pid: i32,
    },
    /// No such user in the image.
    #[error("unable to find user {name}: no matching entries in passwd file")]
    NoSuchUser {
        /// As asked.
        name: String,
    },
    /// No such group in the image.
    #[error("unable to find group {name}: no matching entries in group file")]
    NoSuchGroup {
        /// As asked.
        name: String,
    },
    /// A user or group number is out of range.
    #[error("uids and gids must be in range 0-2147483647: {value}")]
    IdOutOfRange {
        /// As asked.
        value: String,
    },
    /// A limit of a control group could not be set.
    #[error("cannot set {file} to {value:?} in control group {}", path.display())]
    CgroupLimit {
        /// The control group's directory.
        path: PathBuf,
        /// File of the controller.
        file: String,
        /// What was written.
        value: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The host has no controller for a requested limit.
    #[error("the host has no {controller} control group controller")]
    NoController {
        /// Name of the controller.
        controller: &'static str,
    },
    /// A capability or system call name is unknown.
    #[error("unknown {kind} {name:?}")]
    UnknownName {
        /// What kind of name.
        kind: &'static str,
        /// The name.
        name: String,
    },
}

impl Error {
    /// The message with its sources, joined by colons, for one line of text.
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

/// Turns a failed system call into [`Error::System`].
pub(crate) trait Context<T> {
    /// Names what was tried, as a verb with its object.
    fn to(self, operation: &'static str) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn to(self, operation: &'static str) -> Result<T> {
        self.map_err(|source| Error::System { operation, source: source.into() })
    }
}
