//! Which pods go first when there are too many.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::model::Pod;

/// How dear a pod is: cheaper ones go first.
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Sorts pods so that those that are missed least come first, as the reference does. `related` are the
/// active pods of the same owner, this set's among them.
pub(crate) fn first_to_go(pods: &mut [Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related {
        *on_node.entry(&pod.spec.node_name).or_default() += 1;
    }
    let rank = |pod: &Pod| on_node.get(pod.spec.node_name.as_str()).copied().unwrap_or(0);
    pods.sort_by(|left, right| compare(left, right, &rank, now));
}

fn compare(left: &Pod, right: &Pod, rank: &impl Fn(&Pod) -> usize, now: Timestamp) -> Ordering {
    let phase = |pod: &Pod| match pod.status.phase.as_str() {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let restarts = |pod: &Pod| {
        pod.status.container_statuses.iter().map(|container| container.restart_count).max().unwrap_or(0)
    };
    let assigned = |pod: &Pod| !pod.spec.node_name.is_empty();
    (assigned(left).cmp(&assigned(right)))
        .then_with(|| phase(left).cmp(&phase(right)))
        .then_with(|| left.is_ready().cmp(&right.is_ready()))
        .then_with(|| cost(left).cmp(&cost(right)))
        .then_with(|| rank(right).cmp(&rank(left)))
        .then_with(|| younger(left.ready_since(), right.ready_since(), now))
        .then_with(|| restarts(right).cmp(&restarts(left)))
        .then_with(|| {
            let created = |pod: &Pod| pod.metadata.creation_timestamp.clone();
            younger(created(left).as_ref(), created(right).as_ref(), now)
        })
        .then_with(|| left.metadata.uid.cmp(&right.metadata.uid))
}

fn cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(COST)).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The younger first. Ages of the same power of two are the same, so that chance spreads what is deleted.
fn younger(left: Option<&Time>, right: Option<&Time>, now: Timestamp) -> Ordering {
    let age = |time: &Time| {
        let seconds = now.duration_since(time.0).as_secs().max(0);
        (seconds + 1).ilog2()
    };
    match (left, right) {
        (Some(left), Some(right)) => age(left).cmp(&age(right)),
        // Without a time it is newer than anything.
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, change: Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": { "name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "nodeName": "one" },
            "status": { "phase": "Running", "conditions": [
                { "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" }] },
        });
        for (pointer, value) in change.as_object().unwrap() {
            *pod.pointer_mut(pointer).unwrap() = value.clone();
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    /// The names in the order in which they go.
    fn check(pods: &[Arc<Pod>], expected: &[&str]) {
        let now = "2026-01-02T00:00:00Z".parse().unwrap();
        let mut sorted: Vec<_> = pods.iter().rev().cloned().collect();
        first_to_go(&mut sorted, pods, now);
        let names: Vec<_> = sorted.iter().map(|pod| pod.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn the_least_useful_goes_first() {
        let recent = "2026-01-01T23:59:00Z";
        let all = [
            pod("unassigned", json!({ "/spec/nodeName": "" })),
            pod("pending", json!({ "/status/phase": "Pending" })),
            pod("unready", json!({ "/status/conditions/0/status": "False" })),
            pod("cheap", json!({ "/metadata": { "name": "cheap", "annotations": { COST: "-1" } } })),
            pod("ready lately", json!({ "/status/conditions/0/lastTransitionTime": recent })),
            pod(
                "restarted",
                json!({ "/status": {
                    "phase": "Running", "containerStatuses": [{ "restartCount": 3 }],
                    "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" }],
                } }),
            ),
            pod("young", json!({ "/metadata/creationTimestamp": recent })),
            pod("old", json!({})),
        ];
        check(
            &all,
            &["unassigned", "pending", "unready", "cheap", "ready lately", "restarted", "young", "old"],
        );
    }

    #[test]
    fn the_fuller_node_loses_first() {
        let all =
            [pod("alone", json!({ "/spec/nodeName": "two" })), pod("a", json!({})), pod("b", json!({}))];
        check(&all, &["a", "b", "alone"]);
    }
}
