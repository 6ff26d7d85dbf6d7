//! Where a Service's packets can go: its EndpointSlices and its Endpoints.

mod endpoint;
mod legacy;
mod mirror;
mod slices;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Endpoints, Node, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Client, Resource};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::events::Recorder;
use crate::informer::{Change, Informer, Object};
use crate::key::ObjectKey;
use crate::labels;
use crate::model::Pod;
use crate::queue::{Again, Queue};

/// The label that ties an EndpointSlice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// The manager of slices that are made from Endpoints.
const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// So many Services are looked at at the same time.
const WIDTH: usize = 16;

/// The informers that this controller reads.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) services: Arc<Informer<Service>>,
    pub(crate) pods: Arc<Informer<Pod>>,
    pub(crate) slices: Arc<Informer<EndpointSlice>>,
    pub(crate) endpoints: Arc<Informer<Endpoints>>,
    pub(crate) nodes: Arc<Informer<Node>>,
}

/// The controller of EndpointSlices and Endpoints.
pub(crate) struct EndpointController {
    client: Client,
    sources: Sources,
    queue: Arc<Queue<ObjectKey>>,
    written: Arc<Written>,
    recorder: Recorder,
}

/// Versions that were written, of objects that the watch has not brought yet.
#[derive(Default)]
struct Written {
    versions: Mutex<HashMap<ObjectKey, (String, Instant)>>,
}

/// The watch is waited for no longer than this: what was written may be gone again before it was noted here.
const WAIT: Duration = Duration::from_secs(5);

fn number(version: Option<&String>) -> Option<u64> {
    version.and_then(|version| version.parse().ok())
}

impl Written {
    /// Notes what was written, unless the watch was faster than the answer.
    fn note<K: Object>(&self, object: &K, informer: &Informer<K>) {
        let mut versions = self.versions.lock();
        let key = ObjectKey::of(object);
        let Some(version) = object.meta().resource_version.clone() else { return };
        let known = informer.get(&key);
        let known = known.as_ref().and_then(|known| number(known.meta().resource_version.as_ref()));
        if known < number(Some(&version)) {
            versions.insert(key, (version, Instant::now()));
        }
    }

    /// The watch has brought an object: what was written before is known now.
    fn seen<K: Resource>(&self, object: &K, gone: bool) {
        let mut versions = self.versions.lock();
        let key = ObjectKey::of(object);
        let written = versions.get(&key).and_then(|(version, _)| number(Some(version)));
        if gone || written <= number(object.meta().resource_version.as_ref()) {
            versions.remove(&key);
        }
    }

    /// Whether something of a Service is not known yet.
    fn is_ahead(&self, service: &ObjectKey) -> bool {
        let mut versions = self.versions.lock();
        versions.retain(|_, (_, at)| at.elapsed() < WAIT);
        versions.keys().any(|key| {
            key.namespace == service.namespace
                && (key.name == service.name || slices::is_named_after(&key.name, &service.name))
        })
    }
}

impl EndpointController {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(client: Client, sources: Sources, recorder: &Recorder) -> EndpointController {
        let queue = Queue::new("endpoints");
        let written = Arc::new(Written::default());
        sources.services.on_change({
            let queue = queue.clone();
            move |change| queue.add(ObjectKey::of(&**change.object()))
        });
        sources.slices.on_change({
            let (queue, written) = (queue.clone(), written.clone());
            move |change| {
                let slice = change.object();
                written.seen(&**slice, matches!(change, Change::Deleted(_)));
                if let Some(service) = slices::service_of(slice) {
                    queue.add(service);
                }
            }
        });
        sources.endpoints.on_change({
            let (queue, written) = (queue.clone(), written.clone());
            move |change| {
                let endpoints = change.object();
                written.seen(&**endpoints, matches!(change, Change::Deleted(_)));
                queue.add(ObjectKey::of(&**endpoints));
            }
        });
        sources.pods.on_change({
            let (queue, services) = (queue.clone(), sources.services.clone());
            move |change| pod_changed(&queue, &services, change)
        });
        let recorder = recorder.of("endpoint-slice-controller");
        EndpointController { client, sources, queue, written, recorder }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.sources.services.wait_complete().await;
        self.sources.pods.wait_complete().await;
        self.sources.slices.wait_complete().await;
        self.sources.endpoints.wait_complete().await;
        self.sources.nodes.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        // What has to be done depends on what is there: it is looked at again when the watch has brought it.
        if self.written.is_ahead(&key) {
            return Ok(Some(WAIT));
        }
        let Some(service) = self.sources.services.get(&key) else {
            // Slices of pods go with their owner, the Service.
            self.remove_mirrored(&key).await?;
            return self.remove_endpoints(&key).await.map(|()| None);
        };
        let Some(spec) = service.spec.as_ref().filter(|spec| selects(spec)) else {
            return self.mirror(&service).await.map(|()| None);
        };
        let selector = spec.selector.clone().unwrap_or_default();
        let mut pods = self.sources.pods.list(&key.namespace);
        pods.retain(|pod| {
            labels::contains(pod.metadata.labels.as_ref(), &selector)
                && !pod.is_finished()
                && !pod.addresses().is_empty()
        });
        let slices = self.sync_slices(&service, spec, &pods).await;
        let endpoints = self.sync_endpoints(&service, spec, &pods).await;
        let result = slices.and(endpoints);
        if let Err(error) = &result
            && !error.is_conflict()
            && !error.is_namespace_terminating()
        {
            let message = format!("Failed to update endpoints for Service {key}: {}", error.message());
            let severity = crate::events::Severity::Warning;
            self.recorder.note(&*service, severity, "FailedToUpdateEndpointSlices", message);
        }
        match result {
            Err(error) if error.is_namespace_terminating() => Ok(None),
            other => other.map(|()| None),
        }
    }
}

/// Whether a Service's endpoints are the pods that it selects.
fn selects(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() != Some("ExternalName")
        && spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())
}

fn pod_changed(queue: &Queue<ObjectKey>, services: &Informer<Service>, change: &Change<'_, Pod>) {
    let pod = change.object();
    let old = change.old();
    if let Some(old) = old
        && endpoint::is_same(old, pod)
    {
        return;
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    for service in services.list(namespace) {
        let Some(spec) = service.spec.as_ref().filter(|spec| selects(spec)) else { continue };
        let Some(selector) = &spec.selector else { continue };
        let takes = |pod: &Pod| labels::contains(pod.metadata.labels.as_ref(), selector);
        if takes(pod) || old.is_some_and(|old| takes(old)) {
            queue.add(ObjectKey::of(&*service));
        }
    }
}

impl EndpointController {
    fn failed(action: &'static str, kind: &'static str, key: ObjectKey) -> impl FnOnce(kube::Error) -> Error {
        Error::request(action, kind, key)
    }
}
