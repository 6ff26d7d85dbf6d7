//! The binder: gives claims their volumes, says in which phase both are, and asks for a volume to be made where none
//! fits.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::PartialObjectMeta;
use kube::{Client, ResourceExt as _};
use serde_json::json;

use super::plan::{ClaimStep, Known, Note, VolumeStep};
use super::{
    OLDER_PROVISIONER, PROVISIONER, annotation, change_claim, claim_class, claim_key, claim_uid, claims,
    is_default, plan, volume_name, volume_phase, waits_for_pod, writes,
};
use crate::error::{Error, Result};
use crate::events::Recorder;
use crate::informer::{Change, Informer};
use crate::key::ObjectKey;
use crate::model::Pod;
use crate::owner;
use crate::queue::{Again, Queue};

/// So many claims and volumes are looked at at the same time.
const WIDTH: usize = 8;
/// Names that the reference keeps for what was once part of it.
const BUILT_IN: &str = "kubernetes.io/";

/// What the controllers of volumes follow.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) claims: Arc<Informer<PersistentVolumeClaim>>,
    pub(crate) volumes: Arc<Informer<PersistentVolume>>,
    pub(crate) classes: Arc<Informer<StorageClass>>,
    pub(crate) pods: Arc<Informer<Pod>>,
}

impl Sources {
    /// The class of a claim, if there is one of that name.
    pub(super) fn class_of(&self, claim: &PersistentVolumeClaim) -> Option<Arc<StorageClass>> {
        self.classes.get(&ObjectKey::new("", claim_class(claim)?))
    }

    pub(crate) async fn wait_complete(&self) {
        self.claims.wait_complete().await;
        self.volumes.wait_complete().await;
        self.classes.wait_complete().await;
        self.pods.wait_complete().await;
    }
}

/// The controller of claims and volumes.
pub(crate) struct Binder {
    client: Client,
    sources: Sources,
    /// Claims, and volumes, which have no namespace.
    queue: Arc<Queue<ObjectKey>>,
    recorder: Recorder,
}

impl Binder {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(client: Client, sources: Sources, recorder: &Recorder) -> Binder {
        let queue = Queue::new("volumes");
        sources.claims.on_change({
            let (queue, volumes) = (queue.clone(), sources.volumes.clone());
            move |change| {
                let claim = change.object();
                let key = ObjectKey::of(&**claim);
                if matches!(change, Change::Deleted(_)) {
                    let all = volumes.list_all();
                    let its = all.iter().filter(|volume| claim_key(volume).as_ref() == Some(&key));
                    return its.for_each(|volume| queue.add(ObjectKey::of(&**volume)));
                }
                queue.add(key);
                if !volume_name(claim).is_empty() {
                    queue.add(ObjectKey::new("", volume_name(claim)));
                }
            }
        });
        sources.volumes.on_change({
            let (queue, claims) = (queue.clone(), sources.claims.clone());
            move |change| {
                let volume = change.object();
                queue.add(ObjectKey::of(&**volume));
                claim_key(volume).into_iter().for_each(|claim| queue.add(claim));
                let was_free = change.old().is_some_and(|old| volume_phase(old) == "Available");
                if volume_phase(volume) == "Available" && !was_free {
                    let (all, name) = (claims.list_all(), volume.name_any());
                    let waiting = all.iter().filter(|claim| ["", &name].contains(&volume_name(claim)));
                    return waiting.for_each(|claim| queue.add(ObjectKey::of(&**claim)));
                }
                if matches!(change, Change::Deleted(_)) {
                    let all = claims.list_all();
                    let its = all.iter().filter(|claim| volume_name(claim) == volume.name_any());
                    its.for_each(|claim| queue.add(ObjectKey::of(&**claim)));
                }
            }
        });
        sources.classes.on_change({
            let (queue, claims) = (queue.clone(), sources.claims.clone());
            move |change| {
                let class = change.object();
                let all = claims.list_all();
                let waiting = all.iter().filter(|claim| {
                    volume_name(claim).is_empty()
                        && claim_class(claim).map_or(is_default(class), |name| name == class.name_any())
                });
                waiting.for_each(|claim| queue.add(ObjectKey::of(&**claim)));
            }
        });
        Binder { client, sources, queue, recorder: recorder.of("persistentvolume-controller") }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.sources.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let done = if key.namespace.is_empty() {
            let Some(volume) = self.sources.volumes.get(&key) else { return Ok(None) };
            self.sync_volume(&volume).await
        } else {
            let Some(claim) = self.sources.claims.get(&key) else { return Ok(None) };
            self.sync_claim(&claim).await
        };
        match done {
            Err(error) if error.is_not_found() => Ok(None),
            other => other.map(|()| None),
        }
    }

