//! Where clients' directories are kept between builds.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use dray_image::Digest;
use parking_lot::Mutex;

use crate::grpc::{Code, Status};

/// Directories that are kept; the ones not used for longest go first.
const MOST: usize = 64;

/// The directories, below one of the daemon's.
pub(crate) struct Keep {
    top: PathBuf,
    used: Arc<Mutex<HashSet<String>>>,
}

/// A directory that a build has for itself until this is dropped.
pub(crate) struct Lease {
    path: PathBuf,
    name: String,
    used: Arc<Mutex<HashSet<String>>>,
}

/// A directory as one may list it.
pub(crate) struct Kept {
    pub(crate) name: String,
    /// Bytes of its files.
    pub(crate) size: u64,
    pub(crate) used: SystemTime,
    pub(crate) in_use: bool,
}

impl Lease {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.used.lock().remove(&self.name);
    }
}

fn failed(action: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Status {
    move |error| Status::new(Code::Internal, format!("cannot {action} {}: {error}", path.display()))
}

impl Keep {
    pub(crate) fn new(top: PathBuf) -> Self {
        Self { top, used: Arc::default() }
    }

    /// A directory for what `key` names: what an earlier build had for it, unless another build has that now.
    pub(crate) fn lease(&self, key: &str) -> Result<Arc<Lease>, Status> {
        let hash = Digest::of(key.as_bytes()).hex()[..32].to_owned();
        let name = {
            let mut used = self.used.lock();
            let free =
                (0..=used.len()).map(|number| format!("{hash}-{number}")).find(|name| !used.contains(name));
            let name = free.unwrap_or(hash);
            used.insert(name.clone());
            name
        };
        let lease = Arc::new(Lease { path: self.top.join(&name), name, used: Arc::clone(&self.used) });
        fs::create_dir_all(&self.top).map_err(failed("make", &self.top))?;
        fs::set_permissions(&self.top, fs::Permissions::from_mode(0o700))
            .map_err(failed("change", &self.top))?;
        if !lease.path.exists() {
            self.shrink();
            fs::create_dir(&lease.path).map_err(failed("make", &lease.path))?;
        }
        // When it was last used.
        if let Ok(directory) = fs::File::open(&lease.path) {
            let _ = directory.set_modified(SystemTime::now());
        }
        Ok(lease)
    }

    /// Makes room for one more.
    fn shrink(&self) {
        let mut kept: Vec<(SystemTime, PathBuf, String)> = self
            .names()
            .into_iter()
            .map(|name| {
                let path = self.top.join(&name);
                let used = fs::metadata(&path).and_then(|metadata| metadata.modified());
                (used.unwrap_or(SystemTime::UNIX_EPOCH), path, name)
            })
            .collect();
        kept.sort();
        let many = (kept.len() + 1).saturating_sub(MOST);
        for (_, _, name) in kept.into_iter().take(many) {
            self.remove(&name);
        }
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.top).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Removes a directory that no build has; whether it is gone.
    pub(crate) fn remove(&self, name: &str) -> bool {
        // Held while it goes: nobody can lease half of it.
        let used = self.used.lock();
        if used.contains(name) {
            return false;
        }
        match fs::remove_dir_all(self.top.join(name)) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, name, "cannot remove a client's directory");
                false
            }
        }
    }

    /// All that is kept.
    pub(crate) fn list(&self) -> Vec<Kept> {
        let describe = |name: String| {
            let path = self.top.join(&name);
            let used = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok()?;
            let in_use = self.used.lock().contains(&name);
            Some(Kept { size: size(&path), used, in_use, name })
        };
        self.names().into_iter().filter_map(describe).collect()
    }
}

/// Bytes of the files below a directory.
fn size(top: &Path) -> u64 {
    let mut total = 0;
    let mut left = vec![top.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => left.push(entry.path()),
                Ok(metadata) => total += metadata.len(),
                Err(_) => {}
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_one_builds_alone_and_the_next_ones_afterwards() {
        let top = tempfile::tempdir().unwrap();
        let keep = Keep::new(top.path().join("keep"));
        let one = keep.lease("key").unwrap();
        let other = keep.lease("key").unwrap();
        assert_ne!(one.path(), other.path());
        assert_ne!(keep.lease("another").unwrap().path(), one.path());
        let path = one.path().to_owned();
        fs::write(path.join("file"), "five!").unwrap();
        assert!(!keep.remove(&one.name));
        drop(one);
        assert_eq!(keep.lease("key").unwrap().path(), path);
        let listed = keep.list();
        assert_eq!(listed.len(), 3);
        assert_eq!(listed.iter().map(|kept| kept.size).sum::<u64>(), 5);
        assert!(keep.remove(path.file_name().unwrap().to_str().unwrap()));
        assert_eq!(keep.list().len(), 2);
    }

    #[test]
    fn the_oldest_go_when_there_are_many() {
        let top = tempfile::tempdir().unwrap();
        let keep = Keep::new(top.path().to_owned());
        for number in 0..MOST + 5 {
            keep.lease(&number.to_string()).unwrap();
        }
        assert_eq!(keep.list().len(), MOST);
    }
}
