//! Why a connection did not come to be, or broke.

use crate::grpc::{Code, Status};

/// Why a connection did not come to be, or broke.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The head of the request asks for what cannot be.
    #[error("{message}")]
    Request {
        /// What is wrong with it.
        message: String,
    },
    /// A session of this name is open.
    #[error("{message}")]
    Conflict {
        /// Which.
        message: String,
    },
    /// The connection broke.
    #[error("the connection broke")]
    Connection {
        /// The reason.
        #[source]
        source: hyper::Error,
    },
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        match status.code {
            Code::AlreadyExists => Self::Conflict { message: status.message },
            _ => Self::Request { message: status.message },
        }
    }
}
