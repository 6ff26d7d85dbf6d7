//! One pod, kept as its object says, by one task.
//!
//! The task is woken by changes of the object, by the ends of containers and by probes; it looks at what is there and
//! does what is missing. It holds no plan across two wakings, so that it can begin anywhere: after a restart of the
//! agent it finds the containers by their labels and goes on.

mod adopt;
mod message;
mod publish;
mod pull;
mod setup;
pub(crate) mod slot;
mod start;
mod status;
mod stop;

pub(crate) use stop::remove_left_overs;

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dray_engine::SandboxRecord;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::admission::{Place, Rejection};
use crate::context::Context;
use crate::identity::PodIdentity;
use crate::probe::schedule::{Purpose, Report};
use crate::recorder::Severity;
use crate::spec::environment::Addresses;
use crate::volume::Volumes;
use slot::{Background, Backoff, Role, Slot, Waiting};

/// Reports of probes that wait for the pod's task.
const REPORTS: usize = 16;
/// The pause before something that the API server refused is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a pod has to end without a word about it, in seconds.
const GRACE: i64 = 30;
/// More rounds than this without an outside event are a bug.
const ROUNDS: usize = 64;

/// What the cluster wants of a pod.
#[derive(Clone)]
pub(crate) struct Desired {
    pub(crate) pod: Arc<Pod>,
    /// The object is gone.
    pub(crate) deleted: bool,
}

impl Desired {
    /// Whether the pod is to end.
    pub(crate) fn is_ending(&self) -> bool {
        self.deleted || self.pod.metadata.deletion_timestamp.is_some()
    }
}

/// Wakes a pod's task.
#[derive(Default)]
pub(crate) struct Waker {
    notify: Notify,
    /// Something that a volume shows has changed.
    volumes: AtomicBool,
}

impl Waker {
    pub(crate) fn wake(&self) {
        self.notify.notify_one();
    }

    pub(crate) fn volumes_changed(&self) {
        self.volumes.store(true, Ordering::SeqCst);
        self.notify.notify_one();
    }
}

/// Why a pod has failed as a whole.
#[derive(Clone, Debug)]
struct Verdict {
    reason: Cow<'static, str>,
    message: String,
}

/// The task of one pod.
pub(crate) struct Worker {
    context: Arc<Context>,
    identity: PodIdentity,
    desired: watch::Receiver<Desired>,
    waker: Arc<Waker>,
    /// The pod's files.
    directory: PathBuf,
    pod: Arc<Pod>,
    addresses: Addresses,
    sandbox: Option<SandboxRecord>,
    volumes: Option<Volumes>,
    slots: Vec<Slot>,
    /// The specifications of ephemeral containers, in the order they were added.
    ephemeral: Vec<Container>,
    /// The init containers are done, once.
    initialized: bool,
    was_running: bool,
    terminating: bool,
    /// Since when the pod is being ended.
    ending_since: Option<Instant>,
    /// Every container has ended for good, and what they shared is taken away.
    finished: bool,
    verdict: Option<Verdict>,
    /// What it holds of the node; none once it has ended, or when it was never taken in.
    place: Option<Place>,
    start_time: Time,
    /// Why namespaces or volumes could not be made, and when that is tried again.
    setup_retry: Option<Instant>,
    setup_backoff: Backoff,
    reports: mpsc::Receiver<Report>,
    report_sender: mpsc::Sender<Report>,
    sent: Option<PodStatus>,
    /// The revision that holds what was sent.
    sent_revision: u64,
    send_again: Option<Instant>,
    watches: Vec<Background>,
}

/// The earliest of several times.
#[derive(Default)]
struct Next(Option<Instant>);

impl Next {
    fn at(&mut self, time: Instant) {
        self.0 = Some(self.0.map_or(time, |earlier| earlier.min(time)));
    }
}

