//! Writing one value to one file of a group, and what both versions share about values.

use std::io;
use std::path::Path;

use oci_spec::runtime::{LinuxRdma, LinuxThrottleDevice};

use crate::{Error, Result};

/// Writes one value; the error names file and value.
pub(super) fn write(directory: &Path, file: &str, value: &str) -> Result<()> {
    match std::fs::write(directory.join(file), value) {
        Ok(()) => Ok(()),
        Err(source) => {
            Err(Error::CgroupLimit { path: directory.into(), file: file.into(), value: value.into(), source })
        }
    }
}

/// As [`write`], but a file that this kernel does not have is skipped.
pub(super) fn write_if_present(directory: &Path, file: &str, value: &str) -> Result<()> {
    match write(directory, file, value) {
        Err(Error::CgroupLimit { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// `MAJOR:MINOR RATE` of version 1.
pub(super) fn throttle(device: &LinuxThrottleDevice) -> String {
    format!("{}:{} {}", device.major(), device.minor(), device.rate())
}

/// `DEVICE hca_handle=N hca_object=N` as both versions write it.
pub(super) fn rdma(name: &str, limit: &LinuxRdma) -> String {
    let number = |value: Option<u32>| value.map_or_else(|| "max".to_owned(), |value| value.to_string());
    let (handles, objects) = (number(limit.hca_handles()), number(limit.hca_objects()));
    format!("{name} hca_handle={handles} hca_object={objects}")
}

/// A page size is part of a file name: only what the kernel itself writes there.
pub(super) fn page_size(size: &str) -> Result<&str> {
    let plain = !size.is_empty() && size.len() < 16 && size.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if plain {
        Ok(size)
    } else {
        Err(Error::Invalid {
            field: "linux.resources.hugepageLimits.pageSize",
            reason: format!("{size:?} is not a page size"),
        })
    }
}
