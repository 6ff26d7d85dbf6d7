//! The way from the old pods to the new ones.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::ResourceExt as _;

use super::arithmetic::{Limits, new_set_size, old_sets_excess, spare};
use super::conditions::{self, desired};
use super::{Rollout, annotations};
use crate::error::Result;
use crate::owner;
use crate::queue::Again;

/// Whether all old pods have to be gone before the first new one.
pub(super) fn recreates(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("Recreate"))
}

pub(super) fn limits(deployment: &Deployment) -> Limits {
    if recreates(deployment) {
        return Limits { surge: 0, unavailable: 0 };
    }
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
    Limits::new(surge, unavailable, desired(deployment))
}

/// How many pods a set is to have.
pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

impl Rollout<'_> {
    pub(super) async fn go(&mut self) -> Result<Again> {
        if owner::is_terminating(&self.deployment) {
            let (new, _) = self.split();
            return self.write_status(new).await;
        }
        self.check_paused().await?;
        let paused = self.deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
        if paused || self.is_scaled() {
            return self.keep().await;
        }
        if recreates(&self.deployment) { self.recreate().await } else { self.roll().await }
    }

    /// Whether the Deployment's size was changed since its sets were scaled.
    fn is_scaled(&self) -> bool {
        let wanted = desired(&self.deployment);
        let active = self.sets.iter().filter(|set| replicas(set) > 0);
        active.filter_map(annotations::desired).any(|then| then != wanted)
    }

    /// Scales, but rolls nothing out.
    async fn keep(&mut self) -> Result<Again> {
        let (new, old) = self.new_set(false).await?;
        self.scale(new, &old).await?;
        if self.deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true) {
            self.clean_up(&old).await?;
        }
        self.write_status(new).await
    }

    async fn roll(&mut self) -> Result<Again> {
        let (new, old) = self.new_set(true).await?;
        let Some(new) = new else { return self.write_progress(None).await };
        if self.grow_new(new).await? || self.shrink_old(new, &old).await? {
            return self.write_progress(Some(new)).await;
        }
        if conditions::is_complete(&self.deployment, &self.deployment.status.clone().unwrap_or_default()) {
            self.clean_up(&old).await?;
        }
        self.write_progress(Some(new)).await
    }

    async fn recreate(&mut self) -> Result<Again> {
        let (new, old) = self.new_set(false).await?;
        let mut scaled = false;
        for &index in &old {
            if replicas(&self.sets[index]) > 0 {
                scaled |= self.scale_set(index, 0).await?;
            }
        }
        if scaled || self.old_pods_run(&old) {
            return self.write_progress(new).await;
        }
        let (new, old) = if new.is_some() { (new, old) } else { self.new_set(true).await? };
        if let Some(new) = new {
            self.scale_set(new, desired(&self.deployment)).await?;
        }
        if conditions::is_complete(&self.deployment, &self.deployment.status.clone().unwrap_or_default()) {
            self.clean_up(&old).await?;
        }
        self.write_progress(new).await
    }

    fn old_pods_run(&self, old: &[usize]) -> bool {
        old.iter().any(|&index| {
            let pods = self.controller.pods.owned_by(owner::uid(&self.sets[index]));
            pods.iter().any(|pod| !pod.is_finished())
        })
    }

    /// Scales the new set towards what is wanted; tells whether anything was to do.
    async fn grow_new(&mut self, new: usize) -> Result<bool> {
        let wanted = desired(&self.deployment);
        let current = replicas(&self.sets[new]);
        if current == wanted {
            return Ok(false);
        }
        if current > wanted {
            return self.scale_set(new, wanted).await;
        }
        // A set that was just scaled down still has the pods that it is to lose.
        let has = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
        let all = self.sets.iter().map(|set| replicas(set).max(has(set))).sum();
        let size = new_set_size(wanted, limits(&self.deployment).surge, all, current);
        self.scale_set(new, size).await
    }

    /// Scales old sets down as far as enough pods stay available; tells whether anything was to do.
    async fn shrink_old(&mut self, new: usize, old: &[usize]) -> Result<bool> {
        if old.iter().all(|&index| replicas(&self.sets[index]) == 0) {
            return Ok(false);
        }
        let wanted = desired(&self.deployment);
        let limits = limits(&self.deployment);
        let all = self.sets.iter().map(replicas).sum();
        let new_unavailable = replicas(&self.sets[new]) - available(&self.sets[new]);
        let excess = old_sets_excess(wanted, limits.unavailable, all, new_unavailable);
        if excess <= 0 {
            return Ok(false);
        }
        let mut old = old.to_vec();
        old.sort_by_key(|&index| {
            let set = &self.sets[index];
            (set.creation_timestamp().map(|time| time.0), set.name_any())
        });
        // Pods that do not work go first: they may be what the rollout is to mend.
        let mut unhealthy = 0;
        for &index in &old {
            let set = &self.sets[index];
            let broken = (replicas(set) - available(set)).min(excess - unhealthy).max(0);
            if broken > 0 {
                let size = replicas(set) - broken;
                self.scale_set(index, size).await?;
                unhealthy += broken;
            }
        }
        let sets = self.sets.iter().map(|set| (replicas(set), available(set)));
        let mut spare = spare(wanted, limits.unavailable, sets);
        let mut shrunk = 0;
        for &index in &old {
            let down = replicas(&self.sets[index]).min(spare).max(0);
            if down > 0 {
                let size = replicas(&self.sets[index]) - down;
                self.scale_set(index, size).await?;
                spare -= down;
                shrunk += down;
            }
        }
        Ok(unhealthy + shrunk > 0)
    }
}
