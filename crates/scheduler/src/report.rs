//! What is written about pods: the condition that says why there is no node, and events. Beside the work, and
//! dropped when too much waits.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource as _};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::mpsc;

use crate::model::Pod;

/// Reports that may wait.
const WAITING: usize = 1024;
/// Reports that are written at the same time.
const WIDTH: usize = 16;
const NAME: &str = "default-scheduler";

/// What is to be said.
pub(crate) enum Report {
    /// It was given to a node.
    Scheduled { pod: Arc<Pod>, node: String },
    /// No node takes it, or giving it to one failed.
    Failed { pod: Arc<Pod>, message: String },
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
    let reporter = Reporter { controller: NAME.to_owned(), instance: Some(NAME.to_owned()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let mut writing = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(()) = writing.next(), if !writing.is_empty() => {}
            report = reports.recv(), if writing.len() < WIDTH => match report {
                Some(report) => writing.push(write_one(&client, &recorder, report)),
                None => break,
            },
        }
    }
    while writing.next().await.is_some() {}
}

async fn write_one(client: &Client, recorder: &Recorder, report: Report) {
    let result = match &report {
        Report::Scheduled { pod, node } => {
            let note = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
            publish(recorder, pod, EventType::Normal, "Scheduled", "Binding", note).await
        }
        Report::Failed { pod, message } => {
            let condition = set_condition(client, pod, "Unschedulable", message).await;
            let note = message.clone();
            let event = publish(recorder, pod, EventType::Warning, "FailedScheduling", "Scheduling", note);
            condition.and(event.await)
        }
        Report::Gated { pod } => {
            let message = "Scheduling is blocked due to non-empty scheduling gates";
            set_condition(client, pod, "SchedulingGated", message).await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a report about a pod was not written");
    }
}

async fn publish(
    recorder: &Recorder,
    pod: &Pod,
    type_: EventType,
    reason: &str,
    action: &str,
    note: String,
) -> kube::Result<()> {
    let event =
        Event { type_, reason: reason.into(), note: Some(note), action: action.into(), secondary: None };
    recorder.publish(&event, &pod.object_ref(&())).await
}

/// Says in the pod's status that it has no node.
async fn set_condition(client: &Client, pod: &Pod, reason: &str, message: &str) -> kube::Result<()> {
    let pods = Api::<PartialObjectMeta<Pod>>::namespaced(client.clone(), pod.namespace());
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        "lastTransitionTime": Time(Timestamp::now()),
    });
    let patch = json!({ "metadata": { "uid": pod.uid() }, "status": { "conditions": [condition] } });
    pods.patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop)
}
