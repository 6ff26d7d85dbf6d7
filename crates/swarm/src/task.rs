//! A task as a container: its words, its files, its end.

use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use dray_engine::ContainerSpec;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::cluster::Swarm;
use crate::error::{Error, Result};
use crate::model::{Cluster, Task, TaskState};
use crate::objects::Kind;

/// The label that names a container's task.
pub(crate) const TASK_LABEL: &str = "com.docker.swarm.task.id";

/// Makes a container's specification of the body of a request for one, whose data in base 64 it reads, too.
pub type Translate = Arc<dyn TaskContainer>;

/// What the swarm needs of those who know how containers are asked for.
pub trait TaskContainer: Send + Sync {
    /// The specification that the body of `POST /containers/create` stands for.
    ///
    /// # Errors
    /// A sentence for the user.
    fn specification(&self, body: Value) -> std::result::Result<ContainerSpec, String>;

    /// The bytes of a text in base 64; none when it is not that.
    fn decoded(&self, text: &str) -> Option<Vec<u8>>;

    /// Gets an image that is not here from its registry; a sentence for the user where that fails.
    fn fetch(&self, image: String) -> Fetch;
}

/// An image on its way.
pub type Fetch = Pin<Box<dyn Future<Output = std::result::Result<(), String>> + Send>>;

/// The image that a task asks for.
fn image(task: &Task) -> &str {
    task.object.spec["ContainerSpec"]["Image"].as_str().unwrap_or_default()
}

impl Swarm {
    /// Whether the image of a task is here.
    pub(crate) fn has_image(&self, task: &Task) -> bool {
        self.inner.engine.images().resolve(image(task)).is_ok()
    }

    /// Gets the image of a task, which is `Preparing`, without holding up the others.
    pub(crate) fn fetch_in_background(&self, task: &Task) {
        let (swarm, id) = (self.clone(), task.object.id.clone());
        let fetch = self.inner.translate.fetch(image(task).to_owned());
        tokio::spawn(async move {
            let fetched = fetch.await;
            let _ = swarm.change_silently(|cluster| {
                let task = cluster.tasks.get_mut(&id).filter(|task| task.state == TaskState::Preparing);
                let Some(task) = task else { return Ok(()) };
                (task.since, task.state) = (Timestamp::now(), TaskState::New);
                if let Err(error) = fetched {
                    (task.error, task.state) = (error, TaskState::Rejected);
                }
                Ok(())
            });
            swarm.inner.changed.notify_one();
        });
    }

    /// Makes the container of a task and starts it; gives its id.
    pub(crate) async fn start_task(&self, cluster: &Cluster, task: &Task) -> Result<String> {
        let body = self.body(cluster, task)?;
        let mut spec = self.inner.translate.specification(body).map_err(Error::invalid)?;
        let service = cluster.services.get(&task.service);
        let name = service.map(|service| service.object.name().to_owned()).unwrap_or_default();
        spec.name = Some(format!("{name}.{}.{}", task.slot, task.object.id));
        let created = self.inner.engine.create(spec).await?;
        let id = created.id.to_string();
        let container = self.inner.engine.container(&id)?;
        if let Err(error) = self.inner.engine.start(&container).await {
            let _ = self.inner.engine.remove(&container, true, true).await;
            return Err(error.into());
        }
        Ok(id)
    }

