//! Signals as callers name them.

use crate::{Error, Result};

/// The number of a signal given by number or by name, with or without `SIG`, in any case, `RTMIN+n` included.
///
/// # Errors
/// [`Error::Invalid`] when there is no such signal.
pub fn parse_signal(text: &str) -> Result<i32> {
    dray_runtime::parse_signal(text).ok_or_else(|| Error::invalid(format!("invalid signal: {text}")))
}
