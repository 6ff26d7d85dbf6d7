//! Networks with the real docker command: IPv6, drivers, options, names, links, published ports, and what stays true when
//! others touch the packet rules.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use common::{Daemon, PATIENCE};
use dray_testkit::eventually;

/// Runs a program of the host's in the daemon's network.
fn host(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn sh(daemon: &Daemon, container: &str, script: &str) -> String {
    daemon.ok(&["exec", container, "sh", "-c", script])
}

fn inspect(daemon: &Daemon, name: &str, what: &str) -> String {
    daemon.ok(&["inspect", "-f", what, name])
}

/// A container with a web server on port 80, over both versions of IP.
fn serve(daemon: &Daemon, name: &str, options: &[&str]) {
    let mut command = vec!["run", "-d", "--name", name];
    command.extend(options);
    let script = "echo served > /tmp/index.html; exec httpd -f -p 80 -h /tmp";
    command.extend(["box", "sh", "-c", script]);
    daemon.ok(&command);
    eventually("the server", PATIENCE, || {
        (get(daemon, name, "127.0.0.1", 80).as_deref() == Some("served")).then_some(())
    });
}

/// What is served at an address and a port, asked from a container. The static wget cannot look addresses up.
fn get(daemon: &Daemon, container: &str, address: &str, port: u16) -> Option<String> {
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 {address} {port}");
    let output = daemon.docker(&["exec", container, "sh", "-c", &script]);
    body(&String::from_utf8(output.stdout).unwrap())
}

fn body(answer: &str) -> Option<String> {
    answer.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_owned())
}

/// What is served at an address, asked from the host.
fn ask(address: &str) -> Option<String> {
    let address = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(700)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    body(&answer)
}

#[test]
fn ipv6_networks_have_addresses_names_and_ports() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&[
        "network",
        "create",
        "--ipv6",
        "--subnet",
        "10.80.0.0/24",
        "--subnet",
        "fd00:80::/64",
        "dual",
    ]);
    assert_eq!(
        inspect(
            &daemon,
            "dual",
            "{{.EnableIPv4}} {{.EnableIPv6}} {{range .IPAM.Config}}{{.Subnet}} {{.Gateway}};{{end}}"
        ),
        "true true 10.80.0.0/24 10.80.0.1;fd00:80::/64 fd00:80::1;"
    );
    serve(
        &daemon,
        "web",
        &["--network", "dual", "--ip6", "fd00:80::99", "--ip", "10.80.0.9", "-p", "8080:80"],
    );
    daemon.ok(&["run", "-d", "--name", "peer", "--network", "dual", "box", "sleep", "1000"]);
    let at = "{{with .NetworkSettings.Networks.dual}}{{.IPAddress}} {{.GlobalIPv6Address}}/{{.GlobalIPv6PrefixLen}} {{.IPv6Gateway}} {{.IPAMConfig.IPv6Address}}{{end}}";
    assert_eq!(inspect(&daemon, "web", at), "10.80.0.9 fd00:80::99/64 fd00:80::1 fd00:80::99");
    let shown = sh(&daemon, "web", "ip -6 addr show eth0; ip -6 route; cat /etc/hosts");
    assert!(shown.contains("fd00:80::99/64") && shown.contains("default via fd00:80::1"), "{shown}");
    let id = inspect(&daemon, "web", "{{.Config.Hostname}}");
    assert!(
        shown.contains(&format!("10.80.0.9\t{id}\n")) && shown.contains(&format!("fd00:80::99\t{id}")),
        "{shown}"
    );
    let looked = sh(&daemon, "peer", "nslookup -type=aaaa web; nslookup -type=a web");
    assert!(looked.contains("fd00:80::99") && looked.contains("10.80.0.9"), "{looked}");
    let reverse = sh(&daemon, "peer", "nslookup fd00:80::99");
    assert!(reverse.contains("web.dual"), "{reverse}");
    assert_eq!(get(&daemon, "peer", "fd00:80::99", 80).as_deref(), Some("served"));

    let ports = inspect(&daemon, "web", "{{json (index .NetworkSettings.Ports \"80/tcp\")}}");
    assert_eq!(ports, r#"[{"HostIp":"0.0.0.0","HostPort":"8080"},{"HostIp":"::","HostPort":"8080"}]"#);
    for address in ["127.0.0.1:8080", "[fd00:80::1]:8080", "10.80.0.1:8080"] {
        assert_eq!(ask(address).as_deref(), Some("served"), "{address}");
    }
    daemon.ok(&["network", "create", "--ipv6", "chosen"]);
    let chosen = inspect(&daemon, "chosen", "{{range .IPAM.Config}}{{.Subnet}} {{end}}");
    assert!(chosen.contains("172.") && chosen.contains(" fd"), "a range of unique local addresses: {chosen}");
    daemon.ok(&["network", "create", "--ipv6", "--ipv4=false", "six"]);
    let only = daemon.ok(&["run", "--rm", "--network", "six", "box", "sh", "-c", "ip addr show eth0"]);
    assert!(only.contains("inet6 fd") && !only.contains("inet "), "{only}");
    daemon.refused(&["network", "create", "--ipv4=false", "nothing"], "IPv4 or IPv6 must be enabled");

    daemon.ok(&["rm", "-f", "web", "peer"]);
    assert_eq!(ask("[fd00:80::1]:8080"), None);
    daemon.ok(&["network", "rm", "dual", "chosen", "six"]);
}

