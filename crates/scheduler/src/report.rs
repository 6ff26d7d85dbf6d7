//! What is written about pods: the condition that says why there is no node, and events. Beside the work, and
//! dropped when too much waits.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::{PartialObjectMeta, Patch, PatchParams, PostParams, Request};
use kube::{Api, Client, Resource as _};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::ask::{Ask, Occupant};
use crate::model::Pod;

/// Reports that may wait.
const WAITING: usize = 1024;
/// Reports that are written at the same time.
const WIDTH: usize = 16;

/// What is to be said.
pub(crate) enum Report {
    /// It was given to a node.
    Scheduled { pod: Arc<Pod>, node: String },
    /// No node takes it, or giving it to one failed. A node may be kept for it; nothing leaves what was said of that.
    Failed { pod: Arc<Pod>, message: String, reason: &'static str, nominated: Option<String> },
    /// No node is kept for it any more.
    Unnominated { pod: Arc<Occupant> },
    /// It is not to have a node yet.
    Gated { pod: Arc<Pod> },
}

/// The end into which reports go.
pub(crate) type Reports = mpsc::Sender<Report>;

pub(crate) fn channel() -> (Reports, mpsc::Receiver<Report>) {
    mpsc::channel(WAITING)
}

/// Writes reports until their sender is gone.
pub(crate) async fn write(client: Client, mut reports: mpsc::Receiver<Report>) {
    let mut writing = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(()) = writing.next(), if !writing.is_empty() => {}
            report = reports.recv(), if writing.len() < WIDTH => match report {
                Some(report) => writing.push(write_one(&client, report)),
                None => break,
            },
        }
    }
    while writing.next().await.is_some() {}
}

async fn write_one(client: &Client, report: Report) {
    let result = match &report {
        Report::Scheduled { pod, node } => {
            let note = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
            publish(client, pod, "Normal", "Scheduled", "Binding", note).await
        }
        Report::Failed { pod, message, reason, nominated } => {
            let condition = set_condition(client, pod, reason, message, nominated.as_deref()).await;
            let note = message.clone();
            let event = publish(client, pod, "Warning", "FailedScheduling", "Scheduling", note);
            condition.and(event.await)
        }
        Report::Gated { pod } => {
            let message = "Scheduling is blocked due to non-empty scheduling gates";
            set_condition(client, pod, "SchedulingGated", message, None).await
        }
        Report::Unnominated { pod } => {
            let pods = Api::<PartialObjectMeta<Pod>>::namespaced(client.clone(), &pod.namespace);
            let patch = json!({ "metadata": { "uid": pod.uid }, "status": { "nominatedNodeName": null } });
            let patched =
                pods.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            patched.map(drop)
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a report about a pod was not written");
    }
}

/// Says of a pod that it was pushed away for another.
pub(crate) async fn preempted(client: &Client, victim: &Occupant, ask: &Ask, node: &str) -> kube::Result<()> {
    let regarding = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(victim.name.clone()),
        namespace: Some(victim.namespace.clone()),
        uid: Some(victim.uid.to_string()),
        ..ObjectReference::default()
    };
    let note = format!("Preempted by pod {} on node {node}", ask.uid());
    let related = Some(ask.pod.object_ref(&()));
    let event = Event {
        related,
        reporting_controller: Some(ask.pod.scheduler().to_owned()),
        reporting_instance: Some(ask.pod.scheduler().to_owned()),
        ..event(regarding, "Normal", "Preempted", "Preempting", note)
    };
    create(client, &event).await
}

/// Makes an event. None is ever repeated: what is said again about a pod is something else.
async fn publish(
    client: &Client,
    pod: &Pod,
    severity: &str,
    reason: &str,
    action: &str,
    note: String,
) -> kube::Result<()> {
    let event = Event {
        reporting_controller: Some(pod.scheduler().to_owned()),
        reporting_instance: Some(pod.scheduler().to_owned()),
        ..event(pod.object_ref(&()), severity, reason, action, note)
    };
    create(client, &event).await
}

fn event(regarding: ObjectReference, severity: &str, reason: &str, action: &str, note: String) -> Event {
    let now = Timestamp::now();
    Event {
        metadata: ObjectMeta {
            name: regarding.name.as_ref().map(|name| format!("{name}.{:x}", now.as_nanosecond())),
            namespace: regarding.namespace.clone(),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        regarding: Some(regarding),
        type_: Some(severity.to_owned()),
        reason: Some(reason.to_owned()),
        action: Some(action.to_owned()),
        note: Some(note),
        ..Event::default()
    }
}

async fn create(client: &Client, event: &Event) -> kube::Result<()> {
    let request = Request::new(Event::url_path(&(), event.metadata.namespace.as_deref()));
    let body = serde_json::to_vec(event).map_err(kube::Error::SerdeError)?;
    let request = request.create(&PostParams::default(), body).map_err(kube::Error::BuildRequest)?;
    // What is answered is the event once more: it need not be read.
    client.request::<IgnoredAny>(request).await.map(drop)
}

/// Says in the pod's status that it has no node.
async fn set_condition(
    client: &Client,
    pod: &Pod,
    reason: &str,
    message: &str,
    nominated: Option<&str>,
) -> kube::Result<()> {
    let pods = Api::<PartialObjectMeta<Pod>>::namespaced(client.clone(), pod.namespace());
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        "lastTransitionTime": Time(Timestamp::now()),
    });
    let mut patch = json!({ "metadata": { "uid": pod.uid() }, "status": { "conditions": [condition] } });
    if let Some(node) = nominated {
        patch["status"]["nominatedNodeName"] = if node.is_empty() { Value::Null } else { node.into() };
    }
    pods.patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop)
}
