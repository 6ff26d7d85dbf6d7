//! When a probe runs, and what its answers mean together.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Action, Target};
use crate::identity::PodIdentity;
use crate::recorder::{Recorder, Severity};

/// What a probe decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Whether the container has come up; before that nothing else is asked.
    Startup,
    /// Whether it must be started anew.
    Liveness,
    /// Whether it may be sent requests.
    Readiness,
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// A change of what a probe means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// The container's id in the engine.
    pub(crate) container: String,
    pub(crate) purpose: Purpose,
    pub(crate) passed: bool,
}

/// One probe of one container.
pub(crate) struct Schedule {
    pub(crate) target: Target,
    pub(crate) probe: Probe,
    pub(crate) purpose: Purpose,
    pub(crate) pod: PodIdentity,
    pub(crate) container: String,
    /// How an event names the container's place: `containers` or `initContainers`.
    pub(crate) list: &'static str,
    pub(crate) recorder: Recorder,
    /// For how long the container has run already.
    pub(crate) age: Duration,
}

/// The first pause between two tries of a container that is just coming up.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
}

fn threshold(value: Option<i32>, default: u32) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
}

impl Schedule {
    /// Probes until the receiver is gone, or until a startup probe has passed or failed for good.
    pub(crate) async fn run(self, reports: mpsc::Sender<Report>) {
        let action = Action::from(&self.probe);
        let period = seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1));
        let timeout = seconds(self.probe.timeout_seconds, 1).max(Duration::from_secs(1));
        let delay = seconds(self.probe.initial_delay_seconds, 0);
        let success_threshold = threshold(self.probe.success_threshold, 1);
        let failure_threshold = threshold(self.probe.failure_threshold, 3);
        tokio::time::sleep(delay.saturating_sub(self.age)).await;
        self.hasten(&action, timeout, period).await;
        let (mut successes, mut failures) = (0_u32, 0_u32);
        let mut told = None;
        let mut tick = tokio::time::interval(period);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            match action.run(&self.target, timeout).await {
                Ok(()) => (successes, failures) = (successes.saturating_add(1), 0),
                Err(error) => {
                    (successes, failures) = (0, failures.saturating_add(1));
                    self.unhealthy(&error.chain());
                }
            }
            let passed = if successes >= success_threshold {
                true
            } else if failures >= failure_threshold {
                false
            } else {
                continue;
            };
            let again = self.purpose == Purpose::Liveness && !passed;
            if told == Some(passed) && !again {
                continue;
            }
            told = Some(passed);
            let container = self.target.container.record().id.to_string();
            let report = Report { container, purpose: self.purpose, passed };
            if reports.send(report).await.is_err() || self.purpose == Purpose::Startup {
                return;
            }
            if !passed {
                failures = 0;
            }
        }
    }

    /// A program that has only just been started needs some milliseconds before it listens. Waiting a whole period
    /// after the first refusal would make every pod late, so in the first period it is tried more often, and these
    /// tries count for nothing.
    async fn hasten(&self, action: &Action, timeout: Duration, period: Duration) {
        if !action.is_cheap() || self.purpose == Purpose::Liveness || self.age > period {
            return;
        }
        let until = Instant::now() + period;
        let mut pause = FIRST_PAUSE;
        while Instant::now() + pause < until {
            if action.run(&self.target, timeout).await.is_ok() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_secs(1));
        }
    }

    fn unhealthy(&self, why: &str) {
        self.recorder.pod(
            &self.pod,
            Some((self.list, &self.container)),
            Severity::Warning,
            "Unhealthy",
            format!("{} probe failed: {why}", self.purpose.as_str()),
        );
    }
}
