//! What earlier builds made: a step's result by all that it depended on.
//!
//! A key covers content and not origin: a step that writes files is found again on any stage that has the same files
//! below and the same words that count for it. So what comes before may be made anew without a loss, if it comes out
//! the same.
//!
//! An entry keeps its layers by a lease of the image store, so that a removal of images does not take them away.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use dray_image::{Digest, History, ImageStore, Layer};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::IoContext;

/// Entries that are kept; the ones not used for longest go first.
const MOST: usize = 2000;
/// How many more there may be before the oldest are looked for.
const SLACK: usize = 200;
const LEASE: &str = "build-cache-";

/// The result of a step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// How it is told in the image's history; a step that is found again has the time of its making.
    pub(crate) history: History,
    /// What it wrote, over the layers it stood on; none when that was nothing.
    pub(crate) layer: Option<Layer>,
    /// What kind of step it is, in BuildKit's words.
    #[serde(default)]
    pub(crate) kind: String,
    /// When it was made.
    #[serde(default)]
    pub(crate) made: jiff::Timestamp,
}

pub(crate) struct Cache {
    directory: PathBuf,
    images: Arc<ImageStore>,
    /// How often each key is in use by a build that runs; those stay.
    pinned: Mutex<HashMap<String, usize>>,
    count: Mutex<usize>,
    /// Steps that are being made, so that what two builds or stages want at once is made once.
    flights: Mutex<HashMap<String, std::sync::Weak<tokio::sync::Mutex<()>>>>,
}

/// A result that is kept, as one may list it.
#[derive(Clone, Debug)]
pub struct CachedStep {
    /// Its key.
    pub key: String,
    /// What the step did.
    pub description: String,
    /// What kind it is in BuildKit's words: `regular`, `exec.cachemount`, …
    pub kind: String,
    /// Bytes of the files in the layer that the step made.
    pub size: u64,
    /// When it was made.
    pub made: jiff::Timestamp,
    /// When it was last used.
    pub used: jiff::Timestamp,
    /// Whether a build that runs now uses it.
    pub in_use: bool,
}

/// Keys that a build uses, until it ends.
pub(crate) struct Pins {
    cache: Arc<Cache>,
    keys: Mutex<Vec<String>>,
}

impl Pins {
    pub(crate) fn new(cache: &Arc<Cache>) -> Self {
        Self { cache: Arc::clone(cache), keys: Mutex::new(Vec::new()) }
    }

    pub(crate) fn add(&self, key: &str) {
        *self.cache.pinned.lock().entry(key.to_owned()).or_default() += 1;
        self.keys.lock().push(key.to_owned());
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut pinned = self.cache.pinned.lock();
        for key in self.keys.lock().drain(..) {
            if let Some(count) = pinned.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    pinned.remove(&key);
                }
            }
        }
    }
}

/// Gathers all that a step depends on. Every part has its length before it, so that no two sequences are alike.
pub(crate) struct Key(Vec<u8>);

impl Key {
    /// The key of a kind of step, whose rules are of a version.
    pub(crate) fn new(kind: &str) -> Self {
        Self(Vec::new()).with(kind)
    }

    pub(crate) fn with(mut self, part: impl AsRef<[u8]>) -> Self {
        let part = part.as_ref();
        self.0.extend_from_slice(&(part.len() as u64).to_le_bytes());
        self.0.extend_from_slice(part);
        self
    }

    /// A list, which is different from its parts.
    pub(crate) fn with_all<T: AsRef<[u8]>>(mut self, parts: impl IntoIterator<Item = T>) -> Self {
        let mut list = Self(Vec::new());
        for part in parts {
            list = list.with(part);
        }
        self = self.with(&list.0);
        self
    }

    pub(crate) fn finish(self) -> String {
        Digest::of(&self.0).hex().to_owned()
    }
}

/// Who leases the layers of an entry.
pub(crate) fn owner(key: &str) -> String {
    format!("{LEASE}{key}")
}

impl Cache {
    /// Opens the cache. Leases without an entry, which a crash leaves, end.
    pub(crate) fn open(directory: PathBuf, images: Arc<ImageStore>) -> Self {
        let cache = Self {
            directory,
            images,
            pinned: Mutex::new(HashMap::new()),
            count: Mutex::new(0),
            flights: Mutex::default(),
        };
        if let Err(error) = cache.tidy() {
            // Without its cache a build only takes longer.
            tracing::warn!(error = %error.chain(), "cannot tidy the build cache");
        }
        cache
    }

    fn tidy(&self) -> Result<()> {
        fs::create_dir_all(&self.directory).io("create", &self.directory)?;
        for lease in self.images.lease_owners() {
            if let Some(key) = lease.strip_prefix(LEASE)
                && !self.path(key).exists()
            {
                self.images.release(&lease)?;
            }
        }
        let mut count = 0;
        for (name, _) in self.list()? {
            if name.contains('.') {
                // Half-written.
                fs::remove_file(self.path(&name)).io("remove", self.path(&name))?;
            } else {
                count += 1;
            }
        }
        *self.count.lock() = count;
        Ok(())
    }

