//! state and list.

use serde_json::{Value, json};

use crate::arguments::{Format, ListOptions};
use crate::error::{Result, Trying as _};
use crate::state::{Container, Status, Store};

/// A container as `state` and `list` print it.
fn describe(container: &Container) -> Value {
    let record = &container.record;
    let status = container.status();
    let pid = match status {
        Status::Stopped => 0,
        _ => container.process().map_or(0, |process| process.pid),
    };
    let mut value = json!({
        "ociVersion": record.oci_version,
        "id": record.id,
        "pid": pid,
        "status": status.name(),
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "owner": owner(record.owner),
    });
    if let Some(annotations) = &record.annotations {
        value["annotations"] = json!(annotations);
    }
    value
}

fn owner(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

/// Prints what an engine or a person reads.
pub(crate) fn print(text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut output = std::io::stdout().lock();
    match writeln!(output, "{text}").and_then(|()| output.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.trying("print"),
    }
}

/// JSON with indentation.
pub(crate) fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

pub(crate) fn state(store: &Store, id: &str) -> Result<u8> {
    print(&pretty(&describe(&store.open(id)?)))?;
    Ok(0)
}

pub(crate) fn list(store: &Store, options: &ListOptions) -> Result<u8> {
    let all = store.all()?;
    if options.quiet {
        for container in &all {
            print(&container.record.id)?;
        }
        return Ok(0);
    }
    let all: Vec<Value> = all.iter().map(describe).collect();
    if options.format == Format::Json {
        print(&if all.is_empty() { "null".to_owned() } else { Value::from(all).to_string() })?;
        return Ok(0);
    }
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(String::from)];
    rows.extend(all.iter().map(|one| {
        ["id", "pid", "status", "bundle", "created", "owner"].map(|key| match &one[key] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }));
    print(&table(&rows))?;
    Ok(0)
}

/// Columns as wide as their widest cell.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            cells.join("   ").trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}
