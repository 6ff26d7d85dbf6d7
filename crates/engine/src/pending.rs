//! Anonymous volumes that go with a container's directory when a crash cuts a creation or a removal off.
//!
//! They are written down in the directory before anything happens to them. A directory without the container's record
//! is what a crash left, and takes them with it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::IoContext;
use crate::record::{self, ContainerRecord};
use crate::{Engine, Result};

fn path(directory: &Path) -> PathBuf {
    directory.join("pending.json")
}

/// Notes the anonymous volumes of `record`, if there are any.
pub(crate) fn write(directory: &Path, record: &ContainerRecord) -> Result<()> {
    let names: Vec<&str> =
        record.volumes.iter().filter(|used| used.anonymous).map(|used| used.name.as_str()).collect();
    if names.is_empty() { Ok(()) } else { record::write(&path(directory), &names) }
}

/// The note is no longer true.
pub(crate) fn clear(directory: &Path) -> Result<()> {
    let path = path(directory);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).io("remove", &path),
        _ => Ok(()),
    }
}

impl Engine {
    /// Removes the directory of a container whose creation or removal a crash cut off, and what goes with it. Volumes
    /// that a container uses stay.
    pub(crate) fn clear_unfinished(&self, directory: &Path) -> Result<()> {
        let names: Vec<String> = record::read(&path(directory)).unwrap_or_default();
        for name in names {
            let is_used = self.containers().iter().any(|c| c.volumes.iter().any(|used| used.name == name));
            if !is_used && self.inner.volumes.get(&name).is_ok() {
                self.inner.volumes.remove(&name)?;
            }
        }
        fs::remove_dir_all(directory).io("remove", directory)
    }
}
