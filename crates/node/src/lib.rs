//! Pods on this machine, through the engine: what is bound here runs here, and its state is told back.
//!
//! The agent asks the cluster only through a `kube::Client` and the machine only through the engine: no container
//! runtime interface and no Docker API lie between a pod and its processes. It must not know the API server, the
//! store, or any other component of the cluster. Its words in statuses and events are those of the kubelet, because
//! people and programs read them.
#![forbid(unsafe_code)]

mod admission;
mod agent;
mod api;
mod config;
mod context;
mod error;
mod identity;
mod machine;
mod output;
mod pod;
mod probe;
mod quantity;
mod recorder;
mod registration;
mod server;
mod services;
mod spdy;
mod spec;
mod usage;
mod volume;

pub use agent::{Agent, unmount_volumes};
pub use config::NodeConfig;
pub use error::{Error, Result};
