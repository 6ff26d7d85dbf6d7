//! Services as packet rules, in one table.
//!
//! A packet for a Service is found by one lookup of (protocol, address, port), whatever their number; the
//! verdict leads to a chain of the Service's port, which draws a number and looks the endpoint up by (group,
//! number). A change touches only the elements and chains of the ports that changed, in one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dray_network::link::Netlink;
use dray_network::nftables::{
    AddressKind, BaseChain, ChainKind, Comparison, Conntrack, DataType, Element, Expression, Family, Hook,
    Key, Meta, Nftables, PayloadBase, Reject, Set, SetUpdate, Transaction, Verdict, compare, goto, jump,
    payload, source_address,
};
use dray_network::ports::Protocol;
use dray_network::{Ipv4Net, Result, conntrack};

use crate::cluster::{PortName, ServiceName, ServicePort};

const SERVICES: &str = "services";
const NODE_PORTS: &str = "node-ports";
const ENDPOINTS: &str = "endpoints";
/// Endpoints that reach themselves by a Service, as (source, destination).
const REFLECTED: &str = "reflected";
const TCP: u8 = 6;
/// The bit of a packet's mark that asks for the node's address as its source, the same as kube-proxy's.
const MASQUERADE: u32 = 0x4000;
/// Clients a port with session affinity remembers.
const AFFINE_CLIENTS: u32 = 65_536;

/// The networks the rules speak of.
#[derive(Debug, Clone)]
pub struct Networks {
    /// Addresses of Services.
    pub services: Ipv4Net,
    /// Addresses of this node's pods.
    pub pods: Ipv4Net,
    /// The bridge that they are on.
    pub bridge: String,
    /// The name server's address among those of Services: the node itself answers there.
    pub name_server: Option<Ipv4Addr>,
}

/// The table of Services.
#[derive(Debug)]
pub struct Rules {
    nftables: Nftables,
    table: String,
    networks: Networks,
    bridged_packets_filtered: bool,
    /// Whether this process has written the table.
    written: bool,
    next_group: u32,
    programs: BTreeMap<PortName, Program>,
    /// How many ports have the endpoint.
    reflected: BTreeMap<Ipv4Addr, usize>,
}

/// What the table holds for one port.
#[derive(Debug, Clone, Default)]
struct Program {
    group: u32,
    port: Option<ServicePort>,
    elements: BTreeMap<(&'static str, Key), Element>,
    chains: BTreeMap<String, Vec<Vec<Expression>>>,
    /// The maps that remember clients, with the endpoints they may name.
    affinity_maps: BTreeMap<String, (Set, BTreeSet<SocketAddrV4>)>,
}

impl Rules {
    /// Opens the table in the caller's namespace. What an earlier process wrote stays in force until the
    /// first [`Rules::sync`].
    pub fn open(table: &str, networks: Networks) -> Result<Self> {
        Ok(Self {
            nftables: Nftables::open()?,
            table: table.to_owned(),
            // Where the kernel cannot, what would need it is masqueraded instead.
            bridged_packets_filtered: Netlink::open()?.filter_bridged(&networks.bridge)?,
            networks,
            written: false,
            next_group: 0,
            programs: BTreeMap::new(),
            reflected: BTreeMap::new(),
        })
    }

