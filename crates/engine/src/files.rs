//! The small files that every container gets from the engine, and the names it gives.

use std::net::IpAddr;
use std::path::Path;

use crate::error::IoContext;
use crate::links::Link;
use crate::record::ContainerRecord;
use crate::spec::{DnsOptions, NetworkMode};
use crate::{Error, Result};

/// Where the engine's name server listens inside every container that has an interface.
pub(crate) const NAME_SERVER: &str = "127.0.0.11";

/// The files, by their names in a container's directory and in its `/etc`.
pub(crate) const NAMES: [&str; 3] = ["resolv.conf", "hostname", "hosts"];

/// Writes `hostname`, `hosts` and `resolv.conf` into a container's directory.
pub(crate) fn write_all(
    directory: &Path,
    record: &ContainerRecord,
    hostname: &str,
    addresses: &[IpAddr],
    links: &[Link],
    host_network: bool,
) -> Result<()> {
    write(&directory.join("hostname"), &format!("{hostname}\n"))?;
    write(&directory.join("hosts"), &hosts(record, hostname, addresses, links, host_network)?)?;
    // A pod has the name servers that its cluster gives it.
    let joins = matches!(record.spec.network, NetworkMode::Sandbox(_));
    let has_interface = !addresses.is_empty() && !joins;
    write(&directory.join("resolv.conf"), &resolv_conf(&record.spec.dns, has_interface && !host_network))
}

fn write(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).io("write", path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).io("change mode of", path)
}

fn hosts(
    record: &ContainerRecord,
    hostname: &str,
    addresses: &[IpAddr],
    links: &[Link],
    host_network: bool,
) -> Result<String> {
    let mut text = if host_network {
        std::fs::read_to_string("/etc/hosts").unwrap_or_default()
    } else {
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n".to_owned()
    };
    for entry in &record.spec.extra_hosts {
        let (name, address) = entry
            .split_once([':', '='])
            .ok_or_else(|| Error::invalid(format!("bad format for add-host: {entry:?}")))?;
        let gateway = record.endpoints.first().and_then(|endpoint| endpoint.gateway);
        let address = match (address, gateway) {
            ("host-gateway", Some(gateway)) => gateway.to_string(),
            ("host-gateway", None) => "127.0.0.1".to_owned(),
            (address, _) => {
                let address = address.trim_matches(['[', ']']);
                address
                    .parse::<IpAddr>()
                    .map_err(|_| Error::invalid(format!("invalid IP address in add-host: {address:?}")))?
                    .to_string()
            }
        };
        text.push_str(&format!("{address}\t{name}\n"));
    }
    for link in links {
        for address in &link.addresses {
            text.push_str(&format!("{address}\t{}\n", link.host_names()));
        }
    }
    for address in addresses {
        text.push_str(&own_line(record, hostname, *address));
    }
    Ok(text)
}

/// The line by which a container finds itself.
fn own_line(record: &ContainerRecord, hostname: &str, address: IpAddr) -> String {
    match record.spec.domain_name.as_deref().filter(|domain| !domain.is_empty()) {
        Some(domain) => format!("{address}\t{hostname}.{domain} {hostname}\n"),
        None => format!("{address}\t{hostname}\n"),
    }
}

/// Writes the lines of a container's own addresses anew, in the file that is mounted in it; others' lines stay.
pub(crate) fn change_hosts(
    directory: &Path,
    record: &ContainerRecord,
    hostname: &str,
    gone: &[IpAddr],
    new: &[IpAddr],
) -> Result<()> {
    let path = directory.join("hosts");
    let text = std::fs::read_to_string(&path).io("read", &path)?;
    let lines = |addresses: &[IpAddr]| -> Vec<String> {
        addresses.iter().map(|address| own_line(record, hostname, *address)).collect()
    };
    let gone = lines(gone);
    let mut kept: String =
        text.split_inclusive('\n').filter(|line| !gone.iter().any(|gone| gone == line)).collect();
    for line in lines(new) {
        kept.push_str(&line);
    }
    // In place: another file at this path would not be the one that is mounted.
    std::fs::write(&path, kept).io("write", &path)
}

/// The host's own file, except that containers with an interface ask the engine's name server, which also knows the
/// names of their neighbours.
fn resolv_conf(dns: &DnsOptions, own_server: bool) -> String {
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let of_host = |keyword: &str| -> Vec<String> {
        host.lines()
            .filter_map(|line| line.trim().strip_prefix(keyword))
            .flat_map(|rest| rest.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    };
    let or_host = |own: &[String], keyword| if own.is_empty() { of_host(keyword) } else { own.to_vec() };
    let servers = match (own_server, dns.servers.is_empty()) {
        // Asked in turn by the engine's own.
        (true, _) => vec![NAME_SERVER.to_owned()],
        (false, false) => dns.servers.clone(),
        (false, true) => of_host("nameserver "),
    };
    let mut text = String::new();
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let search = or_host(&dns.search, "search ");
    if !search.is_empty() && search != ["."] {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    let mut options = or_host(&dns.options, "options ");
    if own_server && !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0".to_owned());
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

const MOODS: &[&str] = &[
    "able", "amber", "bold", "brave", "brisk", "calm", "clear", "crisp", "deft", "eager", "early", "fair",
    "fleet", "fresh", "gentle", "glad", "grand", "happy", "honest", "jolly", "keen", "kind", "light",
    "lively", "lucid", "merry", "modest", "neat", "nimble", "noble", "patient", "plain", "proud", "quick",
    "quiet", "ready", "sharp", "silent", "sober", "solid", "steady", "strong", "sunny", "swift", "tidy",
    "true", "vivid", "warm", "wise", "witty",
];
const CARTS: &[&str] = &[
    "anchor", "barge", "beam", "bolt", "brig", "cable", "canoe", "cart", "coach", "crane", "crate", "cutter",
    "dinghy", "dock", "dray", "engine", "ferry", "frame", "galley", "gantry", "harbor", "helm", "hoist",
    "hull", "jetty", "kayak", "keel", "ketch", "lantern", "lever", "lighter", "mast", "mill", "oar",
    "pallet", "pier", "pulley", "quay", "raft", "rail", "rig", "rudder", "sail", "scow", "shuttle", "skiff",
    "sled", "sloop", "tiller", "tram", "tug", "valve", "wagon", "wharf", "wheel", "winch", "yawl", "yoke",
];

/// Names for containers without one, in random order; after a while they get a number, and they never end.
pub(crate) fn generated_names() -> impl Iterator<Item = String> {
    (0_u32..).map(|attempt| {
        let mood = MOODS[rand::random_range(0..MOODS.len())];
        let cart = CARTS[rand::random_range(0..CARTS.len())];
        if attempt < 8 {
            format!("{mood}_{cart}")
        } else {
            format!("{mood}_{cart}{}", rand::random_range(0..1_000_000))
        }
    })
}
