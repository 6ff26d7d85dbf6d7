//! Services of this machine as packet rules, and the cluster's names. It reaches the cluster through a
//! [`kube::Client`] only, and must not know the API server, the store or the container engine.
#![forbid(unsafe_code)]

mod cluster;
mod error;
mod rules;
mod zone;

use std::fmt;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use dray_network::Ipv4Net;
use dray_network::link::Netlink;
use dray_network::names::{Forwarder, Listening, NameServer, Resolvers, Zone};
use futures_util::{FutureExt, Stream, StreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client};
use parking_lot::RwLock;

pub use cluster::{Cluster, PortName, ServiceName, ServicePort};
pub use error::{Error, Result};
pub use rules::{Networks, Rules};
pub use zone::ClusterZone;

/// The port of name servers.
const NAME_PORT: u16 = 53;
const LOOPBACK: &str = "lo";
/// After rules could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// What the proxy has to know of its node.
#[derive(Clone)]
pub struct ProxyConfig {
    /// The name of the packet rules' table; unique for each daemon, at most 31 bytes.
    pub table: String,
    /// The node's name, which says which endpoints are local.
    pub node_name: String,
    /// Addresses of Services; a route to it is added on the loopback interface.
    pub service_network: Ipv4Net,
    /// Addresses of this node's pods.
    pub pod_network: Ipv4Net,
    /// The interface of the pods' bridge, which must exist.
    pub pod_bridge: String,
    /// Where the cluster's names are served; given to the pods' bridge as one more address.
    pub name_address: Ipv4Addr,
    /// The cluster's domain, as `cluster.local`.
    pub domain: String,
    /// Whom to ask for names outside.
    pub resolvers: Resolvers,
    /// Asked for names that are not of the cluster, before the resolvers.
    pub fallback: Option<Arc<dyn Zone>>,
}

impl fmt::Debug for ProxyConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ProxyConfig")
            .field("table", &self.table)
            .field("service_network", &self.service_network)
            .field("pod_network", &self.pod_network)
            .field("name_address", &self.name_address)
            .finish_non_exhaustive()
    }
}

/// Keeps the rules and names as the cluster's Services say until `shutdown`. The rules stay when it ends, so
/// that traffic goes on while a daemon restarts.
pub async fn run(client: Client, config: ProxyConfig, shutdown: impl Future<Output = ()>) -> Result<()> {
    let cluster = Arc::new(RwLock::new(Cluster::new()));
    prepare_links(&config)?;
    let _listening = serve_names(&config, cluster.clone())?;
    let networks = Networks {
        services: config.service_network,
        pods: config.pod_network,
        bridge: config.pod_bridge.clone(),
        name_server: Some(config.name_address),
    };
    let failed = |source| Error::Rules { table: config.table.clone(), source };
    let mut rules = Some(Rules::open(&config.table, networks).map_err(failed)?);
    let services = Api::<Service>::all(client.clone());
    let slices = Api::<EndpointSlice>::all(client);
    let streaming = || watcher::Config::default().streaming_lists();
    let mut services = Inbox::new("Services", watch(services, streaming()).default_backoff());
    let mut slices = Inbox::new("EndpointSlices", watch(slices, streaming()).default_backoff());
    let mut shutdown = pin!(shutdown);
    let mut failing = false;
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            received = services.receive() => received?,
            received = slices.receive() => received?,
            () = tokio::time::sleep(RETRY), if failing => {}
        }
        // What has arrived meanwhile goes into the same transaction.
        services.receive_waiting()?;
        slices.receive_waiting()?;
        let changes = {
            let mut cluster = cluster.write();
            services.deliver(|change| match change {
                Change::Apply(service) => cluster.apply_service(&service),
                Change::Delete(service) => {
                    if let Some(name) = cluster::service_name(&service.metadata) {
                        cluster.remove_service(&name);
                    }
                }
                Change::Replace(services) => cluster.replace_services(&services),
            });
            slices.deliver(|change| match change {
                Change::Apply(slice) => cluster.apply_slice(&slice),
                Change::Delete(slice) => cluster.remove_slice(&slice),
                Change::Replace(slices) => cluster.replace_slices(&slices),
            });
            // Half a picture would cut off what an earlier process has set up.
            if !(services.complete && slices.complete) {
                continue;
            }
            cluster.take_changes(&config.node_name)
        };
        if changes.is_empty() && rules.as_ref().is_some_and(Rules::is_written) {
            continue;
        }
        let mut writer = rules.take().ok_or(Error::WriterDied)?;
        // The kernel waits for a grace period before it answers.
        let written = tokio::task::spawn_blocking(move || {
            let result = writer.sync(&changes);
            (writer, changes, result)
        });
        let (writer, changes, result) = written.await.map_err(|_| Error::WriterDied)?;
        rules = Some(writer);
        failing = result.is_err();
        if let Err(source) = result {
            let error = Error::Rules { table: config.table.clone(), source };
            tracing::error!(error = &error as &dyn std::error::Error, "services are not up to date");
            cluster.write().mark_changed(changes.into_keys());
        }
    }
}

