//! Services with real packets: pods on a bridge, the host itself, and a neighbour outside.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../network/tests/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dray_network::firewall::{Firewall, FirewallBridge};
use dray_network::namespace;
use dray_network::ports::Protocol;
use dray_proxy::{Networks, PortName, Rules, ServiceName, ServicePort};
use support::{Host, ask, ask_udp, bridge, look, net, serve, serve_udp, v4};

const NODE_PORT: u16 = 30_080;

type Changes = BTreeMap<ServiceName, BTreeMap<PortName, ServicePort>>;

struct Node {
    _host: Host,
    _firewall: Firewall,
    rules: Rules,
    one: PathBuf,
    two: PathBuf,
    neighbour: PathBuf,
}

fn networks() -> Networks {
    Networks {
        services: net("10.43.0.0/16"),
        pods: net("10.42.0.0/24"),
        bridge: "pods".to_owned(),
        name_server: Some(v4("10.43.0.10")),
    }
}

/// A node with two pods that serve port 8080.
fn node() -> Node {
    let host = Host::new();
    let neighbour = host.add_neighbour();
    host.add_bridge("pods", "10.42.0.1/24");
    host.netlink.replace_link_route("10.43.0.0/16".parse().unwrap(), "lo").unwrap();
    let one = host.add_container("one", "pods", "10.42.0.2/24");
    let two = host.add_container("two", "pods", "10.42.0.3/24");
    serve(Some(&one), 8080);
    serve(Some(&two), 8080);
    let firewall = Firewall::open("dray-test").unwrap();
    firewall.add_bridge(&FirewallBridge { routed: true, ..bridge("pods", "10.42.0.0/24") }).unwrap();
    let rules = Rules::open("dray-services", networks()).unwrap();
    Node { _host: host, _firewall: firewall, rules, one, two, neighbour }
}

fn endpoints(texts: &[&str]) -> BTreeSet<SocketAddrV4> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn port(address: &str, to: &[&str]) -> ServicePort {
    ServicePort {
        cluster_address: v4(address),
        port: 80,
        node_port: Some(NODE_PORT),
        endpoints: endpoints(to),
        local_endpoints: endpoints(to),
        internal_local: false,
        external_local: false,
        affinity: None,
    }
}

fn name(name: &str) -> ServiceName {
    ServiceName { namespace: "default".to_owned(), name: name.to_owned() }
}

fn change(service: &str, protocol: Protocol, port: Option<ServicePort>) -> Changes {
    let key = PortName { service: name(service), port: String::new(), protocol };
    BTreeMap::from([(name(service), port.map(|port| (key, port)).into_iter().collect())])
}

fn web(to: &[&str]) -> Changes {
    change("web", Protocol::Tcp, Some(port("10.43.0.80", to)))
}

fn cluster() -> (Ipv4Addr, u16) {
    (v4("10.43.0.80"), 80)
}

