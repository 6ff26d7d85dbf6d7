//! Several profiles, groups of pods, and several servers.

use crate::support::{Cluster, asking, cluster, message, size, start_with, within};
use dray_scheduler::{Config, Profile};
use futures_util::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

impl Cluster {
    /// Stops the scheduler and starts another.
    async fn restart(&mut self, config: Config) {
        let stop = self.stop.take().unwrap();
        drop(stop.stop);
        within("the end of the scheduler", stop.running).await.unwrap();
        self.stop = Some(start_with(&self.server, config));
    }

    async fn pod_of_group(&self, name: &str, cpu: &str) {
        let pod: Value = json!({
            "metadata": { "name": name, "labels": {
                "pod-group.scheduling.sigs.k8s.io/name": "g",
                "pod-group.scheduling.sigs.k8s.io/min-available": "3" } },
            "spec": asking(cpu),
        });
        self.pods().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_placed_as_the_scheduler_prefers_that_they_name() {
    let mut cluster = cluster().await;
    let packed: Profile = "packed:strategy=MostAllocated,NodeResourcesFit=10".parse().unwrap();
    cluster.restart(Config { profiles: vec![packed], identity: None }).await;
    for name in ["one", "two"] {
        cluster.node(name, json!({}), size("8")).await;
    }
    cluster.pod("first", asking("1")).await;
    let full = cluster.node_of("first").await;
    let mut spec = asking("1");
    cluster.pod("usual", spec.clone()).await;
    assert_ne!(cluster.node_of("usual").await, full);
    let large = asking("2");
    cluster.pod("large", large).await;
    let full = cluster.node_of("large").await;
    spec["schedulerName"] = "packed".into();
    cluster.pod("packed", spec).await;
    assert_eq!(cluster.node_of("packed").await, full);
    let event = cluster.event("Scheduled", "packed").await;
    assert_eq!(event.reporting_component.as_deref(), Some("packed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_group_all_are_placed_or_none() {
    let cluster = cluster().await;
    cluster.node("one", json!({}), size("2")).await;
    for name in ["a", "b"] {
        cluster.pod_of_group(name, "1").await;
    }
    let lacking = "0/1 nodes are available: pod group \"g\" has 2 of at least 3 pods.";
    cluster.pod_when("b", |pod| message(pod).as_deref() == Some(lacking)).await;
    cluster.pod_of_group("c", "1").await;
    let narrow = "0/1 nodes are available: only 2 of at least 3 pods of pod group \"g\" find a node.";
    cluster.pod_when("a", |pod| message(pod).as_deref() == Some(narrow)).await;
    assert_eq!(cluster.refusal_of("c").await, "0/1 nodes are available: 1 Insufficient cpu.");
    // What a group does not get is there for others.
    cluster.pod("other", asking("2")).await;
    assert_eq!(cluster.node_of("other").await, "one");
    cluster.node("two", json!({}), size("8")).await;
    for name in ["a", "b", "c"] {
        assert_eq!(cluster.node_of(name).await, "two");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_schedulers_one_decides_until_it_stops() {
    let mut cluster = cluster().await;
    cluster.node("one", json!({}), size("8")).await;
    let named = |name: &str| Config { identity: Some(name.to_owned()), ..Config::default() };
    cluster.restart(named("first")).await;
    let leases = Api::<Lease>::namespaced(cluster.client.clone(), "kube-system");
    let held_by = async |name: &str| {
        within(name, async {
            let parameters = WatchParams::default().fields("metadata.name=kube-scheduler");
            let mut events = leases.watch(&parameters, "0").await.unwrap().boxed();
            loop {
                if let WatchEvent::Added(lease) | WatchEvent::Modified(lease) =
                    events.next().await.unwrap().unwrap()
                    && lease.spec.as_ref().unwrap().holder_identity.as_deref() == Some(name)
                {
                    return lease;
                }
            }
        })
        .await
    };
    held_by("first").await;
    let second = start_with(&cluster.server, named("second"));
    cluster.pod("a", asking("1")).await;
    cluster.node_of("a").await;
    assert!(!second.running.is_finished());
    held_by("first").await;
    let first = cluster.stop.replace(second).unwrap();
    drop(first.stop);
    within("the end of the first", first.running).await.unwrap();
    let lease = held_by("second").await;
    assert_eq!(lease.spec.unwrap().lease_transitions, Some(1));
    cluster.pod("b", asking("1")).await;
    cluster.node_of("b").await;
    let pod: Pod = cluster.pods().get("b").await.unwrap();
    assert_eq!(pod.status.unwrap().conditions.unwrap()[0].status, "True");
}
