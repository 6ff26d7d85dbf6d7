//! Facts about the machine, from the kernel and from files that every distribution has.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeSystemInfo;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::error::IoContext;
use crate::{Error, Result};

/// The Kubernetes version whose kubelet this agent behaves as.
pub(crate) const KUBELET_VERSION: &str = "v1.36.0";
/// Pods that a node takes, as the kubelet's default.
const PODS: u32 = 110;

/// What the machine has.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Processors the agent may use.
    pub(crate) processors: usize,
    /// Memory in bytes.
    pub(crate) memory: i64,
    /// Size in bytes of the file system that holds images and volumes.
    pub(crate) disk: i64,
    pub(crate) info: NodeSystemInfo,
}

/// Amounts of resources by name.
pub(crate) type Capacity = BTreeMap<String, Quantity>;

fn text(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Kubernetes' names for processors, which are Go's.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "arm",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn memory_total() -> Result<i64> {
    const PATH: &str = "/proc/meminfo";
    let text = std::fs::read_to_string(PATH).io("read", PATH)?;
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse::<i64>().ok());
    total.map(|kib| kib.saturating_mul(1024)).ok_or_else(|| Error::Io {
        action: "read MemTotal from",
        path: PATH.into(),
        source: std::io::ErrorKind::InvalidData.into(),
    })
}

/// The available memory in bytes.
pub(crate) fn memory_available() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse::<i64>().ok())
        .map_or(i64::MAX, |kib| kib.saturating_mul(1024))
}

/// Processor time of the whole machine since it started, idle time left out (proc_stat(5)).
pub(crate) fn busy() -> Duration {
    /// Ticks of a second in the kernel's answers to programs (time(7)).
    const TICKS: u64 = 100;
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    let ticks = first.split_whitespace().skip(1).take(8).map(|ticks| ticks.parse::<u64>().unwrap_or(0));
    // The fourth and fifth are spent idle, or idle and waiting for a disk.
    let busy: u64 =
        ticks.enumerate().filter(|(index, _)| !matches!(index, 3 | 4)).map(|(_, ticks)| ticks).sum();
    Duration::from_millis(busy.saturating_mul(1000 / TICKS))
}

/// When the machine started.
pub(crate) fn started() -> Timestamp {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<i64>().ok());
    seconds.and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Size and free space of the file system that holds `path`, in bytes.
pub(crate) fn disk(path: &Path) -> Result<(i64, i64)> {
    let statistics = rustix::fs::statvfs(path).io("read the file system of", path)?;
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(statistics.f_frsize)).unwrap_or(i64::MAX);
    Ok((bytes(statistics.f_blocks), bytes(statistics.f_bavail)))
}

impl Machine {
    /// Reads what there is to know.
    ///
    /// # Errors
    /// When the kernel does not tell how much memory there is, or the state directory is on no file system.
    pub(crate) fn read(state_dir: &Path, version: &str) -> Result<Self> {
        let kernel = rustix::system::uname();
        let os_image = text("/etc/os-release")
            .lines()
            .find_map(|line| line.strip_prefix("PRETTY_NAME="))
            .map_or_else(|| "Linux".to_owned(), |name| name.trim_matches(['"', '\'']).to_owned());
        let machine_id = text("/etc/machine-id");
        let system_uuid = Some(text("/sys/class/dmi/id/product_uuid"))
            .filter(|uuid| !uuid.is_empty())
            .unwrap_or_else(|| machine_id.clone());
        Ok(Self {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory: memory_total()?,
            disk: disk(state_dir)?.0,
            info: NodeSystemInfo {
                architecture: architecture().to_owned(),
                boot_id: text("/proc/sys/kernel/random/boot_id"),
                container_runtime_version: format!("dray://{version}"),
                kernel_version: kernel.release().to_string_lossy().into_owned(),
                kube_proxy_version: String::new(),
                kubelet_version: KUBELET_VERSION.to_owned(),
                machine_id,
                operating_system: "linux".to_owned(),
                os_image,
                system_uuid,
                swap: None,
            },
        })
    }
}

impl Machine {
    /// What pods can have of it.
    pub(crate) fn capacity(&self) -> Capacity {
        [
            ("cpu", self.processors.to_string()),
            ("memory", format!("{}Ki", self.memory / 1024)),
            ("ephemeral-storage", format!("{}Ki", self.disk / 1024)),
            ("hugepages-1Gi", "0".to_owned()),
            ("hugepages-2Mi", "0".to_owned()),
            ("pods", PODS.to_string()),
        ]
        .into_iter()
        .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
        .collect()
    }
}

/// The host's own name, lower case as a label must be.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase()
}
