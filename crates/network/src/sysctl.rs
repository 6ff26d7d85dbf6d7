//! The few kernel settings the network needs, in the namespace of the calling thread.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Writes `value` to a setting below `/proc/sys/net`, given as its path there (`ipv4/ip_forward`), unless it
/// has that value already: /proc/sys may be read-only where nothing has to change.
pub fn set(setting: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys/net").join(setting);
    if fs::read_to_string(&path).is_ok_and(|present| present.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| Error::Sysctl { path, source })
}

/// As [`set`], but a setting that the kernel lacks is no error.
pub fn set_if_present(setting: &str, value: &str) -> Result<()> {
    match set(setting, value) {
        Err(Error::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Reads a setting below `/proc/sys/net`; none if the kernel lacks it.
pub fn get(setting: &str) -> Option<String> {
    let path: PathBuf = Path::new("/proc/sys/net").join(setting);
    fs::read_to_string(path).ok().map(|value| value.trim().to_owned())
}
