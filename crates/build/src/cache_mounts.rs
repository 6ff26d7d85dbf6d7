//! Directories that `RUN --mount=type=cache` keeps from build to build, below the data directory.
//!
//! Each has a directory of its own, in which `data` is what is mounted. Nothing that a build wrote there decides on a
//! path of the host.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use crate::Result;
use crate::cache::{CachedStep, Key};
use crate::error::IoContext;

/// How builds that run at once use one cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// All at once.
    #[default]
    Shared,
    /// Each has its own.
    Private,
    /// One after another.
    Locked,
}

pub(crate) struct CacheMounts {
    directory: PathBuf,
    state: Mutex<HashMap<String, Slot>>,
}

#[derive(Default)]
struct Slot {
    users: usize,
    lock: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    id: String,
    made: jiff::Timestamp,
}

/// A cache in use.
pub(crate) struct CacheMount {
    caches: Arc<CacheMounts>,
    name: String,
    path: PathBuf,
    /// Whether it was made now, and is to be given its first content and owner.
    pub(crate) is_new: bool,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl CacheMount {
    /// What is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// It has its first content.
    pub(crate) fn mark_filled(&self) -> Result<()> {
        let path = self.caches.directory.join(&self.name).join("filled");
        fs::write(&path, b"").io("write", &path)
    }
}

impl Drop for CacheMount {
    fn drop(&mut self) {
        let mut state = self.caches.state.lock();
        if let Some(slot) = state.get_mut(&self.name) {
            slot.users -= 1;
            if slot.users == 0 && Arc::strong_count(&slot.lock) == 1 + usize::from(self._turn.is_some()) {
                state.remove(&self.name);
            }
        }
        let record = self.caches.directory.join(&self.name).join("record.json");
        if let Ok(file) = fs::File::open(record) {
            let _ = file.set_modified(SystemTime::now());
        }
    }
}

impl CacheMounts {
    pub(crate) fn open(directory: PathBuf) -> Self {
        Self { directory, state: Mutex::default() }
    }

    /// The cache `id` with the first content that `from` names; for a locked one this waits for its turn.
    pub(crate) async fn take(self: &Arc<Self>, id: &str, from: &str, sharing: Sharing) -> Result<CacheMount> {
        let base = Key::new("cache-mount").with(id).with(from).finish();
        let (name, lock) = {
            let mut state = self.state.lock();
            let name = match sharing {
                Sharing::Private => {
                    // The first that nobody uses.
                    let names = (0..).map(|n| if n == 0 { base.clone() } else { format!("{base}-{n}") });
                    let free = |name: &String| state.get(name).is_none_or(|slot| slot.users == 0);
                    names.into_iter().find(free).unwrap_or_else(|| base.clone())
                }
                _ => base,
            };
            let slot = state.entry(name.clone()).or_default();
            slot.users += 1;
            (name, Arc::clone(&slot.lock))
        };
        let mut mount = CacheMount {
            caches: Arc::clone(self),
            path: self.directory.join(&name).join("data"),
            name,
            is_new: false,
            _turn: None,
        };
        if sharing == Sharing::Locked {
            mount._turn = Some(lock.lock_owned().await);
        }
        let place = self.directory.join(&mount.name);
        fs::create_dir_all(&mount.path).io("create", &mount.path)?;
        mount.is_new = !place.join("filled").exists();
        let record = place.join("record.json");
        if !record.exists() {
            let value = Record { id: id.to_owned(), made: jiff::Timestamp::now() };
            let bytes = serde_json::to_vec(&value).map_err(std::io::Error::from).io("encode", &record)?;
            fs::write(&record, bytes).io("write", &record)?;
        }
        Ok(mount)
    }

    /// All that are kept.
    pub(crate) fn steps(&self) -> Vec<CachedStep> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let state = self.state.lock();
        let read = |entry: fs::DirEntry| {
            let key = entry.file_name().into_string().ok()?;
            let path = entry.path().join("record.json");
            let record: Record = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            let used = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok()?;
            Some(CachedStep {
                description: format!("cached mount {}", record.id),
                kind: "exec.cachemount".to_owned(),
                size: size(&entry.path().join("data"), 0),
                made: record.made,
                used: jiff::Timestamp::try_from(used).unwrap_or_default(),
                in_use: state.get(&key).is_some_and(|slot| slot.users > 0),
                key,
            })
        };
        entries.flatten().filter_map(read).collect()
    }

    /// Removes those that are chosen and that no build uses now.
    pub(crate) fn prune(&self, chosen: &dyn Fn(&CachedStep) -> bool) -> Result<(Vec<CachedStep>, u64)> {
        let (mut gone, mut bytes) = (Vec::new(), 0);
        for step in self.steps() {
            if !chosen(&step) {
                continue;
            }
            // Held over the removal, so that no build begins to use it meanwhile.
            let state = self.state.lock();
            if state.get(&step.key).is_some_and(|slot| slot.users > 0) {
                continue;
            }
            let path = self.directory.join(&step.key);
            fs::remove_dir_all(&path).io("remove", &path)?;
            bytes += step.size;
            gone.push(step);
        }
        Ok((gone, bytes))
    }
}

/// Bytes of the regular files below a directory. Nothing is followed.
fn size(path: &Path, depth: usize) -> u64 {
    /// Deeper files do not count.
    const DEEPEST: usize = 200;
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let each = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() && depth < DEEPEST => size(&entry.path(), depth + 1),
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => 0,
    });
    each.sum()
}
