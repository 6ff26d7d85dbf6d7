//! What runs is made what is wanted: tasks are made, started, replaced and ended, whatever happened in between.

use std::collections::HashSet;
use std::time::Duration;

use dray_engine::{EventFilter, EventKind, Status};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;

use crate::cluster::Swarm;
use crate::model::{Cluster, Object, Task, TaskState};
use crate::services::wanted;

/// The pause before a task is started again, unless its service says otherwise.
const PAUSE: Duration = Duration::from_secs(5);
/// The time that the containers of services that are gone get to leave a network which is to be removed.
const LINGERING: Duration = Duration::from_secs(30);
/// Time after which all is looked at again even when nothing was heard.
const AT_LEAST: Duration = Duration::from_secs(30);

pub(crate) async fn run(swarm: Swarm) {
    let (_, mut events) = swarm.inner.engine.events(EventFilter::default());
    swarm.clear().await;
    loop {
        let again = if swarm.is_active() { swarm.reconcile().await } else { AT_LEAST };
        let changed = swarm.inner.changed.notified();
        tokio::pin!(changed);
        let sleep = tokio::time::sleep(again);
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                () = &mut changed => break,
                () = &mut sleep => break,
                event = events.recv() => match event {
                    Ok(event) if event.kind == EventKind::Container && event.action == "die" => break,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }
}

impl Swarm {
    /// One look at everything; gives the time after which something is due.
    async fn reconcile(&self) -> Duration {
        self.observe();
        let mut again = AT_LEAST;
        // What nobody wants any more goes first, so that its ports and names are free.
        let ended: Vec<Task> = self
            .change_quietly(|cluster| {
                let mut ended = retire(cluster);
                ended.extend(forget(cluster));
                ended
            })
            .unwrap_or_default();
        for task in ended {
            self.end_in_background(task);
        }
        let due: Vec<Task> =
            self.change_quietly(|cluster| make_tasks(cluster, &mut again)).unwrap_or_default();
        for task in due {
            if !self.has_image(&task) {
                let _ = self.change_quietly(|cluster| {
                    if let Some(task) = cluster.tasks.get_mut(&task.object.id) {
                        (task.since, task.state) = (Timestamp::now(), TaskState::Preparing);
                    }
                });
                self.fetch_in_background(&task);
                continue;
            }
            let Ok(cluster) = self.read(|cluster| Ok(cluster.clone())) else { return again };
            let started = self.start_task(&cluster, &task).await;
            let _ = self.change_quietly(|cluster| {
                let Some(task) = cluster.tasks.get_mut(&task.object.id) else { return };
                task.since = Timestamp::now();
                match &started {
                    Ok(id) => {
                        task.container = Some(id.clone());
                        task.state = TaskState::Running;
                    }
                    Err(error) => {
                        task.state = TaskState::Rejected;
                        task.error = error.to_string();
                    }
                }
            });
            if started.is_err() {
                again = again.min(PAUSE);
            } else if self.read(|cluster| Ok(cluster.tasks.contains_key(&task.object.id))).ok() != Some(true)
                && let Ok(id) = started
            {
                // The swarm was left meanwhile.
                self.discard(&Task { container: Some(id), ..task }).await;
            }
        }
        // A program that has ended before it was looked at is seen now.
        self.observe();
        again
    }

    /// Notes which containers have ended.
    fn observe(&self) {
        let engine = self.inner.engine.clone();
        let _ = self.change_quietly(|cluster| {
            for task in cluster.tasks.values_mut().filter(|task| task.state == TaskState::Running) {
                let container = task.container.as_deref().and_then(|id| engine.container(id).ok());
                let state = container.map(|container| container.record().state.clone());
                match state {
                    Some(state) if state.status == Status::Running => {}
                    Some(state) => {
                        task.exit_code = Some(state.exit_code);
                        task.state =
                            if state.exit_code == 0 { TaskState::Complete } else { TaskState::Failed };
                        if state.exit_code != 0 {
                            task.error = format!("task: non-zero exit ({})", state.exit_code);
                        }
                        task.since = Timestamp::now();
                    }
                    None => {
                        task.state = TaskState::Failed;
                        task.error = "its container is gone".to_owned();
                        task.since = Timestamp::now();
                    }
                }
            }
        });
    }

    /// Ends a task without holding up the others: it may take as long as its service gives it.
    fn end_in_background(&self, task: Task) {
        if !self.inner.ending.lock().insert(task.object.id.clone()) {
            return;
        }
        let swarm = self.clone();
        tokio::spawn(async move {
            swarm.end(&task).await;
            swarm.inner.ending.lock().remove(&task.object.id);
            swarm.inner.ended.notify_waiters();
            swarm.inner.changed.notify_one();
        });
    }

    /// Waits until the tasks of services that are gone have left a network: who removes a service and then its network
    /// need not know that its containers may take a while to end.
    pub async fn leave_network(&self, network: &str) {
        let left = async {
            loop {
                let ended = self.inner.ended.notified();
                tokio::pin!(ended);
                ended.as_mut().enable();
                if !self.lingers(network) {
                    return;
                }
                ended.await;
            }
        };
        let _ = tokio::time::timeout(LINGERING, left).await;
    }

    /// Whether a task of a service that is gone is in a network, or may still come.
    fn lingers(&self, network: &str) -> bool {
        let Ok((orphans, known)) = self.read(|cluster| {
            let is_known = |task: &&Task| cluster.services.contains_key(&task.service);
            let known: HashSet<String> =
                cluster.tasks.values().filter(is_known).map(|task| task.object.id.clone()).collect();
            Ok((known.len() < cluster.tasks.len(), known))
        }) else {
            return false;
        };
        orphans
            || self.inner.engine.containers().iter().any(|record| {
                let task = record.spec.labels.get(crate::task::TASK_LABEL);
                task.is_some_and(|task| !known.contains(task))
                    && record.endpoints.iter().any(|endpoint| endpoint.network.as_str() == network)
            })
    }

    /// Removes the containers of tasks that nobody knows any more, and asks again for images: a crash came between.
    async fn clear(&self) {
        let _ = self.change_quietly(|cluster| {
            let waiting = cluster.tasks.values_mut().filter(|task| task.state == TaskState::Preparing);
            waiting.for_each(|task| task.state = TaskState::New);
        });
        for record in self.inner.engine.containers() {
            let Some(task) = record.spec.labels.get(crate::task::TASK_LABEL) else { continue };
            let is_known = self.read(|cluster| Ok(cluster.tasks.contains_key(task))).unwrap_or(false);
            if !is_known && let Ok(container) = self.inner.engine.container(record.id.as_str()) {
                let _ = self.inner.engine.remove(&container, true, true).await;
            }
        }
    }

    /// Ends the container of a task that is not wanted any more, as the task says.
    async fn end(&self, task: &Task) {
        let grace = task.object.spec["ContainerSpec"]["StopGracePeriod"].as_u64().map(Duration::from_nanos);
        let container = task.container.as_deref().and_then(|id| self.inner.engine.container(id).ok());
        if let Some(container) = container {
            let _ = self.inner.engine.stop(&container, None, grace).await;
        }
        let is_kept = self.read(|cluster| Ok(cluster.tasks.contains_key(&task.object.id))).unwrap_or(false);
        if is_kept {
            let _ = self.change_quietly(|cluster| {
                if let Some(task) = cluster.tasks.get_mut(&task.object.id) {
                    task.state = TaskState::Shutdown;
                    task.since = Timestamp::now();
                }
            });
        } else {
            self.discard(task).await;
        }
    }

    /// A change that asks for no other look, but is on disk.
    fn change_quietly<T>(&self, work: impl FnOnce(&mut Cluster) -> T) -> crate::Result<T> {
        self.change_silently(|cluster| Ok(work(cluster)))
    }
}

/// Marks the running tasks that are not wanted as they are: too many, or of an older template. Gives them.
fn retire(cluster: &mut Cluster) -> Vec<Task> {
    let mut ended = Vec::new();
    for service in cluster.services.values() {
        let (desired, total) = wanted(&service.object.spec);
        let template = &service.object.spec["TaskTemplate"];
        for task in cluster.tasks.values_mut().filter(|task| task.service == service.object.id) {
            let is_outdated = task.object.spec != *template;
            let is_excess = total.is_none() && task.slot > desired;
            task.wanted &= !(is_outdated || is_excess);
            if !task.wanted && !task.state.is_over() {
                ended.push(task.clone());
            }
        }
    }
    ended
}

/// Takes the tasks of services that are gone out of the state, and those that the history has no room for. Gives them.
fn forget(cluster: &mut Cluster) -> Vec<Task> {
    let kept = cluster.object.spec["Orchestration"]["TaskHistoryRetentionLimit"].as_u64().unwrap_or(5);
    let kept = usize::try_from(kept).unwrap_or(5);
    let mut gone: Vec<String> = cluster
        .tasks
        .values()
        .filter(|task| !cluster.services.contains_key(&task.service))
        .map(|task| task.object.id.clone())
        .collect();
    for service in cluster.services.values() {
        let is_job = wanted(&service.object.spec).1.is_some();
        let mut slots: std::collections::BTreeMap<u64, Vec<&Task>> = Default::default();
        for task in cluster.tasks.values().filter(|task| task.service == service.object.id) {
            slots.entry(task.slot).or_default().push(task);
        }
        for tasks in slots.values_mut().filter(|_| !is_job) {
            tasks.sort_by_key(|task| std::cmp::Reverse(task.object.created));
            let old = tasks.iter().filter(|task| task.state.is_over()).skip(kept);
            gone.extend(old.map(|task| task.object.id.clone()));
        }
    }
    gone.iter().filter_map(|id| cluster.tasks.remove(id)).collect()
}

/// Makes the tasks that are missing, where their pause is over, and gives those to start.
fn make_tasks(cluster: &mut Cluster, again: &mut Duration) -> Vec<Task> {
    let mut due: Vec<Task> =
        cluster.tasks.values().filter(|task| task.state == TaskState::New && task.wanted).cloned().collect();
    let services: Vec<_> = cluster.services.values().cloned().collect();
    for service in services {
        let spec = &service.object.spec;
        let (desired, total) = wanted(spec);
        let of_service = |task: &&Task| task.service == service.object.id && task.wanted;
        let slots: Vec<u64> = match total {
            None => (1..=desired).collect(),
            Some(total) => {
                let tasks = || cluster.tasks.values().filter(of_service);
                let done = tasks().filter(|task| task.state == TaskState::Complete).count() as u64;
                let active = tasks().filter(|task| !task.state.is_over()).count() as u64;
                let more = desired.min(total.saturating_sub(done)).saturating_sub(active);
                let free = (1..=total).filter(|slot| {
                    !tasks().any(|task| {
                        task.slot == *slot && (!task.state.is_over() || task.state == TaskState::Complete)
                    })
                });
                free.take(usize::try_from(more).unwrap_or(0)).collect()
            }
        };
        for slot in slots {
            let mut tasks: Vec<&Task> =
                cluster.tasks.values().filter(of_service).filter(|task| task.slot == slot).collect();
            // The one before it has to be gone first: they may want the same port.
            let is_taken = cluster
                .tasks
                .values()
                .any(|task| task.service == service.object.id && task.slot == slot && !task.state.is_over());
            if is_taken {
                continue;
            }
            tasks.sort_by_key(|task| task.object.created);
            if let Some(last) = tasks.last()
                && let Some(wait) = pause(&spec["TaskTemplate"]["RestartPolicy"], last, tasks.len())
            {
                if !wait.is_zero() {
                    *again = (*again).min(wait);
                    continue;
                }
            } else if !tasks.is_empty() {
                continue;
            }
            let object = Object::new(cluster.next(), spec["TaskTemplate"].clone());
            let task = Task {
                service: service.object.id.clone(),
                slot,
                state: TaskState::New,
                wanted: true,
                since: object.created,
                error: String::new(),
                container: None,
                exit_code: None,
                object,
            };
            cluster.tasks.insert(task.object.id.clone(), task.clone());
            due.push(task);
        }
    }
    due
}

/// How long to wait before a task that has ended is followed by another; none when it is not.
fn pause(policy: &Value, last: &Task, attempts: usize) -> Option<Duration> {
    let again = match policy["Condition"].as_str().unwrap_or("any") {
        "none" => false,
        "on-failure" => last.state != TaskState::Complete,
        _ => true,
    };
    let most = policy["MaxAttempts"].as_u64().filter(|most| *most > 0);
    if !again || most.is_some_and(|most| attempts as u64 > most) {
        return None;
    }
    let delay = policy["Delay"].as_u64().map_or(PAUSE, Duration::from_nanos);
    let passed = Duration::try_from(Timestamp::now().duration_since(last.since)).unwrap_or_default();
    Some(delay.saturating_sub(passed))
}
