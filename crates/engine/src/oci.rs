//! From a container's record to the OCI runtime specification.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use dray_runtime::{defaults, seccomp};
use oci_spec::runtime::{
    Capabilities, Capability, LinuxBlockIo, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType,
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxMemory, LinuxNamespace, LinuxNamespaceType, LinuxPids,
    LinuxResources, LinuxSeccomp, LinuxThrottleDevice, LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder,
    Mount, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, Spec, User,
};

use crate::error::IoContext;
use crate::record::ContainerRecord;
use crate::spec::{
    BlockLimits, DeviceLimit, DeviceSpec, MountSource, Resources, SeccompMode, Security, Ulimit,
};
use crate::{Error, Result};

/// Size of `/dev/shm` where nothing is said of it, in bytes.
pub(crate) const SHM_SIZE: u64 = 64 << 20;

/// What the record does not say: what was resolved for this start.
pub(crate) struct Resolved {
    /// The user by number.
    pub(crate) user: ResolvedUser,
    /// Its home directory.
    pub(crate) hostname: String,
    /// Namespaces that are joined; those not named here are the container's own, those in `host` the host's.
    pub(crate) joined: Vec<(LinuxNamespaceType, PathBuf)>,
    /// Namespaces that stay the host's.
    pub(crate) host: Vec<LinuxNamespaceType>,
    /// The directory with `hosts`, `hostname` and `resolv.conf`.
    pub(crate) files: PathBuf,
    /// What `/dev/shm` is, when it is that of the host or of another container.
    pub(crate) shm: Option<PathBuf>,
    /// The source directory of each mount that is a volume or a bind, by target.
    pub(crate) sources: Vec<(String, PathBuf)>,
    /// What of them is named by a descriptor, which must live until all is mounted.
    pub(crate) pinned: Vec<OwnedFd>,
}

/// A user by number.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResolvedUser {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// The capability named `text`: with or without `CAP_`, in any case.
pub(crate) fn capability(text: &str) -> Result<Option<Capability>> {
    let upper = text.to_ascii_uppercase();
    if upper == "ALL" || upper == "CAP_ALL" {
        return Ok(None);
    }
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    name.parse().map(Some).map_err(|_| Error::invalid(format!("unknown capability: \"{text}\"")))
}

/// The capabilities of the container: the default set, or all, with what is added and without what is dropped.
fn capabilities(security: &Security) -> Result<Capabilities> {
    let mut set: Capabilities =
        if security.privileged { all_capabilities() } else { defaults::CAPABILITIES.into_iter().collect() };
    let add: Vec<_> = security.capabilities_add.iter().map(|c| capability(c)).collect::<Result<_>>()?;
    let drop: Vec<_> = security.capabilities_drop.iter().map(|c| capability(c)).collect::<Result<_>>()?;
    if drop.contains(&None) {
        set.clear();
    }
    if add.contains(&None) {
        set = all_capabilities();
    }
    set.extend(add.into_iter().flatten());
    for capability in drop.into_iter().flatten() {
        set.remove(&capability);
    }
    Ok(set)
}

fn all_capabilities() -> Capabilities {
    defaults::ALL_CAPABILITIES.into_iter().collect()
}

