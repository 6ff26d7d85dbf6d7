//! Pods that nobody looks after: those of nodes that are gone, and those that have ended when there are too many.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use super::delete_pod;
use crate::error::{Error, Result};
use crate::informer::{Change, Informer};
use crate::key::ObjectKey;
use crate::model::Pod;
use crate::queue::{Again, Queue};

/// So many pods that have ended are kept (the reference's `--terminated-pod-gc-threshold`).
const ENDED: usize = 12_500;
/// Somebody has made sure that a node with this taint runs nothing.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// So many nodes are looked at at the same time.
const WIDTH: usize = 4;

/// The collector of pods that remain. It looks at nodes, by name; at "" for the pods that have ended.
pub(crate) struct Remains {
    client: Client,
    nodes: Arc<Informer<Node>>,
    pods: Arc<Informer<Pod>>,
    queue: Arc<Queue<String>>,
    /// How long a node may be gone before its pods are.
    patience: Duration,
}

impl Remains {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(
        client: Client,
        nodes: Arc<Informer<Node>>,
        pods: Arc<Informer<Pod>>,
        patience: Duration,
    ) -> Remains {
        let queue = Queue::new("remains");
        nodes.on_change({
            let queue = queue.clone();
            move |change| match change {
                Change::Deleted(node) => queue.add_after(node.name_any(), patience),
                change if is_out_of_service(change.object()) => queue.add(change.object().name_any()),
                _ => {}
            }
        });
        pods.on_change({
            let (queue, nodes) = (queue.clone(), nodes.clone());
            move |change| {
                let pod = change.object();
                if matches!(change, Change::Deleted(_)) {
                    return;
                }
                let node = &pod.spec.node_name;
                match nodes.get(&ObjectKey::new("", node)) {
                    _ if node.is_empty() => {}
                    None => queue.add_after(node.clone(), patience),
                    Some(known) if pod.is_terminating() && is_out_of_service(&known) => {
                        queue.add(node.clone())
                    }
                    Some(_) => {}
                }
                if pod.is_finished() && !change.old().is_some_and(|old| old.is_finished()) {
                    queue.add(String::new());
                }
            }
        });
        Remains { client, nodes, pods, queue, patience }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.nodes.wait_complete().await;
        self.pods.wait_complete().await;
        self.queue.run(WIDTH, |node| self.sync(node)).await
    }

    async fn sync(&self, node: String) -> Result<Again> {
        if node.is_empty() {
            return self.thin_out().await.map(|()| None);
        }
        let mut pods = self.pods.list_all();
        pods.retain(|pod| pod.spec.node_name == node);
        if let Some(known) = self.nodes.get(&ObjectKey::new("", &node)) {
            if is_out_of_service(&known) {
                // Somebody has made sure that nothing runs there any more.
                pods.retain(|pod| pod.is_terminating());
                let message = "PodGC: node is out-of-service";
                self.delete_all(&pods, message).await?;
            }
            return Ok(None);
        }
        if pods.is_empty() {
            return Ok(None);
        }
        // The watch may be behind.
        let api = Api::<Node>::all(self.client.clone());
        let found = api.get_metadata_opt(&node).await.map_err(Error::request("read", "Node", &node))?;
        if found.is_some() {
            return Ok(Some(self.patience));
        }
        self.delete_all(&pods, "PodGC: node no longer exists").await?;
        Ok(None)
    }

    /// Deletes pods that nobody ends any more, and says of each before why.
    async fn delete_all(&self, pods: &[Arc<Pod>], message: &str) -> Result<()> {
        let deletions = pods.iter().map(|pod| async {
            if !pod.is_finished() {
                self.mark_failed(pod, message).await?;
            }
            delete_pod(&self.client, pod, true).await
        });
        join_all(deletions).await.into_iter().collect()
    }

    async fn mark_failed(&self, pod: &Pod, message: &str) -> Result<()> {
        let key = ObjectKey::of(pod);
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": message,
            "lastTransitionTime": Time(Timestamp::now()),
        });
        let patch = json!({
            "metadata": { "uid": pod.metadata.uid }, "status": { "phase": "Failed", "conditions": [condition] },
        });
        let api = Api::<PartialObjectMeta<Pod>>::namespaced(self.client.clone(), &key.namespace);
        let written = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        match written.map_err(Error::request("write the status of", "Pod", key)) {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes the oldest of the pods that have ended, where there are too many.
    async fn thin_out(&self) -> Result<()> {
        let mut ended = self.pods.list_all();
        if ended.len() <= ENDED {
            return Ok(());
        }
        ended.retain(|pod| pod.is_finished());
        // Those that were sent away are of no use to anybody.
        let is_evicted = |pod: &Pod| pod.status.reason == "Evicted";
        ended.sort_by_key(|pod| {
            (!is_evicted(pod), pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
        });
        let excess = ended.len().saturating_sub(ENDED);
        let deletions = ended.iter().take(excess).map(|pod| delete_pod(&self.client, pod, true));
        join_all(deletions).await.into_iter().collect()
    }
}

/// Whether a node was said to be out of service, and does not answer.
fn is_out_of_service(node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    taints.any(|taint| taint.key == OUT_OF_SERVICE)
        && !conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
