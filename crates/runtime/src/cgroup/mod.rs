//! Control groups: one group of a container in every hierarchy of the host, with its limits and its statistics.
//!
//! Version 2 is what this module is about; the eight directories of version 1 (also in hybrid hosts) are hidden
//! behind the same functions. It knows paths below the hierarchies' roots, not containers.

mod devices;
mod hierarchy;
mod limits;
mod statistics;
mod v1;
mod v2;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::fs::{Mode, OFlags, open};

use crate::{Error, Result};
pub use devices::parse_device_rule;
pub use hierarchy::{Controller, Hierarchy, Version};
pub use statistics::{CpuStatistics, DeviceIo, MemoryStatistics, PidStatistics, Statistics};

/// How long [`Cgroup::delete`] waits for the last process to leave.
const DELETE_DEADLINE: Duration = Duration::from_secs(2);

/// One group, by its path below the root of every hierarchy.
#[derive(Clone, Debug)]
pub struct Cgroup {
    hierarchy: &'static Hierarchy,
    path: PathBuf,
}

impl Cgroup {
    /// Names a group, which need not exist. The path is relative and has only plain names.
    pub fn new(path: &Path) -> Result<Self> {
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || path.as_os_str().is_empty() || path.as_os_str().len() > 1024 {
            return Err(Error::Invalid {
                field: "cgroup",
                reason: format!("{} is not a relative path of plain names", path.display()),
            });
        }
        Ok(Self { hierarchy: Hierarchy::detect()?, path: path.into() })
    }

    /// Makes the group, its parents where missing, and sets limits. Existing directories are taken over.
    pub fn create(path: &Path, resources: Option<&LinuxResources>) -> Result<Self> {
        let group = Self::new(path)?;
        match group.hierarchy.version() {
            Version::V2 => v2::create(&group)?,
            Version::V1 | Version::Hybrid => v1::create(&group)?,
        }
        if let Some(resources) = resources {
            group.set(resources, true)?;
        }
        Ok(group)
    }

    /// Path below the roots.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The group's directory of one controller.
    pub fn directory(&self, controller: Controller) -> Option<PathBuf> {
        self.hierarchy.root(controller).map(|root| root.join(&self.path))
    }

    /// Whether the group exists in the hierarchy that tracks processes.
    pub fn exists(&self) -> bool {
        self.tracking_directory().is_dir()
    }

    /// On version 2 the directory for CLONE_INTO_CGROUP, otherwise none.
    pub fn descriptor(&self) -> Result<Option<OwnedFd>> {
        if self.hierarchy.version() != Version::V2 {
            return Ok(None);
        }
        let path = self.tracking_directory();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open(&path, flags, Mode::empty()).map(Some).map_err(|errno| Error::File {
            operation: "open",
            path,
            source: errno.into(),
        })
    }

    /// Moves a process into the group.
    pub fn add(&self, pid: i32) -> Result<()> {
        for directory in self.directories() {
            let file = directory.join("cgroup.procs");
            match std::fs::write(&file, pid.to_string()) {
                Ok(()) => {}
                // cpuset and hugetlb exist only where a limit asked for them.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(Error::File { operation: "add a process to", path: file, source }),
            }
        }
        Ok(())
    }

