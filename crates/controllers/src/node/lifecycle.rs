//! Whether nodes answer: conditions that nobody renews become unknown, and taints say what the conditions say.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::events::{Recorder, Severity};
use crate::informer::{Change, Informer};
use crate::key::ObjectKey;
use crate::model::Pod;
use crate::owner;
use crate::queue::{Again, Queue};

/// So many nodes are looked at at the same time.
const WIDTH: usize = 8;
const READY: &str = "Ready";
const NOT_READY_TAINT: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE_TAINT: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";
/// Conditions that keep new pods away while they hold, and their taints.
const PRESSURES: &[(&str, &str)] = &[
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// Conditions that a node's agent writes.
const OWN: &[&str] = &[READY, "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The controller of nodes.
pub(crate) struct Lifecycle {
    client: Client,
    nodes: Arc<Informer<Node>>,
    leases: Arc<Informer<Lease>>,
    pods: Arc<Informer<Pod>>,
    /// How long a node may say nothing.
    grace: Duration,
    /// When each node last said something.
    heard: Arc<Mutex<HashMap<String, Instant>>>,
    queue: Arc<Queue<ObjectKey>>,
    recorder: Recorder,
}

impl Lifecycle {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(
        client: Client,
        nodes: Arc<Informer<Node>>,
        leases: Arc<Informer<Lease>>,
        pods: Arc<Informer<Pod>>,
        grace: Duration,
        recorder: &Recorder,
    ) -> Lifecycle {
        let queue = Queue::new("nodes");
        let heard = Arc::new(Mutex::new(HashMap::new()));
        nodes.on_change({
            let (queue, heard) = (queue.clone(), heard.clone());
            move |change| {
                let node = change.object();
                match change {
                    Change::Deleted(_) => drop(heard.lock().remove(&node.name_any())),
                    Change::Added(_) => drop(heard.lock().insert(node.name_any(), Instant::now())),
                    Change::Updated { old, new } if beat(old) != beat(new) => {
                        heard.lock().insert(node.name_any(), Instant::now());
                    }
                    Change::Updated { .. } => {}
                }
                queue.add(ObjectKey::of(&**node));
            }
        });
        leases.on_change({
            let (queue, heard) = (queue.clone(), heard.clone());
            move |change| {
                let lease = change.object();
                let renewed = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
                let same = change.old().is_some_and(|old| renewed(old) == renewed(lease));
                if !same && !matches!(change, Change::Deleted(_)) {
                    let name = lease.name_any();
                    // A lease that is renewed in time changes nothing: the queue's timer looks when it would run out.
                    let silent = heard.lock().insert(name.clone(), Instant::now());
                    if silent.is_none_or(|at| at.elapsed() > grace) {
                        queue.add(ObjectKey::new("", name));
                    }
                }
            }
        });
        // A pod that comes to a node that does not answer is not ready either.
        let recorder = recorder.of("node-controller");
        Lifecycle { client, nodes, leases, pods, grace, heard, queue, recorder }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.nodes.wait_complete().await;
        self.leases.wait_complete().await;
        self.pods.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let Some(node) = self.nodes.get(&key) else { return Ok(None) };
        let heard = *self.heard.lock().entry(key.name.clone()).or_insert_with(Instant::now);
        let silent = heard.elapsed();
        let again = self.grace.saturating_sub(silent);
        let ready = condition(&node, READY).map(|condition| condition.status.as_str());
        if again.is_zero() && ready != Some("Unknown") {
            self.mark_unknown(&node).await?;
            // The watch brings what was written, and the node is looked at again.
            return Ok(None);
        }
        self.set_taints(&node).await?;
        if matches!(ready, Some("False" | "Unknown")) {
            self.mark_pods(&key.name).await?;
        }
        Ok((!again.is_zero()).then(|| again + Duration::from_millis(1)))
    }

    /// Says of a node that nobody knows how it is.
    async fn mark_unknown(&self, node: &Node) -> Result<()> {
        let now = Time(Timestamp::now());
        let mut conditions =
            node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        for kind in OWN {
            match conditions.iter_mut().find(|condition| condition.type_ == *kind) {
                Some(condition) if condition.status == "Unknown" => {}
                Some(condition) => {
                    condition.status = "Unknown".to_owned();
                    condition.reason = Some("NodeStatusUnknown".to_owned());
                    condition.message = Some("Kubelet stopped posting node status.".to_owned());
                    condition.last_transition_time = Some(now.clone());
                }
                None => conditions.push(NodeCondition {
                    type_: (*kind).to_owned(),
                    status: "Unknown".to_owned(),
                    reason: Some("NodeStatusNeverUpdated".to_owned()),
                    message: Some("Kubelet never posted node status.".to_owned()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(now.clone()),
                }),
            }
        }
        let patch = json!({
            "metadata": { "uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version },
            "status": { "conditions": conditions },
        });
        let api = Api::<PartialObjectMeta<Node>>::all(self.client.clone());
        let written = api.patch_status(&node.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await;
        written.map_err(Error::request("write the status of", "Node", ObjectKey::of(node)))?;
        let message = format!("Node {} status is now: NodeNotReady", node.name_any());
        self.recorder.note(node, Severity::Normal, "NodeNotReady", message);
        Ok(())
    }

    async fn set_taints(&self, node: &Node) -> Result<()> {
        if owner::is_terminating(node) {
            return Ok(());
        }
        let known = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        let wanted = taints(node, &known, Timestamp::now());
        if wanted == known {
            return Ok(());
        }
        let patch = json!({
            "metadata": { "uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version },
            "spec": { "taints": wanted },
        });
        let api = Api::<PartialObjectMeta<Node>>::all(self.client.clone());
        let written = api.patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await;
        written.map(drop).map_err(Error::request("change the taints of", "Node", ObjectKey::of(node)))
    }

    /// Says of the pods of a node that does not answer that they are not ready.
    async fn mark_pods(&self, node: &str) -> Result<()> {
        let pods = self.pods.list_all();
        let ready = pods.iter().filter(|pod| pod.spec.node_name == node && pod.is_ready());
        let marked = ready.map(|pod| async {
            let key = ObjectKey::of(&**pod);
            let condition = json!({
                "type": READY, "status": "False", "lastTransitionTime": Time(Timestamp::now()),
            });
            let patch =
                json!({ "metadata": { "uid": pod.metadata.uid }, "status": { "conditions": [condition] } });
            let api = Api::<PartialObjectMeta<Pod>>::namespaced(self.client.clone(), &key.namespace);
            let written =
                api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            match written.map_err(Error::request("write the status of", "Pod", key)) {
                Err(error) if !error.is_not_found() => Err(error),
                _ => {
                    self.recorder.note(
                        &**pod,
                        Severity::Warning,
                        "NodeNotReady",
                        "Node is not ready".to_owned(),
                    );
                    Ok(())
                }
            }
        });
        join_all(marked).await.into_iter().collect()
    }
}

/// What a node's agent renews in its status.
fn beat(node: &Node) -> Option<Time> {
    condition(node, READY)?.last_heartbeat_time.clone()
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// The taints that a node is to have: those that follow from its state, in the place of those that did before.
fn taints(node: &Node, known: &[Taint], now: Timestamp) -> Vec<Taint> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match condition(node, READY).map(|condition| condition.status.as_str()) {
        Some("False") => wanted.extend([(NOT_READY_TAINT, "NoSchedule"), (NOT_READY_TAINT, "NoExecute")]),
        Some("Unknown") => {
            wanted.extend([(UNREACHABLE_TAINT, "NoSchedule"), (UNREACHABLE_TAINT, "NoExecute")]);
        }
        _ => {}
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE_TAINT, "NoSchedule"));
    }
    for (kind, taint) in PRESSURES {
        if condition(node, kind).is_some_and(|condition| condition.status == "True") {
            wanted.push((taint, "NoSchedule"));
        }
    }
    let is_ours = |taint: &Taint| {
        let key = taint.key.as_str();
        matches!(key, NOT_READY_TAINT | UNREACHABLE_TAINT | UNSCHEDULABLE_TAINT)
            || PRESSURES.iter().any(|(_, other)| *other == key)
    };
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> =
        known.iter().filter(|taint| !is_ours(taint) || is_wanted(taint)).cloned().collect();
    for (key, effect) in &wanted {
        if !taints.iter().any(|taint| taint.key == *key && taint.effect == *effect) {
            taints.push(Taint {
                key: (*key).to_owned(),
                effect: (*effect).to_owned(),
                time_added: Some(Time(now)),
                value: None,
            });
        }
    }
    taints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_say_what_conditions_say() {
        let check = |ready: &str, known: &[(&str, &str)], expected: &[(&str, &str)]| {
            let node: Node = serde_json::from_value(json!({ "status": { "conditions": [
                { "type": "Ready", "status": ready }, { "type": "DiskPressure", "status": "False" }] } }))
            .unwrap();
            let known: Vec<Taint> = known
                .iter()
                .map(|(key, effect)| Taint {
                    key: (*key).to_owned(),
                    effect: (*effect).to_owned(),
                    ..Taint::default()
                })
                .collect();
            let taints = taints(&node, &known, Timestamp::UNIX_EPOCH);
            let found: Vec<_> =
                taints.iter().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect();
            assert_eq!(found, expected);
        };
        let foreign = ("example.com/x", "NoSchedule");
        let unreachable = [(UNREACHABLE_TAINT, "NoSchedule"), (UNREACHABLE_TAINT, "NoExecute")];
        check(
            "True",
            &[foreign, unreachable[0], ("node.kubernetes.io/disk-pressure", "NoSchedule")],
            &[foreign],
        );
        check("Unknown", &[foreign], &[foreign, unreachable[0], unreachable[1]]);
        check("False", &unreachable, &[(NOT_READY_TAINT, "NoSchedule"), (NOT_READY_TAINT, "NoExecute")]);
    }
}