    fn tell<K: kube::Resource<DynamicType = ()>>(&self, object: &K, note: Note) {
        self.recorder.note(object, note.severity, note.reason, note.message);
    }

    async fn sync_claim(&self, claim: &PersistentVolumeClaim) -> Result<()> {
        let class = self.sources.class_of(claim);
        let waits = class.as_ref().is_some_and(|class| waits_for_pod(class));
        let known = Known {
            named: self.sources.volumes.get(&ObjectKey::new("", volume_name(claim))),
            volumes: &|| self.sources.volumes.list_all(),
            waits,
        };
        match plan::claim_step(claim, &known) {
            ClaimStep::Bind(volume) => writes::bind(&self.client, &volume, claim).await,
            ClaimStep::Wait(note) => self.wait(claim, note).await,
            ClaimStep::Provide => self.provide(claim, class.as_deref(), waits).await,
            ClaimStep::Lost(note) => {
                if writes::write_without_volume(&self.client, claim, "Lost").await? {
                    self.tell(claim, note);
                }
                Ok(())
            }
        }
    }

    async fn wait(&self, claim: &PersistentVolumeClaim, note: Option<Note>) -> Result<()> {
        note.into_iter().for_each(|note| self.tell(claim, note));
        writes::write_without_volume(&self.client, claim, "Pending").await.map(drop)
    }

    /// Sees to a claim for which there is no volume.
    async fn provide(
        &self,
        claim: &PersistentVolumeClaim,
        class: Option<&StorageClass>,
        waits: bool,
    ) -> Result<()> {
        let name = claim_class(claim);
        if let (None, Some(default)) = (name, self.default_class()) {
            // The watch brings it back with its class.
            let change = json!({ "spec": { "storageClassName": default.name_any() } });
            return change_claim(&self.client, claim, change).await;
        }
        if plan::waits_for_scheduler(claim, waits) {
            return self.wait(claim, Some(self.tell_who_is_waited_for(claim))).await;
        }
        let failed = |message| Some(Note::warning("ProvisioningFailed", message));
        let note = match (name.unwrap_or_default(), class) {
            ("", _) => Some(Note::normal(
                "FailedBinding",
                "no persistent volumes available for this claim and no storage class is set",
            )),
            (name, None) => failed(format!("storageclass.storage.k8s.io {name:?} not found")),
            (_, Some(class)) if class.provisioner.starts_with(BUILT_IN) => {
                failed(format!("no volume plugin matched name: {}", class.provisioner))
            }
            _ if owner::is_terminating(claim) => None,
            (_, Some(class)) => return self.ask_provisioner(claim, &class.provisioner).await,
        };
        self.wait(claim, note).await
    }

