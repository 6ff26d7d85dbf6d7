//! Networks of containers: bridges, their addresses, and the ports published from them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use dray_network::firewall::{Firewall, FirewallBridge, FirewallState, PublishedPort};
use dray_network::link::{Attachment, Bridge, MacAddress, Netlink};
use dray_network::pool::{self, Pool};
use dray_network::ports::PortReservation;
use dray_network::{IpNet, Ipv4Net};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::engine::{EngineConfig, private_directory};
use crate::error::{IoContext, Trying};
use crate::events::EventKind;
use crate::failpoint::failpoint;
use crate::name_service::NameService;
use crate::record::{self, EndpointRecord};
use crate::spec::{EndpointSpec, PortBinding};
use crate::{Engine, Error, Id, Result};

/// The network of containers that name none.
pub(crate) const DEFAULT: &str = "bridge";
/// Largest frame on a bridge.
const MTU: u32 = 1500;

/// A network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: String,
    /// `bridge`, `host` or `null`.
    pub driver: String,
    /// The addresses; none for host and null.
    pub subnet: Option<Ipv4Net>,
    /// The host's address in it.
    pub gateway: Option<Ipv4Addr>,
    /// The bridge's name.
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
}

impl NetworkRecord {
    /// Whether it was there from the start and cannot be removed.
    #[must_use]
    pub fn is_predefined(&self) -> bool {
        self.hidden || ["bridge", "host", "none"].contains(&self.name.as_str())
    }
}

/// A network to be made.
#[derive(Clone, Debug, Default)]
pub struct NetworkSpec {
    /// Its name.
    pub name: String,
    /// The addresses; without them the engine chooses free ones.
    pub subnet: Option<Ipv4Net>,
    /// The host's address in it; without one the first.
    pub gateway: Option<Ipv4Addr>,
    /// Whether nothing outside is reachable from it.
    pub internal: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

struct Network {
    record: NetworkRecord,
    pool: Option<Pool>,
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
    pub(crate) names: NameService,
}

/// Where a container or sandbox is to be connected.
pub(crate) struct Place<'a> {
    /// Who is connected.
    pub(crate) owner: &'a Id,
    /// Its network namespace.
    pub(crate) namespace: &'a Path,
    /// Its interface's name there.
    pub(crate) interface: String,
    /// More about the place.
    pub(crate) endpoint: &'a EndpointSpec,
    /// Names under which others find it.
    pub(crate) names: Vec<String>,
}

impl Networks {
    pub(crate) fn open(config: &EngineConfig) -> Result<Self> {
        let directory = config.data_dir.join("networks");
        private_directory(&directory)?;
        let table = format!("dray-{}", config.instance);
        let networks = Self {
            directory,
            instance: config.instance.clone(),
            netlink: Mutex::new(Netlink::open().trying("open a netlink socket")?),
            cleaner: Mutex::new(Netlink::open().trying("open a netlink socket")?),
            firewall: Mutex::new(Firewall::open(&table).trying("open the packet filter")?),
            state: Mutex::new(State::default()),
            names: NameService::new(),
        };
        networks.load()?;
        for (name, driver) in [(DEFAULT, "bridge"), ("host", "host"), ("none", "null")] {
            if networks.find(name).is_err() {
                let spec = NetworkSpec { name: name.to_owned(), ..NetworkSpec::default() };
                networks.add(spec, driver, false)?;
            }
        }
        Ok(networks)
    }

