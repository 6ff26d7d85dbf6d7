//! What a group has used, in the same words on both versions. Files that a host lacks count as zero.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Cgroup, Controller, Version};

/// What a group has used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Processor time.
    pub cpu: CpuStatistics,
    /// Memory.
    pub memory: MemoryStatistics,
    /// Processes.
    pub pids: PidStatistics,
    /// Block devices.
    pub io: Vec<DeviceIo>,
    /// Processor time on each processor, in nanoseconds; only version 1 counts it.
    pub per_cpu: Vec<u64>,
    /// All that the kernel says in `memory.stat`, whose names differ between the versions.
    pub memory_details: BTreeMap<String, u64>,
}

/// Processor time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuStatistics {
    /// In all.
    pub usage: Duration,
    /// In user mode.
    pub user: Duration,
    /// In the kernel.
    pub system: Duration,
    /// Periods of the quota that have passed.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// Time that processes had to wait because of the quota.
    pub throttled: Duration,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStatistics {
    /// In use, page cache included.
    pub usage: u64,
    /// Limit; None is unlimited.
    pub limit: Option<u64>,
    /// The most that was in use, where the kernel tells.
    pub max_usage: u64,
    /// Page cache.
    pub cache: u64,
    /// Page cache that can be dropped at once.
    pub inactive_file: u64,
    /// Anonymous memory.
    pub anonymous: u64,
    /// Swap in use.
    pub swap: u64,
    /// How often the limit was hit.
    pub failures: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
}

/// Number of processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidStatistics {
    /// Now.
    pub current: u64,
    /// Limit; None is unlimited.
    pub limit: Option<u64>,
}

/// Transfers of one block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceIo {
    /// Major device number.
    pub major: u32,
    /// Minor device number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read operations.
    pub read_operations: u64,
    /// Write operations.
    pub write_operations: u64,
}

pub(super) fn read(group: &Cgroup) -> Statistics {
    if group.hierarchy.version() == Version::V2 { read_v2(group) } else { read_v1(group) }
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Value of `KEY VALUE` in a file of such lines.
pub(super) fn keyed(path: &Path, key: &str) -> Option<u64> {
    lookup(&std::fs::read_to_string(path).ok()?, key)
}

fn lookup(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key)?.1.trim().parse().ok())
}

/// Version 1 writes "no limit" as the largest multiple of the page size.
fn limit_v1(value: u64) -> Option<u64> {
    Some(value).filter(|&value| value < 1 << 62)
}

/// The lines `KEY VALUE` of a file.
fn table(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?))).collect()
}

fn read_v2(group: &Cgroup) -> Statistics {
    let Some(directory) = group.directory(Controller::Pids) else { return Statistics::default() };
    let text = |file: &str| std::fs::read_to_string(directory.join(file)).unwrap_or_default();
    let cpu = text("cpu.stat");
    let micros = |key| Duration::from_micros(lookup(&cpu, key).unwrap_or(0));
    let memory = text("memory.stat");
    let bytes = |key| lookup(&memory, key).unwrap_or(0);
    let events = text("memory.events");
    Statistics {
        cpu: CpuStatistics {
            usage: micros("usage_usec"),
            user: micros("user_usec"),
            system: micros("system_usec"),
            periods: lookup(&cpu, "nr_periods").unwrap_or(0),
            throttled_periods: lookup(&cpu, "nr_throttled").unwrap_or(0),
            throttled: micros("throttled_usec"),
        },
        memory: MemoryStatistics {
            usage: number(&directory.join("memory.current")).unwrap_or(0),
            limit: number(&directory.join("memory.max")),
            max_usage: number(&directory.join("memory.peak")).unwrap_or(0),
            cache: bytes("file"),
            inactive_file: bytes("inactive_file"),
            anonymous: bytes("anon"),
            swap: number(&directory.join("memory.swap.current")).unwrap_or(0),
            failures: lookup(&events, "max").unwrap_or(0),
            oom_kills: lookup(&events, "oom_kill").unwrap_or(0),
        },
        pids: PidStatistics {
            current: number(&directory.join("pids.current")).unwrap_or(0),
            limit: number(&directory.join("pids.max")),
        },
        io: text("io.stat").lines().filter_map(io_line_v2).collect(),
        per_cpu: Vec::new(),
        memory_details: table(&memory),
    }
}

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn io_line_v2(line: &str) -> Option<DeviceIo> {
    let mut words = line.split_whitespace();
    let (major, minor) = device(words.next()?)?;
    let mut io = DeviceIo { major, minor, ..DeviceIo::default() };
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        let value = value.parse().unwrap_or(0);
        match key {
            "rbytes" => io.read_bytes = value,
            "wbytes" => io.write_bytes = value,
            "rios" => io.read_operations = value,
            "wios" => io.write_operations = value,
            _ => {}
        }
    }
    Some(io)
}

