//! What is done to a container that exists: stop, kill, restart, rename, resize, attach.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::container::{ContainerHandle, PendingAttach, WaitCondition};
use crate::error::Trying;
use crate::failpoint::failpoint;
use crate::record::Status;
use crate::shim_client::{self, AttachOptions};
use crate::{Engine, Error, Result, parse_signal};

/// How long a process has to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const SIGKILL: i32 = 9;

impl Engine {
    /// Asks the process to stop and kills it when it has not within `timeout`; none means the container's own, or ten
    /// seconds.
    ///
    /// # Errors
    /// [`Error::NotModified`] when it does not run.
    pub async fn stop(
        &self,
        container: &Arc<ContainerHandle>,
        signal: Option<&str>,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let (engine, container) = (self.clone(), Arc::clone(container));
        let signal = signal.map(str::to_owned);
        Self::to_the_end(async move {
            let _operation = container.operation.lock().await;
            engine.stop_locked(&container, signal.as_deref(), timeout).await
        })
        .await
    }

    pub(crate) async fn stop_locked(
        &self,
        container: &Arc<ContainerHandle>,
        signal: Option<&str>,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let record = container.record();
        match record.state.status {
            Status::Running => {}
            Status::Restarting => {
                container.update(|record| {
                    record.state.status = Status::Exited;
                    record.stopped_by_hand = true;
                });
                return self.save(container);
            }
            _ => return Err(Error::NotModified { what: record.name.clone() }),
        }
        let signal = signal.map_or(Ok(record.stop_signal), parse_signal)?;
        let timeout = timeout.or(record.spec.stop_timeout).unwrap_or(STOP_TIMEOUT);
        container.update(|record| record.stopped_by_hand = true);
        self.save(container)?;
        failpoint("stop.recorded");
        self.signal(container, signal)?;
        failpoint("stop.signalled");
        let ended = container.wait(WaitCondition::NotRunning);
        if tokio::time::timeout(timeout, ended).await.is_err() {
            self.signal(container, SIGKILL)?;
            container.wait(WaitCondition::NotRunning).await;
        }
        Ok(())
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it does not run, [`Error::Invalid`] when there is no such signal.
    pub async fn kill(&self, container: &Arc<ContainerHandle>, signal: &str) -> Result<()> {
        let number = parse_signal(signal)?;
        let record = container.record();
        if record.state.status != Status::Running {
            return Err(Error::conflict(format!(
                "cannot kill container: {}: container {} is not running",
                record.name, record.id
            )));
        }
        if number == SIGKILL {
            // A kill is a stop asked for: the restart policy does not undo it.
            container.update(|record| record.stopped_by_hand = true);
        }
        self.signal(container, number)?;
        self.publish(&record, "kill", &[("signal", number.to_string())]);
        if number == SIGKILL {
            container.wait(WaitCondition::NotRunning).await;
        }
        Ok(())
    }

    fn signal(&self, container: &ContainerHandle, signal: i32) -> Result<()> {
        let Some(process) = container.record().state.process else { return Ok(()) };
        match process.signal(signal) {
            // It ended by itself meanwhile.
            Ok(()) | Err(dray_runtime::Error::NoSuchProcess { .. }) => {}
            Err(error) => return Err(error).trying(format!("send signal {signal} to {}", container.id)),
        }
        let record = container.record();
        if record.state.paused {
            // What stands still does not see its signal, but for SIGKILL, which some kernels let through.
            let group = self.group_of(&record)?;
            match group.thaw() {
                Err(error) if group.exists() => return Err(error).trying("thaw the container"),
                _ => {}
            }
            container.update(|record| record.state.paused = false);
        }
        Ok(())
    }

    /// Stops the process when it runs, and starts it.
    ///
    /// # Errors
    /// As [`Engine::stop`] and [`Engine::start`].
    pub async fn restart(
        &self,
        container: &Arc<ContainerHandle>,
        signal: Option<&str>,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let (engine, container) = (self.clone(), Arc::clone(container));
        let signal = signal.map(str::to_owned);
        Self::to_the_end(async move { engine.restart_whole(&container, signal.as_deref(), timeout).await })
            .await
    }

    async fn restart_whole(
        &self,
        container: &Arc<ContainerHandle>,
        signal: Option<&str>,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let _operation = container.operation.lock().await;
        match self.stop_locked(container, signal, timeout).await {
            Ok(()) | Err(Error::NotModified { .. }) => {}
            Err(error) => return Err(error),
        }
        let record = container.update(|record| {
            record.stopped_by_hand = false;
            record.restart_count = 0;
        });
        if record.spec.auto_remove && container.observed.borrow().removed {
            return Err(Error::no_container(record.name.clone()));
        }
        self.launch(container).await?;
        self.publish(&container.record(), "restart", &[]);
        Ok(())
    }

    /// Changes a container's name.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the name is taken, [`Error::Invalid`] when it breaks the rules.
    pub async fn rename(&self, container: &Arc<ContainerHandle>, name: &str) -> Result<()> {
        let _operation = container.operation.lock().await;
        let reserved = self.reserve_name(Some(name.to_owned()), &container.id)?;
        let new = reserved.name().to_owned();
        let old = container.record().name.clone();
        let record = container.update(|record| record.name.clone_from(&new));
        self.save(container)?;
        failpoint("rename.recorded");
        {
            let mut containers = self.inner.containers.write();
            containers.by_name.remove(&old);
            containers.by_name.insert(new, container.id.clone());
        }
        drop(reserved);
        self.publish(&record, "rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }

    /// Changes the size of a container's terminal.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it does not run.
    pub async fn resize(&self, container: &ContainerHandle, width: u16, height: u16) -> Result<()> {
        if !container.is_running() {
            return Err(Error::conflict(format!("Container {} is not running", container.id)));
        }
        shim_client::resize(&self.shim_dir(&container.id), width, height).await
    }

    /// Joins a container's stdio: at once when it runs, else as soon as its process exists and before it has written
    /// anything. The receiver is dropped when the start fails.
    ///
    /// # Errors
    /// When the shim does not answer.
    pub async fn attach(
        &self,
        container: &Arc<ContainerHandle>,
        options: AttachOptions,
    ) -> Result<oneshot::Receiver<Result<UnixStream>>> {
        let (answer, receiver) = oneshot::channel();
        if container.is_running() {
            let _ = answer.send(shim_client::attach(&self.shim_dir(&container.id), options).await);
        } else {
            container.pending_attaches.lock().push(PendingAttach { options, answer });
        }
        self.publish(&container.record(), "attach", &[]);
        Ok(receiver)
    }
}
