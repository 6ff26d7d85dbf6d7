//! What should exist: every controller watches the cluster through its client and brings it closer to what was
//! asked for. It reaches the cluster through a [`kube::Client`] only, and must not know the API server, the
//! store or the node agent.
#![forbid(unsafe_code)]

mod account_tokens;
mod aggregation;
mod autoscaler;
mod bootstrap_tokens;
mod certificates;
mod cron_job;
mod daemon_set;
mod defaults;
mod definition;
mod deployment;
mod disruption;
mod elect;
mod endpoints;
mod error;
mod events;
mod expectations;
mod flow;
mod garbage;
mod informer;
mod job;
mod key;
mod kinds;
mod labels;
mod model;
mod namespace;
mod node;
mod owner;
mod pods;
mod protection;
mod queue;
mod quota;
mod replica_set;
mod revisions;
mod scale;
mod short_name;
mod stateful_set;
mod taints;
mod volume;

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use k8s_openapi::api::core::v1::ReplicationController;
use kube::{Api, Client};
use tokio::task::JoinSet;

pub use elect::{Candidate, Term};
pub use error::{Error, Result};
pub use volume::local_path::{Directories, LocalVolumes};

use crate::elect::Election;
use crate::informer::Informer;

/// What the controllers have to know of the cluster.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The certificate of the cluster's authority, as PEM; published in each namespace as the ConfigMap
    /// `kube-root-ca.crt`. Without one no ConfigMap is made.
    pub authority: Option<String>,
    /// The node of this process, whose directories can be volumes. Without one there is no class `local-path`.
    pub local_volumes: Option<LocalVolumes>,
    /// Who this is among several servers, of which one runs the controllers. Without a name there is only one.
    pub candidate: Option<Candidate>,
}

/// How long nodes are waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long a node may say nothing before it counts as unreachable: 40 s unless something else is said.
    pub silent_node: Duration,
    /// How long a node may be gone before its pods are deleted: 40 s unless something else is said.
    pub gone_node: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        let usual = Duration::from_secs(40);
        Patience { silent_node: usual, gone_node: usual }
    }
}

/// Runs all controllers until `shutdown`.
///
/// # Errors
/// `Discovery` when the API does not tell its kinds; `WatchEnded`. What fails for one object is logged and tried
/// again.
pub async fn run(client: Client, config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
    run_with(client, config, Patience::default(), shutdown).await
}

/// Like [`run`], with other times.
///
/// # Errors
/// Those of [`run`].
pub async fn run_with(
    client: Client,
    config: Config,
    patience: Patience,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<()> {
    let mut shutdown = pin!(shutdown);
    let Some(candidate) = config.candidate.clone() else {
        return tokio::select! {
            () = &mut shutdown => Ok(()),
            ended = run_all(&client, config, patience) => ended,
        };
    };
    let mut election = Election::new(client.clone(), candidate);
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            () = election.win() => {}
        }
        // Whoever leads no more drops all that runs, and waits for his next turn.
        tokio::select! {
            () = &mut shutdown => break,
            ended = run_all(&client, config.clone(), patience) => return ended,
            () = election.keep() => {}
        }
    }
    election.resign().await;
    Ok(())
}

/// Runs all controllers; returns only when one cannot go on.
async fn run_all(client: &Client, config: Config, patience: Patience) -> Result<()> {
    let kinds = kinds::discover(client).await?;
    // Ends with this function: a set aborts its tasks when it is dropped.
    let mut tasks = start(client, config, patience, kinds);
    match tasks.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(error)) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Ok(()),
        },
        None => Ok(()),
    }
}

