//! What can go wrong in the agent.

use std::path::{Path, PathBuf};

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the agent failed at something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or could not be reached.
    #[error("cannot {action} {object}")]
    Api {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which object.
        object: String,
        /// The client's reason.
        #[source]
        source: Box<kube::Error>,
    },
    /// The engine refused.
    #[error("cannot {action} {object}")]
    Engine {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        object: String,
        /// The engine's reason.
        #[source]
        source: Box<dray_engine::Error>,
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
    /// A peer broke the protocol of a stream.
    #[error("{protocol}: {why}")]
    Protocol {
        /// Which protocol.
        protocol: &'static str,
        /// How it was broken.
        why: String,
    },
    /// A peer did not answer as a probe expects.
    #[error("{message}")]
    Probe {
        /// In the kubelet's words.
        message: String,
    },
    /// What a pod asks for cannot be done, in the kubelet's words.
    #[error("{message}")]
    Pod {
        /// The sentence.
        message: String,
    },
    /// Work that may block ended by itself, which is a bug.
    #[error("an operation of the agent ended unexpectedly")]
    Interrupted,
}

impl Error {
    pub(crate) fn api(action: &'static str, object: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let object = object.into();
        move |source| Self::Api { action, object, source: Box::new(source) }
    }

    pub(crate) fn engine(
        action: &'static str,
        object: impl Into<String>,
    ) -> impl FnOnce(dray_engine::Error) -> Self {
        let object = object.into();
        move |source| Self::Engine { action, object, source: Box::new(source) }
    }

    pub(crate) fn pod(message: impl Into<String>) -> Self {
        Self::Pod { message: message.into() }
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

/// Runs work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Interrupted)?
}
