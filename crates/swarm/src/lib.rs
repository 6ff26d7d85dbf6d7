//! A swarm of one node: services, tasks, secrets and configs as Docker's swarm mode has them, on one engine.
//!
//! It is what programs written for `docker swarm init` on one machine need. Several machines are the cluster's business.
//! It knows the engine and no HTTP; how a task's words become a container's is given by whoever opens it.
#![forbid(unsafe_code)]

mod cluster;
mod defaults;
mod error;
mod model;
mod objects;
mod reconcile;
mod services;
mod task;

pub use cluster::{Rotation, Swarm};
pub use error::{Error, Result};
pub use objects::Kind;
pub use task::{Fetch, TaskContainer, Translate};
