//! Where commits become durable. The embedded one is the storage engine `fjall`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::{Entry, Error, Key};

/// One change of a commit: a new value, or none for a delete.
#[derive(Debug, Clone)]
pub struct Change {
    /// The key.
    pub key: Key,
    /// The new value.
    pub entry: Option<Entry>,
}

/// A place that keeps commits.
pub trait Backend: Send + 'static {
    /// Hands every kept value to `visit` and returns the last revision that was committed.
    ///
    /// # Errors
    /// What the medium said.
    fn load(&mut self, visit: &mut dyn FnMut(Key, Entry)) -> Result<u64, Error>;

    /// Makes all changes durable, or none. `revision` is the last of the batch.
    ///
    /// # Errors
    /// What the medium said; then none of the changes may be counted on.
    fn commit(&mut self, revision: u64, changes: &[Change]) -> Result<(), Error>;
}

/// Keeps nothing: for tests and for measuring.
#[derive(Debug, Default)]
pub struct Memory;

impl Backend for Memory {
    fn load(&mut self, _visit: &mut dyn FnMut(Key, Entry)) -> Result<u64, Error> {
        Ok(0)
    }

    fn commit(&mut self, _revision: u64, _changes: &[Change]) -> Result<(), Error> {
        Ok(())
    }
}

/// The storage engine inside the daemon, in one directory.
pub struct Embedded {
    path: PathBuf,
    database: Database,
    keyspace: Keyspace,
}

// All live values are in memory anyway: the engine's own caches only hold what is on its way to disk.
const BLOCK_CACHE_BYTES: u64 = 256 * 1024;
const MEMTABLE_BYTES: u64 = 4 * 1024 * 1024;
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;
const REVISION_KEY: &str = "revision";

impl Embedded {
    /// Opens or makes the store in `path`.
    ///
    /// # Errors
    /// `Open` with the engine's reason.
    pub fn open(path: &Path) -> Result<Embedded, Error> {
        let failed = |source| Error::Open { path: path.to_path_buf(), source: Arc::new(source) };
        let database = Database::builder(path)
            .cache_size(BLOCK_CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .max_cached_files(Some(32))
            .worker_threads(1)
            .open()
            .map_err(failed)?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let keyspace = database.keyspace("objects", options).map_err(failed)?;
        Ok(Embedded { path: path.to_path_buf(), database, keyspace })
    }

    fn damaged(&self, key: &[u8]) -> Error {
        Error::Damaged { path: self.path.clone(), key: String::from_utf8_lossy(key).into_owned() }
    }
}

impl Backend for Embedded {
    fn load(&mut self, visit: &mut dyn FnMut(Key, Entry)) -> Result<u64, Error> {
        let mut last = 0;
        for guard in self.keyspace.iter() {
            let (key, value) = guard
                .into_inner()
                .map_err(|source| Error::Open { path: self.path.clone(), source: Arc::new(source) })?;
            if &*key == REVISION_KEY.as_bytes() {
                let bytes = value.first_chunk::<8>().ok_or_else(|| self.damaged(&key))?;
                last = last.max(u64::from_le_bytes(*bytes));
                continue;
            }
            let text = std::str::from_utf8(&key).map_err(|_| self.damaged(&key))?;
            let decoded = Key::decode(text).zip(Entry::decode(&value)).ok_or_else(|| self.damaged(&key))?;
            last = last.max(decoded.1.revision());
            visit(decoded.0, decoded.1);
        }
        Ok(last)
    }

    fn commit(&mut self, revision: u64, changes: &[Change]) -> Result<(), Error> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for change in changes {
            match &change.entry {
                Some(entry) => batch.insert(&self.keyspace, change.key.encode(), entry.encode()),
                None => batch.remove(&self.keyspace, change.key.encode()),
            }
        }
        batch.insert(&self.keyspace, REVISION_KEY, revision.to_le_bytes());
        batch.commit().map_err(|source| Error::Commit { path: self.path.clone(), source: Arc::new(source) })
    }
}
