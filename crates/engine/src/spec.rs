//! What a caller asks of a container, in words of neither API.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use dray_runtime::security;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::health::HealthCheck;

pub use dray_network::ports::Protocol;
pub use dray_runtime::launch::{LogForward, SyslogFormat, TerminalSize};

/// A container to be made. Values left out come from the image.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// The name; without one the engine gives one.
    pub name: Option<String>,
    /// The image, by any name the store resolves.
    pub image: String,
    /// The entry point; an empty one removes the image's.
    pub entrypoint: Option<Vec<String>>,
    /// The command, or the entry point's arguments.
    pub cmd: Option<Vec<String>>,
    /// `NAME=value` entries over the image's; `NAME` alone removes it.
    pub env: Vec<String>,
    /// `NAME=value` entries over all others that are no part of the container's record: what only its process may have.
    /// They are gone when the daemon starts anew.
    #[serde(skip)]
    pub secret_env: Vec<String>,
    /// The working directory.
    pub working_dir: Option<String>,
    /// The user, `name`, `uid` or either with `:group`.
    pub user: Option<String>,
    /// Supplementary groups, by name or number.
    pub groups: Vec<String>,
    /// The host name; without one the short id.
    pub hostname: Option<String>,
    /// The NIS domain name.
    pub domain_name: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Whether the process gets a terminal.
    pub tty: bool,
    /// Whether standard input stays open.
    pub open_stdin: bool,
    /// Whether standard input closes after the first client.
    pub stdin_once: bool,
    /// The signal that asks the process to stop.
    pub stop_signal: Option<String>,
    /// How long it may take to stop before it is killed.
    pub stop_timeout: Option<Duration>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// The network.
    pub network: NetworkMode,
    /// More about its place in each network, by network name.
    pub endpoints: BTreeMap<String, EndpointSpec>,
    /// Published ports.
    pub ports: Vec<PortBinding>,
    /// Ports that the container says it serves, as `80/tcp`, besides those of its image.
    pub exposed: Vec<String>,
    /// Whether every port that the image exposes is published on a free host port.
    pub publish_all: bool,
    /// What happens when the process ends.
    pub restart: RestartPolicy,
    /// How its health is checked; what is left out comes from the image.
    pub health: Option<HealthCheck>,
    /// Limits.
    pub resources: Resources,
    /// Isolation.
    pub security: Security,
    /// The pid namespace.
    pub pid: NamespaceMode,
    /// The ipc namespace.
    pub ipc: NamespaceMode,
    /// The uts namespace.
    pub uts: NamespaceMode,
    /// The user namespace, where the engine has one for its containers.
    pub user_namespace: NamespaceMode,
    /// The cgroup namespace.
    pub cgroup_namespace: NamespaceMode,
    /// Whether other containers may join the ipc namespace and `/dev/shm`.
    pub shareable_ipc: bool,
    /// Whether `/dev/shm` is left out.
    pub without_shm: bool,
    /// Whether the program runs beneath an init process, which reaps and forwards signals.
    pub init: bool,
    /// Name service.
    pub dns: DnsOptions,
    /// `name:address` lines for `/etc/hosts`.
    pub extra_hosts: Vec<String>,
    /// Whether the container is removed when its process ends.
    pub auto_remove: bool,
    /// Whether it belongs to work that does not outlive the daemon: the next start removes it.
    pub transient: bool,
    /// Where its output is kept.
    pub log: LogPolicy,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: Option<u64>,
    /// Kernel settings, by name.
    pub sysctls: BTreeMap<String, String>,
    /// Resource limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Added to the score by which the kernel chooses whom to kill for memory.
    pub oom_score_adj: Option<i32>,
    /// The cgroup above the container's, below the engine's own.
    pub cgroup_parent: Option<String>,
    /// What the caller wants kept with the container and given back; the engine does not look into it.
    pub api: Value,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What is mounted.
    pub source: MountSource,
    /// Where, an absolute path in the container.
    pub target: String,
    /// Whether it cannot be written.
    pub read_only: bool,
    /// Whether what is mounted below it can be written all the same.
    #[serde(default)]
    pub only_top_read_only: bool,
    /// Propagation (`rprivate`, `rshared`, …); empty means `rprivate`.
    #[serde(default)]
    pub propagation: String,
}

