//! Connections to published ports that programs lead at once, by processes of a control group of this test's own.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[allow(unreachable_pub, reason = "helpers are shared by tests")]
mod support;

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};

use dray_network::firewall::{Firewall, PublishedPort};
use dray_network::ports::Protocol;
use dray_testkit::ControlGroup;
use support::{Host, ask, bridge, serve, v4};

fn local(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}

#[test]
fn connections_are_led_and_look_as_if_they_were_not() {
    let host = Host::new();
    host.add_bridge("dray0", "10.88.0.1/24");
    let one = host.add_container("one", "dray0", "10.88.0.2/24");
    let two = host.add_container("two", "dray0", "10.88.0.3/24");
    serve(Some(&one), 80);
    serve(Some(&two), 81);
    let firewall = Firewall::open("dray-test").unwrap();
    firewall.add_bridge(&bridge("dray0", "10.88.0.0/24")).unwrap();
    let published = |host_address: Ipv4Addr, host_port, container: &str, container_port| PublishedPort {
        protocol: Protocol::Tcp,
        host_address: host_address.into(),
        host_port,
        container_address: v4(container).into(),
        container_port,
    };
    let early = published(Ipv4Addr::LOCALHOST, 8080, "10.88.0.2", 80);
    firewall.publish(&[early]).unwrap();
    let group = ControlGroup::enter();
    firewall.lead_connects_of(group.path()).unwrap();
    let late = published(Ipv4Addr::UNSPECIFIED, 8081, "10.88.0.3", 81);
    firewall.publish(&[late]).unwrap();
    for port in [8080, 8081] {
        let stream = TcpStream::connect(local(port)).unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), v4("10.88.0.1"), "it goes straight to the container");
        assert_eq!(stream.peer_addr().unwrap(), local(port).into(), "and tells whom it was meant for");
        assert_eq!(ask(None, (Ipv4Addr::LOCALHOST, port)).unwrap(), "10.88.0.1");
    }
    let straight = TcpStream::connect(SocketAddrV4::new(v4("10.88.0.2"), 80)).unwrap();
    assert_eq!(straight.peer_addr().unwrap(), SocketAddrV4::new(v4("10.88.0.2"), 80).into());
    // Another address, another namespace: the rules are asked.
    assert!(ask(None, (v4("127.0.0.2"), 8080)).is_err());
    assert!(ask(Some(&one), (Ipv4Addr::LOCALHOST, 8081)).is_err());
    firewall.unpublish(&[early]).unwrap();
    assert!(ask(None, (Ipv4Addr::LOCALHOST, 8080)).is_err());
    firewall.publish(&[published(Ipv4Addr::UNSPECIFIED, 8081, "10.88.0.2", 80)]).unwrap();
    assert_eq!(ask(None, (Ipv4Addr::LOCALHOST, 8081)).unwrap(), "10.88.0.1", "it leads elsewhere now");
    // Without the programs all goes on.
    drop(firewall);
    let stream = TcpStream::connect(local(8081)).unwrap();
    assert_eq!(stream.local_addr().unwrap().ip(), Ipv4Addr::LOCALHOST);
    assert_eq!(ask(None, (Ipv4Addr::LOCALHOST, 8081)).unwrap(), "10.88.0.1");
}