#[test]
fn cve_2020_13401_no_ipv6_where_the_network_has_none() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&["network", "create", "-d", "macvlan", "--internal", "vlan"]);
    for network in ["bridge", "vlan"] {
        let script = "cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6 /proc/sys/net/ipv6/conf/eth0/accept_ra; ip -6 addr show eth0";
        let said = daemon.ok(&["run", "--rm", "--network", network, "box", "sh", "-c", script]);
        assert_eq!(said, "1\n0", "{network}: cve_2024_32473");
    }
    daemon.ok(&["network", "rm", "vlan"]);
}

#[test]
fn networks_are_made_as_asked_or_refused_with_the_reason() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let options = [
        "network",
        "create",
        "--subnet",
        "10.81.0.0/16",
        "--ip-range",
        "10.81.5.0/24",
        "--gateway",
        "10.81.5.254",
        "--aux-address",
        "printer=10.81.5.1",
        "--label",
        "a=b",
        "--attachable",
        "--internal",
        "-o",
        "com.docker.network.bridge.name=mine0",
        "-o",
        "com.docker.network.driver.mtu=1400",
        "-o",
        "com.docker.network.container_iface_prefix=net",
        "full",
    ];
    daemon.ok(&options);
    assert_eq!(
        inspect(&daemon, "full", "{{json .IPAM.Config}} {{.Internal}} {{.Attachable}} {{.Labels.a}}"),
        r#"[{"Subnet":"10.81.0.0/16","IPRange":"10.81.5.0/24","Gateway":"10.81.5.254","AuxiliaryAddresses":{"printer":"10.81.5.1"}}] true true b"#
    );
    assert!(host("ip", &["link", "show", "mine0"]).contains("mtu 1400"));
    let inside =
        daemon.ok(&["run", "--rm", "--network", "full", "box", "sh", "-c", "ip addr show net0; ip route"]);
    assert!(inside.contains("mtu 1400") && inside.contains("10.81.5.0/16"), "{inside}");
    assert!(!inside.contains("default"), "no way out: {inside}");

    let refused = |arguments: &[&str], words: &str| {
        let mut command = vec!["network", "create"];
        command.extend(arguments);
        daemon.refused(&command, words);
    };
    refused(&["full"], "network with name full already exists");
    refused(
        &["--subnet", "10.81.7.0/24", "x"],
        "invalid pool request: Pool overlaps with other one on this address space",
    );
    refused(&["--subnet", "10.82.0.1/24", "x"], "invalid subnet 10.82.0.1/24: it should be 10.82.0.0/24");
    refused(
        &["--subnet", "10.82.0.0/24", "--gateway", "10.83.0.1", "x"],
        "no matching subnet for gateway 10.83.0.1",
    );
    refused(&["--subnet", "10.82.0.0/24", "--ip-range", "10.82.0.0/16", "x"], "range 10.82.0.0/16");
    refused(&["bridge"], "operation is not permitted on predefined bridge network");
    refused(&["-d", "host", "x"], "only one instance of \"host\" network is allowed");
    refused(&["-d", "none", "x"], "only one instance of \"null\" network is allowed");
    refused(&["-d", "nosuch", "x"], "could not find plugin nosuch in v1 plugin registry: plugin not found");
    refused(&["-d", "overlay", "x"], "This node is not a swarm manager");
    refused(&["-o", "com.docker.network.bridge.name=mine0", "x"], "networks have same bridge name");
    refused(
        &["-o", "com.docker.network.bridge.enable_icc=maybe", "x"],
        "failed to parse com.docker.network.bridge.enable_icc value: maybe",
    );
    refused(&["-o", "com.docker.network.bridge.gateway_mode_ipv4=odd", "x"], "unknown gateway mode odd");
    refused(&["-d", "macvlan", "-o", "macvlan_mode=odd", "x"], "requested macvlan mode 'odd' is not valid");
    refused(&["-d", "ipvlan", "-o", "ipvlan_mode=l9", "x"], "requested ipvlan mode 'l9' is not valid");
    refused(
        &["-d", "macvlan", "-o", "parent=lo", "x"],
        "loopback interface is not a valid macvlan parent link",
    );
    refused(&["-d", "macvlan", "-o", "parent=nosuch0", "x"], "nosuch0");
    for name in ["bridge", "host", "none"] {
        daemon.refused(
            &["network", "rm", name],
            &format!("{name} is a pre-defined network and cannot be removed"),
        );
    }
    daemon.refused(&["network", "rm", "nosuch"], "network nosuch not found");
    assert_eq!(
        daemon.ok(&["network", "ls", "--format", "{{.Name}}"]),
        "bridge\nfull\nhost\nnone",
        "nothing half-made"
    );

    // A configuration, and a network that takes it.
    daemon.ok(&[
        "network",
        "create",
        "--config-only",
        "--subnet",
        "10.84.0.0/24",
        "-o",
        "com.docker.network.driver.mtu=1300",
        "plan",
    ]);
    daemon.ok(&["network", "create", "--config-from", "plan", "built"]);
    assert_eq!(
        inspect(
            &daemon,
            "built",
            "{{.ConfigFrom.Network}} {{(index .IPAM.Config 0).Subnet}} {{.ConfigOnly}}"
        ),
        "plan 10.84.0.0/24 false"
    );
    refused(
        &["--config-from", "plan", "--subnet", "10.85.0.0/24", "x"],
        "user-specified configurations are not supported",
    );
    daemon.refused(
        &["run", "--rm", "--network", "plan", "box", "true"],
        "cannot create endpoint on configuration-only network",
    );
    daemon.refused(&["network", "rm", "plan"], "configuration network \"plan\" is in use");
    daemon.ok(&["network", "rm", "built"]);
    daemon.ok(&["network", "rm", "plan"]);

    // One whose containers run stays; one whose bridge was there before leaves it.
    daemon.ok(&["run", "-d", "--name", "user", "--network", "full", "box", "sleep", "1000"]);
    daemon.refused(&["network", "rm", "full"], "network full has active endpoints (name:\"user\" id:\"");
    daemon.ok(&["rm", "-f", "user"]);
    daemon.ok(&["network", "rm", "full"]);
    assert!(!host("ip", &["link"]).contains("mine0"));
    host("ip", &["link", "add", "theirs0", "type", "bridge"]);
    daemon.ok(&["network", "create", "-o", "com.docker.network.bridge.name=theirs0", "on-theirs"]);
    daemon.ok(&["run", "--rm", "--network", "on-theirs", "box", "true"]);
    daemon.ok(&["network", "rm", "on-theirs"]);
    assert!(host("ip", &["link"]).contains("theirs0"), "what we did not make stays");
}