/// The specification of a container's first process.
pub(crate) fn container(record: &ContainerRecord, resolved: &Resolved) -> Result<Spec> {
    let spec = &record.spec;
    let security = &spec.security;
    let capabilities = capabilities(security)?;
    let mut oci = defaults::spec();
    oci.set_hostname(Some(resolved.hostname.clone()));
    oci.set_domainname(spec.domain_name.clone().filter(|domain| !domain.is_empty()));
    if let Some(root) = oci.root_mut() {
        root.set_readonly(Some(security.read_only_root));
    }
    let process = process(record, &resolved.user, &capabilities, None)?;
    oci.set_process(Some(process));
    let mounts = mounts(record, resolved, oci.mounts().clone().unwrap_or_default())?;
    oci.set_mounts(Some(mounts));
    let mut oci_annotations = None;
    let Some(linux) = oci.linux_mut() else {
        return Err(Error::invalid("the default specification has no linux section"));
    };
    let own = linux.namespaces().clone().unwrap_or_default();
    linux.set_namespaces(Some(namespaces(own, resolved)));
    linux.set_resources(Some(resources(&spec.resources, security)?));
    linux.set_seccomp(filter(security, &capabilities)?);
    if let Some(remap) = record.remap {
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        let mut user = LinuxNamespace::default();
        user.set_typ(LinuxNamespaceType::User);
        namespaces.push(user);
        linux.set_namespaces(Some(namespaces));
        linux.set_uid_mappings(Some(vec![mapping(remap.uid, remap.size)?]));
        linux.set_gid_mappings(Some(vec![mapping(remap.gid, remap.size)?]));
    }
    if security.privileged {
        linux.set_masked_paths(Some(Vec::new()));
        linux.set_readonly_paths(Some(Vec::new()));
    }
    if let Some(paths) = &security.masked_paths {
        linux.set_masked_paths(Some(paths.clone()));
    }
    if let Some(paths) = &security.read_only_paths {
        linux.set_readonly_paths(Some(paths.clone()));
    }
    if spec.init {
        let annotation = (dray_runtime::launch::INIT_ANNOTATION.to_owned(), "true".to_owned());
        oci_annotations = Some([annotation].into());
    }
    if !spec.sysctls.is_empty() {
        linux.set_sysctl(Some(spec.sysctls.clone().into_iter().collect()));
    }
    let mut devices = linux.devices().clone().unwrap_or_default();
    let wanted = if security.privileged { host_devices()? } else { security.devices.clone() };
    for device in &wanted {
        devices.push(device_node(device)?);
    }
    linux.set_devices(Some(devices));
    oci.set_annotations(oci_annotations);
    Ok(oci)
}

fn mapping(host: u32, size: u32) -> Result<LinuxIdMapping> {
    LinuxIdMappingBuilder::default()
        .container_id(0_u32)
        .host_id(host)
        .size(size)
        .build()
        .map_err(|error| Error::invalid(format!("invalid mapping of users: {error}")))
}

/// The filter of system calls for processes with these capabilities; none where there is none.
pub(crate) fn filter(security: &Security, capabilities: &Capabilities) -> Result<Option<LinuxSeccomp>> {
    let list: Vec<Capability> = capabilities.iter().copied().collect();
    match &security.seccomp {
        _ if security.privileged => Ok(None),
        SeccompMode::Unconfined => Ok(None),
        SeccompMode::Default => Ok(Some(defaults::seccomp(&list))),
        SeccompMode::Profile(json) => Ok(Some(profile(json)?.resolve(&list))),
    }
}

/// Reads a profile that a caller gave.
pub(crate) fn profile(json: &str) -> Result<seccomp::Profile> {
    seccomp::Profile::parse(json.as_bytes())
        .map_err(|error| Error::invalid(format!("loading seccomp profile failed: {error}")))
}

/// The specification of a process: the container's own, or one that joins it.
pub(crate) fn process(
    record: &ContainerRecord,
    user: &ResolvedUser,
    capabilities: &Capabilities,
    joining: Option<&crate::ExecSpec>,
) -> Result<Process> {
    let spec = &record.spec;
    let (args, tty, cwd) = match joining {
        Some(exec) => (&exec.args, exec.tty, exec.working_dir.as_ref().unwrap_or(&record.working_dir)),
        None => (&record.args, spec.tty, &record.working_dir),
    };
    // A name alone only takes the image's variable out.
    let mut env: Vec<String> = record.env.iter().filter(|entry| entry.contains('=')).cloned().collect();
    let more = match joining {
        Some(exec) => &exec.env,
        None => &spec.secret_env,
    };
    for entry in more {
        let name = entry.split('=').next().unwrap_or_default();
        env.retain(|present| present.split('=').next() != Some(name));
        env.push(entry.clone());
    }
    let has = |env: &[String], name: &str| env.iter().any(|entry| entry.split('=').next() == Some(name));
    if !has(&env, "HOSTNAME") {
        env.push(format!("HOSTNAME={}", hostname(record)));
    }
    if tty && !has(&env, "TERM") {
        env.push("TERM=xterm".to_owned());
    }
    if !has(&env, "HOME") {
        env.push(format!("HOME={}", user.home));
    }
    let mut oci_user = User::default();
    oci_user.set_uid(user.uid).set_gid(user.gid).set_additional_gids(Some(user.groups.clone()));
    let mut process = Process::default();
    process
        .set_terminal(Some(tty))
        .set_user(oci_user)
        .set_args(Some(args.clone()))
        .set_env(Some(env))
        .set_cwd(PathBuf::from(cwd))
        .set_no_new_privileges(Some(spec.security.no_new_privileges))
        .set_capabilities(Some(capability_sets(capabilities, user.uid == 0)))
        .set_rlimits(Some(rlimits(&spec.ulimits)?));
    process.set_apparmor_profile(spec.security.apparmor_profile());
    if let Some(adjust) = spec.oom_score_adj {
        process.set_oom_score_adj(Some(adjust));
    }
    Ok(process)
}

