//! A cluster without nodes' agents: the API server, the scheduler's place taken by nobody, the controllers, and a
//! node that says of each pod what an agent would say.
#![allow(clippy::unwrap_used, dead_code, reason = "helpers of tests are tests, and not every test needs all")]

use std::fmt::Debug;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dray_apiserver::{ApiServer, Config, User};
use dray_controllers::{Directories, LocalVolumes, Patience};
use futures_util::StreamExt as _;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----\ntest\n-----END CERTIFICATE-----\n";

pub(crate) struct Cluster {
    pub(crate) client: Client,
    server: ApiServer,
    patience: Patience,
    stop: Option<Stop>,
    directory: tempfile::TempDir,
}

struct Stop {
    stop: tokio::sync::oneshot::Sender<()>,
    running: tokio::task::JoinHandle<()>,
}

pub(crate) async fn cluster() -> Cluster {
    cluster_with(Patience::default()).await
}

pub(crate) async fn cluster_with(patience: Patience) -> Cluster {
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        data_dir: directory.path().to_owned(),
        service_cidr: "10.43.0.0/16".into(),
        advertise_address: "127.0.0.1:6443".parse().unwrap(),
        names: Vec::new(),
        node_connector: None,
        extensions: Vec::new(),
    };
    let server = ApiServer::open(config).await.unwrap();
    let client = Client::new(server.service(User::component("test")), "default");
    let stop = start_controllers(&server, patience, directory.path());
    Cluster { client, server, patience, stop: Some(stop), directory }
}

/// The node on which local volumes are made.
pub(crate) const NODE: &str = "here";

/// Directories of volumes, as a node would keep them.
#[derive(Debug)]
struct Volumes {
    directory: PathBuf,
}

impl Directories for Volumes {
    fn place(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn make(&self, name: &str) -> std::io::Result<()> {
        std::fs::create_dir_all(self.place(name))
    }

    fn remove(&self, name: &str) -> std::io::Result<()> {
        match std::fs::remove_dir_all(self.place(name)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

fn start_controllers(server: &ApiServer, patience: Patience, directory: &Path) -> Stop {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let client = Client::new(server.service(User::component("system:kube-controller-manager")), "default");
    let directories = Arc::new(Volumes { directory: directory.join("volumes") });
    let config = dray_controllers::Config {
        authority: Some(AUTHORITY.to_owned()),
        local_volumes: Some(LocalVolumes { node: NODE.to_owned(), directories }),
        candidate: None,
    };
    let running = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        dray_controllers::run_with(client, config, patience, stopped).await.unwrap();
    });
    Stop { stop, running }
}

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("gave up waiting for {what}"))
}

/// The form of an object when it is as it should be.
pub(crate) async fn when<K>(api: &Api<K>, name: &str, what: &str, check: impl Fn(&K) -> bool) -> K
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let last = std::sync::Mutex::new(None);
    let waiting = async {
        let fields = format!("metadata.name={name}");
        let parameters = WatchParams::default().fields(&fields);
        let mut events = api.watch(&parameters, "0").await.unwrap().boxed();
        loop {
            match events.next().await.unwrap().unwrap() {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    if check(&object) {
                        return object;
                    }
                    *last.lock().unwrap() = Some(object);
                }
                _ => {}
            }
        }
    };
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(object) => object,
        Err(_) => panic!("gave up waiting for {what} of {name}: {:?}", last.lock().unwrap()),
    }
}

/// All objects when they are as they should be.
pub(crate) async fn when_all<K>(api: &Api<K>, what: &str, check: impl Fn(&[K]) -> bool) -> Vec<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let last = std::sync::Mutex::new(Vec::new());
    let waiting = async {
        let mut events = None;
        loop {
            let list = api.list(&ListParams::default()).await.unwrap();
            if check(&list.items) {
                return list.items;
            }
            *last.lock().unwrap() = list.items;
            let version = list.metadata.resource_version.unwrap();
            if events.is_none() {
                events = Some(api.watch(&WatchParams::default(), &version).await.unwrap().boxed());
            }
            events.as_mut().unwrap().next().await;
        }
    };
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(objects) => objects,
        Err(_) => panic!("gave up waiting for {what}: {:?}", last.lock().unwrap()),
    }
}

/// An object is gone.
pub(crate) async fn gone<K>(api: &Api<K>, name: &str)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    when_all(api, &format!("the end of {name}"), |all| {
        all.iter().all(|object| object.meta().name.as_deref() != Some(name))
    })
    .await;
}

impl Cluster {
    /// Ends the controllers.
    pub(crate) async fn stop_controllers(&mut self) {
        let Stop { stop, running } = self.stop.take().unwrap();
        drop(stop);
        within("the end of the controllers", running).await.unwrap();
    }

    /// Starts the controllers again.
    pub(crate) fn start_controllers(&mut self) {
        self.stop = Some(start_controllers(&self.server, self.patience, self.directory.path()));
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Serves the API over TLS and writes a kubeconfig for it.
    pub(crate) async fn serve(&self) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        self.server.write_kubeconfig(&self.directory().join("kubeconfig"), &url).unwrap();
        let server = self.server.clone();
        tokio::spawn(async move { server.serve(listener, std::future::pending()).await });
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::default_namespaced(self.client.clone())
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        self.api()
    }

