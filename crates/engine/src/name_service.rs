//! The name server that every container with an interface finds at 127.0.0.11.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use dray_network::names::{Forwarder, Listening, NameServer, Names, Prepared, Resolvers, View};
use parking_lot::Mutex;

use crate::Id;
use crate::networks::NetworkRecord;
use crate::record::EndpointRecord;

/// Where the server listens, as Docker's does.
pub(crate) const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

pub(crate) struct NameService {
    names: Arc<Names>,
    forwarder: Arc<Forwarder>,
    /// What listens in each container, and what it sees.
    listening: Mutex<HashMap<Id, (Listening, Arc<View>)>>,
}

impl NameService {
    pub(crate) fn new() -> Self {
        Self {
            names: Names::new(),
            forwarder: Arc::new(Forwarder::new(Resolvers::File("/etc/resolv.conf".into()))),
            listening: Mutex::new(HashMap::new()),
        }
    }

    pub(crate) fn add_network(&self, record: &NetworkRecord) {
        self.names.add_network(record.id.as_str(), &record.name, record.internal);
    }

    pub(crate) fn remove_network(&self, id: &Id) {
        self.names.remove_network(id.as_str());
    }

    /// Adds a container's names and serves those of its networks in its namespace.
    ///
    /// `prepared` has the sockets when they were made ahead.
    pub(crate) fn serve(
        &self,
        owner: &Id,
        namespace: &Path,
        endpoints: &[EndpointRecord],
        prepared: Option<Prepared>,
    ) {
        for endpoint in endpoints {
            if let Some(address) = endpoint.address {
                self.names.add(endpoint.network.as_str(), IpAddr::V4(address), &endpoint.names);
            }
        }
        let view = self.names.view(networks_of(endpoints));
        let server = NameServer::new(view.clone(), Arc::clone(&self.forwarder));
        let served = match prepared {
            Some(prepared) => server.serve_prepared(prepared),
            None => server.serve_redirected(namespace, ADDRESS),
        };
        match served {
            Ok(listening) => {
                self.listening.lock().insert(owner.clone(), (listening, view));
            }
            Err(error) => tracing::warn!(container = %owner, %error, "cannot serve names in a container"),
        }
    }

    /// Tells of a container's places as they are now, one of which is `changed`: new, or no longer there.
    pub(crate) fn change(
        &self,
        owner: &Id,
        namespace: &Path,
        endpoints: &[EndpointRecord],
        changed: &EndpointRecord,
    ) {
        if let Some(address) = changed.address {
            let (network, address) = (changed.network.as_str(), IpAddr::V4(address));
            if endpoints.contains(changed) {
                self.names.add(network, address, &changed.names);
            } else {
                self.names.remove(network, address);
            }
        }
        match self.listening.lock().get(owner) {
            Some((_, view)) => return view.set_networks(networks_of(endpoints)),
            // A daemon that found a container without any place serves it nothing.
            None if endpoints.is_empty() => return,
            None => {}
        }
        self.serve(owner, namespace, endpoints, None);
    }

    /// Ends the service of a container and forgets its names.
    pub(crate) fn forget(&self, owner: &Id, endpoints: &[EndpointRecord]) {
        self.listening.lock().remove(owner);
        for endpoint in endpoints {
            if let Some(address) = endpoint.address {
                self.names.remove(endpoint.network.as_str(), IpAddr::V4(address));
            }
        }
    }
}

fn networks_of(endpoints: &[EndpointRecord]) -> Vec<String> {
    endpoints.iter().map(|endpoint| endpoint.network.to_string()).collect()
}
