//! Services and their tasks, as clients make and see them.

use serde_json::{Value, json};

use crate::cluster::Swarm;
use crate::defaults;
use crate::error::{Error, Result};
use crate::model::{Cluster, Object, Service, Task, TaskState};
use crate::objects::Kind;

impl Swarm {
    /// Makes a service; gives its id.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Invalid`], [`Error::NotFound`] for a network, secret or config that is not there.
    pub fn create_service(&self, given: &Value) -> Result<String> {
        let mut spec = defaults::service(given);
        self.check(&mut spec)?;
        self.change(|cluster| {
            let name = spec["Name"].as_str().unwrap_or_default();
            if cluster.services.values().any(|service| service.object.name() == name) {
                return Err(Error::Exists { kind: "service", name: name.to_owned() });
            }
            check_references(cluster, &spec)?;
            let object = Object::new(cluster.next(), spec);
            let id = object.id.clone();
            cluster.services.insert(id.clone(), Service { object, previous: None });
            Ok(id)
        })
    }

    /// Changes a service to `given`, or with `rollback` back to what it was before its last change.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::OutOfSequence`], and as [`Swarm::create_service`].
    pub fn update_service(&self, name: &str, version: u64, given: &Value, rollback: bool) -> Result<()> {
        let mut wanted = defaults::service(given);
        if !rollback {
            self.check(&mut wanted)?;
        }
        self.change(|cluster| {
            let service = cluster
                .service(name)
                .ok_or_else(|| Error::NotFound { kind: "service", name: name.to_owned() })?
                .clone();
            if service.object.index != version {
                return Err(Error::OutOfSequence);
            }
            let spec = if rollback {
                service.previous.clone().ok_or_else(|| Error::Precondition {
                    message: format!("service {name} does not have a previous spec"),
                })?
            } else {
                wanted
            };
            if spec["Name"] != service.object.spec["Name"] {
                return Err(Error::invalid("renaming services is not supported"));
            }
            let mode = |spec: &Value| {
                spec["Mode"].as_object().and_then(|mode| mode.keys().next().cloned()).unwrap_or_default()
            };
            if mode(&spec) != mode(&service.object.spec) {
                return Err(Error::invalid("service mode change is not allowed"));
            }
            check_references(cluster, &spec)?;
            let index = cluster.next();
            if let Some(changed) = cluster.services.get_mut(&service.object.id) {
                changed.previous = Some(service.object.spec.clone());
                changed.object.change(index, spec);
            }
            Ok(())
        })
    }

    /// Removes a service; its containers go in the background.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn remove_service(&self, name: &str) -> Result<()> {
        self.change(|cluster| {
            let service = cluster.service(name);
            let service =
                service.ok_or_else(|| Error::NotFound { kind: "service", name: name.to_owned() })?;
            let id = service.object.id.clone();
            cluster.services.remove(&id);
            Ok(())
        })
    }

    /// All services; with their numbers of tasks where `status` is asked for.
    ///
    /// # Errors
    /// [`Error::NotManager`].
    pub fn list_services(&self, status: bool) -> Result<Vec<Value>> {
        self.read(|cluster| {
            let all = cluster.services.values();
            Ok(all.map(|service| service_document(cluster, service, false, status)).collect())
        })
    }

    /// A service by id, name, or prefix of an id.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn inspect_service(&self, name: &str, with_defaults: bool) -> Result<Value> {
        self.read(|cluster| {
            let service = cluster
                .service(name)
                .ok_or_else(|| Error::NotFound { kind: "service", name: name.to_owned() })?;
            Ok(service_document(cluster, service, with_defaults, false))
        })
    }

    /// All tasks.
    ///
    /// # Errors
    /// [`Error::NotManager`].
    pub fn list_tasks(&self) -> Result<Vec<Value>> {
        self.read(|cluster| Ok(cluster.tasks.values().map(|task| task_document(cluster, task)).collect()))
    }

    /// A task by id or prefix of one.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn inspect_task(&self, name: &str) -> Result<Value> {
        self.read(|cluster| {
            let mut matching = cluster.tasks.values().filter(|task| task.object.id.starts_with(name));
            match (matching.next(), matching.next()) {
                (Some(task), None) => Ok(task_document(cluster, task)),
                _ => Err(Error::NotFound { kind: "task", name: name.to_owned() }),
            }
        })
    }

    /// The containers of a service's or a task's, for their logs, newest last.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn containers_of(&self, name: &str) -> Result<Vec<String>> {
        self.read(|cluster| {
            let service = cluster.service(name).map(|service| service.object.id.clone());
            let mut tasks: Vec<&Task> = cluster
                .tasks
                .values()
                .filter(|task| service.as_ref() == Some(&task.service) || task.object.id == name)
                .collect();
            if service.is_none() && tasks.is_empty() {
                return Err(Error::NotFound { kind: "service", name: name.to_owned() });
            }
            tasks.sort_by_key(|task| task.object.created);
            Ok(tasks.into_iter().filter_map(|task| task.container.clone()).collect())
        })
    }

    /// What can be seen to be wrong at once; networks by name become networks by id.
    fn check(&self, spec: &mut Value) -> Result<()> {
        let name = spec["Name"].as_str().unwrap_or_default();
        let is_valid = !name.is_empty()
            && name.len() <= 63
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if !is_valid {
            return Err(Error::invalid("name must be valid as a DNS name component"));
        }
        let image = spec["TaskTemplate"]["ContainerSpec"]["Image"].as_str().unwrap_or_default();
        if image.is_empty() {
            return Err(Error::invalid("ContainerSpec: image reference must be provided"));
        }
        if spec["Mode"]["Replicated"]["Replicas"]
            .as_i64()
            .is_some_and(|replicas| !(0..=10_000).contains(&replicas))
        {
            return Err(Error::invalid("Number of replicas must be from 0 to 10000"));
        }
        for place in ["/Networks", "/TaskTemplate/Networks"] {
            let networks = spec.pointer_mut(place).and_then(Value::as_array_mut);
            for network in networks.into_iter().flatten() {
                let target = network["Target"].as_str().unwrap_or_default().to_owned();
                let record = self
                    .inner
                    .engine
                    .network(&target)
                    .map_err(|_| Error::NotFound { kind: "network", name: target })?;
                network["Target"] = json!(record.id.as_str());
            }
        }
        Ok(())
    }
}

