//! What can go wrong in the store, each with what the caller can do about it.

use std::{path::PathBuf, sync::Arc};

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
    /// The directory cannot be opened as a store.
    #[error("cannot open the store in {path}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the storage engine said.
        source: Arc<fjall::Error>,
    },
    /// A stored record cannot be read.
    #[error("the store in {path} holds a damaged record under {key}")]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// The record's key.
        key: String,
    },
    /// A commit failed; nothing of it counts, and the store takes no more writes.
    #[error("cannot commit to the store in {path}")]
    Commit {
        /// The directory.
        path: PathBuf,
        /// What the storage engine said.
        source: Arc<fjall::Error>,
    },
    /// An earlier commit failed, so that nothing later can be promised to be durable.
    #[error("the store takes no more writes after a failed commit")]
    Poisoned,
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
