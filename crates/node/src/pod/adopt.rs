//! Finding a pod's containers again after a restart of the agent.

use std::sync::Arc;
use std::time::Duration;

use dray_engine::{ContainerHandle, Status};
use std::net::IpAddr;

use super::Worker;
use super::slot::{Instance, Role};
use crate::identity::Belonging;
use crate::spec::names;
use crate::volume::Volumes;

impl Worker {
    /// Takes over what is there.
    pub(super) async fn adopt(&mut self) {
        let engine = self.context.engine.clone();
        let status = self.pod.status.clone().unwrap_or_default();
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        self.was_running = status.phase.as_deref() == Some("Running");
        self.initialized = status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == "Initialized" && condition.status == "True")
            && self.was_running;
        let told = status
            .container_statuses
            .iter()
            .flatten()
            .chain(status.init_container_statuses.iter().flatten())
            .chain(status.ephemeral_container_statuses.iter().flatten())
            .cloned()
            .collect::<Vec<_>>();
        let mut found: Vec<(String, u32, Arc<ContainerHandle>)> = Vec::new();
        for record in engine.containers() {
            let Some(belonging) = Belonging::of(&record) else { continue };
            if belonging.uid != self.identity.uid {
                continue;
            }
            let Ok(handle) = engine.container(&record.name) else { continue };
            let never_started = record.state.status == Status::Created && record.state.error.is_empty();
            if never_started {
                // The agent ended between its creation and its start.
                let _ = engine.remove(&handle, true, true).await;
                continue;
            }
            found.push((belonging.container.to_owned(), belonging.attempt, handle));
        }
        found.sort_by_key(|(_, attempt, _)| std::cmp::Reverse(*attempt));
        for slot in &mut self.slots {
            if let Some(told) = told.iter().find(|told| told.name == slot.name) {
                slot.restarts = u32::try_from(told.restart_count).unwrap_or(0);
                slot.last = told.last_state.clone().and_then(|state| state.terminated);
            }
            let mut mine =
                found.iter().filter(|(name, ..)| *name == slot.name).map(|(_, attempt, c)| (*attempt, c));
            if let Some((attempt, handle)) = mine.next() {
                slot.restarts = slot.restarts.max(attempt);
                slot.current = Some(Instance::new(Arc::clone(handle), attempt));
                let told = told
                    .iter()
                    .find(|told| told.name == slot.name)
                    .filter(|told| told.container_id == slot.current.as_ref().map(Instance::id));
                slot.started = told.and_then(|told| told.started).unwrap_or(false);
                slot.ready = told.is_some_and(|told| told.ready);
            }
            slot.previous = mine.next().map(|(_, handle)| Arc::clone(handle));
        }
        let main_exists = self.slots.iter().any(|slot| slot.role == Role::Main && slot.current.is_some());
        self.initialized |= main_exists;
        if ended {
            self.finished = true;
            self.take_down().await;
            return;
        }
        self.adopt_shared().await;
        self.observe().await;
        for index in 0..self.slots.len() {
            if self.slots[index].is_running() {
                let age = self.slots[index]
                    .current
                    .as_ref()
                    .and_then(|current| current.handle.record().state.started)
                    .map(|started| jiff::Timestamp::now().duration_since(started))
                    .and_then(|age| Duration::try_from(age).ok());
                self.begin_probes(index, age.unwrap_or_default());
            }
        }
    }

    async fn adopt_shared(&mut self) {
        let Ok(sandbox) = self.context.engine.sandbox(&self.identity.uid) else { return };
        let host_network = self.pod.spec.as_ref().is_some_and(names::is_host_network);
        let address = if host_network {
            Some(self.context.config.node_address)
        } else {
            sandbox.address().map(IpAddr::V4)
        };
        self.sandbox = Some(sandbox);
        self.set_address(address);
        if self.slots.iter().all(|slot| slot.current.is_none()) || self.desired.borrow().is_ending() {
            return;
        }
        match Volumes::prepare(&self.context, &self.pod, &self.directory, &self.addresses).await {
            Ok(volumes) => self.volumes = Some(volumes),
            // Its containers run; what is missing is made before the next one starts.
            Err(error) => {
                tracing::warn!(pod = self.identity.full_name(), error = %error.chain(), "cannot find volumes again");
            }
        }
    }
}
