//! Health checks: a command that is run in a container again and again, and what its exit codes say of the container.
//!
//! Where the command comes from is decided when a container is made; here it is run, counted and told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::container::ContainerHandle;
use crate::record::Status;
use crate::{Engine, Error, ExecSpec, Result};

/// Bytes of a check's output that are kept.
const OUTPUT_LIMIT: usize = 4096;
/// Results that are remembered.
const REMEMBERED: usize = 5;
/// Exit code of a check that took too long, as Docker reports it.
const TIMED_OUT: i32 = -1;
const SIGKILL: i32 = 9;

/// How a container's health is checked. A duration of nought stands for the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// `["NONE"]`, `["CMD", program, …]` or `["CMD-SHELL", line]`; an empty one takes what is beneath.
    pub test: Vec<String>,
    /// Time from the end of a check to the next; 30 seconds by default.
    pub interval: Duration,
    /// Time that a check may take; 30 seconds by default.
    pub timeout: Duration,
    /// Time after the start in which failures do not count.
    pub start_period: Duration,
    /// Time between checks within the start period; 5 seconds by default.
    pub start_interval: Duration,
    /// Failures in a row that make a container unhealthy; 3 by default.
    pub retries: u32,
}

impl HealthCheck {
    /// Reads Docker's form, as images and requests have it: `Test` and durations in nanoseconds.
    ///
    /// # Errors
    /// [`Error::Invalid`] with Docker's words.
    pub fn parse(value: &Value) -> Result<Self> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "PascalCase")]
        struct Wire {
            test: Option<Vec<String>>,
            interval: Option<i64>,
            timeout: Option<i64>,
            start_period: Option<i64>,
            start_interval: Option<i64>,
            retries: Option<i64>,
        }
        let wire = Wire::deserialize(value)
            .map_err(|error| Error::invalid(format!("invalid health check: {error}")))?;
        let duration = |name: &str, nanoseconds: Option<i64>| match nanoseconds.unwrap_or(0) {
            0 => Ok(Duration::ZERO),
            n @ 1_000_000.. => Ok(Duration::from_nanos(n.unsigned_abs())),
            _ => Err(Error::invalid(format!("{name} in Healthcheck cannot be less than 1ms"))),
        };
        let test = wire.test.unwrap_or_default();
        match test.first().map(String::as_str) {
            None | Some("NONE" | "CMD" | "CMD-SHELL") => {}
            Some(other) => {
                return Err(Error::invalid(format!("Unknown healthcheck type '{other}' (expected 'CMD')")));
            }
        }
        let retries = u32::try_from(wire.retries.unwrap_or(0))
            .map_err(|_| Error::invalid("Retries in Healthcheck cannot be negative"))?;
        Ok(Self {
            test,
            interval: duration("Interval", wire.interval)?,
            timeout: duration("Timeout", wire.timeout)?,
            start_period: duration("StartPeriod", wire.start_period)?,
            start_interval: duration("StartInterval", wire.start_interval)?,
            retries,
        })
    }

    /// Fills what is left out from `image`.
    pub(crate) fn over(mut self, image: Self) -> Self {
        fn fill<T: Default + PartialEq>(own: &mut T, beneath: T) {
            if *own == T::default() {
                *own = beneath;
            }
        }
        fill(&mut self.test, image.test);
        fill(&mut self.interval, image.interval);
        fill(&mut self.timeout, image.timeout);
        fill(&mut self.start_period, image.start_period);
        fill(&mut self.start_interval, image.start_interval);
        fill(&mut self.retries, image.retries);
        self
    }

    /// What is run, `shell` being the image's; none when nothing is.
    fn command(&self, shell: &[String]) -> Option<Vec<String>> {
        let (kind, rest) = self.test.split_first()?;
        match kind.as_str() {
            "CMD" if !rest.is_empty() => Some(rest.to_vec()),
            "CMD-SHELL" if !rest.is_empty() => Some(shell.iter().chain(rest).cloned().collect()),
            _ => None,
        }
    }

    fn interval(&self) -> Duration {
        or_default(self.interval, Duration::from_secs(30))
    }

    fn timeout(&self) -> Duration {
        or_default(self.timeout, Duration::from_secs(30))
    }

    fn start_interval(&self) -> Duration {
        or_default(self.start_interval, Duration::from_secs(5))
    }

    fn retries(&self) -> u32 {
        if self.retries == 0 { 3 } else { self.retries }
    }
}

