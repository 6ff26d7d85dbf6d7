//! CronJobs: a Job at each time of a schedule. Each is woken at its next time and nothing looks in between. It must not know
//! how Jobs are run.

mod due;
mod history;
mod job;
mod schedule;
mod zone;

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, PartialObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use crate::error::{Error, Result};
use crate::events::{Recorder, Severity};
use crate::informer::{Change, Informer};
use crate::job::finished;
use crate::key::ObjectKey;
use crate::owner;
use crate::queue::{Again, Queue};

use schedule::Schedule;

/// So many CronJobs are looked at at the same time.
const WIDTH: usize = 8;

/// The controller of CronJobs.
pub(crate) struct CronJobs {
    client: Client,
    crons: Arc<Informer<CronJob>>,
    jobs: Arc<Informer<Job>>,
    queue: Arc<Queue<ObjectKey>>,
    recorder: Recorder,
}

/// A CronJob in the middle of being looked at.
struct Round<'a> {
    cron: &'a CronJob,
    spec: &'a CronJobSpec,
    /// As it is going to be written.
    status: CronJobStatus,
    now: Timestamp,
}

impl Round<'_> {
    fn active(&self) -> &[ObjectReference] {
        self.status.active.as_deref().unwrap_or_default()
    }

    fn is_active(&self, job: &Job) -> bool {
        self.active().iter().any(|active| active.uid == job.metadata.uid)
    }

    fn forget(&mut self, uid: Option<&str>) {
        if let Some(active) = &mut self.status.active {
            active.retain(|active| active.uid.as_deref() != uid);
        }
        self.status.active.take_if(|active| active.is_empty());
    }
}

