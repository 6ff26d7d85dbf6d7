//! The node's own object: registered once, told anew when it changes, and its lease renewed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{ContainerImage, Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::context::Context;
use crate::machine::{self, Capacity, Machine};
use crate::services::RETRY;
use crate::{Error, Result};

/// How often the lease is renewed; by it the cluster knows that the node is there.
const RENEWAL: Duration = Duration::from_secs(10);
/// For how long a renewal counts, in seconds.
const LEASE_SECONDS: i32 = 40;
/// The status is told at least this often, even when nothing changed.
const REPORT: Duration = Duration::from_mins(5);
/// Images that a node tells of, as the kubelet's default.
const IMAGES: usize = 50;
/// Less free memory, in bytes, is pressure.
const MEMORY_PRESSURE: i64 = 100 << 20;
const LEASES: &str = "kube-node-lease";

/// Keeps the node's object and lease.
pub(crate) struct Registration {
    context: Arc<Context>,
    machine: Machine,
    /// What others have said that the node has.
    added: Capacity,
    sent: Option<NodeStatus>,
    sent_at: Option<tokio::time::Instant>,
}

impl Registration {
    pub(crate) fn new(context: Arc<Context>, machine: Machine) -> Self {
        Self { context, machine, added: Capacity::new(), sent: None, sent_at: None }
    }

