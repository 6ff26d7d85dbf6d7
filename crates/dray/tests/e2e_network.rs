//! Networks with the real docker command: IPv6, drivers, options, places and links.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use common::network::{ask, get, host, inspect, serve, sh};
use common::{Daemon, PATIENCE};
use dray_testkit::eventually;

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
    daemon.ok(&["network", "create", "--subnet", "10.80.1.0/24", "four"]);
    let run =
        ["run", "-d", "--name", "four", "--network", "four", "--ip6", "fd00:99::9", "box", "sleep", "1000"];
    daemon.ok(&run);
    let at =
        "{{with .NetworkSettings.Networks.four}}{{.IPAMConfig.IPv6Address}} {{.GlobalIPv6Address}}.{{end}}";
    assert_eq!(inspect(&daemon, "four", at), "fd00:99::9 .", "kept, and not given");
    daemon.ok(&["rm", "-f", "four"]);
    daemon.ok(&["network", "rm", "four"]);

    daemon.ok(&["rm", "-f", "web", "peer"]);
    assert_eq!(ask("[fd00:80::1]:8080"), None);
    daemon.ok(&["network", "rm", "dual", "chosen", "six"]);
}

#[test]
fn cve_2020_13401_and_2024_32473_no_ipv6_where_the_network_has_none() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ok(&["network", "create", "-d", "macvlan", "--internal", "vlan"]);
    daemon.ok(&["network", "create", "own"]);
    daemon.ok(&["run", "-d", "--name", "user", "--network", "own", "box", "sleep", "1000"]);
    let named = |filter: &str| daemon.ok(&["network", "ls", "--filter", filter, "--format", "{{.Name}}"]);
    assert_eq!(named("dangling=true"), "vlan");
    assert_eq!(named("dangling=false"), "bridge\nhost\nnone\nown");
    daemon.ok(&["rm", "-f", "user"]);
    for network in ["bridge", "own", "vlan"] {
        let script = "cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6 /proc/sys/net/ipv6/conf/eth0/accept_ra; ip -6 addr show eth0";
        let said = daemon.ok(&["run", "--rm", "--network", network, "box", "sh", "-c", script]);
        assert_eq!(said, "1\n0", "{network}");
    }
    daemon.ok(&["network", "rm", "vlan", "own"]);
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
fn subnets_are_cut_from_the_pools_given_and_avoid_routes() {
    let mut daemon = Daemon::start();
    daemon.down(&[]);
    let pools = ["base=10.200.0.0/22,size=24", "base=fd00:200::/48,size=64"];
    let options: Vec<&str> = pools.iter().flat_map(|pool| ["--default-address-pool", pool]).collect();
    daemon.up_with(&[], &options);
    let route = ["route", "add", "unreachable", "10.200.1.0/25"];
    assert!(std::process::Command::new("ip").args(route).status().unwrap().success());
    let subnets = "{{range .IPAM.Config}}{{.Subnet}} {{end}}";
    for (name, wanted) in
        [("one", "10.200.0.0/24 fd00:200::/64 "), ("two", "10.200.2.0/24 fd00:200:0:1::/64 ")]
    {
        daemon.ok(&["network", "create", "--ipv6", name]);
        assert_eq!(inspect(&daemon, name, subnets).trim(), wanted.trim());
    }
    daemon.ok(&["network", "create", "three"]);
    daemon.refused(&["network", "create", "four"], "all predefined address pools have been fully subnetted");
    let told = daemon.ok(&["info", "-f", "{{range .DefaultAddressPools}}{{.Base}} {{.Size}};{{end}}"]);
    assert_eq!(told, "10.200.0.0/22 24;fd00:200::/48 64;");
    daemon.ok(&["network", "rm", "one", "two", "three"]);
    daemon.assert_nothing_left();
}
