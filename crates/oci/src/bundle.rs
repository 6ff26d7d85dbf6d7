//! A bundle's configuration, read and checked as far as it does not concern the kernel.

use std::path::{Component, Path, PathBuf};

use dray_runtime::defaults;
use dray_runtime::launch::TerminalSize;
use oci_spec::runtime::{LinuxDeviceType, LinuxNamespaceType, LinuxResources, Process, Spec};

use crate::error::{Error, OnFile as _, Result};
use crate::state::read_bounded;

/// Largest configuration that is read, in bytes.
const CONFIG_LIMIT: u64 = 16 << 20;

/// A bundle.
pub(crate) struct Bundle {
    /// Absolute.
    pub(crate) directory: PathBuf,
    /// The root directory; absolute.
    pub(crate) rootfs: PathBuf,
    pub(crate) spec: Spec,
    /// `config.json` as it was read.
    pub(crate) bytes: Vec<u8>,
}

fn invalid(field: &'static str, reason: impl Into<String>) -> Error {
    Error::Invalid { field, reason: reason.into() }
}

/// Reads a configuration, and gives its bytes too.
pub(crate) fn parse(path: &Path) -> Result<(Spec, Vec<u8>)> {
    let bytes = read_bounded(path, CONFIG_LIMIT)?;
    let spec = serde_json::from_slice(&bytes).map_err(|source| Error::Json {
        what: "configuration",
        path: path.into(),
        source,
    })?;
    Ok((spec, bytes))
}

impl Bundle {
    /// Reads `config.json` of a directory.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let directory = std::fs::canonicalize(directory).on("find", directory)?;
        let (mut spec, bytes) = parse(&directory.join("config.json"))?;
        check_version(spec.version())?;
        let root = spec.root().as_ref().ok_or_else(|| invalid("root", "it is missing"))?;
        let rootfs = directory.join(root.path());
        let rootfs = std::fs::canonicalize(&rootfs).on("find", &rootfs)?;
        for mount in spec.mounts_mut().iter_mut().flatten() {
            // Destinations without a leading slash are an old habit.
            if !mount.destination().is_absolute() {
                let destination = Path::new("/").join(mount.destination());
                mount.set_destination(destination);
            }
            let bind = mount.typ().as_deref() == Some("bind")
                || mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind");
            if let Some(source) = mount.source().clone().filter(|source| bind && !source.is_absolute()) {
                mount.set_source(Some(directory.join(source)));
            }
        }
        let linux = spec.linux_mut().as_mut().ok_or_else(|| invalid("linux", "it is missing"))?;
        allow_default_devices(linux.resources_mut().get_or_insert_with(no_resources));
        Ok(Self { directory, rootfs, spec, bytes })
    }

    pub(crate) fn process(&self) -> Result<&Process> {
        self.spec.process().as_ref().ok_or_else(|| invalid("process", "it is missing"))
    }

    pub(crate) fn has_own_pid_namespace(&self) -> bool {
        let namespaces = self.spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten());
        namespaces.into_iter().any(|one| one.typ() == LinuxNamespaceType::Pid && one.path().is_none())
    }

    /// The control group below the hierarchies' roots: `linux.cgroupsPath`, else the container's name.
    pub(crate) fn cgroup(&self, id: &str, systemd: bool) -> Option<PathBuf> {
        let path = self.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
        let path = path.filter(|path| !path.as_os_str().is_empty());
        let path = match path {
            None if systemd => PathBuf::from(format!("system.slice/dray-{id}.scope")),
            None => PathBuf::from(id),
            Some(path) => path,
        };
        let text = path.to_string_lossy().into_owned();
        let parts: Vec<&str> = text.split(':').collect();
        let path = match parts.as_slice() {
            [slice, prefix, name] if systemd => {
                let slice = if slice.is_empty() { "system.slice" } else { slice };
                let unit = if prefix.is_empty() { (*name).to_owned() } else { format!("{prefix}-{name}") };
                let unit = if unit.ends_with(".slice") { unit } else { format!("{unit}.scope") };
                Path::new(slice).join(unit)
            }
            _ => path,
        };
        // Neither a leading slash nor dots lead anywhere else.
        let mut plain = PathBuf::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => plain.push(name),
                Component::ParentDir => {
                    plain.pop();
                }
                _ => {}
            }
        }
        // Rootless containers stay in the group of their user.
        Some(plain).filter(|path| !path.as_os_str().is_empty() && rustix::process::geteuid().is_root())
    }
}

fn no_resources() -> LinuxResources {
    let mut resources = LinuxResources::default();
    resources.set_devices(None);
    resources
}

/// Whatever rules a bundle has, the devices that every container gets can be used; without rules no others can.
fn allow_default_devices(resources: &mut LinuxResources) {
    let defaults = defaults::device_rules();
    match resources.devices_mut() {
        Some(rules) if !rules.is_empty() => {
            let everything = rules
                .last()
                .is_some_and(|rule| rule.allow() && rule.typ().is_none_or(|kind| kind == LinuxDeviceType::A));
            if !everything {
                rules.extend(defaults.into_iter().skip(1));
            }
        }
        none => *none = Some(defaults),
    }
}

/// The size of a process' terminal, when it wants one.
pub(crate) fn terminal(process: &Process) -> Option<TerminalSize> {
    if process.terminal() != Some(true) {
        return None;
    }
    let size = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
    Some(match process.console_size() {
        Some(console) => TerminalSize { width: size(console.width()), height: size(console.height()) },
        None => TerminalSize::default(),
    })
}

/// The specification's versions are semantic ones; this runtime knows the first.
fn check_version(version: &str) -> Result<()> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u32>> = core.split('.').map(|part| part.parse().ok()).collect();
    match numbers.as_slice() {
        [Some(1), Some(_), Some(_)] => Ok(()),
        [Some(_), Some(_), Some(_)] => Err(invalid("ociVersion", format!("{version} is not supported"))),
        _ => Err(invalid("ociVersion", format!("{version:?} is not a version"))),
    }
}
