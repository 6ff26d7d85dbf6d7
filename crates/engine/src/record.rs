//! What the engine writes down about a container, so that the next start of the daemon finds it again.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use dray_image::{Digest, Layer};
use dray_runtime::Process;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::IoContext;
use crate::health::{Health, HealthCheck};
use crate::spec::{ContainerSpec, PortBinding};
use crate::{Error, Id, Remap, Result};

/// A container as it stands on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// The id.
    pub id: Id,
    /// The name, without a slash.
    pub name: String,
    /// What was asked.
    pub spec: ContainerSpec,
    /// The image's id.
    pub image: Digest,
    /// The image's layers, lowest first.
    pub layers: Vec<Layer>,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// The environment of the process.
    pub env: Vec<String>,
    /// The user as text; empty means root.
    pub user: String,
    /// The working directory.
    pub working_dir: String,
    /// The signal that asks it to stop, as a number.
    pub stop_signal: i32,
    /// The user namespace it runs in; none is the host's.
    #[serde(default)]
    pub remap: Option<Remap>,
    /// How its health is checked; none when it is not.
    #[serde(default)]
    pub health_check: Option<HealthCheck>,
    /// The shell that health checks given as one line run in.
    #[serde(default)]
    pub shell: Vec<String>,
    /// When it was made.
    pub created: Timestamp,
    /// The mounts, with volumes by name.
    pub volumes: Vec<VolumeUse>,
    /// The images that are mounted.
    #[serde(default)]
    pub images: Vec<ImageUse>,
    /// The state.
    pub state: State,
    /// Its places in networks while it runs.
    pub endpoints: Vec<EndpointRecord>,
    /// Published ports as they are bound while it runs.
    pub ports: Vec<PortBinding>,
    /// How often the restart policy has started it.
    pub restart_count: u32,
    /// Whether the last stop was asked for.
    pub stopped_by_hand: bool,
    /// Whether it has left the network that it was made for.
    #[serde(default)]
    pub has_left_first: bool,
}

impl ContainerRecord {
    /// Whether it was made of this image or mounts it.
    #[must_use]
    pub fn uses_image(&self, image: &Digest) -> bool {
        self.image == *image || self.images.iter().any(|used| used.image == *image)
    }
}

/// An image that a container mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUse {
    /// Where it is mounted.
    pub target: String,
    /// The image's id.
    pub image: Digest,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
}

/// A volume that a container uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeUse {
    /// The volume's name.
    pub name: String,
    /// Where it is mounted.
    pub target: String,
    /// Whether it goes with the container (`--rm`, `rm -v`).
    pub anonymous: bool,
    /// Whether it cannot be written.
    pub read_only: bool,
}

/// A place in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// The network's id.
    pub network: Id,
    /// The network's name.
    pub network_name: String,
    /// The endpoint's own id.
    pub id: Id,
    /// The address; none in host and none networks.
    pub address: Option<Ipv4Addr>,
    /// Length of the network's prefix.
    pub prefix: u8,
    /// The gateway.
    pub gateway: Option<Ipv4Addr>,
    /// The interface's hardware address.
    pub mac: Option<String>,
    /// The host's end of the cable.
    pub host_link: String,
    /// Names in this network.
    pub names: Vec<String>,
    /// The IPv6 address, where the network has such.
    #[serde(default)]
    pub ipv6_address: Option<Ipv6Addr>,
    /// Length of the network's IPv6 prefix.
    #[serde(default)]
    pub ipv6_prefix: u8,
    /// The gateway for IPv6.
    #[serde(default)]
    pub ipv6_gateway: Option<Ipv6Addr>,
    /// The interface's name in the container.
    #[serde(default)]
    pub interface: String,
}

/// How far a container has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Made, never started.
    #[default]
    Created,
    /// Runs.
    Running,
    /// Waits for its next start by the restart policy.
    Restarting,
    /// Has ended.
    Exited,
    /// Is being removed.
    Removing,
    /// Could not be removed whole.
    Dead,
}

impl Status {
    /// Docker's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Removing => "removing",
            Self::Dead => "dead",
        }
    }
}

/// The state of a container's process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// How far it has come.
    pub status: Status,
    /// Whether its processes stand still.
    #[serde(default)]
    pub paused: bool,
    /// Whether that is only for as long as an image is made of it, so that a crash meanwhile must not leave it so.
    #[serde(default)]
    pub paused_for_commit: bool,
    /// The process while it runs.
    pub process: Option<Process>,
    /// The last exit code.
    pub exit_code: u8,
    /// Whether the kernel killed it for memory.
    pub oom_killed: bool,
    /// Why the last start failed; empty otherwise.
    pub error: String,
    /// When it last started.
    pub started: Option<Timestamp>,
    /// When it last ended.
    pub finished: Option<Timestamp>,
    /// What its health checks have said; none when there are none.
    #[serde(default)]
    pub health: Option<Health>,
}

impl State {
    /// Docker's word for it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        if self.paused { "paused" } else { self.status.as_str() }
    }
}

/// Reads a record.
pub(crate) fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).io("read", path)?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Record { path: path.to_owned(), source })
}

/// Writes a record beside its place and renames it there, so that a crash leaves the old or the new one.
pub(crate) fn write(path: &Path, record: &impl Serialize) -> Result<()> {
    let bytes =
        serde_json::to_vec(record).map_err(|source| Error::Record { path: path.to_owned(), source })?;
    let staged = path.with_extension("new");
    std::fs::write(&staged, bytes).io("write", &staged)?;
    std::fs::rename(&staged, path).io("rename", &staged)
}