    /// Registers the node and goes on to tell how it is.
    pub(crate) async fn run(mut self) {
        let (_, mut events) = self.context.engine.events(dray_engine::EventFilter::default());
        while let Err(error) = self.register().await {
            tracing::warn!(error = %error.chain(), "cannot register the node");
            tokio::time::sleep(RETRY).await;
        }
        self.context.recorder.node(
            &self.context.config.name,
            &self.context.node_uid.read().clone(),
            "NodeReady",
            format!("Node {} status is now: NodeReady", self.context.config.name),
        );
        let mut tick = tokio::time::interval(RENEWAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let images_changed = tokio::select! {
                _ = tick.tick() => false,
                () = image_event(&mut events) => true,
            };
            if !images_changed && let Err(error) = self.renew().await {
                tracing::warn!(error = %error.chain(), "cannot renew the node's lease");
            }
            if let Err(error) = self.report().await {
                tracing::warn!(error = %error.chain(), "cannot tell the node's status");
            }
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let config = &self.context.config;
        let architecture = self.machine.info.architecture.clone();
        let mut labels: BTreeMap<String, String> = [
            ("kubernetes.io/hostname", config.name.clone()),
            ("kubernetes.io/os", "linux".to_owned()),
            ("kubernetes.io/arch", architecture.clone()),
            ("beta.kubernetes.io/os", "linux".to_owned()),
            ("beta.kubernetes.io/arch", architecture),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
        labels.extend(config.labels.clone());
        labels
    }

    async fn register(&mut self) -> Result<()> {
        let name = self.context.config.name.clone();
        let api: Api<Node> = Api::all(self.context.client.clone());
        let pod_range = self
            .context
            .engine
            .network(&self.context.config.pod_network)
            .ok()
            .and_then(|network| network.subnet)
            .map(|subnet| subnet.to_string());
        let status = self.status(None).await;
        let node = Node {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(self.labels()),
                annotations: Some(
                    [("volumes.kubernetes.io/controller-managed-attach-detach", "true")]
                        .into_iter()
                        .map(|(key, value)| (key.to_owned(), value.to_owned()))
                        .collect(),
                ),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                pod_cidr: pod_range.clone(),
                pod_cidrs: pod_range.map(|range| vec![range]),
                ..NodeSpec::default()
            }),
            status: Some(status.clone()),
        };
        let stored = match api.create(&PostParams::default(), &node).await {
            Ok(stored) => stored,
            Err(kube::Error::Api(answer)) if answer.code == 409 => {
                let patch = json!({ "metadata": { "labels": self.labels() } });
                api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                    .await
                    .map_err(Error::api("label node", name.clone()))?
            }
            Err(error) => return Err(Error::api("create node", name.clone())(error)),
        };
        self.context.node_uid.write().clone_from(&stored.metadata.uid.clone().unwrap_or_default());
        let is_there = stored
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref())
            .is_some_and(|conditions| !conditions.is_empty())
            && stored.status.as_ref().map(|status| &status.node_info) == Some(&status.node_info);
        if is_there && same(stored.status.as_ref(), &status) {
            self.sent = Some(status);
            self.sent_at = Some(tokio::time::Instant::now());
            return Ok(());
        }
        self.sent = stored.status;
        self.report().await
    }

    /// Looks which resources others have said that the node has: pods can have those too.
    async fn look_at_added(&mut self) -> Result<()> {
        let name = &self.context.config.name;
        let api: Api<Node> = Api::all(self.context.client.clone());
        let node = api.get_opt(name).await.map_err(Error::api("get node", name.clone()))?;
        let capacity = node.and_then(|node| node.status?.capacity).unwrap_or_default();
        self.added = capacity.into_iter().filter(|(resource, _)| resource.contains('/')).collect();
        Ok(())
    }

    /// Tells the status when it changed, or when it was told long ago.
    async fn report(&mut self) -> Result<()> {
        self.look_at_added().await?;
        let status = self.status(self.sent.as_ref()).await;
        let fresh = self.sent_at.is_some_and(|at| at.elapsed() < REPORT);
        if fresh && same(self.sent.as_ref(), &status) {
            return Ok(());
        }
        let name = self.context.config.name.clone();
        let api: Api<Node> = Api::all(self.context.client.clone());
        let body: Value = json!({ "status": status });
        let patched = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&body)).await;
        match patched {
            Ok(_) => {
                self.sent = Some(status);
                self.sent_at = Some(tokio::time::Instant::now());
                Ok(())
            }
            // Somebody deleted the node: the agent is there, so the node is too.
            Err(kube::Error::Api(answer)) if answer.code == 404 => {
                self.sent = None;
                Box::pin(self.register()).await
            }
            Err(error) => Err(Error::api("patch the status of node", name)(error)),
        }
    }

    async fn status(&self, before: Option<&NodeStatus>) -> NodeStatus {
        let config = &self.context.config;
        let machine = &self.machine;
        let mut capacity = machine.capacity();
        capacity.extend(self.added.clone());
        let address = |kind: &str, address: String| NodeAddress { address, type_: kind.to_owned() };
        NodeStatus {
            addresses: Some(vec![
                address("InternalIP", config.node_address.to_string()),
                address("Hostname", config.name.clone()),
            ]),
            allocatable: Some(capacity.clone()),
            capacity: Some(capacity),
            conditions: Some(self.conditions(before)),
            images: Some(self.images().await),
            node_info: Some(machine.info.clone()),
            ..NodeStatus::default()
        }
    }

    fn conditions(&self, before: Option<&NodeStatus>) -> Vec<NodeCondition> {
        let now = Timestamp::now();
        let memory = machine::memory_available() < MEMORY_PRESSURE;
        let disk = machine::disk(&self.context.config.state_dir).is_ok_and(|(size, free)| free < size / 20);
        let pressure = |under: bool, reason: (&'static str, &'static str), what: &str| {
            let (reason, word) = if under { (reason.0, "has") } else { (reason.1, "has no") };
            let status = if under { "True" } else { "False" };
            (status, reason, format!("kubelet {word} {what}"))
        };
        let (memory_status, memory_reason, memory_text) = pressure(
            memory,
            ("KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"),
            "insufficient memory available",
        );
        let memory_text =
            if memory { memory_text } else { "kubelet has sufficient memory available".to_owned() };
        let (disk_status, disk_reason, disk_text) =
            pressure(disk, ("KubeletHasDiskPressure", "KubeletHasNoDiskPressure"), "disk pressure");
        let all = [
            ("MemoryPressure", memory_status, memory_reason, memory_text),
            ("DiskPressure", disk_status, disk_reason, disk_text),
            (
                "PIDPressure",
                "False",
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available".to_owned(),
            ),
            ("Ready", "True", "KubeletReady", "kubelet is posting ready status".to_owned()),
        ];
        all.into_iter()
            .map(|(kind, status, reason, message)| {
                let old = before
                    .and_then(|status| status.conditions.as_ref())
                    .and_then(|all| all.iter().find(|condition| condition.type_ == kind))
                    .filter(|condition| condition.status == status)
                    .and_then(|condition| condition.last_transition_time.clone());
                NodeCondition {
                    last_heartbeat_time: Some(Time(now)),
                    last_transition_time: Some(old.unwrap_or(Time(now))),
                    message: Some(message),
                    reason: Some(reason.to_owned()),
                    status: status.to_owned(),
                    type_: kind.to_owned(),
                }
            })
            .collect()
    }

    async fn images(&self) -> Vec<ContainerImage> {
        let images = Arc::clone(self.context.engine.images());
        let listed = tokio::task::spawn_blocking(move || images.list()).await;
        let Ok(Ok(mut listed)) = listed else { return Vec::new() };
        listed.sort_by_key(|image| std::cmp::Reverse(image.size()));
        listed
            .into_iter()
            .filter(|image| !image.references.is_empty())
            .take(IMAGES)
            .map(|image| ContainerImage {
                names: Some(image.references.iter().map(ToString::to_string).collect()),
                size_bytes: Some(i64::try_from(image.size()).unwrap_or(i64::MAX)),
            })
            .collect()
    }

    async fn renew(&self) -> Result<()> {
        let name = self.context.config.name.clone();
        let api: Api<Lease> = Api::namespaced(self.context.client.clone(), LEASES);
        let now = MicroTime(Timestamp::now());
        let patch = json!({ "spec": { "renewTime": now, "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS } });
        match api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(answer)) if answer.code == 404 => {}
            Err(error) => return Err(Error::api("renew lease", name)(error)),
        }
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(LEASES.to_owned()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Node".to_owned(),
                    name: name.clone(),
                    uid: self.context.node_uid.read().clone(),
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(name.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        };
        api.create(&PostParams::default(), &lease).await.map(|_| ()).map_err(Error::api("create lease", name))
    }
}

/// Waits until something happened to an image.
async fn image_event(events: &mut broadcast::Receiver<Arc<dray_engine::Event>>) {
    loop {
        match events.recv().await {
            Ok(event) if event.kind == dray_engine::EventKind::Image => return,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
        }
    }
}

/// Whether two statuses say the same but for the time of the heartbeat.
fn same(one: Option<&NodeStatus>, other: &NodeStatus) -> bool {
    let Some(one) = one else { return false };
    let plain = |status: &NodeStatus| {
        let mut status = status.clone();
        status.volumes_in_use = None;
        status.daemon_endpoints = None;
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
            condition.last_transition_time = None;
        }
        if let Some(conditions) = &mut status.conditions {
            conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        }
        status
    };
    plain(one) == plain(other)
}
