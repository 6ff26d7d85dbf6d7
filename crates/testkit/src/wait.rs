//! Waiting for a condition instead of for time to pass.

use std::time::{Duration, Instant};

/// Calls `check` until it gives a value, and returns that value.
///
/// # Panics
/// When `deadline` has passed without one; `what` names the condition in the message.
pub fn eventually<T>(what: &str, deadline: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(start.elapsed() < deadline, "gave up waiting for {what} after {deadline:?}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
