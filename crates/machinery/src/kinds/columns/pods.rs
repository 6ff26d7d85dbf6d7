//! The cells of pods.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE_COLUMN, Column, age, column, items, number, or, wide};
use crate::{object, time};

pub(in crate::kinds) const POD: &[Column] = &[
    column("Ready", "string", "The aggregate readiness state of this pod for accepting traffic."),
    column("Status", "string", "The aggregate status of the containers in this pod."),
    column(
        "Restarts",
        "string",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    ),
    AGE_COLUMN,
    wide(
        "IP",
        "podIP address allocated to the pod. Routable at least within the cluster. Empty if not yet allocated.",
    ),
    wide("Node", "NodeName indicates in which node this pod is scheduled."),
    wide("Nominated Node", "nominatedNodeName is set only when this pod preempts other pods on the node."),
    wide("Readiness Gates", "If specified, all readiness gates will be evaluated for pod readiness."),
];

pub(in crate::kinds) fn pod(pod: &Value, now: Timestamp) -> Vec<Value> {
    let state = PodState::of(pod);
    let restarts = match state.last_restart {
        Some(at) if state.restarts > 0 => format!("{} ({} ago)", state.restarts, time::age(at, now)),
        _ => state.restarts.to_string(),
    };
    let addresses = items(pod, &["status", "podIPs"]);
    let address = match addresses.first() {
        Some(first) => first["ip"].as_str().unwrap_or_default(),
        None => object::text(pod, &["status", "podIP"]),
    };
    let gates = items(pod, &["spec", "readinessGates"]);
    let passed = gates
        .iter()
        .filter(|gate| {
            items(pod, &["status", "conditions"])
                .iter()
                .any(|condition| condition["type"] == gate["conditionType"] && condition["status"] == "True")
        })
        .count();
    vec![
        json!(object::name(pod)),
        json!(format!("{}/{}", state.ready, state.total)),
        json!(state.reason),
        json!(restarts),
        age(pod, now),
        or(address, "<none>"),
        or(object::text(pod, &["spec", "nodeName"]), "<none>"),
        or(object::text(pod, &["status", "nominatedNodeName"]), "<none>"),
        if gates.is_empty() { json!("<none>") } else { json!(format!("{passed}/{}", gates.len())) },
    ]
}

struct PodState {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl PodState {
    /// The rules of `printPod` in the reference's internal printers.
    fn of(pod: &Value) -> PodState {
        let spec_containers = items(pod, &["spec", "containers"]);
        let init_containers = items(pod, &["spec", "initContainers"]);
        let phase = object::text(pod, &["status", "phase"]);
        let mut reason = match object::text(pod, &["status", "reason"]) {
            "" => phase.to_owned(),
            reason => reason.to_owned(),
        };
        for condition in items(pod, &["status", "conditions"]) {
            if condition["type"] == "PodScheduled" && condition["reason"] == "SchedulingGated" {
                reason = "SchedulingGated".into();
            }
        }
        let restartable = |name: &Value| {
            init_containers
                .iter()
                .any(|container| container["name"] == *name && container["restartPolicy"] == "Always")
        };
        let mut total = spec_containers.len();
        let (mut ready, mut restarts, mut last) = (0, 0, None);
        let (mut sidecar_restarts, mut sidecar_last) = (0, None);
        let mut initializing = false;
        for (index, status) in items(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
            restarts += number(status, &["restartCount"]);
            last = last.max(ended(status));
            if restartable(&status["name"]) {
                sidecar_restarts += number(status, &["restartCount"]);
                sidecar_last = sidecar_last.max(ended(status));
            }
            let terminated = object::at(status, &["state", "terminated"]);
            let waiting = object::text(status, &["state", "waiting", "reason"]);
            if initializing {
                continue;
            }
            if terminated.is_object() && number(terminated, &["exitCode"]) == 0 {
                continue;
            }
            if restartable(&status["name"]) && status["started"] == true {
                if status["ready"] == true {
                    ready += 1;
                }
                continue;
            }
            reason = if terminated.is_object() {
                format!("Init:{}", terminated_reason(terminated))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", init_containers.len())
            };
            initializing = true;
        }
        total += init_containers.iter().filter(|container| container["restartPolicy"] == "Always").count();
        let initialized = items(pod, &["status", "conditions"])
            .iter()
            .any(|condition| condition["type"] == "Initialized" && condition["status"] == "True");
        if !initializing || initialized {
            restarts = sidecar_restarts;
            last = sidecar_last;
            let mut running = false;
            for status in items(pod, &["status", "containerStatuses"]).iter().rev() {
                restarts += number(status, &["restartCount"]);
                last = last.max(ended(status));
                let waiting = object::text(status, &["state", "waiting", "reason"]);
                let terminated = object::at(status, &["state", "terminated"]);
                if !waiting.is_empty() {
                    reason = waiting.to_owned();
                } else if terminated.is_object() {
                    reason = terminated_reason(terminated);
                } else if status["ready"] == true && status["state"]["running"].is_object() {
                    running = true;
                    ready += 1;
                }
            }
            if reason == "Completed" && running {
                let pod_ready = items(pod, &["status", "conditions"])
                    .iter()
                    .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
                reason = if pod_ready { "Running".into() } else { "NotReady".into() };
            }
        }
        if object::is_terminating(pod) {
            if object::text(pod, &["status", "reason"]) == "NodeLost" {
                reason = "Unknown".into();
            } else if !matches!(phase, "Failed" | "Succeeded") {
                reason = "Terminating".into();
            }
        }
        PodState { reason, ready, total, restarts, last_restart: last }
    }
}

fn ended(status: &Value) -> Option<Timestamp> {
    time::parse(object::text(status, &["lastState", "terminated", "finishedAt"]))
}

fn terminated_reason(terminated: &Value) -> String {
    let reason = object::text(terminated, &["reason"]);
    if !reason.is_empty() {
        reason.to_owned()
    } else if number(terminated, &["signal"]) != 0 {
        format!("Signal:{}", number(terminated, &["signal"]))
    } else {
        format!("ExitCode:{}", number(terminated, &["exitCode"]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_pod(status: Value, expected: [&str; 3]) {
        let object = json!({ "metadata": { "name": "a" }, "spec": { "containers": [{}] }, "status": status });
        let cells = pod(&object, Timestamp::UNIX_EPOCH);
        assert_eq!([&cells[1], &cells[2], &cells[3]], expected.each_ref().map(|text| json!(text)).each_ref());
    }

    #[test]
    fn pods_read_as_kubectl_prints_them() {
        check_pod(json!({ "phase": "Pending" }), ["0/1", "Pending", "0"]);
        check_pod(
            json!({ "phase": "Running", "containerStatuses": [
                { "ready": true, "restartCount": 0, "state": { "running": {} } }] }),
            ["1/1", "Running", "0"],
        );
        check_pod(
            json!({ "phase": "Running", "containerStatuses": [
                { "ready": false, "restartCount": 2, "state": { "waiting": { "reason": "CrashLoopBackOff" } } }] }),
            ["0/1", "CrashLoopBackOff", "2"],
        );
        check_pod(
            json!({ "phase": "Failed", "containerStatuses": [
                { "restartCount": 0, "state": { "terminated": { "exitCode": 3 } } }] }),
            ["0/1", "ExitCode:3", "0"],
        );
    }
}
