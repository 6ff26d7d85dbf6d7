//! Looking at containers: their processes, what they use, and how much they wrote.

use std::fs;
use std::path::Path;
use std::time::Duration;

use dray_runtime::ProcessEntry;
use dray_runtime::cgroup::Statistics;
use jiff::Timestamp;

use crate::container::ContainerHandle;
use crate::error::Trying;
use crate::record::{ContainerRecord, Status};
use crate::{Engine, Error, Result};

/// Ticks of a second in the kernel's answers to user space (time(7): USER_HZ is 100 on all that we run on).
const TICKS: u64 = 100;
/// Bytes of a file of /proc that are read.
const LONGEST: usize = 64 * 1024;

/// What an interface has carried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Its name in the container.
    pub name: String,
    /// Bytes, packets, errors and drops received.
    pub received: [u64; 4],
    /// Bytes, packets, errors and drops sent.
    pub sent: [u64; 4],
}

/// What a container uses at one time.
#[derive(Clone, Debug)]
pub struct Usage {
    /// When it was read.
    pub read: Timestamp,
    /// What its control group counts.
    pub statistics: Statistics,
    /// Processor time of the whole host since it started, idle included.
    pub host_cpu: Duration,
    /// Memory of the host in bytes: the limit of containers without one.
    pub host_memory: u64,
    /// Its interfaces.
    pub interfaces: Vec<InterfaceCounters>,
}

impl Engine {
    /// The processes of a running container, in the order of their numbers.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it does not run.
    pub async fn processes(&self, container: &ContainerHandle) -> Result<Vec<ProcessEntry>> {
        let record = container.record();
        if record.state.status != Status::Running {
            return Err(Error::conflict(format!("container {} is not running", record.id)));
        }
        self.blocking(move |engine| {
            let mut pids = engine.group_of(&record)?.pids().trying("list the container's processes")?;
            pids.sort_unstable();
            pids.dedup();
            // One that ends meanwhile is simply no longer listed.
            Ok(pids.into_iter().filter_map(ProcessEntry::of).collect())
        })
        .await
    }

    /// What a container uses now; none when it does not run.
    ///
    /// # Errors
    /// When the control group cannot be named.
    pub async fn usage(&self, container: &ContainerHandle) -> Result<Option<Usage>> {
        let record = container.record();
        let Some(process) = record.state.process.filter(|_| record.state.status == Status::Running) else {
            return Ok(None);
        };
        self.blocking(move |engine| {
            let memory = rustix::system::sysinfo();
            Ok(Some(Usage {
                read: Timestamp::now(),
                statistics: engine.group_of(&record)?.statistics(),
                host_cpu: host_cpu(),
                host_memory: memory.totalram.saturating_mul(u64::from(memory.mem_unit)),
                interfaces: interfaces(process.pid),
            }))
        })
        .await
    }

    /// Bytes of the files that a container wrote over its image. This looks at each file.
    #[must_use]
    pub fn written_size(&self, record: &ContainerRecord) -> u64 {
        tree_size(&self.container_dir(&record.id).join("upper"))
    }

    /// Bytes of the files in a volume. This looks at each file.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn volume_size(&self, name: &str) -> Result<u64> {
        Ok(tree_size(&self.volume(name)?.mountpoint))
    }
}

/// Bytes of all regular files below a directory, each counted once; what cannot be read counts nothing.
fn tree_size(root: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let (mut size, mut seen) = (0, std::collections::HashSet::new());
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            // Links are not followed by either call.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if metadata.is_file()
                && (metadata.nlink() == 1 || seen.insert((metadata.dev(), metadata.ino())))
            {
                size += metadata.size();
            }
        }
    }
    size
}

fn read_proc(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).ok()?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, LONGEST as u64), &mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn host_cpu() -> Duration {
    let text = read_proc("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    // User to steal; the two that follow are part of the first two (proc_stat(5)).
    let ticks: u64 = line.split_whitespace().skip(1).take(8).filter_map(|n| n.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks.saturating_mul(1000) / TICKS)
}

fn interfaces(pid: i32) -> Vec<InterfaceCounters> {
    let text = read_proc(&format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let lines = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    lines
        .filter(|(name, _)| name.trim() != "lo")
        .map(|(name, numbers)| {
            let numbers: Vec<u64> = numbers.split_whitespace().map(|n| n.parse().unwrap_or(0)).collect();
            let four =
                |from: usize| std::array::from_fn(|index| numbers.get(from + index).copied().unwrap_or(0));
            InterfaceCounters { name: name.trim().to_owned(), received: four(0), sent: four(8) }
        })
        .collect()
}
