//! Events about objects, written beside the work: nobody waits for them, and too many are left out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams, Request};
use kube::{Api, Client, Resource};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::sync::mpsc;

/// Events that may wait to be written; further ones are dropped.
const WAITING: usize = 1024;
/// So many events about one object at once, and then one in each period.
const BURST: f64 = 25.0;
const PERIOD: Duration = Duration::from_secs(300);
/// So many objects are remembered.
const REMEMBERED: usize = 4096;

/// How grave an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Same {
    uid: String,
    component: &'static str,
    severity: Severity,
    reason: &'static str,
    message: String,
}

struct Note {
    same: Same,
    reference: ObjectReference,
}

/// Takes events. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Recorder {
    component: &'static str,
    sender: mpsc::Sender<Note>,
}

/// Writes events; see [`Writer::run`].
pub(crate) struct Writer {
    client: Client,
    receiver: mpsc::Receiver<Note>,
    seen: HashMap<Same, Seen>,
    buckets: HashMap<(String, &'static str), Bucket>,
}

struct Seen {
    namespace: String,
    name: String,
    count: i32,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

/// The two ends.
pub(crate) fn channel(client: Client) -> (Recorder, Writer) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let writer = Writer { client, receiver, seen: HashMap::new(), buckets: HashMap::new() };
    (Recorder { component: "controllers", sender }, writer)
}

impl Recorder {
    /// The same for another component, as "deployment-controller".
    pub(crate) fn of(&self, component: &'static str) -> Recorder {
        Recorder { component, sender: self.sender.clone() }
    }

    /// Notes that something happened to an object.
    pub(crate) fn note<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        let mut reference = object.object_ref(&());
        reference.resource_version = object.meta().resource_version.clone();
        let same = Same {
            uid: reference.uid.clone().unwrap_or_default(),
            component: self.component,
            severity,
            reason,
            message,
        };
        if self.sender.try_send(Note { same, reference }).is_err() {
            tracing::debug!(reason, "an event was dropped: too many wait to be written");
        }
    }
}

impl Writer {
    /// Writes what is noted until all recorders are gone.
    pub(crate) async fn run(mut self) {
        while let Some(note) = self.receiver.recv().await {
            if !self.allows(&note) {
                continue;
            }
            if let Err(error) = self.write(note).await {
                tracing::debug!(%error, "an event was not written");
            }
        }
    }

    /// Whether there have not been too many of this object.
    fn allows(&mut self, note: &Note) -> bool {
        let now = Instant::now();
        if self.buckets.len() >= REMEMBERED {
            self.buckets.retain(|_, bucket| bucket.tokens < 1.0 && now - bucket.at < PERIOD);
        }
        let key = (note.same.uid.clone(), note.same.component);
        let bucket = self.buckets.entry(key).or_insert(Bucket { tokens: BURST, at: now });
        let gained = (now - bucket.at).as_secs_f64() / PERIOD.as_secs_f64();
        bucket.tokens = (bucket.tokens + gained).min(BURST);
        bucket.at = now;
        let allowed = bucket.tokens >= 1.0;
        if allowed {
            bucket.tokens -= 1.0;
        }
        allowed
    }

    async fn write(&mut self, note: Note) -> Result<(), kube::Error> {
        let now = Timestamp::now();
        if let Some(seen) = self.seen.get_mut(&note.same) {
            let events = Api::<Event>::namespaced(self.client.clone(), &seen.namespace);
            let patch = json!({ "count": seen.count + 1, "lastTimestamp": Time(now) });
            match events.patch(&seen.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => {
                    seen.count += 1;
                    return Ok(());
                }
                // It has been deleted: a new one is written.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let namespace = note.reference.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let object = note.reference.name.as_deref().unwrap_or_default();
        let name = format!("{object}.{:x}", now.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: note.reference,
            reason: Some(note.same.reason.to_owned()),
            message: Some(note.same.message.clone()),
            type_: Some(note.same.severity.as_str().to_owned()),
            source: Some(EventSource { component: Some(note.same.component.to_owned()), host: None }),
            reporting_component: Some(note.same.component.to_owned()),
            reporting_instance: Some(String::new()),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            ..Event::default()
        };
        let request = Request::new(Event::url_path(&(), Some(&namespace)));
        let body = serde_json::to_vec(&event).map_err(kube::Error::SerdeError)?;
        let request = request.create(&PostParams::default(), body).map_err(kube::Error::BuildRequest)?;
        // What is answered is the event once more: it need not be read.
        self.client.request::<IgnoredAny>(request).await?;
        if self.seen.len() >= REMEMBERED {
            self.seen.clear();
        }
        self.seen.insert(note.same, Seen { namespace, name, count: 1 });
        Ok(())
    }
}
