//! Networks of containers: bridges and what else they stand on, their addresses, and the ports published from them.

mod endpoints;
mod model;
mod plan;
mod ports;
mod watch;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use dray_network::firewall::{Firewall, FirewallBridge, FirewallState, PublishedPort};
use dray_network::link::{Bridge, Netlink};
use dray_network::pool::{self, DefaultPool, Pool};
use dray_network::ports::PortReservation;
use dray_network::{IpNet, Ipv6Net, sysctl};
use parking_lot::Mutex;

use crate::engine::{EngineConfig, Led, private_directory};
use crate::error::{IoContext, Trying};
use crate::events::EventKind;
use crate::failpoint::failpoint;
use crate::name_service::NameService;
use crate::record::{self, EndpointRecord};
use crate::{Engine, Error, Id, Result};

pub(crate) use endpoints::{Place, default_routes, leads};
pub(crate) use model::DEFAULT;
pub use model::{AddressPool, NetworkRecord, NetworkSpec, SubnetSpec};
pub(crate) use ports::Published;

struct Network {
    record: NetworkRecord,
    pools: Vec<Pool>,
}

#[derive(Default)]
struct State {
    networks: BTreeMap<Id, Network>,
    /// Host ports held for containers, by container.
    reservations: HashMap<Id, Vec<PortReservation>>,
}

pub(crate) struct Networks {
    directory: PathBuf,
    pub(crate) instance: String,
    pub(crate) netlink: Mutex<Netlink>,
    /// Takes links away, which takes long, without holding up who makes some.
    cleaner: Mutex<Netlink>,
    firewall: Mutex<Firewall>,
    state: Mutex<State>,
    /// Held while a network is chosen and made, so that no two get the same name or addresses.
    making: Mutex<()>,
    default_pools: Vec<DefaultPool>,
    pub(crate) names: NameService,
}

impl Networks {
    pub(crate) fn open(config: &EngineConfig) -> Result<Self> {
        let directory = config.data_dir.join("networks");
        private_directory(&directory)?;
        let table = format!("dray-{}", config.instance);
        let closed = was_no_router(config)?;
        let firewall = Firewall::open(&table).trying("open the packet filter")?;
        firewall.set_closed(closed);
        match &config.led {
            Led::Nobody => {}
            Led::Everybody => match firewall.lead_connects() {
                Ok(true) => {}
                Ok(false) => tracing::debug!("there is no unified hierarchy: connections are translated"),
                Err(error) => tracing::info!(%error, "connections are translated packet by packet"),
            },
            Led::Group(group) => {
                let action = || format!("lead the connections of {}", group.display());
                firewall.lead_connects_of(group).trying(action())?;
            }
        }
        let networks = Self {
            directory,
            instance: config.instance.clone(),
            netlink: Mutex::new(Netlink::open().trying("open a netlink socket")?),
            cleaner: Mutex::new(Netlink::open().trying("open a netlink socket")?),
            firewall: Mutex::new(firewall),
            state: Mutex::new(State::default()),
            making: Mutex::new(()),
            default_pools: config.default_pools.clone(),
            names: NameService::new(),
        };
        networks.load()?;
        for (name, driver) in [(DEFAULT, "bridge"), ("host", "host"), ("none", "null")] {
            if networks.find(name).is_err() {
                let (name, driver) = (name.to_owned(), driver.to_owned());
                networks.add(NetworkSpec { name, driver, ..NetworkSpec::default() }, false)?;
            }
        }
        Ok(networks)
    }

