//! What a build asks of the one who started it: secrets, keys, credentials and directories, while it runs.
//!
//! It knows no protocol: a session of a client or a test stands behind it.

use std::any::Any;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

/// A future on the heap, so that the traits can be objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Told how many bytes have come so far.
pub type ProgressFn<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// Why a client gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The client has no such thing.
    #[error("{what} was not given by the client")]
    Missing {
        /// What was asked for, `secret token`.
        what: String,
    },
    /// The client is gone or failed.
    #[error("the client could not give {what}: {why}")]
    Failed {
        /// What was asked for.
        what: String,
        /// The reason.
        why: String,
    },
}

/// A connection to the client's key agent.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// How one logs in to a registry or a web server.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The password; never printed.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Which part of a client's directory is wanted. Patterns are those of `.dockerignore`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalFilter {
    /// Only these; none means all.
    pub include: Vec<String>,
    /// Not these.
    pub exclude: Vec<String>,
    /// Paths whose symbolic links are to be followed, so that what they lead to comes as well.
    pub follow: Vec<String>,
}

/// A directory of the client's, as it is on this machine now. What keeps it there goes when the last clone is dropped.
#[derive(Clone)]
pub struct LocalDirectory {
    path: PathBuf,
    _keep: Arc<dyn Any + Send + Sync>,
}

impl LocalDirectory {
    /// A directory that `keep` keeps.
    pub fn new(path: impl Into<PathBuf>, keep: impl Any + Send + Sync) -> Self {
        Self { path: path.into(), _keep: Arc::new(keep) }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl std::fmt::Debug for LocalDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LocalDirectory").field(&self.path).finish()
    }
}

/// The one who started a build.
pub trait Client: Send + Sync {
    /// The bytes of a secret; [`ClientError::Missing`] when there is none of this id.
    fn secret<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<u8>, ClientError>>;

    /// A new connection to the client's key agent `id` (`default` when the Dockerfile names none).
    fn ssh<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Box<dyn Duplex>, ClientError>>;

    /// How to log in to a host; none when the client has nothing for it.
    fn credentials<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Option<Credentials>, ClientError>>;

    /// A directory of the client's, brought here. Entries have the client's modes and times; owners are root's.
    fn local<'a>(
        &'a self,
        name: &'a str,
        filter: &'a LocalFilter,
        progress: ProgressFn<'a>,
    ) -> BoxFuture<'a, Result<LocalDirectory, ClientError>>;
}

/// A client that has nothing to give, as that of the classic endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoClient;

fn missing<T: Send + 'static>(what: String) -> BoxFuture<'static, Result<T, ClientError>> {
    Box::pin(std::future::ready(Err(ClientError::Missing { what })))
}

impl Client for NoClient {
    fn secret<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<u8>, ClientError>> {
        missing(format!("secret {id}"))
    }

    fn ssh<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Box<dyn Duplex>, ClientError>> {
        missing(format!("ssh agent {id}"))
    }

    fn credentials<'a>(&'a self, _host: &'a str) -> BoxFuture<'a, Result<Option<Credentials>, ClientError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn local<'a>(
        &'a self,
        name: &'a str,
        _filter: &'a LocalFilter,
        _progress: ProgressFn<'a>,
    ) -> BoxFuture<'a, Result<LocalDirectory, ClientError>> {
        missing(format!("directory {name}"))
    }
}