    /// Makes the ports of these Services as given, in one transaction; the first call also takes away what
    /// an earlier process left.
    pub fn sync(&mut self, changes: &BTreeMap<ServiceName, BTreeMap<PortName, ServicePort>>) -> Result<()> {
        let mut next: BTreeMap<PortName, Option<Program>> = BTreeMap::new();
        for (service, ports) in changes {
            let first = PortName { service: service.clone(), port: String::new(), protocol: Protocol::Tcp };
            let present = self.programs.range(first..).map(|(name, _)| name);
            let present = present.take_while(|name| name.service == *service);
            for gone in present.filter(|name| !ports.contains_key(name)) {
                next.insert(gone.clone(), None);
            }
            for (name, port) in ports {
                let old = self.programs.get(name);
                if old.is_some_and(|old| old.port.as_ref() == Some(port)) {
                    continue;
                }
                let group = old.map_or_else(
                    || {
                        self.next_group += 2;
                        self.next_group
                    },
                    |old| old.group,
                );
                next.insert(name.clone(), Some(self.program(group, name.protocol, port)));
            }
        }
        if next.is_empty() && self.written {
            return Ok(());
        }
        let empty = Program::default();
        let pairs: Vec<_> = next
            .iter()
            .map(|(name, new)| (self.programs.get(name).unwrap_or(&empty), new.as_ref().unwrap_or(&empty)))
            .collect();
        let reflected = self.count_reflected(&pairs);
        let mut transaction = Transaction::new(Family::Ipv4, &self.table);
        if !self.written {
            self.add_skeleton(&mut transaction);
        }
        write_programs(&mut transaction, &pairs);
        let reflect = |addresses: Vec<&Ipv4Addr>| -> Vec<_> {
            addresses.iter().map(|&&it| Element::new(Key::new().address(it).address(it))).collect()
        };
        let gone = self.reflected.keys().filter(|it| !reflected.contains_key(it)).collect();
        transaction.delete_elements(REFLECTED, &reflect(gone));
        let new = reflected.keys().filter(|it| !self.reflected.contains_key(it)).collect();
        transaction.add_elements(REFLECTED, &reflect(new));
        if !transaction.is_empty() {
            self.nftables.commit(transaction)?;
        }
        let stale = StaleFlows::new(&next, &self.programs);
        self.written = true;
        self.reflected = reflected;
        for (name, program) in next {
            match program {
                Some(program) => drop(self.programs.insert(name, program)),
                None => drop(self.programs.remove(&name)),
            }
        }
        if let Err(error) = stale.forget() {
            tracing::warn!(%error, "flows to endpoints that are gone stay until they end");
        }
        Ok(())
    }

    /// Whether this process has written the table.
    pub fn is_written(&self) -> bool {
        self.written
    }

    /// Deletes the table.
    pub fn delete(self) -> Result<()> {
        let mut transaction = Transaction::new(Family::Ipv4, &self.table);
        transaction.add_table();
        transaction.delete_table();
        self.nftables.commit(transaction)
    }

    fn count_reflected(&self, pairs: &[(&Program, &Program)]) -> BTreeMap<Ipv4Addr, usize> {
        let mut reflected = self.reflected.clone();
        for (old, new) in pairs {
            for address in new.addresses() {
                *reflected.entry(address).or_default() += 1;
            }
            for address in old.addresses() {
                if let Some(count) = reflected.get_mut(&address) {
                    *count -= 1;
                }
            }
        }
        reflected.retain(|_, count| *count > 0);
        reflected
    }

    fn program(&self, group: u32, protocol: Protocol, port: &ServicePort) -> Program {
        let mut program = Program { group, port: Some(port.clone()), ..Program::default() };
        // The name server's own Service has no endpoints: the node answers at its address.
        if Some(port.cluster_address) == self.networks.name_server {
            return program;
        }
        let groups = [(group, &port.endpoints), (group + 1, &port.local_endpoints)];
        let chosen = |local: bool| groups[usize::from(local)];
        let protocol = Key::new().protocol(protocol.number());
        let (number, endpoints) = chosen(port.internal_local);
        if !endpoints.is_empty() {
            program.add_endpoints(number, endpoints, port.affinity);
            let key = protocol.clone().address(port.cluster_address).port(port.port);
            program.add_element(
                SERVICES,
                key.clone(),
                Element::verdict(key, Verdict::Goto(group_chain(number))),
            );
        }
        if let Some(node_port) = port.node_port {
            let (number, endpoints) = chosen(port.external_local);
            if !endpoints.is_empty() {
                program.add_endpoints(number, endpoints, port.affinity);
                let mut rule = if port.external_local { Vec::new() } else { mark_for_masquerade() };
                rule.push(goto(&group_chain(number)));
                let chain = format!("node-{group}");
                program.chains.insert(chain.clone(), vec![rule]);
                let key = protocol.port(node_port);
                program.add_element(NODE_PORTS, key.clone(), Element::verdict(key, Verdict::Goto(chain)));
            }
        }
        program
    }

