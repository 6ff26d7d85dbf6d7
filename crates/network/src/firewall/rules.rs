//! The table's text, so to say: its chains, sets and maps.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::{FAMILY, FirewallBridge, Held, PublishedPort};
use crate::nftables::{
    AddressKind, BaseChain, ChainKind, Comparison, Conntrack, DataType, Element, Expression, Family, Hook,
    Key, Meta, PayloadBase, Set, Transaction, Verdict, accept, compare, differ, drop_packet,
    ipv6_network_elements, is_family, jump, network_elements, payload, source_address,
};

/// Our bridges.
const INSIDE: &str = "inside";
/// Bridges whose members may talk to each other, as (input, output).
const SAME: &str = "same";
const INTERNAL: &str = "internal";
const ROUTED: &str = "routed";
const REACHABLE: &str = "reachable";
/// Subnets whose packets take the host's address on their way out.
const MASQUERADED: &str = "masqueraded";
const MASQUERADED_IPV6: &str = "masqueraded6";
const DIRECT: &str = "direct";
/// Host ports at one address, and at every address.
const PUBLISHED: &str = "published";
const PUBLISHED_ANYWHERE: &str = "published-anywhere";
const PUBLISHED_IPV6: &str = "published6";
const PUBLISHED_IPV6_ANYWHERE: &str = "published6-anywhere";
/// Published ports by the addresses behind them, and the bridges where those are enough.
const PORTS: &str = "ports";
const PORTS_IPV6: &str = "ports6";
const DIRECT_PORTS: &str = "direct-ports";
/// A chain for each bridge by the name of the interface a packet leaves by.
const DEPARTURES: &str = "departures";

pub(super) fn whole_table(table: &str, held: &Held) -> Transaction {
    let mut transaction = Transaction::new(FAMILY, table);
    // Earlier versions had their rules here.
    transaction.delete_table_of(Family::Ipv4);
    // Adding first makes the deletion succeed where there was none.
    transaction.add_table();
    transaction.delete_table();
    transaction.add_table();
    add_sets(&mut transaction);
    add_chains(&mut transaction, held.closed);
    for bridge in held.bridges.values() {
        add_bridge(&mut transaction, bridge);
    }
    let published: Vec<_> = held.published.iter().copied().collect();
    change_ports(&mut transaction, &[], &published);
    change_targets(&mut transaction, &BTreeSet::new(), &held.published);
    if !held.direct.is_empty() {
        transaction.add_elements(DIRECT, &network_elements(&held.direct));
    }
    transaction
}

fn add_sets(transaction: &mut Transaction) {
    use DataType::{InterfaceName, Ipv4Address, Ipv6Address, Port, Protocol};
    for name in [INSIDE, INTERNAL, ROUTED, REACHABLE, DIRECT_PORTS] {
        transaction.add_set(&Set::new(name, &[InterfaceName]));
    }
    transaction.add_set(&Set::new(SAME, &[InterfaceName, InterfaceName]));
    for name in [MASQUERADED, DIRECT] {
        transaction.add_set(&Set::interval(name, &[Ipv4Address]));
    }
    transaction.add_set(&Set::interval(MASQUERADED_IPV6, &[Ipv6Address]));
    let names = [
        (Ipv4Address, PUBLISHED, PUBLISHED_ANYWHERE, PORTS),
        (Ipv6Address, PUBLISHED_IPV6, PUBLISHED_IPV6_ANYWHERE, PORTS_IPV6),
    ];
    for (address, one, anywhere, ports) in names {
        let target = [address, Port];
        transaction.add_set(&Set::map(one, &[Protocol, address, Port], &target));
        transaction.add_set(&Set::map(anywhere, &[Protocol, Port], &target));
        transaction.add_set(&Set::new(ports, &[Protocol, address, Port]));
    }
    transaction.add_set(&Set::map(DEPARTURES, &[InterfaceName], &[DataType::Verdict]));
}

fn protocol() -> Expression {
    Expression::Meta { register: 0, key: Meta::TransportProtocol }
}

fn destination_port(register: u32) -> Expression {
    payload(register, PayloadBase::Transport, 2, 2)
}

/// The key of a published port, (protocol, destination, port), from register 0 on.
fn destination_key(family: u8) -> Vec<Expression> {
    match family {
        Meta::IPV4 => vec![protocol(), payload(1, PayloadBase::Network, 16, 4), destination_port(2)],
        _ => vec![protocol(), payload(1, PayloadBase::Network, 24, 16), destination_port(5)],
    }
}

