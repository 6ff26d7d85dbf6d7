//! Ports of the host that lead to containers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dray_network::firewall::PublishedPort;
use dray_network::ports::PortReservation;

use super::{NetworkRecord, Networks};
use crate::error::Trying;
use crate::record::EndpointRecord;
use crate::spec::PortBinding;
use crate::{Error, Id, Result};

/// How often another port is tried when one that the kernel chose for one version of IP is taken in the other.
const TRIES: usize = 16;

/// Where published ports lead: an address of each version of IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) ipv4: Option<Ipv4Addr>,
    pub(crate) ipv6: Option<Ipv6Addr>,
    /// The host's address where a port names none.
    pub(crate) host: Option<IpAddr>,
    /// No port of the host leads there: the container's own are open instead.
    pub(crate) routed: bool,
}

impl Published {
    /// The addresses that a network's packet rules can lead to.
    pub(crate) fn at(network: &NetworkRecord, endpoint: &EndpointRecord) -> Self {
        if network.driver != "bridge" || network.internal {
            return Self::default();
        }
        Self {
            ipv4: endpoint.address,
            ipv6: endpoint.ipv6_address,
            host: network.host_binding(),
            routed: network.gateway_mode(true) == "routed",
        }
    }

    fn is_nowhere(&self) -> bool {
        self.ipv4.is_none() && self.ipv6.is_none()
    }

    /// The bindings that one which was asked for stands for: without an address, one for each version of IP.
    fn bindings(&self, port: &PortBinding) -> Vec<PortBinding> {
        let bind = |host_address: IpAddr| PortBinding { host_address, ..port.clone() };
        if !port.host_address.is_unspecified() {
            return vec![port.clone()];
        }
        if let Some(host) = self.host.filter(|host| !host.is_unspecified()) {
            return vec![bind(host)];
        }
        let mut all = Vec::new();
        let any = port.host_address == IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        if self.ipv4.is_some() && any {
            all.push(bind(Ipv4Addr::UNSPECIFIED.into()));
        }
        if self.ipv6.is_some() {
            all.push(bind(Ipv6Addr::UNSPECIFIED.into()));
        }
        all
    }

    pub(crate) fn rule(&self, port: &PortBinding) -> Option<PublishedPort> {
        let container_address = match port.host_address {
            IpAddr::V4(_) => IpAddr::V4(self.ipv4?),
            IpAddr::V6(_) => IpAddr::V6(self.ipv6?),
        };
        Some(PublishedPort {
            protocol: port.protocol,
            host_address: port.host_address,
            host_port: port.host_port,
            container_address,
            container_port: port.container_port,
        })
    }

    fn rules(&self, ports: &[PortBinding]) -> Vec<PublishedPort> {
        ports.iter().filter_map(|port| self.rule(port)).collect()
    }
}

impl Networks {
    /// Reserves the host's ports and lets them lead to the container. Answers them as they are bound.
    pub(crate) fn publish(
        &self,
        owner: &Id,
        name: &str,
        ports: &[PortBinding],
        to: Published,
    ) -> Result<Vec<PortBinding>> {
        if to.is_nowhere() {
            return Ok(Vec::new());
        }
        let mut reservations = Vec::with_capacity(ports.len());
        let mut bound = Vec::with_capacity(ports.len());
        for port in ports {
            let bindings = to.bindings(port);
            let reserved = Self::reserve_first(&bindings, port);
            let reserved = reserved.map_err(|(binding, source)| self.port_error(name, &binding, &source))?;
            for (binding, reservation) in bindings.into_iter().zip(reserved) {
                bound.push(PortBinding { host_port: reservation.port(), host_port_last: 0, ..binding });
                reservations.push(reservation);
            }
        }
        let rules = to.rules(&bound);
        if !rules.is_empty() {
            self.firewall.lock().publish(&rules).trying("publish ports")?;
        }
        if !reservations.is_empty() {
            self.state.lock().reservations.insert(owner.clone(), reservations);
        }
        Ok(bound)
    }