/// A volume that is mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// The name; an empty one makes an anonymous volume.
    pub name: String,
    /// Whether a new volume is not filled from the image.
    pub no_copy: bool,
    /// A path in the volume that is mounted instead of all of it; empty means all.
    #[serde(default)]
    pub subpath: String,
    /// Labels of the volume, if it is made.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Options of the local driver, if it is made.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// An image that is mounted, read-only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMount {
    /// Its name or id.
    pub image: String,
    /// A path in the image that is mounted instead of all of it; empty means all.
    pub subpath: String,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A path of the host; made as a directory when it is not there and `create` is set.
    Bind {
        /// The path.
        path: String,
        /// Whether a missing path is made.
        create: bool,
        /// Whether what is mounted below the path stays behind.
        #[serde(default)]
        non_recursive: bool,
    },
    /// A volume.
    Volume(VolumeMount),
    /// An image's files.
    Image(ImageMount),
    /// A file system in memory.
    Tmpfs {
        /// Size in bytes.
        size: Option<u64>,
        /// Permission bits.
        mode: Option<u32>,
        /// More options, as mount(8) has them.
        options: Vec<String>,
    },
}

/// The network a container is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// The default bridge.
    #[default]
    Default,
    /// A network by name or id.
    Named(String),
    /// The host's.
    Host,
    /// Only a loopback interface.
    None,
    /// That of another container.
    Container(String),
    /// The namespaces (network, ipc, uts) of a sandbox.
    Sandbox(String),
}

/// A container's place in one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSpec {
    /// More names in this network.
    pub aliases: Vec<String>,
    /// A fixed address.
    pub address: Option<Ipv4Addr>,
    /// A fixed IPv6 address.
    pub ipv6_address: Option<Ipv6Addr>,
    /// A fixed hardware address, as text.
    pub mac: Option<String>,
    /// `container:alias`: names that only this container knows others by.
    pub links: Vec<String>,
    /// Options for the driver, kept as they came.
    pub driver_options: BTreeMap<String, String>,
    /// Among several networks the one with the highest is the way to everywhere else.
    pub gateway_priority: i64,
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// Port in the container.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Address of the host; unspecified means all.
    pub host_address: IpAddr,
    /// Port of the host; 0 lets the engine choose.
    pub host_port: u16,
    /// With a port of the host, the last of those that the first free one is taken of; 0 for that port alone.
    #[serde(default)]
    pub host_port_last: u16,
}

/// What happens when the process ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// It starts again, also after a restart of the daemon, unless it was stopped by hand.
    Always,
    /// As always, but not after a restart of the daemon when it was stopped before.
    UnlessStopped,
    /// It starts again when the exit code is not 0, at most so often (0 means without limit).
    OnFailure {
        /// The limit.
        maximum: u32,
    },
}

/// Limits; none means no limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Memory in bytes.
    pub memory: Option<i64>,
    /// Memory and swap in bytes; -1 is unlimited swap.
    pub memory_swap: Option<i64>,
    /// Soft limit of memory in bytes.
    pub memory_reservation: Option<i64>,
    /// Processor time in billionths of a processor.
    pub nano_cpus: Option<i64>,
    /// Relative weight.
    pub cpu_shares: Option<u64>,
    /// Length of a scheduling period in microseconds.
    pub cpu_period: Option<u64>,
    /// Processor time in each period in microseconds.
    pub cpu_quota: Option<i64>,
    /// Processors, `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    /// Number of tasks.
    pub pids: Option<i64>,
    /// Relative weight of block I/O, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// Limits of single block devices.
    pub block: BlockLimits,
    /// How readily memory is swapped out, 0 to 100 (cgroup v1 only).
    pub memory_swappiness: Option<u64>,
    /// Whether processes wait for memory instead of being killed (cgroup v1 only).
    pub oom_kill_disable: Option<bool>,
    /// Length of a real-time period in microseconds.
    pub cpu_realtime_period: Option<u64>,
    /// Real-time in each period in microseconds.
    pub cpu_realtime_runtime: Option<i64>,
}

