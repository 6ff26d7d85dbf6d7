//! Events that tell people what the agent did, as `kubectl describe` shows them. An event that happens again is
//! counted, not repeated.

use std::borrow::Cow;
use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;

/// Events waiting to be written; more are dropped, since they are hints and not state.
const BACKLOG: usize = 512;
/// Different events that are remembered for counting.
const REMEMBERED: usize = 1024;

/// Whether an event is good news.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Occurrence {
    kind: &'static str,
    namespace: String,
    name: String,
    uid: String,
    field: Option<String>,
    severity: Severity,
    reason: Cow<'static, str>,
    message: String,
}

/// Takes events without waiting.
#[derive(Clone)]
pub(crate) struct Recorder {
    sender: mpsc::Sender<(Occurrence, Timestamp)>,
}

/// Writes what the recorder takes.
pub(crate) struct Writer {
    receiver: mpsc::Receiver<(Occurrence, Timestamp)>,
    client: Client,
    node: String,
    known: HashMap<Occurrence, (String, i32)>,
}

pub(crate) fn recorder(client: Client, node: &str) -> (Recorder, Writer) {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    (Recorder { sender }, Writer { receiver, client, node: node.to_owned(), known: HashMap::new() })
}

impl Recorder {
    /// About a pod, or about one of its containers.
    pub(crate) fn pod(
        &self,
        pod: &crate::identity::PodIdentity,
        container: Option<(&'static str, &str)>,
        severity: Severity,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        self.record(Occurrence {
            kind: "Pod",
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            field: container.map(|(list, name)| format!("spec.{list}{{{name}}}")),
            severity,
            reason: reason.into(),
            message: message.into(),
        });
    }

    /// About the node.
    pub(crate) fn node(&self, name: &str, uid: &str, reason: &'static str, message: impl Into<String>) {
        self.record(Occurrence {
            kind: "Node",
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            field: None,
            severity: Severity::Normal,
            reason: reason.into(),
            message: message.into(),
        });
    }

    fn record(&self, occurrence: Occurrence) {
        if self.sender.try_send((occurrence, Timestamp::now())).is_err() {
            tracing::debug!("an event was dropped: too many are waiting");
        }
    }
}

impl Writer {
    /// Writes until every recorder is gone.
    pub(crate) async fn run(mut self) {
        while let Some((occurrence, at)) = self.receiver.recv().await {
            if let Err(error) = self.write(occurrence, at).await {
                tracing::debug!(%error, "cannot write an event");
            }
        }
    }

    async fn write(&mut self, occurrence: Occurrence, at: Timestamp) -> kube::Result<()> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &occurrence.namespace);
        if let Some((name, count)) = self.known.get_mut(&occurrence) {
            *count += 1;
            let patch = json!({ "count": *count, "lastTimestamp": Time(at) });
            match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let name = format!("{}.{:x}", occurrence.name, at.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(occurrence.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some(occurrence.kind.to_owned()),
                namespace: (occurrence.kind != "Node").then(|| occurrence.namespace.clone()),
                name: Some(occurrence.name.clone()),
                uid: Some(occurrence.uid.clone()).filter(|uid| !uid.is_empty()),
                field_path: occurrence.field.clone(),
                ..ObjectReference::default()
            },
            type_: Some(occurrence.severity.as_str().to_owned()),
            reason: Some(occurrence.reason.to_string()),
            message: Some(occurrence.message.clone()),
            count: Some(1),
            first_timestamp: Some(Time(at)),
            last_timestamp: Some(Time(at)),
            source: Some(EventSource {
                component: Some("kubelet".to_owned()),
                host: Some(self.node.clone()),
            }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node.clone()),
            ..Event::default()
        };
        api.create(&PostParams::default(), &event).await?;
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(occurrence, (name, 1));
        Ok(())
    }
}
