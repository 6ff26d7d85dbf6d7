//! How the store is opened. What is stored, and how it is read, does not depend on it.

use std::path::Path;

use dray_store::{Error, Limits, Store};

/// The store, where it is not as it is by default.
#[derive(Debug, Clone, Default)]
pub struct StoreConfig {
    /// The bytes of all keys and values together that are not exceeded; none means 2 GiB.
    pub quota_bytes: Option<u64>,
}

impl StoreConfig {
    /// Opens or makes the store in a directory.
    pub(crate) fn open(&self, directory: &Path) -> Result<Store, Error> {
        let mut limits = Limits::default();
        limits.bytes = self.quota_bytes.unwrap_or(limits.bytes);
        Store::open(directory, limits)
    }
}