/// The capabilities of a process that joins the container.
pub(crate) fn exec_capabilities(record: &ContainerRecord, privileged: bool) -> Result<Capabilities> {
    if privileged { Ok(all_capabilities()) } else { capabilities(&record.spec.security) }
}

/// The name that the container has for itself.
pub(crate) fn hostname(record: &ContainerRecord) -> String {
    record
        .spec
        .hostname
        .clone()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| record.id.short().to_owned())
}

/// Inheritable and ambient stay empty (CVE-2022-24769); a user who is not root has none that are effective.
fn capability_sets(capabilities: &Capabilities, root: bool) -> oci_spec::runtime::LinuxCapabilities {
    let mut sets = oci_spec::runtime::LinuxCapabilities::default();
    let active = if root { capabilities.clone() } else { HashSet::new() };
    sets.set_bounding(Some(capabilities.clone()))
        .set_effective(Some(active.clone()))
        .set_permitted(Some(active))
        .set_inheritable(Some(HashSet::new()))
        .set_ambient(Some(HashSet::new()));
    sets
}

fn rlimits(ulimits: &[Ulimit]) -> Result<Vec<PosixRlimit>> {
    ulimits
        .iter()
        .map(|ulimit| {
            let name = format!("RLIMIT_{}", ulimit.name.to_ascii_uppercase());
            let kind: PosixRlimitType = serde_json::from_value(name.into())
                .map_err(|_| Error::invalid(format!("invalid ulimit type: {}", ulimit.name)))?;
            let value = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
            PosixRlimitBuilder::default()
                .typ(kind)
                .soft(value(ulimit.soft))
                .hard(value(ulimit.hard))
                .build()
                .map_err(|error| Error::invalid(format!("invalid ulimit {}: {error}", ulimit.name)))
        })
        .collect()
}

fn namespaces(own: Vec<LinuxNamespace>, resolved: &Resolved) -> Vec<LinuxNamespace> {
    own.into_iter()
        .filter(|namespace| !resolved.host.contains(&namespace.typ()))
        .map(|mut namespace| {
            let joined = resolved.joined.iter().find(|(kind, _)| *kind == namespace.typ());
            if let Some((_, path)) = joined {
                namespace.set_path(Some(path.clone()));
            }
            namespace
        })
        .collect()
}

fn mount(target: &str, kind: &str, source: &Path, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(target))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

fn mounts(record: &ContainerRecord, resolved: &Resolved, default: Vec<Mount>) -> Result<Vec<Mount>> {
    let spec = &record.spec;
    let mut mounts: Vec<Mount> = Vec::with_capacity(default.len() + spec.mounts.len() + 3);
    for mut standard in default {
        let target = standard.destination().to_string_lossy().into_owned();
        // The caller's own mount on the same place counts.
        if spec.mounts.iter().any(|own| own.target == target) {
            continue;
        }
        let mut options = standard.options().clone().unwrap_or_default();
        if target == "/dev/shm" {
            if spec.without_shm {
                continue;
            }
            if let Some(shared) = &resolved.shm {
                mounts.push(mount(
                    &target,
                    "bind",
                    shared,
                    &["rbind", "rprivate", "nosuid", "nodev", "noexec"],
                ));
                continue;
            }
            let size = spec.shm_size.unwrap_or(SHM_SIZE);
            options.retain(|option| !option.starts_with("size="));
            options.push(format!("size={size}"));
        }
        if spec.security.privileged && ["/sys", "/sys/fs/cgroup"].contains(&target.as_str()) {
            options.retain(|option| option != "ro");
            options.push("rw".to_owned());
        }
        standard.set_options(Some(options));
        mounts.push(standard);
    }
    for name in crate::files::NAMES {
        let target = format!("/etc/{name}");
        if !spec.mounts.iter().any(|own| own.target == target) {
            mounts.push(mount(&target, "bind", &resolved.files.join(name), &["rbind", "rprivate"]));
        }
    }
    // A mount inside another one comes after it, whatever the order they were given in.
    let mut own: Vec<_> = spec.mounts.iter().collect();
    own.sort_by_key(|mount| mount.target.matches('/').count());
    for wanted in own {
        mounts.push(match &wanted.source {
            MountSource::Tmpfs { size, mode, options } => {
                let mut all = vec!["nosuid".to_owned(), "nodev".to_owned(), "noexec".to_owned()];
                all.extend(options.iter().cloned());
                all.extend(size.map(|size| format!("size={size}")));
                all.extend(mode.map(|mode| format!("mode={mode:o}")));
                if wanted.read_only {
                    all.push("ro".to_owned());
                }
                let all: Vec<&str> = all.iter().map(String::as_str).collect();
                mount(&wanted.target, "tmpfs", Path::new("tmpfs"), &all)
            }
            MountSource::Bind { .. } | MountSource::Volume(_) | MountSource::Image(_) => {
                let source = resolved
                    .sources
                    .iter()
                    .find(|(target, _)| *target == wanted.target)
                    .map(|(_, source)| source.as_path())
                    .ok_or_else(|| Error::invalid(format!("the mount {} has no source", wanted.target)))?;
                let propagation =
                    if wanted.propagation.is_empty() { "rprivate" } else { wanted.propagation.as_str() };
                let access = match (wanted.read_only, wanted.only_top_read_only) {
                    (false, _) => "rw",
                    (true, false) => "rro",
                    (true, true) => "ro",
                };
                let bind = match wanted.source {
                    MountSource::Bind { non_recursive: true, .. } => "bind",
                    _ => "rbind",
                };
                let mut options = vec![bind, propagation, access];
                if record.remap.is_some() && matches!(wanted.source, MountSource::Volume(_)) {
                    // A volume holds the numbers that its containers see, whatever they are outside.
                    options.push("idmap");
                }
                mount(&wanted.target, "bind", source, &options)
            }
        });
    }
    Ok(mounts)
}

