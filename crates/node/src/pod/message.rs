//! What a container said about its end.

use std::io::Read as _;
use std::sync::Arc;

use dray_engine::{ContainerHandle, Engine, LogOptions};

use crate::identity::{MESSAGE_FILE, MESSAGE_POLICY};

/// Longest message in bytes.
const LIMIT: u64 = 4096;
/// Longest message taken from the log, in bytes and lines.
const LOG_LIMIT: usize = 2048;
const LOG_LINES: usize = 80;

/// Reads the container's message, or by its policy the end of its log.
pub(super) async fn read(engine: &Engine, container: &Arc<ContainerHandle>) -> Option<String> {
    let record = container.record();
    let path = record.spec.labels.get(MESSAGE_FILE)?.clone();
    let from_file = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        std::fs::File::open(path).ok()?.take(LIMIT).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|text| !text.is_empty())
    });
    if let Ok(Some(message)) = from_file.await {
        return Some(message);
    }
    let policy = record.spec.labels.get(MESSAGE_POLICY).map(String::as_str);
    if policy != Some("FallbackToLogsOnError") || record.state.exit_code == 0 {
        return None;
    }
    let options = LogOptions { stdout: true, stderr: true, tail: Some(LOG_LINES), ..LogOptions::default() };
    let mut lines = engine.logs(container, options).ok()?;
    let mut text = String::new();
    while let Some(Ok(line)) = lines.recv().await {
        text.push_str(&line.text);
    }
    let mut start = text.len().saturating_sub(LOG_LIMIT);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    Some(text[start..].to_owned()).filter(|text| !text.is_empty())
}
