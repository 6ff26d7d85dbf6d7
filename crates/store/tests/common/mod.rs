//! What the tests of the store share: keys and values, a model of it, and a checker of recorded histories.
#![allow(unreachable_pub, reason = "each test is a crate of its own")]
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

pub mod history;
pub mod model;

use std::path::Path;

use dray_store::{Draft, Entry, Key};

pub const PODS: &str = "core/pods";

pub fn key(name: &str) -> Key {
    Key::new(PODS, name)
}

pub fn draft(text: &str) -> Draft {
    let head = "{\"metadata\":{\"resourceVersion\":\"";
    Draft::new(format!("{head}\"}},\"x\":\"{text}\"}}").into_bytes(), head.len()).unwrap()
}

/// The text of a draft in what became of it, once it is sure that its revision stands in it.
pub fn text(entry: &Entry) -> String {
    let json = std::str::from_utf8(entry.json()).unwrap();
    let head = format!("{{\"metadata\":{{\"resourceVersion\":\"{}\"}},\"x\":\"", entry.revision());
    json.strip_prefix(&head).and_then(|rest| rest.strip_suffix("\"}")).unwrap().to_owned()
}

/// A directory in memory, where syncs cost nothing, unless the host has none.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}
