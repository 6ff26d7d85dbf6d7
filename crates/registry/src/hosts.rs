//! Where a registry is: its address, its mirrors, and whom it is trusted by.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::{Error, Result};

const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
/// Where Docker and podman look for certificates of registries: `HOST/ca.crt`, `HOST/*.cert` with `*.key`.
const CERTIFICATES: &[&str] = &["/etc/docker/certs.d", "/etc/containers/certs.d"];

/// What is configured about registries.
#[derive(Clone, Debug)]
pub struct Hosts {
    mirrors: Vec<Endpoint>,
    insecure: Vec<Insecure>,
    pub(crate) certificates: Vec<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Insecure {
    Host(String),
    Network(IpNet),
}

/// How much a server has to prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Trust {
    /// TLS, with a certificate that an authority vouches for.
    Verified,
    /// TLS with any certificate.
    Unverified,
    /// No TLS.
    Plain,
}

/// One place to ask.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    /// Host and port as in a URL.
    pub(crate) authority: String,
    /// What stands before `/v2/`, without a slash at its end.
    pub(crate) prefix: String,
    pub(crate) trust: Trust,
    /// Only asked for what the registry itself would give.
    pub(crate) is_mirror: bool,
}

impl Endpoint {
    pub(crate) fn scheme(&self) -> &'static str {
        if self.trust == Trust::Plain { "http" } else { "https" }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{}{path}", self.scheme(), self.authority, self.prefix)
    }
}

