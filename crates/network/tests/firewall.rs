//! Published ports, isolation and masquerading with real packets.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::time::Instant;

use dray_network::firewall::{Firewall, FirewallBridge, FirewallState, PublishedPort, delete_leftover};
use dray_network::namespace;
use dray_network::nftables::{Family, Nftables, Watch};
use dray_network::ports::Protocol;
use support::{Host, ask, ask_udp, bridge, look, net, serve, serve_udp, v4};

const ANYWHERE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn published(host: Ipv4Addr, port: u16, container: &str) -> PublishedPort {
    PublishedPort {
        protocol: Protocol::Tcp,
        host_address: host.into(),
        host_port: port,
        container_address: v4(container).into(),
        container_port: 80,
    }
}

/// A host with one bridge, two containers that serve port 80, and a neighbour.
fn host() -> (Host, Firewall, PathBuf, PathBuf, PathBuf) {
    let host = Host::new();
    let neighbour = host.add_neighbour();
    host.add_bridge("dray0", "10.88.0.1/24");
    let one = host.add_container("one", "dray0", "10.88.0.2/24");
    let two = host.add_container("two", "dray0", "10.88.0.3/24");
    serve(Some(&one), 80);
    serve(Some(&two), 80);
    let firewall = Firewall::open("dray-test").unwrap();
    firewall.add_bridge(&bridge("dray0", "10.88.0.0/24")).unwrap();
    (host, firewall, neighbour, one, two)
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    let (_host, firewall, neighbour, one, two) = host();
    let port = published(ANYWHERE, 8080, "10.88.0.2");
    assert!(ask(None, (v4("192.0.2.1"), 8080)).is_err());
    firewall.publish(&[port]).unwrap();
    let outside = (v4("192.0.2.1"), 8080);
    assert_eq!(ask(Some(&neighbour), outside).unwrap(), "192.0.2.2", "the client's address is kept");
    assert_eq!(ask(None, outside).unwrap(), "192.0.2.1", "from the host by its address");
    assert_eq!(ask(None, (v4("127.0.0.1"), 8080)).unwrap(), "10.88.0.1", "from the host by 127.0.0.1");
    // The answer must come back by the host: it knows the connection, the bridge does not.
    assert_eq!(ask(Some(&two), outside).unwrap(), "10.88.0.1", "from a member of the bridge");
    assert_eq!(ask(Some(&two), (v4("10.88.0.1"), 8080)).unwrap(), "10.88.0.1", "by the gateway");
    assert_eq!(ask(Some(&one), outside).unwrap(), "10.88.0.1", "from the container itself");
    firewall.unpublish(&[port]).unwrap();
    firewall.unpublish(&[port]).unwrap();
    for from in [None, Some(neighbour.as_path()), Some(one.as_path())] {
        assert!(ask(from, outside).is_err());
    }
}

#[test]
fn a_port_published_at_one_address_is_there_only() {
    let (_host, firewall, neighbour, _one, _two) = host();
    let local = published(Ipv4Addr::LOCALHOST, 8080, "10.88.0.2");
    let uplink = published(v4("192.0.2.1"), 8081, "10.88.0.3");
    firewall.publish(&[local, uplink]).unwrap();
    assert_eq!(ask(None, (Ipv4Addr::LOCALHOST, 8080)).unwrap(), "10.88.0.1");
    assert!(ask(None, (v4("192.0.2.1"), 8080)).is_err());
    assert!(ask(Some(&neighbour), (v4("192.0.2.1"), 8080)).is_err());
    assert_eq!(ask(Some(&neighbour), (v4("192.0.2.1"), 8081)).unwrap(), "192.0.2.2");
    assert!(ask(None, (Ipv4Addr::LOCALHOST, 8081)).is_err());
}

