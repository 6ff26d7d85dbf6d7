//! Pods that nobody looks after: those of nodes that are gone, and those that have ended when there are too many.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, ResourceExt as _};

use super::delete_pod;
use crate::error::{Error, Result};
use crate::informer::{Change, Informer};
use crate::key::ObjectKey;
use crate::model::Pod;
use crate::queue::{Again, Queue};

/// So many pods that have ended are kept (the reference's `--terminated-pod-gc-threshold`).
const ENDED: usize = 12_500;
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
            move |change| {
                if let Change::Deleted(node) = change {
                    queue.add_after(node.name_any(), patience);
                }
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
                if !node.is_empty() && nodes.get(&ObjectKey::new("", node)).is_none() {
                    queue.add_after(node.clone(), patience);
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
        if self.nodes.get(&ObjectKey::new("", &node)).is_some() {
            return Ok(None);
        }
        let pods = self.pods.list_all();
        let pods: Vec<_> = pods.into_iter().filter(|pod| pod.spec.node_name == node).collect();
        if pods.is_empty() {
            return Ok(None);
        }
        // The watch may be behind.
        let api = Api::<Node>::all(self.client.clone());
        let found = api.get_metadata_opt(&node).await.map_err(Error::request("read", "Node", &node))?;
        if found.is_some() {
            return Ok(Some(self.patience));
        }
        let deletions = pods.iter().map(|pod| delete_pod(&self.client, pod, true));
        join_all(deletions).await.into_iter().collect::<Result<()>>()?;
        Ok(None)
    }

    /// Deletes the oldest of the pods that have ended, where there are too many.
    async fn thin_out(&self) -> Result<()> {
        let mut ended = self.pods.list_all();
        if ended.len() <= ENDED {
            return Ok(());
        }
        ended.retain(|pod| pod.is_finished());
        ended.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        let excess = ended.len().saturating_sub(ENDED);
        let deletions = ended.iter().take(excess).map(|pod| delete_pod(&self.client, pod, true));
        join_all(deletions).await.into_iter().collect()
    }
}
