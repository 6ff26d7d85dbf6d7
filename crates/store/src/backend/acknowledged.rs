//! How far writes were acknowledged, in a small file beside the storage engine's.
//!
//! The engine cannot tell the end of a journal that a crash tore from one that was cut off later; who was told that a write is
//! durable can. The file is written after every commit and synced now and then: it may be behind after a loss of power, and
//! is exact after the death of the process.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8; 8] = b"DRAYACK1";
const BYTES: usize = 24;
const NAME: &str = "acknowledged";

/// The file.
pub(super) struct Acknowledged {
    path: PathBuf,
    file: File,
}

impl Acknowledged {
    /// Opens or makes the file in the store's directory.
    pub(super) fn open(directory: &Path) -> io::Result<Acknowledged> {
        let path = directory.join(NAME);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        Ok(Acknowledged { path, file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The revision in the file, 0 in a new one; none when the file is damaged.
    pub(super) fn read(&self) -> io::Result<Option<u64>> {
        read_file(&self.file)
    }

    /// Writes that everything up to a revision is acknowledged.
    pub(super) fn write(&self, revision: u64) -> io::Result<()> {
        let mut content = [0; BYTES];
        content[..8].copy_from_slice(MAGIC);
        content[8..16].copy_from_slice(&revision.to_le_bytes());
        let sum = xxh3_64(&content[..16]);
        content[16..].copy_from_slice(&sum.to_le_bytes());
        self.file.write_all_at(&content, 0)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// Reads the file of a store that another process may have open; 0 when there is none.
pub(super) fn read(directory: &Path) -> io::Result<Option<u64>> {
    match File::open(directory.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(0)),
        file => read_file(&file?),
    }
}

fn read_file(file: &File) -> io::Result<Option<u64>> {
    let mut content = Vec::with_capacity(BYTES);
    file.take(BYTES as u64 + 1).read_to_end(&mut content)?;
    // So a loss of power leaves a file that was made just before.
    if content.iter().all(|byte| *byte == 0) {
        return Ok(Some(0));
    }
    let Ok(content) = <[u8; BYTES]>::try_from(content) else { return Ok(None) };
    let [magic, revision, sum] = content.as_chunks::<8>().0 else { return Ok(None) };
    let right = magic == MAGIC && u64::from_le_bytes(*sum) == xxh3_64(&content[..16]);
    Ok(right.then(|| u64::from_le_bytes(*revision)))
}
