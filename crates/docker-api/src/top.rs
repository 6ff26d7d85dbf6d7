//! `GET /containers/{id}/top`: the processes in the columns that options of ps(1) ask for. No `ps` is run.

use std::collections::HashMap;

use dray_engine::ProcessEntry;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::json;

use crate::Api;
use crate::body::{self, Body};
use crate::error::{ApiError, Result};
use crate::query::Query;

/// A column: what it shows, and its title.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    what: &'static str,
    title: String,
}

/// Every column by its names, the first being ours, and its title.
const COLUMNS: &[(&[&str], &str)] = &[
    (&["pid", "tgid"], "PID"),
    (&["ppid"], "PPID"),
    (&["user", "euser", "uname", "ruser"], "USER"),
    (&["uid", "euid", "ruid"], "UID"),
    (&["gid", "egid", "rgid"], "GID"),
    (&["comm", "ucmd", "ucomm"], "COMMAND"),
    (&["args", "cmd", "command"], "COMMAND"),
    (&["pcpu", "%cpu"], "%CPU"),
    (&["c"], "C"),
    (&["pmem", "%mem"], "%MEM"),
    (&["vsz", "vsize"], "VSZ"),
    (&["rss", "rssize", "rsz"], "RSS"),
    (&["stat", "s", "state"], "STAT"),
    (&["stime", "start", "start_time"], "STIME"),
    (&["lstart"], "STARTED"),
    (&["time", "cputime"], "TIME"),
    (&["etime"], "ELAPSED"),
    (&["tty", "tt", "tname"], "TTY"),
    (&["ni", "nice"], "NI"),
    (&["nlwp", "thcount"], "NLWP"),
    (&["sid", "sess", "session"], "SID"),
    (&["pgid", "pgrp"], "PGID"),
];

/// The columns of `ps -f` and of `ps u`.
const FULL: [(&str, &str); 8] = [
    ("user", "UID"),
    ("pid", "PID"),
    ("ppid", "PPID"),
    ("c", "C"),
    ("stime", "STIME"),
    ("tty", "TTY"),
    ("time", "TIME"),
    ("args", "CMD"),
];
const USER: [(&str, &str); 11] = [
    ("user", "USER"),
    ("pid", "PID"),
    ("pcpu", "%CPU"),
    ("pmem", "%MEM"),
    ("vsz", "VSZ"),
    ("rss", "RSS"),
    ("tty", "TTY"),
    ("stat", "STAT"),
    ("stime", "START"),
    ("time", "TIME"),
    ("args", "COMMAND"),
];
const PLAIN: [(&str, &str); 4] = [("pid", "PID"), ("tty", "TTY"), ("time", "TIME"), ("comm", "CMD")];

fn fixed(columns: &[(&'static str, &str)]) -> Vec<Column> {
    columns.iter().map(|(what, title)| Column { what, title: (*title).to_owned() }).collect()
}

fn column(text: &str) -> Result<Column> {
    let (name, title) = text.split_once('=').map_or((text, None), |(name, title)| (name, Some(title)));
    let wanted = name.to_ascii_lowercase();
    let known = COLUMNS.iter().find(|(names, _)| names.contains(&wanted.as_str()));
    let (names, usual) = known.ok_or_else(|| {
        ApiError::bad_request(format!("ps: error: unknown user-defined format specifier \"{name}\""))
    })?;
    // The last name of several keeps what follows its title's equals sign.
    let title =
        title.filter(|title| !title.is_empty()).unwrap_or(if wanted == "cmd" { "CMD" } else { usual });
    Ok(Column { what: names[0], title: title.to_owned() })
}

/// Which columns options of ps(1) ask for. Which processes they ask for does not matter: it is always the container's.
fn columns(arguments: &str) -> Result<Vec<Column>> {
    let mut words = arguments.split_whitespace();
    let (mut shown, mut format) = (fixed(&PLAIN), Vec::new());
    while let Some(word) = words.next() {
        let long = word.strip_prefix("--");
        if let Some(list) = long.and_then(|long| long.strip_prefix("format")) {
            let list = match list.strip_prefix('=') {
                Some(list) => list,
                None => words.next().unwrap_or_default(),
            };
            format.extend(
                list.split(',').filter(|name| !name.is_empty()).map(column).collect::<Result<Vec<_>>>()?,
            );
            continue;
        }
        if long.is_some() {
            return Err(unknown(word));
        }
        let is_unix = word.starts_with('-');
        let letters = word.trim_start_matches('-');
        for (index, letter) in letters.char_indices() {
            match letter {
                'o' => {
                    let rest = &letters[index + 1..];
                    let list = if rest.is_empty() { words.next().unwrap_or_default() } else { rest };
                    let named = list.split(',').filter(|name| !name.is_empty()).map(column);
                    format.extend(named.collect::<Result<Vec<_>>>()?);
                    break;
                }
                'f' | 'F' if is_unix => shown = fixed(&FULL),
                'f' if letters.contains('e') => shown = fixed(&FULL),
                'u' if !is_unix => shown = fixed(&USER),
                'e' | 'A' | 'a' | 'x' | 'w' | 'd' | 'h' | 'f' => {}
                _ => return Err(unknown(word)),
            }
        }
    }
    if !format.is_empty() {
        shown = format;
    }
    if !shown.iter().any(|column| column.title == "PID") {
        return Err(ApiError::internal("Couldn't find PID field in ps output"));
    }
    Ok(shown)
}

fn unknown(word: &str) -> ApiError {
    ApiError::bad_request(format!("ps: options that are not supported: {word}"))
}

/// The names of the host's users, by number.
fn users() -> HashMap<u32, String> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            Some((fields.nth(1)?.parse().ok()?, name.to_owned()))
        })
        .collect()
}

fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn value(what: &str, process: &ProcessEntry, users: &HashMap<u32, String>) -> String {
    let lived = process.age().as_secs();
    let started = |form: &str| {
        Timestamp::try_from(process.started)
            .map_or_else(|_| "?".to_owned(), |time| time.strftime(form).to_string())
    };
    let tenths = |part: u128, whole: u128| {
        let tenths = part * 1000 / whole.max(1);
        format!("{}.{}", tenths / 10, tenths % 10)
    };
    let cpu = process.cpu_time;
    match what {
        "pid" => process.pid.to_string(),
        "ppid" => process.parent.to_string(),
        "user" => users.get(&process.uid).cloned().unwrap_or_else(|| process.uid.to_string()),
        "uid" => process.uid.to_string(),
        "gid" => process.gid.to_string(),
        "comm" => process.name.clone(),
        "args" => process.command.clone(),
        "pcpu" => tenths(cpu.as_millis(), u128::from(lived) * 1000),
        "c" => process.processor_share().to_string(),
        "pmem" => {
            let memory = rustix::system::sysinfo();
            let all = u128::from(memory.totalram) * u128::from(memory.mem_unit);
            tenths(u128::from(process.resident_size), all)
        }
        "vsz" => (process.virtual_size / 1024).to_string(),
        "rss" => (process.resident_size / 1024).to_string(),
        "stat" => process.state.to_string(),
        "stime" if lived < 86_400 => started("%H:%M"),
        "stime" => started("%b%d"),
        "lstart" => started("%a %b %e %H:%M:%S %Y"),
        "time" => clock(cpu.as_secs()),
        "etime" if lived < 3600 => format!("{:02}:{:02}", lived / 60, lived % 60),
        "etime" if lived < 86_400 => clock(lived),
        "etime" => format!("{}-{}", lived / 86_400, clock(lived % 86_400)),
        "tty" => process.terminal_name(),
        "ni" => process.nice.to_string(),
        "nlwp" => process.threads.to_string(),
        "sid" => process.session.to_string(),
        "pgid" => process.group.to_string(),
        _ => "-".to_owned(),
    }
}

pub(crate) async fn top(api: &Api, id: &str, query: &Query) -> Result<Response<Body>> {
    let columns = columns(query.non_empty("ps_args").unwrap_or("-ef"))?;
    let container = api.engine.container(id)?;
    let processes = api.engine.processes(&container).await?;
    let users = users();
    let rows: Vec<Vec<String>> = processes
        .iter()
        .map(|process| columns.iter().map(|column| value(column.what, process, &users)).collect())
        .collect();
    let titles: Vec<&str> = columns.iter().map(|column| column.title.as_str()).collect();
    body::json(StatusCode::OK, &json!({ "Titles": titles, "Processes": rows }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(arguments: &str) -> String {
        let columns = columns(arguments).unwrap();
        columns.iter().map(|column| column.title.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn options_choose_columns() {
        for full in ["-ef", "ef", "-e -f"] {
            assert_eq!(titles(full), "UID PID PPID C STIME TTY TIME CMD", "{full}");
        }
        assert_eq!(titles("aux"), "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND");
        assert_eq!(titles("-e"), "PID TTY TIME CMD");
        for list in ["-o pid,comm", "-eo pid,comm", "-eopid,comm", "--format pid,comm", "axo pid,comm"] {
            assert_eq!(titles(list), "PID COMMAND", "{list}");
        }
        assert_eq!(titles("-eo pid,cmd,rss=MEMORY"), "PID CMD MEMORY");
        assert!(columns("-o comm").unwrap_err().message.contains("PID"));
        for refused in ["-Z", "--forest", "-o pid,bogus", "-p 1"] {
            assert_eq!(columns(refused).unwrap_err().status, StatusCode::BAD_REQUEST, "{refused}");
        }
    }
}
