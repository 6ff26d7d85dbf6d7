//! Places of containers in networks: their addresses and interfaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use dray_network::IpNet;
use dray_network::link::{Attachment, Child, ChildKind, IpvlanFlag, IpvlanMode, MacAddress, MacvlanMode};

use super::model::{DEFAULT, NetworkRecord};
use super::{Networks, addresses_of};
use crate::error::Trying;
use crate::record::EndpointRecord;
use crate::spec::EndpointSpec;
use crate::{Error, Id, Result};

/// Where a container or sandbox is to be connected.
pub(crate) struct Place<'a> {
    /// Who is connected.
    pub(crate) owner: &'a Id,
    /// Its network namespace.
    pub(crate) namespace: &'a Path,
    /// Its interface's number there.
    pub(crate) index: usize,
    /// More about the place.
    pub(crate) endpoint: &'a EndpointSpec,
    /// Names under which others find it.
    pub(crate) names: Vec<String>,
    /// Whether it is the way to everywhere else, for IPv4 and for IPv6.
    pub(crate) leads: (bool, bool),
}

/// Which of several networks is the way to everywhere else for one version of IP: of those with a gateway the one of
/// the highest priority, and then the first by name.
pub(crate) fn leads(networks: &[(NetworkRecord, i64)], ipv4: bool) -> Option<usize> {
    let mut candidates: Vec<_> =
        networks.iter().enumerate().filter(|(_, (network, _))| network.leads_out(ipv4)).collect();
    candidates.sort_by(|(_, (one, priority)), (_, (other, higher))| {
        higher.cmp(priority).then_with(|| one.name.cmp(&other.name))
    });
    candidates.first().map(|(index, _)| *index)
}

impl NetworkRecord {
    /// Whether what is asked of a place in it can be.
    ///
    /// # Errors
    /// [`Error::Invalid`], with all that is wrong.
    pub(crate) fn check_endpoint(&self, spec: &EndpointSpec) -> Result<()> {
        let mut wrong = Vec::new();
        // Where IPv6 is off an address of it is kept and not given, as the subnets that it would be of.
        let ipv6 = spec.ipv6_address.filter(|_| self.ipv6 || self.is_predefined());
        let addresses = [spec.address.map(IpAddr::V4), ipv6.map(IpAddr::V6)].into_iter().flatten();
        let is_users = self.name != DEFAULT && !self.is_predefined();
        for address in addresses {
            if !is_users {
                wrong.push("user-specified IP address is supported on user-defined networks only".to_owned());
            } else if !self.pools.iter().any(|pool| pool.subnet.contains(&address)) {
                wrong.push(format!("no configured subnet contains IP address {address}"));
            } else if !self.pools.iter().any(|pool| pool.asked && pool.subnet.contains(&address)) {
                wrong.push(
                    "user specified IP address is supported only when connecting to networks with user configured \
                     subnets"
                        .to_owned(),
                );
            }
        }
        if !is_users && !spec.aliases.is_empty() {
            wrong.push("network-scoped aliases are only supported for user-defined networks".to_owned());
        }
        if let Some(mac) = &spec.mac
            && mac.parse::<MacAddress>().is_err()
        {
            wrong.push(format!("invalid MAC address: {mac}"));
        }
        if wrong.is_empty() {
            return Ok(());
        }
        wrong.dedup();
        Err(Error::invalid(format!("invalid endpoint settings:\n{}", wrong.join("\n"))))
    }
}