/// Whether a connection is refused, and quickly: a dropped packet would wait.
fn refused(from: Option<&Path>, address: (Ipv4Addr, u16)) -> bool {
    ask(from, address).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[test]
fn a_service_is_reached_from_pods_the_host_and_outside() {
    let mut node = node();
    node.rules.sync(&web(&["10.42.0.2:8080"])).unwrap();
    assert_eq!(ask(Some(&node.two), cluster()).unwrap(), "10.42.0.3", "the pod's own address is kept");
    assert_eq!(ask(Some(&node.one), cluster()).unwrap(), "10.42.0.1", "a pod reaches itself");
    ask(None, cluster()).unwrap();
    let outside = (v4("192.0.2.1"), NODE_PORT);
    assert_eq!(ask(Some(&node.neighbour), outside).unwrap(), "192.0.2.2", "the client's address is kept");
    assert_eq!(ask(None, outside).unwrap(), "192.0.2.1");
    ask(None, (Ipv4Addr::LOCALHOST, NODE_PORT)).unwrap();
    assert_eq!(ask(Some(&node.two), outside).unwrap(), "10.42.0.3");
    node.rules.sync(&change("web", Protocol::Tcp, None)).unwrap();
    assert!(refused(Some(&node.two), cluster()) && refused(None, cluster()));
    assert!(refused(Some(&node.neighbour), outside));
}

#[test]
fn every_endpoint_gets_its_share() {
    let mut node = node();
    // The answer says who asked, so that the endpoints must be told apart otherwise: one of them refuses.
    node.rules.sync(&web(&["10.42.0.2:8080", "10.42.0.3:9"])).unwrap();
    let answered = (0..60).filter(|_| ask(None, cluster()).is_ok()).count();
    assert!((10..=50).contains(&answered), "{answered} of 60");
    node.rules.sync(&web(&["10.42.0.2:8080", "10.42.0.3:8080"])).unwrap();
    assert!((0..30).all(|_| ask(None, cluster()).is_ok()));
}

#[test]
fn without_endpoints_a_service_refuses_at_once() {
    let mut node = node();
    node.rules.sync(&web(&[])).unwrap();
    assert!(refused(Some(&node.one), cluster()));
    assert!(refused(None, cluster()));
    assert!(refused(Some(&node.one), (v4("10.43.9.9"), 80)), "an address that no Service has");
    node.rules.sync(&web(&["10.42.0.3:8080"])).unwrap();
    assert_eq!(ask(Some(&node.one), cluster()).unwrap(), "10.42.0.2");
    node.rules.sync(&web(&[])).unwrap();
    assert!(refused(Some(&node.one), cluster()));
}

#[test]
fn a_client_stays_with_its_endpoint() {
    let mut node = node();
    let affine = |to: &[&str]| {
        let port = ServicePort { affinity: Some(Duration::from_secs(100)), ..port("10.43.0.80", to) };
        change("web", Protocol::Tcp, Some(port))
    };
    node.rules.sync(&affine(&["10.42.0.2:8080", "10.42.0.3:9"])).unwrap();
    let first = ask(Some(&node.two), cluster()).is_ok();
    for _ in 0..20 {
        assert_eq!(ask(Some(&node.two), cluster()).is_ok(), first);
    }
    // Its endpoint goes away: it gets another.
    node.rules.sync(&affine(&["10.42.0.2:8080"])).unwrap();
    assert!((0..5).all(|_| ask(Some(&node.two), cluster()).is_ok()));
    node.rules.sync(&web(&["10.42.0.2:8080"])).unwrap();
    ask(Some(&node.two), cluster()).unwrap();
    assert!(!look(None, "nft", &["list", "table", "ip", "dray-services"]).contains("affinity"));
}

#[test]
fn local_policies_use_local_endpoints_only() {
    let mut node = node();
    let only = ServicePort {
        internal_local: true,
        external_local: true,
        local_endpoints: endpoints(&["10.42.0.2:8080"]),
        ..port("10.43.0.80", &["10.42.0.2:8080", "10.42.7.7:9"])
    };
    node.rules.sync(&change("web", Protocol::Tcp, Some(only.clone()))).unwrap();
    for _ in 0..20 {
        ask(Some(&node.two), cluster()).unwrap();
        assert_eq!(ask(Some(&node.neighbour), (v4("192.0.2.1"), NODE_PORT)).unwrap(), "192.0.2.2");
    }
    let none = ServicePort { local_endpoints: BTreeSet::new(), ..only };
    node.rules.sync(&change("web", Protocol::Tcp, Some(none))).unwrap();
    assert!(refused(Some(&node.two), cluster()));
}

#[test]
fn an_endpoint_of_another_node_is_asked_in_the_nodes_name() {
    let mut node = node();
    // The neighbour plays another node's pod.
    serve(Some(&node.neighbour), 8080);
    node.rules.sync(&web(&["192.0.2.2:8080"])).unwrap();
    assert_eq!(ask(Some(&node.neighbour), (v4("192.0.2.1"), NODE_PORT)).unwrap(), "192.0.2.1");
}

#[test]
fn udp_flows_follow_the_endpoints() {
    let mut node = node();
    serve_udp(&node.one, 5353);
    serve_udp(&node.two, 5354);
    let dns = |to: &[&str]| change("dns", Protocol::Udp, Some(port("10.43.0.53", to)));
    let at: SocketAddr = (v4("10.43.0.53"), 80).into();
    let socket =
        namespace::within(&node.two, || Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap())).unwrap();
    node.rules.sync(&dns(&[])).unwrap();
    assert!(ask_udp(&socket, at).is_err());
    node.rules.sync(&dns(&["10.42.0.2:5353"])).unwrap();
    assert_eq!(ask_udp(&socket, at).unwrap(), "10.42.0.3 5353");
    node.rules.sync(&dns(&["10.42.0.3:5354"])).unwrap();
    assert!(
        ask_udp(&socket, at).unwrap().ends_with(" 5354"),
        "the flow must leave the endpoint that is gone"
    );
}