pub(crate) fn resources(limits: &Resources, security: &Security) -> Result<LinuxResources> {
    let mut resources = LinuxResources::default();
    let mut memory = LinuxMemory::default();
    memory.set_limit(limits.memory.filter(|n| *n > 0));
    // Docker: without a word about swap a container may swap as much as it may hold in memory.
    let swap = match (limits.memory.filter(|n| *n > 0), limits.memory_swap) {
        (Some(memory), None | Some(0)) => memory.checked_mul(2),
        (_, swap) => swap.filter(|n| *n != 0),
    };
    memory.set_swap(swap);
    memory.set_reservation(limits.memory_reservation.filter(|n| *n > 0));
    memory.set_swappiness(limits.memory_swappiness);
    memory.set_disable_oom_killer(limits.oom_kill_disable.filter(|disable| *disable));
    resources.set_memory(Some(memory));
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(limits.cpu_shares.filter(|n| *n > 0));
    if let Some(nano) = limits.nano_cpus.filter(|n| *n > 0) {
        const PERIOD: i64 = 100_000;
        cpu.set_period(Some(PERIOD as u64));
        cpu.set_quota(Some((nano / 10_000).max(1000)));
    } else {
        cpu.set_period(limits.cpu_period.filter(|n| *n > 0));
        cpu.set_quota(limits.cpu_quota.filter(|n| *n != 0));
    }
    cpu.set_cpus(limits.cpuset_cpus.clone().filter(|text| !text.is_empty()));
    cpu.set_realtime_period(limits.cpu_realtime_period.filter(|n| *n > 0));
    cpu.set_realtime_runtime(limits.cpu_realtime_runtime.filter(|n| *n > 0));
    cpu.set_mems(limits.cpuset_mems.clone().filter(|text| !text.is_empty()));
    resources.set_cpu(Some(cpu));
    if let Some(limit) = limits.pids.filter(|n| *n != 0) {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    resources.set_block_io(block_io(limits)?);
    let mut rules = if security.privileged { vec![allow_all_devices()] } else { defaults::device_rules() };
    for device in &security.devices {
        rules.push(device_rule(device)?);
    }
    for rule in &security.device_rules {
        rules.push(parse_device_rule(rule)?);
    }
    resources.set_devices(Some(rules));
    Ok(resources)
}

/// The limits of block devices; none when there are none.
fn block_io(limits: &Resources) -> Result<Option<LinuxBlockIo>> {
    let block = &limits.block;
    let throttle = |list: &[DeviceLimit]| -> Result<Option<Vec<LinuxThrottleDevice>>> {
        let all = list.iter().map(|limit| {
            let node = node(&limit.path)?;
            LinuxThrottleDeviceBuilder::default()
                .major(node.major)
                .minor(node.minor)
                .rate(limit.value)
                .build()
                .map_err(|error| Error::invalid(format!("invalid limit of {}: {error}", limit.path)))
        });
        Ok(Some(all.collect::<Result<Vec<_>>>()?).filter(|all| !all.is_empty()))
    };
    let weights = block.weight.iter().map(|limit| {
        let node = node(&limit.path)?;
        LinuxWeightDeviceBuilder::default()
            .major(node.major)
            .minor(node.minor)
            .weight(u16::try_from(limit.value).unwrap_or(u16::MAX))
            .build()
            .map_err(|error| Error::invalid(format!("invalid weight of {}: {error}", limit.path)))
    });
    let weights = Some(weights.collect::<Result<Vec<_>>>()?).filter(|all| !all.is_empty());
    let weight = limits.blkio_weight.filter(|n| *n > 0);
    if weight.is_none() && *block == BlockLimits::default() {
        return Ok(None);
    }
    let mut block_io = LinuxBlockIo::default();
    block_io
        .set_weight(weight)
        .set_weight_device(weights)
        .set_throttle_read_bps_device(throttle(&block.read_bytes)?)
        .set_throttle_write_bps_device(throttle(&block.write_bytes)?)
        .set_throttle_read_iops_device(throttle(&block.read_operations)?)
        .set_throttle_write_iops_device(throttle(&block.write_operations)?);
    Ok(Some(block_io))
}

/// A rule of the devices control group, as a caller gave it.
pub(crate) fn parse_device_rule(text: &str) -> Result<LinuxDeviceCgroup> {
    dray_runtime::cgroup::parse_device_rule(text)
        .map_err(|_| Error::invalid(format!("invalid device cgroup rule format: '{text}'")))
}

fn allow_all_devices() -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true).set_typ(Some(LinuxDeviceType::A)).set_access(Some("rwm".to_owned()));
    rule
}