    /// The request for a task's container.
    fn body(&self, cluster: &Cluster, task: &Task) -> Result<Value> {
        let template = &task.object.spec;
        let given = &template["ContainerSpec"];
        let service = cluster.services.get(&task.service).map(|service| &service.object);
        let name = service.map(|service| service.name().to_owned()).unwrap_or_default();
        let mut body = Map::new();
        for (from, to) in [
            ("Image", "Image"),
            ("Command", "Entrypoint"),
            ("Args", "Cmd"),
            ("Hostname", "Hostname"),
            ("Env", "Env"),
            ("Dir", "WorkingDir"),
            ("User", "User"),
            ("TTY", "Tty"),
            ("OpenStdin", "OpenStdin"),
            ("StopSignal", "StopSignal"),
            ("Healthcheck", "Healthcheck"),
        ] {
            if let Some(value) = given.get(from).filter(|value| !value.is_null()) {
                body.insert(to.to_owned(), value.clone());
            }
        }
        // Without a command of its own the arguments are the image's entry point's.
        if given.get("Command").is_some_and(Value::is_null) {
            body.remove("Entrypoint");
        }
        let mut labels = given["Labels"].as_object().cloned().unwrap_or_default();
        for (label, value) in [
            ("com.docker.swarm.service.id", task.service.as_str()),
            ("com.docker.swarm.service.name", name.as_str()),
            ("com.docker.swarm.node.id", cluster.node.id.as_str()),
            (TASK_LABEL, task.object.id.as_str()),
        ] {
            labels.insert(label.to_owned(), json!(value));
        }
        labels.insert("com.docker.swarm.task".to_owned(), json!(""));
        body.insert("Labels".to_owned(), Value::Object(labels));
        let mut host = Map::new();
        for (from, to) in [
            ("ReadOnly", "ReadonlyRootfs"),
            ("Init", "Init"),
            ("Sysctls", "Sysctls"),
            ("CapabilityAdd", "CapAdd"),
            ("CapabilityDrop", "CapDrop"),
            ("Ulimits", "Ulimits"),
            ("Mounts", "Mounts"),
            ("Groups", "GroupAdd"),
        ] {
            if let Some(value) = given.get(from).filter(|value| !value.is_null()) {
                host.insert(to.to_owned(), value.clone());
            }
        }
        for (from, to) in [("Nameservers", "Dns"), ("Search", "DnsSearch"), ("Options", "DnsOptions")] {
            if let Some(value) = given["DNSConfig"].get(from).filter(|value| !value.is_null()) {
                host.insert(to.to_owned(), value.clone());
            }
        }
        // `address name`, the other way round than everywhere else.
        let hosts = given["Hosts"].as_array().into_iter().flatten().filter_map(|line| {
            let (address, names) = line.as_str()?.split_once(' ')?;
            Some(names.split(' ').map(|name| json!(format!("{name}:{address}"))).collect::<Vec<_>>())
        });
        host.insert("ExtraHosts".to_owned(), Value::Array(hosts.flatten().collect()));
        let limits = &template["Resources"]["Limits"];
        for (from, to) in [("NanoCPUs", "NanoCpus"), ("MemoryBytes", "Memory"), ("Pids", "PidsLimit")] {
            if let Some(value) = limits.get(from).filter(|value| value.as_i64().is_some_and(|n| n > 0)) {
                host.insert(to.to_owned(), value.clone());
            }
        }
        // Docker counts memory and swap together; a service names the swap alone.
        if let (Some(memory), Some(swap)) =
            (limits["MemoryBytes"].as_i64().filter(|n| *n > 0), template["Resources"]["SwapBytes"].as_i64())
        {
            host.insert(
                "MemorySwap".to_owned(),
                json!(if swap < 0 { swap } else { memory.saturating_add(swap) }),
            );
        }
        if let Some(swappiness) = template["Resources"]["MemorySwappiness"].as_i64().filter(|n| *n >= 0) {
            host.insert("MemorySwappiness".to_owned(), json!(swappiness));
        }
        if let Some(memory) = template["Resources"]["Reservations"]["MemoryBytes"].as_i64().filter(|n| *n > 0)
        {
            host.insert("MemoryReservation".to_owned(), json!(memory));
        }
        if let Some(driver) = template["LogDriver"]["Name"].as_str() {
            host.insert(
                "LogConfig".to_owned(),
                json!({ "Type": driver, "Config": template["LogDriver"]["Options"] }),
            );
        }
        self.publish(service.map(|service| &service.spec), task, &mut body, &mut host);
        let binds: Vec<Value> =
            self.write_files(cluster, task)?.into_iter().map(|bind| json!(bind)).collect();
        host.insert("Binds".to_owned(), Value::Array(binds));
        let networks = networks(service.map(|service| &service.spec), template);
        let mut endpoints = Map::new();
        for network in &networks {
            let mut aliases = network["Aliases"].as_array().cloned().unwrap_or_default();
            aliases.push(json!(name));
            aliases.push(json!(format!("tasks.{name}")));
            let id = network["Target"].as_str().unwrap_or_default();
            let record = self.inner.engine.network(id)?;
            if endpoints.is_empty() {
                host.insert("NetworkMode".to_owned(), json!(record.name));
            }
            endpoints.insert(record.name, json!({ "Aliases": aliases }));
        }
        if !endpoints.is_empty() {
            body.insert("NetworkingConfig".to_owned(), json!({ "EndpointsConfig": endpoints }));
        }
        body.insert("HostConfig".to_owned(), Value::Object(host));
        Ok(Value::Object(body))
    }

