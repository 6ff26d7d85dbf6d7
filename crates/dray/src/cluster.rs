//! The cluster half: the API server and those who live by it, each through a client of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use dray_apiserver::{ApiServer, Config, Extension, NodeConnector, NodeStream, User};
use dray_controllers::{Candidate, LocalVolumes, Term};
use dray_engine::{Engine, NetworkRecord};
use dray_metrics::MetricsServer;
use dray_network::link::Netlink;
use dray_network::names::Resolvers;
use dray_network::{Ipv4Net, pool};
use dray_node::{Agent, NodeConfig};
use dray_proxy::ProxyConfig;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::arguments::UpOptions;
use crate::error::{self, Error};
use crate::volume_directories::VolumeDirectories;

/// The file of what was chosen at the first start, in the data directory.
pub(crate) const CHOICES: &str = "choices.json";
/// The network of the node's pods, which `docker network ls` does not show.
const POD_NETWORK: &str = "pods";
/// Where the cluster's names end.
const DOMAIN: &str = "cluster.local";
/// The port of the Service `kubernetes`.
const API_PORT: u16 = 443;
/// Bytes on the way between the API server and the agent.
const STREAM_BUFFER: usize = 64 * 1024;
/// The name server's place in the range of Services, as everywhere.
const NAME_SERVER: u32 = 10;

/// What was chosen at the first start and must stay as it is, because objects and pods hold on to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Choices {
    /// Addresses of Services.
    pub(crate) service_network: Ipv4Net,
}

impl Choices {
    /// Reads what was chosen, or chooses networks that the host does not use.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, Error> {
        let path = data_dir.join(CHOICES);
        match fs::read(&path) {
            Ok(text) => {
                return serde_json::from_slice(&text)
                    .map_err(|source| error::io("read", &path)(io::Error::from(source)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // To choose again would take the addresses of Services away from those who hold on to them.
            Err(error) => return Err(error::io("read", &path)(error)),
        }
        let network = |source| Error::Network { source };
        let taken = Netlink::open().and_then(|netlink| netlink.networks_in_use()).map_err(network)?;
        let service_network = pool::choose_subnet(pool::service_candidates(), &taken).map_err(network)?;
        let choices = Self { service_network };
        // A half-written file must not be found at the next start.
        let new = path.with_extension("new");
        let write = || {
            let file = fs::File::create(&new)?;
            serde_json::to_writer_pretty(&file, &choices)?;
            file.sync_all()
        };
        write().map_err(error::io("write", &new))?;
        fs::rename(&new, &path).map_err(error::io("write", &path))?;
        Ok(choices)
    }

    fn name_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.service_network.network()) + NAME_SERVER)
    }

    /// Takes what Services need on this host away.
    pub(crate) fn take_away(&self, instance: &str) {
        if let Err(error) = dray_network::firewall::delete_leftover(&service_table(instance)) {
            tracing::warn!(%error, "cannot delete the rules of Services");
        }
        let network = self.service_network.trunc().into();
        if let Err(error) = Netlink::open().and_then(|netlink| netlink.remove_route(network)) {
            tracing::warn!(%error, "cannot delete the route of Services");
        }
    }
}

