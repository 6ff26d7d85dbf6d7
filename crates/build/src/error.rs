//! What can go wrong with a build, told in the words of the classic builder where scripts look for them.

use std::path::{Path, PathBuf};

use dray_dockerfile::ParseError;
use dray_image::Digest;

use crate::progress::SourceRange;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where in a Dockerfile an error is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The Dockerfile's path.
    pub file: String,
    /// The Dockerfile.
    pub source: std::sync::Arc<[u8]>,
    /// The lines.
    pub range: SourceRange,
    /// The vertex that failed, if it was one.
    pub vertex: Option<Digest>,
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Dockerfile breaks the rules.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// An instruction cannot be carried out.
    #[error("{source}")]
    At {
        /// Where it is.
        place: Box<Place>,
        /// The reason.
        source: Box<Error>,
    },
    /// Checks of the Dockerfile say something, and that is to count.
    #[error("lint violation found for rules: {rules}")]
    Checks {
        /// The names of the checks.
        rules: String,
    },
    /// RUN asks for what was not granted.
    #[error("{what} is not allowed: grant it with --allow {entitlement}")]
    NotGranted {
        /// What the instruction asks for.
        what: &'static str,
        /// What it is called by.
        entitlement: &'static str,
    },
    /// RUN took too long.
    #[error("The command '{command}' did not end within {}s", limit.as_secs())]
    TimedOut {
        /// The command.
        command: String,
        /// The limit.
        limit: std::time::Duration,
    },
    /// The client did not give what the build needs.
    #[error(transparent)]
    Client(#[from] crate::client::ClientError),
    /// Something of another machine could not be had.
    #[error("cannot fetch {address}: {why}")]
    Fetch {
        /// From where, without credentials.
        address: String,
        /// The reason.
        why: String,
    },
    /// There is no Dockerfile.
    #[error("Cannot locate specified Dockerfile: {path}")]
    NoDockerfile {
        /// Where it was looked for, relative to the context.
        path: String,
    },
    /// The Dockerfile has nothing in it.
    #[error("the Dockerfile ({path}) cannot be empty")]
    EmptyDockerfile {
        /// Its path, relative to the context.
        path: String,
    },
    /// The request or an instruction asks for something that makes no sense or is not supported.
    #[error("{message}")]
    Invalid {
        /// What, and what to do instead.
        message: String,
    },
    /// The context is no archive, or a damaged one.
    #[error("cannot read the build context")]
    Context {
        /// The reason.
        #[source]
        source: dray_image::Error,
    },
    /// A source of COPY or ADD does not exist.
    #[error(
        "{instruction} failed: file not found in build context or excluded by .dockerignore: stat {path}: file does not exist"
    )]
    NoSource {
        /// `COPY` or `ADD`.
        instruction: &'static str,
        /// The source as it was written.
        path: String,
    },
    /// A copy was refused.
    #[error("{instruction} failed: {why}")]
    Copy {
        /// `COPY` or `ADD`.
        instruction: &'static str,
        /// What is wrong.
        why: String,
    },
    /// An image that FROM or `--from` names is not here and could not be had.
    #[error("pull access denied for {name}, repository does not exist or may require 'docker login': {why}")]
    NoImage {
        /// The image.
        name: String,
        /// Why, and what to do.
        why: String,
    },
    /// A command of RUN failed.
    #[error("The command '{command}' returned a non-zero code: {code}")]
    Run {
        /// The command.
        command: String,
        /// Its exit code.
        code: u8,
    },
    /// There is nothing to make an image of.
    #[error("No image was generated. Is your Dockerfile empty?")]
    NoResult,
    /// Nobody listens any more.
    #[error("the build was cancelled")]
    Cancelled,
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] dray_engine::Error),
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
}

impl From<dray_image::Error> for Error {
    fn from(error: dray_image::Error) -> Self {
        Self::Engine(dray_engine::Error::Image(error))
    }
}

impl Error {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into() }
    }

    /// What is wrong, without the place it was found at.
    #[must_use]
    pub fn inner(&self) -> &Self {
        if let Self::At { source, .. } = self { source.inner() } else { self }
    }

    /// As [`Self::inner`], owned.
    #[must_use]
    pub fn into_inner(self) -> Self {
        if let Self::At { source, .. } = self { source.into_inner() } else { self }
    }

    /// The line of the Dockerfile that it is about, from 1.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::Parse(error) => Some(error.line),
            Self::At { place, .. } => Some(place.range.start_line),
            _ => None,
        }
    }

    /// The place in the Dockerfile that it is about.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        if let Self::At { place, .. } = self { Some(place) } else { None }
    }

    /// Says in which file the place is, where only its lines were known.
    pub(crate) fn in_file(mut self, path: &str, bytes: &std::sync::Arc<[u8]>) -> Self {
        if let Self::At { place, .. } = &mut self {
            path.clone_into(&mut place.file);
            place.source = std::sync::Arc::clone(bytes);
        }
        self
    }

    /// The error at some lines of a Dockerfile, unless it has a place already or needs none.
    pub(crate) fn at(self, place: impl FnOnce() -> Place) -> Self {
        match self {
            Self::Cancelled | Self::At { .. } => self,
            error => Self::At { place: Box::new(place()), source: Box::new(error) },
        }
    }

    /// The error and all that lies behind it, and for a Dockerfile the place in it.
    #[must_use]
    pub fn chain(&self) -> String {
        if let Self::Parse(error) = self {
            return format!("{error}\n{}", error.excerpt());
        }
        if let Self::At { source, .. } = self {
            return source.chain();
        }
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