    async fn ask_provisioner(&self, claim: &PersistentVolumeClaim, provisioner: &str) -> Result<()> {
        let names = [PROVISIONER, OLDER_PROVISIONER];
        if names.iter().any(|name| annotation(claim, name) != Some(provisioner)) {
            let annotations = json!({ PROVISIONER: provisioner, OLDER_PROVISIONER: provisioner });
            let change = json!({ "metadata": { "annotations": annotations } });
            // The watch brings it back, and then it is told.
            return change_claim(&self.client, claim, change).await;
        }
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by \
             the system administrator. If volume creation is delayed, please verify that the provisioner is running \
             and correctly registered."
        );
        self.wait(claim, Some(Note::normal("ExternalProvisioning", message))).await
    }

    /// Of several default classes the newest; of those of one second, the first by name.
    fn default_class(&self) -> Option<Arc<StorageClass>> {
        let classes = self.sources.classes.list_all();
        let made = |class: &StorageClass| class.metadata.creation_timestamp.as_ref().map(|time| time.0);
        classes
            .into_iter()
            .filter(|class| is_default(class))
            .max_by(|a, b| made(a).cmp(&made(b)).then_with(|| b.name_any().cmp(&a.name_any())))
    }

    fn tell_who_is_waited_for(&self, claim: &PersistentVolumeClaim) -> Note {
        let key = ObjectKey::of(claim);
        let pods = self.sources.pods.list(&key.namespace);
        let waiting = pods.iter().filter(|pod| {
            pod.spec.node_name.is_empty() && pod.is_active() && pod.claims().any(|name| name == key.name)
        });
        let names: Vec<String> = waiting.map(|pod| pod.name_any()).collect();
        let message = match names.as_slice() {
            [] => {
                let text = "waiting for first consumer to be created before binding";
                return Note::normal("WaitForFirstConsumer", text);
            }
            [one] => format!("waiting for pod {one} to be scheduled"),
            several => format!("waiting for pods {} to be scheduled", several.join(",")),
        };
        Note::normal("WaitForPodScheduled", message)
    }

    async fn sync_volume(&self, volume: &PersistentVolume) -> Result<()> {
        let key = claim_key(volume);
        let claim = key.as_ref().and_then(|key| self.sources.claims.get(key));
        match plan::volume_step(volume, claim.as_deref()) {
            VolumeStep::Phase(phase) => writes::write_phase(&self.client, volume, phase, "").await.map(drop),
            VolumeStep::AskClaim => {
                key.into_iter().for_each(|key| self.queue.add(key));
                Ok(())
            }
            VolumeStep::Mismatch => {
                let (Some(claim), name) = (claim, volume.name_any()) else { return Ok(()) };
                let of_volume = format!(
                    "Cannot bind PersistentVolume to requested PersistentVolumeClaim {:?} due to incompatible volumeMode.",
                    claim.name_any()
                );
                self.tell(volume, Note::warning("VolumeMismatch", of_volume));
                let of_claim = format!(
                    "Cannot bind PersistentVolume {name:?} to requested PersistentVolumeClaim due to incompatible \
                     volumeMode."
                );
                self.tell(&*claim, Note::warning("VolumeMismatch", of_claim));
                Ok(())
            }
            VolumeStep::Reclaim => self.reclaim(volume, claim.as_deref()).await,
            VolumeStep::Unbind => writes::unbind(&self.client, volume).await,
        }
    }

    async fn reclaim(&self, volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Result<()> {
        if !plan::is_released(volume) {
            let known = claim.is_some_and(|claim| owner::uid(claim) == claim_uid(volume));
            // The watch of claims may be behind that of volumes.
            if known || !self.claim_is_there(volume).await? {
                writes::write_phase(&self.client, volume, "Released", "").await?;
            }
            return Ok(());
        }
        let Some(note) = plan::cannot_reclaim(volume) else { return Ok(()) };
        if writes::write_phase(&self.client, volume, "Failed", &note.message).await? {
            self.tell(volume, note);
        }
        Ok(())
    }

    async fn claim_is_there(&self, volume: &PersistentVolume) -> Result<bool> {
        let Some(key) = claim_key(volume) else { return Ok(false) };
        let found = claims(&self.client, &key.namespace).get_metadata_opt(&key.name).await;
        let found: Option<PartialObjectMeta<_>> =
            found.map_err(Error::request("read", "PersistentVolumeClaim", key))?;
        Ok(found.is_some_and(|claim| claim.metadata.uid.as_deref() == Some(claim_uid(volume))))
    }
}
