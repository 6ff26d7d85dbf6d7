//! One container of a pod through all its starts.

use std::sync::Arc;
use std::time::Duration;

use dray_engine::{ContainerHandle, Engine, Status};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The pause after the second crash; it doubles with each one.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// After so long without a crash the pauses are short again.
const FORGET: Duration = Duration::from_mins(10);

/// A task that ends with its owner.
pub(crate) struct Background(pub(crate) JoinHandle<()>);

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to its end before the next one.
    Init,
    /// Runs from before the main containers until after them.
    Sidecar,
    Main,
    /// Was added to the pod while it runs, to look into it; runs once.
    Ephemeral,
}

impl Role {
    /// The list of the specification that the container is in.
    pub(crate) fn list(self) -> &'static str {
        match self {
            Self::Init | Self::Sidecar => "initContainers",
            Self::Main => "containers",
            Self::Ephemeral => "ephemeralContainers",
        }
    }
}

/// Pauses between tries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    pause: Duration,
    advanced: Option<Instant>,
}

impl Backoff {
    /// The pause that holds now: none before the first try.
    pub(crate) fn pause(&self) -> Duration {
        self.pause
    }

    /// Notes a try; the next pause is longer.
    pub(crate) fn advance(&mut self) {
        if self.advanced.is_some_and(|at| at.elapsed() > FORGET) {
            self.pause = Duration::ZERO;
        }
        self.pause = if self.pause.is_zero() { FIRST_PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
        self.advanced = Some(Instant::now());
    }
}

/// Why a container does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// A container of the engine: one start of a slot.
pub(crate) struct Instance {
    pub(crate) handle: Arc<ContainerHandle>,
    pub(crate) attempt: u32,
    /// How it ended, once that is known.
    pub(crate) ended: Option<ContainerStateTerminated>,
    /// When the agent saw that it had ended.
    pub(crate) ended_at: Option<Instant>,
}

impl Instance {
    pub(crate) fn new(handle: Arc<ContainerHandle>, attempt: u32) -> Self {
        Self { handle, attempt, ended: None, ended_at: None }
    }

    pub(crate) fn id(&self) -> String {
        container_id(&self.handle)
    }
}

/// The container's id as statuses have it.
pub(crate) fn container_id(handle: &ContainerHandle) -> String {
    format!("dray://{}", handle.record().id)
}

/// One container of the pod.
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Its place in its list.
    pub(crate) index: usize,
    pub(crate) current: Option<Instance>,
    /// The start before, kept for its log.
    pub(crate) previous: Option<Arc<ContainerHandle>>,
    /// How the start before ended.
    pub(crate) last: Option<ContainerStateTerminated>,
    pub(crate) restarts: u32,
    pub(crate) waiting: Option<Waiting>,
    /// Starts as soon as its image is in the local store.
    pub(crate) awaits_image: bool,
    /// Before this, nothing is tried again.
    pub(crate) retry_at: Option<Instant>,
    /// Pauses between starts that did not come about.
    pub(crate) retries: Backoff,
    /// Pauses between crashes.
    pub(crate) crashes: Backoff,
    pub(crate) crash_told: bool,
    /// Passed its startup probe.
    pub(crate) started: bool,
    /// Passes its readiness probe.
    pub(crate) ready: bool,
    pub(crate) probes: Vec<Background>,
    pub(crate) stopping: Option<Background>,
}

impl Slot {
    pub(crate) fn new(name: &str, role: Role, index: usize) -> Self {
        Self {
            name: name.to_owned(),
            role,
            index,
            current: None,
            previous: None,
            last: None,
            restarts: 0,
            waiting: None,
            awaits_image: false,
            retry_at: None,
            retries: Backoff::default(),
            crashes: Backoff::default(),
            crash_told: false,
            started: false,
            ready: false,
            probes: Vec::new(),
            stopping: None,
        }
    }