#[test]
fn macvlan_containers_are_on_the_hosts_link() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    host("ip", &["link", "add", "uplink", "type", "veth", "peer", "name", "far"]);
    host("ip", &["link", "set", "uplink", "up"]);
    host("ip", &["link", "set", "far", "up"]);
    daemon.ok(&[
        "network",
        "create",
        "-d",
        "macvlan",
        "--subnet",
        "10.86.0.0/24",
        "--gateway",
        "10.86.0.254",
        "-o",
        "parent=uplink",
        "lan",
    ]);
    assert_eq!(inspect(&daemon, "lan", "{{.Driver}} {{.Options.parent}}"), "macvlan uplink");
    serve(&daemon, "one", &["--network", "lan", "--ip", "10.86.0.7", "--mac-address", "02:11:22:33:44:55"]);
    daemon.ok(&["run", "-d", "--name", "two", "--network", "lan", "box", "sleep", "1000"]);
    let shown = sh(&daemon, "one", "ip addr show eth0; ip route");
    assert!(shown.contains("02:11:22:33:44:55") && shown.contains("default via 10.86.0.254"), "{shown}");
    assert_eq!(inspect(&daemon, "one", "{{.NetworkSettings.Networks.lan.MacAddress}}"), "02:11:22:33:44:55");
    assert_eq!(get(&daemon, "two", "one", 80).as_deref(), Some("served"), "by its name");
    // Its address is the link's: a machine at the other end of the cable reaches it without the host.
    host("ip", &["addr", "add", "10.86.0.100/24", "dev", "far"]);
    eventually("an answer over the link", PATIENCE, || ask("10.86.0.7:80").map(drop));
    daemon.ok(&["network", "disconnect", "lan", "two"]);
    assert!(!sh(&daemon, "two", "ip link").contains("eth0"));
    daemon.ok(&["network", "connect", "lan", "two"]);
    assert_eq!(get(&daemon, "two", "10.86.0.7", 80).as_deref(), Some("served"));
    daemon.ok(&["rm", "-f", "one", "two"]);
    daemon.ok(&["network", "rm", "lan"]);
    assert!(host("ip", &["link"]).contains("uplink"), "the parent stays");
}

