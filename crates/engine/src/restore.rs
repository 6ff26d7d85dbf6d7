//! Finding everything again at the start of the daemon.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use dray_runtime::protocol::{Exit, Status as ProcessStatus};
use jiff::Timestamp;

use crate::container::ContainerHandle;
use crate::error::IoContext;
use crate::record::{self, ContainerRecord, Status};
use crate::spec::RestartPolicy;
use crate::{Engine, Result, shim_client};

impl Engine {
    pub(crate) async fn restore(&self) -> Result<()> {
        let found = self.blocking(Self::read_records).await?;
        for container in &found {
            if container.record().state.status == Status::Running {
                self.resume(container).await;
            }
        }
        self.blocking(Self::reload_network).await?;
        for container in &found {
            if container.record().spec.transient {
                self.remove_in_background(container);
            } else {
                self.apply_policy(container);
            }
        }
        self.blocking(|engine| {
            engine.clear_orphans();
            Ok(())
        })
        .await
    }

    fn read_records(&self) -> Result<Vec<Arc<ContainerHandle>>> {
        let root = self.inner.config.data_dir.join("containers");
        let mut found = Vec::new();
        for entry in fs::read_dir(&root).io("list", &root)? {
            let directory = entry.io("list", &root)?.path();
            let path = directory.join("container.json");
            if !path.exists() {
                // A creation or removal that a crash cut off.
                fs::remove_dir_all(&directory).io("remove", &directory)?;
                continue;
            }
            let record: ContainerRecord = record::read(&path)?;
            let container = ContainerHandle::new(record.clone());
            let mut containers = self.inner.containers.write();
            containers.by_name.insert(record.name.clone(), record.id.clone());
            containers.by_id.insert(record.id, Arc::clone(&container));
            found.push(container);
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
                self.inner.networks.names.serve(&record.id, &namespace, &record.endpoints);
            }
            self.supervise(container, process);
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
        let mut ports = Vec::new();
        let mut addresses = Vec::new();
        for record in self.containers() {
            if let Some(address) = record.endpoints.first().and_then(|endpoint| endpoint.address) {
                ports.extend(record.ports.iter().cloned());
                addresses.extend(record.ports.iter().map(|_| address));
            }
        }
        for sandbox in self.inner.sandboxes.load()? {
            let Some(endpoint) = &sandbox.endpoint else { continue };
            self.inner.networks.adopt(endpoint);
            self.inner.networks.adopt_ports(&sandbox.id, &sandbox.ports);
            if let Some(address) = endpoint.address {
                ports.extend(sandbox.ports.iter().cloned());
                addresses.extend(sandbox.ports.iter().map(|_| address));
            }
        }
        self.inner.networks.sync_rules(&ports, &addresses)
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

    /// Removes shim directories and network namespaces that belong to no container.
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
        let run_dir = &self.inner.config.run_dir;
        let names = |directory: &str| -> Vec<std::path::PathBuf> {
            let entries = fs::read_dir(run_dir.join(directory)).into_iter().flatten().flatten();
            entries
                .filter(|entry| !entry.file_name().to_str().is_some_and(|name| known.contains(name)))
                .map(|entry| entry.path())
                .collect()
        };
        for path in names("n") {
            let _ = dray_network::namespace::remove(&path);
        }
        for path in names("c") {
            let _ = fs::remove_dir_all(path);
        }
    }
}
