//! Limits of the unified hierarchy. Values that the specification defines for version 1 are converted as the
//! OCI runtimes agree.

use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::limits::{page_size, rdma, write, write_if_present};
use super::{Cgroup, Controller, devices};
use crate::{Error, Result};

/// Makes the directory and its parents, and hands the controllers down.
pub(super) fn create(group: &Cgroup) -> Result<()> {
    let root = group.directory(Controller::Pids).ok_or(Error::NoController { controller: "unified" })?;
    let root = root.ancestors().nth(group.path().components().count()).unwrap_or(&root).to_path_buf();
    let mut directory = root;
    for part in group.path().components() {
        hand_down(&directory);
        directory.push(part);
        super::make_directory(&directory)?;
    }
    Ok(())
}

/// Enables what there is for the children. What cannot be enabled shows when a limit is set.
fn hand_down(directory: &Path) {
    let Ok(available) = std::fs::read_to_string(directory.join("cgroup.controllers")) else { return };
    let enabled = std::fs::read_to_string(directory.join("cgroup.subtree_control")).unwrap_or_default();
    for controller in available.split_whitespace() {
        if !enabled.split_whitespace().any(|one| one == controller) {
            let _ = std::fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

pub(super) fn set(group: &Cgroup, resources: &LinuxResources, first: bool) -> Result<()> {
    let directory = group.directory(Controller::Pids).ok_or(Error::NoController { controller: "unified" })?;
    if let Some(memory) = resources.memory() {
        set_memory(&directory, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        set_cpu(&directory, cpu)?;
    }
    if let Some(pids) = resources.pids() {
        let limit = pids.limit();
        write(&directory, "pids.max", &if limit > 0 { limit.to_string() } else { "max".into() })?;
    }
    if let Some(block) = resources.block_io() {
        set_io(&directory, block)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.max", page_size(limit.page_size())?);
        write(&directory, &file, &limit.limit().to_string())?;
    }
    for (name, limit) in resources.rdma().iter().flatten() {
        write(&directory, "rdma.max", &rdma(name, limit))?;
    }
    for (file, value) in resources.unified().iter().flatten() {
        if file.contains('/') || file.starts_with("cgroup.") {
            return Err(Error::Invalid {
                field: "linux.resources.unified",
                reason: format!("{file:?} is not a controller's file"),
            });
        }
        write(&directory, file, value)?;
    }
    match resources.devices() {
        Some(rules) if first && !rules.is_empty() => devices::attach(group, rules),
        _ => Ok(()),
    }
}

fn maximum(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

fn set_memory(directory: &Path, memory: &LinuxMemory) -> Result<()> {
    // The specification's swap counts memory and swap together, the kernel's swap alone.
    match (memory.swap(), memory.limit()) {
        (Some(total), Some(limit)) if total > 0 && limit > 0 => {
            if total < limit {
                return Err(Error::Invalid {
                    field: "linux.resources.memory.swap",
                    reason: format!("{total} is less than the memory limit {limit}"),
                });
            }
            write_if_present(directory, "memory.swap.max", &(total - limit).to_string())?;
        }
        (Some(total), _) if total < 0 => write_if_present(directory, "memory.swap.max", "max")?,
        _ => {}
    }
    if let Some(limit) = memory.limit().filter(|&limit| limit != 0) {
        write(directory, "memory.max", &maximum(limit))?;
    }
    if let Some(reservation) = memory.reservation().filter(|&reservation| reservation != 0) {
        write(directory, "memory.low", &maximum(reservation))?;
    }
    Ok(())
}

/// Shares of 2 to 262144 become a weight of 1 to 10000.
pub(super) fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn set_cpu(directory: &Path, cpu: &LinuxCpu) -> Result<()> {
    if let Some(shares) = cpu.shares().filter(|&shares| shares != 0) {
        write(directory, "cpu.weight", &cpu_weight(shares).to_string())?;
    }
    if let Some(idle) = cpu.idle() {
        write_if_present(directory, "cpu.idle", &idle.to_string())?;
    }
    let period = cpu.period().filter(|&period| period != 0);
    match cpu.quota() {
        None => {
            if let Some(period) = period {
                let now = std::fs::read_to_string(directory.join("cpu.max")).unwrap_or_default();
                let quota = now.split_whitespace().next().unwrap_or("max").to_owned();
                write(directory, "cpu.max", &format!("{quota} {period}"))?;
            }
        }
        Some(quota) => {
            let quota = if quota > 0 { quota.to_string() } else { "max".into() };
            write(directory, "cpu.max", &format!("{quota} {}", period.unwrap_or(100_000)))?;
        }
    }
    if let Some(burst) = cpu.burst() {
        write_if_present(directory, "cpu.max.burst", &burst.to_string())?;
    }
    if let Some(cpus) = cpu.cpus().as_deref().filter(|cpus| !cpus.is_empty()) {
        write(directory, "cpuset.cpus", cpus)?;
    }
    if let Some(mems) = cpu.mems().as_deref().filter(|mems| !mems.is_empty()) {
        write(directory, "cpuset.mems", mems)?;
    }
    Ok(())
}

fn set_io(directory: &Path, block: &LinuxBlockIo) -> Result<()> {
    if let Some(weight) = block.weight().filter(|&weight| weight != 0) {
        // BFQ takes the value as it is; the kernel's own weight has another range.
        if directory.join("io.bfq.weight").exists() {
            write(directory, "io.bfq.weight", &weight.to_string())?;
        } else {
            let weight = 1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990;
            write(directory, "io.weight", &weight.to_string())?;
        }
    }
    for device in block.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|&weight| weight != 0) {
            let value = format!("{}:{} {weight}", device.major(), device.minor());
            write(directory, "io.bfq.weight", &value)?;
        }
    }
    for (key, devices) in [
        ("rbps", block.throttle_read_bps_device()),
        ("wbps", block.throttle_write_bps_device()),
        ("riops", block.throttle_read_iops_device()),
        ("wiops", block.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            let rate = if device.rate() == 0 { "max".into() } else { device.rate().to_string() };
            write(directory, "io.max", &format!("{}:{} {key}={rate}", device.major(), device.minor()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights_as_elsewhere() {
        assert_eq!(cpu_weight(2), 1);
        assert_eq!(cpu_weight(1024), 39);
        assert_eq!(cpu_weight(262_144), 10_000);
        assert_eq!(cpu_weight(u64::MAX), 10_000);
    }

    #[test]
    fn negative_limits_are_none() {
        assert_eq!(maximum(-1), "max");
        assert_eq!(maximum(4096), "4096");
    }
}
