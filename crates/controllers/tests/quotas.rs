//! Quotas: what is used of them is counted, however much is made and deleted at once.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::collections::BTreeMap;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use support::{Cluster, when};

fn used(quota: &ResourceQuota) -> BTreeMap<&str, &str> {
    let used = quota.status.as_ref().and_then(|status| status.used.as_ref());
    used.into_iter().flatten().map(|(name, amount)| (name.as_str(), amount.0.as_str())).collect()
}

/// The quota when so much of it is used.
async fn when_used(cluster: &Cluster, expected: &[(&str, &str)]) -> ResourceQuota {
    let expected: BTreeMap<&str, &str> = expected.iter().copied().collect();
    when(&cluster.api(), "q", &format!("{expected:?}"), |quota| used(quota) == expected).await
}

async fn quota(cluster: &Cluster, hard: Value) {
    cluster.create::<ResourceQuota>(json!({ "metadata": { "name": "q" }, "spec": { "hard": hard } })).await;
}

fn pod(name: &str) -> Pod {
    let container = json!({ "name": "c", "image": "c", "resources": { "requests": { "cpu": "100m" } } });
    serde_json::from_value(json!({ "metadata": { "name": name }, "spec": { "containers": [container] } }))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_and_what_goes_is_counted() {
    let cluster = support::cluster().await;
    // What was made before the quota counts as well.
    cluster.pods().create(&PostParams::default(), &pod("before")).await.unwrap();
    quota(&cluster, json!({ "pods": "3", "requests.cpu": "1", "count/configmaps": "10" })).await;
    // Every namespace has the certificate of the authority.
    when_used(&cluster, &[("pods", "1"), ("requests.cpu", "100m"), ("count/configmaps", "1")]).await;
    cluster.pods().create(&PostParams::default(), &pod("after")).await.unwrap();
    let map: ConfigMap = cluster.create(json!({ "metadata": { "name": "m" } })).await;
    assert_eq!(map.metadata.name.as_deref(), Some("m"));
    when_used(&cluster, &[("pods", "2"), ("requests.cpu", "200m"), ("count/configmaps", "2")]).await;
    cluster.pods().delete("before", &DeleteParams::default()).await.unwrap();
    when_used(&cluster, &[("pods", "1"), ("requests.cpu", "100m"), ("count/configmaps", "2")]).await;
    // A pod that has ended is still there, and uses nothing.
    let ended = Patch::Merge(json!({ "status": { "phase": "Succeeded" } }));
    cluster.pods().patch_status("after", &PatchParams::default(), &ended).await.unwrap();
    when_used(&cluster, &[("pods", "0"), ("requests.cpu", "0"), ("count/configmaps", "2")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_do_not_get_beyond_a_quota() {
    const MOST: usize = 10;
    let cluster = support::cluster().await;
    quota(&cluster, json!({ "pods": MOST.to_string() })).await;
    when_used(&cluster, &[("pods", "0")]).await;
    let pods = cluster.pods();
    let made = join_all((0..4 * MOST).map(|number| {
        let pods = pods.clone();
        async move { pods.create(&PostParams::default(), &pod(&format!("p{number}"))).await }
    }))
    .await;
    let refused = made.iter().filter_map(|made| made.as_ref().err());
    for error in refused {
        assert!(error.to_string().contains("exceeded quota: q, requested: pods=1"), "{error}");
    }
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), MOST);
    assert_eq!(pods.list(&ListParams::default()).await.unwrap().items.len(), MOST);
    when_used(&cluster, &[("pods", "10")]).await;
    pods.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    when_used(&cluster, &[("pods", "0")]).await;
    let again: Api<Pod> = cluster.api();
    again.create(&PostParams::default(), &pod("again")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_quota_is_taken_over() {
    let cluster = support::cluster().await;
    quota(&cluster, json!({ "pods": "1" })).await;
    when_used(&cluster, &[("pods", "0")]).await;
    let quotas: Api<ResourceQuota> = cluster.api();
    let change = Patch::Merge(json!({ "spec": { "hard": { "pods": null, "secrets": "2" } } }));
    quotas.patch("q", &PatchParams::default(), &change).await.unwrap();
    let quota = when_used(&cluster, &[("secrets", "0")]).await;
    let hard = quota.status.unwrap().hard.unwrap();
    assert_eq!(hard.keys().collect::<Vec<_>>(), ["secrets"]);
}
