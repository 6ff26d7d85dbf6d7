//! update: other limits for a container that exists.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use crate::arguments::UpdateOptions;
use crate::error::{Context as _, Error, Result, Trying as _};
use crate::state::{Status, Store, read_bounded};

/// Largest file of resources that is read, in bytes.
const RESOURCES_LIMIT: u64 = 1 << 20;

pub(crate) fn update(store: &Store, options: &UpdateOptions) -> Result<u8> {
    let container = store.open(&options.id)?;
    if container.status() == Status::Stopped {
        return Err(Error::NotRunning { id: options.id.clone() });
    }
    let resources = match &options.resources {
        Some(path) => {
            let bytes = if path.as_os_str() == "-" {
                use std::io::Read as _;
                let mut bytes = Vec::new();
                std::io::stdin()
                    .take(RESOURCES_LIMIT)
                    .read_to_end(&mut bytes)
                    .trying("read standard input")?;
                bytes
            } else {
                read_bounded(path, RESOURCES_LIMIT)?
            };
            serde_json::from_slice(&bytes).map_err(|source| Error::Json {
                what: "list of resources",
                path: path.clone(),
                source,
            })?
        }
        None => from_options(options)?,
    };
    if let Some(cgroup) = container.cgroup()? {
        cgroup.update(&resources).to("change the limits")?;
    }
    Ok(0)
}

fn from_options(options: &UpdateOptions) -> Result<LinuxResources> {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(options.cpu_share)
        .set_period(options.cpu_period)
        .set_quota(options.cpu_quota)
        .set_burst(options.cpu_burst)
        .set_idle(options.cpu_idle)
        .set_realtime_period(options.cpu_rt_period)
        .set_realtime_runtime(options.cpu_rt_runtime)
        .set_cpus(options.cpuset_cpus.clone())
        .set_mems(options.cpuset_mems.clone());
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(bytes(options.memory.as_deref())?)
        .set_reservation(bytes(options.memory_reservation.as_deref())?)
        .set_swap(bytes(options.memory_swap.as_deref())?);
    let mut resources = LinuxResources::default();
    resources.set_cpu(Some(cpu)).set_memory(Some(memory)).set_devices(None);
    if let Some(limit) = options.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    if let Some(weight) = options.blkio_weight {
        let mut block = LinuxBlockIo::default();
        block.set_weight(Some(weight));
        resources.set_block_io(Some(block));
    }
    Ok(resources)
}

/// A number of bytes with K, M, G or T, an optional B behind.
fn bytes(text: Option<&str>) -> Result<Option<i64>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let invalid = || Error::Invalid { field: "memory", reason: format!("{text:?} is no number of bytes") };
    if text == "-1" {
        return Ok(Some(-1));
    }
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let lower = lower.strip_suffix('i').unwrap_or(lower);
    let (digits, shift) = match lower.as_bytes().last() {
        Some(b'k') => (&lower[..lower.len() - 1], 10),
        Some(b'm') => (&lower[..lower.len() - 1], 20),
        Some(b'g') => (&lower[..lower.len() - 1], 30),
        Some(b't') => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    let number: i64 = digits.parse().map_err(|_| invalid())?;
    number.checked_mul(1 << shift).filter(|&number| number >= 0).map(Some).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn amounts_of_memory_are_read() {
        for (text, expected) in [("1024", 1024), ("4k", 4096), ("2M", 2 << 20), ("1GiB", 1 << 30), ("-1", -1)]
        {
            assert_eq!(bytes(Some(text)).ok(), Some(Some(expected)), "{text}");
        }
        for text in ["x", "-2", "1e3", "9999999999t", "k"] {
            assert!(bytes(Some(text)).is_err(), "{text}");
        }
        assert_eq!(bytes(None).ok(), Some(None));
    }
}
