//! DaemonSets against the real API server, in the same process. The scheduler's place is taken by the test.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Binding, Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use support::{Cluster, merge, template, when, when_all};

fn sets(cluster: &Cluster) -> Api<DaemonSet> {
    Api::default_namespaced(cluster.client.clone())
}

async fn node(cluster: &Cluster, name: &str, labels: Value) {
    let nodes = Api::<Node>::all(cluster.client.clone());
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels },
        "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }] },
    });
    nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
}

async fn make(cluster: &Cluster, change: Value) {
    let mut body = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "agent" },
        "spec": { "selector": { "matchLabels": { "app": "agent" } }, "template": template("agent", "agent:1") },
    });
    merge(&mut body["spec"], change);
    sets(cluster).create(&PostParams::default(), &serde_json::from_value(body).unwrap()).await.unwrap();
}

async fn change(cluster: &Cluster, spec: Value) {
    let patch = Patch::Strategic(json!({ "spec": spec }));
    sets(cluster).patch("agent", &PatchParams::default(), &patch).await.unwrap();
}

/// The only node that takes a pod.
fn meant_for(pod: &Pod) -> String {
    let affinity = pod.spec.as_ref().unwrap().affinity.as_ref().unwrap().node_affinity.as_ref().unwrap();
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref().unwrap();
    let fields = required.node_selector_terms[0].match_fields.as_ref().unwrap();
    fields[0].values.as_ref().unwrap()[0].clone()
}

/// Gives each pod to its node.
fn schedule(cluster: &Cluster) {
    let pods = cluster.pods();
    tokio::spawn(async move {
        use futures_util::StreamExt as _;
        let mut events = pods.watch(&WatchParams::default(), "0").await.unwrap().boxed();
        while let Some(event) = events.next().await {
            let WatchEvent::Added(pod) = event.unwrap() else { continue };
            let name = pod.name_any();
            let binding: Binding = serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Binding", "metadata": { "name": name },
                "target": { "apiVersion": "v1", "kind": "Node", "name": meant_for(&pod) },
            }))
            .unwrap();
            let bound: kube::Result<Value> =
                pods.create_subresource("binding", &name, &PostParams::default(), &binding).await;
            let _ = bound;
        }
    });
}

fn nodes_of(pods: &[Pod]) -> Vec<String> {
    let mut nodes: Vec<_> = pods.iter().map(meant_for).collect();
    nodes.sort();
    nodes
}

fn numbers(set: &DaemonSet) -> (i32, i32, i32, Option<i32>) {
    let status = set.status.clone().unwrap_or_default();
    (
        status.desired_number_scheduled,
        status.current_number_scheduled,
        status.number_ready,
        status.updated_number_scheduled,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_that_fits_has_one_pod() {
    let cluster = support::cluster().await;
    node(&cluster, "one", json!({ "disk": "ssd" })).await;
    node(&cluster, "two", json!({})).await;
    schedule(&cluster);
    cluster.run_pods();
    make(&cluster, json!({})).await;
    let pods = when_all(&cluster.pods(), "two pods", |pods| pods.len() == 2).await;
    assert_eq!(nodes_of(&pods), ["one", "two"]);
    let tolerations = pods[0].spec.as_ref().unwrap().tolerations.as_ref().unwrap();
    assert!(tolerations.iter().any(|one| one.key.as_deref() == Some("node.kubernetes.io/unschedulable")));
    when(&sets(&cluster), "agent", "its count", |set| numbers(set) == (2, 2, 2, Some(2))).await;
    // Its revision is found by the labels of its pods, and tools compare the text of the template.
    let revisions: Api<ControllerRevision> = Api::default_namespaced(cluster.client.clone());
    let found = revisions.list(&ListParams::default().labels("app=agent")).await.unwrap().items;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].labels()["controller-revision-hash"], pods[0].labels()["controller-revision-hash"]);
    let data = found[0].data.as_ref().unwrap().0.to_string();
    let begin = r#"{"spec":{"template":{"$patch":"replace","metadata":{"creationTimestamp":null,"labels":{"app":"agent"}},"spec":{"#;
    assert!(data.starts_with(begin), "{data}");
    node(&cluster, "three", json!({})).await;
    when_all(&cluster.pods(), "a third pod", |pods| nodes_of(pods) == ["one", "three", "two"]).await;
    // One that is deleted comes again.
    let first = pods[0].name_any();
    cluster.pods().delete(&first, &DeleteParams::default()).await.unwrap();
    when_all(&cluster.pods(), "another one", |pods| {
        pods.len() == 3 && pods.iter().all(|pod| pod.name_any() != first)
    })
    .await;
    // Only some nodes, from now on, and none of those that are tainted so.
    change(&cluster, json!({ "template": { "spec": { "nodeSelector": { "disk": "ssd" } } } })).await;
    when_all(&cluster.pods(), "one pod", |pods| nodes_of(pods) == ["one"]).await;
    when(&sets(&cluster), "agent", "its count", |set| numbers(set) == (1, 1, 1, Some(1))).await;
    let taint = Patch::Merge(json!({ "spec": { "taints": [{ "key": "a", "effect": "NoExecute" }] } }));
    let nodes = Api::<Node>::all(cluster.client.clone());
    nodes.patch("one", &PatchParams::default(), &taint).await.unwrap();
    when_all(&cluster.pods(), "no pod", |pods| pods.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_goes_from_node_to_node_and_back() {
    let cluster = support::cluster().await;
    for name in ["one", "two", "three"] {
        node(&cluster, name, json!({})).await;
    }
    schedule(&cluster);
    cluster.run_pods();
    make(&cluster, json!({})).await;
    when(&sets(&cluster), "agent", "three pods", |set| numbers(set) == (3, 3, 3, Some(3))).await;
    let before: Vec<_> = cluster.pods().list(&ListParams::default()).await.unwrap().items;
    let image =
        |image: &str| json!({ "template": { "spec": { "containers": [{ "name": "c", "image": image }] } } });
    change(&cluster, image("agent:2")).await;
    let is_image = |pods: &[Pod], image: &str| {
        let of = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone();
        pods.len() == 3 && pods.iter().all(|pod| of(pod).as_deref() == Some(image))
    };
    let after = when_all(&cluster.pods(), "all changed", |pods| is_image(pods, "agent:2")).await;
    assert!(after.iter().all(|pod| before.iter().all(|old| old.uid() != pod.uid())));
    when(&sets(&cluster), "agent", "the end of it", |set| numbers(set) == (3, 3, 3, Some(3))).await;
    // With a surge the new one comes before the old one goes.
    change(
        &cluster,
        json!({ "updateStrategy": { "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } } }),
    )
    .await;
    change(&cluster, image("agent:1")).await;
    when_all(&cluster.pods(), "four pods at a time", |pods| pods.len() == 4).await;
    when_all(&cluster.pods(), "all changed back", |pods| is_image(pods, "agent:1")).await;
    // By hand: nothing goes by itself.
    change(&cluster, json!({ "updateStrategy": { "type": "OnDelete", "rollingUpdate": null } })).await;
    change(&cluster, image("agent:3")).await;
    when(&sets(&cluster), "agent", "a count of none", |set| numbers(set) == (3, 3, 3, None)).await;
}