fn read_v1(group: &Cgroup) -> Statistics {
    let mut statistics = Statistics::default();
    if let Some(directory) = group.directory(Controller::CpuAccounting) {
        statistics.cpu.usage = Duration::from_nanos(number(&directory.join("cpuacct.usage")).unwrap_or(0));
        let nanos = |file| Duration::from_nanos(number(&directory.join(file)).unwrap_or(0));
        statistics.cpu.user = nanos("cpuacct.usage_user");
        statistics.cpu.system = nanos("cpuacct.usage_sys");
        let each = std::fs::read_to_string(directory.join("cpuacct.usage_percpu")).unwrap_or_default();
        statistics.per_cpu = each.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    }
    if let Some(directory) = group.directory(Controller::Cpu) {
        let text = std::fs::read_to_string(directory.join("cpu.stat")).unwrap_or_default();
        statistics.cpu.periods = lookup(&text, "nr_periods").unwrap_or(0);
        statistics.cpu.throttled_periods = lookup(&text, "nr_throttled").unwrap_or(0);
        statistics.cpu.throttled = Duration::from_nanos(lookup(&text, "throttled_time").unwrap_or(0));
    }
    if let Some(directory) = group.directory(Controller::Memory) {
        let text = std::fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
        let bytes = |key| lookup(&text, key).unwrap_or(0);
        let value = |file| number(&directory.join(file)).unwrap_or(0);
        statistics.memory = MemoryStatistics {
            usage: value("memory.usage_in_bytes"),
            limit: number(&directory.join("memory.limit_in_bytes")).and_then(limit_v1),
            max_usage: value("memory.max_usage_in_bytes"),
            cache: bytes("total_cache"),
            inactive_file: bytes("total_inactive_file"),
            anonymous: bytes("total_rss"),
            swap: bytes("total_swap"),
            failures: value("memory.failcnt"),
            oom_kills: group.oom_kills(),
        };
        statistics.memory_details = table(&text);
    }
    if let Some(directory) = group.directory(Controller::Pids) {
        statistics.pids = PidStatistics {
            current: number(&directory.join("pids.current")).unwrap_or(0),
            limit: number(&directory.join("pids.max")),
        };
    }
    if let Some(directory) = group.directory(Controller::Io) {
        let read = |file: &str| std::fs::read_to_string(directory.join(file)).unwrap_or_default();
        statistics.io = io_v1(
            &read("blkio.throttle.io_service_bytes_recursive"),
            &read("blkio.throttle.io_serviced_recursive"),
        );
    }
    statistics
}

fn io_v1(bytes: &str, operations: &str) -> Vec<DeviceIo> {
    let mut devices: Vec<DeviceIo> = Vec::new();
    for (text, of_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, kind, value] = words[..] else { continue };
            let (Some((major, minor)), Ok(value)) = (device(name), value.parse::<u64>()) else { continue };
            let found = devices.iter().position(|one| (one.major, one.minor) == (major, minor));
            let index = found.unwrap_or_else(|| {
                devices.push(DeviceIo { major, minor, ..DeviceIo::default() });
                devices.len() - 1
            });
            let io = &mut devices[index];
            match (kind, of_bytes) {
                ("Read", true) => io.read_bytes = value,
                ("Write", true) => io.write_bytes = value,
                ("Read", false) => io.read_operations = value,
                ("Write", false) => io.write_operations = value,
                _ => {}
            }
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_of_both_versions_reads_the_same() {
        let expected = DeviceIo {
            major: 254,
            minor: 0,
            read_bytes: 4096,
            write_bytes: 8192,
            read_operations: 1,
            write_operations: 2,
        };
        let v2 = "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0";
        assert_eq!(io_line_v2(v2), Some(expected));
        let bytes = "254:0 Read 4096\n254:0 Write 8192\n254:0 Total 12288\nTotal 12288";
        assert_eq!(io_v1(bytes, "254:0 Read 1\n254:0 Write 2"), [expected]);
    }

    #[test]
    fn keys_are_found_whole() {
        assert_eq!(lookup("oom 1\noom_kill 2\n", "oom_kill"), Some(2));
        assert_eq!(lookup("oom_kill_disable 0\nunder_oom 0\noom_kill 3", "oom_kill"), Some(3));
        assert_eq!(
            table("a 1\nb 2 3\nc\nd 18446744073709551615"),
            [("a".into(), 1), ("d".into(), u64::MAX)].into()
        );
        assert_eq!(limit_v1(9_223_372_036_854_771_712), None);
    }
}
