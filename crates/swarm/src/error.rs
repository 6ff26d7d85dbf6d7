//! What can go wrong in a swarm, by what the caller can do about it.

use std::path::PathBuf;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the swarm refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine is in no swarm, and something asks for one.
    #[error(
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again."
    )]
    NotManager,
    /// The engine is in no swarm, and is told to leave it.
    #[error("This node is not part of a swarm")]
    NotMember,
    /// The engine is in a swarm already.
    #[error(
        "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one."
    )]
    Member,
    /// The last manager takes the swarm with it.
    #[error(
        "You are attempting to leave the swarm on a node that is participating as a manager. Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message."
    )]
    LastManager,
    /// Nothing of this kind has that name or id.
    #[error("{kind} {name} not found")]
    NotFound {
        /// `service`, `secret`, …
        kind: &'static str,
        /// As the caller gave it.
        name: String,
    },
    /// The name is taken.
    #[error(
        "rpc error: code = AlreadyExists desc = name conflicts with an existing object: {kind} {name} already exists"
    )]
    Exists {
        /// What it is.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// Somebody changed it since it was read.
    #[error("rpc error: code = Unknown desc = update out of sequence")]
    OutOfSequence,
    /// The request makes no sense.
    #[error("rpc error: code = InvalidArgument desc = {message}")]
    Invalid {
        /// What is wrong, and with which value.
        message: String,
    },
    /// What exists does not allow it.
    #[error("rpc error: code = FailedPrecondition desc = {message}")]
    Precondition {
        /// What stands in the way.
        message: String,
    },
    /// It needs more than one node.
    #[error("a swarm here has one node: for several, use the cluster of `dray up`")]
    OneNode,
    /// The state could not be read or written.
    #[error("cannot {action} {}", path.display())]
    State {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The engine refused.
    #[error("{}", source.chain())]
    Engine {
        /// Why.
        source: dray_engine::Error,
    },
}

impl From<dray_engine::Error> for Error {
    fn from(source: dray_engine::Error) -> Self {
        Self::Engine { source }
    }
}

impl Error {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into() }
    }
}
