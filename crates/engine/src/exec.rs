//! More processes in a running container.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dray_runtime::launch::{Kind, LaunchSpec, Stdio, TerminalSize};
use dray_runtime::rootfs::Root;
use dray_runtime::{Process, shim};
use parking_lot::Mutex;
use tokio::net::UnixStream;

use crate::container::ContainerHandle;
use crate::engine::private_directory;
use crate::error::Trying;
use crate::failpoint::failpoint;
use crate::shim_client::{self, AttachOptions};
use crate::{Engine, Error, Id, Result, launch, oci};

/// Execs that are remembered for one container after they have ended.
const REMEMBERED: usize = 128;

/// A process to run in a container.
#[derive(Clone, Debug, Default)]
pub struct ExecSpec {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// More environment over the container's.
    pub env: Vec<String>,
    /// The user; none means the container's.
    pub user: Option<String>,
    /// The working directory; none means the container's.
    pub working_dir: Option<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether standard input is used.
    pub stdin: bool,
    /// Whether standard output is wanted.
    pub stdout: bool,
    /// Whether standard error is wanted.
    pub stderr: bool,
    /// Whether it has all capabilities.
    pub privileged: bool,
    /// Kept for the caller: the keys that detach.
    pub detach_keys: Option<String>,
}

/// An exec as it is now.
#[derive(Clone, Debug)]
pub struct ExecSnapshot {
    /// Its id.
    pub id: Id,
    /// Its container.
    pub container: Id,
    /// What was asked.
    pub spec: ExecSpec,
    /// The process; none before the start.
    pub process: Option<Process>,
    /// Whether somebody has begun to start it.
    pub(crate) claimed: bool,
    /// Whether it runs.
    pub running: bool,
    /// The exit code, once it has ended.
    pub exit_code: Option<u8>,
}

#[derive(Default)]
pub(crate) struct Execs {
    all: Mutex<HashMap<Id, ExecSnapshot>>,
    /// Told after every change, for those who wait for an end.
    changed: tokio::sync::watch::Sender<()>,
}

impl Execs {
    pub(crate) fn forget(&self, container: &Id) {
        self.all.lock().retain(|_, exec| exec.container != *container);
        self.changed.send_replace(());
    }

    /// Takes an exec that was not started before for a start; false when another was faster.
    fn claim(&self, id: &Id) -> bool {
        let mut all = self.all.lock();
        let Some(exec) = all.get_mut(id).filter(|exec| !exec.claimed && exec.exit_code.is_none()) else {
            return false;
        };
        exec.claimed = true;
        true
    }

    fn update(&self, id: &Id, change: impl FnOnce(&mut ExecSnapshot)) {
        if let Some(exec) = self.all.lock().get_mut(id) {
            change(exec);
        }
        self.changed.send_replace(());
    }
}

impl Engine {
    /// Makes an exec in a running container.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the container does not run, [`Error::Invalid`] when no program is given.
    pub fn create_exec(&self, container: &ContainerHandle, spec: ExecSpec) -> Result<Id> {
        if !container.is_running() {
            return Err(Error::conflict(format!("container {} is not running", container.id)));
        }
        if container.record().state.paused {
            return Err(Error::conflict(format!(
                "Container {} is paused, unpause the container before exec",
                container.id
            )));
        }
        if spec.args.is_empty() {
            return Err(Error::invalid("No exec command specified"));
        }
        let id = Id::random();
        let exec = ExecSnapshot {
            id: id.clone(),
            container: container.id.clone(),
            spec,
            process: None,
            claimed: false,
            running: false,
            exit_code: None,
        };
        let mut all = self.inner.execs.all.lock();
        let ended: Vec<Id> = all
            .values()
            .filter(|exec| exec.container == container.id && exec.exit_code.is_some())
            .map(|exec| exec.id.clone())
            .collect();
        for old in ended.iter().skip(REMEMBERED) {
            all.remove(old);
        }
        all.insert(id.clone(), exec);
        drop(all);
        let record = container.record();
        self.publish(&record, "exec_create", &[("execID", id.to_string())]);
        Ok(id)
    }