impl Worker {
    /// The task of a pod that has its place on the node; of one without a place nothing is made.
    pub(crate) fn new(
        context: Arc<Context>,
        desired: watch::Receiver<Desired>,
        waker: Arc<Waker>,
        place: Option<Place>,
    ) -> Self {
        let pod = Arc::clone(&desired.borrow().pod);
        let identity = PodIdentity::of(&pod);
        let directory = context.pod_directory(&identity.uid);
        let (report_sender, reports) = mpsc::channel(REPORTS);
        let started = pod.status.as_ref().and_then(|status| status.start_time.clone());
        let slots = pod.spec.as_ref().map(Slot::all).unwrap_or_default();
        Self {
            identity,
            desired,
            waker,
            directory,
            addresses: Addresses { pod: String::new(), host: context.config.node_address.to_string() },
            context,
            pod,
            sandbox: None,
            volumes: None,
            slots,
            ephemeral: Vec::new(),
            initialized: false,
            was_running: false,
            terminating: false,
            ending_since: None,
            finished: false,
            verdict: None,
            place,
            start_time: started.unwrap_or_else(|| Time(jiff::Timestamp::now())),
            setup_retry: None,
            setup_backoff: Backoff::default(),
            reports,
            report_sender,
            sent: None,
            sent_revision: 0,
            send_again: None,
            watches: Vec::new(),
        }
    }

    /// Has the pod fail before anything is made of it.
    pub(crate) fn reject(mut self, rejection: Rejection) -> Self {
        let Rejection { reason, message } = rejection;
        self.context.recorder.pod(&self.identity, None, Severity::Warning, reason.clone(), message.clone());
        let message = format!("Pod was rejected: {message}");
        self.verdict = Some(Verdict { reason: reason.into(), message });
        self
    }

    /// Keeps the pod until it is gone.
    pub(crate) async fn run(mut self) {
        self.note_ephemeral();
        self.adopt().await;
        loop {
            let desired = self.desired.borrow_and_update().clone();
            self.pod = Arc::clone(&desired.pod);
            self.note_ephemeral();
            if desired.is_ending() {
                self.terminate().await;
                return;
            }
            let mut next = Next::default();
            if self.finished {
                // What its containers did is written down, and told unless the server was away; they stay for their
                // logs.
                if self.send_again.is_some() {
                    self.publish().await;
                }
            } else {
                tracing::debug!(pod = self.identity.full_name(), "looking at a pod");
                self.sync(&mut next).await;
                tracing::debug!(pod = self.identity.full_name(), "did what was missing");
                self.publish().await;
                tracing::debug!(pod = self.identity.full_name(), "told how the pod is");
                if self.watches.is_empty() && !self.finished {
                    self.watch_configuration();
                }
            }
            if let Some(again) = self.send_again {
                next.at(again);
            }
            let until = next.0;
            let sleep = async move {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let mut refresh = false;
            tokio::select! {
                changed = self.desired.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    refresh = true;
                }
                () = self.waker.notify.notified() => {}
                Some(report) = self.reports.recv() => self.note_report(&report),
                () = sleep => {}
            }
            refresh |= self.waker.volumes.swap(false, Ordering::SeqCst);
            if refresh {
                self.refresh_volumes().await;
            }
        }
    }

    fn restart_policy(&self) -> &str {
        self.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
    }

    fn container(&self, slot: &Slot) -> Option<&Container> {
        let spec = self.pod.spec.as_ref()?;
        match slot.role {
            Role::Init | Role::Sidecar => spec.init_containers.as_ref()?.get(slot.index),
            Role::Main => spec.containers.get(slot.index),
            Role::Ephemeral => self.ephemeral.get(slot.index),
        }
    }

    /// Takes up the containers that were added to look into the pod.
    fn note_ephemeral(&mut self) {
        let spec = self.pod.spec.as_ref();
        let added = spec.into_iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
        for container in added.skip(self.ephemeral.len()) {
            // Both kinds have the same fields, but for the one that names whom to look into.
            let same = serde_json::to_value(container).and_then(serde_json::from_value::<Container>);
            let Ok(same) = same else { continue };
            self.slots.push(Slot::new(&same.name, Role::Ephemeral, self.ephemeral.len()));
            self.ephemeral.push(same);
        }
    }

    /// How long the pod may take to end.
    fn grace(&self) -> Duration {
        let seconds = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        Duration::from_secs(u64::try_from(seconds.unwrap_or(GRACE)).unwrap_or(1))
    }

    fn policy_of(&self, slot: &Slot) -> String {
        let own = self.container(slot).and_then(|container| container.restart_policy.clone());
        own.unwrap_or_else(|| self.restart_policy().to_owned())
    }

    /// Does what is missing.
    async fn sync(&mut self, next: &mut Next) {
        for _ in 0..ROUNDS {
            self.observe().await;
            self.check_deadline(next);
            if self.verdict.is_some() {
                self.stop_all();
                break;
            }
            self.replace_changed();
            let due = self.due(next);
            if due.is_empty() || !self.set_up(next).await {
                break;
            }
            self.start_all(&due).await;
        }
        self.was_running |= self.slots.iter().any(|slot| slot.role == Role::Main && slot.is_running());
        if self.is_over() {
            let companions_run = self.slots.iter().any(Slot::is_running);
            if companions_run {
                self.stop_all();
            } else {
                self.finish().await;
            }
        }
    }

