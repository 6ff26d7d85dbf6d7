//! Directories of containers that are gone, deleted behind the back of those who removed them: the kernel takes about a
//! tenth of a millisecond for every file, and a container's directory has many before it wrote its first.
//!
//! A directory here has no record in it any more, so the next start deletes what a crash left.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::failpoint::failpoint;

/// What waits to be deleted, one after the other, so that a crowd of removals leaves room for other work.
#[derive(Default)]
pub(crate) struct Discarded(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    directories: Vec<PathBuf>,
    /// Someone is deleting and will not end before nothing waits.
    has_worker: bool,
}

impl Discarded {
    /// Hands a directory over; `worker` is called when nobody deletes yet, and has to call [`Self::delete_all`].
    pub(crate) fn add(&self, directory: PathBuf, worker: impl FnOnce()) {
        let mut waiting = self.0.lock();
        waiting.directories.push(directory);
        if !std::mem::replace(&mut waiting.has_worker, true) {
            drop(waiting);
            worker();
        }
    }

    /// Deletes all that waits, and what is added meanwhile.
    pub(crate) fn delete_all(&self) {
        loop {
            let directory = {
                let mut waiting = self.0.lock();
                let next = waiting.directories.pop();
                waiting.has_worker = next.is_some();
                next
            };
            let Some(directory) = directory else { return };
            delete(&directory);
        }
    }
}

fn delete(directory: &Path) {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(directory = %directory.display(), %error, "cannot delete what a container left");
        }
        _ => failpoint("remove.directory-gone"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_was_handed_over_is_deleted_by_one_worker() {
        let root = tempfile::tempdir().unwrap();
        let discarded = Discarded::default();
        let mut workers = 0;
        for name in ["a", "b", "missing"] {
            let directory = root.path().join(name);
            if name != "missing" {
                fs::create_dir_all(directory.join("upper/etc")).unwrap();
            }
            discarded.add(directory, || workers += 1);
        }
        assert_eq!(workers, 1);
        discarded.delete_all();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        discarded.add(root.path().join("missing"), || workers += 1);
        assert_eq!(workers, 2, "the first has ended");
    }
}