    /// The exec with this id.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn exec(&self, id: &str) -> Result<ExecSnapshot> {
        let all = self.inner.execs.all.lock();
        let exec = id.parse::<Id>().ok().and_then(|id| all.get(&id).cloned());
        exec.ok_or_else(|| Error::NotFound { kind: "exec instance", name: id.to_owned() })
    }

    /// Waits until an exec that was started has ended, and gives its exit code.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is not there, or no longer.
    pub async fn wait_exec(&self, id: &str) -> Result<u8> {
        let mut changed = self.inner.execs.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(code) = self.exec(id)?.exit_code {
                return Ok(code);
            }
            if changed.changed().await.is_err() {
                return Err(Error::Interrupted);
            }
        }
    }

    /// The ids of a container's execs that run.
    #[must_use]
    pub fn running_execs(&self, container: &Id) -> Vec<Id> {
        let all = self.inner.execs.all.lock();
        all.values()
            .filter(|exec| exec.container == *container && exec.running)
            .map(|e| e.id.clone())
            .collect()
    }

    /// Starts an exec and joins its stdio; a detached one gives no stream.
    ///
    /// # Errors
    /// [`Error::Start`] when the program is missing or cannot be run, [`Error::Conflict`] when it was started before.
    pub async fn start_exec(
        &self,
        id: &str,
        detach: bool,
        size: Option<TerminalSize>,
    ) -> Result<Option<UnixStream>> {
        let (engine, id) = (self.clone(), id.to_owned());
        Self::to_the_end(async move { engine.start_exec_whole(&id, detach, size).await }).await
    }

    async fn start_exec_whole(
        &self,
        id: &str,
        detach: bool,
        size: Option<TerminalSize>,
    ) -> Result<Option<UnixStream>> {
        let exec = self.exec(id)?;
        let container = self.container(exec.container.as_str())?;
        let target = match container.record().state.process {
            Some(process) if container.is_running() => process,
            _ => return Err(Error::conflict(format!("container {} is not running", container.id))),
        };
        if !self.inner.execs.claim(&exec.id) {
            return Err(Error::conflict(format!("exec {id} has already run")));
        }
        let directory = self.exec_dir(&exec.id);
        let started = self.start_claimed(&exec, &container, target, &directory, detach, size).await;
        if let Err(error) = &started {
            self.exec_failed(&exec.id, error, &directory);
            return started;
        }
        let command = exec.spec.args.join(" ");
        let more = [("execID", exec.id.to_string())];
        self.publish(&container.record(), format!("exec_start: {command}"), &more);
        self.watch_exec(exec.id, container, directory);
        started
    }

    async fn start_claimed(
        &self,
        exec: &ExecSnapshot,
        container: &Arc<ContainerHandle>,
        target: Process,
        directory: &Path,
        detach: bool,
        size: Option<TerminalSize>,
    ) -> Result<Option<UnixStream>> {
        let process = {
            let (exec, container, directory) = (exec.clone(), Arc::clone(container), directory.to_owned());
            self.blocking(move |engine| engine.prepare_exec(&exec, &container, target, &directory, size))
                .await?
        };
        let options = AttachOptions {
            stdin: exec.spec.stdin,
            stdout: exec.spec.stdout || exec.spec.tty,
            stderr: exec.spec.stderr && !exec.spec.tty,
        };
        let joined = async {
            failpoint("exec.spawned");
            let stream = if detach { None } else { Some(shim_client::attach(directory, options).await?) };
            self.inner.execs.update(&exec.id, |exec| {
                exec.process = Some(process);
                exec.running = true;
            });
            shim_client::start(directory).await?;
            failpoint("exec.started");
            Ok(stream)
        };
        let joined = joined.await;
        if joined.is_err() {
            // It waits for a start that nobody will give; one that has ended needs no signal.
            let _ = process.signal(9);
        }
        joined
    }

    fn exec_dir(&self, id: &Id) -> PathBuf {
        self.inner.config.run_dir.join("e").join(&id.as_str()[..32])
    }

    fn exec_failed(&self, id: &Id, error: &Error, directory: &Path) {
        let code = match error {
            Error::Start { kind, .. } => kind.exit_code(),
            _ => 128,
        };
        self.inner.execs.update(id, |exec| {
            exec.running = false;
            exec.exit_code = Some(code);
        });
        let _ = fs::remove_dir_all(directory);
    }

    fn prepare_exec(
        &self,
        exec: &ExecSnapshot,
        container: &ContainerHandle,
        target: Process,
        directory: &Path,
        size: Option<TerminalSize>,
    ) -> Result<Process> {
        let record = container.record();
        let root =
            Root::open(format!("/proc/{}/root", target.pid).as_ref()).trying("open the container's root")?;
        let user = exec.spec.user.as_deref().filter(|user| !user.is_empty()).unwrap_or(&record.user);
        let user = launch::resolve_user(&root, user, &record.spec.groups)?;
        drop(root);
        let capabilities = oci::exec_capabilities(&record, exec.spec.privileged)?;
        let process = oci::process(&record, &user, &capabilities, Some(&exec.spec))?;
        let filter =
            if exec.spec.privileged { None } else { oci::filter(&record.spec.security, &capabilities)? };
        private_directory(directory)?;
        failpoint("exec.directory-made");
        let launch = LaunchSpec {
            id: exec.id.short().to_owned(),
            kind: Kind::Exec { target, process: Box::new(process), seccomp: filter },
            cgroup: Some(self.cgroup_of(&record)),
            stdio: Stdio {
                terminal: exec.spec.tty.then(|| size.unwrap_or(TerminalSize { width: 80, height: 24 })),
                stdin: exec.spec.stdin,
                stdin_once: true,
                log: None,
            },
            socket: directory.join(shim_client::SOCKET),
            exit_file: directory.join("exit.json"),
            pid_file: directory.join("pid.json"),
        };
        launch.write(directory).trying("write the launch specification")?;
        shim::spawn(&self.inner.executable, directory).map_err(|error| match error {
            dray_runtime::Error::Start(failure) => Error::start(failure),
            other => Error::Runtime { action: "start a shim".to_owned(), source: Box::new(other) },
        })
    }

    fn watch_exec(&self, id: Id, container: Arc<ContainerHandle>, directory: PathBuf) {
        let engine = self.clone();
        tokio::spawn(async move {
            let exit = shim_client::wait(&directory).await.ok().flatten();
            let process = engine.exec(id.as_str()).ok().and_then(|exec| exec.process);
            if let (None, Some(process)) = (&exit, process) {
                engine.end_abandoned(&id, process).await;
            }
            let code = exit.map_or_else(
                || {
                    crate::record::read::<dray_runtime::protocol::Exit>(&directory.join("exit.json"))
                        .map_or(137, |e| e.code)
                },
                |exit| exit.code,
            );
            engine.inner.execs.update(&id, |exec| {
                exec.running = false;
                exec.exit_code = Some(code);
            });
            let more = [("execID", id.to_string()), ("exitCode", code.to_string())];
            engine.publish(&container.record(), "exec_die", &more);
            let _ = fs::remove_dir_all(&directory);
        });
    }

    /// Changes the size of an exec's terminal.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Conflict`] when it does not run.
    pub async fn resize_exec(&self, id: &str, width: u16, height: u16) -> Result<()> {
        let exec = self.exec(id)?;
        if !exec.running {
            return Err(Error::conflict(format!("exec {id} is not running")));
        }
        shim_client::resize(&self.exec_dir(&exec.id), width, height).await
    }
}
