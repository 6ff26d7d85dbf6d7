//! Links, Docker's older way for a container to know others: names of its own for them, and on the default network
//! lines in its `/etc/hosts` and variables in its environment.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::container::ContainerHandle;
use crate::networks;
use crate::record::{ContainerRecord, Status};
use crate::spec::{EndpointSpec, NetworkMode};
use crate::{Engine, Error, Result};

/// A linked container as its reader sees it.
pub(crate) struct Link {
    /// The name it is known by.
    pub(crate) alias: String,
    /// Its own name.
    name: String,
    id: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// Its ports as `80/tcp`, by number.
    ports: BTreeSet<(u16, String)>,
    environment: Vec<String>,
}

impl Link {
    /// Its names, as a line of `/etc/hosts` has them.
    pub(crate) fn host_names(&self) -> String {
        format!("{} {} {}", self.alias, self.id, self.name)
    }
}

/// `container:alias`, or a container alone, whose name is the alias.
fn split(link: &str) -> (&str, &str) {
    let (name, alias) = link.rsplit_once(':').unwrap_or((link, link));
    (name.trim_start_matches('/'), alias.rsplit('/').next().unwrap_or(alias))
}

impl Engine {
    /// Takes a name away by which a container alone knows another.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it has no such name.
    pub async fn remove_link(&self, container: &ContainerHandle, alias: &str) -> Result<()> {
        let _operation = container.operation.lock().await;
        let record = container.record();
        let mut links = record.spec.endpoints.values().flat_map(|endpoint| &endpoint.links);
        if !links.any(|link| split(link).1 == alias) {
            return Err(Error::NotFound { kind: "link", name: format!("/{}/{alias}", record.name) });
        }
        container.update(|record| {
            for endpoint in record.spec.endpoints.values_mut() {
                endpoint.links.retain(|link| split(link).1 != alias);
            }
        });
        self.save(container)
    }

    /// Whether every container that one is to be linked with on the default network is there. On others a name may come
    /// to mean somebody later.
    pub(crate) fn check_links<'a>(&self, endpoints: impl Iterator<Item = &'a EndpointSpec>) -> Result<()> {
        for link in endpoints.flat_map(|endpoint| &endpoint.links) {
            let (name, _) = split(link);
            self.container(name)
                .map_err(|error| Error::invalid(format!("could not get container for {name}: {error}")))?;
        }
        Ok(())
    }

    /// The links of a container on the default network.
    pub(crate) fn legacy_links(&self, record: &ContainerRecord) -> Result<Vec<Link>> {
        let here = record.spec.endpoints.get(networks::DEFAULT);
        let (NetworkMode::Default, Some(here)) = (&record.spec.network, here) else { return Ok(Vec::new()) };
        let mut links = Vec::with_capacity(here.links.len());
        for link in &here.links {
            let (name, alias) = split(link);
            let other = self.container(name)?.record();
            if other.state.status != Status::Running {
                return Err(Error::conflict(format!(
                    "Cannot link to a non running container: /{} AS /{}/{alias}",
                    other.name, record.name
                )));
            }
            let place = other.endpoints.iter().find(|place| place.network_name == networks::DEFAULT);
            let Some(place) = place else {
                return Err(Error::conflict(format!(
                    "Cannot link to {}, as it does not belong to the default network",
                    other.name
                )));
            };
            let mut ports: BTreeSet<(u16, String)> = BTreeSet::new();
            let published = other.spec.ports.iter();
            ports.extend(published.map(|port| (port.container_port, port.protocol.name().to_owned())));
            ports.extend(other.spec.exposed.iter().filter_map(|text| {
                let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
                Some((number.parse().ok()?, protocol.to_owned()))
            }));
            links.push(Link {
                alias: alias.to_owned(),
                name: other.name.clone(),
                id: other.id.short().to_owned(),
                addresses: networks::addresses_of(place).collect(),
                ports,
                environment: other.env.clone(),
            });
        }
        Ok(links)
    }

    /// The names that a container alone knows others by, with the names that everybody knows them by.
    pub(crate) fn link_names(&self, record: &ContainerRecord) -> HashMap<String, String> {
        let mut names = HashMap::new();
        for link in record.spec.endpoints.values().flat_map(|endpoint| &endpoint.links) {
            let (name, alias) = split(link);
            let target =
                self.container(name).map_or_else(|_| name.to_owned(), |other| other.record().name.clone());
            names.insert(alias.to_ascii_lowercase(), target.to_ascii_lowercase());
        }
        names
    }
}

/// The record with the variables that tell of linked containers; its own win.
pub(crate) fn with_environment(record: &ContainerRecord, links: &[Link]) -> ContainerRecord {
    let mut record = record.clone();
    let mut variables = Vec::new();
    for link in links {
        let prefix = link.alias.replace('-', "_").to_ascii_uppercase();
        let Some(address) = link.addresses.first() else { continue };
        let target = |port: u16, protocol: &str| format!("{protocol}://{address}:{port}");
        if let Some((port, protocol)) = link.ports.first() {
            variables.push(format!("{prefix}_PORT={}", target(*port, protocol)));
        }
        for (port, protocol) in &link.ports {
            let name = format!("{prefix}_PORT_{port}_{}", protocol.to_ascii_uppercase());
            variables.push(format!("{name}={}", target(*port, protocol)));
            variables.push(format!("{name}_ADDR={address}"));
            variables.push(format!("{name}_PORT={port}"));
            variables.push(format!("{name}_PROTO={protocol}"));
        }
        variables.push(format!("{prefix}_NAME=/{}/{}", record.name, link.alias));
        for entry in &link.environment {
            if let Some((name, value)) = entry.split_once('=')
                && !["HOME", "PATH"].contains(&name)
            {
                variables.push(format!("{prefix}_ENV_{name}={value}"));
            }
        }
    }
    variables.append(&mut record.env);
    record.env = variables;
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_have_a_name_and_an_alias() {
        assert_eq!(split("db"), ("db", "db"));
        assert_eq!(split("/db:/web/store"), ("db", "store"));
        assert_eq!(split("db:store"), ("db", "store"));
    }
}