fn prepare_links(config: &ProxyConfig) -> Result<()> {
    let failed = |source| Error::Route { bridge: config.pod_bridge.clone(), source };
    let netlink = Netlink::open().map_err(failed)?;
    let address = Ipv4Net::from(config.name_address);
    netlink.add_address(&config.pod_bridge, address.into()).map_err(failed)?;
    // A host without a default route would refuse a Service's address before any rule sees it. Not by the
    // pods' bridge: a packet that would leave by where it came in makes the kernel redirect the pod.
    netlink.replace_link_route(config.service_network.trunc().into(), LOOPBACK).map_err(failed)
}

fn serve_names(config: &ProxyConfig, cluster: Arc<RwLock<Cluster>>) -> Result<Listening> {
    let networks = vec![config.service_network, config.pod_network];
    let zone = ClusterZone::new(cluster, &config.domain, networks, config.fallback.clone());
    let forwarder = Arc::new(Forwarder::new(config.resolvers.clone()));
    let address = SocketAddr::from((config.name_address, NAME_PORT));
    NameServer::new(Arc::new(zone), forwarder)
        .serve_at(None, address)
        .map_err(|source| Error::Names { address, source })
}

/// A change of one kind's objects.
enum Change<K> {
    Apply(K),
    Delete(K),
    /// After the watch had to begin again.
    Replace(Vec<K>),
}

/// One kind's watch, with what has arrived and not been delivered.
struct Inbox<K, S> {
    kind: &'static str,
    stream: std::pin::Pin<Box<S>>,
    /// What a list that is under way has brought.
    listed: Vec<K>,
    changes: Vec<Change<K>>,
    /// A whole list has arrived.
    complete: bool,
}

impl<K, S: Stream<Item = watcher::Result<Event<K>>>> Inbox<K, S> {
    fn new(kind: &'static str, stream: S) -> Self {
        Self { kind, stream: Box::pin(stream), listed: Vec::new(), changes: Vec::new(), complete: false }
    }

    async fn receive(&mut self) -> Result<()> {
        let event = self.stream.next().await.ok_or(Error::WatchEnded { kind: self.kind })?;
        self.take(event);
        Ok(())
    }

    fn receive_waiting(&mut self) -> Result<()> {
        while let Some(event) = self.stream.next().now_or_never() {
            self.take(event.ok_or(Error::WatchEnded { kind: self.kind })?);
        }
        Ok(())
    }

    fn take(&mut self, event: watcher::Result<Event<K>>) {
        match event {
            Ok(Event::Apply(object)) => self.changes.push(Change::Apply(object)),
            Ok(Event::Delete(object)) => self.changes.push(Change::Delete(object)),
            Ok(Event::Init) => self.listed.clear(),
            Ok(Event::InitApply(object)) => self.listed.push(object),
            Ok(Event::InitDone) => {
                self.changes.push(Change::Replace(std::mem::take(&mut self.listed)));
                self.complete = true;
            }
            // The stream tries again by itself, with growing pauses.
            Err(error) => tracing::warn!(kind = self.kind, %error, "watching failed"),
        }
    }

    fn deliver(&mut self, deliver: impl FnMut(Change<K>)) {
        self.changes.drain(..).for_each(deliver);
    }
}
