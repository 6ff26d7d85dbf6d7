//! What is known of Services and their endpoints: as much of each object as rules and names need, and which
//! Services changed. Pure values; it must not know the kernel or the API's transport.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dray_network::ports::Protocol;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

/// The label that ties an EndpointSlice to its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// How long a client stays with its endpoint unless the Service says otherwise.
const AFFINITY: Duration = Duration::from_secs(10_800);

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    /// The Service.
    pub service: ServiceName,
    /// The port's name; empty for the only one.
    pub port: String,
    /// Its protocol.
    pub protocol: Protocol,
}

/// Where packets for one port of a Service are to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The Service's own address.
    pub cluster_address: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// The port at every address of the node.
    pub node_port: Option<u16>,
    /// All endpoints.
    pub endpoints: BTreeSet<SocketAddrV4>,
    /// Those on this node.
    pub local_endpoints: BTreeSet<SocketAddrV4>,
    /// Packets from inside go to local endpoints only.
    pub internal_local: bool,
    /// Packets by the node port go to local endpoints only.
    pub external_local: bool,
    /// A client stays with its endpoint for this long.
    pub affinity: Option<Duration>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ServiceEntry {
    pub(crate) cluster_address: Option<Ipv4Addr>,
    pub(crate) headless: bool,
    pub(crate) external_name: Option<String>,
    pub(crate) ports: Vec<PortEntry>,
    internal_local: bool,
    external_local: bool,
    affinity: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortEntry {
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    node_port: Option<u16>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct SliceEntry {
    endpoints: Vec<EndpointEntry>,
    ports: Vec<(String, Protocol, u16)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct EndpointEntry {
    address: Ipv4Addr,
    ready: bool,
    /// Ready but for the fact that it is going away: used where nothing else is there.
    last_resort: bool,
    host_name: Option<String>,
    node: Option<String>,
}

/// An endpoint as names need it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NamedEndpoint {
    /// The first label of its name: its host name, or its address with dashes.
    pub(crate) label: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) ports: Vec<(String, Protocol, u16)>,
}

/// All Services and EndpointSlices.
#[derive(Debug, Default)]
pub struct Cluster {
    services: HashMap<ServiceName, ServiceEntry>,
    /// By Service, then by the slice's name.
    slices: HashMap<ServiceName, BTreeMap<String, SliceEntry>>,
    addresses: HashMap<Ipv4Addr, ServiceName>,
    namespaces: HashMap<String, usize>,
    dirty: BTreeSet<ServiceName>,
}

impl Cluster {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A Service was made or changed.
    pub fn apply_service(&mut self, service: &core::Service) {
        let Some(name) = service_name(&service.metadata) else { return };
        let entry = read_service(service);
        let old = self.services.get(&name);
        if old == Some(&entry) {
            return;
        }
        if let Some(address) = old.and_then(|old| old.cluster_address) {
            self.addresses.remove(&address);
        }
        if let Some(address) = entry.cluster_address {
            self.addresses.insert(address, name.clone());
        }
        if self.services.insert(name.clone(), entry).is_none() {
            *self.namespaces.entry(name.namespace.clone()).or_default() += 1;
        }
        self.dirty.insert(name);
    }

    /// A Service is gone.
    pub fn remove_service(&mut self, name: &ServiceName) {
        let Some(old) = self.services.remove(name) else { return };
        if let Some(address) = old.cluster_address
            && self.addresses.get(&address) == Some(name)
        {
            self.addresses.remove(&address);
        }
        if let Some(count) = self.namespaces.get_mut(&name.namespace) {
            *count -= 1;
            if *count == 0 {
                self.namespaces.remove(&name.namespace);
            }
        }
        self.dirty.insert(name.clone());
    }

    /// An EndpointSlice was made or changed.
    pub fn apply_slice(&mut self, slice: &discovery::EndpointSlice) {
        let Some((service, name)) = slice_name(slice) else { return };
        // The label may have moved it from another Service.
        self.remove_slice_elsewhere(&service, &name);
        let entry = read_slice(slice);
        let slices = self.slices.entry(service.clone()).or_default();
        if slices.get(&name) != Some(&entry) {
            slices.insert(name, entry);
            self.dirty.insert(service);
        }
    }

    /// An EndpointSlice is gone.
    pub fn remove_slice(&mut self, slice: &discovery::EndpointSlice) {
        if let Some((service, name)) = slice_name(slice) {
            self.remove_slice_of(&service, &name);
        }
    }

    /// Every Service there is, after the watch had to begin again: what is not among them is gone.
    pub fn replace_services(&mut self, services: &[core::Service]) {
        let present: BTreeSet<_> =
            services.iter().filter_map(|service| service_name(&service.metadata)).collect();
        let gone: Vec<_> = self.services.keys().filter(|name| !present.contains(name)).cloned().collect();
        for name in gone {
            self.remove_service(&name);
        }
        for service in services {
            self.apply_service(service);
        }
    }

    /// Every EndpointSlice there is.
    pub fn replace_slices(&mut self, slices: &[discovery::EndpointSlice]) {
        let present: BTreeSet<_> = slices.iter().filter_map(slice_name).collect();
        let known = self.slices.iter();
        let known =
            known.flat_map(|(service, slices)| slices.keys().map(|name| (service.clone(), name.clone())));
        let gone: Vec<_> = known.filter(|slice| !present.contains(slice)).collect();
        for (service, name) in gone {
            self.remove_slice_of(&service, &name);
        }
        for slice in slices {
            self.apply_slice(slice);
        }
    }

    /// The Services that changed since this was last asked, with their ports as they should be; none where
    /// packets are not to be led anywhere any more.
    pub fn take_changes(&mut self, node: &str) -> BTreeMap<ServiceName, BTreeMap<PortName, ServicePort>> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty
            .into_iter()
            .map(|name| {
                let ports = self.ports(&name, node);
                (name, ports)
            })
            .collect()
    }

    /// Says again that these Services changed, as when writing their rules failed.
    pub fn mark_changed(&mut self, services: impl IntoIterator<Item = ServiceName>) {
        self.dirty.extend(services);
    }

    fn ports(&self, name: &ServiceName, node: &str) -> BTreeMap<PortName, ServicePort> {
        let Some(service) = self.services.get(name) else { return BTreeMap::new() };
        let Some(cluster_address) = service.cluster_address else { return BTreeMap::new() };
        let ports = service.ports.iter().map(|port| {
            let (endpoints, local_endpoints) = self.endpoints(name, port, node);
            let value = ServicePort {
                cluster_address,
                port: port.port,
                node_port: port.node_port,
                endpoints,
                local_endpoints,
                internal_local: service.internal_local,
                external_local: service.external_local,
                affinity: service.affinity,
            };
            let key = PortName { service: name.clone(), port: port.name.clone(), protocol: port.protocol };
            (key, value)
        });
        ports.collect()
    }

    fn endpoints(
        &self,
        name: &ServiceName,
        port: &PortEntry,
        node: &str,
    ) -> (BTreeSet<SocketAddrV4>, BTreeSet<SocketAddrV4>) {
        let select = |wanted: fn(&EndpointEntry) -> bool, local: bool| -> BTreeSet<SocketAddrV4> {
            let slices = self.slices.get(name).into_iter().flat_map(BTreeMap::values);
            slices
                .flat_map(|slice| {
                    let ports = slice.ports.iter().filter(|(slice_port, protocol, _)| {
                        *slice_port == port.name && *protocol == port.protocol
                    });
                    let number = ports.map(|(_, _, number)| *number).next();
                    slice.endpoints.iter().filter_map(move |endpoint| Some((endpoint, number?)))
                })
                .filter(|(endpoint, _)| {
                    wanted(endpoint) && (!local || endpoint.node.as_deref() == Some(node))
                })
                .map(|(endpoint, number)| SocketAddrV4::new(endpoint.address, number))
                .collect()
        };
        let choose = |local| {
            let ready = select(|endpoint| endpoint.ready, local);
            if ready.is_empty() { select(|endpoint| endpoint.last_resort, local) } else { ready }
        };
        (choose(false), choose(true))
    }

    pub(crate) fn service(&self, name: &ServiceName) -> Option<&ServiceEntry> {
        self.services.get(name)
    }

    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    pub(crate) fn service_at(&self, address: Ipv4Addr) -> Option<&ServiceName> {
        self.addresses.get(&address)
    }

    /// The endpoints of a Service that names may lead to.
    pub(crate) fn named_endpoints(&self, name: &ServiceName) -> BTreeSet<NamedEndpoint> {
        let slices = self.slices.get(name).into_iter().flat_map(BTreeMap::values);
        slices
            .flat_map(|slice| slice.endpoints.iter().map(move |endpoint| (slice, endpoint)))
            .filter(|(_, endpoint)| endpoint.ready)
            .map(|(slice, endpoint)| NamedEndpoint {
                label: match &endpoint.host_name {
                    Some(name) => name.to_ascii_lowercase(),
                    None => endpoint.address.to_string().replace('.', "-"),
                },
                address: endpoint.address,
                ports: slice.ports.clone(),
            })
            .collect()
    }

    /// The headless Service an address answers for, and the endpoint's label.
    pub(crate) fn headless_at(&self, address: Ipv4Addr) -> Option<(ServiceName, String)> {
        let headless = self.services.iter().filter(|(_, service)| service.headless).map(|(name, _)| name);
        headless
            .flat_map(|name| self.named_endpoints(name).into_iter().map(move |endpoint| (name, endpoint)))
            .filter(|(_, endpoint)| endpoint.address == address)
            .map(|(name, endpoint)| (name.clone(), endpoint.label))
            .min()
    }

    fn remove_slice_of(&mut self, service: &ServiceName, name: &str) {
        let Some(slices) = self.slices.get_mut(service) else { return };
        if slices.remove(name).is_some() {
            self.dirty.insert(service.clone());
        }
        if slices.is_empty() {
            self.slices.remove(service);
        }
    }

    fn remove_slice_elsewhere(&mut self, service: &ServiceName, name: &str) {
        let other = self.slices.iter().find(|(other, slices)| {
            *other != service && other.namespace == service.namespace && slices.contains_key(name)
        });
        if let Some(other) = other.map(|(other, _)| other.clone()) {
            self.remove_slice_of(&other, name);
        }
    }
}

type Metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The name of an object that is named and namespaced, as every object from the API is.
pub(crate) fn service_name(metadata: &Metadata) -> Option<ServiceName> {
    Some(ServiceName { namespace: metadata.namespace.clone()?, name: metadata.name.clone()? })
}

fn slice_name(slice: &discovery::EndpointSlice) -> Option<(ServiceName, String)> {
    let namespace = slice.metadata.namespace.clone()?;
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?.clone();
    Some((ServiceName { namespace, name: service }, slice.metadata.name.clone()?))
}

fn read_service(service: &core::Service) -> ServiceEntry {
    let Some(spec) = &service.spec else { return ServiceEntry::default() };
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    if kind == "ExternalName" {
        let external_name = spec.external_name.as_ref().map(|name| name.trim_end_matches('.').to_owned());
        return ServiceEntry { external_name, ..ServiceEntry::default() };
    }
    let addresses = spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter());
    let cluster_address = addresses.filter_map(|address| address.parse().ok()).next();
    let with_node_port = matches!(kind, "NodePort" | "LoadBalancer");
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(PortEntry {
            name: port.name.clone().unwrap_or_default(),
            protocol: read_protocol(port.protocol.as_deref())?,
            port: u16::try_from(port.port).ok()?,
            node_port: port.node_port.filter(|_| with_node_port).and_then(|port| u16::try_from(port).ok()),
        })
    });
    let timeout = || {
        let seconds = spec.session_affinity_config.as_ref()?.client_ip.as_ref()?.timeout_seconds?;
        u64::try_from(seconds).ok().filter(|&seconds| seconds > 0).map(Duration::from_secs)
    };
    let affine = spec.session_affinity.as_deref() == Some("ClientIP");
    ServiceEntry {
        cluster_address,
        headless: spec.cluster_ip.as_deref() == Some("None"),
        external_name: None,
        ports: ports.collect(),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: with_node_port && spec.external_traffic_policy.as_deref() == Some("Local"),
        affinity: affine.then(|| timeout().unwrap_or(AFFINITY)),
    }
}

fn read_slice(slice: &discovery::EndpointSlice) -> SliceEntry {
    if slice.address_type != "IPv4" {
        return SliceEntry::default();
    }
    let endpoints = slice.endpoints.iter().flatten().filter_map(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        // Unknown counts as ready; serving follows ready unless it is said.
        let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
        let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
        let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
        Some(EndpointEntry {
            // Consumers use the first address only.
            address: endpoint.addresses.first()?.parse().ok()?,
            ready,
            last_resort: serving && terminating,
            host_name: endpoint.hostname.clone().filter(|name| !name.is_empty()),
            node: endpoint.node_name.clone(),
        })
    });
    let ports = slice.ports.iter().flatten().filter_map(|port| {
        let number = u16::try_from(port.port?).ok()?;
        Some((port.name.clone().unwrap_or_default(), read_protocol(port.protocol.as_deref())?, number))
    });
    SliceEntry { endpoints: endpoints.collect(), ports: ports.collect() }
}

fn read_protocol(name: Option<&str>) -> Option<Protocol> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}
