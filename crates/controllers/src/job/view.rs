//! A Job and its pods as they are at one moment: how many count, and whether that is the end. It does no I/O and changes
//! nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};

use super::backoff::{Backoff, ended_at};
use super::failure::{self, Action};
use super::indexes::Indexes;
use super::pod::{self, TRACKING};
use crate::model::Pod;

/// How a Job ends, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) success: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Verdict {
    fn failure(reason: &str, message: impl Into<String>) -> Verdict {
        Verdict { success: false, reason: reason.to_owned(), message: message.into() }
    }

    pub(super) fn completed() -> Verdict {
        let message = "Reached expected number of succeeded pods".to_owned();
        Verdict { success: true, reason: "CompletionsReached".to_owned(), message }
    }

    /// The condition that tells it before all pods are counted.
    pub(super) fn interim(&self) -> &'static str {
        if self.success { "SuccessCriteriaMet" } else { "FailureTarget" }
    }

    /// The condition that tells it at the end.
    pub(super) fn last(&self) -> &'static str {
        if self.success { "Complete" } else { "Failed" }
    }
}

/// The condition of a kind that holds.
pub(super) fn holding<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    let conditions = status.conditions.iter().flatten();
    conditions.into_iter().find(|condition| condition.type_ == kind && condition.status == "True")
}

/// The condition that says that a Job has ended.
pub(crate) fn finished(job: &Job) -> Option<&JobCondition> {
    let status = job.status.as_ref()?;
    holding(status, "Complete").or_else(|| holding(status, "Failed"))
}

/// A Job and its pods.
pub(super) struct View<'a> {
    pub(super) spec: &'a JobSpec,
    pub(super) status: &'a JobStatus,
    pub(super) now: Timestamp,
    /// Whether the Job is being deleted.
    pub(super) is_ending: bool,
    pub(super) pods: Vec<Arc<Pod>>,
    pub(super) active: Vec<Arc<Pod>>,
    pub(super) succeeded: i32,
    failed: i32,
    pub(super) ready: i32,
    pub(super) terminating: i32,
    /// The indexes that the status says are done.
    pub(super) done_before: Indexes,
    pub(super) done: Indexes,
    /// Where indexes fail one by one.
    pub(super) failed_indexes: Option<Indexes>,
    /// The last failed pod of an index that waits to be made again.
    pub(super) delayed: BTreeMap<i32, Arc<Pod>>,
    pub(super) backoff: Backoff,
    uncounted: Uncounted,
    /// The pods that were let go, as their uids, where that has not been seen yet.
    lifted: &'a HashSet<String>,
}

#[derive(Debug, Default)]
struct Uncounted {
    succeeded: HashSet<String>,
    failed: HashSet<String>,
}

