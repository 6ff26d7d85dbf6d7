//! What should exist: every controller watches the cluster through its client and brings it closer to what was
//! asked for. It reaches the cluster through a [`kube::Client`] only, and must not know the API server, the
//! store or the node agent.
#![forbid(unsafe_code)]

mod deployment;
mod error;
mod events;
mod expectations;
mod informer;
mod key;
mod labels;
mod model;
mod owner;
mod queue;
mod replica_set;

use std::future::Future;
use std::pin::pin;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::{Api, Client};
use tokio::task::JoinSet;

pub use error::{Error, Result};

use crate::informer::Informer;
use crate::model::Pod;

/// What the controllers have to know of the cluster.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The certificate of the cluster's authority, as PEM; published in each namespace as the ConfigMap
    /// `kube-root-ca.crt`. Without one no ConfigMap is made.
    pub authority: Option<String>,
}

/// Runs all controllers until `shutdown`.
///
/// # Errors
/// `Discovery` when the API does not tell its kinds; `WatchEnded`. What fails for one object is logged and tried
/// again.
pub async fn run(client: Client, config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
    let _ = config;
    let (recorder, writer) = events::channel(client.clone());
    let deployments = Informer::<Deployment>::new();
    let sets = Informer::<ReplicaSet>::new();
    let pods = Informer::<Pod>::new();
    let mut tasks = JoinSet::new();
    let deployment_controller = deployment::Deployments::new(
        client.clone(),
        deployments.clone(),
        sets.clone(),
        pods.clone(),
        &recorder,
    );
    let set_controller = replica_set::ReplicaSets::new(client.clone(), sets.clone(), pods.clone(), &recorder);
    tasks.spawn(deployment_controller.run());
    tasks.spawn(set_controller.run());
    tasks.spawn(deployments.run(Api::all(client.clone()), None));
    tasks.spawn(sets.run(Api::all(client.clone()), None));
    tasks.spawn(pods.run(Api::all(client.clone()), None));
    tasks.spawn(async move {
        writer.run().await;
        Ok(())
    });
    let mut shutdown = pin!(shutdown);
    tokio::select! {
        () = &mut shutdown => Ok(()),
        Some(ended) = tasks.join_next() => match ended {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Ok(()),
            },
        },
    }
}
