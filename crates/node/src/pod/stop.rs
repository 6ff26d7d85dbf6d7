//! Ending containers, and the pod as a whole.

use std::sync::Arc;
use std::time::Duration;

use dray_engine::ContainerHandle;
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use tokio::time::Instant;

use super::Worker;
use super::slot::{Background, Role};
use crate::context::Context;
use crate::identity::{Belonging, PodIdentity};
use crate::probe::{Action, Target};
use crate::recorder::Severity;
use crate::spec::build::{Quality, cgroup_parent};

/// What is left for the program when its hook took all the time.
const LEAST: Duration = Duration::from_secs(2);

/// Everything it takes to end one container.
struct Ending {
    context: Arc<Context>,
    identity: PodIdentity,
    list: &'static str,
    container: Container,
    target: Target,
    handle: Arc<ContainerHandle>,
    grace: Duration,
    message: String,
}

impl Ending {
    async fn run(self) {
        let place = Some((self.list, self.container.name.as_str()));
        let recorder = &self.context.recorder;
        recorder.pod(&self.identity, place, Severity::Normal, "Killing", self.message.clone());
        let begin = Instant::now();
        let hook = self.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        let mut left = self.grace;
        if let Some(hook) = hook.filter(|_| !self.grace.is_zero()) {
            let hook = Action::from(hook);
            let hooked = tokio::time::timeout(self.grace, hook.run(&self.target, self.grace));
            let failure = match hooked.await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.chain()),
                Err(_) => Some("it took longer than the pod has to end".to_owned()),
            };
            if let Some(why) = failure {
                let message = format!("PreStopHook failed: {why}");
                recorder.pod(&self.identity, place, Severity::Warning, "FailedPreStopHook", message);
            }
            left = self.grace.saturating_sub(begin.elapsed()).max(LEAST);
        }
        match self.context.engine.stop(&self.handle, None, Some(left)).await {
            Ok(()) | Err(dray_engine::Error::NotModified { .. }) => {}
            Err(error) => {
                tracing::warn!(
                    pod = self.identity.full_name(), container = self.container.name, error = %error.chain(),
                    "cannot stop a container"
                );
            }
        }
    }
}

impl Worker {
    fn ending(&self, index: usize, grace: Duration, message: String) -> Option<Ending> {
        let slot = &self.slots[index];
        let container = self.container(slot)?.clone();
        let handle = Arc::clone(&slot.current.as_ref()?.handle);
        Some(Ending {
            context: Arc::clone(&self.context),
            identity: self.identity.clone(),
            list: slot.role.list(),
            target: self.target(Arc::clone(&handle), &container),
            container,
            handle,
            grace,
            message,
        })
    }

    /// Ends one container in the background. It counts as ready until it has ended, as with the kubelet.
    pub(super) fn stop_one(&mut self, index: usize, grace: Duration, message: String) {
        if let Some(ending) = self.ending(index, grace, message) {
            let waker = Arc::clone(&self.waker);
            let slot = &mut self.slots[index];
            slot.probes.clear();
            slot.stopping = Some(Background(tokio::spawn(async move {
                ending.run().await;
                waker.wake();
            })));
        }
    }

