//! What a container gets when nobody asks for anything else: Docker's defaults.
//!
//! It knows values only; the engine decides which of them a container keeps.

mod seccomp;

use std::path::PathBuf;

use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxCapabilities, LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespace,
    LinuxNamespaceType, LinuxResources, Mount, Process, Root, Spec, User,
};

pub use seccomp::seccomp;

/// Search path of programs when the image sets none.
pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Capabilities of a container's root by default.
pub const CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// Every capability, for privileged containers and `--cap-add ALL`. Those that the kernel or the bounding set of
/// the daemon lacks are left out when a process is made.
pub const ALL_CAPABILITIES: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// Paths that show the host and are hidden.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths that change the host and can only be read.
pub const READ_ONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A specification with Docker's defaults: namespaces of its own, default mounts, devices, capabilities, masked
/// and read-only paths, and the seccomp profile. Arguments, user, environment (but `PATH`), hostname, limits and
/// further mounts are the caller's.
pub fn spec() -> Spec {
    let mut process = Process::default();
    process
        .set_args(Some(Vec::new()))
        .set_env(Some(vec![PATH.into()]))
        .set_cwd("/".into())
        .set_user(User::default())
        .set_capabilities(Some(capabilities(&CAPABILITIES)))
        .set_rlimits(None)
        .set_no_new_privileges(Some(false))
        .set_terminal(Some(false));
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(device_rules()));
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces()))
        .set_resources(Some(resources))
        .set_masked_paths(Some(MASKED_PATHS.map(String::from).into()))
        .set_readonly_paths(Some(READ_ONLY_PATHS.map(String::from).into()))
        .set_seccomp(Some(seccomp(&CAPABILITIES)));
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(false));
    let mut spec = Spec::default();
    spec.set_version("1.2.0".into())
        .set_process(Some(process))
        .set_root(Some(root))
        .set_hostname(None)
        .set_annotations(None)
        .set_mounts(Some(mounts()))
        .set_linux(Some(linux));
    spec
}

/// Capability sets as Docker gives them: bounding, effective and permitted alike, nothing inheritable
/// (CVE-2022-24769) and nothing ambient.
pub fn capabilities(list: &[Capability]) -> LinuxCapabilities {
    let set: Capabilities = list.iter().copied().collect();
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set))
        .set_inheritable(None)
        .set_ambient(None);
    capabilities
}

/// New namespaces of all kinds but user and time.
pub fn namespaces() -> Vec<LinuxNamespace> {
    [
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Network,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Cgroup,
    ]
    .map(|kind| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        namespace
    })
    .into()
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(kind.into()))
        .set_source(Some(PathBuf::from(source)))
        .set_options(Some(options.iter().map(|&option| option.into()).collect()));
    mount
}

/// The file systems of the kernel and `/dev`, in order. `/dev/shm` has 64 MiB.
pub fn mounts() -> Vec<Mount> {
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]),
    ]
}

/// Device rules of an ordinary container: nodes may be made, only the harmless ones used.
pub fn device_rules() -> Vec<LinuxDeviceCgroup> {
    let mut rules = vec![device_rule(false, LinuxDeviceType::A, None, None, "rwm")];
    rules.push(device_rule(true, LinuxDeviceType::C, None, None, "m"));
    rules.push(device_rule(true, LinuxDeviceType::B, None, None, "m"));
    // null, zero, full, random, urandom, tty, console, ptmx and the terminals.
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(device_rule(true, LinuxDeviceType::C, Some(major), Some(minor), "rwm"));
    }
    rules.push(device_rule(true, LinuxDeviceType::C, Some(136), None, "rwm"));
    rules
}

/// One device rule; None stands for every number.
pub fn device_rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(kind))
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.into()));
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_specification_survives_its_json() {
        let spec = spec();
        let json = serde_json::to_string(&spec).unwrap();
        let back: Spec = serde_json::from_str(&json).unwrap();
        assert_eq!(back, spec);
        assert!(json.len() < 32 << 10, "{} bytes", json.len());
    }

    #[test]
    fn cve_2022_24769_nothing_is_inheritable() {
        let spec = spec();
        let capabilities = spec.process().as_ref().unwrap().capabilities().as_ref().unwrap();
        assert!(capabilities.inheritable().is_none());
        assert!(capabilities.ambient().is_none());
        assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 14);
    }
}