fn add_chains(transaction: &mut Transaction, closed: bool) {
    let base = |kind, hook, priority| BaseChain { kind, hook, priority };
    // Before connections are tracked and answers translated back: what says here that it is for or from the
    // loopback network and comes by a bridge is forged (CVE-2020-8558).
    transaction.add_base_chain("guard", base(ChainKind::Filter, Hook::Prerouting, -300));
    for offset in [12, 16] {
        let loopback = vec![payload(0, PayloadBase::Network, offset, 1), compare(0, &[127])];
        let parts = [is_family(Meta::IPV4), input_in(INSIDE), loopback];
        transaction.add_rule("guard", &rule(parts, drop_packet()));
    }

    transaction.add_chain("translate");
    let map = |map: &str| vec![Expression::Map { register: 0, map: map.to_owned(), into: 0 }];
    let anywhere = || vec![protocol(), destination_port(1)];
    let to = Expression::DestinationNat { address: 0, port: Some(1) };
    let to_ipv6 = Expression::DestinationNatIpv6 { address: 0, port: Some(4) };
    for (family, to, names) in [
        (Meta::IPV4, to, [PUBLISHED, PUBLISHED_ANYWHERE]),
        (Meta::IPV6, to_ipv6, [PUBLISHED_IPV6, PUBLISHED_IPV6_ANYWHERE]),
    ] {
        for (key, name) in [destination_key(family), anywhere()].into_iter().zip(names) {
            transaction.add_rule("translate", &rule([is_family(family), key, map(name)], to.clone()));
        }
    }
    let mut local = vec![Expression::FibKind { register: 0, of: AddressKind::Destination }];
    local.push(compare(0, &AddressKind::LOCAL.to_ne_bytes()));
    transaction.add_base_chain("arrive", base(ChainKind::Nat, Hook::Prerouting, -100));
    // The kernel drops what comes by a cable for the loopback network, unless it were translated here: then a
    // neighbour would reach what is published for this host only.
    let mut name = [0; 16];
    name[..2].copy_from_slice(b"lo");
    let by_cable = vec![Expression::Meta { register: 0, key: Meta::InputName }, differ(0, &name)];
    let loopback = vec![payload(0, PayloadBase::Network, 16, 1), compare(0, &[127])];
    transaction.add_rule("arrive", &rule([is_family(Meta::IPV4), by_cable, loopback], accept()));
    transaction.add_rule("arrive", &rule([local.clone()], jump("translate")));
    transaction.add_base_chain("emit", base(ChainKind::Nat, Hook::Output, -100));
    transaction.add_rule("emit", &rule([local], jump("translate")));

    add_forward(transaction, closed);

    transaction.add_base_chain("depart", base(ChainKind::Nat, Hook::Postrouting, 100));
    let departure = vec![Expression::Meta { register: 0, key: Meta::OutputName }];
    let departures = Expression::VerdictMap { register: 0, map: DEPARTURES.to_owned() };
    transaction.add_rule("depart", &rule([departure], departures));
    let source = vec![source_address(0), lookup(0, MASQUERADED, false)];
    let destination = vec![payload(0, PayloadBase::Network, 16, 4), lookup(0, DIRECT, true)];
    let parts = [is_family(Meta::IPV4), source, destination];
    transaction.add_rule("depart", &rule(parts, Expression::Masquerade));
    let source = vec![payload(0, PayloadBase::Network, 8, 16), lookup(0, MASQUERADED_IPV6, false)];
    transaction.add_rule("depart", &rule([is_family(Meta::IPV6), source], Expression::Masquerade));
}

fn add_forward(transaction: &mut Transaction, closed: bool) {
    let base = BaseChain { kind: ChainKind::Filter, hook: Hook::Forward, priority: 0 };
    transaction.add_base_chain("forward", base);
    let state = bits(Conntrack::State, Conntrack::ESTABLISHED_OR_RELATED);
    let translated = bits(Conntrack::Status, Conntrack::DNAT);
    let same = vec![
        Expression::Meta { register: 0, key: Meta::InputName },
        Expression::Meta { register: 4, key: Meta::OutputName },
        Expression::Lookup { register: 0, set: SAME.to_owned(), inverted: false },
    ];
    let mut forward = |parts: &[Vec<Expression>], end: Expression| {
        transaction.add_rule("forward", &rule(parts.iter().cloned(), end));
    };
    forward(&[state], accept());
    forward(&[same], accept());
    forward(&[input_in(INTERNAL)], drop_packet());
    forward(&[output_in(INTERNAL)], drop_packet());
    // By a published port or a service: from wherever that can be reached.
    forward(&[output_in(INSIDE), translated], accept());
    forward(&[input_in(ROUTED), output_in(ROUTED)], accept());
    for (family, ports) in [(Meta::IPV4, PORTS), (Meta::IPV6, PORTS_IPV6)] {
        let published = vec![lookup(0, ports, false)];
        forward(&[output_in(DIRECT_PORTS), is_family(family), destination_key(family), published], accept());
    }
    forward(&[input_in(INSIDE), output_in(INSIDE)], drop_packet());
    forward(&[output_in(REACHABLE)], accept());
    // No way round the published ports by a route to the container's address.
    forward(&[output_in(INSIDE)], drop_packet());
    if closed {
        forward(&[input_in(INSIDE)], accept());
        forward(&[], drop_packet());
    }
}

