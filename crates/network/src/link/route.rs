//! Routes of the main table, and which networks a host knows.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{ACK, DUMP, Netlink, REPLACE, absent, body_address, family, parse_ip};
use crate::Result;
use crate::netlink::{Attributes, Batch, Message, native_u32};

/// Kinds of routes that speak of networks elsewhere.
const KINDS: [u8; 4] = [libc::RTN_UNICAST, libc::RTN_UNREACHABLE, libc::RTN_BLACKHOLE, libc::RTN_PROHIBIT];

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to; a default route has prefix length 0.
    pub destination: IpNet,
    /// The next hop, if it is not on the link.
    pub gateway: Option<IpAddr>,
    /// Through which interface.
    pub link: Option<u32>,
}

impl Netlink {
    /// Makes a gateway on an interface the way to everything, whatever it was before; an unspecified one means that
    /// everything is on the link itself.
    pub fn replace_default_route(&self, name: &str, gateway: IpAddr) -> Result<()> {
        let index = self.index_of(name)?;
        let mut batch = Batch::new();
        add_default_route(&mut batch, index, gateway);
        self.request(batch, |_| format!("add default route by {gateway}")).map(drop)
    }

    /// Adds or changes a route by a next hop, as to another host's pods.
    pub fn replace_route(&self, destination: IpNet, gateway: IpAddr) -> Result<()> {
        let mut batch = Batch::new();
        batch.message(libc::RTM_NEWROUTE, REPLACE, &route_header(destination), |body| {
            body_address(body, libc::RTA_DST, destination.network());
            body_address(body, libc::RTA_GATEWAY, gateway);
        });
        self.request(batch, |_| format!("add route to {destination} by {gateway}")).map(drop)
    }

    /// Adds or changes a route to what is on a link of ours, so that the host finds addresses that only its
    /// packet rules know.
    pub fn replace_link_route(&self, destination: IpNet, name: &str) -> Result<()> {
        let index = self.index_of(name)?;
        let mut batch = Batch::new();
        let mut header = route_header(destination);
        header[6] = libc::RT_SCOPE_LINK;
        batch.message(libc::RTM_NEWROUTE, REPLACE, &header, |body| {
            body_address(body, libc::RTA_DST, destination.network());
            body.u32(libc::RTA_OIF, index);
        });
        self.request(batch, |_| format!("add route to {destination} on {name}")).map(drop)
    }

    /// Removes a route; whether there was one.
    pub fn remove_route(&self, destination: IpNet) -> Result<bool> {
        let mut batch = Batch::new();
        let mut header = route_header(destination);
        header[6] = libc::RT_SCOPE_NOWHERE;
        batch.message(libc::RTM_DELROUTE, ACK, &header, |body| {
            body_address(body, libc::RTA_DST, destination.network());
        });
        absent(self.request(batch, |_| format!("remove route to {destination}")), &[libc::ESRCH])
    }

    /// The routes of the main table: unicast ones, and those that refuse, which keep addresses for somebody.
    pub fn list_routes(&self) -> Result<Vec<Route>> {
        let mut batch = Batch::new();
        batch.message(libc::RTM_GETROUTE, DUMP, &[0; 12], |_| {});
        let answers = self.request(batch, |_| "list routes".to_owned())?;
        Ok(answers.iter().filter_map(parse_route).collect())
    }

    /// The IPv4 networks that routes and addresses speak of, without default routes and host routes' sake:
    /// what a new subnet must not overlap.
    pub fn networks_in_use(&self) -> Result<Vec<Ipv4Net>> {
        self.in_use(|network| match network {
            IpNet::V4(network) if network.prefix_len() > 0 => Some(network.trunc()),
            _ => None,
        })
    }

    /// As [`Self::networks_in_use`], for IPv6, without what every interface has by itself.
    pub fn ipv6_networks_in_use(&self) -> Result<Vec<Ipv6Net>> {
        let of_everyone = |address: Ipv6Addr| address.is_loopback() || address.is_unicast_link_local();
        self.in_use(|network| match network {
            IpNet::V6(network) if network.prefix_len() > 0 && !of_everyone(network.network()) => {
                Some(network.trunc())
            }
            _ => None,
        })
    }

    fn in_use<T: Ord>(&self, choose: impl Fn(IpNet) -> Option<T>) -> Result<Vec<T>> {
        let routes = self.list_routes()?.into_iter().map(|route| route.destination);
        let addresses = self.list_addresses()?.into_iter().map(|(_, address)| address);
        let networks: BTreeSet<T> = routes.chain(addresses).filter_map(choose).collect();
        Ok(networks.into_iter().collect())
    }
}

/// struct rtmsg, for a route of the main table.
fn route_header(destination: IpNet) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family(destination.addr());
    header[1] = destination.prefix_len();
    header[4] = libc::RT_TABLE_MAIN;
    header[5] = libc::RTPROT_STATIC;
    header[6] = libc::RT_SCOPE_UNIVERSE;
    header[7] = libc::RTN_UNICAST;
    header
}

pub(super) fn add_default_route(batch: &mut Batch, index: u32, gateway: IpAddr) {
    let everywhere = match gateway {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
    };
    batch.message(libc::RTM_NEWROUTE, REPLACE, &route_header(everywhere), |body| {
        if !gateway.is_unspecified() {
            body_address(body, libc::RTA_GATEWAY, gateway);
        }
        body.u32(libc::RTA_OIF, index);
    });
}

fn parse_route(message: &Message) -> Option<Route> {
    let [family, prefix, _, _, table, _, _, kind] = *message.payload.first_chunk::<8>()?;
    if table != libc::RT_TABLE_MAIN || !KINDS.contains(&kind) {
        return None;
    }
    let attributes: Attributes<'_> = message.attributes(12);
    let unspecified = match i32::from(family) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let destination = attributes.find(libc::RTA_DST).map_or(Some(unspecified), parse_ip)?;
    Some(Route {
        destination: IpNet::new(destination, prefix).ok()?,
        gateway: attributes.find(libc::RTA_GATEWAY).and_then(parse_ip),
        link: attributes.find(libc::RTA_OIF).and_then(native_u32),
    })
}
