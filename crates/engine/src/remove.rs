//! Taking containers away.

use std::fs;
use std::sync::Arc;

use crate::container::ContainerHandle;
use crate::error::{IoContext, Trying};
use crate::failpoint::failpoint;
use crate::record::{ContainerRecord, Status};
use crate::{Engine, Error, Result, pending};

impl Engine {
    /// Removes a control group that containers were told to be below ([`crate::ContainerSpec::cgroup_parent`]) and
    /// that is empty now. One that is not there is no error.
    ///
    /// # Errors
    /// When the kernel refuses, for example because something is left in it.
    pub async fn remove_cgroup_parent(&self, parent: &str) -> Result<()> {
        let mut path = std::path::PathBuf::from(format!("dray-{}", self.inner.config.instance));
        path.extend(parent.split('/').filter(|part| !matches!(*part, "" | "." | "..")));
        self.blocking(move |_| {
            let group = dray_runtime::cgroup::Cgroup::new(&path).trying("find a control group")?;
            if group.exists() { group.delete().trying("remove a control group") } else { Ok(()) }
        })
        .await
    }

    /// Removes a container, with `force` also one that runs, and with `volumes` its anonymous volumes.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it runs and `force` is not set, or when it is being removed already.
    pub async fn remove(&self, container: &Arc<ContainerHandle>, force: bool, volumes: bool) -> Result<()> {
        let (engine, container) = (self.clone(), Arc::clone(container));
        Self::to_the_end(async move { engine.remove_whole(&container, force, volumes).await }).await
    }

    async fn remove_whole(&self, container: &Arc<ContainerHandle>, force: bool, volumes: bool) -> Result<()> {
        if container.record().state.status == Status::Removing {
            return Err(Error::conflict(format!(
                "removal of container {} is already in progress",
                container.id
            )));
        }
        let _operation = container.operation.lock().await;
        if container.observed.borrow().removed {
            return Err(Error::no_container(container.id.to_string()));
        }
        let record = container.record();
        if matches!(record.state.status, Status::Running | Status::Restarting) {
            if !force {
                return Err(Error::conflict(format!(
                    "cannot remove container \"{}\": container is running: stop the container before removing or force remove",
                    record.name
                )));
            }
            container.update(|record| record.spec.auto_remove = false);
            match self.stop_locked(container, Some("KILL"), None).await {
                Ok(()) | Err(Error::NotModified { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        container.update(|record| record.state.status = Status::Removing);
        failpoint("remove.marked");
        let handle = Arc::clone(container);
        let removed = self.blocking(move |engine| engine.remove_blocking(&handle, volumes)).await;
        if removed.is_err() {
            // What is left of it can be removed again.
            container.update(|record| record.state.status = Status::Dead);
        }
        removed
    }

    fn remove_blocking(&self, container: &ContainerHandle, volumes: bool) -> Result<()> {
        let record = container.record();
        let directory = self.container_dir(&record.id);
        let mut on_disk = container.on_disk.lock();
        *on_disk = false;
        if volumes && directory.exists() {
            pending::write(&directory, &record)?;
        } else {
            pending::clear(&directory)?;
        }
        // The record goes first: after a crash in the middle the rest is an orphan that the next start clears.
        let file = directory.join("container.json");
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).io("remove", &file);
            }
            _ => {}
        }
        drop(on_disk);
        failpoint("remove.record-gone");
        if volumes {
            self.remove_anonymous_volumes(&record)?;
            failpoint("remove.volumes-gone");
        }
        let engine = self.clone();
        self.inner.discarded.add(directory, || {
            tokio::task::spawn_blocking(move || engine.inner.discarded.delete_all());
        });
        let _ = fs::remove_dir_all(self.shim_dir(&record.id));
        self.release_images(&record.id)?;
        failpoint("remove.released");
        {
            let mut containers = self.inner.containers.write();
            containers.by_id.remove(&record.id);
            if containers.by_name.get(&record.name) == Some(&record.id) {
                containers.by_name.remove(&record.name);
            }
        }
        self.inner.execs.forget(&record.id);
        self.publish(&record, "destroy", &[]);
        container.observed.send_modify(|observed| observed.removed = true);
        Ok(())
    }

    /// Removes the volumes that were made for this container alone.
    fn remove_anonymous_volumes(&self, record: &ContainerRecord) -> Result<()> {
        for used in record.volumes.iter().filter(|used| used.anonymous) {
            let is_shared = self.containers().iter().any(|other| {
                other.id != record.id && other.volumes.iter().any(|volume| volume.name == used.name)
            });
            if !is_shared && self.inner.volumes.get(&used.name).is_ok() {
                self.inner.volumes.remove(&used.name)?;
                self.volume_event("destroy", &used.name);
            }
        }
        Ok(())
    }
}
