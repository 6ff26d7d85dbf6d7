//! What a DaemonSet's status says.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::DaemonSets;
use super::nodes::Fit;
use super::plan::{Place, Wanted};
use crate::error::{Error, Result};
use crate::key::ObjectKey;
use crate::queue::Again;

impl DaemonSets {
    /// Writes the status if it is not what it should be; tells when a pod becomes available by time alone.
    pub(super) async fn update_status(
        &self,
        set: &DaemonSet,
        wanted: &Wanted<'_>,
        places: &[Place],
        collisions: Option<i32>,
        now: Timestamp,
    ) -> Result<Again> {
        let (status, again) = status(set, wanted, places, collisions, now);
        if set.status.as_ref() == Some(&status) {
            return Ok(again);
        }
        let namespace = set.namespace().unwrap_or_default();
        let sets = Api::<PartialObjectMeta<DaemonSet>>::namespaced(self.client.clone(), &namespace);
        // A field that is left out of a patch would stay as it was.
        let patch = json!({ "metadata": { "uid": set.metadata.uid }, "status": {
            "currentNumberScheduled": status.current_number_scheduled,
            "desiredNumberScheduled": status.desired_number_scheduled,
            "numberMisscheduled": status.number_misscheduled,
            "numberReady": status.number_ready,
            "numberAvailable": status.number_available,
            "numberUnavailable": status.number_unavailable,
            "updatedNumberScheduled": status.updated_number_scheduled,
            "collisionCount": status.collision_count,
            "observedGeneration": status.observed_generation,
        } });
        match sets.patch_status(&set.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(again),
            Err(kube::Error::Api(gone)) if gone.code == 404 => Ok(None),
            Err(error) => Err(Error::request("write the status of", "DaemonSet", ObjectKey::of(set))(error)),
        }
    }
}

fn status(
    set: &DaemonSet,
    wanted: &Wanted<'_>,
    places: &[Place],
    collisions: Option<i32>,
    now: Timestamp,
) -> (DaemonSetStatus, Again) {
    let (mut desired, mut current, mut astray, mut ready, mut available, mut updated) = (0, 0, 0, 0, 0, 0);
    let mut again: Again = None;
    for place in places {
        // One that starts may go on while one that ends is still there.
        let pods = || place.pods.iter().filter(|pod| !pod.is_terminating());
        if place.fit != Fit::Runs {
            astray += i32::from(place.fit == Fit::Never && pods().next().is_some());
            continue;
        }
        desired += 1;
        current += i32::from(pods().next().is_some());
        updated += i32::from(pods().any(|pod| wanted.is_new(pod)));
        ready += i32::from(pods().any(|pod| pod.is_ready()));
        let states: Vec<_> = pods().map(|pod| wanted.is_available(pod, now)).collect();
        available += i32::from(states.iter().any(|(is_available, _)| *is_available));
        again = states.iter().map(|(_, left)| *left).chain([again]).flatten().min();
    }
    let count = |count: i32| (count != 0).then_some(count);
    let status = DaemonSetStatus {
        current_number_scheduled: current,
        desired_number_scheduled: desired,
        number_misscheduled: astray,
        number_ready: ready,
        number_available: count(available),
        number_unavailable: count(desired - available),
        updated_number_scheduled: count(updated),
        collision_count: collisions,
        observed_generation: set.metadata.generation,
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    (status, again)
}
