//! Making and deleting the pods of a Job that goes on.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;

use super::view::{Verdict, View};
use super::{Jobs, Outcome, failure, pod};
use crate::error::{Error, Result};
use crate::key::ObjectKey;
use crate::model::Pod;
use crate::owner;
use crate::pods::BURST;
use crate::queue::Again;
use crate::replica_set::rank;

impl Jobs {
    /// Makes or deletes pods as a Job wants them, and tells whether it is complete.
    pub(super) async fn go_on(&self, job: &Job, view: &View<'_>, settled: bool) -> Outcome {
        let mut outcome =
            Outcome { active: view.active.len(), terminating: view.terminating, ..Outcome::default() };
        let managed = settled && !owner::is_terminating(job);
        if managed && let Err(error) = self.manage(job, view, &mut outcome).await {
            outcome.failure = Some(error);
        }
        if outcome.failure.is_none() && view.is_complete(outcome.active) {
            outcome.verdict = Some(Verdict::completed());
        } else if managed {
            outcome.suspended = Some(view.is_suspended());
        }
        outcome
    }

    async fn manage(&self, job: &Job, view: &View<'_>, outcome: &mut Outcome) -> Result<()> {
        let active = view.active.len();
        let wanted = if view.is_suspended() { 0 } else { view.wanted() };
        let mut surplus = surplus(view, active.saturating_sub(wanted));
        if !surplus.is_empty() {
            // A Job that is suspended loses all at once.
            if !view.is_suspended() {
                surplus.truncate(BURST);
            }
            self.control.delete(job, &surplus).await?;
            outcome.active -= surplus.len();
            outcome.terminating += i32::try_from(surplus.len()).unwrap_or(i32::MAX);
            return Ok(());
        }
        let waited_for = if failure::waits_for_end(view.spec) { view.terminating } else { 0 };
        let missing = wanted.saturating_sub(active).saturating_sub(usize::try_from(waited_for).unwrap_or(0));
        if missing == 0 {
            return Ok(());
        }
        let by_index = view.spec.backoff_limit_per_index.is_some();
        let left = if by_index { Duration::ZERO } else { view.backoff.left(view.now) };
        if !left.is_zero() {
            outcome.again = Some(left);
            return Ok(());
        }
        let missing = missing.min(BURST);
        let (indexes, again) =
            if view.is_indexed() { free_indexes(view, missing) } else { (Vec::new(), None) };
        outcome.again = again;
        let count = if view.is_indexed() { indexes.len() } else { missing };
        if count == 0 {
            return Ok(());
        }
        self.create(job, view, &indexes, count).await?;
        outcome.active += count;
        Ok(())
    }

    async fn create(&self, job: &Job, view: &View<'_>, indexes: &[i32], count: usize) -> Result<()> {
        if indexes.is_empty() {
            let body =
                serde_json::to_vec(&pod::new(job, view.spec, None, None)).map_err(kube::Error::SerdeError);
            let body = body.map_err(Error::request("encode a pod of", "Job", ObjectKey::of(job)))?;
            return self.control.create(job, count, |_| Ok(body.clone())).await;
        }
        let body = |number: usize| {
            let index = indexes.get(number).copied();
            let failed = index.and_then(|index| view.delayed.get(&index));
            serde_json::to_vec(&pod::new(job, view.spec, index, failed.map(|pod| &**pod)))
        };
        self.control.create(job, count, body).await
    }
}

/// The indexes to make pods for, at most so many, and when there will be more because they wait after a failure.
fn free_indexes(view: &View<'_>, most: usize) -> (Vec<i32>, Again) {
    let mut again: Again = None;
    let mut ready = Vec::new();
    // Those that wait must not keep others from their turn.
    for index in view.pending(most.saturating_add(view.delayed.len())) {
        let left = view.index_delay(index);
        if left.is_zero() {
            ready.push(index);
        } else {
            again = Some(again.map_or(left, |again| again.min(left)));
        }
    }
    ready.truncate(most);
    (ready, again)
}

/// The active pods to delete: of an indexed Job those of no index and of one that has a pod already, and others until there
/// are enough.
fn surplus(view: &View<'_>, least: usize) -> Vec<Arc<Pod>> {
    let mut kept = view.active.clone();
    let mut gone = Vec::new();
    if view.is_indexed() {
        kept.sort_by_key(|pod| pod::index(pod));
        let mut seen = HashSet::new();
        (kept, gone) =
            kept.into_iter().partition(|pod| view.index(pod).is_some_and(|index| seen.insert(index)));
    }
    if gone.len() < least {
        let related = kept.clone();
        rank::first_to_go(&mut kept, &related, Timestamp::now());
        gone.extend(kept.into_iter().take(least - gone.len()));
    }
    gone
}