#[test]
fn cve_2020_8558_loopback_ports_are_not_reached_by_neighbours() {
    let (_host, firewall, neighbour, one, _two) = host();
    serve(None, 9000);
    firewall.publish(&[published(Ipv4Addr::LOCALHOST, 8080, "10.88.0.2")]).unwrap();
    assert!(ask(None, (Ipv4Addr::LOCALHOST, 9000)).is_ok());
    for (namespace, gateway) in [(&neighbour, "192.0.2.1"), (&one, "10.88.0.1")] {
        // A neighbour that has no loopback address of its own and sends such packets to the host.
        look(Some(namespace), "sysctl", &["-qw", "net.ipv4.conf.eth0.route_localnet=1"]);
        look(Some(namespace), "ip", &["route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local"]);
        look(Some(namespace), "ip", &["route", "del", "local", "127.0.0.1", "dev", "lo", "table", "local"]);
        look(Some(namespace), "ip", &["route", "add", "127.0.0.0/8", "via", gateway, "dev", "eth0"]);
        for port in [9000, 8080] {
            assert!(ask(Some(namespace), (Ipv4Addr::LOCALHOST, port)).is_err(), "{gateway} {port}");
        }
    }
}

#[test]
fn containers_are_not_reached_by_a_route_to_them() {
    let (_host, firewall, neighbour, _one, _two) = host();
    firewall.publish(&[published(ANYWHERE, 8080, "10.88.0.2")]).unwrap();
    assert!(
        ask(Some(&neighbour), (v4("10.88.0.2"), 80)).is_err(),
        "the neighbour's default route is the host"
    );
    firewall.add_bridge(&FirewallBridge { reachable: true, ..bridge("dray0", "10.88.0.0/24") }).unwrap();
    assert_eq!(ask(Some(&neighbour), (v4("10.88.0.2"), 80)).unwrap(), "192.0.2.2");
}

#[test]
fn what_leaves_takes_the_hosts_address() {
    let (_host, firewall, neighbour, one, _two) = host();
    serve(Some(&neighbour), 80);
    assert_eq!(ask(Some(&one), (v4("192.0.2.2"), 80)).unwrap(), "192.0.2.1");
    firewall.set_direct(&[net("192.0.2.0/24"), net("192.0.2.0/25")]).unwrap();
    assert_eq!(ask(Some(&one), (v4("192.0.2.2"), 80)).unwrap(), "10.88.0.2");
    firewall.set_direct(&[]).unwrap();
    assert_eq!(ask(Some(&one), (v4("192.0.2.2"), 80)).unwrap(), "192.0.2.1");
    firewall.add_bridge(&FirewallBridge { masquerade: false, ..bridge("dray0", "10.88.0.0/24") }).unwrap();
    assert_eq!(ask(Some(&one), (v4("192.0.2.2"), 80)).unwrap(), "10.88.0.2");
}

#[test]
fn bridges_are_isolated_unless_routed() {
    let (host, firewall, neighbour, one, _two) = host();
    serve(Some(&neighbour), 80);
    host.add_bridge("dray1", "10.89.0.1/24");
    let far = host.add_container("far", "dray1", "10.89.0.2/24");
    serve(Some(&far), 80);
    let other = bridge("dray1", "10.89.0.0/24");
    firewall.add_bridge(&other).unwrap();
    assert!(ask(Some(&one), (v4("10.89.0.2"), 80)).is_err());
    assert!(ask(Some(&far), (v4("10.88.0.2"), 80)).is_err());
    firewall.publish(&[published(ANYWHERE, 8080, "10.89.0.2")]).unwrap();
    assert!(ask(Some(&one), (v4("192.0.2.1"), 8080)).is_ok(), "a published port is open to every bridge");

    firewall.add_bridge(&FirewallBridge { routed: true, ..other.clone() }).unwrap();
    assert!(ask(Some(&one), (v4("10.89.0.2"), 80)).is_err(), "both must be routed");
    firewall.add_bridge(&FirewallBridge { routed: true, ..bridge("dray0", "10.88.0.0/24") }).unwrap();
    assert_eq!(ask(Some(&one), (v4("10.89.0.2"), 80)).unwrap(), "10.88.0.2");
    assert_eq!(ask(Some(&far), (v4("10.88.0.2"), 80)).unwrap(), "10.89.0.2");

    firewall.add_bridge(&FirewallBridge { internal: true, ..other }).unwrap();
    assert!(ask(Some(&far), (v4("10.88.0.2"), 80)).is_err());
    assert!(ask(Some(&far), (v4("192.0.2.2"), 80)).is_err(), "no way out");
    assert!(ask(Some(&one), (v4("192.0.2.1"), 8080)).is_err(), "no way in");
    firewall.remove_bridge("dray1").unwrap();
    firewall.remove_bridge("dray1").unwrap();
}

