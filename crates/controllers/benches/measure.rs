//! What the cluster half takes of memory and time; run with `cargo test --release -p dray-controllers --bench measure -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{PostParams, WatchEvent, WatchParams};
use serde_json::json;
use support::Cluster;

/// Resident memory of this process, in MiB: all, and what is not of files.
fn memory() -> (f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| -> f64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    };
    (of("VmRSS"), of("RssAnon"))
}

/// Time of the processor that this process has taken, in seconds.
fn processor() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

async fn full_cluster() -> Cluster {
    let cluster = support::cluster().await;
    let scheduler = cluster.client.clone();
    tokio::spawn(async move { dray_scheduler::run(scheduler, std::future::pending()).await.unwrap() });
    let size = json!({ "cpu": "64", "memory": "256Gi", "pods": "2000" });
    for number in 0..10 {
        let node: Node = serde_json::from_value(json!({
            "metadata": { "name": format!("n{number}") },
            "status": { "capacity": size, "allocatable": size, "conditions": [{ "type": "Ready", "status": "True" }] },
        }))
        .unwrap();
        Api::<Node>::all(cluster.client.clone()).create(&PostParams::default(), &node).await.unwrap();
    }
    cluster
}

/// Waits until so many pods of an app have a node; tells when all existed and when all had one.
async fn placed(cluster: &Cluster, app: &str, count: usize, start: Instant) -> (Duration, Duration) {
    let parameters = WatchParams::default();
    let labels = format!("app={app}");
    let mut events = cluster.pods().watch(&parameters.labels(&labels), "0").await.unwrap().boxed();
    let (mut made, mut bound) = (0, 0);
    let mut all_made = Duration::ZERO;
    while bound < count {
        let (pod, new): (Pod, bool) = match events.next().await.unwrap().unwrap() {
            WatchEvent::Added(pod) => (pod, true),
            WatchEvent::Modified(pod) => (pod, false),
            _ => continue,
        };
        let has_node = pod.spec.unwrap().node_name.is_some();
        bound += usize::from(has_node);
        if new {
            made += 1;
            if made == count {
                all_made = start.elapsed();
            }
        }
    }
    (all_made, start.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn memory_and_time() {
    let before = memory();
    let cluster = full_cluster().await;
    support::when(
        &cluster.api::<k8s_openapi::api::core::v1::ServiceAccount>(),
        "default",
        "the account",
        |_| true,
    )
    .await;
    println!("before: {before:.1?} MiB, with everything running: {:.1?}", memory());
    let mut times = Vec::new();
    for number in 0..25 {
        let name = format!("one{number}");
        let start = Instant::now();
        let watching = placed(&cluster, &name, 1, start);
        let (_, times_of_one) = tokio::join!(cluster.deployment(&name, json!({ "replicas": 1 })), watching);
        times.push(times_of_one);
    }
    times.sort();
    println!(
        "Deployment of 1 from POST: its pod exists after {:.2?}, has a node after {:.2?}",
        times[12].0, times[12].1
    );
    let (busy, start) = (processor(), Instant::now());
    let watching = placed(&cluster, "many", 1000, start);
    let (_, (made, bound)) = tokio::join!(cluster.deployment("many", json!({ "replicas": 1000 })), watching);
    println!(
        "Deployment of 1000: all pods exist after {made:.2?}, have nodes after {bound:.2?}, {:.2} s of processor",
        processor() - busy
    );
    let start = Instant::now();
    let watching = placed(&cluster, "more", 4000, start);
    let (_, (made, bound)) = tokio::join!(cluster.deployment("more", json!({ "replicas": 4000 })), watching);
    println!("Deployment of 4000: all pods exist after {made:.2?}, have nodes after {bound:.2?}");
    println!("with 5000 pods: {:.1?} MiB", memory());
}