#[test]
fn places_come_and_go_with_hosts_routes_and_names() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    for (name, subnet) in [("zeta", "10.87.0.0/24"), ("alpha", "10.88.0.0/24"), ("mid", "10.89.0.0/24")] {
        daemon.ok(&["network", "create", "--subnet", subnet, name]);
    }
    daemon.ok(&["network", "create", "--internal", "inner"]);
    let way_out = || sh(&daemon, "cc", "ip route | grep default || true");
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "cc",
        "--hostname",
        "me",
        "--network",
        "zeta",
        "box",
        "sleep",
        "1000",
    ]);
    assert!(way_out().contains("via 10.87.0.1 dev eth0"));
    daemon.ok(&["network", "connect", "inner", "cc"]);
    assert!(way_out().contains("via 10.87.0.1"), "an internal network is no way out");
    daemon.ok(&["network", "connect", "--alias", "other", "--ip", "10.88.0.20", "alpha", "cc"]);
    assert!(way_out().contains("via 10.88.0.1 dev eth2"), "the first by name: {}", way_out());
    daemon.ok(&["network", "connect", "--gw-priority", "10", "mid", "cc"]);
    assert!(way_out().contains("via 10.89.0.1 dev eth3"), "{}", way_out());
    assert_eq!(inspect(&daemon, "cc", "{{.NetworkSettings.Networks.mid.GwPriority}}"), "10");
    let hosts = sh(&daemon, "cc", "cat /etc/hosts");
    for address in ["10.87.0.2", "10.88.0.20", "10.89.0.2"] {
        assert!(
            hosts.contains(&format!("{address}\tme\n")) || hosts.ends_with(&format!("{address}\tme")),
            "{hosts}"
        );
    }
    sh(&daemon, "cc", "echo '192.0.2.7 added' >> /etc/hosts");
    daemon.ok(&["network", "disconnect", "mid", "cc"]);
    assert!(way_out().contains("via 10.88.0.1 dev eth2"), "{}", way_out());
    let hosts = sh(&daemon, "cc", "cat /etc/hosts");
    assert!(!hosts.contains("10.89.0.2") && hosts.contains("192.0.2.7 added"), "{hosts}");
    daemon.ok(&["run", "-d", "--name", "peer", "--network", "alpha", "box", "sleep", "1000"]);
    assert!(sh(&daemon, "peer", "nslookup other").contains("10.88.0.20"));
    daemon.ok(&["network", "disconnect", "-f", "alpha", "cc"]);
    assert_ne!(daemon.code(&["exec", "peer", "nslookup", "other"]), 0, "its names left with it");
    daemon.ok(&["network", "disconnect", "zeta", "cc"]);
    assert_eq!(way_out(), "");
    daemon.ok(&["network", "disconnect", "-f", "zeta", "nosuch"]);

    // The next start begins with what is left, and a fixed address is had again.
    daemon.ok(&["network", "connect", "--ip", "10.88.0.33", "alpha", "cc"]);
    daemon.ok(&["restart", "-t", "0", "cc"]);
    assert_eq!(inspect(&daemon, "cc", "{{.NetworkSettings.Networks.alpha.IPAddress}}"), "10.88.0.33");

    // What cannot be.
    daemon.ok(&["network", "create", "chosen"]);
    daemon.refused(
        &["run", "--rm", "--network", "chosen", "--ip", "10.88.0.44", "box", "true"],
        "no configured subnet contains IP address 10.88.0.44",
    );
    let subnet = inspect(&daemon, "chosen", "{{(index .IPAM.Config 0).Subnet}}");
    let inside = subnet.replace(".0.0/16", ".0.44");
    daemon.refused(
        &["run", "--rm", "--network", "chosen", "--ip", &inside, "box", "true"],
        "user specified IP address is supported only when connecting to networks with user configured subnets",
    );
    daemon.refused(
        &["run", "--rm", "--ip", "172.17.0.9", "box", "true"],
        "user-specified IP address is supported on user-defined networks only",
    );
    daemon.refused(
        &["run", "--rm", "--network", "alpha", "--ip", "10.88.0.33", "box", "true"],
        "Address already in use",
    );
    daemon.ok(&["rm", "-f", "cc", "peer"]);
    daemon.ok(&["network", "rm", "zeta", "alpha", "mid", "inner", "chosen"]);
}