#[test]
fn members_of_a_bridge_can_be_kept_apart() {
    let (_host, firewall, _neighbour, one, two) = host();
    // Ports of such a bridge are isolated; whoever goes round by the host meets the rules.
    for (namespace, other) in [(&one, "10.88.0.3"), (&two, "10.88.0.2")] {
        look(Some(namespace), "ip", &["route", "add", other, "via", "10.88.0.1"]);
    }
    assert!(ask(Some(&one), (v4("10.88.0.3"), 80)).is_ok());
    firewall
        .add_bridge(&FirewallBridge { inter_container: false, ..bridge("dray0", "10.88.0.0/24") })
        .unwrap();
    assert!(ask(Some(&one), (v4("10.88.0.3"), 80)).is_err());
    assert!(ask(None, (v4("10.88.0.3"), 80)).is_ok());
}

#[test]
fn a_udp_flow_follows_the_published_port() {
    let (_host, firewall, neighbour, one, two) = host();
    serve_udp(&one, 53);
    serve_udp(&two, 53);
    let udp = |container: &str| PublishedPort {
        protocol: Protocol::Udp,
        container_port: 53,
        ..published(ANYWHERE, 5353, container)
    };
    let socket = namespace::within(&neighbour, || Ok(UdpSocket::bind((ANYWHERE, 0)).unwrap())).unwrap();
    let at = (v4("192.0.2.1"), 5353).into();
    assert!(ask_udp(&socket, at).is_err(), "this flow is tracked before the port is published");
    firewall.publish(&[udp("10.88.0.2")]).unwrap();
    assert_eq!(ask_udp(&socket, at).unwrap(), "192.0.2.2 53");
    firewall.unpublish(&[udp("10.88.0.2")]).unwrap();
    assert!(ask_udp(&socket, at).is_err(), "the flow must not outlive its port");
    firewall.publish(&[udp("10.88.0.3")]).unwrap();
    assert_eq!(ask_udp(&socket, at).unwrap(), "192.0.2.2 53");
}

#[test]
fn a_restarted_daemon_takes_its_table_over() {
    let (_host, firewall, neighbour, _one, _two) = host();
    firewall.publish(&[published(ANYWHERE, 8080, "10.88.0.2")]).unwrap();
    let before = look(None, "nft", &["list", "ruleset"]);
    drop(firewall);
    let again = Firewall::open("dray-test").unwrap();
    assert_eq!(look(None, "nft", &["list", "ruleset"]), before, "traffic goes on");
    let state = FirewallState {
        bridges: vec![bridge("dray0", "10.88.0.0/24")],
        published: vec![published(ANYWHERE, 8080, "10.88.0.2")],
        direct: vec![],
    };
    again.sync(&state).unwrap();
    assert_eq!(look(None, "nft", &["list", "ruleset"]), before, "the same state is the same table");
    assert!(ask(Some(&neighbour), (v4("192.0.2.1"), 8080)).is_ok());

    let other = Firewall::open("dray-other").unwrap();
    look(None, "nft", &["delete", "table", "inet", "dray-test"]);
    assert!(again.restore().unwrap());
    assert!(!again.restore().unwrap());
    assert!(ask(Some(&neighbour), (v4("192.0.2.1"), 8080)).is_ok());
    again.delete().unwrap();
    assert!(other.is_present().unwrap(), "two daemons do not share a table");
    delete_leftover("dray-other").unwrap();
    delete_leftover("dray-other").unwrap();
    assert_eq!(look(None, "nft", &["list", "ruleset"]), "");
}