impl CronJobs {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(
        client: Client,
        crons: Arc<Informer<CronJob>>,
        jobs: Arc<Informer<Job>>,
        recorder: &Recorder,
    ) -> CronJobs {
        let queue = Queue::new("cronjobs");
        crons.on_change({
            let queue = queue.clone();
            move |change| queue.add(ObjectKey::of(&**change.object()))
        });
        jobs.on_change({
            let queue = queue.clone();
            move |change: &Change<'_, Job>| {
                for job in std::iter::once(change.object()).chain(change.old()) {
                    if let Some(owner) = owner::controller(&**job).filter(|owner| owner.kind == "CronJob") {
                        let namespace = job.namespace().unwrap_or_default();
                        queue.add(ObjectKey::new(namespace, owner.name.clone()));
                    }
                }
            }
        });
        CronJobs { client, crons, jobs, queue, recorder: recorder.of("cronjob-controller") }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.crons.wait_complete().await;
        self.jobs.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let Some(cron) = self.crons.get(&key) else { return Ok(None) };
        let jobs = self.jobs.owned_by(owner::uid(&*cron));
        let status = cron.status.clone().unwrap_or_default();
        let mut round = Round { cron: &cron, spec: &cron.spec, status, now: Timestamp::now() };
        let started = async {
            self.follow(&mut round, &jobs).await?;
            if owner::is_terminating(&*cron) { Ok(None) } else { self.start_due(&mut round).await }
        };
        let started = started.await;
        for job in history::surplus(&cron.spec, &jobs) {
            self.delete(&mut round, &job.name_any(), job.metadata.uid.as_deref()).await?;
        }
        self.write(&round).await?;
        started
    }

    /// Takes over into the status what has become of the Jobs.
    async fn follow(&self, round: &mut Round<'_>, jobs: &[Arc<Job>]) -> Result<()> {
        for job in jobs {
            let end = finished(job);
            if let Some(end) = end.filter(|_| round.is_active(job)) {
                let message = format!("Saw completed job: {}, condition: {}", job.name_any(), end.type_);
                self.note(round, Severity::Normal, "SawCompletedJob", message);
                round.forget(job.metadata.uid.as_deref());
            } else if end.is_none() && !round.is_active(job) {
                self.take_unexpected(round, job).await?;
            }
            let completed = job.status.as_ref().and_then(|status| status.completion_time.clone());
            if end.is_some_and(|end| end.type_ == "Complete") && completed > round.status.last_successful_time
            {
                round.status.last_successful_time = completed;
            }
        }
        for active in round.active().to_vec() {
            if jobs.iter().any(|job| job.metadata.uid == active.uid) {
                continue;
            }
            // The watch may be slow to bring it.
            let name = active.name.clone().unwrap_or_default();
            let fresh = self.job_uid(round, &name).await?;
            if fresh.is_none() || fresh != active.uid {
                let message = format!("Active job went missing: {name}");
                self.note(round, Severity::Normal, "MissingJob", message);
                round.forget(active.uid.as_deref());
            }
        }
        Ok(())
    }

    /// A running Job that the status does not name: what is known of the status may be old.
    async fn take_unexpected(&self, round: &mut Round<'_>, job: &Job) -> Result<()> {
        let key = ObjectKey::of(round.cron);
        let crons = Api::<CronJob>::namespaced(self.client.clone(), &key.namespace);
        let fresh = crons.get_opt(&key.name).await.map_err(Error::request("read", "CronJob", &key))?;
        let known = fresh.and_then(|fresh| fresh.status?.active).unwrap_or_default();
        if known.iter().any(|active| active.uid == job.metadata.uid) {
            return Err(Error::Stale { object: key.to_string() });
        }
        let message = format!("Saw a job that the controller did not create or forgot: {}", job.name_any());
        self.note(round, Severity::Warning, "UnexpectedJob", message);
        Ok(())
    }

    /// Starts what is due, and tells when to look again.
    async fn start_due(&self, round: &mut Round<'_>) -> Result<Again> {
        let zone = match round.spec.time_zone.as_deref() {
            None => TimeZone::system(),
            Some(name) => match zone::zone(name) {
                Ok(zone) => zone,
                Err(error) => {
                    let message = format!("invalid timeZone: {name:?}: {error}");
                    self.note(round, Severity::Warning, "UnknownTimeZone", message);
                    return Ok(None);
                }
            },
        };
        if round.spec.suspend == Some(true) {
            return Ok(None);
        }
        let schedule = match Schedule::parse(&round.spec.schedule, zone) {
            Ok(schedule) => schedule,
            Err(wrong) => {
                let message = format!("unparseable schedule: {:?} : {wrong}", round.spec.schedule);
                self.note(round, Severity::Warning, "UnparseableSchedule", message);
                return Ok(None);
            }
        };
        let due = due::due(round.cron, &schedule, round.now);
        if due.too_many {
            let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.note(round, Severity::Warning, "TooManyMissedTimes", message.to_owned());
        }
        if let Some(time) = due.time {
            self.start(round, time).await?;
        }
        Ok(due.next.map(|next| {
            let left = next.duration_since(Timestamp::now()).max(SignedDuration::ZERO);
            left.unsigned_abs().max(Duration::from_millis(1))
        }))
    }

    /// Starts the Job of a time, unless there are reasons not to.
    async fn start(&self, round: &mut Round<'_>, time: Timestamp) -> Result<()> {
        let allowed = round.spec.starting_deadline_seconds.map(SignedDuration::from_secs);
        if allowed.is_some_and(|allowed| round.now.duration_since(time) > allowed) {
            let shown = time.strftime("%a, %d %b %Y %H:%M:%S +0000");
            let message = format!("Missed scheduled time to start a job: {shown}");
            self.note(round, Severity::Warning, "MissSchedule", message);
            return Ok(());
        }
        let name = job::name(round.cron, time);
        let started = round.active().iter().any(|active| active.name.as_ref() == Some(&name));
        if started || round.status.last_schedule_time == Some(Time(time)) {
            return Ok(());
        }
        match round.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !round.active().is_empty() => {
                let message =
                    "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.note(round, Severity::Normal, "JobAlreadyActive", message.to_owned());
                return Ok(());
            }
            Some("Replace") => {
                for active in round.active().to_vec() {
                    let name = active.name.unwrap_or_default();
                    self.delete(round, &name, active.uid.as_deref()).await?;
                }
            }
            _ => {}
        }
        self.create(round, time).await
    }

    async fn create(&self, round: &mut Round<'_>, time: Timestamp) -> Result<()> {
        let wanted = job::new(round.cron, round.spec, time);
        let key = ObjectKey::of(&wanted);
        let jobs = Api::<Job>::namespaced(self.client.clone(), &key.namespace);
        let made = jobs.create(&PostParams::default(), &wanted).await;
        let made = match made.map_err(Error::request("create", "Job", &key)) {
            Ok(made) => {
                self.note(round, Severity::Normal, "SuccessfulCreate", format!("Created job {}", key.name));
                made
            }
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            Err(error) if error.is_already_exists() => {
                let there = jobs.get(&key.name).await.map_err(Error::request("read", "Job", &key))?;
                if owner::controller_uid(&there) != owner::uid(round.cron) {
                    return Err(error);
                }
                // It was made before, and the status that says so was not written.
                there
            }
            Err(error) => {
                let message = format!("Error creating job: {}", error.message());
                self.note(round, Severity::Warning, "FailedCreate", message);
                return Err(error);
            }
        };
        if finished(&made).is_none() && !round.is_active(&made) {
            round.status.active.get_or_insert_default().push(job::reference(&made));
        }
        round.status.last_schedule_time = Some(Time(time));
        Ok(())
    }

    /// Deletes a Job; forgets one that is gone.
    async fn delete(&self, round: &mut Round<'_>, name: &str, uid: Option<&str>) -> Result<()> {
        let namespace = round.cron.namespace().unwrap_or_default();
        let jobs = Api::<PartialObjectMeta<Job>>::namespaced(self.client.clone(), &namespace);
        let preconditions = Preconditions { uid: uid.map(str::to_owned), resource_version: None };
        let parameters = DeleteParams::background().preconditions(preconditions);
        let key = ObjectKey::new(namespace, name);
        let deleted = jobs.delete(name, &parameters).await.map_err(Error::request("delete", "Job", &key));
        match deleted {
            Ok(_) => {
                self.note(round, Severity::Normal, "SuccessfulDelete", format!("Deleted job {name}"));
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                let message = format!("Deleted job: {}", error.message());
                self.note(round, Severity::Warning, "FailedDelete", message);
                return Err(error);
            }
        }
        round.forget(uid);
        Ok(())
    }

    /// The uid of the Job that has a name now.
    async fn job_uid(&self, round: &Round<'_>, name: &str) -> Result<Option<String>> {
        let namespace = round.cron.namespace().unwrap_or_default();
        let jobs = Api::<Job>::namespaced(self.client.clone(), &namespace);
        let fresh = jobs.get_metadata_opt(name).await;
        let fresh = fresh.map_err(Error::request("read", "Job", ObjectKey::new(namespace, name)))?;
        Ok(fresh.and_then(|job| job.metadata.uid))
    }

    async fn write(&self, round: &Round<'_>) -> Result<()> {
        if *round.cron.status.as_ref().unwrap_or(&CronJobStatus::default()) == round.status {
            return Ok(());
        }
        let key = ObjectKey::of(round.cron);
        let metadata = &round.cron.metadata;
        let patch = json!({
            "metadata": { "uid": metadata.uid, "resourceVersion": metadata.resource_version },
            "status": {
                "active": round.status.active,
                "lastScheduleTime": round.status.last_schedule_time,
                "lastSuccessfulTime": round.status.last_successful_time,
            },
        });
        let crons = Api::<PartialObjectMeta<CronJob>>::namespaced(self.client.clone(), &key.namespace);
        match crons.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(gone)) if gone.code == 404 => Ok(()),
            Err(error) => Err(Error::request("write the status of", "CronJob", key)(error)),
        }
    }

    fn note(&self, round: &Round<'_>, severity: Severity, reason: &'static str, message: String) {
        self.recorder.note(round.cron, severity, reason, message);
    }
}