/// The secrets and configs of a service must be there.
fn check_references(cluster: &Cluster, spec: &Value) -> Result<()> {
    for kind in [Kind::Secret, Kind::Config] {
        let (list, field) = kind.references();
        for reference in spec["TaskTemplate"]["ContainerSpec"][list].as_array().into_iter().flatten() {
            let id = reference[field].as_str().unwrap_or_default();
            if !cluster.objects(kind).contains_key(id) {
                return Err(Error::invalid(format!("{list} not found: {id}")));
            }
        }
    }
    Ok(())
}

/// How many tasks a service wants at a time, and how many in all where it comes to an end.
pub(crate) fn wanted(spec: &Value) -> (u64, Option<u64>) {
    let mode = &spec["Mode"];
    if let Some(job) = mode.get("ReplicatedJob") {
        let at_once = job["MaxConcurrent"].as_u64().unwrap_or(1).max(1);
        let total = job["TotalCompletions"].as_u64().unwrap_or(at_once);
        return (at_once.min(total), Some(total));
    }
    if mode.get("GlobalJob").is_some() {
        return (1, Some(1));
    }
    if mode.get("Global").is_some() {
        return (1, None);
    }
    (mode["Replicated"]["Replicas"].as_u64().unwrap_or(1), None)
}

fn service_document(cluster: &Cluster, service: &Service, with_defaults: bool, status: bool) -> Value {
    let mut document = service.object.document();
    if with_defaults {
        document["Spec"] = defaults::shown(&service.object.spec);
    }
    if let Some(previous) = &service.previous {
        document["PreviousSpec"] = previous.clone();
    }
    let ports = &service.object.spec["EndpointSpec"]["Ports"];
    document["Endpoint"] = json!({ "Spec": service.object.spec["EndpointSpec"] });
    if !ports.is_null() {
        document["Endpoint"]["Ports"] = ports.clone();
    }
    if status {
        let (desired, total) = wanted(&service.object.spec);
        let count = |state: TaskState| {
            let tasks = cluster.tasks.values().filter(|task| task.service == service.object.id);
            tasks.filter(|task| task.state == state).count()
        };
        document["ServiceStatus"] = json!({
            "RunningTasks": count(TaskState::Running),
            "DesiredTasks": desired,
            "CompletedTasks": if total.is_some() { count(TaskState::Complete) } else { 0 },
        });
    }
    document
}

fn task_document(cluster: &Cluster, task: &Task) -> Value {
    let mut document = task.object.document();
    document["ServiceID"] = json!(task.service);
    document["NodeID"] = json!(cluster.node.id);
    document["Slot"] = json!(task.slot);
    document["DesiredState"] = json!(if task.wanted { "running" } else { "shutdown" });
    let message = match task.state {
        TaskState::New => "created",
        TaskState::Running => "started",
        TaskState::Complete => "finished",
        _ => "",
    };
    document["Status"] = json!({
        "Timestamp": task.since.to_string(),
        "State": task.state.as_str(),
        "Message": message,
    });
    if !task.error.is_empty() {
        document["Status"]["Err"] = json!(task.error);
    }
    if let Some(container) = &task.container {
        document["Status"]["ContainerStatus"] =
            json!({ "ContainerID": container, "PID": 0, "ExitCode": task.exit_code.unwrap_or(0) });
    }
    document
}
