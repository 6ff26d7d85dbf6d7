//! What can go wrong with images, told so that the caller knows whom to blame and what to do.

use std::path::{Path, PathBuf};

use crate::Digest;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on images failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No image has this name or id.
    #[error("No such image: {name}")]
    NotFound {
        /// The name or id as the caller gave it.
        name: String,
    },
    /// A short id fits several images.
    #[error("image id prefix {prefix} is ambiguous: it fits {matches} images")]
    AmbiguousId {
        /// The prefix as the caller gave it.
        prefix: String,
        /// How many images it fits.
        matches: usize,
    },
    /// The reference does not follow the grammar.
    #[error("invalid reference format: {reference}: {why}")]
    InvalidReference {
        /// The reference as the caller gave it.
        reference: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// An image is not for the platform that was asked for, or an index has none for it here.
    #[error("image with reference {name} was found but does not provide the specified platform ({platform})")]
    OtherPlatform {
        /// The image.
        name: String,
        /// The platform that was asked for.
        platform: String,
    },
    /// The platform is not `OS/ARCHITECTURE[/VARIANT]`.
    #[error("invalid platform {platform:?}: write it as OS/ARCHITECTURE, for example linux/amd64")]
    InvalidPlatform {
        /// The text that is none.
        platform: String,
    },
    /// The digest is not `sha256:` and 64 lower-case hexadecimal digits.
    #[error("invalid digest {digest:?}: expected sha256: and 64 lower-case hexadecimal digits")]
    InvalidDigest {
        /// The text that is no digest.
        digest: String,
    },
    /// The content is not what its digest says.
    #[error("content of {what} does not match its digest: expected {expected}, got {actual}")]
    DigestMismatch {
        /// Which content.
        what: String,
        /// The digest that was promised.
        expected: Digest,
        /// The digest of the bytes that came.
        actual: Digest,
    },
    /// The archive is not an image archive, or is damaged.
    #[error("invalid image archive: {why}")]
    InvalidArchive {
        /// What is wrong with it.
        why: String,
    },
    /// A layer's archive holds an entry that must not be unpacked.
    #[error("invalid layer entry {path:?}: {why}")]
    InvalidEntry {
        /// The entry's path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The image cannot be removed because something needs it.
    #[error("{message}")]
    Conflict {
        /// Docker's sentence about the conflict.
        message: String,
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
    /// A record of the store does not parse.
    #[error("damaged record {}", path.display())]
    Record {
        /// The record's path.
        path: PathBuf,
        /// The parser's reason.
        #[source]
        source: serde_json::Error,
    },
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
