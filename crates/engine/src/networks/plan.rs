//! From what is asked of a network to what it will be: every refusal is decided here, before anything is made.

use std::net::IpAddr;

use dray_network::{IpNet, Ipv4Net, Ipv6Net, pool};
use jiff::Timestamp;

use super::Networks;
use super::model::{AddressPool, DEFAULT, NetworkRecord, NetworkSpec, SubnetSpec, gateway_mode_option};
use crate::error::Trying;
use crate::{Error, Id, Result};

const BOOLEANS: [&str; 12] =
    ["1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"];
const NO_POOL: &str = "all predefined address pools have been fully subnetted";

impl Networks {
    /// The record of a network that is to be.
    pub(super) fn plan(&self, spec: NetworkSpec, hidden: bool) -> Result<NetworkRecord> {
        let id = Id::random();
        let spec = self.with_configuration(spec)?;
        check_options(&spec)?;
        let mut ipv4 = spec.ipv4.unwrap_or(true);
        let mut ipv6 = spec.ipv6.unwrap_or(false);
        // Only the driver of these has addresses of its own.
        let addressed = matches!(spec.driver.as_str(), "bridge" | "macvlan" | "ipvlan");
        for (option, version) in
            [("com.docker.network.enable_ipv4", &mut ipv4), ("com.docker.network.enable_ipv6", &mut ipv6)]
        {
            if let Some(value) = spec.options.get(option) {
                if !BOOLEANS.contains(&value.as_str()) {
                    return Err(Error::invalid(format!("driver-opt {option:?} is not a valid bool")));
                }
                *version = value.to_ascii_lowercase().starts_with('t') || value == "1";
            }
        }
        if addressed && !ipv4 && !ipv6 {
            return Err(Error::invalid("IPv4 or IPv6 must be enabled"));
        }
        let mut pools = Vec::new();
        if spec.config_only {
            pools = spec.subnets.iter().filter_map(configured).collect();
        } else if addressed {
            for (on, is_ipv4) in [(ipv4, true), (ipv6, false)] {
                if on {
                    self.plan_pools(&spec, is_ipv4, hidden, &mut pools)?;
                }
            }
        }
        let first = pools.iter().find_map(|pool| match (pool.subnet, pool.gateway) {
            (IpNet::V4(subnet), Some(IpAddr::V4(gateway))) => Some((subnet, Some(gateway))),
            (IpNet::V4(subnet), _) => Some((subnet, None)),
            _ => None,
        });
        let (bridge, parent_made) = self.interface_name(&spec, &id)?;
        Ok(NetworkRecord {
            id,
            name: spec.name,
            driver: spec.driver,
            subnet: first.map(|(subnet, _)| subnet),
            gateway: first.and_then(|(_, gateway)| gateway),
            bridge,
            internal: spec.internal,
            hidden,
            labels: spec.labels,
            options: spec.options,
            created: Timestamp::now(),
            pools,
            ipv4,
            ipv6,
            attachable: spec.attachable,
            overlay: spec.overlay,
            ingress: spec.ingress,
            config_only: spec.config_only,
            config_from: spec.config_from,
            ipam_options: spec.ipam_options,
            parent_made,
        })
    }

    /// What a network that takes another's configuration gets by it.
    fn with_configuration(&self, mut spec: NetworkSpec) -> Result<NetworkSpec> {
        let forbidden = |message: &str| Error::Forbidden { message: message.to_owned() };
        if spec.config_only && (spec.internal || spec.attachable) {
            return Err(forbidden(
                "configuration network can only contain network specific fields. Network operator fields like \
                 [ ingress | internal | attachable | scope ] are not supported.",
            ));
        }
        if spec.config_from.is_empty() {
            return Ok(spec);
        }
        if spec.config_only {
            return Err(forbidden("a configuration network cannot depend on another configuration network"));
        }
        let asks = !spec.ipam_options.is_empty() || !spec.labels.is_empty() || !spec.subnets.is_empty();
        if asks || spec.ipv4 == Some(false) || spec.ipv6 == Some(true) {
            return Err(forbidden(
                "user-specified configurations are not supported if the network depends on a configuration network",
            ));
        }
        if !spec.options.is_empty() {
            return Err(forbidden(
                "network driver options are not supported if the network depends on a configuration network",
            ));
        }
        let from = self.find(&spec.config_from).ok().filter(|record| record.config_only);
        let from = from.ok_or_else(|| Error::NetworkNotFound { name: spec.config_from.clone() })?;
        spec.ipv4 = Some(from.ipv4);
        spec.ipv6 = Some(from.ipv6);
        spec.labels = from.labels;
        spec.options = from.options;
        spec.ipam_options = from.ipam_options;
        spec.subnets = from
            .pools
            .into_iter()
            .map(|pool| SubnetSpec {
                subnet: Some(pool.subnet),
                range: pool.range,
                gateway: pool.gateway,
                auxiliary: pool.auxiliary,
            })
            .collect();
        Ok(spec)
    }

