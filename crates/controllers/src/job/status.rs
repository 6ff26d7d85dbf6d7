//! What a Job's status says, and the order in which it is written: first which pods are about to be counted, then they are let
//! go, then they are counted. Whoever is interrupted in between counts none twice and forgets none.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Map, Value, json};

use super::pod::TRACKING;
use super::view::{Verdict, View, uid};
use super::{Jobs, Outcome, failure};
use crate::error::{Error, Result};
use crate::events::Severity;
use crate::key::ObjectKey;
use crate::model::Pod;
use crate::owner;

/// So many pods may be about to be counted at once.
const MOST_UNCOUNTED: usize = 500;
/// So many pods are let go at the same time.
const WIDTH: usize = 32;

/// The time as the API writes it: in whole seconds.
pub(super) fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// The pods that this look counts.
struct Counted {
    pods: Vec<Arc<Pod>>,
    /// Whether some had to be left for later.
    more: bool,
}

impl Jobs {
    /// Writes what has become of a Job, and lets its ended pods go.
    pub(super) async fn write(&self, job: &Job, view: &View<'_>, outcome: Outcome, now: &Time) -> Result<()> {
        let mut status = view.status.clone();
        status.active = count(outcome.active);
        let active = i32::try_from(outcome.active).unwrap_or(i32::MAX);
        status.ready = Some(view.ready.min(active));
        status.terminating = Some(outcome.terminating);
        let suspension = outcome.suspended.and_then(|suspended| suspend(&mut status, suspended, now));
        let counted = track(view, &mut status, outcome.verdict.as_ref());
        let verdict = outcome.verdict.filter(|_| !counted.more);
        if let Some(decided) = verdict.as_ref().or(outcome.decision.as_ref()) {
            let kind = decided.interim();
            set(&mut status, kind, true, &decided.reason, &decided.message, now);
        }
        let mut written = job.status.clone().unwrap_or_default();
        let mut version = job.metadata.resource_version.clone();
        if !counted.pods.is_empty() {
            version = self.put(job, version, &written, &status).await?;
            written = status.clone();
            self.memories.lock().entry(owner::uid(job).to_owned()).or_default().backoff = view.backoff;
            self.lift(job, &counted.pods).await?;
            let gone: HashSet<&str> = counted.pods.iter().map(|pod| uid(pod)).collect();
            settle(&mut status, |uid| !gone.contains(uid));
        }
        let ended = verdict.filter(|_| conclude_is_possible(&status));
        if let Some(verdict) = &ended {
            conclude(&mut status, verdict, now);
        }
        self.put(job, version, &written, &status).await?;
        if let Some(suspended) = suspension {
            let (reason, message) =
                if suspended { ("Suspended", "Job suspended") } else { ("Resumed", "Job resumed") };
            self.recorder.note(job, Severity::Normal, reason, message.to_owned());
        }
        if let Some(verdict) = ended {
            self.tell_end(job, &status, &verdict);
        }
        Ok(())
    }

    /// Writes a status where it differs from what was written; gives the version that it has then.
    async fn put(
        &self,
        job: &Job,
        version: Option<String>,
        before: &JobStatus,
        after: &JobStatus,
    ) -> Result<Option<String>> {
        let failed = || Error::request("write the status of", "Job", ObjectKey::of(job));
        let value = |status: &JobStatus| serde_json::to_value(status).map_err(kube::Error::SerdeError);
        let (before, after) = (value(before).map_err(failed())?, value(after).map_err(failed())?);
        let Some(difference) = difference(&before, &after) else { return Ok(version) };
        // What was counted rests on what was read.
        let metadata = json!({ "uid": job.metadata.uid, "resourceVersion": version });
        let patch = json!({ "metadata": metadata, "status": difference });
        let jobs = Api::<PartialObjectMeta<Job>>::namespaced(
            self.client.clone(),
            job.metadata.namespace.as_deref().unwrap_or_default(),
        );
        match jobs.patch_status(&job.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(written) => Ok(written.metadata.resource_version),
            Err(kube::Error::Api(gone)) if gone.code == 404 => Ok(version),
            Err(error) => Err(failed()(error)),
        }
    }