struct DeviceNode {
    kind: LinuxDeviceType,
    major: i64,
    minor: i64,
    mode: u32,
}

fn node(path: &str) -> Result<DeviceNode> {
    use rustix::fs::FileType;
    let stat = rustix::fs::stat(path)
        .map_err(|_| Error::invalid(format!("error gathering device information while adding custom device \"{path}\": no such file or directory")))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => LinuxDeviceType::C,
        FileType::BlockDevice => LinuxDeviceType::B,
        _ => {
            return Err(Error::invalid(format!(
                "error gathering device information while adding custom device \"{path}\": not a device node"
            )));
        }
    };
    let major = i64::from(rustix::fs::major(stat.st_rdev));
    let minor = i64::from(rustix::fs::minor(stat.st_rdev));
    Ok(DeviceNode { kind, major, minor, mode: stat.st_mode & 0o7777 })
}

fn device_rule(device: &DeviceSpec) -> Result<LinuxDeviceCgroup> {
    let node = node(&device.host_path)?;
    let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true)
        .set_typ(Some(node.kind))
        .set_major(Some(node.major))
        .set_minor(Some(node.minor))
        .set_access(Some(access.to_owned()));
    Ok(rule)
}

fn device_node(device: &DeviceSpec) -> Result<LinuxDevice> {
    let node = node(&device.host_path)?;
    let mut made = LinuxDevice::default();
    let path = if device.container_path.is_empty() { &device.host_path } else { &device.container_path };
    made.set_path(PathBuf::from(path))
        .set_typ(node.kind)
        .set_major(node.major)
        .set_minor(node.minor)
        .set_file_mode(Some(node.mode))
        .set_uid(Some(0))
        .set_gid(Some(0));
    Ok(made)
}

/// The devices that a privileged container gets: all of the host's `/dev` but what every container has of its own.
fn host_devices() -> Result<Vec<DeviceSpec>> {
    const OWN: &[&str] = &["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
    const PRESENT: &[&str] =
        &["null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "stdin", "stdout", "stderr"];
    let mut devices = Vec::new();
    let mut directories = vec![PathBuf::from("/dev")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).io("list", &directory)? {
            let entry = entry.io("list", &directory)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && !OWN.contains(&name.as_str()) {
                directories.push(entry.path());
                continue;
            }
            use std::os::unix::fs::FileTypeExt;
            let top = directory == Path::new("/dev");
            if (kind.is_char_device() || kind.is_block_device()) && !(top && PRESENT.contains(&name.as_str()))
            {
                let path = entry.path().to_string_lossy().into_owned();
                devices.push(DeviceSpec {
                    host_path: path.clone(),
                    container_path: path,
                    permissions: "rwm".to_owned(),
                });
            }
        }
    }
    Ok(devices)
}
