//! events: what a container uses, in runc's words.

use std::time::Duration;

use dray_runtime::cgroup::{Cgroup, Statistics};
use serde_json::{Value, json};

use crate::arguments::EventsOptions;
use crate::error::{Error, Result};
use crate::inspect::print;
use crate::state::{Status, Store};

pub(crate) fn events(store: &Store, options: &EventsOptions) -> Result<u8> {
    let interval = duration(&options.interval)?;
    let container = store.open(&options.id)?;
    let Some(cgroup) = container.cgroup()?.filter(|_| container.status() != Status::Stopped) else {
        return Err(Error::NotRunning { id: options.id.clone() });
    };
    let mut kills = cgroup.oom_kills();
    loop {
        let event = json!({ "type": "stats", "id": options.id, "data": describe(&cgroup) });
        print(&event.to_string())?;
        if options.stats {
            return Ok(0);
        }
        std::thread::sleep(interval);
        if cgroup.oom_kills() > kills {
            kills = cgroup.oom_kills();
            print(&json!({ "type": "oom", "id": options.id }).to_string())?;
        }
        if container.status() == Status::Stopped {
            return Ok(0);
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn describe(cgroup: &Cgroup) -> Value {
    let Statistics { cpu, memory, pids, io, per_cpu, memory_details } = cgroup.statistics();
    let entry = |usage: u64, limit: Option<u64>, max: u64, failures: u64| json!({ "usage": usage, "limit": limit.unwrap_or(u64::MAX), "max": max, "failcnt": failures });
    let disks = |choose: &dyn Fn(&dray_runtime::cgroup::DeviceIo) -> [(&'static str, u64); 2]| -> Vec<Value> {
        io.iter()
            .flat_map(|one| {
                let (major, minor) = (one.major, one.minor);
                choose(one)
                    .map(|(op, value)| json!({ "major": major, "minor": minor, "op": op, "value": value }))
            })
            .collect()
    };
    json!({
        "cpu": {
            "usage": {
                "total": nanoseconds(cpu.usage),
                "percpu": per_cpu,
                "kernel": nanoseconds(cpu.system),
                "user": nanoseconds(cpu.user),
            },
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": nanoseconds(cpu.throttled),
            },
        },
        "memory": {
            "cache": memory.cache,
            "usage": entry(memory.usage, memory.limit, memory.max_usage, memory.failures),
            "swap": entry(memory.usage + memory.swap, None, 0, 0),
            "kernel": entry(0, None, 0, 0),
            "kernelTCP": entry(0, None, 0, 0),
            "raw": memory_details,
        },
        "pids": { "current": pids.current, "limit": pids.limit.unwrap_or(0) },
        "blkio": {
            "ioServiceBytesRecursive": disks(&|one| [("Read", one.read_bytes), ("Write", one.write_bytes)]),
            "ioServicedRecursive": disks(&|one| [("Read", one.read_operations), ("Write", one.write_operations)]),
        },
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

/// A time as Go writes it: a number with ms, s, m or h.
fn duration(text: &str) -> Result<Duration> {
    let invalid = || Error::Invalid { field: "--interval", reason: format!("{text:?} is no time") };
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| invalid())?;
    let seconds = match unit {
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(invalid()),
    };
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| invalid())?;
    if duration.is_zero() { Err(invalid()) } else { Ok(duration) }
}