    pub(crate) fn sets(&self) -> Api<ReplicaSet> {
        self.api()
    }

    pub(crate) fn deployments(&self) -> Api<Deployment> {
        self.api()
    }

    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + serde::Serialize,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api().create(&PostParams::default(), &object).await.unwrap()
    }

    pub(crate) async fn deployment(&self, name: &str, change: Value) -> Deployment {
        let mut deployment = json!({
            "metadata": { "name": name },
            "spec": {
                "replicas": 3, "selector": { "matchLabels": { "app": name } }, "template": template(name, "web:1"),
            },
        });
        merge(&mut deployment["spec"], change);
        self.create(deployment).await
    }

    pub(crate) async fn patch(&self, name: &str, patch: Value) -> Deployment {
        self.deployments().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
    }

    pub(crate) async fn set_image(&self, name: &str, image: &str) {
        let template = template(name, image);
        self.patch(name, json!({ "spec": { "template": template } })).await;
    }

    /// From now on says of every pod what a node's agent would: it runs, and then it is gone.
    pub(crate) fn run_pods(&self) {
        self.run_pods_until(|_| None);
    }

    /// Like `run_pods`, but a pod of which a code is told ends with that.
    pub(crate) fn run_pods_until(&self, end: impl Fn(&Pod) -> Option<i32> + Send + 'static) {
        let client = self.client.clone();
        tokio::spawn(async move {
            let all = Api::<Pod>::all(client.clone());
            let mut events = all.watch(&WatchParams::default(), "0").await.unwrap().boxed();
            let mut address = 1_u32;
            while let Some(event) = events.next().await {
                let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event.unwrap() else { continue };
                let pods = Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap());
                let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
                if pod.metadata.deletion_timestamp.is_some() {
                    // What is kept by a finalizer has ended nevertheless.
                    if pod.metadata.finalizers.is_some() && matches!(phase, Some("Pending" | "Running")) {
                        let _ = end_pod(&pods, &pod.name_any(), 137).await;
                    }
                    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
                    let _ = pods.delete(&pod.name_any(), &now).await;
                } else if phase == Some("Pending") {
                    address += 1;
                    let ip = std::net::Ipv4Addr::from(0x0a2a_0000 + address).to_string();
                    let _ = match end(&pod) {
                        Some(code) => end_pod(&pods, &pod.name_any(), code).await,
                        None => make_ready(&pods, &pod.name_any(), &ip, true).await,
                    };
                }
            }
        });
    }

    /// The newest event of a reason, about anything.
    pub(crate) async fn event(&self, reason: &str, message: &str) -> Event {
        let events = self.api::<Event>();
        let found =
            when_all(&events, message, |all| all.iter().any(|event| is_about(event, reason, message)));
        found.await.into_iter().find(|event| is_about(event, reason, message)).unwrap()
    }
}

fn is_about(event: &Event, reason: &str, message: &str) -> bool {
    event.reason.as_deref() == Some(reason) && event.message.as_deref().unwrap_or_default().contains(message)
}

/// Says of a pod that it runs, and whether it is ready.
pub(crate) async fn make_ready(pods: &Api<Pod>, name: &str, ip: &str, ready: bool) -> kube::Result<Pod> {
    let now = Time(jiff::Timestamp::now());
    let start = Time(now.0 - Duration::from_secs(3600));
    let status = json!({ "status": { "phase": "Running", "startTime": start, "podIP": ip, "podIPs": [{ "ip": ip }], "conditions": [
        { "type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": now }] } });
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await
}

/// Says of a pod that it ended with a code, so long ago that nobody waits before it is tried again.
pub(crate) async fn end_pod(pods: &Api<Pod>, name: &str, code: i32) -> kube::Result<Pod> {
    let then = Time(jiff::Timestamp::now() - Duration::from_secs(3600));
    let status = json!({ "status": {
        "phase": if code == 0 { "Succeeded" } else { "Failed" },
        "conditions": [{ "type": "Ready", "status": "False", "lastTransitionTime": then }],
        "containerStatuses": [{
            "name": "c", "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
            "state": { "terminated": { "exitCode": code, "startedAt": then, "finishedAt": then } },
        }],
    } });
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await
}

pub(crate) fn template(app: &str, image: &str) -> Value {
    json!({
        "metadata": { "labels": { "app": app } },
        "spec": { "containers": [{ "name": "c", "image": image, "ports": [{ "name": "http", "containerPort": 8080 }] }] },
    })
}

/// Merges what is given into a value.
pub(crate) fn merge(value: &mut Value, change: Value) {
    match change {
        Value::Object(fields) => {
            for (key, field) in fields {
                merge(&mut value[&key], field);
            }
        }
        other => *value = other,
    }
}

/// Reason and status of a Deployment's condition.
pub(crate) fn condition(deployment: &Deployment, kind: &str) -> Option<(String, String)> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((found.status.clone(), found.reason.clone().unwrap_or_default()))
}

/// Whether all pods are new and available.
pub(crate) fn is_rolled_out(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().unwrap().replicas.unwrap();
    let Some(status) = &deployment.status else { return false };
    status.observed_generation == deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && condition(deployment, "Progressing").is_none_or(|(_, reason)| reason == "NewReplicaSetAvailable")
}