    /// The first port of those asked for that is free.
    fn reserve_first(
        bindings: &[PortBinding],
        port: &PortBinding,
    ) -> std::result::Result<Vec<PortReservation>, (PortBinding, dray_network::Error)> {
        let mut candidates = port.host_port..=port.host_port.max(port.host_port_last);
        loop {
            let Some(candidate) = candidates.next() else { return Ok(Vec::new()) };
            match Self::reserve_together(bindings, candidate) {
                Err(_) if !candidates.is_empty() => {}
                reserved => return reserved,
            }
        }
    }

    /// One port at several addresses; one that the kernel chooses must be free at all of them.
    fn reserve_together(
        bindings: &[PortBinding],
        wanted: u16,
    ) -> std::result::Result<Vec<PortReservation>, (PortBinding, dray_network::Error)> {
        let mut left = TRIES;
        loop {
            left -= 1;
            let mut all: Vec<PortReservation> = Vec::with_capacity(bindings.len());
            let mut port = wanted;
            let failed = bindings.iter().find_map(|binding| {
                match PortReservation::reserve(binding.protocol, binding.host_address, port) {
                    Ok(reservation) => {
                        port = reservation.port();
                        all.push(reservation);
                        None
                    }
                    Err(error) => Some((PortBinding { host_port: port, ..binding.clone() }, error)),
                }
            });
            match failed {
                None => return Ok(all),
                Some(_) if wanted == 0 && left > 0 && !all.is_empty() => {}
                Some(failed) => return Err(failed),
            }
        }
    }

    /// Docker's words for a port that cannot be had: one of our own containers has it, or somebody else.
    fn port_error(&self, name: &str, port: &PortBinding, source: &dray_network::Error) -> Error {
        let state = self.state.lock();
        let overlaps = |other: &PortReservation| {
            let (ours, theirs) = (port.host_address, other.address().ip());
            other.protocol() == port.protocol
                && other.port() == port.host_port
                && (ours == theirs || ours.is_unspecified() || theirs.is_unspecified())
        };
        let why = if state.reservations.values().flatten().any(overlaps) {
            let address = SocketAddr::new(port.host_address, port.host_port);
            format!("Bind for {address} failed: port is already allocated")
        } else {
            source.to_string()
        };
        Error::Port { name: name.to_owned(), why }
    }

    /// Holds again the ports of a container that was found running; its rules come with [`Self::sync_rules`].
    pub(crate) fn adopt_ports(&self, owner: &Id, ports: &[PortBinding]) {
        let mut reservations = Vec::new();
        for port in ports {
            match PortReservation::reserve(port.protocol, port.host_address, port.host_port) {
                Ok(reservation) => reservations.push(reservation),
                Err(error) => tracing::warn!(port = port.host_port, %error, "a published port is taken"),
            }
        }
        self.state.lock().reservations.insert(owner.clone(), reservations);
    }

    /// Takes published ports back.
    pub(crate) fn unpublish(&self, owner: &Id, ports: &[PortBinding], to: Published) -> Result<()> {
        let rules = to.rules(ports);
        let result = if rules.is_empty() {
            Ok(())
        } else {
            self.firewall.lock().unpublish(&rules).trying("take back published ports")
        };
        self.state.lock().reservations.remove(owner);
        result
    }

    /// Where the ports of somebody with these places lead: to the places that are the way to everywhere else.
    pub(crate) fn published_at(
        &self,
        endpoints: &[EndpointRecord],
        priority: impl Fn(&str) -> i64,
    ) -> Published {
        let networks: Vec<_> = endpoints
            .iter()
            .filter_map(|endpoint| {
                self.find(endpoint.network.as_str()).ok().map(|network| (network, endpoint))
            })
            .collect();
        let ranked: Vec<_> =
            networks.iter().map(|(network, _)| (network.clone(), priority(&network.name))).collect();
        let at = |ipv4| {
            let index = super::leads(&ranked, ipv4)?;
            networks.get(index).map(|(network, endpoint)| Published::at(network, endpoint))
        };
        let (ipv4, ipv6) = (at(true).unwrap_or_default(), at(false).unwrap_or_default());
        Published { ipv4: ipv4.ipv4, ipv6: ipv6.ipv6, host: ipv4.host, routed: ipv4.routed }
    }
}
