//! What changes a container while it runs: pausing, and new limits.

use std::sync::Arc;

use dray_runtime::cgroup::Cgroup;

use crate::container::ContainerHandle;
use crate::error::Trying;
use crate::failpoint::failpoint;
use crate::record::{ContainerRecord, Status};
use crate::spec::{BlockLimits, Resources, RestartPolicy};
use crate::{Engine, Error, Result, create, oci};

impl Engine {
    pub(crate) fn group_of(&self, record: &ContainerRecord) -> Result<Cgroup> {
        Cgroup::new(&self.cgroup_of(record)).trying("find the control group")
    }

    /// Makes every process of a container stand still.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it does not run or is paused already.
    pub async fn pause(&self, container: &Arc<ContainerHandle>) -> Result<()> {
        self.set_paused(container, true).await
    }

    /// Lets a paused container go on.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it is not paused.
    pub async fn unpause(&self, container: &Arc<ContainerHandle>) -> Result<()> {
        self.set_paused(container, false).await
    }

    async fn set_paused(&self, container: &Arc<ContainerHandle>, paused: bool) -> Result<()> {
        let (engine, container) = (self.clone(), Arc::clone(container));
        Self::to_the_end(async move {
            let _operation = container.operation.lock().await;
            let record = container.record();
            if record.state.status != Status::Running {
                return Err(Error::conflict(format!("Container {} is not running", record.id)));
            }
            if record.state.paused == paused {
                let message = if paused { "is already paused" } else { "is not paused" };
                return Err(Error::conflict(format!("Container {} {message}", record.id)));
            }
            let handle = Arc::clone(&container);
            engine
                .blocking(move |engine| {
                    let group = engine.group_of(&record)?;
                    if paused {
                        group.freeze().trying("freeze the container")?;
                    } else {
                        group.thaw().trying("thaw the container")?;
                    }
                    failpoint("pause.frozen");
                    let record = handle.update(|record| record.state.paused = paused);
                    engine.save(&handle)?;
                    failpoint("pause.recorded");
                    engine.publish(&record, if paused { "pause" } else { "unpause" }, &[]);
                    Ok(())
                })
                .await
        })
        .await
    }

    /// Changes limits and the restart policy; what is not given stays.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the limits make no sense, [`Error::Runtime`] when the kernel refuses them; then
    /// nothing is changed.
    pub async fn update(
        &self,
        container: &Arc<ContainerHandle>,
        resources: Resources,
        restart: Option<RestartPolicy>,
    ) -> Result<()> {
        let (engine, container) = (self.clone(), Arc::clone(container));
        Self::to_the_end(async move {
            let _operation = container.operation.lock().await;
            let record = container.record();
            let mut spec = record.spec.clone();
            spec.resources = merged(&spec.resources, resources);
            spec.restart = restart.unwrap_or(spec.restart);
            create::validate(&spec)?;
            let handle = Arc::clone(&container);
            engine
                .blocking(move |engine| {
                    if record.state.status == Status::Running {
                        let limits = oci::resources(&spec.resources, &spec.security)?;
                        engine.group_of(&record)?.update(&limits).trying("change the container's limits")?;
                    }
                    failpoint("update.applied");
                    let record = handle.update(|record| {
                        record.spec.resources = spec.resources;
                        record.spec.restart = spec.restart;
                    });
                    engine.save(&handle)?;
                    failpoint("update.recorded");
                    engine.publish(&record, "update", &[]);
                    Ok(())
                })
                .await
        })
        .await
    }
}

/// The limits that hold when new ones come over old ones.
fn merged(old: &Resources, new: Resources) -> Resources {
    // Two ways to say the same: the newer one counts.
    let by_quota = new.cpu_quota.or(new.cpu_period.and_then(|n| i64::try_from(n).ok())).is_some();
    Resources {
        memory: new.memory.or(old.memory),
        memory_swap: new.memory_swap.or(if new.memory.is_some() { None } else { old.memory_swap }),
        memory_reservation: new.memory_reservation.or(old.memory_reservation),
        nano_cpus: new.nano_cpus.or(if by_quota { None } else { old.nano_cpus }),
        cpu_shares: new.cpu_shares.or(old.cpu_shares),
        cpu_period: new.cpu_period.or(old.cpu_period),
        cpu_quota: new.cpu_quota.or(old.cpu_quota),
        cpuset_cpus: new.cpuset_cpus.or_else(|| old.cpuset_cpus.clone()),
        cpuset_mems: new.cpuset_mems.or_else(|| old.cpuset_mems.clone()),
        pids: new.pids.or(old.pids),
        blkio_weight: new.blkio_weight.or(old.blkio_weight),
        block: if new.block == BlockLimits::default() { old.block.clone() } else { new.block },
        memory_swappiness: new.memory_swappiness.or(old.memory_swappiness),
        oom_kill_disable: new.oom_kill_disable.or(old.oom_kill_disable),
        cpu_realtime_period: new.cpu_realtime_period.or(old.cpu_realtime_period),
        cpu_realtime_runtime: new.cpu_realtime_runtime.or(old.cpu_realtime_runtime),
    }
}