    fn add_skeleton(&self, transaction: &mut Transaction) {
        use DataType::{Ipv4Address, Mark, Port, Protocol};
        transaction.add_table();
        transaction.delete_table();
        transaction.add_table();
        transaction.add_set(&Set::map(SERVICES, &[Protocol, Ipv4Address, Port], &[DataType::Verdict]));
        transaction.add_set(&Set::map(NODE_PORTS, &[Protocol, Port], &[DataType::Verdict]));
        // Numbers as marks: the `nft` program cannot show a key of plain numbers and gives up.
        transaction.add_set(&Set::map(ENDPOINTS, &[Mark, Mark], &[Ipv4Address, Port]));
        transaction.add_set(&Set::new(REFLECTED, &[Ipv4Address, Ipv4Address]));

        transaction.add_chain("lead");
        let protocol = || Expression::Meta { register: 0, key: Meta::TransportProtocol };
        let port = |register| payload(register, PayloadBase::Transport, 2, 2);
        let vmap = |map: &str| Expression::VerdictMap { register: 0, map: map.to_owned() };
        transaction.add_rule("lead", &[protocol(), destination(1), port(2), vmap(SERVICES)]);
        let kind = Expression::FibKind { register: 0, of: AddressKind::Destination };
        let local = compare(0, &AddressKind::LOCAL.to_ne_bytes());
        transaction.add_rule("lead", &[kind, local, protocol(), port(1), vmap(NODE_PORTS)]);

        let base = |kind, hook, priority| BaseChain { kind, hook, priority };
        transaction.add_base_chain("arrive", base(ChainKind::Nat, Hook::Prerouting, -100));
        // Who is no pod of ours and asks for a Service may be answered past us by another node's pod.
        let mut foreign = within(16, self.networks.services, Comparison::Equal);
        foreign.extend(within(12, self.networks.pods, Comparison::NotEqual));
        foreign.extend(mark_for_masquerade());
        transaction.add_rule("arrive", &foreign);
        transaction.add_rule("arrive", &[jump("lead")]);
        transaction.add_base_chain("emit", base(ChainKind::Nat, Hook::Output, -100));
        transaction.add_rule("emit", &[jump("lead")]);

        // What is still for a Service's address now has no endpoint, or is for nobody.
        for (chain, hook) in [("refuse-forward", Hook::Forward), ("refuse-output", Hook::Output)] {
            transaction.add_base_chain(chain, base(ChainKind::Filter, hook, -10));
            let mut services = within(16, self.networks.services, Comparison::Equal);
            if let Some(address) = self.networks.name_server {
                services.push(destination(0));
                services.push(not_equal(&address.octets()));
            }
            // A reset where it can be: the kernel passes no ICMP error back to a connection of the host's own.
            let mut reset = services.clone();
            reset.push(Expression::Meta { register: 0, key: Meta::TransportProtocol });
            reset.push(compare(0, &[TCP]));
            reset.push(Expression::Reject(Reject::TcpReset));
            transaction.add_rule(chain, &reset);
            services.push(Expression::Reject(Reject::PortUnreachable));
            transaction.add_rule(chain, &services);
        }

        transaction.add_base_chain("depart", base(ChainKind::Nat, Hook::Postrouting, 100));
        let with = |condition: Vec<Expression>| {
            let mut rule = vec![
                Expression::Conntrack { register: 0, key: Conntrack::Status },
                and(Conntrack::DNAT),
                not_equal(&[0; 4]),
            ];
            rule.extend(condition);
            rule.push(Expression::Masquerade);
            rule
        };
        // The endpoint must have somewhere to answer to.
        transaction
            .add_rule("depart", &with(vec![payload(0, PayloadBase::Network, 12, 1), compare(0, &[127])]));
        let lookup = Expression::Lookup { register: 0, set: REFLECTED.to_owned(), inverted: false };
        transaction.add_rule("depart", &with(vec![payload(0, PayloadBase::Network, 12, 8), lookup]));
        if !self.bridged_packets_filtered {
            // The answer would go straight to the neighbour, untranslated.
            let mut neighbours = within(12, self.networks.pods, Comparison::Equal);
            neighbours.extend(within(16, self.networks.pods, Comparison::Equal));
            transaction.add_rule("depart", &with(neighbours));
        }
        // A pod of this node answers through this node anyway, so that it may see the client's address.
        let mut marked =
            vec![Expression::Meta { register: 0, key: Meta::Mark }, and(MASQUERADE), not_equal(&[0; 4])];
        marked.extend(within(16, self.networks.pods, Comparison::NotEqual));
        transaction.add_rule("depart", &with(marked));
    }
}

impl Program {
    fn addresses(&self) -> BTreeSet<Ipv4Addr> {
        let endpoints = self.port.iter().flat_map(|port| port.endpoints.iter().chain(&port.local_endpoints));
        endpoints.map(|endpoint| *endpoint.ip()).collect()
    }

