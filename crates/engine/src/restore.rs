//! Finding everything again at the start of the daemon.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dray_runtime::namespaces::{self, NamespaceKind};
use dray_runtime::protocol::{Exit, Status as ProcessStatus};
use jiff::Timestamp;

use crate::container::ContainerHandle;
use crate::error::IoContext;
use crate::image_mounts::lease_owner;
use crate::name_service::Listener;
use crate::record::{self, ContainerRecord, Status};
use crate::spec::RestartPolicy;
use crate::{Engine, Result, shim_client};

const SIGKILL: i32 = 9;
/// How often the removal of a directory is tried that its shim may write to, and the pause in between.
const REMOVALS: u32 = 100;
const BETWEEN_REMOVALS: Duration = Duration::from_millis(20);

impl Engine {
    pub(crate) async fn restore(&self) -> Result<()> {
        let found = self.blocking(Self::read_records).await?;
        for container in &found {
            if container.record().state.status == Status::Running {
                self.resume(container).await;
            }
        }
        self.blocking(Self::reload_network).await?;
        // Before anything is started: what starts now must not be taken for what was left.
        self.blocking(|engine| {
            engine.clear_orphans();
            Ok(())
        })
        .await?;
        self.adopt_execs().await;
        for container in &found {
            if container.record().spec.transient {
                self.remove_in_background(container);
            } else {
                self.apply_policy(container);
            }
        }
        Ok(())
    }

    fn read_records(&self) -> Result<Vec<Arc<ContainerHandle>>> {
        let root = self.inner.config.data_dir.join("containers");
        let mut found = Vec::new();
        let mut unfinished = Vec::new();
        for entry in fs::read_dir(&root).io("list", &root)? {
            let directory = entry.io("list", &root)?.path();
            let path = directory.join("container.json");
            if !path.exists() {
                unfinished.push(directory);
                continue;
            }
            let record: ContainerRecord = record::read(&path)?;
            let container = ContainerHandle::new(record.clone());
            let mut containers = self.inner.containers.write();
            containers.by_name.insert(record.name.clone(), record.id.clone());
            containers.by_id.insert(record.id, Arc::clone(&container));
            found.push(container);
        }
        for directory in unfinished {
            self.clear_unfinished(&directory)?;
        }
        // Leases of containers that a crash kept from being, or took.
        for owner in self.inner.images.lease_owners() {
            if let Some(id) = lease_owner(&owner)
                && !self.inner.containers.read().by_id.contains_key(&id)
            {
                self.inner.images.release(&owner)?;
            }
        }
        Ok(found)
    }

    /// Goes on with a container whose record says that it runs.
    async fn resume(&self, container: &Arc<ContainerHandle>) {
        let record = container.record();
        for endpoint in &record.endpoints {
            self.inner.networks.adopt(endpoint);
        }
        let Some(process) = record.state.process else { return };
        let directory = self.shim_dir(&record.id);
        let runs = match shim_client::state(&directory).await {
            Ok(state) => state.status != ProcessStatus::Exited,
            Err(_) => process.is_alive(),
        };
        if runs {
            self.inner.networks.adopt_ports(&record.id, &record.ports);
            let namespace = self.namespace_path(&record.id);
            if !record.endpoints.is_empty() {
                let listener = Listener { dns: &record.spec.dns, aliases: self.link_names(&record) };
                self.inner.networks.names.serve(&record.id, &namespace, &record.endpoints, None, listener);
            }
            // The kernel knows better, when a crash cut a pause off.
            let is_frozen = self.group_of(&record).is_ok_and(|group| group.is_frozen());
            let record = container.update(|record| record.state.paused = is_frozen);
            self.supervise(container, process);
            if record.state.paused_for_commit {
                container.update(|record| record.state.paused_for_commit = false);
                let thawed = if record.state.paused { self.unpause(container).await } else { Ok(()) };
                if let Err(error) = thawed {
                    tracing::warn!(container = %record.id, error = %error.chain(), "cannot let a container go on");
                }
            }
            return;
        }
        let exit = record::read(&directory.join("exit.json")).unwrap_or_else(|_| Exit {
            code: 255,
            signal: None,
            oom_killed: false,
            finished_at: Timestamp::now().to_string(),
        });
        self.ended(container, process, exit).await;
    }

    fn reload_network(&self) -> Result<()> {
        let mut rules = Vec::new();
        for record in self.containers() {
            let published = self.published(&record);
            rules.extend(record.ports.iter().filter_map(|port| published.rule(port)));
        }
        for sandbox in self.inner.sandboxes.load()? {
            let Some(endpoint) = &sandbox.endpoint else { continue };
            self.inner.networks.adopt(endpoint);
            self.inner.networks.adopt_ports(&sandbox.id, &sandbox.ports);
            let published = self.inner.networks.published_at(std::slice::from_ref(endpoint), |_| 0);
            rules.extend(sandbox.ports.iter().filter_map(|port| published.rule(port)));
        }
        self.inner.networks.sync_rules(rules)
    }

