//! Watching over running processes: what happens when one ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dray_runtime::Process;
use dray_runtime::protocol::Exit;
use jiff::Timestamp;

use crate::container::ContainerHandle;
use crate::failpoint::failpoint;
use crate::health::HealthStatus;
use crate::record::{ContainerRecord, Status};
use crate::spec::RestartPolicy;
use crate::{Engine, Id, Result, record, shim_client};

/// First pause before a restart; it doubles with each one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause before a restart.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// A process that ran this long makes the pauses short again.
const STEADY: Duration = Duration::from_secs(10);
/// What Docker reports when nobody saw the process end.
const UNKNOWN_EXIT: u8 = 255;
/// The exit code of a process that SIGKILL ended.
const KILLED_EXIT: u8 = 137;

impl Engine {
    /// Waits in the background for the end of a process that runs.
    pub(crate) fn supervise(&self, container: &Arc<ContainerHandle>, process: Process) {
        self.check_health(container);
        let engine = self.clone();
        let container = Arc::clone(container);
        tokio::spawn(async move {
            let exit = engine.wait_for_exit(&container, process).await;
            engine.ended(&container, process, exit).await;
        });
    }

    async fn wait_for_exit(&self, container: &ContainerHandle, process: Process) -> Exit {
        let directory = self.shim_dir(&container.id);
        match shim_client::wait(&directory).await {
            Ok(Some(exit)) => return exit,
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(container = %container.id, error = %error.chain(), "the shim answers badly");
            }
        }
        // The shim has gone. If it was killed alone, its process has nobody who reads what it writes or learns its
        // exit code, so it goes, too.
        if self.end_abandoned(&container.id, process).await {
            return Exit {
                code: KILLED_EXIT,
                signal: Some(9),
                oom_killed: false,
                finished_at: Timestamp::now().to_string(),
            };
        }
        record::read(&directory.join("exit.json")).unwrap_or_else(|_| Exit {
            code: UNKNOWN_EXIT,
            signal: None,
            oom_killed: false,
            finished_at: Timestamp::now().to_string(),
        })
    }

    /// Kills a process whose shim has gone, and waits for its end; false when it has ended already.
    pub(crate) async fn end_abandoned(&self, owner: &Id, process: Process) -> bool {
        if !process.is_alive() {
            return false;
        }
        tracing::warn!(container = %owner, pid = process.pid, "a shim has gone without its process, which is killed");
        let pidfd = process.pidfd();
        let _ = process.signal(9);
        if let Ok(pidfd) = pidfd
            && let Ok(pidfd) = crate::readiness::watch(pidfd)
        {
            let _ = pidfd.readable().await;
        }
        true
    }

    /// Writes down how a process ended, takes away what it had, and starts it again when its policy says so.
    pub(crate) async fn ended(&self, container: &Arc<ContainerHandle>, process: Process, exit: Exit) {
        let handle = Arc::clone(container);
        let result = self.blocking(move |engine| engine.record_end(&handle, process, &exit)).await;
        let restart = match result {
            Ok(restart) => restart,
            Err(error) => {
                tracing::error!(container = %container.id, error = %error.chain(), "cannot record the end of a process");
                None
            }
        };
        container.observed.send_modify(|observed| observed.exits += 1);
        if container.record().spec.auto_remove {
            if let Err(error) = self.remove(container, true, true).await {
                tracing::warn!(container = %container.id, error = %error.chain(), "cannot remove a container that ended");
            }
            return;
        }
        if let Some(pause) = restart {
            self.restart_later(Arc::clone(container), pause);
        }
    }

    fn record_end(
        &self,
        container: &ContainerHandle,
        process: Process,
        exit: &Exit,
    ) -> Result<Option<Duration>> {
        if container.record().state.process != Some(process) {
            return Ok(None);
        }
        failpoint("end.seen");
        let mut pause = None;
        // On disk before the shim's directory goes, which alone knows the exit code: a crash in between must not lose
        // it. In memory after everything is taken down: what waits for the end may start the container again at once.
        if !container.record().spec.auto_remove {
            let mut record = (*container.record()).clone();
            note_end(&mut record, exit);
            record.endpoints.clear();
            record.ports.clear();
            self.write_ahead(container, &record)?;
            failpoint("end.recorded-early");
        }
        self.take_down(container);
        let _ = dray_runtime::cgroup::Cgroup::new(&self.cgroup_of(&container.record()))
            .and_then(|cgroup| if cgroup.exists() { cgroup.delete() } else { Ok(()) });
        failpoint("end.taken-down");
        let record = container.update(|record| pause = note_end(record, exit));
        self.save(container)?;
        failpoint("end.recorded");
        if record.state.oom_killed {
            self.publish(&record, "oom", &[]);
        }
        self.publish(&record, "die", &[("exitCode", exit.code.to_string())]);
        if record.stopped_by_hand {
            self.publish(&record, "stop", &[]);
        }
        Ok(pause)
    }

    pub(crate) fn restart_later(&self, container: Arc<ContainerHandle>, pause: Duration) {
        let engine = self.clone();
        let generation = container.generation.load(Ordering::SeqCst);
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _operation = container.operation.lock().await;
            let wanted = container.generation.load(Ordering::SeqCst) == generation
                && container.record().state.status == Status::Restarting;
            if !wanted {
                return;
            }
            if let Err(error) = engine.launch(&container).await {
                tracing::warn!(container = %container.id, error = %error.chain(), "cannot start a container again");
            }
        });
    }
}

/// Puts into a record that its process has ended; gives the pause before it starts again, if it does.
fn note_end(record: &mut ContainerRecord, exit: &Exit) -> Option<Duration> {
    let ran = record.state.started.map(|started| Timestamp::now().duration_since(started));
    record.state.process = None;
    record.state.paused = false;
    record.state.exit_code = exit.code;
    record.state.oom_killed = exit.oom_killed;
    if let Some(health) = &mut record.state.health {
        // Nobody checks any more.
        health.status = HealthStatus::Unhealthy;
    }
    record.state.finished = Some(exit.finished_at.parse().unwrap_or_else(|_| Timestamp::now()));
    let again = !record.stopped_by_hand
        && match record.spec.restart {
            RestartPolicy::No => false,
            RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
            RestartPolicy::OnFailure { maximum } => {
                exit.code != 0 && (maximum == 0 || record.restart_count < maximum)
            }
        };
    record.state.status = if again { Status::Restarting } else { Status::Exited };
    again.then(|| {
        let steady = ran.is_some_and(|ran| ran.as_secs() >= i64::try_from(STEADY.as_secs()).unwrap_or(10));
        let doublings = if steady { 0 } else { record.restart_count.min(16) };
        record.restart_count += 1;
        (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE)
    })
}
