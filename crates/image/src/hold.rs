//! What must stay although nothing on disk names it yet: the content of transfers that are under way.
//!
//! A hold lives in memory only. After a crash nobody waits for what it kept, and the next sweep takes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::store::ImageStore;
use crate::{Digest, Error};

/// The digests that are held, and how often.
#[derive(Default)]
pub(crate) struct Holds(Mutex<BTreeMap<Digest, usize>>);

impl Holds {
    pub(crate) fn all(&self) -> BTreeSet<Digest> {
        self.0.lock().keys().cloned().collect()
    }
}

/// Keeps blobs and layers from the sweep until it is dropped.
pub struct Hold {
    holds: Arc<Holds>,
    mine: BTreeSet<Digest>,
}

impl Hold {
    pub(crate) fn add(&mut self, digests: impl IntoIterator<Item = Digest>) {
        let mut holds = self.holds.0.lock();
        for digest in digests {
            if self.mine.insert(digest.clone()) {
                *holds.entry(digest).or_default() += 1;
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.holds.0.lock();
        for digest in &self.mine {
            if let Some(count) = holds.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    holds.remove(digest);
                }
            }
        }
    }
}

impl ImageStore {
    /// Keeps these blobs and layers (by chain id) from the sweep, also those that come only later. What is there when this
    /// returns stays.
    #[must_use]
    pub fn hold(&self, digests: impl IntoIterator<Item = Digest>) -> Hold {
        let mut hold = Hold { holds: Arc::clone(&self.holds), mine: BTreeSet::new() };
        self.hold_more(&mut hold, digests);
        hold
    }

    /// Adds to what a hold keeps.
    pub fn hold_more(&self, hold: &mut Hold, digests: impl IntoIterator<Item = Digest>) {
        // A sweep that has counted already is let end first.
        let _adding = self.adding.read();
        hold.add(digests);
    }

    /// Whether the blob is there.
    #[must_use]
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.content.contains(digest)
    }

    /// Opens a blob and answers its size in bytes.
    ///
    /// # Errors
    /// When it is not there.
    pub fn open_blob(&self, digest: &Digest) -> Result<(std::fs::File, u64), Error> {
        let file = self.content.open_blob(digest)?;
        Ok((file, self.content.size(digest)?))
    }

    /// Stores a small document, which the caller must hold.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, Error> {
        self.content.put(bytes)
    }
}
