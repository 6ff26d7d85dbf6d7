//! Claims that ask for more than they have: directories grow by saying so, and what others made is left to them.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Client, ResourceExt as _};
use serde_json::json;

use super::binder::Sources;
use super::local_path::grows;
use super::plan::Note;
use super::{
    PROVISIONED_BY, STORAGE, annotation, bytes, capacity, change_volume, claim_phase, local_path, requested,
    volume_name, write_claim_status,
};
use crate::error::Result;
use crate::events::Recorder;
use crate::informer::Change;
use crate::key::ObjectKey;
use crate::owner;
use crate::queue::{Again, Queue};

const RESIZING: &str = "Resizing";
/// What a resize leaves behind while it is under way.
const STATES: &[&str] = &[RESIZING, "FileSystemResizePending", "ControllerResizeError", "NodeResizeError"];
/// So many claims are looked at at the same time.
const WIDTH: usize = 4;

/// The controller of claims that grow.
pub(crate) struct Expansion {
    client: Client,
    sources: Sources,
    queue: Arc<Queue<ObjectKey>>,
    recorder: Recorder,
}

impl Expansion {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(client: Client, sources: Sources, recorder: &Recorder) -> Expansion {
        let queue = Queue::new("expansions");
        sources.claims.on_change({
            let queue = queue.clone();
            move |change| {
                let claim = change.object();
                if !matches!(change, Change::Deleted(_)) && wants_more(claim) {
                    queue.add(ObjectKey::of(&**claim));
                }
            }
        });
        Expansion { client, sources, queue, recorder: recorder.of("volume_expand") }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.sources.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let claim = self.sources.claims.get(&key).filter(|claim| wants_more(claim));
        let Some(claim) = claim.filter(|claim| !owner::is_terminating(&**claim)) else { return Ok(None) };
        let volume = self.sources.volumes.get(&ObjectKey::new("", volume_name(&claim)));
        let Some(volume) = volume else { return Ok(None) };
        let allowed =
            self.sources.class_of(&claim).is_some_and(|class| class.allow_volume_expansion == Some(true));
        if !allowed {
            return Ok(None);
        }
        if annotation(&*volume, PROVISIONED_BY) != Some(local_path::NAME) {
            let message = "waiting for an external controller to expand this PVC".to_owned();
            self.tell(&claim, Note::normal("ExternalExpanding", message));
            return Ok(None);
        }
        match self.expand(&volume, &claim).await {
            Err(error) if error.is_not_found() => Ok(None),
            other => other.map(|()| None),
        }
    }

    async fn expand(&self, volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<()> {
        let size =
            claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get(STORAGE));
        let mut conditions = conditions(claim);
        if grows(volume, claim) {
            let name = volume.name_any();
            let message = format!("External resizer is resizing volume {name}");
            self.tell(claim, Note::normal(RESIZING, message));
            let now = Some(Time(Timestamp::now()));
            conditions.push(PersistentVolumeClaimCondition {
                type_: RESIZING.to_owned(),
                status: "True".to_owned(),
                last_transition_time: now,
                ..PersistentVolumeClaimCondition::default()
            });
            let begun = json!({
                "conditions": conditions, "allocatedResources": { STORAGE: size },
                "allocatedResourceStatuses": { STORAGE: "ControllerResizeInProgress" },
            });
            write_claim_status(&self.client, claim, begun).await?;
            let change = json!({ "spec": { "capacity": { STORAGE: size } } });
            change_volume(&self.client, volume, change).await?;
            conditions.pop();
        }
        // A volume that was larger from the start already holds what is asked for.
        let held = if capacity(volume) < requested(claim) {
            size
        } else {
            volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get(STORAGE))
        };
        let ended = json!({
            "capacity": { STORAGE: held }, "conditions": (!conditions.is_empty()).then_some(conditions),
            "allocatedResources": { STORAGE: size }, "allocatedResourceStatuses": null,
        });
        write_claim_status(&self.client, claim, ended).await?;
        self.tell(claim, Note::normal("VolumeResizeSuccessful", "Resize volume succeeded"));
        Ok(())
    }

    fn tell(&self, claim: &PersistentVolumeClaim, note: Note) {
        self.recorder.note(claim, note.severity, note.reason, note.message);
    }
}

/// The conditions that are none of a resize.
fn conditions(claim: &PersistentVolumeClaim) -> Vec<PersistentVolumeClaimCondition> {
    let known = claim.status.as_ref().and_then(|status| status.conditions.as_ref());
    let others = known.into_iter().flatten().filter(|condition| !STATES.contains(&condition.type_.as_str()));
    others.cloned().collect()
}

fn wants_more(claim: &PersistentVolumeClaim) -> bool {
    let has = claim.status.as_ref().and_then(|status| status.capacity.as_ref()?.get(STORAGE));
    claim_phase(claim) == "Bound" && has.is_some() && bytes(has) < requested(claim)
}