#[test]
fn a_refused_change_changes_nothing() {
    let (_host, firewall, _neighbour, _one, _two) = host();
    let before = look(None, "nft", &["list", "ruleset"]);
    // Somebody else removes the map under us: the whole transaction fails and names its step.
    look(None, "nft", &["flush", "chain", "inet", "dray-test", "translate"]);
    look(None, "nft", &["delete", "map", "inet", "dray-test", "published"]);
    let between = look(None, "nft", &["list", "ruleset"]);
    assert_ne!(before, between);
    let ports = [published(ANYWHERE, 8080, "10.88.0.2"), published(v4("192.0.2.1"), 8081, "10.88.0.2")];
    let error = firewall.publish(&ports).unwrap_err();
    assert_eq!(error.to_string(), "cannot add elements to dray-test published");
    assert_eq!(look(None, "nft", &["list", "ruleset"]), between);
    firewall.publish(&ports[..1]).unwrap();
}

#[test]
fn ipv6_is_published_translated_and_isolated() {
    let host = Host::new();
    let neighbour = host.add_neighbour();
    look(None, "sysctl", &["-qw", "net.ipv6.conf.uplink.disable_ipv6=0"]);
    look(None, "ip", &["addr", "add", "2001:db8::1/64", "dev", "uplink", "nodad"]);
    look(Some(&neighbour), "sysctl", &["-qw", "net.ipv6.conf.eth0.disable_ipv6=0"]);
    look(Some(&neighbour), "ip", &["addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad"]);
    look(Some(&neighbour), "ip", &["route", "add", "default", "via", "2001:db8::1"]);
    let bridge_of = |name: &str, gateway: &str, subnet: &str| {
        host.add_bridge(name, gateway);
        let bridge = bridge(name, "10.88.0.0/24");
        FirewallBridge { subnets: vec![subnet.parse().unwrap()], ..bridge }
    };
    let near = bridge_of("dray0", "fd00:1::1/64", "fd00:1::/64");
    let far = bridge_of("dray1", "fd00:2::1/64", "fd00:2::/64");
    let one = host.add_container("one", "dray0", "fd00:1::2/64");
    let two = host.add_container("two", "dray0", "fd00:1::3/64");
    let other = host.add_container("other", "dray1", "fd00:2::2/64");
    for namespace in [&one, &two, &other, &neighbour] {
        serve(Some(namespace), 80);
    }
    let firewall = Firewall::open("dray-test").unwrap();
    firewall.add_bridge(&near).unwrap();
    firewall.add_bridge(&far).unwrap();
    let v6 = |text: &str, port: u16| (text.parse::<std::net::Ipv6Addr>().unwrap(), port);
    let port = |host: &str, port: u16| PublishedPort {
        host_address: host.parse().unwrap(),
        host_port: port,
        container_address: "fd00:1::2".parse().unwrap(),
        ..published(ANYWHERE, 1, "0.0.0.0")
    };
    firewall.publish(&[port("::", 8080), port("2001:db8::1", 8081)]).unwrap();
    let outside = v6("2001:db8::1", 8080);
    assert_eq!(ask(Some(&neighbour), outside).unwrap(), "2001:db8::2", "the client's address is kept");
    assert_eq!(ask(Some(&neighbour), v6("2001:db8::1", 8081)).unwrap(), "2001:db8::2");
    assert!(ask(None, outside).is_ok(), "from the host by its address");
    assert_eq!(ask(Some(&two), outside).unwrap(), "fd00:1::1", "from a member of the bridge");
    assert_eq!(ask(Some(&one), outside).unwrap(), "fd00:1::1", "from itself");
    assert!(ask(Some(&other), outside).is_ok(), "from another bridge by the host's address");
    assert!(ask(Some(&other), v6("fd00:1::2", 80)).is_err(), "bridges are isolated");
    assert!(ask(Some(&neighbour), v6("fd00:1::2", 80)).is_err(), "no way round by a route");
    assert_eq!(ask(Some(&one), v6("fd00:1::3", 80)).unwrap(), "fd00:1::2", "members reach each other");
    assert_eq!(ask(Some(&one), v6("2001:db8::2", 80)).unwrap(), "2001:db8::1", "out by the host's address");
    firewall.add_bridge(&FirewallBridge { direct_ports: true, masquerade: false, ..near.clone() }).unwrap();
    assert_eq!(ask(Some(&neighbour), v6("fd00:1::2", 80)).unwrap(), "2001:db8::2", "routed: published ports");
    assert!(ask(Some(&neighbour), v6("fd00:1::3", 80)).is_err(), "and no others");
    firewall.remove_bridge("dray0").unwrap();
    firewall.unpublish(&[port("::", 8080)]).unwrap();
    assert!(ask(Some(&neighbour), outside).is_err());
}