    async fn observe(&mut self) {
        let engine = self.context.engine.clone();
        for slot in &mut self.slots {
            slot.observe(&engine).await;
        }
    }

    fn check_deadline(&mut self, next: &mut Next) {
        let seconds = self.pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        let Some(seconds) = seconds.and_then(|seconds| u64::try_from(seconds).ok()) else { return };
        let age = jiff::Timestamp::now().duration_since(self.start_time.0);
        let age = Duration::try_from(age).unwrap_or_default();
        match Duration::from_secs(seconds).checked_sub(age).filter(|left| !left.is_zero()) {
            Some(left) => next.at(Instant::now() + left),
            None if self.verdict.is_none() => {
                let message = "Pod was active on the node longer than the specified deadline".to_owned();
                self.tell(Severity::Normal, "DeadlineExceeded", message.clone());
                self.verdict = Some(Verdict { reason: "DeadlineExceeded".into(), message });
            }
            None => {}
        }
    }

    fn tell(&self, severity: Severity, reason: &'static str, message: impl Into<String>) {
        self.context.recorder.pod(&self.identity, None, severity, reason, message);
    }

    /// Stops containers whose image is no longer the one that is wanted.
    fn replace_changed(&mut self) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            let (Some(current), Some(container)) = (&slot.current, self.container(slot)) else { continue };
            let wanted = container.image.as_deref().unwrap_or_default();
            if slot.is_running() && slot.stopping.is_none() && current.handle.record().spec.image != wanted {
                let message = format!("Container {} definition changed, will be restarted", slot.name);
                self.stop_one(index, self.grace(), message);
            }
        }
    }

    /// The slots to start now.
    fn due(&mut self, next: &mut Next) -> Vec<usize> {
        let mut due = Vec::new();
        let mut may_go_on = true;
        let main_over = self.main_is_over();
        for index in 0..self.slots.len() {
            let role = self.slots[index].role;
            if matches!(role, Role::Main | Role::Ephemeral) || !may_go_on {
                continue;
            }
            match role {
                Role::Sidecar => {
                    if !main_over && self.is_due(index, next) {
                        due.push(index);
                    }
                    let slot = &self.slots[index];
                    may_go_on = self.initialized || (slot.is_running() && slot.started);
                }
                Role::Init if !self.initialized => {
                    let done = self.slots[index].ended().is_some_and(|ended| ended.exit_code == 0);
                    if !done {
                        if self.is_due(index, next) {
                            due.push(index);
                        }
                        may_go_on = false;
                    }
                }
                Role::Init | Role::Main | Role::Ephemeral => {}
            }
        }
        if may_go_on {
            self.initialized = true;
        }
        if self.initialized {
            for index in 0..self.slots.len() {
                let wanted = match self.slots[index].role {
                    Role::Main => true,
                    Role::Ephemeral => !main_over && self.was_running,
                    Role::Init | Role::Sidecar => false,
                };
                if wanted && self.is_due(index, next) {
                    due.push(index);
                }
            }
        }
        due
    }

    /// Whether a slot is to be started now; notes why not, and until when.
    fn is_due(&mut self, index: usize, next: &mut Next) -> bool {
        let policy = self.policy_of(&self.slots[index]);
        let full_name = self.identity.full_name();
        let now = Instant::now();
        let image = self.container(&self.slots[index]).and_then(|container| container.image.clone());
        let slot = &mut self.slots[index];
        if slot.stopping.is_some() || (slot.current.is_some() && slot.ended().is_none()) {
            return false;
        }
        if let Some(ended) = slot.ended()
            && !slot.wants_restart(&policy, ended.exit_code)
        {
            return false;
        }
        if let Some(at) = slot.retry_at.filter(|at| *at > now) {
            let image = image.unwrap_or_default();
            let arrived = slot.awaits_image && self.context.engine.images().resolve(&image).is_ok();
            if arrived {
                return true;
            }
            next.at(at);
            back_off_image(slot, &image, next);
            return false;
        }
        let Some(ended_at) = slot.current.as_ref().and_then(|current| current.ended_at) else { return true };
        let pause = slot.crashes.pause();
        let until = ended_at + pause;
        if until <= now {
            return true;
        }
        next.at(until);
        let name = slot.name.clone();
        slot.waiting = Some(Waiting {
            reason: "CrashLoopBackOff",
            message: format!(
                "back-off {} restarting failed container={name} pod={full_name}",
                go_duration(pause)
            ),
        });
        if !std::mem::replace(&mut slot.crash_told, true) {
            let place = Some((slot.role.list(), name.as_str()));
            let message = format!("Back-off restarting failed container {name} in pod {full_name}");
            self.context.recorder.pod(&self.identity, place, Severity::Warning, "BackOff", message);
        }
        false
    }

    /// Whether every main container has ended and stays so.
    fn main_is_over(&self) -> bool {
        self.initialized
            && self.slots.iter().filter(|slot| slot.role == Role::Main).all(|slot| {
                slot.ended().is_some_and(|ended| {
                    slot.stopping.is_none() && !slot.wants_restart(&self.policy_of(slot), ended.exit_code)
                })
            })
    }

    /// Whether the pod has done what it was for, or failed at it.
    fn is_over(&self) -> bool {
        let init_failed = !self.initialized
            && self.slots.iter().any(|slot| {
                slot.role == Role::Init
                    && slot.ended().is_some_and(|ended| {
                        ended.exit_code != 0 && !slot.wants_restart(self.restart_policy(), ended.exit_code)
                    })
            });
        self.verdict.is_some() || init_failed || self.main_is_over()
    }

    /// Takes away what the containers shared. They themselves stay for their logs.
    async fn finish(&mut self) {
        self.finished = true;
        self.watches.clear();
        // Who hears that it is over may send the next one at once.
        self.place = None;
        self.publish().await;
        self.take_down().await;
    }

    fn note_report(&mut self, report: &Report) {
        let found = self.slots.iter().position(|slot| {
            slot.is_running()
                && slot
                    .current
                    .as_ref()
                    .is_some_and(|current| current.handle.record().id.to_string() == report.container)
        });
        let Some(index) = found else { return };
        match (report.purpose, report.passed) {
            (Purpose::Readiness, passed) => self.slots[index].ready = passed,
            (Purpose::Startup, true) => {
                self.slots[index].started = true;
                // The task that reported is one of those replaced; it has nothing left to do.
                self.begin_probes(index, Duration::ZERO);
            }
            (Purpose::Liveness, true) => {}
            (Purpose::Startup | Purpose::Liveness, false) => {
                if self.slots[index].stopping.is_some() {
                    return;
                }
                let slot = &self.slots[index];
                let container = self.container(slot);
                let probe = container.and_then(|container| match report.purpose {
                    Purpose::Startup => container.startup_probe.as_ref(),
                    _ => container.liveness_probe.as_ref(),
                });
                let grace = probe
                    .and_then(|probe| probe.termination_grace_period_seconds)
                    .and_then(|seconds| u64::try_from(seconds).ok())
                    .map_or_else(|| self.grace(), Duration::from_secs);
                let word = if report.purpose == Purpose::Startup { "startup" } else { "liveness" };
                let message = format!("Container {} failed {word} probe, will be restarted", slot.name);
                self.stop_one(index, grace, message);
            }
        }
    }

    /// The pod's address, for probes and forwarded ports.
    fn set_address(&mut self, address: Option<IpAddr>) {
        self.addresses.pod = address.map(|address| address.to_string()).unwrap_or_default();
    }
}

/// From the second look on, a missing image is a pause and no error.
fn back_off_image(slot: &mut Slot, image: &str, next: &mut Next) {
    let Some(waiting) = &mut slot.waiting else { return };
    if waiting.reason != "ErrImagePull" {
        return;
    }
    let seen_for = Duration::from_secs(1);
    let since = slot.retry_at.map(|at| at - slot.retries.pause());
    if let Some(since) = since.filter(|since| since.elapsed() < seen_for) {
        next.at(since + seen_for);
        return;
    }
    waiting.message = format!("Back-off pulling image {image:?}: ErrImagePull: {}", waiting.message);
    waiting.reason = "ImagePullBackOff";
}

/// A duration to the millisecond, as Go prints it: "317ms", "1.204s".
fn go_milliseconds(duration: Duration) -> String {
    match duration.as_millis() {
        short @ 0..1000 => format!("{short}ms"),
        _ => format!("{:.3}s", duration.as_secs_f64()),
    }
}

/// A duration as Go prints it: "10s", "2m40s".
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}
