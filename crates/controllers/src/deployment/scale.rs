//! Changing the size of sets.

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::arithmetic::{Share, proportional};
use super::conditions::desired;
use super::rollout::{available, limits, recreates, replicas};
use super::{Rollout, annotations};
use crate::error::{Error, Result};
use crate::events::Severity;
use crate::key::ObjectKey;

impl Rollout<'_> {
    /// Patches a set as long as it is what we know of it, and takes over what it is now.
    pub(super) async fn patch_set(&mut self, index: usize, mut patch: Value) -> Result<()> {
        let set = &self.sets[index];
        patch["metadata"]["resourceVersion"] = json!(set.metadata.resource_version);
        let failed = Error::request("change", "ReplicaSet", ObjectKey::of(set));
        let name = set.name_any();
        let patched = self
            .set_api()
            .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(failed)?;
        self.sets[index] = patched;
        Ok(())
    }

    /// Gives a set a size, and notes for which size of the Deployment. Tells whether the size was another.
    pub(super) async fn scale_set(&mut self, index: usize, size: i32) -> Result<bool> {
        let wanted = desired(&self.deployment);
        let most = wanted + limits(&self.deployment).surge;
        let set = &self.sets[index];
        let before = replicas(set);
        let known = annotations::desired(set) == Some(wanted) && annotations::most(set) == Some(most);
        if before == size && known {
            return Ok(false);
        }
        let mut sizes = annotations::Annotations::new();
        annotations::set_sizes(&mut sizes, wanted, most);
        let patch = json!({ "metadata": { "annotations": sizes }, "spec": { "replicas": size } });
        self.patch_set(index, patch).await?;
        if before == size {
            return Ok(false);
        }
        let direction = if before < size { "up" } else { "down" };
        let name = self.sets[index].name_any();
        let message = format!("Scaled {direction} replica set {name} from {before} to {size}");
        self.controller.recorder.note(&self.deployment, Severity::Normal, "ScalingReplicaSet", message);
        Ok(true)
    }

    /// Brings the sets to the Deployment's size without moving pods from one to the other.
    pub(super) async fn scale(&mut self, new: Option<usize>, old: &[usize]) -> Result<()> {
        let wanted = desired(&self.deployment);
        let active: Vec<usize> =
            (0..self.sets.len()).filter(|&index| replicas(&self.sets[index]) > 0).collect();
        let only = match active[..] {
            [] => new.or_else(|| old.iter().copied().max_by_key(|&index| age(&self.sets[index]))),
            [one] => Some(one),
            _ => None,
        };
        if let Some(only) = only {
            self.scale_set(only, wanted).await?;
            return Ok(());
        }
        // The new set has all the pods: the old ones have nothing to do.
        if let Some(new) = new
            && is_saturated(&self.sets[new], wanted)
        {
            for &index in old {
                if replicas(&self.sets[index]) > 0 {
                    self.scale_set(index, 0).await?;
                }
            }
            return Ok(());
        }
        if recreates(&self.deployment) {
            return Ok(());
        }
        let surge = limits(&self.deployment).surge;
        let total: i32 = active.iter().map(|&index| replicas(&self.sets[index])).sum();
        let grows = (if wanted > 0 { wanted + surge } else { 0 }) > total;
        // The largest first; of the same size the newest first to grow, and the oldest first to shrink.
        let mut active = active;
        active.sort_by(|&left, &right| {
            let (left, right) = (&self.sets[left], &self.sets[right]);
            let ages = age(left).cmp(&age(right));
            replicas(right).cmp(&replicas(left)).then(if grows { ages.reverse() } else { ages })
        });
        let share = |index: &usize| {
            let set = &self.sets[*index];
            Share { replicas: replicas(set), most_then: annotations::most(set) }
        };
        let shares: Vec<Share> = active.iter().map(share).collect();
        let now = self.deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
        for (index, size) in active.into_iter().zip(proportional(&shares, wanted, surge, now)) {
            self.scale_set(index, size).await?;
        }
        Ok(())
    }
}

fn age(set: &ReplicaSet) -> (Option<jiff::Timestamp>, String) {
    (set.creation_timestamp().map(|time| time.0), set.name_any())
}

fn is_saturated(set: &ReplicaSet, wanted: i32) -> bool {
    replicas(set) == wanted && annotations::desired(set) == Some(wanted) && available(set) == wanted
}
