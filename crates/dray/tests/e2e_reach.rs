//! Who reaches whom, with the real docker command: published ports, isolation, names from outside, and what stays true
//! when others touch the packet rules or the daemon is killed.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Duration;

use common::network::{ask, get, host, inspect, serve, sh};
use common::{Daemon, PATIENCE};
use dray_testkit::eventually;

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
fn connections_of_this_host_are_led_where_that_is_asked_for() {
    let group = dray_testkit::ControlGroup::enter();
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    serve(&daemon, "web", &["-p", "8080:80", "-p", "127.0.0.1:8081:80"]);
    let bridge = inspect(&daemon, "bridge", "{{(index .IPAM.Config 0).Gateway}}");
    let source = |port: u16| {
        let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(stream.peer_addr().unwrap().to_string(), format!("127.0.0.1:{port}"));
        stream.local_addr().unwrap().ip().to_string()
    };
    assert_eq!(source(8080), "127.0.0.1", "translated packet by packet");
    daemon.down(&[]);
    daemon.up_with(&[], &["--connect-group", group.path().to_str().unwrap()]);
    for port in [8080, 8081] {
        assert_eq!(source(port), bridge, "straight to the container");
        assert_eq!(ask(&format!("127.0.0.1:{port}")).as_deref(), Some("served"));
    }
    daemon.ok(&["rm", "-f", "web"]);
    assert_eq!(ask("127.0.0.1:8080"), None);
    daemon.assert_nothing_left();
    drop(daemon);
    drop(group);
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