fn or_default(duration: Duration, default: Duration) -> Duration {
    if duration.is_zero() { default } else { duration }
}

/// What the checks have said of a container so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// Not enough checks have been made.
    #[default]
    Starting,
    /// The last check succeeded.
    Healthy,
    /// Too many in a row have failed, or nobody checks.
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// The health of a container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Health {
    /// What the checks have said.
    pub status: HealthStatus,
    /// Failures since the last success.
    pub failing_streak: u32,
    /// The last results, the newest at the end.
    pub log: Vec<HealthResult>,
}

/// How one check went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HealthResult {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// Its exit code; -1 when it took too long or could not be run.
    pub exit_code: i32,
    /// The beginning of what it wrote.
    pub output: String,
}

impl Health {
    /// Takes in a result.
    fn add(&mut self, result: HealthResult, check: &HealthCheck, within_start_period: bool) {
        if result.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else if !(within_start_period && self.status == HealthStatus::Starting) {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= check.retries() {
                self.status = HealthStatus::Unhealthy;
            }
        }
        self.log.push(result);
        let excess = self.log.len().saturating_sub(REMEMBERED);
        self.log.drain(..excess);
    }
}

impl Engine {
    /// Checks the health of a container that runs, until it does not.
    pub(crate) fn check_health(&self, container: &Arc<ContainerHandle>) {
        let record = container.record();
        let Some(check) = record.health_check.clone() else { return };
        let Some(command) = check.command(&record.shell) else { return };
        let engine = self.clone();
        let container = Arc::clone(container);
        let generation = container.generation.load(Ordering::SeqCst);
        tokio::spawn(async move {
            let started = tokio::time::Instant::now();
            let mut observed = container.observed.subscribe();
            loop {
                let starting = container
                    .record()
                    .state
                    .health
                    .as_ref()
                    .is_some_and(|health| health.status == HealthStatus::Starting);
                let within = started.elapsed() < check.start_period;
                let pause = if within && starting { check.start_interval() } else { check.interval() };
                let over = observed.wait_for(|now| now.removed || now.status != Status::Running);
                if tokio::time::timeout(pause, over).await.is_ok() {
                    return;
                }
                if container.generation.load(Ordering::SeqCst) != generation {
                    return;
                }
                if container.record().state.paused {
                    continue;
                }
                let result = engine.probe(&container, &command, check.timeout()).await;
                if !container.is_running() || container.generation.load(Ordering::SeqCst) != generation {
                    return;
                }
                engine.note_health(&container, result, &check, started.elapsed() < check.start_period);
            }
        });
    }

    fn note_health(
        &self,
        container: &ContainerHandle,
        result: HealthResult,
        check: &HealthCheck,
        within: bool,
    ) {
        let mut changed = None;
        let record = container.update(|record| {
            let health = record.state.health.get_or_insert_default();
            let before = health.status;
            health.add(result, check, within);
            changed = (health.status != before).then_some(health.status);
        });
        if let Err(error) = self.save(container) {
            tracing::warn!(container = %container.id, error = %error.chain(), "cannot note a container's health");
        }
        if let Some(status) = changed {
            self.publish(&record, format!("health_status: {}", status.as_str()), &[]);
        }
    }

    /// Runs the check once.
    async fn probe(
        &self,
        container: &Arc<ContainerHandle>,
        command: &[String],
        timeout: Duration,
    ) -> HealthResult {
        let start = Timestamp::now();
        let (exit_code, output) = match self.probe_once(container, command, timeout).await {
            Ok(outcome) => outcome,
            Err(error) => (TIMED_OUT, error.chain()),
        };
        HealthResult { start, end: Timestamp::now(), exit_code, output }
    }

    async fn probe_once(
        &self,
        container: &Arc<ContainerHandle>,
        command: &[String],
        timeout: Duration,
    ) -> Result<(i32, String)> {
        let spec = ExecSpec { args: command.to_vec(), stdout: true, stderr: true, ..ExecSpec::default() };
        let id = self.create_exec(container, spec)?;
        let deadline = tokio::time::Instant::now() + timeout;
        let stream = self.start_exec(id.as_str(), false, None).await?;
        let mut output = Vec::new();
        let outcome = tokio::time::timeout_at(deadline, async {
            if let Some(stream) = stream {
                read_output(stream, &mut output).await;
            }
            self.wait_exec(id.as_str()).await
        });
        if let Ok(code) = outcome.await {
            return Ok((i32::from(code?), String::from_utf8_lossy(&output).into_owned()));
        }
        if let Some(process) = self.exec(id.as_str()).ok().and_then(|exec| exec.process) {
            let _ = process.signal(SIGKILL);
        }
        let mut text = format!("Health check exceeded timeout ({})", go_duration(timeout));
        if !output.is_empty() {
            text.push_str(": ");
            text.push_str(&String::from_utf8_lossy(&output));
        }
        Ok((TIMED_OUT, text))
    }
}