    /// Changes limits; those that are not given stay. Device rules stay as they are.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        self.set(resources, false)
    }

    fn set(&self, resources: &LinuxResources, first: bool) -> Result<()> {
        match self.hierarchy.version() {
            Version::V2 => v2::set(self, resources, first),
            Version::V1 | Version::Hybrid => v1::set(self, resources, first),
        }
    }

    /// Stops every process of the group and waits until all stand still.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)
    }

    /// Lets the processes go on.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let version = self.hierarchy.version();
        let directory =
            self.directory(Controller::Freezer).ok_or(Error::NoController { controller: "freezer" })?;
        let (file, value) = match (version, frozen) {
            (Version::V2, true) => ("cgroup.freeze", "1"),
            (Version::V2, false) => ("cgroup.freeze", "0"),
            (_, true) => ("freezer.state", "FROZEN"),
            (_, false) => ("freezer.state", "THAWED"),
        };
        loop {
            limits::write(&directory, file, value)?;
            let done = match version {
                Version::V2 => {
                    let events = std::fs::read_to_string(directory.join("cgroup.events")).unwrap_or_default();
                    events.contains(if frozen { "frozen 1" } else { "frozen 0" })
                }
                _ => std::fs::read_to_string(directory.join(file)).is_ok_and(|state| state.trim() == value),
            };
            if done {
                return Ok(());
            }
            if Instant::now() > deadline {
                // A half frozen group would hang everything that follows.
                let _ = limits::write(&directory, file, if version == Version::V2 { "0" } else { "THAWED" });
                return Err(Error::CgroupLimit {
                    path: directory,
                    file: file.into(),
                    value: value.into(),
                    source: io::ErrorKind::TimedOut.into(),
                });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends SIGKILL to every process of the group and its children groups.
    pub fn kill_all(&self) -> Result<()> {
        let directory = self.tracking_directory();
        if self.hierarchy.version() == Version::V2 {
            match std::fs::write(directory.join("cgroup.kill"), "1") {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound && !directory.exists() => return Ok(()),
                // Before Linux 5.14 there is no such file.
                Err(_) => {}
            }
        }
        // What is killed may just have forked: again until nobody is left.
        for _ in 0..64 {
            let pids = self.pids()?;
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                let _ = crate::sys::kill(pid, libc::SIGKILL);
            }
            // A frozen process dies only when it is thawed.
            let _ = self.thaw_if_frozen();
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// Whether its processes were told to stand still.
    pub fn is_frozen(&self) -> bool {
        let Some(directory) = self.directory(Controller::Freezer) else { return false };
        let file = if self.hierarchy.version() == Version::V2 { "cgroup.freeze" } else { "freezer.state" };
        let state = std::fs::read_to_string(directory.join(file)).unwrap_or_default();
        matches!(state.trim(), "1" | "FROZEN" | "FREEZING")
    }

    fn thaw_if_frozen(&self) -> Result<()> {
        if self.is_frozen() { self.thaw() } else { Ok(()) }
    }

    /// Pids of the group's processes and those of its children groups; empty when it does not exist.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        collect_pids(&self.tracking_directory(), 0, &mut pids)?;
        Ok(pids)
    }

    /// What the group has used.
    pub fn statistics(&self) -> Statistics {
        statistics::read(self)
    }

    /// How often the kernel has killed a process of the group for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let Some(directory) = self.directory(Controller::Memory) else { return 0 };
        let file =
            if self.hierarchy.version() == Version::V2 { "memory.events" } else { "memory.oom_control" };
        statistics::keyed(&directory.join(file), "oom_kill").unwrap_or(0)
    }

    /// Removes the group with its children groups; a group that does not exist is fine.
    ///
    /// Waits up to two seconds for processes that are just ending.
    pub fn delete(&self) -> Result<()> {
        let deadline = Instant::now() + DELETE_DEADLINE;
        for directory in self.directories() {
            remove(&directory, deadline)?;
        }
        Ok(())
    }

    /// Every directory of the group, each once.
    fn directories(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.hierarchy.roots().map(|root| root.join(&self.path))
    }

    /// The directory whose `cgroup.procs` tells the members.
    fn tracking_directory(&self) -> PathBuf {
        let root = self.hierarchy.root(Controller::Pids).or_else(|| self.hierarchy.roots().next());
        root.unwrap_or(Path::new("/sys/fs/cgroup")).join(&self.path)
    }
}

/// Makes one directory, or takes an existing one over. It can be looked at whatever the umask says: a container in a
/// user namespace is shown its own group.
fn make_directory(directory: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let made = std::fs::create_dir(directory)
        .and_then(|()| std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)));
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => {
            result.map_err(|source| Error::File { operation: "create", path: directory.into(), source })
        }
    }
}

fn collect_pids(directory: &Path, depth: usize, pids: &mut Vec<i32>) -> Result<()> {
    let path = directory.join("cgroup.procs");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|&pid| pid > 0))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
        Err(source) => return Err(Error::File { operation: "read", path, source }),
    }
    if depth < 32 {
        for child in children(directory) {
            collect_pids(&child, depth + 1, pids)?;
        }
    }
    Ok(())
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove(directory: &Path, deadline: Instant) -> Result<()> {
    loop {
        let error = match std::fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::ENOENT) => return Ok(()),
            Some(libc::EBUSY | libc::ENOTEMPTY) if Instant::now() < deadline => {
                for child in children(directory) {
                    remove(&child, deadline)?;
                }
                std::thread::sleep(Duration::from_micros(500));
            }
            _ => return Err(Error::File { operation: "remove", path: directory.into(), source: error }),
        }
    }
}
