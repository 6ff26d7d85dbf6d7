//! Joining networks and leaving them after a container has been made, whether it runs or not.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use dray_network::link::Netlink;
use dray_network::{IpNet, Ipv4Net};

use crate::container::ContainerHandle;
use crate::error::Trying;
use crate::failpoint::failpoint;
use crate::networks::{self, NetworkRecord, Place};
use crate::record::{ContainerRecord, EndpointRecord};
use crate::spec::{EndpointSpec, NetworkMode, PortBinding};
use crate::{Engine, Error, Result};

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
        if network.name == networks::DEFAULT && spec.address.is_some() {
            return Err(Error::invalid(
                "user specified IP address is supported on user defined networks only",
            ));
        }
        if network.name == networks::DEFAULT && !spec.aliases.is_empty() {
            return Err(Error::invalid(
                "network-scoped alias is supported only for containers in user defined networks",
            ));
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
                interface: free_interface(&namespace)?,
                names: self.names_of(&record, &spec),
                endpoint: &spec,
            };
            let endpoint = self.inner.networks.connect(&network.name, &place)?;
            failpoint("connect.linked");
            let updated = container.update(|record| record.endpoints.push(endpoint.clone()));
            self.inner.networks.names.change(&record.id, &namespace, &updated.endpoints, &endpoint);
            // One that has a way out keeps it.
            let settled = match updated.endpoints.as_slice() {
                [only] => self.publish_at(container, only.address, &record.spec.ports),
                all => all.first().map_or(Ok(()), |first| self.lead_out(&namespace, first)),
            };
            if let Err(error) = settled {
                self.leave(container, &updated, updated.endpoints.len() - 1)?;
                return Err(error);
            }
        }
        container.update(|record| drop(record.spec.endpoints.insert(network.name.clone(), spec)));
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
            if first_network(record) == network.name
                && let Some(next) = record.spec.endpoints.keys().next()
            {
                record.spec.network = NetworkMode::Named(next.clone());
            }
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

    /// Takes one place of a running container away. Ports and the way out move to what was the next.
    fn leave(&self, container: &ContainerHandle, record: &ContainerRecord, index: usize) -> Result<()> {
        let endpoint = &record.endpoints[index];
        if index == 0
            && let Some(address) = endpoint.address
        {
            self.inner.networks.unpublish(&record.id, &record.ports, address)?;
        }
        self.inner.networks.disconnect(endpoint)?;
        let updated = container.update(|record| {
            record.endpoints.remove(index);
            if index == 0 {
                record.ports.clear();
            }
        });
        let namespace = self.namespace_path(&record.id);
        self.inner.networks.names.change(&record.id, &namespace, &updated.endpoints, endpoint);
        if let Some(first) = updated.endpoints.first() {
            if index == 0 {
                self.publish_at(container, first.address, &record.ports)?;
            }
            self.lead_out(&namespace, first)?;
        }
        Ok(())
    }

    fn publish_at(
        &self,
        container: &ContainerHandle,
        address: Option<Ipv4Addr>,
        ports: &[PortBinding],
    ) -> Result<()> {
        let Some(address) = address else { return Ok(()) };
        let bound = self.inner.networks.publish(&container.id, &container.record().name, ports, address)?;
        container.update(|record| record.ports = bound);
        Ok(())
    }

    /// Makes a place the way to everywhere else.
    fn lead_out(&self, namespace: &Path, endpoint: &EndpointRecord) -> Result<()> {
        let network = self.inner.networks.find(endpoint.network.as_str())?;
        let Some(gateway) = endpoint.gateway.filter(|_| !network.internal) else { return Ok(()) };
        let everywhere = IpNet::V4(Ipv4Net::default());
        let netlink = Netlink::open_in(namespace).trying("open a netlink socket in the container")?;
        netlink.replace_route(everywhere, IpAddr::V4(gateway)).trying("change the container's default route")
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
    let first = first_network(record);
    let names = record.spec.endpoints.keys().map(String::as_str).chain([first]);
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

/// The first `ethN` that a namespace does not have.
fn free_interface(namespace: &Path) -> Result<String> {
    let netlink = Netlink::open_in(namespace).trying("open a netlink socket in the container")?;
    let links = netlink.list_links().trying("list the container's interfaces")?;
    let mut names = (0_u32..).map(|index| format!("eth{index}"));
    let free = names.find(|name| links.iter().all(|link| link.name != *name));
    free.ok_or_else(|| Error::conflict("the container has too many interfaces"))
}