impl Networks {
    /// Connects a namespace to the network `name`.
    pub(crate) fn connect(&self, name: &str, place: &Place<'_>) -> Result<EndpointRecord> {
        let record = self.find(name)?;
        if record.config_only {
            return Err(Error::Forbidden {
                message: "cannot create endpoint on configuration-only network".to_owned(),
            });
        }
        if !matches!(record.driver.as_str(), "bridge" | "macvlan" | "ipvlan") {
            return Err(Error::invalid(format!("containers cannot be connected to the network {name}")));
        }
        let id = Id::random();
        let mut endpoint = EndpointRecord {
            network: record.id.clone(),
            network_name: record.name.clone(),
            host_link: if record.driver == "bridge" {
                format!("veth{}", &id.as_str()[..10])
            } else {
                String::new()
            },
            id,
            address: None,
            prefix: 0,
            gateway: None,
            mac: None,
            names: place.names.clone(),
            ipv6_address: None,
            ipv6_prefix: 0,
            ipv6_gateway: None,
            interface: format!("{}{}", record.interface_prefix(), place.index),
        };
        let connected = self.allocate_all(&record, place.endpoint, &mut endpoint).and_then(|addresses| {
            let mac = self.attach(&record, place, &endpoint, addresses)?;
            endpoint.mac = Some(mac.to_string());
            Ok(())
        });
        match connected {
            Ok(()) => Ok(endpoint),
            Err(error) => {
                self.release_addresses(&endpoint);
                Err(error)
            }
        }
    }

    fn allocate_all(
        &self,
        record: &NetworkRecord,
        spec: &EndpointSpec,
        endpoint: &mut EndpointRecord,
    ) -> Result<Vec<IpNet>> {
        let mut all = Vec::new();
        if record.ipv4
            && let Some((address, prefix, gateway)) =
                self.allocate(&record.id, true, spec.address.map(IpAddr::V4))?
        {
            all.extend(IpNet::new(address, prefix));
            if let IpAddr::V4(address) = address {
                endpoint.address = Some(address);
                endpoint.prefix = prefix;
            }
            if let Some(IpAddr::V4(gateway)) = gateway {
                endpoint.gateway = Some(gateway);
            }
        }
        if record.ipv6
            && let Some((address, prefix, gateway)) =
                self.allocate(&record.id, false, spec.ipv6_address.map(IpAddr::V6))?
        {
            all.extend(IpNet::new(address, prefix));
            if let IpAddr::V6(address) = address {
                endpoint.ipv6_address = Some(address);
                endpoint.ipv6_prefix = prefix;
            }
            if let Some(IpAddr::V6(gateway)) = gateway {
                endpoint.ipv6_gateway = Some(gateway);
            }
        }
        Ok(all)
    }

    fn attach(
        &self,
        record: &NetworkRecord,
        place: &Place<'_>,
        endpoint: &EndpointRecord,
        addresses: Vec<IpNet>,
    ) -> Result<MacAddress> {
        let asked = place.endpoint.mac.as_deref().map(str::parse::<MacAddress>).transpose();
        let asked = asked.map_err(|error| Error::invalid(error.to_string()))?;
        let mac =
            asked.or_else(|| endpoint.address.map(MacAddress::from_ipv4)).unwrap_or_else(MacAddress::random);
        let gateways = default_routes(record, endpoint, place.leads);
        let action = || format!("connect {} to the network {}", place.owner.short(), record.name);
        let kind = match record.driver.as_str() {
            "macvlan" => ChildKind::Macvlan(match record.option("macvlan_mode") {
                Some("private") => MacvlanMode::Private,
                Some("vepa") => MacvlanMode::Vepa,
                Some("passthru") => MacvlanMode::Passthru,
                _ => MacvlanMode::Bridge,
            }),
            "ipvlan" => {
                let mode = match record.option("ipvlan_mode") {
                    Some("l3") => IpvlanMode::L3,
                    Some("l3s") => IpvlanMode::L3s,
                    _ => IpvlanMode::L2,
                };
                let flag = match record.option("ipvlan_flag") {
                    Some("private") => IpvlanFlag::Private,
                    Some("vepa") => IpvlanFlag::Vepa,
                    _ => IpvlanFlag::Bridge,
                };
                ChildKind::Ipvlan(mode, flag)
            }
            _ => {
                let attachment = Attachment {
                    bridge: record.bridge.clone(),
                    host_name: endpoint.host_link.clone(),
                    namespace: place.namespace.to_owned(),
                    name: endpoint.interface.clone(),
                    mac,
                    addresses,
                    gateways,
                    mtu: record.bridge_mtu(),
                    hairpin: true,
                    isolated: !record.is_on("com.docker.network.bridge.enable_icc"),
                    alias: self.mark(),
                };
                return self.netlink.lock().attach(&attachment).map(|()| mac).trying(action());
            }
        };
        let child = Child {
            parent: record.bridge.clone(),
            kind,
            namespace: place.namespace.to_owned(),
            name: endpoint.interface.clone(),
            mac: Some(mac),
            addresses,
            gateways,
            mtu: record.mtu(),
        };
        self.netlink.lock().attach_child(&child).map(|()| mac).trying(action())
    }

