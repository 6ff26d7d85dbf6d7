//! The small files that every container gets from the engine, and the names it gives.

use std::net::IpAddr;
use std::path::Path;

use crate::error::IoContext;
use crate::record::ContainerRecord;
use crate::spec::DnsOptions;
use crate::{Error, Result};

/// Where the engine's name server listens inside every container that has an interface.
pub(crate) const NAME_SERVER: &str = "127.0.0.11";

/// Writes `hostname`, `hosts` and `resolv.conf` into a container's directory.
pub(crate) fn write_all(
    directory: &Path,
    record: &ContainerRecord,
    hostname: &str,
    addresses: &[IpAddr],
    host_network: bool,
) -> Result<()> {
    write(&directory.join("hostname"), &format!("{hostname}\n"))?;
    write(&directory.join("hosts"), &hosts(record, hostname, addresses, host_network)?)?;
    let has_interface = !addresses.is_empty();
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
    let full = match record.spec.domain_name.as_deref().filter(|domain| !domain.is_empty()) {
        Some(domain) => format!("{hostname}.{domain} {hostname}"),
        None => hostname.to_owned(),
    };
    for address in addresses {
        text.push_str(&format!("{address}\t{full}\n"));
    }
    Ok(text)
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
    let servers = match (dns.servers.is_empty(), own_server) {
        (false, _) => dns.servers.clone(),
        (true, true) => vec![NAME_SERVER.to_owned()],
        (true, false) => of_host("nameserver "),
    };
    let mut text = String::new();
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let search = or_host(&dns.search, "search ");
    if !search.is_empty() && search != ["."] {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    let options = if dns.options.is_empty() && own_server {
        vec!["ndots:0".to_owned()]
    } else {
        or_host(&dns.options, "options ")
    };
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