#[test]
fn cve_2025_54410_rules_come_back_when_others_take_them() {
    let (_host, firewall, neighbour, _one, _two) = host();
    firewall.publish(&[published(ANYWHERE, 8080, "10.88.0.2")]).unwrap();
    let watch = Watch::open().unwrap();
    let before = look(None, "nft", &["list", "ruleset"]);
    firewall.publish(&[published(ANYWHERE, 8081, "10.88.0.3")]).unwrap();
    firewall.unpublish(&[published(ANYWHERE, 8081, "10.88.0.3")]).unwrap();
    look(None, "nft", &["add", "table", "inet", "others"]);
    assert!(!firewall.restore_changed(&watch).unwrap(), "its own changes and others' tables are no matter");
    look(None, "nft", &["delete", "table", "inet", "others"]);
    for attack in [
        &["flush", "ruleset"][..],
        &["delete", "table", "inet", "dray-test"],
        &["flush", "chain", "inet", "dray-test", "forward"],
        &["flush", "map", "inet", "dray-test", "published-anywhere"],
        &["insert", "rule", "inet", "dray-test", "forward", "accept"],
    ] {
        look(None, "nft", attack);
        assert_ne!(look(None, "nft", &["list", "ruleset"]), before, "{attack:?}");
        assert!(firewall.restore_changed(&watch).unwrap(), "{attack:?}");
        assert_eq!(look(None, "nft", &["list", "ruleset"]), before, "{attack:?}");
        assert!(!firewall.restore_changed(&watch).unwrap(), "and no more");
    }
    assert!(ask(Some(&neighbour), (v4("192.0.2.1"), 8080)).is_ok());
    assert!(ask(Some(&neighbour), (v4("10.88.0.2"), 80)).is_err());
}

#[test]
fn a_host_that_was_no_router_becomes_none() {
    let (host, firewall, neighbour, one, _two) = host();
    host.add_bridge("lan", "198.51.100.1/24");
    let inner = host.add_container("inner", "lan", "198.51.100.2/24");
    serve(Some(&inner), 80);
    serve(Some(&neighbour), 80);
    assert!(ask(Some(&neighbour), (v4("198.51.100.2"), 80)).is_ok(), "others' packets are others' business");
    firewall.publish(&[published(ANYWHERE, 8080, "10.88.0.2")]).unwrap();
    firewall.set_closed(true);
    firewall
        .sync(&FirewallState {
            bridges: vec![bridge("dray0", "10.88.0.0/24")],
            published: vec![published(ANYWHERE, 8080, "10.88.0.2")],
            direct: vec![],
        })
        .unwrap();
    assert!(ask(Some(&neighbour), (v4("198.51.100.2"), 80)).is_err());
    assert!(ask(Some(&one), (v4("192.0.2.2"), 80)).is_ok(), "containers have a way out");
    assert!(ask(Some(&neighbour), (v4("192.0.2.1"), 8080)).is_ok(), "and published ports one in");
}

#[test]
fn a_thousand_ports_cost_no_more_than_one() {
    let (_host, firewall, _neighbour, _one, _two) = host();
    let ports: Vec<_> = (0..1000).map(|index| published(ANYWHERE, 20_000 + index, "10.88.0.2")).collect();
    let start = Instant::now();
    firewall.publish(&ports).unwrap();
    println!("1000 ports at once: {:?}", start.elapsed());
    let mut times: Vec<_> = (0..30)
        .map(|index| {
            let start = Instant::now();
            firewall.publish(&[published(ANYWHERE, 8000 + index, "10.88.0.3")]).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("one more: median {:?}", times[15]);
    let keys = Nftables::open().unwrap().list_keys(Family::Inet, "dray-test", "published-anywhere").unwrap();
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), 1030);
    assert!(ask(None, (v4("192.0.2.1"), 20_999)).is_ok());
}
