//! The name server that every container with an interface finds at 127.0.0.11.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use dray_network::names::{Forwarder, Listening, NameServer, Names, Prepared, Resolvers, View};
use parking_lot::Mutex;

use crate::Id;
use crate::networks::{NetworkRecord, addresses_of};
use crate::record::EndpointRecord;
use crate::spec::DnsOptions;

/// Where the server listens, as Docker's does.
pub(crate) const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

const PORT: u16 = 53;

/// What one container asks of its name server.
pub(crate) struct Listener<'a> {
    pub(crate) dns: &'a DnsOptions,
    /// Names that it alone has for others.
    pub(crate) aliases: HashMap<String, String>,
}

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

    /// Whom to ask what our names do not answer: the host's resolvers, unless the container names others.
    fn forwarder_for(&self, dns: &DnsOptions) -> Arc<Forwarder> {
        let servers: Vec<SocketAddr> = dns
            .servers
            .iter()
            .filter_map(|server| server.parse::<IpAddr>().ok())
            .map(|address| SocketAddr::new(address, PORT))
            .collect();
        if servers.is_empty() {
            return Arc::clone(&self.forwarder);
        }
        Arc::new(Forwarder::new(Resolvers::Fixed(servers)))
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
        listener: Listener<'_>,
    ) {
        for endpoint in endpoints {
            for address in addresses_of(endpoint) {
                self.names.add(endpoint.network.as_str(), address, &endpoint.names);
            }
        }
        let view = self.names.view(networks_of(endpoints));
        view.set_aliases(listener.aliases);
        let server = NameServer::new(view.clone(), self.forwarder_for(listener.dns));
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
        listener: Listener<'_>,
    ) {
        let network = changed.network.as_str();
        for address in addresses_of(changed) {
            if endpoints.contains(changed) {
                self.names.add(network, address, &changed.names);
            } else {
                self.names.remove(network, address);
            }
        }
        match self.listening.lock().get(owner) {
            Some((_, view)) => {
                view.set_aliases(listener.aliases);
                return view.set_networks(networks_of(endpoints));
            }
            // A daemon that found a container without any place serves it nothing.
            None if endpoints.is_empty() => return,
            None => {}
        }
        self.serve(owner, namespace, endpoints, None, listener);
    }

    /// Ends the service of a container and forgets its names.
    pub(crate) fn forget(&self, owner: &Id, endpoints: &[EndpointRecord]) {
        self.listening.lock().remove(owner);
        for endpoint in endpoints {
            for address in addresses_of(endpoint) {
                self.names.remove(endpoint.network.as_str(), address);
            }
        }
    }
}

fn networks_of(endpoints: &[EndpointRecord]) -> Vec<String> {
    endpoints.iter().map(|endpoint| endpoint.network.to_string()).collect()
}
