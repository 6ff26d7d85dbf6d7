//! Nodes that fall silent or go away, against the real API server, in the same process.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use dray_controllers::Patience;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use support::{Cluster, cluster_with, gone, make_ready, template, when};

async fn node(cluster: &Cluster, name: &str) -> Api<Node> {
    let nodes = Api::<Node>::all(cluster.client.clone());
    let node: Node = serde_json::from_value(json!({
        "metadata": { "name": name },
        "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }] },
    }))
    .unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    nodes
}

async fn pod(cluster: &Cluster, name: &str, node: &str, patience: Option<i64>) {
    let mut pod = template("web", "web:1");
    pod["metadata"]["name"] = json!(name);
    pod["spec"]["nodeName"] = json!(node);
    pod["spec"]["tolerations"] = json!([{
        "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
        "tolerationSeconds": patience,
    }]);
    cluster.create::<Pod>(pod).await;
    make_ready(&cluster.pods(), name, "10.42.0.2", true).await.unwrap();
}

fn ready(node: &Node) -> Option<(String, String)> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    Some((ready.status.clone(), ready.reason.clone().unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_becomes_unreachable_and_loses_its_pods() {
    let silent_node = Duration::from_millis(1500);
    let cluster = cluster_with(Patience { silent_node, ..Patience::default() }).await;
    let nodes = node(&cluster, "one").await;
    pod(&cluster, "stays", "one", None).await;
    pod(&cluster, "leaves", "one", Some(0)).await;
    let silent = when(&nodes, "one", "its silence", |node| {
        node.spec.as_ref().is_some_and(|spec| spec.taints.as_ref().is_some_and(|taints| taints.len() == 2))
    })
    .await;
    assert_eq!(ready(&silent).unwrap(), ("Unknown".to_owned(), "NodeStatusUnknown".to_owned()));
    let taints = silent.spec.unwrap().taints.unwrap();
    assert!(taints.iter().all(|taint| taint.key == "node.kubernetes.io/unreachable"));
    when(&cluster.pods(), "leaves", "its end", |pod| pod.metadata.deletion_timestamp.is_some()).await;
    let left = when(&cluster.pods(), "stays", "not being ready", |pod| {
        let conditions = pod.status.as_ref().unwrap().conditions.as_ref().unwrap();
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "False")
    })
    .await;
    assert!(left.metadata.deletion_timestamp.is_none());
    // It answers again, as its agent does it: the lease first, then the status.
    let leases = Api::<Lease>::namespaced(cluster.client.clone(), "kube-node-lease");
    let mut lease: Lease = serde_json::from_value(json!({ "metadata": { "name": "one" } })).unwrap();
    lease.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
    leases.create(&PostParams::default(), &lease).await.unwrap();
    let status = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
    nodes.patch_status("one", &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
    when(&nodes, "one", "no taints", |node| {
        node.spec.as_ref().is_none_or(|spec| spec.taints.as_ref().is_none_or(Vec::is_empty))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_renews_its_lease_stays_ready() {
    let silent_node = Duration::from_millis(1000);
    let cluster = cluster_with(Patience { silent_node, ..Patience::default() }).await;
    let nodes = node(&cluster, "one").await;
    node(&cluster, "silent").await;
    let leases = Api::<Lease>::namespaced(cluster.client.clone(), "kube-node-lease");
    let lease: Lease = serde_json::from_value(json!({ "metadata": { "name": "one" } })).unwrap();
    leases.create(&PostParams::default(), &lease).await.unwrap();
    let renewing = async {
        let mut beat = tokio::time::interval(silent_node / 5);
        loop {
            beat.tick().await;
            let patch = json!({ "spec": { "renewTime": MicroTime(Timestamp::now()) } });
            leases.patch("one", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        }
    };
    let other = when(&nodes, "silent", "its silence", |node| ready(node).unwrap().0 == "Unknown");
    tokio::select! {
        () = renewing => {}
        _ = other => {}
    }
    assert_eq!(ready(&nodes.get("one").await.unwrap()).unwrap().0, "True");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_node_that_is_gone_go_too() {
    let gone_node = Duration::from_millis(200);
    let cluster = cluster_with(Patience { gone_node, ..Patience::default() }).await;
    let nodes = node(&cluster, "one").await;
    node(&cluster, "two").await;
    pod(&cluster, "a", "one", None).await;
    pod(&cluster, "b", "two", None).await;
    nodes.delete("one", &DeleteParams::default()).await.unwrap();
    gone(&cluster.pods(), "a").await;
    assert!(cluster.pods().get("b").await.unwrap().metadata.deletion_timestamp.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cordoned_node_is_tainted() {
    let cluster = support::cluster().await;
    let nodes = node(&cluster, "one").await;
    let tainted = |node: &Node| {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        taints.iter().any(|taint| taint.key == "node.kubernetes.io/unschedulable")
    };
    for cordoned in [true, false] {
        let patch = Patch::Merge(json!({ "spec": { "unschedulable": cordoned } }));
        nodes.patch("one", &PatchParams::default(), &patch).await.unwrap();
        when(&nodes, "one", "its taint", |node| tainted(node) == cordoned).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_of_a_node_that_is_gone_is_told_why_it_goes() {
    let gone_node = Duration::from_millis(200);
    let cluster = cluster_with(Patience { gone_node, ..Patience::default() }).await;
    let nodes = node(&cluster, "one").await;
    pod(&cluster, "a", "one", None).await;
    let hold = Patch::Merge(json!({ "metadata": { "finalizers": ["example.com/hold"] } }));
    cluster.pods().patch("a", &PatchParams::default(), &hold).await.unwrap();
    nodes.delete("one", &DeleteParams::default()).await.unwrap();
    let pod = when(&cluster.pods(), "a", "its end", |pod| pod.metadata.deletion_timestamp.is_some()).await;
    let status = pod.status.unwrap();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let conditions = status.conditions.unwrap();
    let target = conditions.iter().find(|condition| condition.type_ == "DisruptionTarget").unwrap();
    assert_eq!(target.reason.as_deref(), Some("DeletionByPodGC"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_out_of_service_lets_its_pods_go() {
    let cluster = support::cluster().await;
    let nodes = node(&cluster, "one").await;
    for name in ["leaves", "stays"] {
        pod(&cluster, name, "one", None).await;
    }
    cluster.pods().delete("leaves", &DeleteParams::default()).await.unwrap();
    let status = json!({ "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }] } });
    nodes.patch_status("one", &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
    assert!(cluster.pods().get("leaves").await.unwrap().metadata.deletion_timestamp.is_some());
    let taint = json!({ "key": "node.kubernetes.io/out-of-service", "effect": "NoSchedule" });
    let patch = Patch::Strategic(json!({ "spec": { "taints": [taint] } }));
    nodes.patch("one", &PatchParams::default(), &patch).await.unwrap();
    gone(&cluster.pods(), "leaves").await;
    assert!(cluster.pods().get("stays").await.unwrap().metadata.deletion_timestamp.is_none());
}
