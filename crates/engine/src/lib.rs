//! The container engine: containers, sandboxes, volumes and networks, one state machine over runtime, image store
//! and network. It owns what is on disk and survives a crash.
//!
//! Both halves stand on it: the Docker API creates containers here, and the node agent creates sandboxes and the
//! containers of pods. It knows no HTTP and no Kubernetes type. What holds for a container whoever asked for it is
//! decided here.
#![forbid(unsafe_code)]

mod archive;
mod changes;
mod commit;
mod container;
mod control;
mod create;
mod discard;
mod engine;
mod error;
mod events;
mod exec;
mod failpoint;
mod files;
mod health;
mod id;
mod image_mounts;
mod late_root;
mod launch;
mod layers;
mod lifecycle;
mod links;
mod log_file;
mod logs;
mod membership;
mod name_service;
mod namespace_pool;
mod networks;
mod observe;
mod oci;
mod pending;
mod readiness;
mod record;
mod remove;
mod restore;
mod sandbox;
mod shim_client;
mod shutdown;
mod signal;
mod spec;
mod supervise;
mod volumes;

pub use archive::PathEntry;
pub use changes::ChangeKind;
pub use commit::CommitSpec;
pub use container::{ContainerHandle, WaitCondition, WaitResult};
pub use create::Created;
pub use dray_network::IpNet;
pub use dray_network::pool::DefaultPool;
pub use dray_runtime::ProcessEntry;
pub use dray_runtime::cgroup::Statistics;
pub use dray_runtime::rootfs::{OverlayMount, Root, lookup_group, lookup_user};
pub use engine::{Engine, EngineConfig, Led, Remap};
pub use error::{Error, Result};
pub use events::{Event, EventFilter, EventKind};
pub use exec::{ExecSnapshot, ExecSpec};
#[doc(hidden)]
pub use failpoint::FAILPOINTS;
pub use health::{Health, HealthCheck, HealthResult, HealthStatus};
pub use id::Id;
pub use layers::{LayerOptions, Scratch, WritableLayer};
pub use logs::{LogLine, LogOptions, LogStream};
pub use networks::{AddressPool, NetworkRecord, NetworkSpec, SubnetSpec};
pub use observe::{InterfaceCounters, Usage};
pub use record::{ContainerRecord, EndpointRecord, State, Status};
pub use sandbox::{SandboxRecord, SandboxSpec};
pub use shim_client::AttachOptions;
pub use signal::parse_signal;
pub use spec::{
    BlockLimits, ContainerSpec, DeviceLimit, DeviceSpec, DnsOptions, EndpointSpec, ImageMount, LogForward,
    LogPolicy, Mount, MountSource, NamespaceMode, NetworkMode, PortBinding, Protocol, Resources,
    RestartPolicy, SeccompMode, Security, SyslogFormat, TerminalSize, Ulimit, VolumeMount,
};
pub use volumes::VolumeRecord;
