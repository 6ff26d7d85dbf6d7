//! Who the process is and what it may: user, groups, limits, capabilities, no_new_privs, seccomp.

use std::os::fd::OwnedFd;

use oci_spec::runtime::{Capabilities, Capability, PosixRlimitType, Process};
use rustix::process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::error::Context as _;
use crate::seccomp::Filter;
use crate::sys::{self, CapabilityBits};
use crate::{Error, Result};

const CAP_SETPCAP: u32 = 8;
const CAP_SYS_ADMIN: u32 = 21;

/// Becomes user and group 0 of the user namespace that was just made or joined.
pub(super) fn become_root_of_namespace() -> Result<()> {
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).to("become group 0 of the user namespace")?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).to("become user 0 of the user namespace")
}

/// Sets resource limits. One above what the kernel lets this daemon give becomes the most that it lets.
pub(super) fn set_resource_limits(process: &Process) -> Result<()> {
    for limit in process.rlimits().iter().flatten() {
        let Some(resource) = resource(limit.typ()) else { continue };
        if limit.soft() > limit.hard() {
            return Err(Error::Invalid {
                field: "process.rlimits",
                reason: format!("the soft limit of {} is above the hard limit", limit.typ()),
            });
        }
        let value = |number: u64| Some(number).filter(|&number| number != u64::MAX);
        let wanted = Rlimit { current: value(limit.soft()), maximum: value(limit.hard()) };
        match setrlimit(resource, wanted) {
            Ok(()) => {}
            Err(rustix::io::Errno::PERM) => {
                // Without CAP_SYS_RESOURCE hard limits only go down.
                let now = getrlimit(resource);
                let least = |one: Option<u64>, other: Option<u64>| match (one, other) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
                let maximum = least(wanted.maximum, now.maximum);
                let current = least(wanted.current, maximum);
                setrlimit(resource, Rlimit { current, maximum }).to("set a resource limit")?;
            }
            Err(errno) => return Err(errno).to("set a resource limit"),
        }
    }
    Ok(())
}

fn resource(kind: PosixRlimitType) -> Option<Resource> {
    Some(match kind {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    })
}

/// Takes user, groups and bounding set, and all permitted capabilities down to what the process keeps.
///
/// A filter is loaded as the last step and needs CAP_SYS_ADMIN, unless no_new_privs is set: it is kept until
/// [`seal`]. So the filter never has to allow what happens here.
pub(super) fn take(process: &Process, filtered: bool) -> Result<()> {
    let user = process.user();
    let now = sys::capabilities().to("read capabilities")?;
    let sets = Sets::of(process, now.permitted);
    if now.effective & 1 << CAP_SETPCAP != 0 {
        for number in 0..64 {
            if sets.bounding & 1 << number != 0 {
                continue;
            }
            match sys::prctl(libc::PR_CAPBSET_DROP, number, 0) {
                Ok(_) => {}
                // Past the last capability of this kernel.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
                Err(error) => return Err(error).to("drop a capability"),
            }
        }
    }
    sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).to("keep capabilities over the change of user")?;
    let groups: Vec<Gid> = user.additional_gids().iter().flatten().map(|&gid| Gid::from_raw(gid)).collect();
    match set_thread_groups(&groups) {
        Ok(()) => {}
        // A user namespace may deny it; then there are no groups to lose either.
        Err(rustix::io::Errno::PERM) if groups.is_empty() => {}
        Err(errno) => return Err(errno).to("set groups"),
    }
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    set_thread_res_gid(gid, gid, gid).to("set the group")?;
    set_thread_res_uid(uid, uid, uid).to("set the user")?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 0, 0).to("keep capabilities over the change of user")?;
    let mut permitted = sets.permitted;
    if filtered && process.no_new_privileges() != Some(true) {
        permitted |= now.permitted & 1 << CAP_SYS_ADMIN;
    }
    let effective = sets.effective | permitted & 1 << CAP_SYS_ADMIN;
    sys::set_capabilities(CapabilityBits { effective, permitted, inheritable: sets.inheritable })
        .to("set capabilities")
}

/// Sets no_new_privs, loads the filter, and gives up what only loading it needed. The result hears of the calls that
/// the filter leaves to a listener.
pub(super) fn seal(process: &Process, filter: Option<&Filter>) -> Result<Option<OwnedFd>> {
    let now = sys::capabilities().to("read capabilities")?;
    let sets = Sets::of(process, now.permitted);
    if process.no_new_privileges() == Some(true) {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).to("set no_new_privs")?;
    }
    let listener = match filter {
        None => None,
        Some(filter) => sys::load_filter(&filter.instructions, filter.flags).to("load the seccomp filter")?,
    };
    let final_sets = CapabilityBits {
        effective: sets.effective,
        permitted: sets.permitted,
        inheritable: sets.inheritable,
    };
    sys::set_capabilities(final_sets).to("set capabilities")?;
    for number in 0..64u64 {
        if sets.ambient & 1 << number != 0 {
            sys::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, number)
                .to("set an ambient capability")?;
        }
    }
    Ok(listener)
}

/// Capability sets as bits, within what the daemon itself has.
#[derive(Default)]
struct Sets {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

impl Sets {
    fn of(process: &Process, available: u64) -> Self {
        let Some(capabilities) = process.capabilities() else { return Self::default() };
        let set = |set: &Option<Capabilities>| {
            set.iter().flatten().map(|&capability| 1u64 << number(capability)).fold(0, |all, one| all | one)
        };
        let permitted = set(capabilities.permitted()) & available;
        let ambient = set(capabilities.ambient()) & permitted;
        Self {
            bounding: set(capabilities.bounding()),
            effective: set(capabilities.effective()) & permitted,
            permitted,
            // Programs of the image must not hand them on (CVE-2022-24769, CVE-2022-29162), but the kernel wants an
            // ambient capability to be inheritable.
            inheritable: ambient,
            ambient,
        }
    }
}

/// Number of a capability (linux/capability.h).
fn number(capability: Capability) -> u32 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults;

    #[test]
    fn capability_numbers_are_the_kernels_order() {
        for (index, capability) in defaults::ALL_CAPABILITIES.into_iter().enumerate() {
            assert_eq!(number(capability), index as u32);
        }
    }

    #[test]
    fn cve_2022_29162_inheritable_sets_are_ignored() {
        let mut process = Process::default();
        let mut capabilities = defaults::capabilities(&defaults::CAPABILITIES);
        capabilities.set_inheritable(Some(defaults::CAPABILITIES.into_iter().collect()));
        process.set_capabilities(Some(capabilities));
        let sets = Sets::of(&process, u64::MAX);
        assert_eq!(sets.inheritable, 0);
        assert_eq!(sets.effective, 0xa804_25fb);
    }

    #[test]
    fn nothing_is_given_that_the_daemon_lacks() {
        let mut process = Process::default();
        process.set_capabilities(Some(defaults::capabilities(&defaults::ALL_CAPABILITIES)));
        let without_resource = !(1u64 << 24);
        assert_eq!(Sets::of(&process, without_resource).permitted, 0x1ff_ffff_ffff & without_resource);
    }
}