/// The running cluster half.
pub(crate) struct Cluster {
    pub(crate) api: ApiServer,
    choices: Choices,
    instance: String,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

fn service_table(instance: &str) -> String {
    format!("dray-svc-{instance}")
}

impl Cluster {
    /// Opens the store, listens, and starts all parts.
    pub(crate) async fn start(
        engine: &Engine,
        registries: &dray_registry::Client,
        options: &UpOptions,
        listener: TcpListener,
        choices: Choices,
    ) -> Result<Self, Error> {
        let engine_error = |source| Error::Engine { source };
        let listens = |source| Error::Listen { address: options.api_listen, option: "api-listen", source };
        let address = listener.local_addr().map_err(listens)?;
        let pods = engine.ensure_hidden_network(POD_NETWORK).await.map_err(engine_error)?;
        let inside = inside_listener(&pods, address).await?;
        let advertise_address = match &inside {
            Some(inside) => inside.local_addr().map_err(listens)?,
            // Listening everywhere is no address that anybody could ask.
            None if address.ip().is_unspecified() => {
                let own = host_address().or(pods.gateway.map(IpAddr::V4));
                SocketAddr::new(own.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), address.port())
            }
            None => address,
        };
        let local = Arc::new(LocalNode { name: options.node_name(), agent: OnceLock::new() });
        let metrics = Arc::new(Metrics::default());
        let data_dir = options.data_dir.join("cluster");
        fs::create_dir_all(&data_dir).map_err(error::io("create", &data_dir))?;
        let config = Config {
            data_dir,
            service_cidr: choices.service_network.to_string(),
            advertise_address,
            names: vec![address.ip().to_string(), options.node_name()],
            node_connector: Some(local.clone()),
            extensions: vec![metrics.clone()],
        };
        let api = ApiServer::open_on(config, options.store.config())
            .await
            .map_err(|source| Error::Api { source })?;
        if let Some(audit) = options.audit.audit() {
            api.audit(&audit).map_err(|source| Error::Api { source })?;
        }
        let instance = engine.config().instance.clone();
        let mut cluster = Self { api, choices, instance, stop: watch::Sender::new(false), tasks: Vec::new() };
        for listener in [Some(listener), inside].into_iter().flatten() {
            let (api, stopped) = (cluster.api.clone(), cluster.stopped());
            cluster.spawn("API", async move { api.serve(listener, stopped).await });
        }
        // It is empty: nobody else has this cell.
        let _ = metrics.server.set(MetricsServer::new(cluster.client("system:metrics-server")));
        cluster.start_parts(&pods, options);
        let agent = match cluster.start_node(engine, registries, &pods, options) {
            Ok(agent) => agent,
            Err(error) => {
                cluster.stop().await;
                cluster.api.close().await;
                return Err(error);
            }
        };
        // It is empty: nobody else has this cell.
        let _ = local.agent.set(agent);
        Ok(cluster)
    }

    fn start_parts(&mut self, pods: &NetworkRecord, options: &UpOptions) {
        let proxy = ProxyConfig {
            table: service_table(&self.instance),
            node_name: options.node_name(),
            service_network: self.choices.service_network,
            pod_network: pods.subnet.unwrap_or_default(),
            pod_bridge: pods.bridge.clone(),
            name_address: self.choices.name_address(),
            domain: DOMAIN.to_owned(),
            resolvers: Resolvers::File("/etc/resolv.conf".into()),
            fallback: None,
        };
        let part = dray_proxy::run(self.client("system:kube-proxy"), proxy, self.stopped());
        self.spawn("proxy", part);
        // Of servers that share a store one decides; one whose store is its own needs no Lease to know that.
        let identity =
            options.store.is_shared().then(|| format!("{}_{}", options.node_name(), self.instance));
        let profiles = options.scheduler_profiles.clone();
        let config = dray_scheduler::Config { profiles, identity: identity.clone() };
        let part = dray_scheduler::run_with(self.client("system:kube-scheduler"), config, self.stopped());
        self.spawn("scheduler", part);
        let directories = Arc::new(VolumeDirectories::new(options.data_dir.join("local-path")));
        let config = dray_controllers::Config {
            authority: Some(self.api.authority().to_owned()),
            local_volumes: Some(LocalVolumes { node: options.node_name(), directories }),
            candidate: identity.map(|identity| Candidate { identity, term: Term::default() }),
        };
        let client = self.client("system:kube-controller-manager");
        let part = dray_controllers::run(client, config, self.stopped());
        self.spawn("controllers", part);
    }