#[test]
fn links_give_names_and_variables() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&["run", "-d", "--name", "db", "-e", "SECRET=x", "--expose", "5432", "box", "sleep", "1000"]);
    let address = inspect(&daemon, "db", "{{.NetworkSettings.IPAddress}}");
    let id = inspect(&daemon, "db", "{{slice .Id 0 12}}");
    let said = daemon.ok(&[
        "run",
        "--rm",
        "--name",
        "web",
        "--link",
        "db:store",
        "box",
        "sh",
        "-c",
        "env; cat /etc/hosts",
    ]);
    for line in [
        "STORE_NAME=/web/store".to_owned(),
        format!("STORE_PORT=tcp://{address}:5432"),
        format!("STORE_PORT_5432_TCP_ADDR={address}"),
        "STORE_PORT_5432_TCP_PORT=5432".to_owned(),
        "STORE_PORT_5432_TCP_PROTO=tcp".to_owned(),
        "STORE_ENV_SECRET=x".to_owned(),
        format!("{address}\tstore {id} db"),
    ] {
        assert!(said.lines().any(|said| said == line), "{line} in {said}");
    }
    daemon
        .refused(&["run", "--rm", "--link", "nosuch:x", "box", "true"], "could not get container for nosuch");
    daemon.ok(&["network", "create", "user"]);
    daemon.ok(&["network", "connect", "user", "db"]);
    let script = "nslookup short && nslookup db";
    daemon.ok(&["run", "--rm", "--network", "user", "--link", "db:short", "box", "sh", "-c", script]);
    assert_ne!(
        daemon.code(&["run", "--rm", "--network", "user", "box", "nslookup", "short"]),
        0,
        "its own name only"
    );
    daemon.ok(&["stop", "-t", "0", "db"]);
    daemon.refused(
        &["run", "--rm", "--link", "db:store", "box", "true"],
        "Cannot link to a non running container: /db AS /",
    );
    daemon.ok(&["rm", "-f", "db"]);
    daemon.ok(&["network", "rm", "user"]);
}