pub(super) fn add_bridge(transaction: &mut Transaction, bridge: &FirewallBridge) {
    let name = || Key::new().interface(&bridge.name);
    for (set, member) in memberships(bridge) {
        if member {
            transaction.add_elements(set, &[Element::new(name())]);
        }
    }
    if bridge.inter_container {
        transaction.add_elements(SAME, &[Element::new(name().interface(&bridge.name))]);
    }
    for (set, elements) in masqueraded(bridge) {
        transaction.add_elements(set, &elements);
    }
    let chain = departure_chain(bridge);
    transaction.add_chain(&chain);
    // From 127.0.0.1 by a published port: the container must have somewhere to answer to.
    let loopback = vec![payload(0, PayloadBase::Network, 12, 1), compare(0, &[127])];
    transaction.add_rule(&chain, &rule([is_family(Meta::IPV4), loopback], Expression::Masquerade));
    let loopback =
        vec![payload(0, PayloadBase::Network, 8, 16), compare(0, &std::net::Ipv6Addr::LOCALHOST.octets())];
    transaction.add_rule(&chain, &rule([is_family(Meta::IPV6), loopback], Expression::Masquerade));
    for subnet in &bridge.subnets {
        // The answer would go straight to the neighbour, untranslated, so that it must go to the host.
        let (family, load, ports) = match subnet {
            IpNet::V4(_) => (Meta::IPV4, source_address(0), PORTS),
            IpNet::V6(_) => (Meta::IPV6, payload(0, PayloadBase::Network, 8, 16), PORTS_IPV6),
        };
        let (mask, network) = (octets(subnet.netmask()), octets(subnet.network()));
        let xor = vec![0; mask.len()];
        let inside = vec![load, Expression::Bitwise { register: 0, mask, xor }, compare(0, &network)];
        let translated = bits(Conntrack::Status, Conntrack::DNAT);
        let published = vec![lookup(0, ports, false)];
        let parts = [is_family(family), translated, inside, destination_key(family), published];
        transaction.add_rule(&chain, &rule(parts, Expression::Masquerade));
    }
    // What stays among our bridges keeps its source.
    transaction.add_rule(&chain, &[accept()]);
    transaction.add_elements(DEPARTURES, &[Element::verdict(name(), Verdict::Jump(chain))]);
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// What leaves a bridge under the host's address.
fn masqueraded(bridge: &FirewallBridge) -> [(&'static str, Vec<Element>); 2] {
    let mut ipv4 = Vec::new();
    let mut ipv6 = Vec::new();
    if bridge.masquerade && !bridge.internal {
        for subnet in &bridge.subnets {
            match subnet {
                IpNet::V4(subnet) => ipv4.push(*subnet),
                IpNet::V6(subnet) => ipv6.push(*subnet),
            }
        }
    }
    [(MASQUERADED, network_elements(&ipv4)), (MASQUERADED_IPV6, ipv6_network_elements(&ipv6))]
}

pub(super) fn remove_bridge(transaction: &mut Transaction, bridge: &FirewallBridge) {
    let name = || Key::new().interface(&bridge.name);
    let chain = departure_chain(bridge);
    transaction.delete_elements(DEPARTURES, &[Element::verdict(name(), Verdict::Jump(chain.clone()))]);
    transaction.flush_chain(&chain);
    transaction.delete_chain(&chain);
    for (set, member) in memberships(bridge) {
        if member {
            transaction.delete_elements(set, &[Element::new(name())]);
        }
    }
    if bridge.inter_container {
        transaction.delete_elements(SAME, &[Element::new(name().interface(&bridge.name))]);
    }
    for (set, elements) in masqueraded(bridge) {
        transaction.delete_elements(set, &elements);
    }
}

pub(super) fn same_host_port(one: &PublishedPort, other: &PublishedPort) -> bool {
    (one.protocol, one.host_address, one.host_port) == (other.protocol, other.host_address, other.host_port)
}

pub(super) fn change_ports(transaction: &mut Transaction, gone: &[PublishedPort], new: &[PublishedPort]) {
    for (ports, add) in [(gone, false), (new, true)] {
        let mut change = |map: &str, elements: &[Element]| match add {
            true => transaction.add_elements(map, elements),
            false => transaction.delete_elements(map, elements),
        };
        for (ipv4, anywhere, map) in [
            (true, false, PUBLISHED),
            (true, true, PUBLISHED_ANYWHERE),
            (false, false, PUBLISHED_IPV6),
            (false, true, PUBLISHED_IPV6_ANYWHERE),
        ] {
            let elements: Vec<_> = ports
                .iter()
                .filter(|port| port.host_address.is_unspecified() == anywhere)
                .filter(|port| port.host_address.is_ipv4() == ipv4)
                .map(published_element)
                .collect();
            change(map, &elements);
        }
    }
}

/// The ports behind the published ones, each once however many lead there.
pub(super) fn change_targets(
    transaction: &mut Transaction,
    before: &BTreeSet<PublishedPort>,
    after: &BTreeSet<PublishedPort>,
) {
    let targets = |ports: &BTreeSet<PublishedPort>| -> BTreeSet<(IpAddr, u16, u8)> {
        let target =
            |port: &PublishedPort| (port.container_address, port.container_port, port.protocol.number());
        ports.iter().map(target).collect()
    };
    let (before, after) = (targets(before), targets(after));
    for (set, ipv4) in [(PORTS, true), (PORTS_IPV6, false)] {
        let elements = |some: Vec<&(IpAddr, u16, u8)>| -> Vec<Element> {
            some.into_iter()
                .filter(|(address, ..)| address.is_ipv4() == ipv4)
                .map(|(address, port, protocol)| {
                    Element::new(Key::new().protocol(*protocol).address(*address).port(*port))
                })
                .collect()
        };
        transaction.delete_elements(set, &elements(before.difference(&after).collect()));
        transaction.add_elements(set, &elements(after.difference(&before).collect()));
    }
}

pub(super) fn set_direct(transaction: &mut Transaction, networks: &[Ipv4Net]) {
    transaction.flush_set(DIRECT);
    transaction.add_elements(DIRECT, &network_elements(networks));
}

fn published_element(port: &PublishedPort) -> Element {
    let key = Key::new().protocol(port.protocol.number());
    let key = if port.host_address.is_unspecified() { key } else { key.address(port.host_address) };
    Element::value(
        key.port(port.host_port),
        Key::new().address(port.container_address).port(port.container_port),
    )
}

fn memberships(bridge: &FirewallBridge) -> [(&'static str, bool); 5] {
    [
        (INSIDE, true),
        (INTERNAL, bridge.internal),
        (ROUTED, bridge.routed),
        (REACHABLE, bridge.reachable),
        (DIRECT_PORTS, bridge.direct_ports),
    ]
}

fn departure_chain(bridge: &FirewallBridge) -> String {
    format!("depart-{}", bridge.name)
}

fn rule(parts: impl IntoIterator<Item = Vec<Expression>>, end: Expression) -> Vec<Expression> {
    let mut expressions: Vec<_> = parts.into_iter().flatten().collect();
    expressions.push(end);
    expressions
}

fn lookup(register: u32, set: &str, inverted: bool) -> Expression {
    Expression::Lookup { register, set: set.to_owned(), inverted }
}

fn input_in(set: &str) -> Vec<Expression> {
    vec![Expression::Meta { register: 0, key: Meta::InputName }, lookup(0, set, false)]
}

fn output_in(set: &str) -> Vec<Expression> {
    vec![Expression::Meta { register: 0, key: Meta::OutputName }, lookup(0, set, false)]
}

/// Goes on if any of the bits is set.
fn bits(key: Conntrack, bits: u32) -> Vec<Expression> {
    vec![
        Expression::Conntrack { register: 0, key },
        Expression::Bitwise { register: 0, mask: bits.to_ne_bytes().to_vec(), xor: vec![0; 4] },
        Expression::Compare { register: 0, comparison: Comparison::NotEqual, value: vec![0; 4] },
    ]
}
