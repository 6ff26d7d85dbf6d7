//! ps: the processes of a container's control group.

use dray_runtime::ProcessEntry;

use crate::arguments::{Format, PsOptions};
use crate::error::{Context as _, Result};
use crate::inspect::{print, table};
use crate::state::Store;

pub(crate) fn ps(store: &Store, options: &PsOptions) -> Result<u8> {
    let container = store.open(&options.id)?;
    let mut pids = match container.cgroup()? {
        Some(cgroup) => cgroup.pids().to("list the processes")?,
        None => container.process().iter().map(|process| process.pid).collect(),
    };
    pids.sort_unstable();
    pids.dedup();
    if options.format == Format::Json {
        print(&serde_json::json!(pids).to_string())?;
        return Ok(0);
    }
    let mut rows = vec![["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"].map(String::from)];
    // One that has ended meanwhile has no row.
    rows.extend(pids.into_iter().filter_map(ProcessEntry::of).map(|process| row(&process)));
    print(&table(&rows))?;
    Ok(0)
}

/// A row as of `ps -ef`.
fn row(process: &ProcessEntry) -> [String; 8] {
    let used = process.cpu_time.as_secs();
    [
        process.uid.to_string(),
        process.pid.to_string(),
        process.parent.to_string(),
        process.processor_share().to_string(),
        // Hours and minutes of 2026-01-02T03:04:05Z.
        dray_runtime::rfc3339(process.started).get(11..16).unwrap_or_default().to_owned(),
        process.terminal_name(),
        format!("{:02}:{:02}:{:02}", used / 3600, used / 60 % 60, used % 60),
        process.command.chars().filter(|c| !c.is_control()).collect(),
    ]
}
