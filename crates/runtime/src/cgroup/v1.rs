//! Limits where every controller has a hierarchy of its own (also on hybrid hosts).

use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::limits::{page_size, throttle, write, write_if_present};
use super::{Cgroup, Controller, devices};
use crate::{Error, Result};

/// Makes the group's directories. cpuset and hugetlb wait until a limit asks for them: an unset cpuset cannot
/// hold a process, and each hierarchy costs a container time to join.
pub(super) fn create(group: &Cgroup) -> Result<()> {
    let late = [group.directory(Controller::Cpuset), group.directory(Controller::Hugetlb)];
    for directory in group.directories() {
        if !late.iter().flatten().any(|one| *one == directory) {
            make(&directory)?;
        }
    }
    Ok(())
}

fn make(directory: &Path) -> Result<()> {
    let made = match std::fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::create_dir_all(directory),
        result => result,
    };
    match made {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(Error::File { operation: "create", path: directory.into(), source }),
    }
}

fn directory(group: &Cgroup, controller: Controller, name: &'static str) -> Result<PathBuf> {
    group.directory(controller).ok_or(Error::NoController { controller: name })
}

pub(super) fn set(group: &Cgroup, resources: &LinuxResources, first: bool) -> Result<()> {
    if let Some(memory) = resources.memory() {
        set_memory(&directory(group, Controller::Memory, "memory")?, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        set_cpu(group, cpu)?;
    }
    if let Some(pids) = resources.pids() {
        let limit = pids.limit();
        let value = if limit > 0 { limit.to_string() } else { "max".into() };
        write(&directory(group, Controller::Pids, "pids")?, "pids.max", &value)?;
    }
    if let Some(block) = resources.block_io() {
        set_io(group, block)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let directory = directory(group, Controller::Hugetlb, "hugetlb")?;
        make(&directory)?;
        let file = format!("hugetlb.{}.limit_in_bytes", page_size(limit.page_size())?);
        write(&directory, &file, &limit.limit().to_string())?;
    }
    match (resources.devices(), group.directory(Controller::Devices)) {
        (Some(rules), Some(directory)) if first && !rules.is_empty() => {
            devices::write_rules(&directory, rules)
        }
        _ => Ok(()),
    }
}

fn set_memory(directory: &Path, memory: &LinuxMemory) -> Result<()> {
    const LIMIT: &str = "memory.limit_in_bytes";
    const TOTAL: &str = "memory.memsw.limit_in_bytes";
    let limit = memory.limit().filter(|&limit| limit != 0).map(|limit| limit.to_string());
    let total = memory.swap().filter(|&total| total != 0).map(|total| total.to_string());
    match (limit, total) {
        (Some(limit), Some(total)) => {
            // The kernel keeps limit <= total at every moment: raise the total first, lower it last.
            if write(directory, LIMIT, &limit).is_ok() {
                write_if_present(directory, TOTAL, &total)?;
            } else {
                write_if_present(directory, TOTAL, &total)?;
                write(directory, LIMIT, &limit)?;
            }
        }
        (Some(limit), None) => write(directory, LIMIT, &limit)?,
        (None, Some(total)) => write_if_present(directory, TOTAL, &total)?,
        (None, None) => {}
    }
    if let Some(reservation) = memory.reservation().filter(|&reservation| reservation != 0) {
        write(directory, "memory.soft_limit_in_bytes", &reservation.to_string())?;
    }
    if let Some(swappiness) = memory.swappiness() {
        write(directory, "memory.swappiness", &swappiness.to_string())?;
    }
    if memory.disable_oom_killer() == Some(true) {
        write(directory, "memory.oom_control", "1")?;
    }
    Ok(())
}

fn set_cpu(group: &Cgroup, cpu: &LinuxCpu) -> Result<()> {
    let path = || directory(group, Controller::Cpu, "cpu");
    if let Some(shares) = cpu.shares().filter(|&shares| shares != 0) {
        write(&path()?, "cpu.shares", &shares.to_string())?;
    }
    let period = cpu.period().filter(|&period| period != 0).map(|period| period.to_string());
    let quota = cpu.quota().filter(|&quota| quota != 0).map(|quota| quota.to_string());
    if let Some(period) = &period {
        // A new period may not fit the old quota; then the quota goes first.
        if write(&path()?, "cpu.cfs_period_us", period).is_err() {
            if let Some(quota) = &quota {
                write(&path()?, "cpu.cfs_quota_us", quota)?;
            }
            write(&path()?, "cpu.cfs_period_us", period)?;
        }
    }
    if let Some(quota) = &quota {
        write(&path()?, "cpu.cfs_quota_us", quota)?;
    }
    if let Some(burst) = cpu.burst() {
        write_if_present(&path()?, "cpu.cfs_burst_us", &burst.to_string())?;
    }
    if let Some(idle) = cpu.idle() {
        write_if_present(&path()?, "cpu.idle", &idle.to_string())?;
    }
    let cpus = cpu.cpus().as_deref().filter(|cpus| !cpus.is_empty());
    let mems = cpu.mems().as_deref().filter(|mems| !mems.is_empty());
    if cpus.is_none() && mems.is_none() {
        return Ok(());
    }
    let directory = directory(group, Controller::Cpuset, "cpuset")?;
    let fresh = !directory.exists();
    make(&directory)?;
    inherit_cpuset(&directory, group.path().components().count())?;
    for (file, value) in [("cpuset.cpus", cpus), ("cpuset.mems", mems)] {
        if let Some(value) = value {
            write(&directory, file, value)?;
        }
    }
    if fresh {
        for pid in group.pids()? {
            // Members that have just ended need no processors.
            let _ = std::fs::write(directory.join("cgroup.procs"), pid.to_string());
        }
    }
    Ok(())
}

/// A new group of version 1 has no processors and no memory nodes: it takes those of its parent.
fn inherit_cpuset(directory: &Path, depth: usize) -> Result<()> {
    let mut chain: Vec<&Path> = directory.ancestors().take(depth + 1).collect();
    chain.reverse();
    for pair in chain.windows(2) {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = std::fs::read_to_string(pair[1].join(file)).unwrap_or_default();
            if own.trim().is_empty() {
                let path = pair[0].join(file);
                let parent = std::fs::read_to_string(&path).map_err(|source| Error::File {
                    operation: "read",
                    path,
                    source,
                })?;
                write(pair[1], file, parent.trim())?;
            }
        }
    }
    Ok(())
}

fn set_io(group: &Cgroup, block: &LinuxBlockIo) -> Result<()> {
    let path = || directory(group, Controller::Io, "blkio");
    if let Some(weight) = block.weight().filter(|&weight| weight != 0) {
        let directory = path()?;
        let file = if directory.join("blkio.weight").exists() { "blkio.weight" } else { "blkio.bfq.weight" };
        write(&directory, file, &weight.to_string())?;
    }
    for (file, devices) in [
        ("blkio.throttle.read_bps_device", block.throttle_read_bps_device()),
        ("blkio.throttle.write_bps_device", block.throttle_write_bps_device()),
        ("blkio.throttle.read_iops_device", block.throttle_read_iops_device()),
        ("blkio.throttle.write_iops_device", block.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            write(&path()?, file, &throttle(device))?;
        }
    }
    Ok(())
}