/// Limits of single block devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockLimits {
    /// Relative weights, 10 to 1000.
    pub weight: Vec<DeviceLimit>,
    /// Bytes read a second.
    pub read_bytes: Vec<DeviceLimit>,
    /// Bytes written a second.
    pub write_bytes: Vec<DeviceLimit>,
    /// Reads a second.
    pub read_operations: Vec<DeviceLimit>,
    /// Writes a second.
    pub write_operations: Vec<DeviceLimit>,
}

/// A number for a block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLimit {
    /// The device's path on the host.
    pub path: String,
    /// The limit.
    pub value: u64,
}

/// Isolation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    /// All capabilities, all devices, nothing masked.
    pub privileged: bool,
    /// Capabilities over the default set, `CAP_X`, `X` or `ALL`.
    pub capabilities_add: Vec<String>,
    /// Capabilities taken from the default set.
    pub capabilities_drop: Vec<String>,
    /// Whether the root file system cannot be written.
    pub read_only_root: bool,
    /// Whether execve cannot give more privileges.
    pub no_new_privileges: bool,
    /// The system call filter.
    pub seccomp: SeccompMode,
    /// Paths masked instead of the default ones.
    pub masked_paths: Option<Vec<String>>,
    /// Paths read-only instead of the default ones.
    pub read_only_paths: Option<Vec<String>>,
    /// Devices.
    pub devices: Vec<DeviceSpec>,
    /// More rules of the devices control group, `c 1:3 rwm`.
    pub device_rules: Vec<String>,
    /// The AppArmor profile, where the host has AppArmor, `unconfined` being none; not given, the default one where the
    /// host has it.
    pub apparmor: Option<String>,
}

/// The profile that Docker and distributions give containers.
const DEFAULT_APPARMOR_PROFILE: &str = "docker-default";

impl Security {
    /// The AppArmor profile that confines the container on this host.
    #[must_use]
    pub fn apparmor_profile(&self) -> Option<String> {
        match self.apparmor.as_deref() {
            Some("unconfined") => None,
            // A profile means nothing where the kernel has no AppArmor.
            Some(profile) => security::has_apparmor().then(|| profile.to_owned()),
            None if self.privileged => None,
            None => security::has_apparmor_profile(DEFAULT_APPARMOR_PROFILE)
                .then(|| DEFAULT_APPARMOR_PROFILE.to_owned()),
        }
    }
}

/// The system call filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompMode {
    /// The default profile.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// A profile in Docker's JSON format.
    Profile(String),
}

/// A device of the host in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// Path on the host.
    pub host_path: String,
    /// Path in the container.
    pub container_path: String,
    /// `r`, `w` and `m`.
    pub permissions: String,
}

/// The namespace a container is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceMode {
    /// One of its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// That of another container.
    Container(String),
}

/// Name service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsOptions {
    /// Name servers; none means the engine's own.
    pub servers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
    /// Options of resolv.conf(5).
    pub options: Vec<String>,
}

/// Where output is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPolicy {
    /// Whether it is kept at all.
    pub keep: bool,
    /// Bytes at which the file is rotated; none never rotates.
    pub max_size: Option<u64>,
    /// How many files are kept.
    pub max_files: u32,
    /// Where each line is sent besides; templates in it are filled in at each start.
    #[serde(default)]
    pub forward: Option<LogForward>,
    /// Template of the name that lines carry: `{{.ID}}`, `{{.FullID}}`, `{{.Name}}`, `{{.ImageName}}`, `{{.ImageID}}`,
    /// `{{.DaemonName}}`.
    #[serde(default)]
    pub tag: Option<String>,
    /// Labels that each line carries.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Variables of the environment that each line carries.
    #[serde(default)]
    pub env: Vec<String>,
}

impl Default for LogPolicy {
    /// Rotation is on: 16 MiB, four files, so that no container can fill the disk.
    fn default() -> Self {
        Self {
            keep: true,
            max_size: Some(16 << 20),
            max_files: 4,
            forward: None,
            tag: None,
            labels: Vec::new(),
            env: Vec::new(),
        }
    }
}

/// A resource limit of getrlimit(2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// The name without `RLIMIT_`, lower case: `nofile`.
    pub name: String,
    /// Soft limit; -1 is unlimited.
    pub soft: i64,
    /// Hard limit; -1 is unlimited.
    pub hard: i64,
}
