//! What a StatefulSet's status says.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::StatefulSets;
use super::plan::{Strategy, Wanted, revision};
use crate::error::{Error, Result};
use crate::key::ObjectKey;
use crate::model::Pod;
use crate::queue::Again;
use crate::replica_set::available_in;

impl StatefulSets {
    /// Writes the status if it is not what it should be; tells when a pod becomes available by time alone.
    pub(super) async fn update_status(
        &self,
        set: &StatefulSet,
        wanted: &Wanted<'_>,
        pods: &[Arc<Pod>],
        collisions: Option<i32>,
        now: Timestamp,
    ) -> Result<Again> {
        let (status, again) = status(set, wanted, pods, collisions, now);
        if set.status.as_ref() == Some(&status) {
            return Ok(again);
        }
        let namespace = set.namespace().unwrap_or_default();
        let sets = Api::<PartialObjectMeta<StatefulSet>>::namespaced(self.client.clone(), &namespace);
        // A field that is left out of a patch would stay as it was.
        let patch = json!({ "metadata": { "uid": set.metadata.uid }, "status": {
            "replicas": status.replicas,
            "readyReplicas": status.ready_replicas,
            "availableReplicas": status.available_replicas,
            "currentReplicas": status.current_replicas,
            "updatedReplicas": status.updated_replicas,
            "currentRevision": status.current_revision,
            "updateRevision": status.update_revision,
            "collisionCount": status.collision_count,
            "observedGeneration": status.observed_generation,
        } });
        match sets.patch_status(&set.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(again),
            Err(kube::Error::Api(gone)) if gone.code == 404 => Ok(None),
            Err(error) => {
                Err(Error::request("write the status of", "StatefulSet", ObjectKey::of(set))(error))
            }
        }
    }
}

fn status(
    set: &StatefulSet,
    wanted: &Wanted<'_>,
    pods: &[Arc<Pod>],
    collisions: Option<i32>,
    now: Timestamp,
) -> (StatefulSetStatus, Again) {
    let (mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0);
    let mut again: Again = None;
    for pod in pods {
        if pod.status.phase == "Running" && pod.is_ready() {
            ready += 1;
            match available_in(pod, wanted.wait, now) {
                None => available += 1,
                Some(left) => again = Some(again.map_or(left, |again| again.min(left))),
            }
        }
        if !pod.is_terminating() {
            current += i32::from(revision(pod) == wanted.current);
            updated += i32::from(revision(pod) == wanted.update);
        }
    }
    let replicas = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    let mut is = wanted.current;
    let rolls = matches!(wanted.strategy, Strategy::Rolling { .. });
    if rolls && updated == replicas && ready == replicas && replicas == wanted.replicas {
        is = wanted.update;
        current = updated;
    }
    let count = |count: i32| (count != 0).then_some(count);
    let status = StatefulSetStatus {
        replicas,
        ready_replicas: count(ready),
        available_replicas: Some(available),
        current_replicas: count(current),
        updated_replicas: count(updated),
        current_revision: Some(is.to_owned()),
        update_revision: Some(wanted.update.to_owned()),
        collision_count: Some(collisions.unwrap_or(0)),
        observed_generation: set.metadata.generation,
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    (status, again)
}
