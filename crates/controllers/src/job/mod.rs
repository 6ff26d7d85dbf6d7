//! Jobs: pods until enough of them have succeeded, or too many have failed. What has ended is counted once and for all: a
//! pod is kept by a finalizer until the status that counts it is written. It must not know who makes Jobs.

mod backoff;
mod failure;
mod indexes;
mod manage;
pub(crate) mod orphans;
mod pod;
mod status;
pub(crate) mod ttl;
mod view;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use kube::Client;
use parking_lot::Mutex;

use crate::error::Result;
use crate::events::Recorder;
use crate::expectations;
use crate::informer::{Change, Informer};
use crate::key::ObjectKey;
use crate::labels::Selector;
use crate::model::Pod;
use crate::owner;
use crate::pods::{Owner, PodControl};
use crate::queue::{Again, Queue};

use backoff::Backoff;
pub(crate) use view::finished;
use view::{Verdict, View};

/// So many Jobs are looked at at the same time.
const WIDTH: usize = 16;
/// Who sees to a Job that names nobody.
const MANAGER: &str = "kubernetes.io/job-controller";
const COMPONENT: &str = "job-controller";

impl Owner for Job {
    const FINALIZER: Option<&'static str> = Some(pod::TRACKING);

    fn selector(&self) -> std::result::Result<Selector, String> {
        let spec =
            self.spec.as_ref().filter(|spec| is_ours(spec)).ok_or("it is somebody else's to manage")?;
        let selector = spec.selector.as_ref().map(Selector::new).ok_or("there is none")??;
        // An empty one would take every pod.
        if selector.is_everything() { Err("it is empty".to_owned()) } else { Ok(selector) }
    }
}

/// Whether a Job is not left to another controller.
fn is_ours(spec: &JobSpec) -> bool {
    spec.managed_by.as_deref().is_none_or(|manager| manager == MANAGER)
}

/// What is remembered of a Job between two looks.
#[derive(Debug, Clone, Default)]
struct Memory {
    /// The pods that were let go, as their uids, until that has been seen.
    lifted: HashSet<String>,
    backoff: Backoff,
}

/// The controller of Jobs.
pub(crate) struct Jobs {
    client: Client,
    queue: Arc<Queue<ObjectKey>>,
    control: PodControl<Job>,
    recorder: Recorder,
    /// By the Jobs' uids.
    memories: Arc<Mutex<HashMap<String, Memory>>>,
}

impl Jobs {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(
        client: Client,
        jobs: &Arc<Informer<Job>>,
        pods: Arc<Informer<Pod>>,
        recorder: &Recorder,
    ) -> Jobs {
        let queue = Queue::new("jobs");
        let recorder = recorder.of(COMPONENT);
        let memories = Arc::new(Mutex::new(HashMap::<String, Memory>::new()));
        jobs.on_change({
            let memories = memories.clone();
            move |change| {
                if let Change::Deleted(job) = change {
                    memories.lock().remove(owner::uid(&***job));
                }
            }
        });
        let control = PodControl::new(client.clone(), jobs.clone(), pods, &queue, recorder.clone());
        Jobs { client, queue, control, recorder, memories }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.control.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let Some(job) = self.control.owner(&key) else { return Ok(None) };
        let Some(spec) = job.spec.as_ref().filter(|spec| is_ours(spec)) else { return Ok(None) };
        if finished(&job).is_some() {
            self.memories.lock().remove(owner::uid(&*job));
            return Ok(None);
        }
        let settled = self.control.is_settled(&job);
        let pods = self.control.claim(&job).await?;
        let memory = self.remember(&job, &pods);
        let now = status::now();
        let mut before = job.status.clone().unwrap_or_default();
        if before.start_time.is_none() && spec.suspend != Some(true) {
            before.start_time = Some(now.clone());
        }
        let ending = owner::is_terminating(&*job);
        let view = View::new(spec, &before, pods, &memory.lifted, memory.backoff, Timestamp::now(), ending);
        let mut outcome = match view.verdict() {
            Some(verdict) => self.end(&job, &view, verdict, settled).await,
            None => self.go_on(&job, &view, settled).await,
        };
        let failure = outcome.failure.take();
        let again = outcome.again;
        self.write(&job, &view, outcome, &now).await?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        let deadline = view.until_deadline().filter(|left| !left.is_zero());
        let again = again.into_iter().chain(deadline).min();
        Ok(again.or((!settled).then_some(expectations::TIMEOUT)))
    }

    /// What is remembered of a Job; forgets of pods what the watch has brought by now.
    fn remember(&self, job: &Job, pods: &[Arc<Pod>]) -> Memory {
        let mut memories = self.memories.lock();
        let Some(memory) = memories.get_mut(owner::uid(job)) else { return Memory::default() };
        if !memory.lifted.is_empty() {
            let kept: HashSet<&str> = pods
                .iter()
                .filter(|pod| pod.has_finalizer(pod::TRACKING))
                .map(|pod| view::uid(pod))
                .collect();
            memory.lifted.retain(|uid| kept.contains(uid.as_str()));
        }
        memory.clone()
    }

    /// Deletes what still runs of a Job whose end is decided. The decision is written down first: once the pods are gone
    /// nothing may tell of it any more.
    async fn end(&self, job: &Job, view: &View<'_>, verdict: Verdict, settled: bool) -> Outcome {
        if !view.active.is_empty() && !view.is_decided() {
            return Outcome {
                active: view.active.len(),
                terminating: view.terminating,
                decision: Some(verdict).filter(|_| settled),
                ..Outcome::default()
            };
        }
        let failure =
            if view.active.is_empty() { None } else { self.control.delete(job, &view.active).await.err() };
        let deleted = if failure.is_none() { view.active.len() } else { 0 };
        Outcome {
            active: view.active.len() - deleted,
            terminating: view.terminating.saturating_add(i32::try_from(deleted).unwrap_or(i32::MAX)),
            // What is not known yet could still have to be counted.
            verdict: Some(verdict).filter(|_| settled && failure.is_none()),
            failure,
            ..Outcome::default()
        }
    }
}

/// What one look at a Job has led to.
#[derive(Debug, Default)]
struct Outcome {
    active: usize,
    terminating: i32,
    verdict: Option<Verdict>,
    /// How the Job is to end, while its pods still run.
    decision: Option<Verdict>,
    /// Whether the Job is suspended, where this look may say so.
    suspended: Option<bool>,
    failure: Option<crate::Error>,
    again: Again,
}