    /// All slots of a pod: first the init containers, then the main ones.
    pub(crate) fn all(spec: &PodSpec) -> Vec<Self> {
        let init = spec.init_containers.iter().flatten().enumerate().map(|(index, container)| {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            Self::new(&container.name, if sidecar { Role::Sidecar } else { Role::Init }, index)
        });
        let main = spec.containers.iter().enumerate().map(|(index, c)| Self::new(&c.name, Role::Main, index));
        init.chain(main).collect()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.current.as_ref().is_some_and(|current| {
            current.ended.is_none() && current.handle.record().state.status == Status::Running
        })
    }

    /// How the newest start ended, when it has.
    pub(crate) fn ended(&self) -> Option<&ContainerStateTerminated> {
        self.current.as_ref().and_then(|current| current.ended.as_ref())
    }

    /// Whether the policy wants it to run again after this end.
    pub(crate) fn wants_restart(&self, policy: &str, code: i32) -> bool {
        match (self.role, policy) {
            (Role::Sidecar, _) => true,
            (Role::Ephemeral, _) => false,
            (Role::Init, "Never") => false,
            (Role::Init, _) => code != 0,
            (Role::Main, "Never") => false,
            (Role::Main, "OnFailure") => code != 0,
            (Role::Main, _) => true,
        }
    }

    /// Looks at the engine whether the newest start has ended. True when that is news.
    pub(crate) async fn observe(&mut self, engine: &Engine) -> bool {
        let Some(current) = &mut self.current else { return false };
        if current.ended.is_some() {
            return false;
        }
        let record = current.handle.record();
        let is_there = engine.container(&record.name).is_ok_and(|found| found.record().id == record.id);
        let state = &record.state;
        let id = Some(current.id());
        let ended = match state.status {
            Status::Running | Status::Restarting if is_there => None,
            Status::Created if is_there && state.error.is_empty() => None,
            Status::Created => Some(ContainerStateTerminated {
                container_id: id,
                exit_code: 128,
                finished_at: state.finished.map(Time),
                message: Some(state.error.clone()),
                reason: Some("StartError".to_owned()),
                signal: None,
                started_at: Some(Time(Timestamp::UNIX_EPOCH)),
            }),
            Status::Exited | Status::Removing | Status::Dead if state.finished.is_some() => {
                let message = super::message::read(engine, &current.handle).await;
                let reason = match (state.oom_killed, state.exit_code) {
                    (true, _) => "OOMKilled",
                    (false, 0) => "Completed",
                    (false, _) => "Error",
                };
                Some(ContainerStateTerminated {
                    container_id: id,
                    exit_code: i32::from(state.exit_code),
                    finished_at: state.finished.map(Time),
                    message,
                    reason: Some(reason.to_owned()),
                    signal: None,
                    started_at: state.started.map(Time),
                })
            }
            _ => Some(ContainerStateTerminated {
                container_id: id,
                exit_code: 137,
                finished_at: Some(Time(Timestamp::now())),
                message: Some("The container could not be located when the pod was looked at".to_owned()),
                reason: Some("ContainerStatusUnknown".to_owned()),
                signal: None,
                started_at: state.started.map(Time),
            }),
        };
        let is_news = ended.is_some();
        if is_news {
            current.ended = ended;
            current.ended_at = Some(Instant::now());
            self.probes.clear();
            self.stopping = None;
            self.started = false;
            self.ready = false;
            self.crash_told = false;
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let mut backoff = Backoff::default();
        let mut seconds = Vec::new();
        for _ in 0..8 {
            seconds.push(backoff.pause().as_secs());
            backoff.advance();
        }
        assert_eq!(seconds, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn policies_decide_who_runs_again() {
        let slot = |role| Slot::new("c", role, 0);
        for (role, policy, code, expected) in [
            (Role::Main, "Always", 0, true),
            (Role::Main, "OnFailure", 0, false),
            (Role::Main, "OnFailure", 1, true),
            (Role::Main, "Never", 1, false),
            (Role::Init, "Always", 0, false),
            (Role::Init, "Always", 1, true),
            (Role::Init, "Never", 1, false),
            (Role::Sidecar, "Never", 0, true),
            (Role::Ephemeral, "Always", 1, false),
        ] {
            assert_eq!(slot(role).wants_restart(policy, code), expected, "{role:?} {policy} {code}");
        }
    }
}