    /// Ends all containers in the background, sidecars last.
    pub(super) fn stop_all(&mut self) {
        let grace = self.grace();
        let main_runs = self.slots.iter().any(|slot| slot.role != Role::Sidecar && slot.is_running());
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            let wait = slot.role == Role::Sidecar && main_runs;
            if slot.is_running() && slot.stopping.is_none() && !wait {
                let message = format!("Stopping container {}", slot.name);
                self.stop_one(index, grace, message);
            }
        }
    }

    /// How long the pod still has to end, as its object says now: all its containers share that time.
    fn ending_grace(&self) -> Duration {
        let seconds = self.pod.metadata.deletion_grace_period_seconds;
        let whole = match seconds {
            Some(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or(1)),
            None => self.grace(),
        };
        let spent = self.ending_since.map_or(Duration::ZERO, |since| since.elapsed());
        whole.saturating_sub(spent).max(LEAST.min(whole))
    }

    /// Ends the pod, takes everything away, and tells the cluster that it is gone.
    pub(super) async fn terminate(&mut self) {
        self.terminating = true;
        self.ending_since = Some(Instant::now());
        self.watches.clear();
        let reported = self.finished;
        self.end_group(|role| role != Role::Sidecar).await;
        self.end_sidecars().await;
        self.observe().await;
        let knows = self.slots.iter().any(|slot| slot.current.is_some());
        let was_deleted = self.desired.borrow().deleted;
        if !reported && !was_deleted && (knows || self.sandbox.is_some()) {
            for slot in &mut self.slots {
                if slot.ended().is_some() {
                    slot.waiting = None;
                }
            }
            self.publish().await;
        }
        self.remove_containers().await;
        self.take_down().await;
        // Who hears that it is gone may send the next one at once.
        self.place = None;
        if !self.desired.borrow().deleted {
            self.confirm().await;
        }
    }

    async fn end_sidecars(&mut self) {
        let sidecars: Vec<String> = self
            .slots
            .iter()
            .rev()
            .filter(|slot| slot.role == Role::Sidecar)
            .map(|slot| slot.name.clone())
            .collect();
        for name in sidecars {
            let index = self.slots.iter().position(|slot| slot.name == name);
            if let Some(index) = index {
                self.end_these(vec![index]).await;
            }
        }
    }

    async fn end_group(&mut self, wanted: impl Fn(Role) -> bool) {
        let indices = (0..self.slots.len()).filter(|index| wanted(self.slots[*index].role)).collect();
        self.end_these(indices).await;
    }

    /// Ends containers and waits for that; a time to end that is shortened meanwhile counts at once.
    async fn end_these(&mut self, indices: Vec<usize>) {
        let grace = self.ending_grace();
        let mut endings = Vec::new();
        let mut handles = Vec::new();
        for index in indices {
            // One that is being stopped already is stopped again with the pod's own time.
            self.slots[index].probes.clear();
            self.slots[index].ready = false;
            if !self.slots[index].is_running() {
                continue;
            }
            self.slots[index].stopping = None;
            let message = format!("Stopping container {}", self.slots[index].name);
            if let Some(ending) = self.ending(index, grace, message) {
                handles.push(Arc::clone(&ending.handle));
                endings.push(ending.run());
            }
        }
        if endings.is_empty() {
            return;
        }
        let ended = join_all(endings);
        tokio::pin!(ended);
        let deadline = Instant::now() + grace;
        loop {
            tokio::select! {
                _ = &mut ended => return,
                changed = self.desired.changed() => {
                    if changed.is_err() {
                        ended.await;
                        return;
                    }
                    let desired = self.desired.borrow_and_update().clone();
                    self.pod = Arc::clone(&desired.pod);
                    let shorter = self.ending_grace();
                    if desired.deleted || Instant::now() + shorter < deadline {
                        let left = if desired.deleted { Duration::ZERO } else { shorter };
                        tokio::select! {
                            _ = &mut ended => return,
                            () = tokio::time::sleep(left) => {}
                        }
                        kill(&self.context, &handles).await;
                    }
                }
            }
        }
    }

    async fn remove_containers(&mut self) {
        self.slots.clear();
        remove_containers_of(&self.context, &self.identity.uid).await;
    }

    async fn confirm(&self) {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.identity.namespace);
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(self.identity.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        for _ in 0..CONFIRMATIONS {
            match api.delete(&self.identity.name, &parameters).await {
                Ok(_) => return,
                Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => return,
                Err(error) => {
                    tracing::warn!(pod = self.identity.full_name(), %error, "cannot confirm that a pod is gone");
                    tokio::time::sleep(super::RETRY).await;
                }
            }
        }
    }
}

/// How often the end of a pod is told to a server that does not take it; after a restart it is told anew.
const CONFIRMATIONS: usize = 60;

async fn kill(context: &Context, handles: &[Arc<ContainerHandle>]) {
    let kills = handles.iter().map(|handle| async move {
        // One that has ended meanwhile is what is wanted.
        let _ = context.engine.kill(handle, "KILL").await;
    });
    join_all(kills).await;
}

/// Removes every container that belongs to a pod, running or not.
async fn remove_containers_of(context: &Context, uid: &str) {
    let engine = &context.engine;
    let names: Vec<String> = engine
        .containers()
        .iter()
        .filter(|record| Belonging::of(record).is_some_and(|belonging| belonging.uid == uid))
        .map(|record| record.name.clone())
        .collect();
    let removals = names.iter().map(|name| async move {
        let Ok(handle) = engine.container(name) else { return };
        if let Err(error) = engine.remove(&handle, true, true).await {
            tracing::warn!(container = name, error = %error.chain(), "cannot remove a container of a pod");
        }
    });
    join_all(removals).await;
}

/// Takes away containers and namespaces of a pod that no longer exists.
pub(crate) async fn remove_left_overs(context: &Context, uid: &str) {
    remove_containers_of(context, uid).await;
    if let Err(error) = context.engine.remove_sandbox(uid).await {
        tracing::warn!(uid, error = %error.chain(), "cannot remove a pod's namespaces");
    }
    for quality in [Quality::Guaranteed, Quality::Burstable, Quality::BestEffort] {
        let group = cgroup_parent(quality, uid);
        if let Err(error) = context.engine.remove_cgroup_parent(&group).await {
            tracing::debug!(uid, error = %error.chain(), "cannot remove a pod's control group");
        }
    }
}
