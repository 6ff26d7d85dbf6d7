//! Claims that are made for pods: one for each volume that says so, named after the pod and the volume, and the pod's,
//! so that it goes with it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod as WholePod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};

use super::plan::Note;
use crate::error::{Error, Result};
use crate::events::Recorder;
use crate::informer::{Change, Informer};
use crate::key::ObjectKey;
use crate::model::Pod;
use crate::owner;
use crate::queue::{Again, Queue};

/// So many pods are looked at at the same time.
const WIDTH: usize = 8;

/// The controller of claims that are made for pods.
pub(crate) struct Ephemeral {
    client: Client,
    pods: Arc<Informer<Pod>>,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    queue: Arc<Queue<ObjectKey>>,
    recorder: Recorder,
}

impl Ephemeral {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(
        client: Client,
        pods: Arc<Informer<Pod>>,
        claims: Arc<Informer<PersistentVolumeClaim>>,
        recorder: &Recorder,
    ) -> Ephemeral {
        let queue = Queue::new("ephemeral volumes");
        pods.on_change({
            let queue = queue.clone();
            move |change| {
                let pod = change.object();
                if !matches!(change, Change::Deleted(_)) && wants_claims(pod) {
                    queue.add(ObjectKey::of(&**pod));
                }
            }
        });
        claims.on_change({
            let (queue, pods) = (queue.clone(), pods.clone());
            move |change| {
                let Change::Deleted(claim) = change else { return };
                let key = ObjectKey::of(&***claim);
                // Whoever owned it, its name is free now.
                let waiting = pods.list(&key.namespace).into_iter();
                let waiting =
                    waiting.filter(|pod| wants_claims(pod) && pod.claims().any(|name| name == key.name));
                waiting.for_each(|pod| queue.add(ObjectKey::of(&*pod)));
            }
        });
        Ephemeral { client, pods, claims, queue, recorder: recorder.of("ephemeral_volume") }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.pods.wait_complete().await;
        self.claims.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let Some(pod) = self.pods.get(&key).filter(|pod| wants_claims(pod)) else { return Ok(None) };
        let mut missing = Vec::new();
        for volume in pod.spec.volumes.iter().filter(|volume| volume.ephemeral) {
            let claim = ObjectKey::new(&key.namespace, format!("{}-{}", key.name, volume.name));
            match self.claims.get(&claim) {
                Some(known) if owner::controller_uid(&*known) == owner::uid(&*pod) => {}
                Some(_) => {
                    let message = format!(
                        "ephemeral volume {}: PVC {claim} was not created for pod {key} (pod is not the owner)",
                        volume.name
                    );
                    let note = Note::warning("FailedBinding", message);
                    self.recorder.note(&*pod, note.severity, note.reason, note.message);
                }
                None => missing.push(volume.name.as_str()),
            }
        }
        if missing.is_empty() {
            return Ok(None);
        }
        // What the claims are made of is not kept in memory.
        let api = Api::<WholePod>::namespaced(self.client.clone(), &key.namespace);
        let whole = api.get_opt(&key.name).await.map_err(Error::request("read", "Pod", &key))?;
        let whole = whole.filter(|whole| whole.metadata.uid == pod.metadata.uid);
        let Some(spec) = whole.and_then(|whole| whole.spec) else { return Ok(None) };
        let wanted = spec.volumes.iter().flatten().filter(|volume| missing.contains(&volume.name.as_str()));
        for claim in wanted.filter_map(|volume| claim(&pod, volume)) {
            self.make(&pod, claim).await?;
        }
        Ok(None)
    }

    async fn make(&self, pod: &Pod, claim: PersistentVolumeClaim) -> Result<()> {
        let key = ObjectKey::of(&claim);
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &key.namespace);
        match api.create(&PostParams::default(), &claim).await {
            Ok(_) => Ok(()),
            // The watch is behind: it brings the claim, and the pod is looked at again if it is somebody else's.
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                Err(Error::Stale { object: key.to_string() })
            }
            Err(error) => {
                let error = Error::request("create", "PersistentVolumeClaim", key)(error);
                if error.is_namespace_terminating() {
                    return Ok(());
                }
                let message = format!("ephemeral volume claim {}: {}", claim.name_any(), error.message());
                let note = Note::warning("FailedBinding", message);
                self.recorder.note(pod, note.severity, note.reason, note.message);
                Err(error)
            }
        }
    }
}

fn wants_claims(pod: &Pod) -> bool {
    pod.is_active() && pod.spec.volumes.iter().any(|volume| volume.ephemeral)
}

/// The claim of a volume of a pod.
fn claim(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let metadata = template.metadata.as_ref();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", pod.name_any(), volume.name)),
            namespace: pod.namespace(),
            labels: metadata.and_then(|metadata| metadata.labels.clone()),
            annotations: metadata.and_then(|metadata| metadata.annotations.clone()),
            owner_references: Some(vec![owner::reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        ..PersistentVolumeClaim::default()
    })
}
