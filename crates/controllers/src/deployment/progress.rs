//! What a Deployment says about how far it is.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::conditions::{self, AVAILABLE, PROGRESSING, REPLICA_FAILURE, condition, desired};
use super::rollout::{available, limits, replicas};
use super::{Rollout, annotations};
use crate::error::{Error, Result};
use crate::queue::Again;

impl Rollout<'_> {
    /// Writes a status, and the revision with it, as long as the Deployment is what we know of it.
    pub(super) async fn put_status(&mut self, status: DeploymentStatus) -> Result<()> {
        let metadata = &self.deployment.metadata;
        let counted = |count: Option<i32>| count.filter(|count| *count != 0);
        let revision = self.deployment.annotations().get(annotations::REVISION);
        // A field that is left out of a patch would stay as it was.
        let mut patch = json!({
            "metadata": { "uid": metadata.uid, "resourceVersion": metadata.resource_version },
            "status": {
                "observedGeneration": status.observed_generation,
                "replicas": counted(status.replicas),
                "updatedReplicas": counted(status.updated_replicas),
                "readyReplicas": counted(status.ready_replicas),
                "availableReplicas": counted(status.available_replicas),
                "unavailableReplicas": counted(status.unavailable_replicas),
                "terminatingReplicas": status.terminating_replicas,
                "collisionCount": status.collision_count,
                "conditions": status.conditions,
            },
        });
        if let Some(revision) = revision {
            patch["metadata"]["annotations"] = json!({ annotations::REVISION: revision });
        }
        let key = self.key();
        let api = Api::<Deployment>::namespaced(self.controller.client.clone(), &key.namespace);
        let written = api
            .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(Error::request("write the status of", "Deployment", key))?;
        self.deployment = written;
        Ok(())
    }

    /// Says that the Deployment is paused, or that it is not any more.
    pub(super) async fn check_paused(&mut self) -> Result<()> {
        if conditions::deadline(&self.deployment).is_none() {
            return Ok(());
        }
        let mut status = self.deployment.status.clone().unwrap_or_default();
        let known = conditions::find(&status, PROGRESSING);
        if conditions::has_reason(known, conditions::TIMED_OUT) {
            return Ok(());
        }
        let is_paused = self.deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
        let said = conditions::has_reason(known, conditions::PAUSED);
        let (reason, message) = match (is_paused, said) {
            (true, false) => (conditions::PAUSED, "Deployment is paused"),
            (false, true) => (conditions::RESUMED, "Deployment is resumed"),
            _ => return Ok(()),
        };
        conditions::set(&mut status, condition(PROGRESSING, "Unknown", reason, message.to_owned()));
        self.put_status(status).await
    }

    /// Writes how many pods there are, without a word about progress.
    pub(super) async fn write_status(&mut self, new: Option<usize>) -> Result<Again> {
        let status = self.count(new);
        if self.deployment.status.as_ref() != Some(&status) {
            self.put_status(status).await?;
        }
        Ok(None)
    }

    /// Writes how many pods there are and whether the rollout goes on; tells when it may have got stuck.
    pub(super) async fn write_progress(&mut self, new: Option<usize>) -> Result<Again> {
        let before = self.deployment.status.clone().unwrap_or_default();
        let mut status = self.count(new);
        let deployment = &self.deployment;
        if conditions::deadline(deployment).is_none() {
            conditions::remove(&mut status, PROGRESSING);
        }
        let known = conditions::find(&before, PROGRESSING).cloned();
        // What is complete stays so, whatever happens to its pods.
        let was_complete = status.replicas == status.updated_replicas
            && conditions::has_reason(known.as_ref(), conditions::SET_AVAILABLE);
        if conditions::deadline(deployment).is_some() && !was_complete {
            let what = match new {
                Some(new) => format!("ReplicaSet {:?}", self.sets[new].name_any()),
                None => format!("Deployment {:?}", deployment.name_any()),
            };
            if conditions::is_complete(deployment, &status) {
                let message = format!("{what} has successfully progressed.");
                conditions::set(
                    &mut status,
                    condition(PROGRESSING, "True", conditions::SET_AVAILABLE, message),
                );
            } else if conditions::is_progressing(&before, &status) {
                let message = format!("{what} is progressing.");
                let mut now = condition(PROGRESSING, "True", conditions::SET_UPDATED, message);
                if let Some(known) = known.as_ref().filter(|known| known.status == "True") {
                    now.last_transition_time.clone_from(&known.last_transition_time);
                }
                // Its time is what the deadline counts from: it is written even where nothing else changes.
                conditions::remove(&mut status, PROGRESSING);
                conditions::set(&mut status, now);
            } else if conditions::has_timed_out(deployment, &before, Timestamp::now()) {
                let message = format!("{what} has timed out progressing.");
                conditions::set(&mut status, condition(PROGRESSING, "False", conditions::TIMED_OUT, message));
            }
        }
        match failure(&self.sets, new) {
            Some(failure) => conditions::set(&mut status, failure),
            None => conditions::remove(&mut status, REPLICA_FAILURE),
        }
        if before == status {
            return Ok(self.stuck_in(&status));
        }
        self.put_status(status.clone()).await?;
        Ok(self.stuck_in(&status))
    }

    /// When to look whether the rollout is stuck.
    fn stuck_in(&self, status: &DeploymentStatus) -> Again {
        let deadline = conditions::deadline(&self.deployment)?;
        let condition = conditions::find(status, PROGRESSING)?;
        let reason = condition.reason.as_deref().unwrap_or_default();
        if conditions::is_complete(&self.deployment, status)
            || matches!(reason, conditions::TIMED_OUT | conditions::SET_AVAILABLE)
        {
            return None;
        }
        let since = condition.last_update_time.as_ref()?.0;
        let left = SignedDuration::from_secs(deadline.into()) - Timestamp::now().duration_since(since);
        // A second more: times in the API have no fractions.
        let left = if left.is_negative() { Duration::ZERO } else { left.unsigned_abs() };
        Some(left + Duration::from_secs(1))
    }

    fn count(&self, new: Option<usize>) -> DeploymentStatus {
        let deployment = &self.deployment;
        let before = deployment.status.clone().unwrap_or_default();
        let sum = |count: fn(&ReplicaSet) -> i32| self.sets.iter().map(count).sum::<i32>();
        let available = sum(available);
        let unavailable = (sum(replicas) - available).max(0);
        let terminating =
            |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.terminating_replicas);
        let made = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
        let counted = |count: i32| (count != 0).then_some(count);
        let mut status = DeploymentStatus {
            observed_generation: deployment.metadata.generation,
            replicas: counted(sum(|set| set.status.as_ref().map_or(0, |status| status.replicas))),
            updated_replicas: counted(new.map_or(0, |new| made(&self.sets[new]))),
            ready_replicas: counted(sum(|set| {
                set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
            })),
            available_replicas: counted(available),
            unavailable_replicas: counted(unavailable),
            terminating_replicas: self
                .sets
                .iter()
                .all(|set| terminating(set).is_some())
                .then(|| self.sets.iter().filter_map(terminating).sum()),
            collision_count: before.collision_count,
            conditions: before.conditions,
        };
        let least = desired(deployment) - limits(deployment).unavailable;
        let now = if available >= least {
            let message = "Deployment has minimum availability.".to_owned();
            condition(AVAILABLE, "True", "MinimumReplicasAvailable", message)
        } else {
            let message = "Deployment does not have minimum availability.".to_owned();
            condition(AVAILABLE, "False", "MinimumReplicasUnavailable", message)
        };
        conditions::set(&mut status, now);
        status
    }
}

/// Why pods cannot be made or deleted: of the new set, or else of any.
fn failure(
    sets: &[ReplicaSet],
    new: Option<usize>,
) -> Option<k8s_openapi::api::apps::v1::DeploymentCondition> {
    let failed = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE).cloned()
    };
    let found = new.and_then(|new| failed(&sets[new])).or_else(|| sets.iter().find_map(failed))?;
    let mut result = condition(
        REPLICA_FAILURE,
        &found.status,
        found.reason.as_deref().unwrap_or_default(),
        found.message.unwrap_or_default(),
    );
    result.last_transition_time = found.last_transition_time.or_else(|| Some(Time(Timestamp::now())));
    Some(result)
}