    /// Starts what should run: after a reboot, or when the daemon was stopped while a restart was due.
    fn apply_policy(&self, container: &Arc<ContainerHandle>) {
        let record = container.record();
        let due = match record.state.status {
            Status::Restarting => true,
            Status::Exited => match record.spec.restart {
                RestartPolicy::Always => true,
                RestartPolicy::UnlessStopped => !record.stopped_by_hand,
                RestartPolicy::No | RestartPolicy::OnFailure { .. } => false,
            },
            Status::Removing | Status::Dead => {
                container.update(|record| record.state.status = Status::Exited);
                self.remove_in_background(container);
                false
            }
            Status::Created | Status::Running => false,
        };
        if due {
            container.update(|record| record.state.status = Status::Restarting);
            self.restart_later(Arc::clone(container), Duration::ZERO);
        }
    }

    /// Removes a container whatever it does, with its anonymous volumes.
    pub(crate) fn remove_in_background(&self, container: &Arc<ContainerHandle>) {
        let engine = self.clone();
        let container = Arc::clone(container);
        tokio::spawn(async move {
            if let Err(error) = engine.remove(&container, true, true).await {
                tracing::warn!(container = %container.id, error = %error.chain(), "cannot remove a container");
            }
        });
    }

    /// Removes what a crash left: directories of shims, network namespaces, the namespaces of sandboxes, and cables
    /// that belong to nobody.
    fn clear_orphans(&self) {
        let known: HashSet<String> = self
            .inner
            .containers
            .read()
            .by_id
            .values()
            .filter(|container| container.is_running())
            .map(|container| container.id.as_str()[..32].to_owned())
            .collect();
        for path in self.left_in("n", &known) {
            let _ = dray_network::namespace::remove(&path);
        }
        for path in self.left_in("c", &known) {
            // A daemon was killed between making the process and noting that it runs: it waits for a word that nobody
            // would ever give, or nobody would ever look after it.
            if let Ok(process) = dray_runtime::Process::read(&path.join("pid.json"))
                && process.signal(SIGKILL).is_ok()
            {
                tracing::info!(pid = process.pid, "ended a process that belongs to no container");
            }
            let _ = fs::remove_dir_all(path);
        }
        for record in self.containers().iter().filter(|record| record.state.process.is_none()) {
            self.end_shared_memory(&record.id);
            self.end_image_mounts(record);
            // What was just ended leaves its group empty in a moment; this waits for it.
            if let Ok(group) = self.group_of(record)
                && group.exists()
                && let Err(error) = group.delete()
            {
                tracing::warn!(container = %record.id, %error, "cannot remove a control group that was left");
            }
        }
        let sandboxes = self.sandboxes();
        let names = sandboxes.iter().map(|sandbox| sandbox.name.clone()).collect();
        for path in self.left_in("p", &names) {
            for kind in [NamespaceKind::Network, NamespaceKind::Ipc, NamespaceKind::Uts] {
                let _ = namespaces::unpin(&path.join(kind.file_name()));
            }
            let _ = fs::remove_dir_all(path);
        }
        let containers = self.containers();
        let endpoints = containers.iter().flat_map(|record| &record.endpoints);
        let endpoints = endpoints.chain(sandboxes.iter().filter_map(|sandbox| sandbox.endpoint.as_ref()));
        let links = endpoints.map(|endpoint| endpoint.host_link.clone()).collect();
        if let Err(error) = self.inner.networks.remove_unknown_links(&links) {
            tracing::warn!(error = %error.chain(), "cannot remove what is left of networks");
        }
    }

    /// What is in a directory of the run directory besides `known`.
    fn left_in(&self, directory: &str, known: &HashSet<String>) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.inner.config.run_dir.join(directory)).into_iter().flatten().flatten();
        entries
            .filter(|entry| !entry.file_name().to_str().is_some_and(|name| known.contains(name)))
            .map(|entry| entry.path())
            .collect()
    }

    /// Execs of a daemon before: those that run go on and their directories go with them; the others go now.
    async fn adopt_execs(&self) {
        for path in self.left_in("e", &HashSet::new()) {
            let is_running = match shim_client::state(&path).await {
                Ok(state) => state.status == ProcessStatus::Running,
                Err(_) => false,
            };
            if !is_running && let Ok(process) = dray_runtime::Process::read(&path.join("pid.json")) {
                // One that waits for its start will not get it.
                let _ = process.signal(SIGKILL);
            }
            tokio::spawn(async move {
                let _ = shim_client::wait(&path).await;
                // The shim may be writing the exit code there still.
                for _ in 0..REMOVALS {
                    if !path.exists() || fs::remove_dir_all(&path).is_ok() {
                        return;
                    }
                    tokio::time::sleep(BETWEEN_REMOVALS).await;
                }
                tracing::warn!(path = %path.display(), "cannot remove the directory of an exec");
            });
        }
    }
}
