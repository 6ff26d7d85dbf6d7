//! How fast pods get their nodes, with the API server in the same process and nodes that are only objects; run with
//! `cargo test --release -p dray-scheduler --bench measure -- --ignored --nocapture --test-threads 1`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement is a test that prints")]

#[path = "../tests/scheduler/support.rs"]
mod support;

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{PartialObjectMeta, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use support::{Cluster, start};

/// Time of the processor that this process has taken.
fn processor() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

async fn make<K>(api: &Api<K>, objects: impl Iterator<Item = Value>)
where
    K: Clone + serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let making = objects.map(|object| async move {
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    });
    futures_util::stream::iter(making).buffer_unordered(256).collect::<Vec<()>>().await;
}

async fn make_nodes(cluster: &Cluster, count: usize) {
    let size = json!({ "cpu": "32", "memory": "64Gi", "pods": "110" });
    let node = |number: usize| {
        json!({
            "metadata": { "name": format!("n{number}"), "labels": {
                "kubernetes.io/hostname": format!("n{number}"),
                "topology.kubernetes.io/zone": format!("z{}", number % 3) } },
            "status": { "capacity": size, "allocatable": size },
        })
    };
    make(&Api::<Node>::all(cluster.client.clone()), (0..count).map(node)).await;
    for number in 0..count {
        // What a controller does once a node is ready, which nothing of it is here.
        let taints = kube::api::Patch::Merge(json!({ "spec": { "taints": null } }));
        let nodes = Api::<Node>::all(cluster.client.clone());
        nodes.patch(&format!("n{number}"), &kube::api::PatchParams::default(), &taints).await.unwrap();
    }
}

/// Makes pods without a scheduler, starts it, and tells how long it takes until all have a node.
async fn measure(name: &str, nodes: usize, pods: usize, spec: Value) {
    let mut cluster = support::cluster().await;
    let stop = cluster.stop.take().unwrap();
    drop(stop.stop);
    stop.running.await.unwrap();
    make_nodes(&cluster, nodes).await;
    let pod = |number: usize| {
        let app = format!("a{}", number % 10);
        let mut spec = spec.clone();
        spec["containers"] = json!([{ "name": "c", "image": "web",
            "resources": { "requests": { "cpu": "100m", "memory": "100Mi" } } }]);
        json!({ "metadata": { "name": format!("p{number}"), "labels": { "app": app } }, "spec": spec })
    };
    make(&cluster.pods(), (0..pods).map(pod)).await;
    let (began, used) = (Instant::now(), processor());
    cluster.stop = Some(start(&cluster.server));
    let watched = Api::<PartialObjectMeta<Pod>>::default_namespaced(cluster.client.clone());
    let parameters = WatchParams::default().fields("spec.nodeName!=");
    let mut events = watched.watch_metadata(&parameters, "0").await.unwrap().boxed();
    let mut placed = 0;
    while placed < pods {
        if let WatchEvent::Added(_) = events.next().await.unwrap().unwrap() {
            placed += 1;
        }
    }
    let took = began.elapsed();
    println!(
        "{name}: {pods} pods on {nodes} nodes in {took:.2?}: {:.0} pods/s, {:.2?} of the processor",
        pods as f64 / took.as_secs_f64(),
        processor() - used
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn plain() {
    measure("plain", 1000, 30_000, json!({})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn spread() {
    let constraint = |key: &str, when: &str| {
        json!({ "maxSkew": 5, "topologyKey": key, "whenUnsatisfiable": when,
            "labelSelector": { "matchLabels": { "app": "a1" } } })
    };
    let constraints = [
        constraint("topology.kubernetes.io/zone", "DoNotSchedule"),
        constraint("kubernetes.io/hostname", "ScheduleAnyway"),
    ];
    measure("spread", 1000, 10_000, json!({ "topologySpreadConstraints": constraints })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn affinity() {
    let preferred = json!({ "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{
        "weight": 10, "podAffinityTerm": { "topologyKey": "kubernetes.io/hostname",
            "labelSelector": { "matchLabels": { "app": "a1" } } } }] } });
    measure("affinity", 1000, 10_000, json!({ "affinity": preferred })).await;
}
