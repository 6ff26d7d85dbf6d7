//! Dockerfiles: whatever the text, an answer, and an error names a line that there is.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = dray_dockerfile::parse(text.as_bytes());
});