    fn load(&self) -> Result<()> {
        for entry in fs::read_dir(&self.directory).io("list", &self.directory)? {
            let path = entry.io("list", &self.directory)?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let record: NetworkRecord = record::read(&path)?;
                let pool = Self::pool(&record)?;
                self.make_bridge(&record)?;
                self.names.add_network(&record);
                self.state.lock().networks.insert(record.id.clone(), Network { record, pool });
            }
        }
        Ok(())
    }

    fn pool(record: &NetworkRecord) -> Result<Option<Pool>> {
        let Some(subnet) = record.subnet else { return Ok(None) };
        Pool::new(subnet, None, record.gateway).map(Some).trying(format!("use the subnet {subnet}"))
    }

    fn make_bridge(&self, record: &NetworkRecord) -> Result<()> {
        let (Some(subnet), Some(gateway)) = (record.subnet, record.gateway) else { return Ok(()) };
        let address = Ipv4Net::new(gateway, subnet.prefix_len())
            .map_err(|_| Error::invalid(format!("invalid subnet {subnet}")))?;
        let bridge = Bridge { name: record.bridge.clone(), mtu: MTU, addresses: vec![IpNet::V4(address)] };
        self.netlink.lock().create_bridge(&bridge).trying(format!("make the bridge {}", record.bridge))?;
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
        let found = all.find(|record| is_hex && record.id.as_str().starts_with(name));
        found.cloned().ok_or_else(|| Error::NetworkNotFound { name: name.to_owned() })
    }

    pub(crate) fn list(&self) -> Vec<NetworkRecord> {
        self.state.lock().networks.values().map(|network| network.record.clone()).collect()
    }

    fn add(&self, spec: NetworkSpec, driver: &str, hidden: bool) -> Result<NetworkRecord> {
        let id = Id::random();
        let subnet = match (driver, spec.subnet) {
            ("bridge", Some(subnet)) => Some(self.check_subnet(subnet)?),
            ("bridge", None) => Some(self.choose_subnet(hidden)?),
            _ => None,
        };
        let gateway = match subnet {
            Some(subnet) => Some(spec.gateway.unwrap_or_else(|| first_host(subnet))),
            None => None,
        };
        let bridge = match (driver, spec.name.as_str()) {
            ("bridge", DEFAULT) => format!("dray-{}", self.instance),
            ("bridge", _) => format!("dr-{}", id.short()),
            _ => String::new(),
        };
        let record = NetworkRecord {
            id: id.clone(),
            name: spec.name,
            driver: driver.to_owned(),
            subnet,
            gateway,
            bridge,
            internal: spec.internal,
            hidden,
            labels: spec.labels,
            options: spec.options,
            created: Timestamp::now(),
        };
        let pool = Self::pool(&record)?;
        // The record comes first and goes last, so that no crash leaves a bridge that nobody knows.
        failpoint("network.before-record");
        record::write(&self.record_path(&id), &record)?;
        failpoint("network.recorded");
        if let Err(error) = self.realise(&record) {
            let _ = fs::remove_file(self.record_path(&id));
            return Err(error);
        }
        failpoint("network.bridged");
        self.names.add_network(&record);
        self.state.lock().networks.insert(id, Network { record: record.clone(), pool });
        Ok(record)
    }

    /// Makes the bridge and its packet rules, or nothing.
    fn realise(&self, record: &NetworkRecord) -> Result<()> {
        self.make_bridge(record)?;
        if record.driver != "bridge" {
            return Ok(());
        }
        let added = self.firewall.lock().add_bridge(&Self::firewall_bridge(record));
        if added.is_err() {
            let _ = self.netlink.lock().delete_link(&record.bridge);
        }
        added.trying(format!("add packet rules for the bridge {}", record.bridge))
    }

    fn record_path(&self, id: &Id) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    fn check_subnet(&self, subnet: Ipv4Net) -> Result<Ipv4Net> {
        let overlaps =
            |other: &Ipv4Net| other.contains(&subnet.network()) || subnet.contains(&other.network());
        if self.list().iter().filter_map(|record| record.subnet).any(|other| overlaps(&other)) {
            return Err(Error::invalid(
                "invalid pool request: Pool overlaps with other one on this address space",
            ));
        }
        Ok(subnet.trunc())
    }

    fn choose_subnet(&self, pods: bool) -> Result<Ipv4Net> {
        let mut taken = self.netlink.lock().networks_in_use().trying("list the host's networks")?;
        taken.extend(self.list().iter().filter_map(|record| record.subnet));
        let chosen = if pods {
            pool::choose_subnet(pool::pod_candidates(), &taken)
        } else {
            pool::choose_subnet(pool::bridge_candidates(), &taken)
        };
        chosen.map_err(|_| {
            Error::conflict(
                "all predefined address pools have been fully subnetted; give a subnet, or remove networks",
            )
        })
    }

    fn firewall_bridge(record: &NetworkRecord) -> FirewallBridge {
        FirewallBridge {
            name: record.bridge.clone(),
            subnet: record.subnet.unwrap_or_default(),
            internal: record.internal,
            masquerade: !record.internal,
            inter_container: record
                .options
                .get("com.docker.network.bridge.enable_icc")
                .is_none_or(|v| v != "false"),
            // The default bridge and the pods are one network: they reach each other.
            routed: record.hidden || record.name == DEFAULT,
            reachable: !record.internal,
        }
    }

    /// Replaces all packet rules by those of the networks and of `published`.
    pub(crate) fn sync_rules(&self, published: &[PortBinding], addresses: &[Ipv4Addr]) -> Result<()> {
        let records = self.list();
        let bridges =
            records.iter().filter(|record| record.driver == "bridge").map(Self::firewall_bridge).collect();
        let published = published
            .iter()
            .zip(addresses)
            .filter_map(|(port, address)| published_port(port, *address))
            .collect();
        let state = FirewallState { bridges, published, ..FirewallState::default() };
        self.firewall.lock().sync(&state).trying("load the packet rules")
    }

    /// Connects a namespace to the network `name`.
    pub(crate) fn connect(&self, name: &str, place: &Place<'_>) -> Result<EndpointRecord> {
        let record = self.find(name)?;
        let (Some(subnet), Some(gateway)) = (record.subnet, record.gateway) else {
            return Err(Error::invalid(format!("containers cannot be connected to the network {name}")));
        };
        let address = self.allocate(&record.id, place.endpoint.address)?;
        let id = Id::random();
        let mac = MacAddress::from_ipv4(address);
        let host_link = format!("veth{}", &id.as_str()[..10]);
        let net = Ipv4Net::new(address, subnet.prefix_len())
            .map_err(|_| Error::invalid(format!("invalid subnet {subnet}")))?;
        let attachment = Attachment {
            bridge: record.bridge.clone(),
            host_name: host_link.clone(),
            namespace: place.namespace.to_owned(),
            name: place.interface.clone(),
            mac,
            addresses: vec![IpNet::V4(net)],
            gateways: if record.internal { Vec::new() } else { vec![IpAddr::V4(gateway)] },
            mtu: MTU,
            hairpin: true,
            isolated: false,
        };
        if let Err(error) = self.netlink.lock().attach(&attachment) {
            self.release_address(&record.id, address);
            return Err(error).trying(format!("connect {} to the network {name}", place.owner.short()));
        }
        Ok(EndpointRecord {
            network: record.id,
            network_name: record.name,
            id,
            address: Some(address),
            prefix: subnet.prefix_len(),
            gateway: Some(gateway),
            mac: Some(mac.to_string()),
            host_link,
            names: place.names.clone(),
        })
    }

    /// Removes the ports of our bridges that are not in `known`.
    pub(crate) fn remove_unknown_links(&self, known: &HashSet<String>) -> Result<()> {
        let bridges: HashSet<String> = self.list().into_iter().map(|record| record.bridge).collect();
        let netlink = self.netlink.lock();
        let links = netlink.list_links().trying("list the host's links")?;
        let indexes: HashSet<u32> =
            links.iter().filter(|link| bridges.contains(&link.name)).map(|link| link.index).collect();
        for link in links {
            let ours = link.kind == "veth" && link.bridge.is_some_and(|bridge| indexes.contains(&bridge));
            if ours && !known.contains(&link.name) {
                netlink.detach(&link.name).trying(format!("remove the link {}", link.name))?;
            }
        }
        Ok(())
    }

    fn allocate(&self, network: &Id, wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr> {
        let mut state = self.state.lock();
        let entry = state.networks.get_mut(network);
        let pool = entry
            .and_then(|network| network.pool.as_mut())
            .ok_or_else(|| Error::NetworkNotFound { name: network.to_string() })?;
        match wanted {
            Some(address) => pool
                .allocate_exact(address)
                .map(|()| address)
                .map_err(|_| Error::conflict("Address already in use")),
            None => pool
                .allocate()
                .map_err(|_| Error::conflict("no available IPv4 addresses on this network's address pools")),
        }
    }

    fn release_address(&self, network: &Id, address: Ipv4Addr) {
        let mut state = self.state.lock();
        if let Some(pool) = state.networks.get_mut(network).and_then(|network| network.pool.as_mut()) {
            pool.release(address);
        }
    }

    /// Takes the address of a container that was found running.
    pub(crate) fn adopt(&self, endpoint: &EndpointRecord) {
        if let Some(address) = endpoint.address
            && let Err(error) = self.allocate(&endpoint.network, Some(address))
        {
            tracing::warn!(%address, error = %error.chain(), "the address of a running container is taken");
        }
    }

    /// Takes a place in a network away.
    pub(crate) fn disconnect(&self, endpoint: &EndpointRecord) -> Result<()> {
        let detached = self.cleaner.lock().detach(&endpoint.host_link);
        if let Some(address) = endpoint.address {
            self.release_address(&endpoint.network, address);
        }
        detached.map(|_| ()).trying(format!("take away the link {}", endpoint.host_link))
    }

    /// Reserves the host's ports and lets them lead to `address`. Answers them as they are bound.
    pub(crate) fn publish(
        &self,
        owner: &Id,
        name: &str,
        ports: &[PortBinding],
        address: Ipv4Addr,
    ) -> Result<Vec<PortBinding>> {
        let mut reservations = Vec::with_capacity(ports.len());
        let mut bound = Vec::with_capacity(ports.len());
        for port in ports {
            let reservation = PortReservation::reserve(port.protocol, port.host_address, port.host_port)
                .map_err(|source| self.port_error(name, port, &source))?;
            bound.push(PortBinding { host_port: reservation.port(), ..port.clone() });
            reservations.push(reservation);
        }
        let rules: Vec<_> = bound.iter().filter_map(|port| published_port(port, address)).collect();
        if !rules.is_empty() {
            self.firewall.lock().publish(&rules).trying("publish ports")?;
        }
        if !reservations.is_empty() {
            self.state.lock().reservations.insert(owner.clone(), reservations);
        }
        Ok(bound)
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
            let address = std::net::SocketAddr::new(port.host_address, port.host_port);
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
    pub(crate) fn unpublish(&self, owner: &Id, ports: &[PortBinding], address: Ipv4Addr) -> Result<()> {
        let rules: Vec<_> = ports.iter().filter_map(|port| published_port(port, address)).collect();
        let result = if rules.is_empty() {
            Ok(())
        } else {
            self.firewall.lock().unpublish(&rules).trying("take back published ports")
        };
        self.state.lock().reservations.remove(owner);
        result
    }

    fn remove(&self, id: &Id) -> Result<()> {
        let Some(network) = self.state.lock().networks.remove(id) else { return Ok(()) };
        self.names.remove_network(id);
        let bridge = &network.record.bridge;
        failpoint("network.remove-begun");
        self.firewall.lock().remove_bridge(bridge).trying(format!("remove the packet rules of {bridge}"))?;
        self.netlink.lock().delete_link(bridge).trying(format!("remove the bridge {bridge}"))?;
        failpoint("network.unbridged");
        let path = self.record_path(id);
        fs::remove_file(&path).io("remove", &path)
    }
}

fn first_host(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()) + 1)
}