    fn load(&self) -> Result<()> {
        for entry in fs::read_dir(&self.directory).io("list", &self.directory)? {
            let path = entry.io("list", &self.directory)?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let record = record::read::<NetworkRecord>(&path)?.complete();
                let pools = self.pools(&record)?;
                // One whose parent is not there any more must not hold up all others.
                if let Err(error) = self.make_interface(&record) {
                    if record.driver == "bridge" {
                        return Err(error);
                    }
                    tracing::warn!(network = record.name, error = %error.chain(), "cannot make a network again");
                }
                self.names.add_network(&record);
                self.state.lock().networks.insert(record.id.clone(), Network { record, pools });
            }
        }
        Ok(())
    }

    fn pools(&self, record: &NetworkRecord) -> Result<Vec<Pool>> {
        if record.config_only {
            return Ok(Vec::new());
        }
        record.pools.iter().map(|pool| self.pool_of(pool)).collect()
    }

    fn pool_of(&self, pool: &AddressPool) -> Result<Pool> {
        let AddressPool { subnet, range, gateway, auxiliary, .. } = pool;
        let reserved = gateway.iter().chain(auxiliary.values()).copied();
        Pool::new(*subnet, *range, reserved).map_err(|error| Error::invalid(error.to_string()))
    }

    /// A prefix of addresses that are this daemon's own, chosen once.
    fn unique_local_prefix(&self) -> Result<Ipv6Net> {
        let path = self.directory.join("prefix");
        if let Ok(prefix) = record::read(&path) {
            return Ok(prefix);
        }
        let prefix = pool::unique_local_prefix(rand::random());
        record::write(&path, &prefix)?;
        Ok(prefix)
    }

    /// What every interface of the host's that this daemon made is marked with.
    fn mark(&self) -> String {
        format!("dray-{}", self.instance)
    }

    /// Makes what a network stands on, or takes what is there.
    fn make_interface(&self, record: &NetworkRecord) -> Result<()> {
        if record.config_only {
            return Ok(());
        }
        let action = format!("make the interface {}", record.bridge);
        let netlink = self.netlink.lock();
        match record.driver.as_str() {
            "bridge" => {
                let inhibited = record.option("com.docker.network.bridge.inhibit_ipv4").is_some()
                    && record.is_on("com.docker.network.bridge.inhibit_ipv4");
                let addresses = record.pools.iter().filter_map(|pool| {
                    let address = pool.gateway.filter(|gateway| !(gateway.is_ipv4() && inhibited))?;
                    IpNet::new(address, pool.subnet.prefix_len()).ok()
                });
                let bridge = Bridge {
                    name: record.bridge.clone(),
                    mtu: record.bridge_mtu(),
                    addresses: addresses.collect(),
                    alias: if record.is_own_interface() { self.mark() } else { String::new() },
                };
                netlink.create_bridge(&bridge).trying(action)?;
            }
            "macvlan" | "ipvlan" if record.parent_made && record.bridge.starts_with("dm-") => {
                netlink.create_dummy(&record.bridge, &self.mark()).trying(action)?;
            }
            "macvlan" | "ipvlan" => {
                if netlink.find_link(&record.bridge).trying(action.clone())?.is_some() {
                    return Ok(());
                }
                let vlan = record.bridge.rsplit_once('.').and_then(|(parent, identifier)| {
                    let identifier = identifier.parse().ok()?;
                    (1..4095).contains(&identifier).then_some((parent, identifier))
                });
                let Some((parent, identifier)) = vlan else {
                    return Err(Error::invalid(format!(
                        "invalid subinterface vlan name {}, example formatting is eth0.10",
                        record.bridge
                    )));
                };
                netlink.create_vlan(parent, identifier, &record.bridge, &self.mark()).map_err(|error| {
                    match error {
                        dray_network::Error::NoSuchLink { name } => {
                            Error::invalid(format!("parent interface {name} was not found on the host"))
                        }
                        source => Error::Network { action, source },
                    }
                })?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The network with this name or id, or a unique prefix of an id.
    pub(crate) fn find(&self, name: &str) -> Result<NetworkRecord> {
        let state = self.state.lock();
        let mut all = state.networks.values().map(|network| &network.record);
        if let Some(found) = all.clone().find(|record| record.name == name || record.id.as_str() == name) {
            return Ok(found.clone());
        }
        let is_hex = !name.is_empty() && name.bytes().all(|b| b.is_ascii_hexdigit());
        let matches: Vec<_> =
            all.by_ref().filter(|record| is_hex && record.id.as_str().starts_with(name)).collect();
        match matches.as_slice() {
            [only] => Ok((*only).clone()),
            [] => Err(Error::NetworkNotFound { name: name.to_owned() }),
            several => Err(Error::invalid(format!(
                "network {name} is ambiguous ({} matches found based on ID prefix)",
                several.len()
            ))),
        }
    }

    pub(crate) fn list(&self) -> Vec<NetworkRecord> {
        self.state.lock().networks.values().map(|network| network.record.clone()).collect()
    }

    fn add(&self, spec: NetworkSpec, hidden: bool) -> Result<NetworkRecord> {
        let _making = self.making.lock();
        if self.list().iter().any(|record| record.name == spec.name) {
            return Err(Error::conflict(format!("network with name {} already exists", spec.name)));
        }
        let mut record = self.plan(spec, hidden)?;
        if record.driver != "bridge" && !record.bridge.is_empty() && !record.parent_made {
            let found = self.netlink.lock().find_link(&record.bridge);
            record.parent_made = found.map_err(|error| Error::invalid(error.to_string()))?.is_none();
            self.check_parent(&record)?;
        }
        let pools = self.pools(&record)?;
        // The record comes first and goes last, so that no crash leaves a bridge that nobody knows.
        failpoint("network.before-record");
        record::write(&self.record_path(&record.id), &record)?;
        failpoint("network.recorded");
        if let Err(error) = self.realise(&record) {
            let _ = fs::remove_file(self.record_path(&record.id));
            return Err(error);
        }
        failpoint("network.bridged");
        self.names.add_network(&record);
        let network = Network { record: record.clone(), pools };
        self.state.lock().networks.insert(record.id.clone(), network);
        Ok(record)
    }

    /// An interface that one network has for itself is no other's.
    fn check_parent(&self, record: &NetworkRecord) -> Result<()> {
        let passthru = |record: &NetworkRecord| record.option("macvlan_mode") == Some("passthru");
        for other in self.list().iter().filter(|other| other.bridge == record.bridge) {
            let driver = &record.driver;
            let message = if driver == "ipvlan" || passthru(record) {
                format!("network {} is already using parent interface {}", other.id, record.bridge)
            } else if passthru(other) {
                format!(
                    "macvlan network {} is already using parent interface {} in mode passthru",
                    other.id, record.bridge
                )
            } else {
                continue;
            };
            return Err(Error::Forbidden { message });
        }
        Ok(())
    }

    /// Makes the interface and its packet rules, or nothing.
    fn realise(&self, record: &NetworkRecord) -> Result<()> {
        self.make_interface(record)?;
        if record.driver != "bridge" || record.config_only {
            return Ok(());
        }
        let added = self.firewall.lock().add_bridge(&Self::firewall_bridge(record));
        if added.is_err() && record.parent_made {
            let _ = self.netlink.lock().delete_link(&record.bridge);
        }
        added.trying(format!("add packet rules for the bridge {}", record.bridge))
    }

    fn record_path(&self, id: &Id) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    fn firewall_bridge(record: &NetworkRecord) -> FirewallBridge {
        let is = |mode: &str| record.gateway_mode(true) == mode;
        FirewallBridge {
            name: record.bridge.clone(),
            subnets: record.pools.iter().map(|pool| pool.subnet).collect(),
            internal: record.internal,
            masquerade: !record.internal
                && !is("routed")
                && record.is_on("com.docker.network.bridge.enable_ip_masquerade"),
            inter_container: record.is_on("com.docker.network.bridge.enable_icc"),
            // The default bridge and the pods are one network: they reach each other.
            routed: record.hidden || record.name == DEFAULT,
            // Pods are reached from other nodes; a container only by what it publishes.
            reachable: record.hidden || is("nat-unprotected"),
            direct_ports: is("routed"),
        }
    }

    /// Replaces all packet rules by those of the networks and of `published`.
    pub(crate) fn sync_rules(&self, published: Vec<PublishedPort>) -> Result<()> {
        let records = self.list();
        let bridges = records.iter().filter(|record| record.driver == "bridge" && !record.config_only);
        let bridges = bridges.map(Self::firewall_bridge).collect();
        let state = FirewallState { bridges, published, ..FirewallState::default() };
        self.firewall.lock().sync(&state).trying("load the packet rules")
    }

    /// Removes what bears our mark or is a port of our bridges, and is not in `known` nor of a network we have.
    pub(crate) fn remove_unknown_links(&self, known: &HashSet<String>) -> Result<()> {
        let own: HashSet<String> = self.list().into_iter().map(|record| record.bridge).collect();
        let mark = self.mark();
        let netlink = self.netlink.lock();
        let links = netlink.list_links().trying("list the host's links")?;
        let indexes: HashSet<u32> =
            links.iter().filter(|link| own.contains(&link.name)).map(|link| link.index).collect();
        for link in links {
            // The other end of a stand-in for a dummy goes with it.
            let is_own = own.contains(&link.name)
                || link.name.strip_prefix("pm-").is_some_and(|rest| own.contains(&format!("dm-{rest}")));
            let port = link.kind == "veth" && link.bridge.is_some_and(|bridge| indexes.contains(&bridge));
            if (port || link.alias == mark) && !is_own && !known.contains(&link.name) {
                netlink.detach(&link.name).trying(format!("remove the link {}", link.name))?;
            }
        }
        Ok(())
    }

    /// Deletes the packet rules until the next change of a network.
    pub(crate) fn remove_rules(&self) -> Result<()> {
        self.firewall.lock().remove().trying("delete the packet rules")
    }

    fn remove(&self, id: &Id) -> Result<()> {
        let _making = self.making.lock();
        let Some(network) = self.state.lock().networks.remove(id) else { return Ok(()) };
        self.names.remove_network(id);
        let interface = &network.record.bridge;
        failpoint("network.remove-begun");
        if network.record.driver == "bridge" {
            let removed = self.firewall.lock().remove_bridge(interface);
            removed.trying(format!("remove the packet rules of {interface}"))?;
        }
        let shared = self.list().iter().any(|record| record.bridge == *interface);
        if network.record.is_own_interface() && !shared && !interface.is_empty() {
            let deleted = self.netlink.lock().delete_link(interface);
            deleted.trying(format!("remove the interface {interface}"))?;
        }
        failpoint("network.unbridged");
        let path = self.record_path(id);
        fs::remove_file(&path).io("remove", &path)
    }
}

/// Whether the host forwarded nothing before this daemon, or one before it since the last boot, switched that on.
fn was_no_router(config: &EngineConfig) -> Result<bool> {
    let path = config.run_dir.join("no-router");
    if sysctl::get("ipv4/ip_forward").as_deref() == Some("0") {
        fs::write(&path, "").io("write", &path)?;
    }
    Ok(path.exists())
}

impl Engine {
    /// All networks that users see.
    #[must_use]
    pub fn networks(&self) -> Vec<NetworkRecord> {
        self.inner.networks.list().into_iter().filter(|record| !record.hidden).collect()
    }

    /// The network with this name or id.
    ///
    /// # Errors
    /// [`Error::NetworkNotFound`].
    pub fn network(&self, name: &str) -> Result<NetworkRecord> {
        self.inner.networks.find(name)
    }

    /// How many addresses of each of a network's subnets are in use, and how many are left to give.
    #[must_use]
    pub fn network_usage(&self, network: &Id) -> Vec<(IpNet, u64, u64)> {
        let state = self.inner.networks.state.lock();
        let pools = state.networks.get(network).map_or(&[][..], |network| &network.pools);
        pools
            .iter()
            .map(|pool| {
                let (in_use, free) = pool.usage();
                (pool.subnet(), in_use, free)
            })
            .collect()
    }

    /// Makes a network.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the name is taken, [`Error::Forbidden`] when the addresses or the interface are,
    /// [`Error::Invalid`] for a value that cannot be, [`Error::NotFound`] for a driver that there is not.
    pub async fn create_network(&self, mut spec: NetworkSpec) -> Result<NetworkRecord> {
        self.blocking(move |engine| {
            if spec.name.is_empty() {
                return Err(Error::invalid("invalid name: name is empty"));
            }
            if ["bridge", "host", "none", "default"].contains(&spec.name.as_str())
                || spec.name.starts_with("container:")
            {
                let name = &spec.name;
                let message = format!("operation is not permitted on predefined {name} network ");
                return Err(Error::Forbidden { message });
            }
            if spec.driver.is_empty() {
                spec.driver = "bridge".to_owned();
            }
            match spec.driver.as_str() {
                "bridge" | "macvlan" | "ipvlan" => {}
                driver @ ("host" | "null") => {
                    let message = format!("only one instance of \"{driver}\" network is allowed");
                    return Err(Error::Forbidden { message });
                }
                driver => return Err(Error::NotFound { kind: "network driver", name: driver.to_owned() }),
            }
            let record = engine.inner.networks.add(spec, false)?;
            engine.network_event("create", &record, None);
            Ok(record)
        })
        .await
    }

    /// The engine's own network `name`, made when it is not there; users do not see it. The node agent keeps its pods
    /// in one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn ensure_hidden_network(&self, name: &str) -> Result<NetworkRecord> {
        let name = name.to_owned();
        self.blocking(move |engine| match engine.inner.networks.find(&name) {
            Ok(record) => Ok(record),
            Err(_) => {
                let spec = NetworkSpec { name, driver: "bridge".to_owned(), ..NetworkSpec::default() };
                engine.inner.networks.add(spec, true)
            }
        })
        .await
    }

    /// Removes a network that no container is in.
    ///
    /// # Errors
    /// [`Error::NetworkNotFound`], or [`Error::Forbidden`] when it is used or predefined.
    pub async fn remove_network(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.blocking(move |engine| {
            let record = engine.inner.networks.find(&name)?;
            let name = &record.name;
            let refused = |message| Err(Error::Forbidden { message });
            if record.is_predefined() {
                return refused(format!("{name} is a pre-defined network and cannot be removed"));
            }
            if engine.inner.networks.list().iter().any(|other| other.config_from == *name)
                && record.config_only
            {
                return refused(format!("configuration network {name:?} is in use"));
            }
            let mut users: Vec<String> = Vec::new();
            for container in engine.containers() {
                let is_here = |endpoint: &&EndpointRecord| endpoint.network == record.id;
                users.extend(
                    container
                        .endpoints
                        .iter()
                        .filter(is_here)
                        .map(|endpoint| format!("name:{:?} id:{:?}", container.name, endpoint.id.short())),
                );
            }
            if !users.is_empty() {
                users.sort();
                let users = users.join(", ");
                return refused(format!(
                    "error while removing network: network {name} has active endpoints ({users})"
                ));
            }
            engine.inner.networks.remove(&record.id)?;
            engine.network_event("destroy", &record, None);
            Ok(())
        })
        .await
    }

    pub(crate) fn network_event(&self, action: &str, record: &NetworkRecord, container: Option<&Id>) {
        let mut attributes: BTreeMap<_, _> =
            [("name".to_owned(), record.name.clone()), ("type".to_owned(), record.driver.clone())].into();
        if let Some(container) = container {
            attributes.insert("container".to_owned(), container.to_string());
        }
        self.inner.events.publish(EventKind::Network, action, record.id.as_str(), attributes);
    }
}

/// The addresses of an endpoint.
pub(crate) fn addresses_of(endpoint: &EndpointRecord) -> impl Iterator<Item = IpAddr> {
    let ipv4 = endpoint.address.map(IpAddr::V4);
    ipv4.into_iter().chain(endpoint.ipv6_address.map(IpAddr::V6))
}