    fn plan_pools(
        &self,
        spec: &NetworkSpec,
        ipv4: bool,
        hidden: bool,
        pools: &mut Vec<AddressPool>,
    ) -> Result<()> {
        let of_version = |subnet: &&SubnetSpec| {
            let address = subnet.subnet.map(|subnet| subnet.addr()).or(subnet.gateway);
            address.map_or(ipv4, |address| address.is_ipv4() == ipv4)
        };
        let mut asked: Vec<SubnetSpec> = spec.subnets.iter().filter(of_version).cloned().collect();
        if spec.driver == "bridge" && asked.len() > 1 {
            return Err(Error::Forbidden {
                message: "bridge driver doesn't support multiple subnets".to_owned(),
            });
        }
        if asked.is_empty() {
            asked.push(SubnetSpec::default());
        }
        for subnet in asked {
            let chosen = match subnet.subnet {
                Some(subnet) => self.check_subnet(subnet, pools)?,
                None if ipv4 => IpNet::V4(self.choose_subnet(hidden)?),
                None => IpNet::V6(self.choose_ipv6_subnet()?),
            };
            let mut made = AddressPool {
                subnet: chosen,
                range: subnet.range,
                gateway: subnet.gateway,
                auxiliary: subnet.auxiliary,
                asked: subnet.subnet.is_some(),
            };
            let mode = spec.options.get(gateway_mode_option(ipv4)).map_or("", String::as_str);
            // The gateway of the others is a machine of their link, which only their user knows.
            if made.gateway.is_none() && spec.driver == "bridge" && mode != "isolated" {
                made.gateway = Some(first_free(&made));
            }
            self.pool_of(&made)?;
            pools.push(made);
        }
        Ok(())
    }

    fn check_subnet(&self, subnet: IpNet, planned: &[AddressPool]) -> Result<IpNet> {
        let overlaps = |other: &IpNet| other.contains(&subnet.network()) || subnet.contains(&other.network());
        let networks = self.list();
        let taken = networks.iter().filter(|record| !record.config_only).flat_map(|record| &record.pools);
        if taken.chain(planned).any(|pool| overlaps(&pool.subnet)) {
            return Err(Error::Forbidden {
                message: "invalid pool request: Pool overlaps with other one on this address space"
                    .to_owned(),
            });
        }
        Ok(subnet.trunc())
    }

    fn choose_subnet(&self, pods: bool) -> Result<Ipv4Net> {
        let mut taken = self.netlink.lock().networks_in_use().trying("list the host's networks")?;
        taken.extend(self.list().iter().flat_map(|record| record.pools.clone()).filter_map(|pool| {
            match pool.subnet {
                IpNet::V4(subnet) => Some(subnet),
                IpNet::V6(_) => None,
            }
        }));
        let given = self.default_subnets().filter_map(|subnet| match subnet {
            IpNet::V4(subnet) => Some(subnet),
            IpNet::V6(_) => None,
        });
        let mut given = given.peekable();
        let chosen = if pods {
            pool::choose_subnet(pool::pod_candidates(), &taken)
        } else if given.peek().is_some() {
            pool::choose_subnet(given, &taken)
        } else {
            pool::choose_subnet(pool::bridge_candidates(), &taken)
        };
        chosen.map_err(|_| Error::invalid(NO_POOL))
    }

    fn choose_ipv6_subnet(&self) -> Result<Ipv6Net> {
        let mut taken = self.netlink.lock().ipv6_networks_in_use().trying("list the host's networks")?;
        taken.extend(self.list().iter().flat_map(|record| record.pools.clone()).filter_map(|pool| {
            match pool.subnet {
                IpNet::V6(subnet) => Some(subnet),
                IpNet::V4(_) => None,
            }
        }));
        let free = |candidate: &Ipv6Net| {
            !taken.iter().any(|other| other.contains(candidate) || candidate.contains(other))
        };
        let given = self.default_subnets().filter_map(|subnet| match subnet {
            IpNet::V6(subnet) => Some(subnet),
            IpNet::V4(_) => None,
        });
        let mut given = given.peekable();
        if given.peek().is_some() {
            return given.find(free).ok_or_else(|| Error::invalid(NO_POOL));
        }
        let prefix = self.unique_local_prefix()?;
        pool::ipv6_candidates(prefix).find(free).ok_or_else(|| Error::invalid(NO_POOL))
    }

    /// What the subnets of networks are chosen from, as whoever started the daemon wants it.
    fn default_subnets(&self) -> impl Iterator<Item = IpNet> {
        self.default_pools.iter().flat_map(|pool| pool.subnets())
    }