#[test]
fn ports_are_published_in_every_way() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&["network", "create", "apart"]);
    serve(
        &daemon,
        "web",
        &["-p", "8080:80", "-p", "127.0.0.1:8081:80", "-p", "9000-9001:9000-9001/udp", "-p", "80"],
    );
    daemon.ok(&["run", "-d", "--name", "other", "--network", "apart", "box", "sleep", "1000"]);
    daemon.ok(&["run", "-d", "--name", "near", "box", "sleep", "1000"]);
    let gateway = inspect(&daemon, "apart", "{{(index .IPAM.Config 0).Gateway}}");
    let bridge = inspect(&daemon, "bridge", "{{(index .IPAM.Config 0).Gateway}}");
    for address in ["127.0.0.1:8080".to_owned(), "127.0.0.1:8081".to_owned(), format!("{bridge}:8080")] {
        assert_eq!(ask(&address).as_deref(), Some("served"), "{address}");
    }
    assert_eq!(ask(&format!("{bridge}:8081")), None, "published at one address only");
    for (from, at) in [("other", &gateway), ("other", &bridge), ("near", &bridge), ("web", &bridge)] {
        let answer = get(&daemon, from, at, 8080);
        assert_eq!(answer.as_deref(), Some("served"), "{from} by {at}");
    }
    let direct = inspect(&daemon, "web", "{{.NetworkSettings.IPAddress}}");
    assert_eq!(get(&daemon, "other", &direct, 80), None, "networks are apart");
    let chosen = daemon.ok(&["port", "web", "80/tcp"]);
    assert_eq!(chosen.lines().count(), 3, "{chosen}");

    let taken = daemon.refused(
        &["run", "--name", "late", "-p", "8080:80", "box", "true"],
        "driver failed programming external connectivity on endpoint late",
    );
    assert!(taken.contains("Bind for 0.0.0.0:8080 failed: port is already allocated"), "{taken}");
    let first_free =
        daemon.ok(&["run", "-d", "--name", "range", "-p", "8080-8083:80", "box", "sleep", "1000"]);
    assert!(!first_free.is_empty());
    assert_eq!(daemon.ok(&["port", "range"]), "80/tcp -> 0.0.0.0:8082", "8081 is taken at one address");
    let all = daemon.ok(&[
        "run", "-d", "--name", "all", "-P", "--expose", "7000", "--expose", "7001/udp", "box", "sleep",
        "1000",
    ]);
    assert!(!all.is_empty());
    assert_eq!(daemon.ok(&["port", "all"]).lines().count(), 2);
    daemon.ok(&["run", "-d", "--name", "sctp", "-p", "7777:7777/sctp", "box", "sleep", "1000"]);
    assert!(host("nft", &["list", "ruleset"]).contains("7777"));
    let discarded = daemon.docker(&["run", "--rm", "--network", "host", "-p", "8099:80", "box", "true"]);
    let said = String::from_utf8_lossy(&discarded.stderr).into_owned();
    assert!(
        discarded.status.success()
            && said.contains("Published ports are discarded when using host network mode"),
        "{said}"
    );

    // A flow of UDP does not outlive the container it went to.
    let echo = |name: &str, answer: &'static str| {
        daemon.ok(&["run", "-d", "--name", name, "-p", "9100:9000/udp", "box", "sleep", "1000"]);
        answer_datagrams(&inspect(&daemon, name, "{{.State.Pid}}"), answer);
    };
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let answered = |wanted: &str| {
        eventually(wanted, PATIENCE, || {
            socket.send_to(b"?", "127.0.0.1:9100").unwrap();
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).ok()?;
            (String::from_utf8_lossy(&buffer[..length]).trim() == wanted).then_some(())
        });
    };
    echo("udp", "one");
    answered("one");
    daemon.ok(&["rm", "-f", "udp"]);
    echo("udp", "two");
    answered("two");
    let names = daemon.ok(&["ps", "-aq"]);
    let mut remove = vec!["rm", "-f"];
    remove.extend(names.lines());
    daemon.ok(&remove);
    assert_eq!(ask("127.0.0.1:8080"), None);
    daemon.ok(&["network", "rm", "apart"]);
}