    /// Ports of the service: each task has those of its host; those of the swarm lead to the first one.
    fn publish(
        &self,
        service: Option<&Value>,
        task: &Task,
        body: &mut Map<String, Value>,
        host: &mut Map<String, Value>,
    ) {
        let ports = service.and_then(|spec| spec["EndpointSpec"]["Ports"].as_array());
        let (mut exposed, mut bindings) = (Map::new(), Map::new());
        for port in ports.into_iter().flatten() {
            if port["PublishMode"] != "host" && task.slot != 1 {
                continue;
            }
            let Some(target) = port["TargetPort"].as_u64() else { continue };
            let key = format!("{target}/{}", port["Protocol"].as_str().unwrap_or("tcp"));
            let published = port["PublishedPort"].as_u64().map(|n| n.to_string()).unwrap_or_default();
            exposed.insert(key.clone(), json!({}));
            bindings.insert(key, json!([{ "HostIp": "", "HostPort": published }]));
        }
        body.insert("ExposedPorts".to_owned(), Value::Object(exposed));
        host.insert("PortBindings".to_owned(), Value::Object(bindings));
    }

    fn files_of(&self, task: &Task) -> PathBuf {
        self.inner.files.join(&task.object.id)
    }

    /// Writes the secrets and configs of a task below the run directory, and gives the binds that show them.
    fn write_files(&self, cluster: &Cluster, task: &Task) -> Result<Vec<String>> {
        let directory = self.files_of(task);
        let failed = |action: &'static str, path: &std::path::Path| {
            let path = path.to_owned();
            move |source| Error::State { action, path, source }
        };
        let mut binds = Vec::new();
        for kind in [Kind::Secret, Kind::Config] {
            let (list, field) = kind.references();
            let used = task.object.spec["ContainerSpec"][list].as_array();
            for (index, reference) in used.into_iter().flatten().enumerate() {
                let id = reference[field].as_str().unwrap_or_default();
                let Some(object) = cluster.objects(kind).get(id) else {
                    return Err(Error::NotFound { kind: field, name: id.to_owned() });
                };
                let file = &reference["File"];
                let name = file["Name"].as_str().filter(|name| !name.is_empty()).unwrap_or(object.name());
                let target = match (name.starts_with('/'), kind) {
                    (true, _) => name.to_owned(),
                    (false, Kind::Secret) => format!("/run/secrets/{name}"),
                    (false, Kind::Config) => format!("/{name}"),
                };
                let data = object.spec["Data"].as_str().unwrap_or_default();
                let bytes = self.inner.translate.decoded(data).ok_or_else(|| {
                    Error::invalid(format!("the data of {} is not in base 64", object.name()))
                })?;
                fs::create_dir_all(&directory).map_err(failed("make", &directory))?;
                fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))
                    .map_err(failed("close", &directory))?;
                let path = directory.join(format!("{list}-{index}"));
                fs::write(&path, bytes).map_err(failed("write", &path))?;
                let mode = file["Mode"].as_u64().and_then(|mode| u32::try_from(mode & 0o7777).ok());
                fs::set_permissions(&path, fs::Permissions::from_mode(mode.unwrap_or(0o444)))
                    .map_err(failed("set the mode of", &path))?;
                let number = |name: &str| file[name].as_str().and_then(|text| text.parse::<u32>().ok());
                std::os::unix::fs::chown(&path, number("UID"), number("GID"))
                    .map_err(failed("set the owner of", &path))?;
                binds.push(format!("{}:{target}:ro", path.display()));
            }
        }
        Ok(binds)
    }

    /// Takes a task's container and files away.
    pub(crate) async fn discard(&self, task: &Task) {
        if let Some(id) = &task.container
            && let Ok(container) = self.inner.engine.container(id)
            && let Err(error) = self.inner.engine.remove(&container, true, true).await
        {
            tracing::warn!(task = task.object.id, error = %error.chain(), "cannot remove the container of a task");
        }
        let _ = fs::remove_dir_all(self.files_of(task));
    }
}

/// The networks of a task: the template's, else the service's.
fn networks(service: Option<&Value>, template: &Value) -> Vec<Value> {
    let of_task = template["Networks"].as_array().filter(|all| !all.is_empty());
    let of_service = service.and_then(|spec| spec["Networks"].as_array());
    of_task.or(of_service).cloned().unwrap_or_default()
}