    fn add_element(&mut self, set: &'static str, key: Key, element: Element) {
        self.elements.insert((set, key), element);
    }

    fn add_endpoints(&mut self, number: u32, endpoints: &BTreeSet<SocketAddrV4>, affinity: Option<Duration>) {
        for (index, endpoint) in endpoints.iter().enumerate() {
            let key = Key::new().integer(number).integer(index as u32);
            let value = Key::new().address(*endpoint.ip()).port(endpoint.port());
            self.add_element(ENDPOINTS, key.clone(), Element::value(key, value));
        }
        let to = Expression::DestinationNat { address: 0, port: Some(1) };
        let draw = [
            Expression::Immediate { register: 0, value: number.to_ne_bytes().to_vec() },
            Expression::Random { register: 1, modulus: endpoints.len() as u32 },
            Expression::Map { register: 0, map: ENDPOINTS.to_owned(), into: 0 },
        ];
        let mut rules = Vec::new();
        match affinity {
            None => rules.push(draw.into_iter().chain([to]).collect()),
            Some(affinity) => {
                let map = affinity_map(number, affinity);
                let remember = |update| Expression::UpdateSet {
                    set: map.name.clone(),
                    update,
                    key: 2,
                    data: Some(0),
                    timeout_milliseconds: None,
                };
                let recall = Expression::Map { register: 2, map: map.name.clone(), into: 0 };
                rules.push(vec![source_address(2), recall, remember(SetUpdate::Update), to.clone()]);
                rules.push(
                    draw.into_iter().chain([source_address(2), remember(SetUpdate::Add), to]).collect(),
                );
                self.affinity_maps.insert(map.name.clone(), (map, endpoints.clone()));
            }
        }
        self.chains.insert(group_chain(number), rules);
    }
}

/// Makes the table hold the second of each pair instead of the first.
fn write_programs(transaction: &mut Transaction, pairs: &[(&Program, &Program)]) {
    for (old, new) in pairs {
        for (map, _) in
            new.affinity_maps.values().filter(|(map, _)| !old.affinity_maps.contains_key(&map.name))
        {
            transaction.add_set(map);
        }
        for chain in new.chains.keys().filter(|chain| !old.chains.contains_key(*chain)) {
            transaction.add_chain(chain);
        }
    }
    change_elements(transaction, pairs.iter().map(|(old, new)| (*old, *new)), Transaction::delete_elements);
    for (old, new) in pairs {
        for (chain, rules) in &old.chains {
            if new.chains.get(chain) != Some(rules) {
                transaction.flush_chain(chain);
            }
        }
        for (chain, rules) in &new.chains {
            if old.chains.get(chain) != Some(rules) {
                for rule in rules {
                    transaction.add_rule(chain, rule);
                }
            }
        }
    }
    change_elements(transaction, pairs.iter().map(|(old, new)| (*new, *old)), Transaction::add_elements);
    for (old, new) in pairs {
        for chain in old.chains.keys().filter(|chain| !new.chains.contains_key(*chain)) {
            transaction.delete_chain(chain);
        }
        for (name, (_, endpoints)) in &old.affinity_maps {
            match new.affinity_maps.get(name) {
                None => transaction.delete_set(name),
                // A client must not stay with an endpoint that is gone.
                Some((_, kept)) if !endpoints.is_subset(kept) => transaction.flush_set(name),
                Some(_) => {}
            }
        }
    }
}

/// Applies `change` to the elements that the first of each pair has and the second has not or has otherwise.
fn change_elements<'a>(
    transaction: &mut Transaction,
    pairs: impl Iterator<Item = (&'a Program, &'a Program)>,
    change: impl Fn(&mut Transaction, &str, &[Element]),
) {
    let mut elements: BTreeMap<&'static str, Vec<Element>> = BTreeMap::new();
    for (one, other) in pairs {
        for (key, element) in &one.elements {
            if other.elements.get(key) != Some(element) {
                elements.entry(key.0).or_default().push(element.clone());
            }
        }
    }
    for (set, elements) in elements {
        change(transaction, set, &elements);
    }
}