    /// Lets pods go, and remembers that.
    async fn lift(&self, job: &Job, pods: &[Arc<Pod>]) -> Result<()> {
        let lifted = stream::iter(pods.iter().cloned())
            .map(|pod| {
                let client = self.client.clone();
                async move { lift(client, &pod).await.map(|()| uid(&pod).to_owned()) }
            })
            .buffer_unordered(WIDTH)
            .collect::<Vec<_>>()
            .await;
        let mut memories = self.memories.lock();
        let memory = memories.entry(owner::uid(job).to_owned()).or_default();
        let mut failure = None;
        for result in lifted {
            match result {
                Ok(uid) => drop(memory.lifted.insert(uid)),
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn tell_end(&self, job: &Job, status: &JobStatus, verdict: &Verdict) {
        let completions = job.spec.as_ref().and_then(|spec| spec.completions);
        if !verdict.success {
            let reason = failure_reason(&verdict.reason);
            return self.recorder.note(job, Severity::Warning, reason, verdict.message.clone());
        }
        if completions.is_some_and(|wanted| status.succeeded.unwrap_or(0) > wanted) {
            let message = "Too many succeeded pods running after completion count reached".to_owned();
            self.recorder.note(job, Severity::Warning, "TooManySucceededPods", message);
        }
        self.recorder.note(job, Severity::Normal, "Completed", "Job completed".to_owned());
    }
}

/// The reason of an event, of those that failures have.
fn failure_reason(reason: &str) -> &'static str {
    const ALL: &[&str] = &[
        "PodFailurePolicy",
        "DeadlineExceeded",
        "MaxFailedIndexesExceeded",
        "FailedIndexes",
        "BackoffLimitExceeded",
    ];
    ALL.iter().find(|known| **known == reason).copied().unwrap_or("Failed")
}

/// Takes the finalizer off a pod. One that is gone has none.
pub(super) async fn lift(client: Client, pod: &Pod) -> Result<()> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let pods = Api::<PartialObjectMeta<Pod>>::namespaced(client, namespace);
    let patch = json!({ "metadata": {
        "uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [TRACKING],
    } });
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    match pods.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(_) => Ok(()),
        // Another of the same name is another's concern.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(Error::request("let go", "Pod", ObjectKey::of(pod))(error)),
    }
}

fn count(number: usize) -> Option<i32> {
    i32::try_from(number).ok().filter(|number| *number > 0)
}

/// Notes in the status which ended pods are about to be counted.
fn track(view: &View<'_>, status: &mut JobStatus, verdict: Option<&Verdict>) -> Counted {
    let tracked: HashSet<&str> =
        view.pods.iter().filter(|pod| view.is_tracked(pod)).map(|pod| uid(pod)).collect();
    status.uncounted_terminated_pods.get_or_insert_default();
    settle(status, |uid| tracked.contains(uid));
    let mut waiting = status.uncounted_terminated_pods.take().unwrap_or_default();
    let mut indexes = BTreeSet::new();
    let mut counted = Counted { pods: Vec::new(), more: false };
    for pod in view.pods.iter().filter(|pod| view.is_tracked(pod)) {
        let failed = failure::has_failed(view.spec, pod);
        if !may_go(view, pod, failed, verdict) {
            continue;
        }
        let uncounted = indexes.len()
            + waiting.succeeded.as_ref().map_or(0, Vec::len)
            + waiting.failed.as_ref().map_or(0, Vec::len);
        if uncounted >= MOST_UNCOUNTED {
            counted.more = true;
            break;
        }
        counted.pods.push(pod.clone());
        let index = view.index(pod);
        if view.is_indexed() && index.is_none() {
            continue;
        }
        if pod.status.phase == "Succeeded" && !view.is_uncounted_failure(pod) {
            match index.filter(|_| view.is_indexed()) {
                // That the index is done is enough to know that the pod is counted.
                Some(index) => drop(indexes.insert(index)),
                None if !view.is_uncounted_success(pod) => {
                    waiting.succeeded.get_or_insert_default().push(uid(pod).to_owned());
                }
                None => {}
            }
        } else if (failed || verdict.is_some_and(|verdict| !verdict.success))
            && !view.is_uncounted_failure(pod)
            && failure::counts(view.spec, pod)
        {
            waiting.failed.get_or_insert_default().push(uid(pod).to_owned());
        }
    }
    status.uncounted_terminated_pods = Some(waiting);
    if view.is_indexed() {
        let done = view.done_before.with(&indexes);
        status.succeeded = count(usize::try_from(done.count()).unwrap_or(0));
        status.completed_indexes = Some(done.to_string()).filter(|text| !text.is_empty());
        status.failed_indexes = view.failed_indexes.as_ref().map(ToString::to_string);
    }
    counted
}

