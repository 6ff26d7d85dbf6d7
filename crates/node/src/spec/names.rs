//! How a pod resolves names: its hosts file, its name servers, its own name.

use std::path::Path;

use dray_engine::DnsOptions;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::NodeConfig;
use crate::error::IoContext;
use crate::{Result, machine};

/// The longest name a host may have.
const LONGEST_HOST_NAME: usize = 63;

/// The name that the pod's programs see as the host's.
pub(crate) fn host_name(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    if spec.is_some_and(is_host_network) {
        return machine::host_name();
    }
    let own = spec.and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    let mut name = own.unwrap_or_else(|| pod.metadata.name.clone().unwrap_or_default());
    if name.len() > LONGEST_HOST_NAME {
        name.truncate(LONGEST_HOST_NAME);
        name.truncate(name.trim_end_matches(['-', '.']).len());
    }
    name
}

pub(crate) fn is_host_network(spec: &PodSpec) -> bool {
    spec.host_network == Some(true)
}

/// Name servers and search domains by the pod's policy.
pub(crate) fn dns(pod: &Pod, config: &NodeConfig) -> DnsOptions {
    let Some(spec) = &pod.spec else { return DnsOptions::default() };
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let of_host = |keyword: &str| -> Vec<String> {
        host.lines()
            .filter_map(|line| line.trim().strip_prefix(keyword))
            .filter(|rest| rest.starts_with([' ', '\t']))
            .flat_map(str::split_whitespace)
            .map(str::to_owned)
            .collect()
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = config.cluster_domain.as_str();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => !is_host_network(spec),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut dns = match policy {
        "None" => DnsOptions::default(),
        _ if cluster => {
            let mut search =
                vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
            search.extend(of_host("search"));
            DnsOptions {
                servers: vec![config.cluster_dns.to_string()],
                search,
                options: vec!["ndots:5".to_owned()],
            }
        }
        _ => DnsOptions {
            servers: of_host("nameserver"),
            search: of_host("search"),
            options: of_host("options"),
        },
    };
    if let Some(more) = &spec.dns_config {
        dns.servers.extend(more.nameservers.iter().flatten().cloned());
        dns.search.extend(more.searches.iter().flatten().cloned());
        for option in more.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            dns.options.retain(|present| present.split(':').next() != Some(name));
            dns.options.push(match option.value.as_deref().filter(|value| !value.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    let mut seen = std::collections::HashSet::new();
    dns.search.retain(|domain| seen.insert(domain.clone()));
    // The engine would fill empty lists with its own server's.
    if dns.search.is_empty() {
        dns.search.push(".".to_owned());
    }
    dns
}

/// Writes the hosts file that all containers of the pod share.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write_hosts(path: &Path, pod: &Pod, address: Option<&str>, config: &NodeConfig) -> Result<()> {
    let spec = pod.spec.clone().unwrap_or_default();
    let mut text = if is_host_network(&spec) {
        let mut text = "# Kubernetes-managed hosts file (host network).\n".to_owned();
        text.push_str(&std::fs::read_to_string("/etc/hosts").unwrap_or_default());
        text
    } else {
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
            .to_owned()
    };
    if let Some(address) = address.filter(|_| !is_host_network(&spec)) {
        let name = host_name(pod);
        match spec.subdomain.as_deref().filter(|domain| !domain.is_empty()) {
            Some(subdomain) => {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                let domain = &config.cluster_domain;
                text.push_str(&format!("{address}\t{name}.{subdomain}.{namespace}.svc.{domain}\t{name}\n"));
            }
            None => text.push_str(&format!("{address}\t{name}\n")),
        }
    }
    if let Some(aliases) = spec.host_aliases.filter(|aliases| !aliases.is_empty()) {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.unwrap_or_default().join("\t")));
        }
    }
    std::fs::write(path, text).io("write", path)
}
