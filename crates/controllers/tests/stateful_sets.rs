//! StatefulSets against the real API server, in the same process.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use support::{Cluster, gone, merge, template, when, when_all};

fn sets(cluster: &Cluster) -> Api<StatefulSet> {
    Api::default_namespaced(cluster.client.clone())
}

fn claims(cluster: &Cluster) -> Api<PersistentVolumeClaim> {
    Api::default_namespaced(cluster.client.clone())
}

async fn make(cluster: &Cluster, change: Value) {
    let mut body = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "db" },
        "spec": {
            "replicas": 3, "serviceName": "db", "selector": { "matchLabels": { "app": "db" } },
            "template": template("db", "db:1"),
        },
    });
    merge(&mut body["spec"], change);
    let body = serde_json::from_value(body).unwrap();
    sets(cluster).create(&PostParams::default(), &body).await.unwrap();
}

async fn change(cluster: &Cluster, spec: Value) {
    let patch = Patch::Strategic(json!({ "spec": spec }));
    sets(cluster).patch("db", &PatchParams::default(), &patch).await.unwrap();
}

fn names(pods: &[Pod]) -> Vec<String> {
    pods.iter().map(kube::ResourceExt::name_any).collect()
}

fn images(pods: &[Pod]) -> Vec<&str> {
    pods.iter().map(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap()).collect()
}

fn is_whole(set: &StatefulSet, replicas: i32) -> bool {
    set.status.as_ref().is_some_and(|status| {
        status.ready_replicas.unwrap_or(0) == replicas
            && status.replicas == replicas
            && status.observed_generation == set.metadata.generation
            && status.current_revision == status.update_revision
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_come_one_after_another_with_their_claims_and_go_from_the_last() {
    let cluster = support::cluster().await;
    let claim = json!({
        "metadata": { "name": "data" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
    });
    make(&cluster, json!({ "volumeClaimTemplates": [claim] })).await;
    let pods = when_all(&cluster.pods(), "the first pod", |pods| !pods.is_empty()).await;
    assert_eq!(names(&pods), ["db-0"], "the next waits until it is ready");
    let first = &pods[0];
    let spec = first.spec.as_ref().unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-0"), Some("db")));
    assert_eq!(first.labels()["statefulset.kubernetes.io/pod-name"], "db-0");
    assert_eq!(first.labels()["apps.kubernetes.io/pod-index"], "0");
    let volume = spec.volumes.as_ref().unwrap().iter().find(|volume| volume.name == "data").unwrap();
    assert_eq!(volume.persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-0");
    cluster.run_pods();
    let done = when(&sets(&cluster), "db", "three ready pods", |set| is_whole(set, 3)).await;
    assert_eq!(done.status.unwrap().current_replicas, Some(3));
    let list = claims(&cluster).list(&ListParams::default()).await.unwrap().items;
    let list: Vec<_> = list.iter().map(kube::ResourceExt::name_any).collect();
    assert_eq!(list, ["data-db-0", "data-db-1", "data-db-2"]);
    cluster.event("SuccessfulCreate", "create Pod db-0 in StatefulSet db successful").await;
    // One that is deleted comes back with its name and its claim.
    let before = cluster.pods().get("db-1").await.unwrap().uid();
    cluster.pods().delete("db-1", &DeleteParams::default()).await.unwrap();
    when(&cluster.pods(), "db-1", "another pod of that name", |pod| pod.uid() != before).await;
    when(&sets(&cluster), "db", "three ready pods again", |set| is_whole(set, 3)).await;
    change(&cluster, json!({ "replicas": 1 })).await;
    when_all(&cluster.pods(), "the first alone", |pods| names(pods) == ["db-0"]).await;
    assert_eq!(claims(&cluster).list(&ListParams::default()).await.unwrap().items.len(), 3, "claims stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_rolls_from_the_last_and_stops_at_the_partition() {
    let cluster = support::cluster().await;
    make(&cluster, json!({ "updateStrategy": { "rollingUpdate": { "partition": 2 } } })).await;
    cluster.run_pods();
    when(&sets(&cluster), "db", "three ready pods", |set| is_whole(set, 3)).await;
    let image =
        |image: &str| json!({ "template": { "spec": { "containers": [{ "name": "c", "image": image }] } } });
    change(&cluster, image("db:2")).await;
    when_all(&cluster.pods(), "the last one changed", |pods| images(pods) == ["db:1", "db:1", "db:2"]).await;
    let half = when(&sets(&cluster), "db", "its count", |set| {
        set.status
            .as_ref()
            .is_some_and(|status| status.updated_replicas == Some(1) && status.ready_replicas == Some(3))
    })
    .await
    .status
    .unwrap();
    assert_ne!(half.current_revision, half.update_revision);
    assert_eq!(half.current_replicas, Some(2));
    // One of the older ones that is deleted stays what it was.
    let before = cluster.pods().get("db-0").await.unwrap().uid();
    cluster.pods().delete("db-0", &DeleteParams::default()).await.unwrap();
    let again = when(&cluster.pods(), "db-0", "another one", |pod| pod.uid() != before).await;
    assert_eq!(images(&[again]), ["db:1"]);
    change(&cluster, json!({ "updateStrategy": { "rollingUpdate": { "partition": 0 } } })).await;
    when_all(&cluster.pods(), "all changed", |pods| images(pods) == ["db:2"; 3]).await;
    when(&sets(&cluster), "db", "the end of the rollout", |set| is_whole(set, 3)).await;
    // The way back is an old revision that is the newest again.
    change(&cluster, image("db:1")).await;
    when_all(&cluster.pods(), "all changed back", |pods| images(pods) == ["db:1"; 3]).await;
    let revisions = Api::<ControllerRevision>::default_namespaced(cluster.client.clone());
    let revisions = revisions.list(&ListParams::default()).await.unwrap().items;
    let mut numbers: Vec<_> = revisions.iter().map(|revision| revision.revision).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_sets_wait_for_nobody_and_claims_can_go_with_them() {
    let cluster = support::cluster().await;
    let claim = json!({
        "metadata": { "name": "data" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
    });
    make(
        &cluster,
        json!({
            "podManagementPolicy": "Parallel", "ordinals": { "start": 5 }, "volumeClaimTemplates": [claim],
            "persistentVolumeClaimRetentionPolicy": { "whenDeleted": "Delete", "whenScaled": "Delete" },
        }),
    )
    .await;
    when_all(&cluster.pods(), "three pods", |pods| names(pods) == ["db-5", "db-6", "db-7"]).await;
    cluster.run_pods();
    when(&sets(&cluster), "db", "three ready pods", |set| is_whole(set, 3)).await;
    change(&cluster, json!({ "replicas": 1 })).await;
    when_all(&claims(&cluster), "the end of two claims", |claims| claims.len() == 1).await;
    sets(&cluster).delete("db", &DeleteParams::foreground()).await.unwrap();
    gone(&sets(&cluster), "db").await;
    when_all(&claims(&cluster), "the end of the last claim", |claims| claims.is_empty()).await;
    when_all(&cluster.pods(), "the end of the pods", |pods| pods.is_empty()).await;
}