    /// An address with its prefix, and the gateway that goes with it; none when the network has no such subnet.
    fn allocate(
        &self,
        network: &Id,
        ipv4: bool,
        wanted: Option<IpAddr>,
    ) -> Result<Option<(IpAddr, u8, Option<IpAddr>)>> {
        let mut state = self.state.lock();
        let missing = || Error::NetworkNotFound { name: network.to_string() };
        let entry = state.networks.get_mut(network).ok_or_else(missing)?;
        let subnets = entry.record.pools.iter().zip(entry.pools.iter_mut());
        let of_version = subnets.filter(|(pool, _)| pool.subnet.addr().is_ipv4() == ipv4);
        let mut full = false;
        for (described, pool) in of_version {
            let address = match wanted {
                Some(address) if !described.subnet.contains(&address) => continue,
                Some(address) => match pool.allocate_exact(address) {
                    Ok(()) => address,
                    Err(dray_network::Error::AddressInUse { .. }) => {
                        return Err(Error::Forbidden { message: "Address already in use".to_owned() });
                    }
                    Err(_) => return Err(Error::invalid("requested address is out of range")),
                },
                None => match pool.allocate() {
                    Ok(address) => address,
                    Err(_) => {
                        full = true;
                        continue;
                    }
                },
            };
            return Ok(Some((address, described.subnet.prefix_len(), described.gateway)));
        }
        match (wanted, full) {
            (Some(address), _) => {
                Err(Error::invalid(format!("no configured subnet contains IP address {address}")))
            }
            (None, true) => {
                let version = if ipv4 { "IPv4" } else { "IPv6" };
                Err(Error::conflict(format!(
                    "no available {version} addresses on this network's address pools"
                )))
            }
            (None, false) => Ok(None),
        }
    }

    fn release_addresses(&self, endpoint: &EndpointRecord) {
        let mut state = self.state.lock();
        let Some(network) = state.networks.get_mut(&endpoint.network) else { return };
        for address in addresses_of(endpoint) {
            for pool in &mut network.pools {
                pool.release(address);
            }
        }
    }

    /// Takes the addresses of a container that was found running.
    pub(crate) fn adopt(&self, endpoint: &EndpointRecord) {
        for address in addresses_of(endpoint) {
            if let Err(error) = self.allocate(&endpoint.network, address.is_ipv4(), Some(address)) {
                tracing::warn!(%address, error = %error.chain(), "the address of a running container is taken");
            }
        }
    }

    /// Takes a place in a network away.
    pub(crate) fn disconnect(&self, endpoint: &EndpointRecord, namespace: &Path) -> Result<()> {
        let cleaner = self.cleaner.lock();
        let detached = if endpoint.host_link.is_empty() {
            cleaner.detach_child(namespace, &endpoint.interface)
        } else {
            cleaner.detach(&endpoint.host_link)
        };
        drop(cleaner);
        self.release_addresses(endpoint);
        detached.map(|_| ()).trying(format!("take away the interface {}", endpoint.interface))
    }
}

/// The next hops of default routes that a place makes; unspecified ones where the link itself leads everywhere.
pub(crate) fn default_routes(
    record: &NetworkRecord,
    endpoint: &EndpointRecord,
    leads: (bool, bool),
) -> Vec<IpAddr> {
    let routes = record.is_routed_by_link();
    let mut gateways = Vec::new();
    if leads.0 && endpoint.address.is_some() && record.leads_out(true) {
        let gateway = if routes { Some(Ipv4Addr::UNSPECIFIED) } else { endpoint.gateway };
        gateways.extend(gateway.map(IpAddr::V4));
    }
    if leads.1 && endpoint.ipv6_address.is_some() && record.leads_out(false) {
        let gateway = if routes { Some(Ipv6Addr::UNSPECIFIED) } else { endpoint.ipv6_gateway };
        gateways.extend(gateway.map(IpAddr::V6));
    }
    gateways
}