fn start(
    client: &Client,
    config: Config,
    patience: Patience,
    kinds: Vec<kinds::Kind>,
) -> JoinSet<Result<()>> {
    let (recorder, writer) = events::channel(client.clone());
    let deployments = Informer::new();
    let sets = Informer::new();
    let pods = Informer::new();
    let nodes = Informer::new();
    let leases = Informer::new();
    let namespaces = Informer::new();
    let accounts = Informer::new();
    let maps = Informer::new();
    let roles = Informer::new();
    let storage = volume::binder::Sources {
        claims: Informer::new(),
        volumes: Informer::new(),
        classes: Informer::new(),
        pods: pods.clone(),
    };
    let sources = endpoints::Sources {
        services: Informer::new(),
        pods: pods.clone(),
        slices: Informer::new(),
        endpoints: Informer::new(),
        nodes: nodes.clone(),
    };
    let definitions = Informer::new();
    let objects = garbage::Objects::new(kinds);
    let mut tasks = JoinSet::new();
    let one = || client.clone();
    // Every controller subscribes before any watch begins.
    let deployment_controller =
        deployment::Deployments::new(one(), deployments.clone(), sets.clone(), pods.clone(), &recorder);
    let set_controller = replica_set::Replicas::new(one(), sets.clone(), pods.clone(), &recorder);
    let older_sets = Informer::<ReplicationController>::new();
    let older_controller = replica_set::Replicas::new(one(), older_sets.clone(), pods.clone(), &recorder);
    let (stateful_sets, revisions) = (Informer::new(), Informer::new());
    let stateful_controller = stateful_set::StatefulSets::new(
        one(),
        stateful_sets.clone(),
        pods.clone(),
        storage.claims.clone(),
        revisions.clone(),
        &recorder,
    );
    let daemon_sets = Informer::new();
    let daemon_controller = daemon_set::DaemonSets::new(
        one(),
        daemon_sets.clone(),
        pods.clone(),
        nodes.clone(),
        revisions.clone(),
        &recorder,
    );
    let jobs = Informer::new();
    let job_controller = job::Jobs::new(one(), &jobs, pods.clone(), &recorder);
    let job_orphans = job::orphans::Orphans::new(one(), jobs.clone(), pods.clone());
    let job_expiry = job::ttl::Expiry::new(one(), jobs.clone());
    let crons = Informer::new();
    let cron_controller = cron_job::CronJobs::new(one(), crons.clone(), jobs.clone(), &recorder);
    let endpoint_controller = endpoints::EndpointController::new(one(), sources.clone(), &recorder);
    let (account_tokens, bootstrap_tokens) = (Informer::new(), Informer::new());
    let token_controller = account_tokens::Tokens::new(
        one(),
        account_tokens.clone(),
        accounts.clone(),
        config.authority.clone(),
    );
    let requests = Informer::new();
    let request_cleaner = certificates::Cleaner::new(one(), requests.clone());
    let cleaner = bootstrap_tokens::Cleaner::new(one(), bootstrap_tokens.clone());
    let defaults =
        defaults::Defaults::new(one(), namespaces.clone(), accounts.clone(), maps.clone(), config.authority);
    let aggregation = aggregation::Aggregation::new(one(), roles.clone());
    let protection = protection::Protection::new(one(), storage.clone());
    let binder = volume::binder::Binder::new(one(), storage.clone(), &recorder);
    let expansion = volume::expand::Expansion::new(one(), storage.clone(), &recorder);
    let ephemeral = volume::ephemeral::Ephemeral::new(one(), pods.clone(), storage.claims.clone(), &recorder);
    let local_volumes = config
        .local_volumes
        .map(|local| volume::local_path::Provisioner::new(one(), storage.clone(), local, &recorder));
    let budgets = Informer::new();
    let scales = scale::Scales { client: one(), objects: objects.clone() };
    let owners = disruption::Owners {
        scales: scales.clone(),
        deployments: deployments.clone(),
        sets: sets.clone(),
        older_sets: older_sets.clone(),
        stateful_sets: stateful_sets.clone(),
    };
    let budget_controller = disruption::Budgets::new(one(), budgets.clone(), pods.clone(), owners, &recorder);
    let stale = disruption::Stale::new(one(), pods.clone());
    let scalers = Informer::new();
    let autoscaler = autoscaler::Autoscaler::new(one(), scalers.clone(), scales, &recorder);
    let quotas = Informer::new();
    let counted = quota::Sources {
        objects: objects.clone(),
        pods: pods.clone(),
        services: sources.services.clone(),
        claims: storage.claims.clone(),
    };
    let quota_controller = quota::Quotas::new(one(), quotas.clone(), &counted);
    let (schemas, levels) = (Informer::new(), Informer::new());
    let flow_controller = flow::Flows::new(one(), schemas.clone(), levels.clone());
    let namespace_controller = namespace::Namespaces::new(one(), namespaces.clone(), objects.clone());
    let lifecycle = node::lifecycle::Lifecycle::new(
        one(),
        nodes.clone(),
        leases.clone(),
        pods.clone(),
        patience.silent_node,
        &recorder,
    );
    let eviction = node::eviction::Eviction::new(one(), nodes.clone(), pods.clone(), &recorder);
    let remains = node::remains::Remains::new(one(), nodes.clone(), pods.clone(), patience.gone_node);
    tasks.spawn(deployment_controller.run());
    tasks.spawn(set_controller.run());
    tasks.spawn(older_controller.run());
    tasks.spawn(stateful_controller.run());
    tasks.spawn(daemon_controller.run());
    tasks.spawn(job_controller.run());
    tasks.spawn(job_orphans.run());
    tasks.spawn(job_expiry.run());
    tasks.spawn(cron_controller.run());
    tasks.spawn(endpoint_controller.run());
    tasks.spawn(token_controller.run());
    tasks.spawn(cleaner.run());
    tasks.spawn(request_cleaner.run());
    tasks.spawn(requests.run(Api::all(one()), None));
    tasks.spawn(defaults.run());
    tasks.spawn(aggregation.run());
    tasks.spawn(protection.run());
    tasks.spawn(binder.run());
    tasks.spawn(expansion.run());
    tasks.spawn(ephemeral.run());
    if let Some(local_volumes) = local_volumes {
        tasks.spawn(local_volumes.run());
    }
    tasks.spawn(budget_controller.run());
    tasks.spawn(stale.run());
    tasks.spawn(autoscaler.run());
    tasks.spawn(quota_controller.run());
    tasks.spawn(flow_controller.run());
    tasks.spawn(namespace_controller.run());
    tasks.spawn(lifecycle.run());
    tasks.spawn(eviction.run());
    tasks.spawn(remains.run());
    let collector = garbage::Collector::new(one(), objects, definitions.clone());
    tasks.spawn(collector.run());
    tasks.spawn(definitions.run(Api::all(one()), None));
    tasks.spawn(async move {
        writer.run().await;
        Ok(())
    });
    tasks.spawn(deployments.run(Api::all(one()), None));
    tasks.spawn(sets.run(Api::all(one()), None));
    tasks.spawn(older_sets.run(Api::all(one()), None));
    tasks.spawn(stateful_sets.run(Api::all(one()), None));
    tasks.spawn(daemon_sets.run(Api::all(one()), None));
    tasks.spawn(revisions.run(Api::all(one()), None));
    tasks.spawn(jobs.run(Api::all(one()), None));
    tasks.spawn(crons.run(Api::all(one()), None));
    tasks.spawn(pods.run(Api::all(one()), None));
    tasks.spawn(nodes.run(Api::all(one()), None));
    tasks.spawn(leases.run(Api::namespaced(one(), node::LEASES), None));
    tasks.spawn(namespaces.run(Api::all(one()), None));
    tasks.spawn(accounts.run(Api::all(one()), None));
    let of_type = |kind: &str| Some(format!("type={kind}"));
    tasks.spawn(account_tokens.run(Api::all(one()), of_type(account_tokens::TYPE)));
    let bootstrap = Api::namespaced(one(), bootstrap_tokens::NAMESPACE);
    tasks.spawn(bootstrap_tokens.run(bootstrap, of_type(bootstrap_tokens::TYPE)));
    tasks.spawn(maps.run(Api::all(one()), Some(format!("metadata.name={}", defaults::AUTHORITY))));
    tasks.spawn(roles.run(Api::all(one()), None));
    tasks.spawn(storage.claims.run(Api::all(one()), None));
    tasks.spawn(storage.volumes.run(Api::all(one()), None));
    tasks.spawn(storage.classes.run(Api::all(one()), None));
    tasks.spawn(budgets.run(Api::all(one()), None));
    tasks.spawn(scalers.run(Api::all(one()), None));
    tasks.spawn(quotas.run(Api::all(one()), None));
    tasks.spawn(schemas.run(Api::all(one()), None));
    tasks.spawn(levels.run(Api::all(one()), None));
    tasks.spawn(sources.services.run(Api::all(one()), None));
    tasks.spawn(sources.slices.run(Api::all(one()), None));
    tasks.spawn(sources.endpoints.run(Api::all(one()), None));
    tasks
}
