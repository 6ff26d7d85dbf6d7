//! The cluster's Services, as far as containers are told of them in their environment.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use parking_lot::RwLock;
use tokio::sync::watch;

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) number: i32,
    pub(crate) protocol: String,
}

/// A Service with an address of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) address: String,
    pub(crate) ports: Vec<Port>,
}

/// All of them, by namespace and name.
pub(crate) struct Services {
    all: RwLock<BTreeMap<(String, String), Known>>,
    complete: watch::Sender<bool>,
}

impl Services {
    pub(crate) fn new() -> Self {
        Self { all: RwLock::new(BTreeMap::new()), complete: watch::Sender::new(false) }
    }

    /// Follows the cluster's Services until it is dropped.
    pub(crate) async fn follow(&self, client: Client) {
        let api: Api<Service> = Api::all(client);
        let mut events = watcher::watcher(api, watcher::Config::default()).boxed();
        let mut listed = BTreeMap::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(service)) => apply(&mut listed, service),
                Ok(Event::InitDone) => {
                    *self.all.write() = std::mem::take(&mut listed);
                    self.complete.send_replace(true);
                }
                Ok(Event::Apply(service)) => apply(&mut self.all.write(), service),
                Ok(Event::Delete(service)) => {
                    self.all.write().remove(&key(&service));
                }
                Err(error) => {
                    tracing::debug!(%error, "the watch of services broke");
                    // The watcher begins again by itself, at once: a server that is away must not be hammered.
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Waits until the first list has come.
    pub(crate) async fn wait_complete(&self) {
        let _ = self.complete.subscribe().wait_for(|complete| *complete).await;
    }

    /// The Services of a namespace, by name.
    pub(crate) fn of(&self, namespace: &str) -> Vec<(String, Known)> {
        let from = (namespace.to_owned(), String::new());
        self.all
            .read()
            .range(from..)
            .take_while(|((other, _), _)| other == namespace)
            .map(|((_, name), known)| (name.clone(), known.clone()))
            .collect()
    }
}

/// The pause before a broken watch begins again.
pub(crate) const RETRY: std::time::Duration = std::time::Duration::from_millis(500);

fn key(service: &Service) -> (String, String) {
    let metadata = &service.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn apply(all: &mut BTreeMap<(String, String), Known>, service: Service) {
    let key = key(&service);
    let spec = service.spec.unwrap_or_default();
    let address = spec.cluster_ip.filter(|address| !address.is_empty() && address != "None");
    let Some(address) = address else {
        all.remove(&key);
        return;
    };
    let ports = spec
        .ports
        .unwrap_or_default()
        .into_iter()
        .map(|port| Port {
            name: port.name.unwrap_or_default(),
            number: port.port,
            protocol: port.protocol.unwrap_or_else(|| "TCP".to_owned()),
        })
        .collect();
    all.insert(key, Known { address, ports });
}
