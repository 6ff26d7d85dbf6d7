//! A host in a namespace of its own, containers on its bridges, and a neighbour outside.
#![allow(dead_code, reason = "each test uses its part")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dray_network::firewall::FirewallBridge;
use dray_network::link::{Attachment, Bridge, MacAddress, Netlink};
use dray_network::{IpNet, Ipv4Net, namespace};
use tempfile::TempDir;

/// Long enough on a busy machine; reached only when packets are dropped.
const PATIENCE: Duration = Duration::from_millis(700);

pub(crate) struct Host {
    pub(crate) directory: TempDir,
    pub(crate) netlink: Netlink,
}

pub(crate) fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

pub(crate) fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

pub(crate) fn bridge(name: &str, subnet: &str) -> FirewallBridge {
    FirewallBridge {
        name: name.to_owned(),
        subnets: vec![subnet.parse().unwrap()],
        internal: false,
        masquerade: true,
        inter_container: true,
        routed: false,
        reachable: false,
        direct_ports: false,
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Pinned namespaces would keep the directory.
        for entry in std::fs::read_dir(self.directory.path()).into_iter().flatten().flatten() {
            let _ = namespace::remove(&entry.path());
        }
    }
}

impl Host {
    pub(crate) fn new() -> Self {
        dray_testkit::isolate();
        // As on most hosts, which have not loaded the module: what passes a bridge meets no rules.
        dray_network::sysctl::set_if_present("bridge/bridge-nf-call-iptables", "0").unwrap();
        Self { directory: TempDir::new().unwrap(), netlink: Netlink::open().unwrap() }
    }

    pub(crate) fn add_bridge(&self, name: &str, gateway: &str) {
        let bridge = Bridge {
            name: name.to_owned(),
            mtu: 1500,
            addresses: vec![gateway.parse().unwrap()],
            alias: String::new(),
        };
        self.netlink.create_bridge(&bridge).unwrap();
    }

    pub(crate) fn namespace(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        namespace::create(&path).unwrap();
        path
    }

    /// A container on a bridge; the gateway is the first address of its subnet.
    pub(crate) fn add_container(&self, name: &str, bridge: &str, address: &str) -> PathBuf {
        let path = self.namespace(name);
        self.netlink.attach(&attachment(&path, name, bridge, address)).unwrap();
        let inside = Netlink::open_in(&path).unwrap();
        // The first packet would be lost before, and a second come only after a second.
        dray_testkit::eventually("the link", Duration::from_secs(10), || {
            let running = |netlink: &Netlink, name: &str| netlink.find_link(name).unwrap().unwrap().running;
            let host = &self.netlink;
            (running(&inside, "eth0") && running(host, &format!("v{name}")) && running(host, bridge))
                .then_some(())
        });
        path
    }

    /// A neighbour at 192.0.2.2, the host's own address being 192.0.2.1; it sends what it does not know to
    /// the host.
    pub(crate) fn add_neighbour(&self) -> PathBuf {
        self.add_bridge("uplink", "192.0.2.1/24");
        self.add_container("neighbour", "uplink", "192.0.2.2/24")
    }
}

pub(crate) fn attachment(path: &Path, name: &str, bridge: &str, address: &str) -> Attachment {
    let address: IpNet = address.parse().unwrap();
    let mac = match address.addr() {
        IpAddr::V4(address) => MacAddress::from_ipv4(address),
        IpAddr::V6(_) => MacAddress::random(),
    };
    Attachment {
        bridge: bridge.to_owned(),
        host_name: format!("v{name}"),
        namespace: path.to_owned(),
        name: "eth0".to_owned(),
        mac,
        addresses: vec![address],
        gateways: vec![dray_network::pool::first_host(address)],
        mtu: 1500,
        hairpin: true,
        isolated: false,
        alias: "dray-test".to_owned(),
    }
}

/// Answers every connection with the address it came from. Without a namespace: on the host.
pub(crate) fn serve(namespace: Option<&Path>, port: u16) {
    let bind = move || TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, port)).unwrap();
    let listener = match namespace {
        Some(path) => namespace::within(path, || Ok(bind())).unwrap(),
        None => bind(),
    };
    std::thread::spawn(move || {
        while let Ok((mut connection, peer)) = listener.accept() {
            let _ = connection.write_all(peer.ip().to_canonical().to_string().as_bytes());
            let _ = connection.shutdown(Shutdown::Write);
        }
    });
}

/// Answers every datagram with the address it came from and its own port.
pub(crate) fn serve_udp(namespace: &Path, port: u16) {
    let socket =
        namespace::within(namespace, || Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap())).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{} {port}", peer.ip()).as_bytes(), peer);
        }
    });
}

/// What the server says at the address, asked from a namespace or from the host.
pub(crate) fn ask(namespace: Option<&Path>, address: impl Into<SocketAddr>) -> io::Result<String> {
    let address = address.into();
    let connect = move || {
        let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    };
    match namespace {
        Some(path) => namespace::within(path, || Ok(connect())).unwrap(),
        None => connect(),
    }
}

/// A datagram and its answer, over a socket that stays the same.
pub(crate) fn ask_udp(socket: &UdpSocket, address: SocketAddr) -> io::Result<String> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(b"?", address)?;
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Runs a program that only looks, inside a namespace or on the host.
pub(crate) fn look(namespace: Option<&Path>, program: &str, arguments: &[&str]) -> String {
    let run = || {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    match namespace {
        Some(path) => namespace::within(path, || Ok(run())).unwrap(),
        None => run(),
    }
}
