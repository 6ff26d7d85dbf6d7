//! ps: the processes of a container's control group.

use std::time::Duration;

use crate::arguments::{Format, PsOptions};
use crate::error::{Context as _, Result};
use crate::inspect::{print, table};
use crate::state::Store;

/// Clock ticks a second of every architecture that Linux runs containers on (USER_HZ).
const TICKS: u64 = 100;

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
    rows.extend(pids.into_iter().filter_map(row));
    print(&table(&rows))?;
    Ok(0)
}

/// A row as of `ps -ef`; None when the process has ended.
fn row(pid: i32) -> Option<[String; 8]> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next())?;
    let used = (number(11)? + number(12)?) / TICKS;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime = uptime.split('.').next()?.parse::<u64>().ok()?;
    let age = uptime.saturating_sub(number(19)? / TICKS);
    let started = std::time::SystemTime::now() - Duration::from_secs(age);
    // Hours and minutes of 2026-01-02T03:04:05Z.
    let started = dray_runtime::rfc3339(started).get(11..16).unwrap_or_default().to_owned();
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command: Vec<String> = command
        .split(|&byte| byte == 0)
        .filter(|part| !part.is_empty())
        .map(|part| String::from_utf8_lossy(part).chars().filter(|c| !c.is_control()).collect())
        .collect();
    let command = if command.is_empty() { format!("[{name}]") } else { command.join(" ") };
    Some([
        uid.to_owned(),
        pid.to_string(),
        fields.get(1)?.to_string(),
        (used * 100 / age.max(1)).min(99).to_string(),
        started,
        terminal(number(4)?),
        format!("{:02}:{:02}:{:02}", used / 3600, used / 60 % 60, used % 60),
        command,
    ])
}

/// Name of a terminal by its device number (proc(5), tty_nr).
fn terminal(device: u64) -> String {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    match major {
        0 => "?".into(),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 => format!("tty{minor}"),
        _ => "?".into(),
    }
}
