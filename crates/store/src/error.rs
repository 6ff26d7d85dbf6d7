//! What can go wrong in the store, each with what the caller can do about it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::Entry;

/// Why the store refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The key of a create is taken.
    #[error("{key} already exists")]
    Exists {
        /// The key.
        key: String,
    },
    /// No such key.
    #[error("{key} not found")]
    NotFound {
        /// The key.
        key: String,
    },
    /// The value changed since the caller read it: read again and decide again.
    #[error("{key} is at revision {}, not at the expected {expected}", current.revision())]
    Conflict {
        /// The key.
        key: String,
        /// The revision that the caller named.
        expected: u64,
        /// What is stored now.
        current: Entry,
    },
    /// The history no longer reaches back so far: list again.
    #[error("too old resource version: {requested} ({oldest})")]
    Expired {
        /// The revision asked for.
        requested: u64,
        /// The oldest revision that can still be continued from.
        oldest: u64,
    },
    /// Another process has the store open.
    #[error("another process uses the store in {}", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The files are laid out in a way that this version does not know.
    #[error("{} was written by another version of dray; open it with that one", path.display())]
    Format {
        /// The directory or the file.
        path: PathBuf,
    },
    /// A file of the store cannot be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Something that was committed is missing, or is not what was committed.
    #[error("{} is damaged: {what}; put a backup in its place (dray restore)", path.display())]
    Damaged {
        /// The directory or the file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A commit failed and does not count. Later writes try whether the disk works again.
    #[error("cannot commit to {}", path.display())]
    Commit {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// There is no room on the disk. Writes are taken again when there is.
    #[error("no space left on the disk for {}: free some; nothing that was acknowledged is lost", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The values are as large as they may be in all: only what makes them smaller is taken.
    #[error("etcdserver: mvcc: database space exceeded")]
    SpaceExceeded {
        /// The most bytes that keys and values may have.
        limit: u64,
    },
    /// A backup is to be restored where something is.
    #[error("{} is not empty; restore into a directory that does not exist", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A file of kind `EncryptionConfiguration` is none.
    #[error("{} says nothing about encryption that can be followed: {why}", path.display())]
    Encryption {
        /// The file.
        path: PathBuf,
        /// Where it is wrong, and how.
        why: String,
    },
    /// A value cannot be decrypted.
    #[error("cannot read {key}: {why}; put back the encryption configuration that it was written with")]
    Sealed {
        /// The key.
        key: String,
        /// Why not.
        why: String,
    },
    /// A value cannot be encrypted.
    #[error("cannot encrypt {key}")]
    Seal {
        /// The key.
        key: String,
    },
    /// What says how etcd is reached does not.
    #[error("etcd cannot be reached so: {why}")]
    EtcdConfig {
        /// What is wrong.
        why: String,
    },
    /// etcd does not answer, or not in time. A write may have been taken.
    #[error("etcd is not available: {why}")]
    Unavailable {
        /// What was seen of it.
        why: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// A value whose splice position lies outside of it.
    #[error("the draft has no place for its revision at byte {at}")]
    BadDraft {
        /// The position given.
        at: usize,
    },
}

impl Error {
    /// A failed commit by its cause: want of room is something that an operator can end.
    pub(crate) fn or_full(self) -> Error {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Error::Commit { path, source } if matches!(source.kind(), StorageFull | QuotaExceeded) => {
                Error::Full { path, source }
            }
            other => other,
        }
    }

    /// Puts the action and the path to an error of the system.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Error + use<> {
        let path = path.to_path_buf();
        move |source| Error::Io { action, path: path.clone(), source: Arc::new(source) }
    }
}