/// The host without its port.
pub(crate) fn host_name(authority: &str) -> &str {
    if let Some(inner) = authority.strip_prefix('[') {
        return inner.split(']').next().unwrap_or_default();
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

impl Default for Hosts {
    fn default() -> Self {
        let certificates = CERTIFICATES.iter().map(PathBuf::from).collect();
        Self { mirrors: Vec::new(), insecure: Vec::new(), certificates }
    }
}

impl Hosts {
    /// What a daemon is configured with: mirrors of Docker Hub as URLs, and registries (`HOST[:PORT]` or a network) whose
    /// certificates are not checked and which may do without TLS. Those on this machine's loopback addresses always may.
    ///
    /// # Errors
    /// [`Error::Setting`] when one is nothing of the kind.
    pub fn new(mirrors: &[String], insecure: &[String]) -> Result<Self> {
        let mut hosts = Self::default();
        for text in insecure {
            hosts.insecure.push(match text.parse::<IpNet>() {
                Ok(network) => Insecure::Network(network),
                Err(_) if is_authority(text) => Insecure::Host(text.to_ascii_lowercase()),
                Err(_) => {
                    return Err(setting(
                        "insecure registry",
                        format!("{text:?} is no HOST[:PORT] and no network"),
                    ));
                }
            });
        }
        for text in mirrors {
            let mirror = hosts.mirror(text)?;
            hosts.mirrors.push(mirror);
        }
        Ok(hosts)
    }

    /// The URLs of the mirrors.
    #[must_use]
    pub fn mirrors(&self) -> Vec<String> {
        self.mirrors.iter().map(|mirror| mirror.url("/")).collect()
    }

    /// The registries and the networks that need not prove who they are, loopback's among them.
    #[must_use]
    pub fn insecure(&self) -> (Vec<String>, Vec<String>) {
        let hosts = self.insecure.iter().filter_map(|known| match known {
            Insecure::Host(host) => Some(host.clone()),
            Insecure::Network(_) => None,
        });
        let networks = self.insecure.iter().filter_map(|known| match known {
            Insecure::Network(network) => Some(network.to_string()),
            Insecure::Host(_) => None,
        });
        (hosts.collect(), ["::1/128", "127.0.0.0/8"].map(str::to_owned).into_iter().chain(networks).collect())
    }

    /// Looks for certificates of registries in these directories, and nowhere else.
    #[must_use]
    pub fn with_certificates(mut self, directories: Vec<PathBuf>) -> Self {
        self.certificates = directories;
        self
    }

    /// A registry by its URL.
    pub(crate) fn mirror(&self, text: &str) -> Result<Endpoint> {
        let wrong = || setting("registry mirror", format!("{text:?} is no http or https URL of a registry"));
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !is_authority(authority) || path.contains(['?', '#']) {
            return Err(wrong());
        }
        let trust = match scheme {
            "http" => Trust::Plain,
            "https" if self.is_insecure(authority) => Trust::Unverified,
            "https" => Trust::Verified,
            _ => return Err(wrong()),
        };
        let path = path.trim_end_matches('/');
        let prefix = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Endpoint { authority: authority.to_ascii_lowercase(), prefix, trust, is_mirror: true })
    }

    /// Where to ask a registry, in order.
    pub(crate) fn endpoints(&self, registry: &str, mirrors: bool) -> Vec<Endpoint> {
        let mut found = Vec::new();
        if registry == DOCKER_HUB && mirrors {
            found.extend(self.mirrors.iter().cloned());
        }
        let authority = if registry == DOCKER_HUB { DOCKER_HUB_HOST } else { registry };
        let endpoint = |trust| Endpoint {
            authority: authority.to_owned(),
            prefix: String::new(),
            trust,
            is_mirror: false,
        };
        // Who chose a directory of certificates wants them checked.
        let own_certificates = self.certificate_directory(authority).is_some();
        match (self.is_insecure(registry), own_certificates) {
            (false, _) => found.push(endpoint(Trust::Verified)),
            (true, true) => found.extend([endpoint(Trust::Verified), endpoint(Trust::Plain)]),
            (true, false) => found.extend([endpoint(Trust::Unverified), endpoint(Trust::Plain)]),
        }
        found
    }

    /// The directory with the certificates of a registry.
    pub(crate) fn certificate_directory(&self, authority: &str) -> Option<PathBuf> {
        let named = |directory: &PathBuf| Some(directory.join(authority)).filter(|path| Path::is_dir(path));
        if !is_authority(authority) {
            return None;
        }
        self.certificates.iter().find_map(named)
    }

    pub(crate) fn is_insecure(&self, authority: &str) -> bool {
        let host = host_name(authority);
        let address = host.parse::<IpAddr>().ok();
        host == "localhost"
            || address.is_some_and(|address| address.is_loopback())
            || self.insecure.iter().any(|known| match known {
                Insecure::Host(known) => *known == authority.to_ascii_lowercase(),
                Insecure::Network(network) => address.is_some_and(|address| network.contains(&address)),
            })
    }
}

fn is_authority(text: &str) -> bool {
    let host = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
    !text.is_empty() && host && !text.starts_with(['.', '-'])
}

fn setting(setting: &str, why: String) -> Error {
    Error::Setting { setting: setting.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(hosts: &Hosts, registry: &str) -> Vec<String> {
        hosts.endpoints(registry, true).iter().map(|endpoint| endpoint.url("/v2/")).collect()
    }

    #[test]
    fn finds_registries_as_docker_does() {
        let mirrors = ["http://m.example:5000/hub/".to_owned()];
        let insecure = ["old.example:80".to_owned(), "10.0.0.0/8".to_owned()];
        let hosts = Hosts::new(&mirrors, &insecure).unwrap().with_certificates(Vec::new());
        assert_eq!(
            asked(&hosts, "docker.io"),
            ["http://m.example:5000/hub/v2/", "https://registry-1.docker.io/v2/"]
        );
        assert_eq!(asked(&hosts, "quay.example"), ["https://quay.example/v2/"]);
        for registry in ["localhost:5000", "127.0.0.1:1", "[::1]:5", "old.example:80", "10.1.2.3:5000"] {
            let both = [format!("https://{registry}/v2/"), format!("http://{registry}/v2/")];
            assert_eq!(asked(&hosts, registry), both, "{registry}");
        }
        assert_eq!(asked(&hosts, "old.example"), ["https://old.example/v2/"]);
        for text in ["", "x", "ftp://x", "https://", "https://u:p@x/", "https://x/?a"] {
            assert!(Hosts::new(&[text.to_owned()], &[]).is_err(), "{text}");
        }
        assert!(Hosts::new(&[], &["a b".to_owned()]).is_err());
    }
}
