//! Blobs on disk, named by their digest: written beside, checked, then renamed into place.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::digest::Hashing;
use crate::error::IoContext;
use crate::{Digest, Error, Result};

/// The blobs, and the folder in which unfinished ones are written.
pub(crate) struct Content {
    blobs: PathBuf,
    ingest: PathBuf,
}

/// A blob that is being written; dropped without [`Ingest::commit`] it leaves nothing.
pub(crate) struct Ingest<'a> {
    content: &'a Content,
    path: PathBuf,
    writer: Hashing<File>,
}

impl Content {
    /// Opens the store below `root`; what a crash left half-written is removed.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let blobs = root.join("blobs/sha256");
        let ingest = root.join("ingest");
        if ingest.exists() {
            fs::remove_dir_all(&ingest).io("clear", &ingest)?;
        }
        for path in [&blobs, &ingest] {
            fs::create_dir_all(path).io("create", path)?;
        }
        Ok(Self { blobs, ingest })
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.path(digest);
        File::open(&path).io("open", &path)
    }

    /// A small blob, whole.
    pub(crate) fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.path(digest);
        fs::read(&path).io("read", &path)
    }

    /// A fresh folder for unfinished things; it lives until the next start at the latest.
    pub(crate) fn scratch_path(&self) -> PathBuf {
        self.ingest.join(uuid::Uuid::new_v4().simple().to_string())
    }

    pub(crate) fn begin(&self) -> Result<Ingest<'_>> {
        let path = self.scratch_path();
        let file = File::create_new(&path).io("create", &path)?;
        Ok(Ingest { content: self, path, writer: Hashing::new(file) })
    }

    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if !self.contains(&digest) {
            let mut ingest = self.begin()?;
            ingest.write_all(bytes).io("write", &ingest.path)?;
            ingest.commit(Some(&digest))?;
        }
        Ok(digest)
    }

    /// Takes in everything that `reader` gives.
    pub(crate) fn put_from(
        &self,
        reader: &mut impl Read,
        expected: Option<&Digest>,
    ) -> Result<(Digest, u64)> {
        let mut ingest = self.begin()?;
        io::copy(reader, &mut ingest).io("write", &ingest.path)?;
        ingest.commit(expected)
    }

    /// All blobs and their sizes.
    pub(crate) fn list(&self) -> Result<Vec<(Digest, u64)>> {
        let mut blobs = Vec::new();
        for entry in fs::read_dir(&self.blobs).io("list", &self.blobs)? {
            let entry = entry.io("list", &self.blobs)?;
            if let Some(digest) = entry.file_name().to_str().and_then(|name| Digest::from_hex(name).ok()) {
                blobs.push((digest, entry.metadata().map(|m| m.len()).unwrap_or(0)));
            }
        }
        Ok(blobs)
    }

    pub(crate) fn remove(&self, digest: &Digest) -> Result<()> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.io("remove", &path),
        }
    }
}

impl Ingest<'_> {
    /// Checks the digest and puts the blob in its place.
    pub(crate) fn commit(mut self, expected: Option<&Digest>) -> Result<(Digest, u64)> {
        let path = self.path.clone();
        self.writer.flush().io("write", &path)?;
        let placeholder = Hashing::new(File::open("/dev/null").io("open", "/dev/null")?);
        let (_file, actual, size) = std::mem::replace(&mut self.writer, placeholder).finish();
        if let Some(expected) = expected
            && *expected != actual
        {
            return Err(Error::DigestMismatch {
                what: "blob".to_owned(),
                expected: expected.clone(),
                actual,
            });
        }
        let target = self.content.path(&actual);
        fs::rename(&path, &target).io("rename", &path)?;
        Ok((actual, size))
    }
}

impl Write for Ingest<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.writer.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for Ingest<'_> {
    fn drop(&mut self) {
        // After a commit the file has moved and there is nothing to remove.
        let _ = fs::remove_file(&self.path);
    }
}