    /// Starts the agent that keeps pods on this machine.
    fn start_node(
        &mut self,
        engine: &Engine,
        registries: &dray_registry::Client,
        pods: &NetworkRecord,
        options: &UpOptions,
    ) -> Result<Arc<Agent>, Error> {
        let name = options.node_name();
        let client = self.client(&format!("system:node:{name}"));
        let config = NodeConfig {
            name,
            state_dir: options.node_dir(),
            pod_network: POD_NETWORK.to_owned(),
            cluster_dns: self.choices.name_address(),
            cluster_domain: DOMAIN.to_owned(),
            kubernetes_service: SocketAddr::from((self.api.kubernetes_address(), API_PORT)),
            node_address: host_address()
                .unwrap_or_else(|| pods.gateway.unwrap_or(Ipv4Addr::LOCALHOST).into()),
            labels: BTreeMap::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let agent = Agent::new(engine.clone(), registries.clone(), client, config)
            .map_err(|source| Error::Node { source })?;
        let (running, stopped) = (agent.clone(), self.stopped());
        self.tasks.push(tokio::spawn(async move { running.run(stopped).await }));
        Ok(agent)
    }

    /// A client in this process.
    fn client(&self, name: &str) -> kube::Client {
        kube::Client::new(self.api.service(User::component(name)), "default")
    }

    fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopped = self.stop.subscribe();
        async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    }

    fn spawn<E>(&mut self, name: &'static str, part: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: std::error::Error + Send + 'static,
    {
        self.tasks.push(tokio::spawn(async move {
            if let Err(error) = part.await {
                tracing::error!(
                    part = name,
                    error = &error as &dyn std::error::Error,
                    "a part of the cluster ended"
                );
            }
        }));
    }

    /// Ends the parts and drains connections. The packet rules stay, and traffic goes on.
    pub(crate) async fn stop(&mut self) {
        self.stop.send_replace(true);
        self.api.shut_down();
        for task in self.tasks.drain(..) {
            if let Err(error) = task.await {
                tracing::error!(%error, "a part of the cluster broke");
            }
        }
    }
}

/// The way to the agent in this process.
struct LocalNode {
    name: String,
    agent: OnceLock<Arc<Agent>>,
}

impl NodeConnector for LocalNode {
    fn connect<'a>(&'a self, node: &'a str) -> BoxFuture<'a, io::Result<Box<dyn NodeStream>>> {
        Box::pin(async move {
            let agent = self.agent.get().filter(|_| node == self.name);
            let Some(agent) = agent.cloned() else {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("no agent of the node {node:?} is here"),
                ));
            };
            let (ours, its) = tokio::io::duplex(STREAM_BUFFER);
            tokio::spawn(agent.serve_connection(its));
            Ok(Box::new(ours) as Box<dyn NodeStream>)
        })
    }
}

/// The way to the metrics of nodes and pods, which are served in this process.
#[derive(Default)]
struct Metrics {
    server: OnceLock<MetricsServer>,
}

impl Extension for Metrics {
    fn group(&self) -> &str {
        dray_metrics::GROUP
    }

    fn version(&self) -> &str {
        dray_metrics::VERSION
    }

    fn connect(&self) -> Box<dyn NodeStream> {
        let (ours, its) = tokio::io::duplex(STREAM_BUFFER);
        // Before it is there the connection ends at once, and whoever asked is told so.
        if let Some(server) = self.server.get() {
            tokio::spawn(server.clone().serve_connection(its));
        }
        Box::new(ours)
    }
}

/// The address by which this host reaches others; none without a default route.
fn host_address() -> Option<IpAddr> {
    // Connecting such a socket sends nothing: the kernel only chooses a route. The address is one for documentation.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(203, 0, 113, 1), 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Pods cannot reach the host's loopback address: for them the API answers at their gateway as well.
async fn inside_listener(pods: &NetworkRecord, outside: SocketAddr) -> Result<Option<TcpListener>, Error> {
    let Some(gateway) = pods.gateway.filter(|_| outside.ip().is_loopback()) else { return Ok(None) };
    let address = SocketAddr::new(IpAddr::V4(gateway), outside.port());
    TcpListener::bind(address).await.map(Some).map_err(|source| Error::Listen {
        address,
        option: "api-listen",
        source,
    })
}
