//! Which node a pod runs on: an incremental picture of the nodes, and decisions without I/O. It reaches the cluster
//! through a [`kube::Client`] only, and must not know the API server, the store or the node agent.
#![forbid(unsafe_code)]

mod decide;
mod error;
mod inbox;
mod matching;
mod model;
mod neighbours;
mod pending;
mod picture;
mod quantity;
mod report;
mod resources;

use std::collections::HashSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use kube::api::{PostParams, Request};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource as _};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use error::{Error, Result};

use crate::inbox::{Change, Inbox};
use crate::model::{Node, Pod};
use crate::pending::Pending;
use crate::picture::Picture;
use crate::report::{Report, Reports};

/// The name by which pods ask for this scheduler.
const NAME: &str = "default-scheduler";
/// So many pods are given to nodes at the same time.
const BINDINGS: usize = 256;

/// How giving a pod to a node ended.
struct Bound {
    pod: Arc<Pod>,
    node: String,
    result: kube::Result<()>,
}

struct Scheduler {
    client: Client,
    picture: Picture,
    pending: Pending,
    bindings: JoinSet<Bound>,
    reports: Reports,
    /// Where the next search for a node begins.
    start: usize,
    /// What a list under way has brought.
    listed_nodes: Option<HashSet<String>>,
    listed_pods: Option<HashSet<String>>,
    complete_nodes: bool,
    complete_pods: bool,
}

/// Gives pods to nodes until `shutdown`.
///
/// # Errors
/// `WatchEnded`. What fails for one pod is logged and tried again.
pub async fn run(client: Client, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
    let (reports, receiver) = report::channel();
    // Ends with the scheduler: a set aborts its tasks when it is dropped.
    let mut writing = JoinSet::new();
    writing.spawn(report::write(client.clone(), receiver));
    let config = || watcher::Config::default().streaming_lists();
    let unfinished = "status.phase!=Succeeded,status.phase!=Failed";
    let pods = watcher(Api::<Pod>::all(client.clone()), config().fields(unfinished)).default_backoff();
    let nodes = watcher(Api::<Node>::all(client.clone()), config()).default_backoff();
    let mut pods = Inbox::new("Pods", pods);
    let mut nodes = Inbox::new("Nodes", nodes);
    let mut scheduler = Scheduler {
        client,
        picture: Picture::default(),
        pending: Pending::default(),
        bindings: JoinSet::new(),
        reports,
        start: 0,
        listed_nodes: None,
        listed_pods: None,
        complete_nodes: false,
        complete_pods: false,
    };
    let mut shutdown = pin!(shutdown);
    loop {
        let timer = scheduler.pending.next_timer();
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            change = nodes.receive() => scheduler.node_changed(change?),
            change = pods.receive() => scheduler.pod_changed(change?),
            Some(bound) = scheduler.bindings.join_next(), if !scheduler.bindings.is_empty() => match bound {
                Ok(bound) => scheduler.bound(bound),
                Err(error) => {
                    if let Ok(panic) = error.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
            },
            () = tokio::time::sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {}
        }
        // What has arrived meanwhile is part of the picture.
        while let Some(change) = nodes.receive_waiting()? {
            scheduler.node_changed(change);
        }
        while let Some(change) = pods.receive_waiting()? {
            scheduler.pod_changed(change);
        }
        scheduler.pending.tick(Instant::now());
        scheduler.place_all();
    }
}

impl Scheduler {
    fn node_changed(&mut self, change: Change<Node>) {
        let name = |node: &Node| node.metadata.name.clone().unwrap_or_default();
        match change {
            Change::Apply(node) => {
                if let Some(listed) = &mut self.listed_nodes {
                    listed.insert(name(&node));
                }
                if self.picture.apply_node(&node) {
                    self.pending.wake(Instant::now(), |_| true);
                }
            }
            Change::Delete(node) => self.picture.remove_node(&name(&node)),
            Change::ListBegins => self.listed_nodes = Some(HashSet::new()),
            Change::ListEnds => {
                let listed = self.listed_nodes.take().unwrap_or_default();
                for name in self.picture.node_names() {
                    if !listed.contains(&name) {
                        self.picture.remove_node(&name);
                    }
                }
                self.complete_nodes = true;
            }
        }
    }