/// Answers datagrams on port 9000 in the network of a process, from a thread of ours: the image has no such server.
fn answer_datagrams(pid: &str, answer: &'static str) {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
    let bind = move || {
        let network = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(namespace.as_fd(), network).unwrap();
        UdpSocket::bind("0.0.0.0:9000").unwrap()
    };
    let socket = std::thread::spawn(bind).join().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(answer.as_bytes(), peer);
        }
    });
}

#[test]
fn cve_2025_54388_isolation_survives_a_firewall_reload() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&["network", "create", "apart"]);
    daemon.ok(&["network", "create", "-o", "com.docker.network.bridge.enable_icc=false", "strangers"]);
    serve(&daemon, "web", &["-p", "127.0.0.1:8080:80"]);
    serve(&daemon, "mute", &["--network", "strangers"]);
    daemon.ok(&["run", "-d", "--name", "other", "--network", "apart", "box", "sleep", "1000"]);
    daemon.ok(&["run", "-d", "--name", "stranger", "--network", "strangers", "box", "sleep", "1000"]);
    let web = inspect(&daemon, "web", "{{.NetworkSettings.IPAddress}}");
    let mute = inspect(&daemon, "mute", "{{.NetworkSettings.Networks.strangers.IPAddress}}");
    let holds = || {
        assert_eq!(ask("127.0.0.1:8080").as_deref(), Some("served"));
        assert_eq!(get(&daemon, "other", &web, 80), None, "other networks");
        assert_eq!(get(&daemon, "stranger", &mute, 80), None, "enable_icc=false");
    };
    holds();
    let rules = || host("nft", &["list", "ruleset"]);
    let before = rules();
    host("nft", &["add", "table", "inet", "theirs"]);
    for reload in [&["flush", "ruleset"][..], &["delete", "table", "inet", &table(&before)]] {
        host("nft", reload);
        eventually("the rules to be back", PATIENCE, || {
            let now = rules();
            (now.contains("8080") && now.contains("chain forward")).then_some(())
        });
        holds();
    }
    // Others' tables are not touched, not by changes of ours either.
    host("nft", &["add", "table", "inet", "theirs"]);
    daemon.ok(&["rm", "-f", "web", "mute", "other", "stranger"]);
    daemon.ok(&["network", "rm", "apart", "strangers"]);
    assert!(rules().contains("table inet theirs"));
}

fn table(rules: &str) -> String {
    let line = rules.lines().find(|line| line.starts_with("table inet dray-")).unwrap();
    line.split_whitespace().nth(2).unwrap().to_owned()
}

