//! What the kernel's schedulers are told about a process: policy, processors, disk priority, personality.

use oci_spec::runtime::{
    IOPriorityClass, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    Process, Scheduler,
};

use crate::error::Context as _;
use crate::sys::{self, SchedulingAttributes};
use crate::{Error, Result};

/// Sets what the process asks for; what it leaves out stays as the runtime has it.
pub(super) fn apply(process: &Process) -> Result<()> {
    if let Some(affinity) = process.exec_cpu_affinity() {
        let last = affinity.cpu_affinity_final().as_deref().filter(|cpus| !cpus.is_empty());
        if let Some(cpus) = last.or(affinity.initial().as_deref()).filter(|cpus| !cpus.is_empty()) {
            set_affinity(cpus)?;
        }
    }
    if let Some(scheduler) = process.scheduler() {
        sys::set_scheduling(attributes(scheduler)?).to("set the scheduler")?;
    }
    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level = u32::try_from(priority.priority()).ok().filter(|&level| level < 8).ok_or_else(|| {
            Error::Invalid {
                field: "process.ioPriority.priority",
                reason: format!("{} is not in 0 to 7", priority.priority()),
            }
        })?;
        sys::set_io_priority(class, level).to("set the disk priority")?;
    }
    Ok(())
}

fn attributes(scheduler: &Scheduler) -> Result<SchedulingAttributes> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flags = scheduler.flags().iter().flatten().map(|flag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    });
    let priority = scheduler.priority().unwrap_or(0);
    Ok(SchedulingAttributes {
        policy,
        flags: flags.fold(0, |all, one| all | one),
        nice: scheduler.nice().unwrap_or(0),
        priority: u32::try_from(priority).map_err(|_| Error::Invalid {
            field: "process.scheduler.priority",
            reason: format!("{priority} is negative"),
        })?,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        ..SchedulingAttributes::default()
    })
}

/// Processors as `0-3,7`.
fn set_affinity(cpus: &str) -> Result<()> {
    let invalid = || Error::Invalid {
        field: "process.execCPUAffinity",
        reason: format!("{cpus:?} is no list of processors"),
    };
    let mut set = rustix::thread::CpuSet::new();
    for part in cpus.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            let number = text.trim().parse::<usize>().ok();
            number.filter(|&number| number < rustix::thread::CpuSet::MAX_CPU).ok_or_else(invalid)
        };
        for cpu in number(first)?..=number(last)? {
            set.set(cpu);
        }
    }
    rustix::thread::sched_setaffinity(None, &set).to("set the processors")
}

/// Sets the execution domain.
pub(super) fn set_personality(personality: &LinuxPersonality) -> Result<()> {
    if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(Error::Invalid {
            field: "linux.personality.flags",
            reason: "none is supported by the specification".into(),
        });
    }
    let domain = match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    };
    sys::set_personality(domain).to("set the personality")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read() {
        for wrong in ["", "x", "3-", "-1", "0-99999999", "1,,2"] {
            assert!(matches!(set_affinity(wrong), Err(Error::Invalid { .. })), "{wrong}");
        }
        set_affinity("0").unwrap();
    }
}
