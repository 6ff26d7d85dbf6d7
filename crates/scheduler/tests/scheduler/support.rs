//! A cluster of the API server and the scheduler in one process, and what is asked of it.
#![allow(dead_code, reason = "measurements use a part")]

use std::future::Future;
use std::time::Duration;

use dray_apiserver::{ApiServer, Config, User};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) server: ApiServer,
    pub(crate) stop: Option<Stop>,
    _directory: tempfile::TempDir,
}

pub(crate) async fn cluster() -> Cluster {
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
    let stop = start(&server);
    Cluster { client, server, stop: Some(stop), _directory: directory }
}

pub(crate) struct Stop {
    pub(crate) stop: tokio::sync::oneshot::Sender<()>,
    pub(crate) running: tokio::task::JoinHandle<()>,
}

pub(crate) fn start(server: &ApiServer) -> Stop {
    start_with(server, dray_scheduler::Config::default())
}

pub(crate) fn start_with(server: &ApiServer, config: dray_scheduler::Config) -> Stop {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let client = Client::new(server.service(User::component("system:kube-scheduler")), "default");
    let running = tokio::spawn(async move {
        dray_scheduler::run_with(client, config, async { drop(stopped.await) }).await.unwrap();
    });
    Stop { stop, running }
}

impl Cluster {
    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    pub(crate) async fn node(&self, name: &str, spec: Value, allocatable: Value) {
        let node: Node = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
            "spec": spec, "status": { "capacity": allocatable, "allocatable": allocatable },
        }))
        .unwrap();
        let nodes = Api::<Node>::all(self.client.clone());
        nodes.create(&PostParams::default(), &node).await.unwrap();
        // What a controller does once a node is ready, which nothing of it is here.
        let taints = Patch::Merge(json!({ "spec": { "taints": node.spec.unwrap_or_default().taints } }));
        nodes.patch(name, &PatchParams::default(), &taints).await.unwrap();
    }

    pub(crate) async fn pod(&self, name: &str, spec: Value) -> Pod {
        let mut spec = spec;
        if spec["containers"].is_null() {
            spec["containers"] = json!([{ "name": "c", "image": "web" }]);
        }
        let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap()
    }

    /// The pod as it is when it is as it should be.
    pub(crate) async fn pod_when(&self, name: &str, check: impl Fn(&Pod) -> bool) -> Pod {
        let what = format!("pod {name}");
        let found = within(&what, async {
            let fields = format!("metadata.name={name}");
            let parameters = WatchParams::default().fields(&fields);
            let mut events = self.pods().watch(&parameters, "0").await.unwrap().boxed();
            loop {
                match events.next().await.unwrap().unwrap() {
                    WatchEvent::Added(pod) | WatchEvent::Modified(pod) if check(&pod) => return pod,
                    _ => {}
                }
            }
        });
        found.await
    }

    pub(crate) async fn node_of(&self, name: &str) -> String {
        let pod = self.pod_when(name, |pod| pod.spec.as_ref().unwrap().node_name.is_some()).await;
        pod.spec.unwrap().node_name.unwrap()
    }

    pub(crate) async fn refusal_of(&self, name: &str) -> String {
        let refused = |pod: &Pod| message(pod).is_some();
        message(&self.pod_when(name, refused).await).unwrap()
    }

    pub(crate) async fn event(&self, reason: &str, name: &str) -> Event {
        let events = Api::<Event>::default_namespaced(self.client.clone());
        let fields = format!("reason={reason},involvedObject.name={name}");
        within(reason, async {
            let parameters = WatchParams::default().fields(&fields);
            let mut stream = events.watch(&parameters, "0").await.unwrap().boxed();
            loop {
                if let WatchEvent::Added(event) = stream.next().await.unwrap().unwrap() {
                    return event;
                }
            }
        })
        .await
    }
}

pub(crate) fn message(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    (condition.status == "False").then(|| condition.message.clone().unwrap_or_default())
}

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("gave up waiting for {what}"))
}

pub(crate) fn size(cpu: &str) -> Value {
    json!({ "cpu": cpu, "memory": "8Gi", "pods": "110" })
}

pub(crate) fn asking(cpu: &str) -> Value {
    json!({ "containers": [{ "name": "c", "image": "web", "resources": { "requests": { "cpu": cpu } } }] })
}

/// An object as it is when it is as it should be.
pub(crate) async fn when<K>(api: &Api<K>, name: &str, check: impl Fn(&K) -> bool) -> K
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + 'static,
{
    within(name, async {
        let fields = format!("metadata.name={name}");
        let mut events = api.watch(&WatchParams::default().fields(&fields), "0").await.unwrap().boxed();
        loop {
            match events.next().await.unwrap().unwrap() {
                WatchEvent::Added(object) | WatchEvent::Modified(object) if check(&object) => return object,
                _ => {}
            }
        }
    })
    .await
}
