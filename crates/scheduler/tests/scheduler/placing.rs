//! Where pods go, and what is said of those that go nowhere.

use crate::support::{Stop, asking, cluster, message, size, start, within};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_gets_a_node_and_an_event() {
    let cluster = cluster().await;
    cluster.node("one", json!({}), size("2")).await;
    cluster.pod("a", asking("1")).await;
    assert_eq!(cluster.node_of("a").await, "one");
    let event = cluster.event("Scheduled", "a").await;
    assert_eq!(event.message.as_deref(), Some("Successfully assigned default/a to one"));
    assert_eq!(event.reporting_component.as_deref(), Some("default-scheduler"));
    let pod = cluster.pods().get("a").await.unwrap();
    let condition = &pod.status.unwrap().conditions.unwrap()[0];
    assert_eq!((condition.type_.as_str(), condition.status.as_str()), ("PodScheduled", "True"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_waits_for_what_makes_room() {
    let cluster = cluster().await;
    cluster.pod("early", json!({})).await;
    assert_eq!(cluster.refusal_of("early").await, "no nodes available to schedule pods");
    cluster.node("one", json!({}), size("2")).await;
    assert_eq!(cluster.node_of("early").await, "one");
    cluster.pod("a", asking("2")).await;
    cluster.node_of("a").await;
    cluster.pod("b", asking("2")).await;
    assert_eq!(
        cluster.refusal_of("b").await,
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims \
         found for incoming pod."
    );
    let event = cluster.event("FailedScheduling", "b").await;
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    cluster.pods().delete("a", &now).await.unwrap();
    assert_eq!(cluster.node_of("b").await, "one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taints_and_cordons_hold_until_they_are_taken_away() {
    let cluster = cluster().await;
    let taint = json!({ "taints": [{ "key": "k", "value": "v", "effect": "NoSchedule" }] });
    cluster.node("tainted", taint, size("2")).await;
    cluster.node("cordoned", json!({ "unschedulable": true }), size("2")).await;
    cluster.pod("a", json!({})).await;
    assert_eq!(
        cluster.refusal_of("a").await,
        "0/2 nodes are available: 1 node(s) had untolerated taint {k: v}, 1 node(s) were unschedulable. \
         preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    );
    cluster.pod("b", json!({ "tolerations": [{ "key": "k", "operator": "Exists" }] })).await;
    assert_eq!(cluster.node_of("b").await, "tainted");
    let nodes = Api::<Node>::all(cluster.client.clone());
    let patch = Patch::Merge(json!({ "spec": { "unschedulable": null } }));
    nodes.patch("cordoned", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(cluster.node_of("a").await, "cordoned");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_never_filled_beyond_what_they_have() {
    let cluster = cluster().await;
    for name in ["one", "two", "three"] {
        cluster.node(name, json!({}), size("4")).await;
    }
    let names: Vec<String> = (0..15).map(|number| format!("p{number}")).collect();
    futures_util::future::join_all(names.iter().map(|name| cluster.pod(name, asking("1")))).await;
    let pods = cluster.pods();
    within("twelve pods with nodes", async {
        let mut events = pods.watch(&WatchParams::default(), "0").await.unwrap().boxed();
        while pods
            .list(&ListParams::default())
            .await
            .unwrap()
            .iter()
            .filter(|pod| pod.spec.as_ref().unwrap().node_name.is_some())
            .count()
            < 12
        {
            events.next().await;
        }
    })
    .await;
    let mut left = 0;
    let mut counts = std::collections::HashMap::<String, usize>::new();
    for pod in pods.list(&ListParams::default()).await.unwrap() {
        match pod.spec.unwrap().node_name {
            Some(node) => *counts.entry(node).or_default() += 1,
            None => left += 1,
        }
    }
    assert_eq!((left, counts.len()), (3, 3));
    assert!(counts.values().all(|count| *count == 4), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_and_gated_pods_are_left_alone() {
    let cluster = cluster().await;
    cluster.node("one", json!({}), size("4")).await;
    cluster.pod("other", json!({ "schedulerName": "mine" })).await;
    cluster.pod("gated", json!({ "schedulingGates": [{ "name": "example.com/wait" }] })).await;
    let said = cluster.refusal_of("gated").await;
    assert_eq!(said, "Scheduling is blocked due to non-empty scheduling gates");
    cluster.pod("a", json!({})).await;
    cluster.node_of("a").await;
    let other = cluster.pods().get("other").await.unwrap();
    assert_eq!(other.spec.unwrap().node_name, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_that_begins_again_knows_what_is_taken() {
    let mut cluster = cluster().await;
    cluster.node("one", json!({}), size("2")).await;
    cluster.pod("a", asking("1500m")).await;
    cluster.node_of("a").await;
    let Stop { stop, running } = cluster.stop.take().unwrap();
    drop(stop);
    within("the end of the scheduler", running).await.unwrap();
    cluster.pod("b", asking("1")).await;
    cluster.pod("c", asking("500m")).await;
    cluster.stop = Some(start(&cluster.server));
    assert_eq!(
        cluster.refusal_of("b").await,
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims \
         found for incoming pod."
    );
    assert_eq!(cluster.node_of("c").await, "one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_more_urgent_push_the_less_urgent_away() {
    let cluster = cluster().await;
    for (name, policy) in [("high", "PreemptLowerPriority"), ("never", "Never")] {
        let class = json!({ "metadata": { "name": name }, "value": 1000, "preemptionPolicy": policy });
        let class: PriorityClass = serde_json::from_value(class).unwrap();
        Api::<PriorityClass>::all(cluster.client.clone())
            .create(&PostParams::default(), &class)
            .await
            .unwrap();
    }
    cluster.node("one", json!({}), size("2")).await;
    cluster.pod("low", asking("2")).await;
    cluster.node_of("low").await;
    let high = |cpu: &str| {
        let mut spec = asking(cpu);
        spec["priorityClassName"] = "high".into();
        spec
    };
    cluster.pod("high", high("1")).await;
    let has_gone = |pod: &Pod| {
        let conditions =
            pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let target = conditions.iter().find(|condition| condition.type_ == "DisruptionTarget");
        pod.metadata.deletion_timestamp.is_some()
            && target.is_some_and(|target| target.reason.as_deref() == Some("PreemptionByScheduler"))
    };
    cluster.pod_when("low", has_gone).await;
    let kept = |pod: &Pod| pod.status.as_ref().unwrap().nominated_node_name.as_deref() == Some("one");
    let pod = cluster.pod_when("high", kept).await;
    assert_eq!(message(&pod).unwrap(), "0/1 nodes are available: 1 Insufficient cpu.");
    let event = cluster.event("Preempted", "low").await;
    let uid = pod.metadata.uid.unwrap();
    assert_eq!(event.message, Some(format!("Preempted by pod {uid} on node one")));
    // Room that is kept is nobody else's.
    cluster.pod("other", asking("1500m")).await;
    cluster.refusal_of("other").await;
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    cluster.pods().delete("low", &now).await.unwrap();
    assert_eq!(cluster.node_of("high").await, "one");
    let other = cluster.pods().get("other").await.unwrap();
    assert_eq!(other.spec.unwrap().node_name, None);
    let mut never = high("2");
    never["priorityClassName"] = "never".into();
    cluster.pod("never", never).await;
    assert_eq!(
        cluster.refusal_of("never").await,
        "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."
    );
}
