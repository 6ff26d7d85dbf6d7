//! Which node a pod runs on: an incremental picture of the nodes, and decisions without I/O. It reaches the cluster
//! through a [`kube::Client`] only, and must not know the API server, the store or the node agent.
#![forbid(unsafe_code)]

mod ask;
mod binding;
mod config;
mod counters;
mod decide;
mod device_objects;
mod device_selectors;
mod devices;
mod error;
mod filters;
mod hints;
mod inbox;
mod lease;
#[cfg(test)]
mod measure;
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
mod told;
mod topology;
mod volumes;
mod workloads;

use std::future::Future;
use std::pin::pin;

use kube::Client;

pub use config::{Config, DEFAULT_SCHEDULER, Profile};
pub use error::{Error, Result};

use crate::lease::Election;

/// Gives pods to nodes until `shutdown`, as nothing special is wanted.
///
/// # Errors
/// `WatchEnded`. What fails for one pod is logged and tried again.
pub async fn run(client: Client, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
    run_with(client, Config::default(), shutdown).await
}

/// Gives pods to nodes until `shutdown`. Where it has a name among several, it waits until it is its turn, and whenever
/// it is not any more.
///
/// # Errors
/// `WatchEnded`. What fails for one pod is logged and tried again.
pub async fn run_with(
    client: Client,
    config: Config,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<()> {
    let mut shutdown = pin!(shutdown);
    let Some(identity) = config.identity.clone() else {
        return scheduler::run(client, &config, shutdown).await;
    };
    let mut election = Election::new(client.clone(), identity);
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            () = election.win() => {}
        }
        tokio::select! {
            result = scheduler::run(client.clone(), &config, &mut shutdown) => {
                election.release().await;
                return result;
            }
            () = election.keep() => {}
        }
    }
}