impl<'a> View<'a> {
    pub(super) fn new(
        spec: &'a JobSpec,
        status: &'a JobStatus,
        pods: Vec<Arc<Pod>>,
        lifted: &'a HashSet<String>,
        backoff: Backoff,
        now: Timestamp,
        is_ending: bool,
    ) -> View<'a> {
        let waiting = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let uncounted = Uncounted {
            succeeded: waiting.succeeded.unwrap_or_default().into_iter().collect(),
            failed: waiting.failed.unwrap_or_default().into_iter().collect(),
        };
        let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| pod.is_active()).cloned().collect();
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let mut view = View {
            ready: number(active.iter().filter(|pod| pod.is_ready()).count()),
            terminating: number(pods.iter().filter(|pod| pod.is_terminating() && !pod.is_finished()).count()),
            succeeded: status.succeeded.unwrap_or(0).saturating_add(number(uncounted.succeeded.len())),
            failed: status.failed.unwrap_or(0).saturating_add(number(uncounted.failed.len())),
            done_before: Indexes::default(),
            done: Indexes::default(),
            failed_indexes: None,
            delayed: BTreeMap::new(),
            spec,
            status,
            now,
            is_ending,
            pods,
            active,
            backoff,
            uncounted,
            lifted,
        };
        view.count();
        view
    }

    pub(super) fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    fn completions(&self) -> i32 {
        self.spec.completions.unwrap_or(0)
    }

    /// The index of a pod, if the Job has such a one.
    pub(super) fn index(&self, pod: &Pod) -> Option<i32> {
        pod::index(pod).filter(|index| *index < self.completions())
    }

    /// Whether a pod waits to be counted, as far as is known.
    pub(super) fn is_tracked(&self, pod: &Pod) -> bool {
        pod.has_finalizer(TRACKING) && !self.lifted.contains(uid(pod))
    }

    /// Whether a pod can count at all.
    fn is_valid(&self, pod: &Pod) -> bool {
        self.is_tracked(pod) && (!self.is_indexed() || self.index(pod).is_some())
    }

    pub(super) fn is_uncounted_success(&self, pod: &Pod) -> bool {
        self.uncounted.succeeded.contains(uid(pod))
    }

    pub(super) fn is_uncounted_failure(&self, pod: &Pod) -> bool {
        self.uncounted.failed.contains(uid(pod))
    }

    fn count(&mut self) {
        let (mut succeeded, mut failed, mut counted) = (Vec::new(), Vec::new(), 0);
        for pod in self.pods.iter().filter(|pod| self.is_valid(pod)) {
            if pod.status.phase == "Succeeded" && !self.is_uncounted_success(pod) {
                succeeded.push(ended_at(pod, self.now));
            } else if failure::has_failed(self.spec, pod) && !self.is_uncounted_failure(pod) {
                failed.push(ended_at(pod, self.now));
                counted += i32::from(failure::counts(self.spec, pod));
            }
        }
        self.succeeded = self.succeeded.saturating_add(i32::try_from(succeeded.len()).unwrap_or(i32::MAX));
        self.failed = self.failed.saturating_add(counted);
        self.backoff = self.backoff.after(&succeeded, &failed);
        if self.is_indexed() {
            self.count_indexes();
        }
    }

    fn count_indexes(&mut self) {
        let end = self.completions();
        self.done_before = Indexes::parse(self.status.completed_indexes.as_deref().unwrap_or_default(), end);
        self.done = self.done_before.with(&self.indexes_of(|pod| pod.status.phase == "Succeeded"));
        self.succeeded = self.done.count();
        let Some(limit) = self.spec.backoff_limit_per_index else { return };
        let given_up = |pod: &Pod| {
            failure::has_failed(self.spec, pod)
                && match failure::action(self.spec, pod) {
                    Some(Action::FailIndex) => true,
                    Some(Action::Ignore) => false,
                    _ => pod::failures_before(pod) >= u32::try_from(limit).unwrap_or(0),
                }
        };
        let before = Indexes::parse(self.status.failed_indexes.as_deref().unwrap_or_default(), end);
        let more =
            self.indexes_of(given_up).into_iter().filter(|index| !self.done.contains(*index)).collect();
        let failed = before.with(&more);
        let active: HashSet<i32> = self.active.iter().filter_map(|pod| self.index(pod)).collect();
        let mut delayed: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
        for pod in self.pods.iter().filter(|pod| self.is_valid(pod) && failure::has_failed(self.spec, pod)) {
            let Some(index) = self.index(pod) else { continue };
            if self.done.contains(index) || failed.contains(index) || active.contains(&index) {
                continue;
            }
            let rank = |pod: &Pod| (pod::all_failures_before(pod), ended_at(pod, self.now));
            if delayed.get(&index).is_none_or(|other| rank(other) <= rank(pod)) {
                delayed.insert(index, pod.clone());
            }
        }
        self.failed_indexes = Some(failed);
        self.delayed = delayed;
    }

    /// The indexes of some of the pods that count.
    fn indexes_of(&self, keep: impl Fn(&Pod) -> bool) -> BTreeSet<i32> {
        let pods = self.pods.iter().filter(|pod| self.is_valid(pod) && keep(pod));
        pods.filter_map(|pod| self.index(pod)).collect()
    }

    /// Whether its status says already how the Job is to end.
    pub(super) fn is_decided(&self) -> bool {
        ["SuccessCriteriaMet", "FailureTarget"].iter().any(|kind| holding(self.status, kind).is_some())
    }

    /// How the Job ends, if that is decided but for the success of all that was asked for.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        for (kind, success) in [("SuccessCriteriaMet", true), ("FailureTarget", false)] {
            if let Some(condition) = holding(self.status, kind) {
                let reason = condition.reason.clone().unwrap_or_default();
                return Some(Verdict {
                    success,
                    reason,
                    message: condition.message.clone().unwrap_or_default(),
                });
            }
        }
        self.failure().or_else(|| {
            let policy = self.spec.success_policy.as_ref().filter(|_| self.is_indexed())?;
            let message = failure::succeeds(policy, self.completions(), &self.done)?;
            Some(Verdict { success: true, reason: "SuccessPolicy".to_owned(), message })
        })
    }

    fn failure(&self) -> Option<Verdict> {
        let failed = self.pods.iter().filter(|pod| failure::has_failed(self.spec, pod));
        let mut told = failed.filter_map(|pod| match failure::action(self.spec, pod) {
            Some(Action::FailJob(message)) => Some(message),
            _ => None,
        });
        if let Some(message) = told.next() {
            return Some(Verdict::failure("PodFailurePolicy", message));
        }
        if self.failed > self.spec.backoff_limit.unwrap_or(6)
            || failure::restarted_too_often(self.spec, &self.pods)
        {
            let message = "Job has reached the specified backoff limit";
            return Some(Verdict::failure("BackoffLimitExceeded", message));
        }
        if self.until_deadline().is_some_and(|left| left.is_zero()) {
            let message = "Job was active longer than specified deadline";
            return Some(Verdict::failure("DeadlineExceeded", message));
        }
        let failed = self.failed_indexes.as_ref()?.count();
        if self.spec.max_failed_indexes.is_some_and(|most| failed > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Verdict::failure("MaxFailedIndexesExceeded", message));
        }
        if failed > 0 && failed.saturating_add(self.done.count()) >= self.completions() {
            return Some(Verdict::failure("FailedIndexes", "Job has failed indexes"));
        }
        None
    }

    /// How long the Job may go on, if that is limited.
    pub(super) fn until_deadline(&self) -> Option<Duration> {
        let allowed = SignedDuration::from_secs(self.spec.active_deadline_seconds?);
        let start = self.status.start_time.as_ref().filter(|_| !self.is_suspended())?.0;
        let left = allowed.saturating_sub(self.now.duration_since(start));
        Some(left.max(SignedDuration::ZERO).unsigned_abs())
    }

    /// How many pods are to run.
    pub(super) fn wanted(&self) -> usize {
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let wanted = match self.spec.completions {
            None if self.succeeded > 0 => return self.active.len(),
            None => parallelism,
            Some(completions) => completions.saturating_sub(self.succeeded).min(parallelism),
        };
        usize::try_from(wanted).unwrap_or(0)
    }

    /// Whether all that was asked for is done, when so many pods are still active.
    pub(super) fn is_complete(&self, active: usize) -> bool {
        let enough = self.spec.completions.map_or(self.succeeded > 0, |wanted| self.succeeded >= wanted);
        enough && active == 0
    }

    /// The first indexes, at most so many, that nobody works on or has worked on.
    pub(super) fn pending(&self, most: usize) -> Vec<i32> {
        let end = failure::waits_for_end(self.spec);
        let busy = self
            .pods
            .iter()
            .filter(|pod| pod.is_active() || (end && pod.is_terminating() && !pod.is_finished()));
        let busy: HashSet<i32> = busy.filter_map(|pod| self.index(pod)).collect();
        let is_free = |index: &i32| {
            !busy.contains(index)
                && !self.done.contains(*index)
                && !self.failed_indexes.as_ref().is_some_and(|failed| failed.contains(*index))
        };
        (0..self.completions()).filter(is_free).take(most).collect()
    }

    /// How long until an index may be tried again.
    pub(super) fn index_delay(&self, index: i32) -> Duration {
        self.delayed.get(&index).map_or(Duration::ZERO, |failed| {
            let failures = pod::all_failures_before(failed).saturating_add(1);
            Backoff::new(failures, ended_at(failed, self.now)).left(self.now)
        })
    }
}

/// A pod's uid.
pub(super) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}