/// Reads the frames of an exec to their end and keeps the beginning of what is in them.
async fn read_output(mut stream: UnixStream, output: &mut Vec<u8>) {
    let mut buffer = [0_u8; 4096];
    loop {
        let mut header = [0_u8; 8];
        if stream.read_exact(&mut header).await.is_err() {
            return;
        }
        let mut left = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        while left > 0 {
            let part = left.min(buffer.len());
            match stream.read(&mut buffer[..part]).await {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    let kept = n.min(OUTPUT_LIMIT.saturating_sub(output.len()));
                    output.extend_from_slice(&buffer[..kept]);
                    left -= n;
                }
            }
        }
    }
}

/// A duration as Go writes it, to milliseconds.
fn go_duration(duration: Duration) -> String {
    let milliseconds = duration.subsec_millis();
    match duration.as_secs() {
        0 => format!("{milliseconds}ms"),
        seconds => {
            let fraction = if milliseconds == 0 {
                String::new()
            } else {
                format!(".{milliseconds:03}").trim_end_matches('0').to_owned()
            };
            let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            match (hours, minutes) {
                (0, 0) => format!("{seconds}{fraction}s"),
                (0, _) => format!("{minutes}m{seconds}{fraction}s"),
                _ => format!("{hours}h{minutes}m{seconds}{fraction}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn result(exit_code: i32) -> HealthResult {
        HealthResult { start: Timestamp::now(), end: Timestamp::now(), exit_code, output: String::new() }
    }

    #[test]
    fn failures_in_a_row_make_a_container_unhealthy() {
        let check = HealthCheck { retries: 2, ..HealthCheck::default() };
        let mut health = Health::default();
        health.add(result(1), &check, true);
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Starting, 0));
        health.add(result(1), &check, false);
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Starting, 1));
        health.add(result(0), &check, false);
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Healthy, 0));
        health.add(result(1), &check, true);
        health.add(result(-1), &check, false);
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Unhealthy, 2));
        for _ in 0..3 {
            health.add(result(0), &check, false);
        }
        assert_eq!(health.log.len(), REMEMBERED);
    }

    #[test]
    fn what_a_request_leaves_out_comes_from_the_image() {
        let image = json!({ "Test": ["CMD-SHELL", "exit 1"], "Interval": 1_000_000_000_i64, "Retries": 7 });
        let image = HealthCheck::parse(&image).unwrap();
        let own = HealthCheck::parse(&json!({ "Interval": 2_000_000_000_i64, "Test": null })).unwrap();
        let merged = own.over(image);
        let shell = ["/bin/sh".to_owned(), "-c".to_owned()];
        assert_eq!(merged.command(&shell).unwrap(), ["/bin/sh", "-c", "exit 1"]);
        assert_eq!((merged.interval(), merged.retries()), (Duration::from_secs(2), 7));
        let none = HealthCheck::parse(&json!({ "Test": ["NONE"] })).unwrap();
        assert_eq!(none.over(merged).command(&shell), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (value, word) in [
            (json!({ "Test": ["RUN", "x"] }), "Unknown healthcheck type 'RUN'"),
            (json!({ "Interval": 10 }), "Interval in Healthcheck cannot be less than 1ms"),
            (json!({ "Timeout": -1 }), "Timeout"),
            (json!({ "Retries": -1 }), "Retries in Healthcheck cannot be negative"),
            (json!("x"), "invalid health check"),
        ] {
            let error = HealthCheck::parse(&value).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn durations_read_as_in_go() {
        for (milliseconds, text) in [(500, "500ms"), (1500, "1.5s"), (90_000, "1m30s"), (3_600_000, "1h0m0s")]
        {
            assert_eq!(go_duration(Duration::from_millis(milliseconds)), text);
        }
    }
}
