//! Why a transfer failed, told so that the caller knows whom to blame and what to do.

use std::fmt::Write as _;

use http::StatusCode;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something between a registry and the store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry cannot be reached.
    #[error("cannot reach {url}")]
    Connect {
        /// What was asked for.
        url: String,
        /// The reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection broke off, or nothing came for too long.
    #[error("the connection broke off at {url}: {why}")]
    Interrupted {
        /// What was asked for.
        url: String,
        /// The reason.
        why: String,
    },
    /// The registry wants credentials, or others.
    #[error("unauthorized: {message}")]
    Unauthorized {
        /// The registry.
        registry: String,
        /// What it said.
        message: String,
    },
    /// The registry knows who asks, and does not let them.
    #[error("denied: {message}")]
    Denied {
        /// What the registry said.
        message: String,
    },
    /// There is no such repository, manifest or blob.
    #[error("{code}: {message}")]
    NotFound {
        /// The registry's code in small letters, for example `manifest unknown`.
        code: String,
        /// What the registry said.
        message: String,
    },
    /// The registry answered with another error.
    #[error("{code}: {message}")]
    Refused {
        /// The status of the answer.
        status: StatusCode,
        /// The registry's code in small letters, or the status.
        code: String,
        /// What the registry said.
        message: String,
    },
    /// The registry said something that cannot be right.
    #[error("{registry} gave a wrong answer: {why}")]
    Protocol {
        /// The registry.
        registry: String,
        /// What is wrong with it.
        why: String,
    },
    /// The content is not what its digest says.
    #[error("{what} does not match its digest: expected {expected}, got {actual}")]
    DigestMismatch {
        /// Which content.
        what: String,
        /// The digest that was asked for.
        expected: String,
        /// The digest of what came.
        actual: String,
    },
    /// A manifest is none, is too large, or is two things at once.
    #[error("invalid manifest: {why}")]
    Manifest {
        /// What is wrong with it.
        why: String,
    },
    /// An index has nothing for this platform.
    #[error("no matching manifest for {platform} in the manifest list entries")]
    NoPlatform {
        /// The platform that was asked for.
        platform: String,
    },
    /// An image is for another platform than the one that was asked for.
    #[error(
        "image with reference {reference} was found but does not provide the specified platform ({platform})"
    )]
    OtherPlatform {
        /// The image.
        reference: String,
        /// The platform that was asked for.
        platform: String,
    },
    /// Of an index more than one image is here, and not all of it.
    #[error(
        "{reference} leads to an index of which not all platforms are here: pull what is missing, or name one platform to push"
    )]
    Incomplete {
        /// The image.
        reference: String,
    },
    /// The image store refused.
    #[error(transparent)]
    Store(#[from] dray_image::Error),
    /// A setting of the daemon or of the registry is wrong.
    #[error("{setting}: {why}")]
    Setting {
        /// Which.
        setting: String,
        /// What is wrong with it.
        why: String,
    },
    /// Whoever asked does not wait any more.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// The message and those of all that lies behind it.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            let _ = write!(text, ": {error}");
            source = error.source();
        }
        text
    }

    /// Whether it is worth to try the same again.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Interrupted { .. } => true,
            Self::Refused { status, .. } => {
                status.is_server_error()
                    || matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            }
            _ => false,
        }
    }

    /// Whether another place may have what this one does not.
    pub(crate) fn elsewhere(&self) -> bool {
        !matches!(
            self,
            Self::Store(_) | Self::Cancelled | Self::NoPlatform { .. } | Self::OtherPlatform { .. }
        )
    }
}