/// UDP flows that a change of endpoints must end.
#[derive(Debug, Default)]
struct StaleFlows {
    /// Endpoints that are gone.
    gone: BTreeSet<SocketAddrV4>,
    /// Addresses of Services, and node ports, that lead somewhere now and did not before.
    served: BTreeSet<SocketAddrV4>,
    served_node_ports: BTreeSet<u16>,
}

impl StaleFlows {
    fn new(next: &BTreeMap<PortName, Option<Program>>, programs: &BTreeMap<PortName, Program>) -> Self {
        let mut stale = Self::default();
        let none = BTreeSet::new();
        for (name, new) in next.iter().filter(|(name, _)| name.protocol == Protocol::Udp) {
            let old = programs.get(name).and_then(|program| program.port.as_ref());
            let new = new.as_ref().and_then(|program| program.port.as_ref());
            let before = old.map_or(&none, |port| &port.endpoints);
            let after = new.map_or(&none, |port| &port.endpoints);
            stale.gone.extend(before.difference(after));
            if let Some(port) = new
                && before.is_empty()
                && !after.is_empty()
            {
                stale.served.insert(SocketAddrV4::new(port.cluster_address, port.port));
                stale.served_node_ports.extend(port.node_port);
            }
        }
        stale
    }

    fn forget(&self) -> Result<()> {
        if self.gone.is_empty() && self.served.is_empty() {
            return Ok(());
        }
        conntrack::forget_udp(|flow| {
            let (IpAddr::V4(answering), IpAddr::V4(destination)) = (flow.answering, flow.destination) else {
                return false;
            };
            let translated = destination != answering;
            let answering = SocketAddrV4::new(answering, flow.answering_port);
            let destination = SocketAddrV4::new(destination, flow.destination_port);
            match translated {
                true => self.gone.contains(&answering),
                false => {
                    self.served.contains(&destination)
                        || self.served_node_ports.contains(&flow.destination_port)
                }
            }
        })
        .map(drop)
    }
}

fn group_chain(number: u32) -> String {
    format!("group-{number}")
}

fn affinity_map(number: u32, timeout: Duration) -> Set {
    let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let name = format!("affinity-{number}-{}", timeout.as_secs());
    let map = Set::map(&name, &[DataType::Ipv4Address], &[DataType::Ipv4Address, DataType::Port]);
    Set { dynamic: Some((milliseconds, AFFINE_CLIENTS)), ..map }
}

fn destination(register: u32) -> Expression {
    payload(register, PayloadBase::Network, 16, 4)
}

fn not_equal(value: &[u8]) -> Expression {
    Expression::Compare { register: 0, comparison: Comparison::NotEqual, value: value.to_vec() }
}

fn and(bits: u32) -> Expression {
    Expression::Bitwise { register: 0, mask: bits.to_ne_bytes().to_vec(), xor: vec![0; 4] }
}

/// Goes on if the address at an offset of the IP header is (or is not) in the network.
fn within(offset: u32, network: Ipv4Net, comparison: Comparison) -> Vec<Expression> {
    vec![
        payload(0, PayloadBase::Network, offset, 4),
        Expression::Bitwise { register: 0, mask: network.netmask().octets().to_vec(), xor: vec![0; 4] },
        Expression::Compare { register: 0, comparison, value: network.network().octets().to_vec() },
    ]
}

fn mark_for_masquerade() -> Vec<Expression> {
    let mask = (!MASQUERADE).to_ne_bytes().to_vec();
    vec![
        Expression::Meta { register: 0, key: Meta::Mark },
        Expression::Bitwise { register: 0, mask, xor: MASQUERADE.to_ne_bytes().to_vec() },
        Expression::SetMark { register: 0 },
    ]
}