    fn pod_changed(&mut self, change: Change<Pod>) {
        match change {
            Change::Apply(pod) => {
                if let Some(listed) = &mut self.listed_pods {
                    listed.insert(pod.uid().to_owned());
                }
                self.apply_pod(pod);
            }
            Change::Delete(pod) => self.remove_pod(pod.uid()),
            Change::ListBegins => self.listed_pods = Some(HashSet::new()),
            Change::ListEnds => {
                let listed = self.listed_pods.take().unwrap_or_default();
                for uid in self.picture.placed_uids().iter().chain(&self.pending.uids()) {
                    if !listed.contains(uid) {
                        self.remove_pod(uid);
                    }
                }
                self.complete_pods = true;
            }
        }
    }

    fn apply_pod(&mut self, mut pod: Pod) {
        if pod.is_finished() {
            return self.remove_pod(pod.uid());
        }
        pod.metadata.managed_fields = None;
        if !pod.spec.node_name.is_empty() {
            self.pending.remove(pod.uid());
            let new = !self.picture.is_placed(pod.uid());
            self.picture.place(&pod, &pod.spec.node_name);
            if new {
                // It may be the neighbour that others wait for.
                let waits = |other: &Pod| !matching::required_affinity(other).is_empty();
                self.pending.wake(Instant::now(), waits);
            }
            return;
        }
        let ours = pod.spec.scheduler_name.is_empty() || pod.spec.scheduler_name == NAME;
        // One that is being bound stays in the picture until that is told.
        if !ours || pod.metadata.deletion_timestamp.is_some() || self.picture.is_placed(pod.uid()) {
            return;
        }
        if !pod.spec.scheduling_gates.is_empty() {
            if self.pending.gate(pod.uid()) {
                self.report(Report::Gated { pod: Arc::new(pod) });
            }
            return;
        }
        self.pending.apply(pod);
    }

    fn remove_pod(&mut self, uid: &str) {
        self.pending.remove(uid);
        if self.picture.remove(uid) {
            self.pending.wake(Instant::now(), |_| true);
        }
    }

    /// Finds nodes for all pods whose turn it is.
    fn place_all(&mut self) {
        // Half a picture would fill nodes twice.
        if !(self.complete_nodes && self.complete_pods) {
            return;
        }
        while self.bindings.len() < BINDINGS {
            let Some(pod) = self.pending.next() else { return };
            match decide::decide(&self.picture, &pod, &mut self.start) {
                Ok(index) => {
                    let Some(node) = self.picture.node(index).map(|node| node.name.clone()) else { continue };
                    self.picture.place(&pod, &node);
                    self.bindings.spawn(bind(self.client.clone(), pod, node));
                }
                Err(refusal) => {
                    let message = refusal.message();
                    if self.pending.park(pod.uid(), &message, Instant::now()) {
                        self.report(Report::Failed { pod, message });
                    }
                }
            }
        }
    }

    fn bound(&mut self, bound: Bound) {
        let Bound { pod, node, result } = bound;
        match result {
            Ok(()) => {
                self.pending.remove(pod.uid());
                self.report(Report::Scheduled { pod, node });
            }
            Err(error) => {
                self.picture.remove(pod.uid());
                match &error {
                    // It is gone, or has a node: the watch tells.
                    kube::Error::Api(status) if matches!(status.code, 404 | 409) => {
                        tracing::debug!(pod = pod.name(), %node, %error, "a pod was not bound");
                        self.pending.retry(pod.uid(), Instant::now());
                    }
                    _ => {
                        tracing::warn!(pod = pod.name(), %node, %error, "a pod was not bound");
                        self.pending.retry(pod.uid(), Instant::now());
                        let message = format!("binding to node {node:?} failed: {error}");
                        self.report(Report::Failed { pod, message });
                    }
                }
            }
        }
    }

    fn report(&self, report: Report) {
        if self.reports.try_send(report).is_err() {
            tracing::debug!("a report was dropped: too many wait to be written");
        }
    }
}

/// Gives a pod to a node.
async fn bind(client: Client, pod: Arc<Pod>, node: String) -> Bound {
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": { "name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid() },
        "target": { "apiVersion": "v1", "kind": "Node", "name": node },
    });
    let request = Request::new(Pod::url_path(&(), Some(pod.namespace()))).create_subresource(
        "binding",
        pod.name(),
        &PostParams::default(),
        binding.to_string().into_bytes(),
    );
    let result = match request {
        Ok(request) => client.request::<IgnoredAny>(request).await.map(drop),
        Err(error) => Err(kube::Error::BuildRequest(error)),
    };
    Bound { pod, node, result }
}
