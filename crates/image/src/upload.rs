//! A blob that comes in pieces, over several requests.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::error::IoContext;
use crate::store::ImageStore;
use crate::{BlobDigest, Digest, Error, Hold, Result};

/// A blob on its way in. Dropped without [`Upload::finish`] it leaves nothing.
pub struct Upload {
    store: Arc<ImageStore>,
    path: PathBuf,
    file: File,
    hasher: Sha256,
    size: u64,
}

impl ImageStore {
    /// Begins a blob that comes in pieces.
    ///
    /// # Errors
    /// When its file cannot be made.
    pub fn begin_upload(self: &Arc<Self>) -> Result<Upload> {
        let path = self.content.scratch_path();
        let file = File::create_new(&path).io("create", &path)?;
        Ok(Upload { store: Arc::clone(self), path, file, hasher: Sha256::new(), size: 0 })
    }
}

impl Upload {
    /// Bytes that came so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).io("write", &self.path)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Puts the blob in its place, held against the sweep, and answers under which digest it is there. One that is there
    /// already is left as it is.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`] when it is not what `expected` says.
    pub fn finish(self, expected: &BlobDigest) -> Result<(Digest, Hold)> {
        let actual = Digest::of_hasher(self.hasher.clone());
        let fits = match expected {
            BlobDigest::Sha256(digest) => *digest == actual,
            BlobDigest::Sha512(hex) => {
                let file = File::open(&self.path).io("open", &self.path)?;
                crate::digest::sha512_hex(file).io("read", &self.path)? == *hex
            }
        };
        if !fits {
            let what = format!("blob {expected}");
            let expected = match expected {
                BlobDigest::Sha256(digest) => digest.clone(),
                BlobDigest::Sha512(_) => actual.clone(),
            };
            return Err(Error::DigestMismatch { what, expected, actual });
        }
        let hold = self.store.hold([actual.clone()]);
        if !self.store.has_blob(&actual) {
            self.store.content.adopt(&self.path, &actual)?;
        }
        Ok((actual, hold))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // After it has found its place there is nothing here.
        let _ = fs::remove_file(&self.path);
    }
}
