//! What is asked of a network, and what is kept of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use dray_network::{IpNet, Ipv4Net};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Id;

/// The network of containers that name none.
pub(crate) const DEFAULT: &str = "bridge";
/// Largest frame where no option says otherwise, in bytes.
const MTU: u32 = 1500;

/// A network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: String,
    /// `bridge`, `macvlan`, `ipvlan`, `host` or `null`.
    pub driver: String,
    /// Its first IPv4 subnet, one of `pools`.
    pub subnet: Option<Ipv4Net>,
    /// The gateway in it.
    pub gateway: Option<Ipv4Addr>,
    /// The bridge's name, or that of the interface that a macvlan or ipvlan network stands on.
    pub bridge: String,
    /// Whether nothing outside is reachable from it.
    pub internal: bool,
    /// Whether it is the engine's own and not shown among the networks of users.
    pub hidden: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver, kept as they came.
    pub options: BTreeMap<String, String>,
    /// When it was made.
    pub created: Timestamp,
    /// Its addresses.
    #[serde(default)]
    pub pools: Vec<AddressPool>,
    /// Whether IPv4 is on in it.
    #[serde(default = "yes")]
    pub ipv4: bool,
    /// Whether IPv6 is on in it.
    #[serde(default)]
    pub ipv6: bool,
    /// Whether containers outside of a swarm may join; shown, and of no other meaning here.
    #[serde(default)]
    pub attachable: bool,
    /// Whether it is one of a swarm's, shown as `overlay`; with one node it is a bridge like others.
    #[serde(default)]
    pub overlay: bool,
    /// Whether a swarm's published ports come through it.
    #[serde(default)]
    pub ingress: bool,
    /// Whether it only holds a configuration that other networks take.
    #[serde(default)]
    pub config_only: bool,
    /// The network whose configuration it took; empty for none.
    #[serde(default)]
    pub config_from: String,
    /// Options of the address management, kept as they came.
    #[serde(default)]
    pub ipam_options: BTreeMap<String, String>,
    /// Whether the interface it stands on was made for it.
    #[serde(default)]
    pub parent_made: bool,
}

/// The option that holds the gateway mode for one version of IP.
pub(super) fn gateway_mode_option(ipv4: bool) -> &'static str {
    if ipv4 {
        "com.docker.network.bridge.gateway_mode_ipv4"
    } else {
        "com.docker.network.bridge.gateway_mode_ipv6"
    }
}

fn yes() -> bool {
    true
}

/// Addresses of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPool {
    /// All of them.
    pub subnet: IpNet,
    /// Those that are given out; none for all.
    pub range: Option<IpNet>,
    /// The way out.
    pub gateway: Option<IpAddr>,
    /// What other devices have, by names for them.
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// Whether the subnet was asked for.
    pub asked: bool,
}

impl NetworkRecord {
    /// Whether it was there from the start and cannot be removed.
    #[must_use]
    pub fn is_predefined(&self) -> bool {
        self.hidden || ["bridge", "host", "none"].contains(&self.name.as_str())
    }

    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Largest frame in it, in bytes, as far as it is not the parent's.
    pub(crate) fn mtu(&self) -> Option<u32> {
        self.option("com.docker.network.driver.mtu").and_then(|text| text.parse().ok())
    }

    pub(crate) fn bridge_mtu(&self) -> u32 {
        self.mtu().unwrap_or(MTU)
    }

    /// What interfaces in containers are called, before their number.
    pub(crate) fn interface_prefix(&self) -> &str {
        self.option("com.docker.network.container_iface_prefix").unwrap_or("eth")
    }

    /// Whether a switch of the bridge is not off.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        !self.option(name).is_some_and(|value| matches!(value, "false" | "0" | "f" | "F" | "FALSE" | "False"))
    }

    /// How its members meet the world outside, for one version of IP: `nat`, `nat-unprotected`, `routed` or `isolated`.
    pub(crate) fn gateway_mode(&self, ipv4: bool) -> &str {
        self.option(gateway_mode_option(ipv4)).unwrap_or("nat")
    }

    /// Whether everything is reached by the link itself, without a gateway.
    pub(crate) fn is_routed_by_link(&self) -> bool {
        self.driver == "ipvlan" && self.option("ipvlan_mode").is_some_and(|mode| mode != "l2")
    }

    /// The host's address that ports are published at when none is named.
    pub(crate) fn host_binding(&self) -> Option<IpAddr> {
        self.option("com.docker.network.bridge.host_binding_ipv4").and_then(|text| text.parse().ok())
    }

    /// Whether its members have a way out by a gateway, for one version of IP.
    pub(crate) fn leads_out(&self, ipv4: bool) -> bool {
        let pool = self.pools.iter().find(|pool| pool.subnet.addr().is_ipv4() == ipv4);
        !self.internal
            && pool.is_some_and(|pool| pool.gateway.is_some() || self.is_routed_by_link())
            && self.gateway_mode(ipv4) != "isolated"
    }

    /// Whether the interface it stands on was made for it, so that it goes with it.
    pub(crate) fn is_own_interface(&self) -> bool {
        self.parent_made
            || (self.driver == "bridge" && self.option("com.docker.network.bridge.name").is_none())
    }

    /// Older records have one subnet, and no list.
    pub(crate) fn complete(mut self) -> Self {
        if let (Some(subnet), true) = (self.subnet, self.pools.is_empty()) {
            self.pools.push(AddressPool {
                subnet: IpNet::V4(subnet),
                range: None,
                gateway: self.gateway.map(IpAddr::V4),
                auxiliary: BTreeMap::new(),
                asked: true,
            });
        }
        self
    }
}

/// A network to be made.
#[derive(Clone, Debug, Default)]
pub struct NetworkSpec {
    /// Its name.
    pub name: String,
    /// `bridge` (or empty), `macvlan`, `ipvlan`.
    pub driver: String,
    /// Its addresses; where none are given the engine chooses free ones.
    pub subnets: Vec<SubnetSpec>,
    /// Whether IPv4 is on; none for yes.
    pub ipv4: Option<bool>,
    /// Whether IPv6 is on; none for no.
    pub ipv6: Option<bool>,
    /// Whether nothing outside is reachable from it.
    pub internal: bool,
    /// Whether containers outside of a swarm may join.
    pub attachable: bool,
    /// Whether it is one of a swarm's.
    pub overlay: bool,
    /// Whether a swarm's published ports come through it.
    pub ingress: bool,
    /// Whether it only holds a configuration.
    pub config_only: bool,
    /// The network whose configuration it takes; empty for none.
    pub config_from: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Options of the address management.
    pub ipam_options: BTreeMap<String, String>,
}

/// Addresses that are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubnetSpec {
    /// All of them; none lets the engine choose.
    pub subnet: Option<IpNet>,
    /// Those that are given out.
    pub range: Option<IpNet>,
    /// The way out.
    pub gateway: Option<IpAddr>,
    /// What other devices have.
    pub auxiliary: BTreeMap<String, IpAddr>,
}
