//! ReplicationControllers against the real API server, in the same process.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use support::{gone, template, when, when_all};

fn controllers(cluster: &support::Cluster) -> Api<ReplicationController> {
    Api::default_namespaced(cluster.client.clone())
}

async fn make(cluster: &support::Cluster, replicas: u32) {
    let body = json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": { "name": "old" },
        "spec": { "replicas": replicas, "selector": { "app": "old" }, "template": template("old", "web:1") },
    });
    let body = serde_json::from_value(body).unwrap();
    controllers(cluster).create(&PostParams::default(), &body).await.unwrap();
}

fn owner(pod: &Pod) -> Option<String> {
    pod.owner_references().first().map(|owner| format!("{}/{}", owner.kind, owner.name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_made_counted_and_let_go() {
    let cluster = support::cluster().await;
    make(&cluster, 2).await;
    let pods = when_all(&cluster.pods(), "two pods", |pods| pods.len() == 2).await;
    assert_eq!(owner(&pods[0]).as_deref(), Some("ReplicationController/old"));
    cluster.run_pods();
    let done = when(&controllers(&cluster), "old", "ready pods", |old| {
        old.status.as_ref().is_some_and(|status| status.available_replicas == Some(2))
    })
    .await;
    let status = done.status.unwrap();
    assert_eq!((status.replicas, status.ready_replicas, status.observed_generation), (2, Some(2), Some(1)));
    cluster.event("SuccessfulCreate", "Created pod: old-").await;
    // One that is not selected any more is let go, and another one made.
    let other = Patch::Merge(json!({ "metadata": { "labels": { "app": "free" } } }));
    cluster.pods().patch(&pods[0].name_any(), &PatchParams::default(), &other).await.unwrap();
    let pods = when_all(&cluster.pods(), "a third pod", |pods| pods.len() == 3).await;
    let free = pods.iter().find(|pod| pod.labels()["app"] == "free").unwrap();
    let free = when(&cluster.pods(), &free.name_any(), "its freedom", |pod| owner(pod).is_none()).await;
    let none = Patch::Merge(json!({ "spec": { "replicas": 0 } }));
    controllers(&cluster).patch("old", &PatchParams::default(), &none).await.unwrap();
    when_all(&cluster.pods(), "the end of the others", |pods| pods.len() == 1).await;
    cluster.pods().delete(&free.name_any(), &DeleteParams::default().grace_period(0)).await.unwrap();
    gone(&cluster.pods(), &free.name_any()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_is_taken_and_what_was_refused_is_told() {
    let cluster = support::cluster().await;
    let alone = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "alone", "labels": { "app": "old" } },
        "spec": { "containers": [{ "name": "web", "image": "web:1" }] },
    });
    cluster.pods().create(&PostParams::default(), &serde_json::from_value(alone).unwrap()).await.unwrap();
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "few" },
        "spec": { "hard": { "pods": "2" } },
    });
    let quotas = Api::<k8s_openapi::api::core::v1::ResourceQuota>::default_namespaced(cluster.client.clone());
    quotas.create(&PostParams::default(), &serde_json::from_value(quota).unwrap()).await.unwrap();
    when(&quotas, "few", "a count", |quota| {
        quota.status.as_ref().is_some_and(|status| status.used.is_some())
    })
    .await;
    make(&cluster, 3).await;
    let taken = when(&cluster.pods(), "alone", "an owner", |pod| owner(pod).is_some()).await;
    assert_eq!(owner(&taken).as_deref(), Some("ReplicationController/old"));
    let condition = |old: &ReplicationController| {
        let conditions = old.status.as_ref()?.conditions.clone()?;
        conditions.into_iter().find(|condition| condition.type_ == "ReplicaFailure")
    };
    let refused = when(&controllers(&cluster), "old", "a failure", |old| condition(old).is_some()).await;
    assert_eq!(condition(&refused).unwrap().reason.as_deref(), Some("FailedCreate"));
    let fewer = Patch::Merge(json!({ "spec": { "replicas": 2 } }));
    controllers(&cluster).patch("old", &PatchParams::default(), &fewer).await.unwrap();
    when(&controllers(&cluster), "old", "no failure", |old| condition(old).is_none()).await;
}