    fn path(&self, key: &str) -> PathBuf {
        self.directory.join(key)
    }

    fn list(&self) -> Result<Vec<(String, SystemTime)>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.directory).io("list", &self.directory)? {
            let entry = entry.io("list", &self.directory)?;
            if let Ok(name) = entry.file_name().into_string() {
                let used = entry.metadata().and_then(|metadata| metadata.modified());
                entries.push((name, used.unwrap_or(SystemTime::UNIX_EPOCH)));
            }
        }
        Ok(entries)
    }

    /// All that is kept.
    pub(crate) fn steps(&self) -> Vec<CachedStep> {
        let pinned = self.pinned.lock();
        let read = |(key, used): (String, SystemTime)| {
            let entry: Entry = serde_json::from_slice(&fs::read(self.path(&key)).ok()?).ok()?;
            Some(CachedStep {
                description: entry.history.created_by.clone().unwrap_or_default(),
                size: entry.layer.as_ref().map_or(0, |layer| layer.size),
                kind: entry.kind,
                made: entry.made,
                used: jiff::Timestamp::try_from(used).unwrap_or_default(),
                in_use: pinned.contains_key(&key),
                key,
            })
        };
        self.list().unwrap_or_default().into_iter().filter_map(read).collect()
    }

    /// The result of a step that was made before and still is there. Anything wrong with it only costs the time to
    /// make it again.
    pub(crate) fn find(&self, key: &str, parent: Option<&Digest>) -> Option<Entry> {
        let bytes = fs::read(self.path(key)).ok()?;
        let mut entry: Entry = serde_json::from_slice(&bytes).ok()?;
        // The layers below are those of the stage; where a step could do without them, they are told by the layer.
        if let Some(layer) = &entry.layer
            && layer.parent.as_ref() != parent
        {
            return None;
        }
        if let Some(layer) = &mut entry.layer {
            // The store knows more of it than was known when it was made.
            *layer = self.images.layer(&layer.chain_id).ok()??;
        }
        if let Ok(file) = fs::File::open(self.path(key)) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(entry)
    }

    /// Held by who makes the step of this key.
    pub(crate) fn flight(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.flights.lock();
        flights.retain(|_, flight| flight.strong_count() > 0);
        if let Some(present) = flights.get(key).and_then(std::sync::Weak::upgrade) {
            return present;
        }
        let fresh = Arc::new(tokio::sync::Mutex::new(()));
        flights.insert(key.to_owned(), Arc::downgrade(&fresh));
        fresh
    }

    /// Keeps the result of a step.
    pub(crate) fn put(&self, key: &str, entry: &Entry) -> Result<()> {
        let path = self.path(key);
        let fresh = !path.exists();
        let staged = path.with_extension(format!("{:?}", std::thread::current().id()));
        let bytes = serde_json::to_vec(entry).map_err(std::io::Error::from).io("encode", &path)?;
        fs::write(&staged, bytes).io("write", &staged)?;
        fs::rename(&staged, &path).io("rename", &staged)?;
        if fresh {
            let mut count = self.count.lock();
            *count += 1;
            if *count > MOST + SLACK {
                *count = self.shrink(MOST)?.1;
            }
        }
        Ok(())
    }

    /// Forgets those entries that are `chosen` and that no build uses now; answers which went and the bytes that freed.
    pub(crate) fn prune(&self, chosen: &dyn Fn(&CachedStep) -> bool) -> Result<(Vec<CachedStep>, u64)> {
        let mut gone = Vec::new();
        for step in self.steps() {
            if chosen(&step) && self.forget(&step.key)? {
                gone.push(step);
            }
        }
        let mut count = self.count.lock();
        *count = count.saturating_sub(gone.len());
        drop(count);
        Ok((gone, self.images.sweep()?))
    }

    /// Forgets one entry, unless a build uses it now.
    fn forget(&self, key: &str) -> Result<bool> {
        // Held over the removal, so that no build begins to use it meanwhile.
        let pinned = self.pinned.lock();
        if pinned.contains_key(key) {
            return Ok(false);
        }
        let path: &Path = &self.path(key);
        fs::remove_file(path).io("remove", path)?;
        self.images.release(&owner(key))?;
        Ok(true)
    }

    /// Forgets the oldest entries until at most `most` are left; answers how many went and how many are left.
    fn shrink(&self, most: usize) -> Result<(usize, usize)> {
        let mut entries = self.list()?;
        entries.sort_by_key(|(_, used)| *used);
        let (surplus, mut gone) = (entries.len().saturating_sub(most), 0);
        for (key, _) in &entries[..surplus] {
            gone += usize::from(self.forget(key)?);
        }
        Ok((gone, entries.len() - gone))
    }
}
