//! A cluster of one node for one test: the real API server, the real engine and the agent between them, in namespaces
//! of the test's own.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dray_apiserver::{ApiServer, Config, NodeConnector, NodeStream, User};
use dray_engine::{Engine, EngineConfig};
use dray_node::{Agent, NodeConfig};
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, Event, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::wait::{Condition, await_condition};
use kube::{Api, Client};
use serde_json::{Value, json};

pub const NODE: &str = "node-1";
pub const IMAGE: &str = "box:1";
const PATIENCE: Duration = Duration::from_secs(40);

/// The way from the API server to the agent: a pipe in memory.
#[derive(Default)]
struct Pipe {
    agent: Arc<parking_lot::Mutex<Option<Arc<Agent>>>>,
}

impl NodeConnector for Pipe {
    fn connect<'a>(&'a self, node: &'a str) -> BoxFuture<'a, io::Result<Box<dyn NodeStream>>> {
        let agent = self.agent.lock().clone();
        Box::pin(async move {
            match agent {
                Some(agent) if node == NODE => {
                    let (ours, theirs) = tokio::io::duplex(64 * 1024);
                    tokio::spawn(agent.serve_connection(theirs));
                    Ok(Box::new(ours) as Box<dyn NodeStream>)
                }
                _ => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "no such node")),
            }
        })
    }
}

/// An agent and its engine, on a runtime that can be killed as a daemon can.
struct RunningAgent {
    runtime: tokio::runtime::Runtime,
    engine: Engine,
}

pub struct World {
    pub directory: tempfile::TempDir,
    pub client: Client,
    pub address: SocketAddr,
    /// Whether kubectl speaks SPDY, as before 1.30, and no WebSocket.
    pub spdy: bool,
    server: ApiServer,
    agent: Option<RunningAgent>,
    place: Arc<parking_lot::Mutex<Option<Arc<Agent>>>>,
}

/// Ends what a test that failed has left running, so that nothing stays on the host.
pub fn sweep() {
    let roots = groups();
    for root in &roots {
        dray_testkit::eventually("the test's processes to end", PATIENCE, || {
            let processes = processes_below(root);
            for process in &processes {
                let _ = rustix::process::kill_process(*process, rustix::process::Signal::KILL);
            }
            processes.is_empty().then_some(())
        });
    }
    for root in roots {
        dray_testkit::eventually("the test's control groups to go", PATIENCE, || {
            remove_groups(&root);
            (!root.exists()).then_some(())
        });
    }
}

/// The control groups of the test's engine, one in each hierarchy.
fn groups() -> Vec<PathBuf> {
    let group = format!("dray-{}", instance());
    std::fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .chain([PathBuf::from("/sys/fs/cgroup")])
        .map(|root| root.join(&group))
        .filter(|path| path.is_dir())
        .collect()
}

/// How many processes run in containers, whether the engine knows of them or not.
pub fn processes() -> usize {
    groups().iter().map(|group| processes_below(group).len()).max().unwrap_or(0)
}

