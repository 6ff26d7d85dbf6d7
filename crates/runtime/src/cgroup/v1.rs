//! Limits where every controller has a hierarchy of its own (also on hybrid hosts).

use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::limits::{page_size, rdma, throttle, write, write_if_present};
use super::{Cgroup, Controller, devices};
use crate::{Error, Result};

/// Controllers whose groups wait until a limit asks for them: an unset cpuset cannot hold a process, and each
/// hierarchy costs a container time to join.
const LATE: [Controller; 5] = [
    Controller::Cpuset,
    Controller::Hugetlb,
    Controller::NetworkClass,
    Controller::NetworkPriority,
    Controller::Rdma,
];

/// Makes the group's directories but those of [`LATE`] controllers.
pub(super) fn create(group: &Cgroup) -> Result<()> {
    let late = LATE.map(|controller| group.directory(controller));
    for directory in group.directories() {
        if !late.iter().flatten().any(|one| *one == directory) {
            make(&directory)?;
        }
    }
    Ok(())
}

fn make(directory: &Path) -> Result<()> {
    match super::make_directory(directory) {
        Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = directory.parent() {
                make(parent)?;
            }
            super::make_directory(directory)
        }
        result => result,
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
        let directory = late(group, Controller::Hugetlb, "hugetlb")?;
        let file = format!("hugetlb.{}.limit_in_bytes", page_size(limit.page_size())?);
        write(&directory, &file, &limit.limit().to_string())?;
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id().filter(|&class| class != 0) {
            let directory = late(group, Controller::NetworkClass, "net_cls")?;
            write(&directory, "net_cls.classid", &class.to_string())?;
        }
        for one in network.priorities().iter().flatten() {
            let directory = late(group, Controller::NetworkPriority, "net_prio")?;
            write(&directory, "net_prio.ifpriomap", &format!("{} {}", one.name(), one.priority()))?;
        }
    }
    for (name, limit) in resources.rdma().iter().flatten() {
        write(&late(group, Controller::Rdma, "rdma")?, "rdma.max", &rdma(name, limit))?;
    }
    match (resources.devices(), group.directory(Controller::Devices)) {
        (Some(rules), Some(directory)) if first && !rules.is_empty() => {
            devices::write_rules(&directory, rules)
        }
        _ => Ok(()),
    }
}

/// The directory of a controller that is made only now; it gets those processes that the group has already.
fn late(group: &Cgroup, controller: Controller, name: &'static str) -> Result<PathBuf> {
    let directory = directory(group, controller, name)?;
    if !directory.exists() {
        make(&directory)?;
        for pid in group.pids()? {
            // Members that have just ended count nowhere.
            let _ = std::fs::write(directory.join("cgroup.procs"), pid.to_string());
        }
    }
    Ok(directory)
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
    if let Some(kernel) = memory.kernel().filter(|&kernel| kernel != 0) {
        write_if_present(directory, "memory.kmem.limit_in_bytes", &kernel.to_string())?;
    }
    if let Some(kernel) = memory.kernel_tcp().filter(|&kernel| kernel != 0) {
        write_if_present(directory, "memory.kmem.tcp.limit_in_bytes", &kernel.to_string())?;
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
    if let Some(period) = cpu.realtime_period().filter(|&period| period != 0) {
        write(&path()?, "cpu.rt_period_us", &period.to_string())?;
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|&runtime| runtime != 0) {
        write(&path()?, "cpu.rt_runtime_us", &runtime.to_string())?;
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
    if let Some(weight) = block.leaf_weight().filter(|&weight| weight != 0) {
        write_if_present(&path()?, "blkio.leaf_weight", &weight.to_string())?;
    }
    for device in block.weight_device().iter().flatten() {
        let at = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = device.weight().filter(|&weight| weight != 0) {
            let directory = path()?;
            let bfq = "blkio.bfq.weight_device";
            let file = if directory.join(bfq).exists() { bfq } else { "blkio.weight_device" };
            write(&directory, file, &format!("{at} {weight}"))?;
        }
        if let Some(weight) = device.leaf_weight().filter(|&weight| weight != 0) {
            write(&path()?, "blkio.leaf_weight_device", &format!("{at} {weight}"))?;
        }
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