fn published_port(port: &PortBinding, container_address: Ipv4Addr) -> Option<PublishedPort> {
    let IpAddr::V4(host_address) = port.host_address else { return None };
    Some(PublishedPort {
        protocol: port.protocol,
        host_address,
        host_port: port.host_port,
        container_address,
        container_port: port.container_port,
    })
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

    /// Makes a bridge network.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the name is taken or no addresses are free, [`Error::Invalid`] for a bad subnet.
    pub async fn create_network(&self, spec: NetworkSpec) -> Result<NetworkRecord> {
        self.blocking(move |engine| {
            if spec.name.is_empty() {
                return Err(Error::invalid("network name must not be empty"));
            }
            if engine.inner.networks.list().iter().any(|record| record.name == spec.name) {
                return Err(Error::conflict(format!("network with name {} already exists", spec.name)));
            }
            let record = engine.inner.networks.add(spec, "bridge", false)?;
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
                let spec = NetworkSpec { name, ..NetworkSpec::default() };
                engine.inner.networks.add(spec, "bridge", true)
            }
        })
        .await
    }

    /// Removes a network that no container is in.
    ///
    /// # Errors
    /// [`Error::NetworkNotFound`], or [`Error::Conflict`] when it is used or predefined.
    pub async fn remove_network(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.blocking(move |engine| {
            let record = engine.inner.networks.find(&name)?;
            if record.is_predefined() {
                return Err(Error::Invalid {
                    message: format!("{} is a pre-defined network and cannot be removed", record.name),
                });
            }
            let used = engine
                .containers()
                .iter()
                .any(|container| container.endpoints.iter().any(|endpoint| endpoint.network == record.id));
            if used {
                return Err(Error::conflict(format!(
                    "error while removing network: network {} has active endpoints",
                    record.name
                )));
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