/// Whether a pod need not be kept any longer.
fn may_go(view: &View<'_>, pod: &Pod, failed: bool, verdict: Option<&Verdict>) -> bool {
    if view.is_ending || verdict.is_some() || pod.status.phase == "Succeeded" {
        return true;
    }
    // The next pod of its index has to learn from it how often that has failed.
    let waits = view
        .index(pod)
        .and_then(|index| view.delayed.get(&index))
        .is_some_and(|other| uid(other) == uid(pod));
    failed && !waits
}

/// Counts the pods that were about to be and are let go.
fn settle(status: &mut JobStatus, is_kept: impl Fn(&str) -> bool) {
    let Some(waiting) = &mut status.uncounted_terminated_pods else { return };
    let lists = [(&mut waiting.succeeded, &mut status.succeeded), (&mut waiting.failed, &mut status.failed)];
    for (list, total) in lists {
        let Some(uids) = list else { continue };
        let before = uids.len();
        uids.retain(|uid| is_kept(uid));
        let gone = i32::try_from(before - uids.len()).unwrap_or(i32::MAX);
        if gone > 0 {
            *total = Some(total.unwrap_or(0).saturating_add(gone));
        }
        if uids.is_empty() {
            *list = None;
        }
    }
}

/// Whether all pods are counted and gone.
fn conclude_is_possible(status: &JobStatus) -> bool {
    let waiting = status.uncounted_terminated_pods.as_ref();
    let none = waiting.is_none_or(|waiting| waiting.succeeded.is_none() && waiting.failed.is_none());
    none && status.active.is_none() && status.terminating.unwrap_or(0) == 0
}

fn conclude(status: &mut JobStatus, verdict: &Verdict, now: &Time) {
    set(status, verdict.last(), true, &verdict.reason, &verdict.message, now);
    if verdict.success {
        status.completion_time = Some(now.clone());
    }
}

/// Tells whether a Job is suspended, and that if it is news. A Job that goes on begins anew.
fn suspend(status: &mut JobStatus, suspended: bool, now: &Time) -> Option<bool> {
    let (reason, message) =
        if suspended { ("JobSuspended", "Job suspended") } else { ("JobResumed", "Job resumed") };
    if !set(status, "Suspended", suspended, reason, message, now) {
        return None;
    }
    status.start_time = (!suspended).then(|| now.clone());
    Some(suspended)
}

/// Sets a condition; tells whether that is news. One that was never true is not there.
fn set(status: &mut JobStatus, kind: &str, holds: bool, reason: &str, message: &str, now: &Time) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    let word = if holds { "True" } else { "False" };
    let known = conditions.iter().position(|condition| condition.type_ == kind);
    let is_news = known.map_or(holds, |known| conditions[known].status != word);
    if is_news {
        conditions.retain(|condition| condition.type_ != kind);
        conditions.push(JobCondition {
            type_: kind.to_owned(),
            status: word.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(now.clone()),
            last_transition_time: Some(now.clone()),
        });
    }
    if conditions.is_empty() {
        status.conditions = None;
    }
    is_news
}

/// The merge patch that makes one value another.
fn difference(before: &Value, after: &Value) -> Option<Value> {
    if before == after {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (before, after) else { return Some(after.clone()) };
    let gone = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = new.iter().filter_map(|(key, value)| {
        let difference = difference(old.get(key).unwrap_or(&Value::Null), value)?;
        Some((key.clone(), difference))
    });
    Some(Value::Object(gone.chain(changed).collect::<Map<_, _>>()))
}
