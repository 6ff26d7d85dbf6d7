//! Pods leave nodes whose taints they do not put up with, or not for longer.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use super::delete_pod;
use crate::error::{Error, Result};
use crate::events::{Recorder, Severity};
use crate::informer::Informer;
use crate::key::ObjectKey;
use crate::model::Pod;
use crate::queue::{Again, Queue};
use crate::taints::tolerates;

/// So many pods are looked at at the same time.
const WIDTH: usize = 8;

/// The controller of pods on tainted nodes.
pub(crate) struct Eviction {
    client: Client,
    nodes: Arc<Informer<Node>>,
    pods: Arc<Informer<Pod>>,
    queue: Arc<Queue<ObjectKey>>,
    recorder: Recorder,
}

impl Eviction {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(
        client: Client,
        nodes: Arc<Informer<Node>>,
        pods: Arc<Informer<Pod>>,
        recorder: &Recorder,
    ) -> Eviction {
        let queue = Queue::new("evictions");
        nodes.on_change({
            let (queue, pods) = (queue.clone(), pods.clone());
            move |change| {
                let node = change.object();
                let before = change.old().map(|old| expelling(old));
                if before.unwrap_or_default() == expelling(node) {
                    return;
                }
                let name = node.name_any();
                for pod in pods.list_all().iter().filter(|pod| pod.spec.node_name == name) {
                    queue.add(ObjectKey::of(&**pod));
                }
            }
        });
        pods.on_change({
            let (queue, nodes) = (queue.clone(), nodes.clone());
            move |change| {
                let pod = change.object();
                if pod.spec.node_name.is_empty() || pod.is_terminating() {
                    return;
                }
                let node = nodes.get(&ObjectKey::new("", &pod.spec.node_name));
                if node.is_some_and(|node| !expelling(&node).is_empty()) {
                    queue.add(ObjectKey::of(&**pod));
                }
            }
        });
        Eviction { client, nodes, pods, queue, recorder: recorder.of("taint-eviction-controller") }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.nodes.wait_complete().await;
        self.pods.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let Some(pod) = self.pods.get(&key).filter(|pod| !pod.is_terminating()) else { return Ok(None) };
        let Some(node) = self.nodes.get(&ObjectKey::new("", &pod.spec.node_name)) else { return Ok(None) };
        match stay(&expelling(&node), &pod.spec.tolerations, Timestamp::now()) {
            Stay::AsLongAsItWants => Ok(None),
            Stay::For(left) => Ok(Some(left)),
            Stay::NoLonger => {
                self.evict(&key, &pod).await?;
                Ok(None)
            }
        }
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<()> {
        let message = format!("Marking for deletion Pod {key}");
        self.recorder.note(pod, Severity::Normal, "TaintManagerEviction", message);
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": Time(Timestamp::now()),
        });
        let patch =
            json!({ "metadata": { "uid": pod.metadata.uid }, "status": { "conditions": [condition] } });
        let api = Api::<PartialObjectMeta<Pod>>::namespaced(self.client.clone(), &key.namespace);
        let written = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        match written.map_err(Error::request("write the status of", "Pod", key)) {
            Err(error) if error.is_not_found() || error.is_conflict() => return Ok(()),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        delete_pod(&self.client, pod, false).await
    }
}

/// The taints of a node that send pods away.
fn expelling(node: &Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Stay {
    AsLongAsItWants,
    For(Duration),
    NoLonger,
}

/// How long a pod may stay with these taints.
fn stay(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Stay {
    let mut shortest: Option<SignedDuration> = None;
    for taint in taints {
        let mut fitting = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if fitting.peek().is_none() {
            return Stay::NoLonger;
        }
        let since = taint.time_added.as_ref().map_or(now, |added| added.0);
        for seconds in fitting.filter_map(|toleration| toleration.toleration_seconds) {
            let left = SignedDuration::from_secs(seconds.max(0)) - now.duration_since(since);
            shortest = Some(shortest.map_or(left, |shortest| shortest.min(left)));
        }
    }
    match shortest {
        None => Stay::AsLongAsItWants,
        Some(left) if left.is_positive() => Stay::For(left.unsigned_abs()),
        Some(_) => Stay::NoLonger,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_patience_counts() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let taint: Taint = serde_json::from_value(json!({
            "key": "k", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        let check = |tolerations: serde_json::Value, expected: Stay| {
            let tolerations: Vec<Toleration> = serde_json::from_value(tolerations).unwrap();
            assert_eq!(stay(std::slice::from_ref(&taint), &tolerations, now), expected);
        };
        check(json!([]), Stay::NoLonger);
        check(json!([{ "operator": "Exists" }]), Stay::AsLongAsItWants);
        let patient =
            |seconds: i64| json!({ "key": "k", "operator": "Exists", "tolerationSeconds": seconds });
        check(json!([patient(300)]), Stay::For(Duration::from_secs(240)));
        check(json!([patient(300), patient(90)]), Stay::For(Duration::from_secs(30)));
        check(json!([patient(60)]), Stay::NoLonger);
        assert_eq!(stay(&[], &[], now), Stay::AsLongAsItWants);
    }
}