fn groups_in(group: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(group).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn processes_below(group: &Path) -> Vec<rustix::process::Pid> {
    let listed = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let own = listed.lines().filter_map(|line| rustix::process::Pid::from_raw(line.parse().ok()?));
    own.chain(groups_in(group).iter().flat_map(|group| processes_below(group))).collect()
}

fn remove_groups(group: &Path) {
    for inner in groups_in(group) {
        remove_groups(&inner);
    }
    let _ = std::fs::remove_dir(group);
}

async fn open_engine(path: &Path) -> Engine {
    let config = EngineConfig {
        data_dir: path.join("d"),
        run_dir: path.join("r"),
        instance: instance(),
        remap: None,
        default_pools: Vec::new(),
        led: dray_engine::Led::Nobody,
    };
    let engine = Engine::open(config).await.unwrap();
    engine.ensure_hidden_network("pods").await.unwrap();
    let images = Arc::clone(engine.images());
    if images.resolve(IMAGE).is_err() {
        tokio::task::spawn_blocking(move || {
            images.load(dray_testkit::busybox_archive(IMAGE).as_slice()).unwrap();
        })
        .await
        .unwrap();
    }
    engine
}

fn node_config(path: &Path) -> NodeConfig {
    NodeConfig {
        name: NODE.into(),
        state_dir: path.join("node"),
        pod_network: "pods".into(),
        cluster_dns: "10.43.0.10".parse().unwrap(),
        cluster_domain: "cluster.local".into(),
        kubernetes_service: "10.43.0.1:443".parse().unwrap(),
        node_address: "127.0.0.1".parse().unwrap(),
        labels: [("tier".to_owned(), "test".to_owned())].into(),
        version: "0.1.0".into(),
    }
}

static INSTANCE: OnceLock<String> = OnceLock::new();

/// A word that no other engine has, so that tests can run beside each other.
fn instance() -> String {
    INSTANCE.get_or_init(|| format!("t{:x}", std::process::id())).clone()
}

impl World {
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pipe = Pipe::default();
        let place = Arc::clone(&pipe.agent);
        let data_dir = directory.path().join("cluster");
        std::fs::create_dir_all(&data_dir).unwrap();
        let server = ApiServer::open(Config {
            data_dir,
            service_cidr: "10.43.0.0/16".into(),
            advertise_address: address,
            names: Vec::new(),
            node_connector: Some(Arc::new(pipe)),
            extensions: Vec::new(),
        })
        .await
        .unwrap();
        server.write_kubeconfig(&directory.path().join("kubeconfig"), &format!("https://{address}")).unwrap();
        let client = Client::new(server.service(User::component("test")), "default");
        // What a controller makes, and every pod with a token mounts.
        let authority = serde_json::from_value(json!({
            "metadata": { "name": "kube-root-ca.crt" }, "data": { "ca.crt": server.authority() },
        }));
        let maps = Api::<ConfigMap>::default_namespaced(client.clone());
        maps.create(&PostParams::default(), &authority.unwrap()).await.unwrap();
        let serving = server.clone();
        tokio::spawn(async move { serving.serve(listener, std::future::pending()).await });
        let mut world = Self { directory, client, address, spdy: false, server, agent: None, place };
        world.start_agent().await;
        world
    }

    pub async fn start_agent(&mut self) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let path = self.directory.path().to_owned();
        let service = self.server.service(User::component("kubelet"));
        let started = runtime.spawn(async move {
            let engine = open_engine(&path).await;
            let client = Client::new(service, "default");
            let images = Arc::clone(engine.images());
            let registries = dray_registry::Client::new(images, dray_registry::Hosts::default());
            let agent = Agent::new(engine.clone(), registries, client, node_config(&path)).unwrap();
            tokio::spawn(Arc::clone(&agent).run(std::future::pending()));
            (engine, agent)
        });
        let (engine, agent) = started.await.unwrap();
        *self.place.lock() = Some(agent);
        self.agent = Some(RunningAgent { runtime, engine });
    }

    /// Ends agent and engine without a word, as `kill -9` does; the containers go on.
    pub async fn kill_agent(&mut self) {
        let Some(agent) = self.agent.take() else { return };
        *self.place.lock() = None;
        drop(agent.engine);
        tokio::task::spawn_blocking(move || agent.runtime.shutdown_timeout(PATIENCE)).await.unwrap();
    }

    /// Stops all containers and takes their namespaces away, as the end of the machine does. No agent runs.
    pub async fn stop_everything(&self) {
        let path = self.directory.path().to_owned();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.spawn(async move { open_engine(&path).await.stop_everything().await }).await.unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.unwrap();
    }

    pub fn engine(&self) -> &Engine {
        &self.agent.as_ref().unwrap().engine
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    /// Makes a pod bound to the node.
    pub async fn pod(&self, name: &str, mut spec: Value) -> Pod {
        spec["nodeName"] = json!(NODE);
        if spec["terminationGracePeriodSeconds"].is_null() {
            spec["terminationGracePeriodSeconds"] = json!(1);
        }
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                if container["image"].is_null() {
                    container["image"] = json!(IMAGE);
                }
            }
        }
        let pod = json!({ "metadata": { "name": name, "labels": { "app": name } }, "spec": spec });
        self.pods().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap()
    }

    /// Waits until the pod is so.
    pub async fn wait(&self, name: &str, what: &str, condition: impl Condition<Pod>) -> Option<Pod> {
        match tokio::time::timeout(PATIENCE, await_condition(self.pods(), name, condition)).await {
            Ok(found) => found.unwrap(),
            Err(_) => panic!("{name} is not {what}: {}", self.picture(name).await),
        }
    }

    /// What a person would look at.
    async fn picture(&self, name: &str) -> String {
        let pod = self.pods().get_opt(name).await.unwrap();
        let status = pod.and_then(|pod| pod.status);
        let status = serde_json::to_string_pretty(&status).unwrap();
        format!("{status}\n{}", self.events(name).await.join("\n"))
    }

    pub async fn wait_phase(&self, name: &str, phase: &'static str) -> Pod {
        let is = move |pod: Option<&Pod>| {
            pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref()).is_some_and(|is| is == phase)
        };
        self.wait(name, phase, is).await.unwrap()
    }

    pub async fn wait_ready(&self, name: &str) -> Pod {
        self.wait(name, "ready", is_ready).await.unwrap()
    }

    pub async fn wait_gone(&self, name: &str) {
        self.wait(name, "gone", |pod: Option<&Pod>| pod.is_none()).await;
    }

    pub async fn delete(&self, name: &str) {
        self.pods().delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub async fn logs(&self, name: &str) -> String {
        self.pods().logs(name, &kube::api::LogParams::default()).await.unwrap()
    }

    /// "Reason message" of the events about a pod.
    pub async fn events(&self, name: &str) -> Vec<String> {
        let api: Api<Event> = Api::default_namespaced(self.client.clone());
        let fields = format!("involvedObject.name={name}");
        let list = api.list(&ListParams::default().fields(&fields)).await.unwrap();
        list.items
            .into_iter()
            .map(|event| {
                format!("{} {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default())
            })
            .collect()
    }

    /// Waits for an event whose text begins so.
    pub async fn wait_event(&self, name: &str, prefix: &str) {
        let found = async {
            while !self.events(name).await.iter().any(|event| event.starts_with(prefix)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, found).await.is_err() {
            panic!("no event {prefix:?}: {}", self.picture(name).await);
        }
    }

    pub async fn kubectl(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || command.output().expect("cannot run kubectl")).await.unwrap()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let program = std::env::var_os("KUBECTL").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from);
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("KUBECONFIG", self.directory.path().join("kubeconfig"))
            .env("HOME", self.directory.path());
        let websockets = if self.spdy { "false" } else { "true" };
        command
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets);
        command
    }

    /// What a successful kubectl prints.
    pub async fn kubectl_ok(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "kubectl {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Takes everything away, so that nothing of the test is left on the host.
    pub async fn close(mut self) {
        if self.agent.is_none() {
            self.start_agent().await;
        }
        for pod in self.pods().list(&ListParams::default()).await.unwrap() {
            let name = pod.metadata.name.unwrap();
            let _ = self.pods().delete(&name, &DeleteParams::default().grace_period(0)).await;
            self.wait_gone(&name).await;
        }
        let engine = self.engine().clone();
        let gone = async {
            while !engine.containers().is_empty() || !engine.sandboxes().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("containers or sandboxes are left");
        let pods = self.directory.path().join("node/pods");
        let files_gone = async {
            while std::fs::read_dir(&pods).unwrap().next().is_some() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, files_gone).await.expect("files of pods are left");
        engine.stop_everything().await;
        engine.close().await;
        self.kill_agent().await;
    }
}

pub fn is_ready(pod: Option<&Pod>) -> bool {
    condition(pod, "Ready").as_deref() == Some("True")
}

pub fn condition(pod: Option<&Pod>, kind: &str) -> Option<String> {
    let conditions = pod?.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.status.clone())
}

/// The status of the only, or the first, main container.
pub fn container(pod: &Pod) -> ContainerStatus {
    pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].clone()
}

/// The reason why the first container waits.
pub fn waiting_reason(pod: Option<&Pod>) -> Option<String> {
    let statuses = pod?.status.as_ref()?.container_statuses.as_ref()?;
    statuses.first()?.state.as_ref()?.waiting.as_ref()?.reason.clone()
}