#[test]
fn the_name_servers_address_is_the_nodes_own() {
    let mut node = node();
    node._host.netlink.add_address("pods", "10.43.0.10/32".parse().unwrap()).unwrap();
    serve(None, 80);
    node.rules.sync(&change("kube-dns", Protocol::Tcp, Some(port("10.43.0.10", &[])))).unwrap();
    assert_eq!(ask(Some(&node.one), (v4("10.43.0.10"), 80)).unwrap(), "10.42.0.2");
    ask(None, (v4("10.43.0.10"), 80)).unwrap();
}

#[test]
fn a_restarted_proxy_takes_over_without_a_gap() {
    let mut node = node();
    node.rules.sync(&web(&["10.42.0.2:8080"])).unwrap();
    let mut again = Rules::open("dray-services", networks()).unwrap();
    ask(Some(&node.two), cluster()).unwrap();
    again.sync(&change("other", Protocol::Tcp, Some(port("10.43.0.81", &["10.42.0.3:8080"])))).unwrap();
    assert!(refused(Some(&node.two), cluster()), "what is not there any more is gone");
    assert_eq!(ask(Some(&node.one), (v4("10.43.0.81"), 80)).unwrap(), "10.42.0.2");
    again.delete().unwrap();
    assert!(!look(None, "nft", &["list", "tables"]).contains("dray-services"));
}

#[test]
fn ports_of_one_service_come_and_go_alone() {
    let mut node = node();
    let key = |port: &str| PortName { service: name("web"), port: port.to_owned(), protocol: Protocol::Tcp };
    let a = ServicePort { node_port: None, ..port("10.43.0.80", &["10.42.0.2:8080"]) };
    let b = ServicePort { port: 81, ..a.clone() };
    let ports = BTreeMap::from([(key("a"), a.clone()), (key("b"), b)]);
    node.rules.sync(&BTreeMap::from([(name("web"), ports)])).unwrap();
    assert!(ask(None, cluster()).is_ok() && ask(None, (cluster().0, 81)).is_ok());
    node.rules.sync(&BTreeMap::from([(name("web"), BTreeMap::from([(key("a"), a)]))])).unwrap();
    assert!(ask(None, cluster()).is_ok() && refused(None, (cluster().0, 81)));
    assert!(ask(Some(&node.one), cluster()).is_ok(), "the endpoint is still one that reaches itself");
}

#[test]
fn a_thousand_services_cost_no_more_than_one() {
    let mut node = node();
    let mut all = Changes::new();
    for index in 0..1000u32 {
        let address = Ipv4Addr::from(u32::from(v4("10.43.1.0")) + index).to_string();
        let port = ServicePort { node_port: None, ..port(&address, &["10.42.0.2:8080", "10.42.0.3:8080"]) };
        all.extend(change(&format!("s{index}"), Protocol::Tcp, Some(port)));
    }
    let start = Instant::now();
    node.rules.sync(&all).unwrap();
    println!("1000 services at once: {:?}", start.elapsed());
    let mut times: Vec<_> = (0..20)
        .map(|round| {
            let to: &[&str] = if round % 2 == 0 { &["10.42.0.2:8080"] } else { &["10.42.0.3:8080"] };
            let start = Instant::now();
            node.rules.sync(&web(to)).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("one change: median {:?}", times[10]);
    ask(None, (v4("10.43.3.7"), 80)).unwrap();
    ask(None, cluster()).unwrap();
}
