//! The table's text, so to say: its chains, sets and maps.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{FirewallBridge, Held, PublishedPort};
use crate::nftables::{
    AddressKind, BaseChain, ChainKind, Comparison, Conntrack, DataType, Element, Expression, Family, Hook,
    Key, Meta, PayloadBase, Set, Transaction, Verdict, accept, compare, drop_packet, jump, network_elements,
    payload, source_address,
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
const DIRECT: &str = "direct";
/// Host ports at one address, and at every address.
const PUBLISHED: &str = "published";
const PUBLISHED_ANYWHERE: &str = "published-anywhere";
/// Addresses that reach themselves by a published port, as (source, destination).
const REFLECTED: &str = "reflected";
/// A chain for each bridge by the name of the interface a packet leaves by.
const DEPARTURES: &str = "departures";

pub(super) fn whole_table(table: &str, held: &Held) -> Transaction {
    let mut transaction = Transaction::new(Family::Ipv4, table);
    // Adding first makes the deletion succeed where there was none.
    transaction.add_table();
    transaction.delete_table();
    transaction.add_table();
    add_sets(&mut transaction);
    add_chains(&mut transaction);
    for bridge in held.bridges.values() {
        add_bridge(&mut transaction, bridge, held.bridged_packets_filtered);
    }
    let published: Vec<_> = held.published.iter().copied().collect();
    change_ports(&mut transaction, &[], &published);
    change_reflected(&mut transaction, &BTreeSet::new(), &held.reflected());
    if !held.direct.is_empty() {
        transaction.add_elements(DIRECT, &network_elements(&held.direct));
    }
    transaction
}

fn add_sets(transaction: &mut Transaction) {
    use DataType::{InterfaceName, Ipv4Address, Port, Protocol};
    for name in [INSIDE, INTERNAL, ROUTED, REACHABLE] {
        transaction.add_set(&Set::new(name, &[InterfaceName]));
    }
    transaction.add_set(&Set::new(SAME, &[InterfaceName, InterfaceName]));
    for name in [MASQUERADED, DIRECT] {
        transaction.add_set(&Set::interval(name, &[Ipv4Address]));
    }
    transaction.add_set(&Set::new(REFLECTED, &[Ipv4Address, Ipv4Address]));
    let target = [Ipv4Address, Port];
    transaction.add_set(&Set::map(PUBLISHED, &[Protocol, Ipv4Address, Port], &target));
    transaction.add_set(&Set::map(PUBLISHED_ANYWHERE, &[Protocol, Port], &target));
    transaction.add_set(&Set::map(DEPARTURES, &[InterfaceName], &[DataType::Verdict]));
}

fn add_chains(transaction: &mut Transaction) {
    let base = |kind, hook, priority| BaseChain { kind, hook, priority };
    // Before connections are tracked and answers translated back: what says here that it is for or from the
    // loopback network and comes by a bridge is forged (CVE-2020-8558).
    transaction.add_base_chain("guard", base(ChainKind::Filter, Hook::Prerouting, -300));
    for offset in [12, 16] {
        let loopback =
            [input_in(INSIDE), vec![payload(0, PayloadBase::Network, offset, 1), compare(0, &[127])]];
        transaction.add_rule("guard", &rule(loopback, drop_packet()));
    }

    transaction.add_chain("translate");
    let mut local = vec![Expression::FibKind { register: 0, of: AddressKind::Destination }];
    local.push(compare(0, &AddressKind::LOCAL.to_ne_bytes()));
    let port = || payload(2, PayloadBase::Transport, 2, 2);
    let to = Expression::DestinationNat { address: 0, port: Some(1) };
    let protocol = Expression::Meta { register: 0, key: Meta::TransportProtocol };
    let mut at_one = vec![protocol.clone(), payload(1, PayloadBase::Network, 16, 4), port()];
    at_one.push(Expression::Map { register: 0, map: PUBLISHED.to_owned(), into: 0 });
    transaction.add_rule("translate", &rule([at_one], to.clone()));
    let mut anywhere = vec![protocol, payload(1, PayloadBase::Transport, 2, 2)];
    anywhere.push(Expression::Map { register: 0, map: PUBLISHED_ANYWHERE.to_owned(), into: 0 });
    transaction.add_rule("translate", &rule([anywhere], to));
    for (chain, hook) in [("arrive", Hook::Prerouting), ("emit", Hook::Output)] {
        transaction.add_base_chain(chain, base(ChainKind::Nat, hook, -100));
        transaction.add_rule(chain, &rule([local.clone()], jump("translate")));
    }

    transaction.add_base_chain("forward", base(ChainKind::Filter, Hook::Forward, 0));
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
    forward(&[input_in(INSIDE), output_in(INSIDE)], drop_packet());
    forward(&[output_in(REACHABLE)], accept());
    // No way round the published ports by a route to the container's address.
    forward(&[output_in(INSIDE)], drop_packet());

    transaction.add_base_chain("depart", base(ChainKind::Nat, Hook::Postrouting, 100));
    let departure = vec![Expression::Meta { register: 0, key: Meta::OutputName }];
    let departures = Expression::VerdictMap { register: 0, map: DEPARTURES.to_owned() };
    transaction.add_rule("depart", &rule([departure], departures));
    let source = vec![source_address(0), lookup(0, MASQUERADED, false)];
    let destination = vec![payload(0, PayloadBase::Network, 16, 4), lookup(0, DIRECT, true)];
    transaction.add_rule("depart", &rule([source, destination], Expression::Masquerade));
}

pub(super) fn add_bridge(transaction: &mut Transaction, bridge: &FirewallBridge, filtered: bool) {
    let name = || Key::new().interface(&bridge.name);
    for (set, member) in memberships(bridge) {
        if member {
            transaction.add_elements(set, &[Element::new(name())]);
        }
    }
    if bridge.inter_container {
        transaction.add_elements(SAME, &[Element::new(name().interface(&bridge.name))]);
    }
    if bridge.masquerade && !bridge.internal {
        transaction.add_elements(MASQUERADED, &network_elements(&[bridge.subnet]));
    }
    let chain = departure_chain(bridge);
    transaction.add_chain(&chain);
    // From 127.0.0.1 by a published port: the container must have somewhere to answer to.
    let loopback = vec![payload(0, PayloadBase::Network, 12, 1), compare(0, &[127])];
    transaction.add_rule(&chain, &rule([loopback], Expression::Masquerade));
    let translated = bits(Conntrack::Status, Conntrack::DNAT);
    let reflected = if filtered {
        vec![payload(0, PayloadBase::Network, 12, 8), lookup(0, REFLECTED, false)]
    } else {
        // The answer would go straight to the neighbour, untranslated, so that it must go to the host.
        let mask = u32::from(bridge.subnet.netmask()).to_be_bytes().to_vec();
        let network = bridge.subnet.network().octets();
        vec![
            source_address(0),
            Expression::Bitwise { register: 0, mask, xor: vec![0; 4] },
            compare(0, &network),
        ]
    };
    transaction.add_rule(&chain, &rule([translated, reflected], Expression::Masquerade));
    // What stays among our bridges keeps its source.
    transaction.add_rule(&chain, &[accept()]);
    transaction.add_elements(DEPARTURES, &[Element::verdict(name(), Verdict::Jump(chain))]);
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
    if bridge.masquerade && !bridge.internal {
        transaction.delete_elements(MASQUERADED, &network_elements(&[bridge.subnet]));
    }
}

pub(super) fn same_host_port(one: &PublishedPort, other: &PublishedPort) -> bool {
    (one.protocol, one.host_address, one.host_port) == (other.protocol, other.host_address, other.host_port)
}

pub(super) fn change_ports(transaction: &mut Transaction, gone: &[PublishedPort], new: &[PublishedPort]) {
    for (ports, add) in [(gone, false), (new, true)] {
        for anywhere in [false, true] {
            let elements: Vec<_> = ports
                .iter()
                .filter(|port| port.host_address.is_unspecified() == anywhere)
                .map(published_element)
                .collect();
            let map = if anywhere { PUBLISHED_ANYWHERE } else { PUBLISHED };
            match add {
                true => transaction.add_elements(map, &elements),
                false => transaction.delete_elements(map, &elements),
            }
        }
    }
}

pub(super) fn change_reflected(
    transaction: &mut Transaction,
    before: &BTreeSet<Ipv4Addr>,
    after: &BTreeSet<Ipv4Addr>,
) {
    let elements = |addresses: Vec<&Ipv4Addr>| -> Vec<_> {
        let pair = |&&address: &&Ipv4Addr| Element::new(Key::new().address(address).address(address));
        addresses.iter().map(pair).collect()
    };
    transaction.delete_elements(REFLECTED, &elements(before.difference(after).collect()));
    transaction.add_elements(REFLECTED, &elements(after.difference(before).collect()));
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

fn memberships(bridge: &FirewallBridge) -> [(&'static str, bool); 4] {
    [(INSIDE, true), (INTERNAL, bridge.internal), (ROUTED, bridge.routed), (REACHABLE, bridge.reachable)]
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
