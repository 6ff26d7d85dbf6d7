//! Messages: on standard error, and in the file that an engine reads them from.

use std::io::Write as _;

use crate::arguments::{Global, LogFormat};

/// Tells an error.
pub(crate) fn error(global: &Global, message: &str) {
    write(global, "error", message);
}

/// Tells of something that did not end the operation.
pub(crate) fn warning(global: &Global, message: &str) {
    write(global, "warning", message);
}

#[allow(clippy::print_stderr, reason = "a command line speaks to whoever called it")]
fn write(global: &Global, level: &str, message: &str) {
    eprintln!("dray runtime: {message}");
    let Some(path) = &global.log else { return };
    let time = dray_runtime::rfc3339(std::time::SystemTime::now());
    let line = match global.log_format {
        LogFormat::Json => {
            let mut line = serde_json::json!({ "level": level, "msg": message, "time": time }).to_string();
            line.push('\n');
            line
        }
        LogFormat::Text => format!("time=\"{time}\" level={level} msg={message:?}\n"),
    };
    // An engine that cannot be told here has heard it on standard error.
    if let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path) {
        let _ = file.write_all(line.as_bytes());
    }
}
