//! Which node a pod runs on: an incremental picture of the nodes, and decisions without I/O. It reaches the cluster
//! through a [`kube::Client`] only, and must not know the API server, the store or the node agent.
#![forbid(unsafe_code)]

mod ask;
mod binding;
mod counters;
mod decide;
mod error;
mod filters;
mod hints;
mod inbox;
mod model;
mod neighbours;
mod node;
mod nominations;
mod objects;
#[cfg(test)]
mod oracle;
mod pending;
mod picture;
mod preempt;
mod push;
mod quantity;
#[cfg(test)]
mod random;
mod report;
mod resources;
mod scheduler;
mod scores;
mod selections;
mod selector;
mod spread;
mod standing;
mod storage;
mod terms;
mod topology;
mod volumes;
mod workloads;

pub use error::{Error, Result};
pub use scheduler::run;