    /// The interface of the host that the network stands on, and whether it is made for it.
    fn interface_name(&self, spec: &NetworkSpec, id: &Id) -> Result<(String, bool)> {
        if spec.config_only {
            return Ok((String::new(), false));
        }
        match spec.driver.as_str() {
            "bridge" => {
                let asked =
                    spec.options.get("com.docker.network.bridge.name").filter(|name| !name.is_empty());
                let Some(name) = asked else {
                    let own = match spec.name.as_str() {
                        DEFAULT => format!("dray-{}", self.instance),
                        _ => format!("dr-{}", id.short()),
                    };
                    return Ok((own, true));
                };
                if let Some(other) = self.list().iter().find(|record| record.bridge == *name) {
                    return Err(Error::Forbidden {
                        message: format!(
                            "cannot create network {id} ({name}): conflicts with network {} ({}): networks have \
                             same bridge name",
                            other.id, other.bridge
                        ),
                    });
                }
                let there = self.netlink.lock().find_link(name);
                let there = there.map_err(|error| Error::invalid(error.to_string()))?;
                Ok((name.clone(), there.is_none()))
            }
            driver @ ("macvlan" | "ipvlan") => {
                let parent = spec.options.get("parent").filter(|parent| !parent.is_empty());
                match parent {
                    Some(parent) if parent == "lo" => {
                        Err(Error::invalid(format!("loopback interface is not a valid {driver} parent link")))
                    }
                    Some(parent) => Ok((parent.clone(), false)),
                    None => Ok((format!("dm-{}", id.short()), true)),
                }
            }
            _ => Ok((String::new(), false)),
        }
    }
}

/// What a configuration network says of addresses: only what it was given.
fn configured(spec: &SubnetSpec) -> Option<AddressPool> {
    Some(AddressPool {
        subnet: spec.subnet?,
        range: spec.range,
        gateway: spec.gateway,
        auxiliary: spec.auxiliary.clone(),
        asked: true,
    })
}

/// The first address that a gateway can have: that of the range, if there is one.
fn first_free(pool: &AddressPool) -> IpAddr {
    let subnet_first = pool::first_host(pool.subnet);
    let first = match pool.range.map(|range| range.network()) {
        Some(first) if first != pool.subnet.network() => first,
        _ => subnet_first,
    };
    let mut candidates = std::iter::successors(Some(first), |address| {
        Some(match *address {
            IpAddr::V4(address) => IpAddr::V4(u32::from(address).checked_add(1)?.into()),
            IpAddr::V6(address) => IpAddr::V6(u128::from(address).checked_add(1)?.into()),
        })
    });
    let free = |address: &IpAddr| pool.auxiliary.values().all(|taken| taken != address);
    candidates.find(free).unwrap_or(subnet_first)
}

fn check_options(spec: &NetworkSpec) -> Result<()> {
    let option = |name: &str| spec.options.get(name).map(String::as_str).unwrap_or_default();
    let among = |name: &str, allowed: &[&str]| allowed.contains(&option(name));
    if spec.driver == "bridge" {
        for name in ["enable_icc", "enable_ip_masquerade", "inhibit_ipv4"] {
            let label = format!("com.docker.network.bridge.{name}");
            let value = option(&label);
            if !value.is_empty() && !BOOLEANS.contains(&value) {
                return Err(Error::invalid(format!(
                    "failed to parse {label} value: {value} (strconv.ParseBool: parsing {value:?}: invalid syntax)"
                )));
            }
        }
        for ipv4 in [true, false] {
            let mode = option(gateway_mode_option(ipv4));
            if !["", "nat", "nat-unprotected", "routed", "isolated"].contains(&mode) {
                return Err(Error::invalid(format!("unknown gateway mode {mode}")));
            }
            if mode == "isolated" && !spec.internal {
                return Err(Error::invalid(
                    "gateway mode 'isolated' can only be used for an internal network",
                ));
            }
        }
        let binding = option("com.docker.network.bridge.host_binding_ipv4");
        if !binding.is_empty() && binding.parse::<std::net::Ipv4Addr>().is_err() {
            return Err(Error::invalid(format!(
                "failed to parse com.docker.network.bridge.host_binding_ipv4 value: {binding} (nil ip)"
            )));
        }
    }
    let mtu = option("com.docker.network.driver.mtu");
    if !mtu.is_empty() && !mtu.parse::<u32>().is_ok_and(|mtu| (68..=65_535).contains(&mtu)) {
        return Err(Error::invalid(format!(
            "failed to parse com.docker.network.driver.mtu value: {mtu} (invalid MTU number)"
        )));
    }
    if spec.driver == "macvlan" && !among("macvlan_mode", &["", "bridge", "private", "vepa", "passthru"]) {
        return Err(Error::invalid(format!(
            "requested macvlan mode '{}' is not valid, 'bridge' mode is the macvlan driver default",
            option("macvlan_mode")
        )));
    }
    if spec.driver == "ipvlan" && !among("ipvlan_mode", &["", "l2", "l3", "l3s"]) {
        return Err(Error::invalid(format!(
            "requested ipvlan mode '{}' is not valid, 'l2' mode is the ipvlan driver default",
            option("ipvlan_mode")
        )));
    }
    if spec.driver == "ipvlan" && !among("ipvlan_flag", &["", "bridge", "private", "vepa"]) {
        return Err(Error::invalid(format!(
            "requested ipvlan flag '{}' is not valid, 'bridge' is the ipvlan driver default",
            option("ipvlan_flag")
        )));
    }
    Ok(())
}
