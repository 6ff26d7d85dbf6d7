//! Leases: layers that stay whatever becomes of their image, kept on disk by who needs them.

use std::fs;
use std::path::PathBuf;

use crate::error::IoContext;
use crate::store::{ImageStore, write_atomically};
use crate::{Digest, Result};

impl ImageStore {
    /// Keeps the layers up to `chain_id` for `owner` (letters, digits, '-', '_' and '.'), whatever becomes of the image.
    ///
    /// # Errors
    /// When the lease cannot be written.
    pub fn lease(&self, owner: &str, chain_id: &Digest) -> Result<()> {
        let _one = self.leasing.lock();
        let path = self.lease_path(owner);
        write_atomically(&path, chain_id.as_str().as_bytes())?;
        self.state.write().leases.insert(owner.to_owned(), chain_id.clone());
        Ok(())
    }

    /// Ends a lease; what only it kept goes with the next sweep.
    ///
    /// # Errors
    /// When its file cannot be removed.
    pub fn release(&self, owner: &str) -> Result<()> {
        let _one = self.leasing.lock();
        if self.state.write().leases.remove(owner).is_some() {
            let path = self.lease_path(owner);
            match fs::remove_file(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                result => result.io("remove", &path)?,
            }
        }
        Ok(())
    }

    /// The owners of all leases.
    #[must_use]
    pub fn lease_owners(&self) -> Vec<String> {
        self.state.read().leases.keys().cloned().collect()
    }

    fn lease_path(&self, owner: &str) -> PathBuf {
        let safe: String = owner
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
            .collect();
        self.root().join("leases").join(safe)
    }
}
