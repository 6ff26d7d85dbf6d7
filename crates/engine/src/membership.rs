//! Joining networks and leaving them after a container has been made, whether it runs or not.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use dray_network::link::Netlink;

use crate::container::ContainerHandle;
use crate::error::Trying;
use crate::failpoint::failpoint;
use crate::name_service::Listener;
use crate::networks::{self, NetworkRecord, Place};
use crate::record::ContainerRecord;
use crate::spec::{EndpointSpec, NetworkMode};
use crate::{Engine, Error, Result, oci};

impl Engine {
    /// Connects a container to one more network, at once when it runs, or else with its next start.
    ///
    /// # Errors
    /// [`Error::NetworkNotFound`]; [`Error::Forbidden`] when it is there already; [`Error::Invalid`] when one of the
    /// networks is not of the kind that can be joined; [`Error::Conflict`] when the address is taken.
    pub async fn connect_network(
        &self,
        container: &Arc<ContainerHandle>,
        network: &str,
        endpoint: EndpointSpec,
    ) -> Result<()> {
        let (engine, container, name) = (self.clone(), Arc::clone(container), network.to_owned());
        Self::to_the_end(async move {
            let _operation = container.operation.lock().await;
            let handle = Arc::clone(&container);
            engine
                .blocking(move |engine| {
                    let network = engine.inner.networks.find(&name)?;
                    engine.connect_blocking(&handle, &network, endpoint)
                })
                .await
        })
        .await
    }

    /// Takes a container out of a network, at once when it runs.
    ///
    /// # Errors
    /// [`Error::NetworkNotFound`]; [`Error::Forbidden`] when it is not in that network; [`Error::Invalid`] when it has
    /// the host's.
    pub async fn disconnect_network(&self, container: &Arc<ContainerHandle>, network: &str) -> Result<()> {
        let (engine, container, name) = (self.clone(), Arc::clone(container), network.to_owned());
        Self::to_the_end(async move {
            let _operation = container.operation.lock().await;
            let handle = Arc::clone(&container);
            engine
                .blocking(move |engine| {
                    let network = engine.inner.networks.find(&name)?;
                    engine.disconnect_blocking(&handle, &network)
                })
                .await
        })
        .await
    }

    fn connect_blocking(
        &self,
        container: &ContainerHandle,
        network: &NetworkRecord,
        spec: EndpointSpec,
    ) -> Result<()> {
        let record = container.record();
        check_kinds(&record, network)?;
        network.check_endpoint(&spec)?;
        if network.name == networks::DEFAULT {
            self.check_links(std::iter::once(&spec))?;
        }
        if is_member(&record, network) {
            return Err(Error::Forbidden {
                message: format!(
                    "endpoint with name {} already exists in network {}",
                    record.name, network.name
                ),
            });
        }
        if container.is_running() {
            let namespace = self.namespace_path(&record.id);
            let place = Place {
                owner: &record.id,
                namespace: &namespace,
                index: free_interface(&namespace, network.interface_prefix())?,
                names: self.names_of(&record, &spec),
                endpoint: &spec,
                // Which place leads out is decided below, when all are there.
                leads: (false, false),
            };
            let endpoint = self.inner.networks.connect(&network.name, &place)?;
            failpoint("connect.linked");
            let updated = container.update(|record| {
                record.endpoints.push(endpoint.clone());
                record.spec.endpoints.insert(network.name.clone(), spec.clone());
            });
            let listener = Listener { dns: &updated.spec.dns, aliases: self.link_names(&updated) };
            self.inner.networks.names.change(&record.id, &namespace, &updated.endpoints, &endpoint, listener);
            let addresses: Vec<_> = networks::addresses_of(&endpoint).collect();
            let settled = self
                .settle(container, &record, &updated)
                .and_then(|()| self.change_hosts(&updated, &[], &addresses));
            if let Err(error) = settled {
                self.leave(container, &updated, updated.endpoints.len() - 1)?;
                container.update(|record| drop(record.spec.endpoints.remove(&network.name)));
                return Err(error);
            }
        }
        container.update(|record| {
            let first = first_network(record);
            record.has_left_first &= first != network.name && first != network.id.as_str();
            record.spec.endpoints.insert(network.name.clone(), spec);
        });
        self.save(container)?;
        failpoint("connect.recorded");
        self.network_event("connect", network, Some(&record.id));
        Ok(())
    }

    fn disconnect_blocking(&self, container: &ContainerHandle, network: &NetworkRecord) -> Result<()> {
        let record = container.record();
        if record.spec.network == NetworkMode::Host || network.driver == "host" {
            return Err(Error::invalid(
                "container cannot be disconnected from host network or connected to host network",
            ));
        }
        if !is_member(&record, network) {
            let message = format!("container {} is not connected to network {}", record.id, network.name);
            return Err(Error::Forbidden { message });
        }
        let change = |record: &mut ContainerRecord| {
            record.spec.endpoints.remove(&network.name);
            // The next start is in what is left; with nothing left it begins anew.
            let first = first_network(record);
            record.has_left_first |= first == network.name || first == network.id.as_str();
        };
        // On disk first: what a crash leaves in the kernel without a record is cleared by the next start.
        let mut without = (*record).clone();
        change(&mut without);
        without.endpoints.retain(|endpoint| endpoint.network != network.id);
        self.write_ahead(container, &without)?;
        failpoint("disconnect.recorded");
        if let Some(index) = record.endpoints.iter().position(|endpoint| endpoint.network == network.id) {
            self.leave(container, &record, index)?;
        }
        failpoint("disconnect.left");
        container.update(change);
        self.save(container)?;
        self.network_event("disconnect", network, Some(&record.id));
        Ok(())
    }

