//! Which control group hierarchies the host has and where they are mounted.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::{Error, Result};

/// A controller that limits or counts something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// Processor shares and quotas.
    Cpu,
    /// Processor time used (part of `cpu` on version 2).
    CpuAccounting,
    /// Which processors and memory nodes.
    Cpuset,
    /// Memory.
    Memory,
    /// Number of processes.
    Pids,
    /// Block devices.
    Io,
    /// Access to device nodes (a BPF program on version 2).
    Devices,
    /// Stopping all processes at once (part of the core on version 2).
    Freezer,
    /// Huge pages.
    Hugetlb,
    /// Class of network packets (version 1 only).
    NetworkClass,
    /// Priority of network packets (version 1 only).
    NetworkPriority,
    /// Remote direct memory access.
    Rdma,
}

/// Controllers with their names on version 1, in the order in which groups are made.
const CONTROLLERS: [(Controller, &str); 12] = [
    (Controller::Pids, "pids"),
    (Controller::Memory, "memory"),
    (Controller::Cpu, "cpu"),
    (Controller::CpuAccounting, "cpuacct"),
    (Controller::Devices, "devices"),
    (Controller::Freezer, "freezer"),
    (Controller::Io, "blkio"),
    (Controller::Cpuset, "cpuset"),
    (Controller::Hugetlb, "hugetlb"),
    (Controller::NetworkClass, "net_cls"),
    (Controller::NetworkPriority, "net_prio"),
    (Controller::Rdma, "rdma"),
];

/// The kind of hierarchy of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One unified hierarchy.
    V2,
    /// One hierarchy a controller.
    V1,
    /// Version 1 with an additional unified hierarchy without controllers, which is not used.
    Hybrid,
}

/// The hierarchies of this host.
#[derive(Debug)]
pub struct Hierarchy {
    version: Version,
    /// Mount points; on version 2 the one root for all.
    mounts: Vec<(Controller, PathBuf)>,
    roots: Vec<PathBuf>,
}

impl Hierarchy {
    /// Finds the hierarchies from `/proc/self/mountinfo`, once a process.
    pub fn detect() -> Result<&'static Self> {
        static FOUND: OnceLock<Hierarchy> = OnceLock::new();
        if let Some(found) = FOUND.get() {
            return Ok(found);
        }
        let path = Path::new("/proc/self/mountinfo");
        let text = std::fs::read_to_string(path).map_err(|source| Error::File {
            operation: "read",
            path: path.into(),
            source,
        })?;
        let found = Self::parse(&text).ok_or(Error::NoController { controller: "mounted" })?;
        Ok(FOUND.get_or_init(|| found))
    }

    /// The kind of hierarchy.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Root directory of a controller, if the host has it.
    pub fn root(&self, controller: Controller) -> Option<&Path> {
        self.mounts.iter().find(|(one, _)| *one == controller).map(|(_, root)| root.as_path())
    }

    /// Root directories with the names of their controllers.
    pub(crate) fn mounted(&self) -> impl Iterator<Item = (&Path, Vec<&'static str>)> {
        self.roots().map(|root| {
            let here = |one: &Controller| self.root(*one) == Some(root);
            (root, CONTROLLERS.iter().filter(|(one, _)| here(one)).map(|(_, name)| *name).collect())
        })
    }

    /// Root directories, each once.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Path> {
        self.roots.iter().map(PathBuf::as_path)
    }

    fn parse(mountinfo: &str) -> Option<Self> {
        let mut mounts: Vec<(Controller, PathBuf)> = Vec::new();
        let mut unified = None;
        for line in mountinfo.lines() {
            let (left, right) = line.split_once(" - ")?;
            let mut left = left.split(' ');
            let mount_point = unescape(left.nth(4)?);
            let mut right = right.split(' ');
            match right.next()? {
                "cgroup2" => {
                    unified.get_or_insert(mount_point);
                }
                "cgroup" => {
                    let options: Vec<&str> = right.nth(1).unwrap_or_default().split(',').collect();
                    for (controller, name) in CONTROLLERS {
                        if options.contains(&name) && !mounts.iter().any(|(one, _)| *one == controller) {
                            mounts.push((controller, mount_point.clone()));
                        }
                    }
                }
                _ => {}
            }
        }
        let version = match (&unified, mounts.is_empty()) {
            (None, true) => return None,
            (Some(_), true) => Version::V2,
            (Some(_), false) => Version::Hybrid,
            (None, false) => Version::V1,
        };
        if let (Version::V2, Some(root)) = (version, unified) {
            mounts = CONTROLLERS.map(|(controller, _)| (controller, root.clone())).into();
        }
        mounts.sort_by_key(|(controller, _)| CONTROLLERS.iter().position(|(one, _)| one == controller));
        let mut roots: Vec<PathBuf> = Vec::new();
        for (_, root) in &mounts {
            if !roots.contains(root) {
                roots.push(root.clone());
            }
        }
        Some(Self { version, mounts, roots })
    }
}

/// Octal escapes of mountinfo (proc(5)).
fn unescape(field: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_kinds_of_hosts_are_told_apart() {
        let v2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        let found = Hierarchy::parse(v2).unwrap();
        assert_eq!(found.version(), Version::V2);
        assert_eq!(found.root(Controller::Memory), Some(Path::new("/sys/fs/cgroup")));
        assert_eq!(found.roots().count(), 1);

        let v1 = "31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                  32 25 0:28 / /sys/fs/cgroup/me\\040mory rw - cgroup cgroup rw,memory";
        let found = Hierarchy::parse(v1).unwrap();
        assert_eq!(found.version(), Version::V1);
        assert_eq!(found.root(Controller::Memory), Some(Path::new("/sys/fs/cgroup/me mory")));
        assert_eq!(found.root(Controller::Pids), None);
        assert_eq!(found.roots().count(), 2);

        assert_eq!(Hierarchy::parse(&format!("{v1}\n{v2}")).unwrap().version(), Version::Hybrid);
        assert!(Hierarchy::parse("22 1 0:2 / / rw - ext4 /dev/vda rw").is_none());
    }
}
