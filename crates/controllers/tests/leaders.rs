//! Several servers, of which one runs the controllers, against the real API server, in the same process.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use dray_controllers::{Candidate, Config, Patience, Term};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::json;
use support::{Cluster, when, within};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

fn leases(cluster: &Cluster) -> Api<Lease> {
    Api::namespaced(cluster.client.clone(), "kube-system")
}

/// Wants to lead until what it gives is dropped.
fn server(cluster: &Cluster, identity: &str) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let term = Term {
        lease: Duration::from_millis(1500),
        deadline: Duration::from_millis(1000),
        period: Duration::from_millis(100),
    };
    let candidate = Some(Candidate { identity: identity.to_owned(), term });
    let (client, config) = (cluster.client.clone(), Config { candidate, ..Config::default() });
    let running = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        dray_controllers::run_with(client, config, Patience::default(), stopped).await.unwrap();
    });
    (stop, running)
}

async fn led_by(cluster: &Cluster, identity: &str) -> i32 {
    let leases = leases(cluster);
    let lease = when(&leases, "kube-controller-manager", identity, |lease| {
        lease.spec.as_ref().unwrap().holder_identity.as_deref() == Some(identity)
    });
    lease.await.spec.unwrap().lease_transitions.unwrap()
}

async fn works(cluster: &Cluster, name: &str) {
    cluster.deployment(name, json!({ "replicas": 1 })).await;
    when(&cluster.deployments(), name, "its pod", |deployment| {
        deployment.status.as_ref().is_some_and(|status| status.replicas == Some(1))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_leads_and_another_follows_it() {
    let mut cluster = support::cluster().await;
    cluster.stop_controllers().await;
    let (stop, first) = server(&cluster, "first");
    assert_eq!(led_by(&cluster, "first").await, 0);
    let (_second, running) = server(&cluster, "second");
    works(&cluster, "one").await;
    let lease = leases(&cluster).get("kube-controller-manager").await.unwrap();
    assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some("first"));

    // One that is stopped makes room at once.
    drop(stop);
    within("the end of the first", first).await.unwrap();
    assert_eq!(led_by(&cluster, "second").await, 1);
    works(&cluster, "two").await;

    // One that dies is waited for as long as its lease lasts.
    let (_third, _running) = server(&cluster, "third");
    running.abort();
    assert_eq!(led_by(&cluster, "third").await, 2);
    works(&cluster, "three").await;
}
