//! Backups as they are restored: nothing of them is believed before its sums are right, and nothing of it is too large.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = dray_store::backup::check_bytes(bytes);
});