#[test]
fn cve_2024_29018_internal_networks_ask_nobody_outside() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&["network", "create", "--internal", "inner"]);
    daemon.ok(&["network", "create", "outer"]);
    // A name server that everybody could ask, outside of both.
    let server = inspect(&daemon, "outer", "{{(index .IPAM.Config 0).Gateway}}");
    let socket = UdpSocket::bind(format!("{server}:53")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let asked = || {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let look = |network: &str, name: &str| {
        daemon.code(&["run", "--rm", "--network", network, "--dns", &server, "box", "nslookup", name])
    };
    assert_ne!(look("inner", "secret.example.com"), 0);
    assert_eq!(asked(), None, "no question came");
    assert_ne!(look("outer", "other.example.com"), 0, "nobody answers");
    assert!(asked().unwrap().contains("other"), "a network that is not internal asks");
    let shown = daemon.ok(&[
        "run",
        "--rm",
        "--network",
        "outer",
        "--dns",
        &server,
        "--dns-search",
        "example.com",
        "--dns-option",
        "timeout:3",
        "box",
        "cat",
        "/etc/resolv.conf",
    ]);
    assert!(shown.contains("nameserver 127.0.0.11") && shown.contains("search example.com"), "{shown}");
    assert!(
        shown.contains("options timeout:3 ndots:0") && !shown.contains(&format!("nameserver {server}")),
        "{shown}"
    );
    // Several containers of one name are all told.
    for name in ["aa", "bb", "cc"] {
        daemon.ok(&[
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "outer",
            "--network-alias",
            "pool",
            "box",
            "sleep",
            "1000",
        ]);
    }
    let told = sh(&daemon, "aa", "nslookup -type=a pool");
    assert_eq!(told.matches("Address").count(), 4, "the server and three: {told}");
    let short = inspect(&daemon, "bb", "{{slice .Id 0 12}}");
    assert!(sh(&daemon, "aa", &format!("nslookup {short} && nslookup bb.outer")).contains("Address"));
    daemon.ok(&["rm", "-f", "aa", "bb", "cc"]);
    daemon.ok(&["network", "rm", "inner", "outer"]);
}

#[test]
fn a_restarted_daemon_keeps_networks_and_clears_what_nobody_owns() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&[
        "network",
        "create",
        "--ipv6",
        "--subnet",
        "10.90.0.0/24",
        "--subnet",
        "fd00:90::/64",
        "kept",
    ]);
    serve(&daemon, "web", &["--network", "kept", "-p", "8080:80"]);
    let before = (
        inspect(&daemon, "web", "{{json .NetworkSettings.Ports}}"),
        inspect(&daemon, "web", "{{json .NetworkSettings.Networks.kept}}"),
    );
    let mark = table(&host("nft", &["list", "ruleset"]));
    daemon.kill();
    // What a daemon that was killed in the middle may leave.
    for (name, kind) in [("dr-gone", "bridge"), ("vethgone", "veth")] {
        host("ip", &["link", "add", name, "type", kind]);
        host("ip", &["link", "set", name, "alias", &mark]);
    }
    host("ip", &["link", "add", "bystander", "type", "bridge"]);
    host("nft", &["flush", "ruleset"]);
    daemon.up();
    let links = host("ip", &["link"]);
    assert!(
        !links.contains("dr-gone") && !links.contains("vethgone") && links.contains("bystander"),
        "{links}"
    );
    assert_eq!(
        (
            inspect(&daemon, "web", "{{json .NetworkSettings.Ports}}"),
            inspect(&daemon, "web", "{{json .NetworkSettings.Networks.kept}}")
        ),
        before
    );
    assert_eq!(ask("127.0.0.1:8080").as_deref(), Some("served"));
    assert_eq!(ask("[fd00:90::1]:8080").as_deref(), Some("served"));
    let address =
        "{{.NetworkSettings.Networks.kept.IPAddress}} {{.NetworkSettings.Networks.kept.GlobalIPv6Address}}";
    daemon.ok(&["run", "-d", "--name", "next", "--network", "kept", "box", "sleep", "1000"]);
    assert_ne!(
        inspect(&daemon, "next", address),
        inspect(&daemon, "web", address),
        "no address is had twice"
    );
    daemon.ok(&["rm", "-f", "web", "next"]);
    daemon.ok(&["network", "rm", "kept"]);
    daemon.ok(&["network", "create", "--subnet", "10.90.0.0/24", "again"]);
    daemon.ok(&["network", "rm", "again"]);
    host("ip", &["link", "del", "bystander"]);
}