    /// Takes one place of a running container away.
    fn leave(&self, container: &ContainerHandle, record: &ContainerRecord, index: usize) -> Result<()> {
        let endpoint = &record.endpoints[index];
        let namespace = self.namespace_path(&record.id);
        let updated = container.update(|record| drop(record.endpoints.remove(index)));
        let settled = self.settle(container, record, &updated);
        self.inner.networks.disconnect(endpoint, &namespace)?;
        settled?;
        // The kernel took the way out with the interface; what is left may have another.
        self.lead_out(&updated)?;
        let listener = Listener { dns: &record.spec.dns, aliases: self.link_names(&updated) };
        self.inner.networks.names.change(&record.id, &namespace, &updated.endpoints, endpoint, listener);
        let addresses: Vec<_> = networks::addresses_of(endpoint).collect();
        self.change_hosts(&updated, &addresses, &[])
    }

    /// Lets ports and the way out follow a change of a container's places.
    fn settle(
        &self,
        container: &ContainerHandle,
        before: &ContainerRecord,
        after: &ContainerRecord,
    ) -> Result<()> {
        let (old, new) = (self.published(before), self.published(after));
        if old != new {
            self.inner.networks.unpublish(&before.id, &before.ports, old)?;
            container.update(|record| record.ports.clear());
            let bound = self.inner.networks.publish(&after.id, &after.name, &after.spec.ports, new)?;
            container.update(|record| record.ports = bound);
        }
        self.lead_out(after)
    }

    fn change_hosts(&self, record: &ContainerRecord, gone: &[IpAddr], new: &[IpAddr]) -> Result<()> {
        crate::files::change_hosts(&self.container_dir(&record.id), record, &oci::hostname(record), gone, new)
    }

    /// Makes that place of a running container the way to everywhere else which should be.
    fn lead_out(&self, record: &ContainerRecord) -> Result<()> {
        let mut places = Vec::new();
        for endpoint in &record.endpoints {
            let network = self.inner.networks.find(endpoint.network.as_str())?;
            let spec = record.spec.endpoints.get(&network.name);
            places.push((network, spec.map_or(0, |spec| spec.gateway_priority)));
        }
        let namespace = self.namespace_path(&record.id);
        let mut netlink = None;
        for (ipv4, which) in [(true, (true, false)), (false, (false, true))] {
            let Some(index) = networks::leads(&places, ipv4) else { continue };
            let endpoint = &record.endpoints[index];
            for gateway in networks::default_routes(&places[index].0, endpoint, which) {
                if netlink.is_none() {
                    let open = Netlink::open_in(&namespace);
                    netlink = Some(open.trying("open a netlink socket in the container")?);
                }
                // Records of an earlier version do not name the interface, and nothing has to change for them.
                if let Some(netlink) = netlink.as_ref().filter(|_| !endpoint.interface.is_empty()) {
                    let changed = netlink.replace_default_route(&endpoint.interface, gateway);
                    changed.trying("change the container's default route")?;
                }
            }
        }
        Ok(())
    }
}

/// The name of the network that a container joins first.
fn first_network(record: &ContainerRecord) -> &str {
    match &record.spec.network {
        NetworkMode::Named(name) => name,
        NetworkMode::Default => networks::DEFAULT,
        _ => "",
    }
}

/// Whether a container is in a network, or will be with its next start.
fn is_member(record: &ContainerRecord, network: &NetworkRecord) -> bool {
    if record.state.process.is_some() {
        return record.endpoints.iter().any(|endpoint| endpoint.network == network.id);
    }
    let first = Some(first_network(record)).filter(|_| !record.has_left_first);
    let names = record.spec.endpoints.keys().map(String::as_str).chain(first);
    names.into_iter().any(|name| name == network.name || (!name.is_empty() && network.id.as_str() == name))
}

fn check_kinds(record: &ContainerRecord, network: &NetworkRecord) -> Result<()> {
    let words = match (&record.spec.network, network.driver.as_str()) {
        (NetworkMode::Container(_) | NetworkMode::Sandbox(_), _) => {
            "container sharing network namespace with another container or host cannot be connected to any other network"
        }
        (NetworkMode::Host, _) | (_, "host") => {
            "container cannot be disconnected from host network or connected to host network"
        }
        (NetworkMode::None, _) | (_, "null") => {
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
        }
        _ => return Ok(()),
    };
    Err(Error::invalid(words))
}

/// The first number that no interface of a namespace has after this prefix.
fn free_interface(namespace: &Path, prefix: &str) -> Result<usize> {
    let netlink = Netlink::open_in(namespace).trying("open a netlink socket in the container")?;
    let links = netlink.list_links().trying("list the container's interfaces")?;
    let is_free = |index: &usize| links.iter().all(|link| link.name != format!("{prefix}{index}"));
    (0..).find(is_free).ok_or_else(|| Error::conflict("the container has too many interfaces"))
}
