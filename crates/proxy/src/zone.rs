//! The cluster's names, as the Kubernetes DNS specification has them (schema version 1.1.0).
//! It must not know how questions arrive.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dray_network::Ipv4Net;
use dray_network::names::{Answer, Question, Record, RecordData, RecordKind, Zone};
use parking_lot::RwLock;

use crate::cluster::{Cluster, NamedEndpoint, PortEntry, ServiceName};

/// As CoreDNS gives them.
const TIME_TO_LIVE: Duration = Duration::from_secs(5);
const SCHEMA_VERSION: &str = "1.1.0";
const PRIORITY: u16 = 0;
const FULL_WEIGHT: u16 = 100;

/// Names of Services, their endpoints and pods.
pub struct ClusterZone {
    cluster: Arc<RwLock<Cluster>>,
    /// In lower case, as `cluster.local`.
    domain: String,
    networks: Vec<Ipv4Net>,
    /// Asked for what is not of the cluster.
    fallback: Option<Arc<dyn Zone>>,
    turn: AtomicUsize,
}

/// What a name's answer is made of.
enum Found {
    /// The name exists and has no records of its own, as a namespace.
    Empty,
    Addresses(Vec<Ipv4Addr>),
    Services(Vec<Target>),
    Alias(String),
    Text(String),
    Nothing,
}

struct Target {
    name: String,
    port: u16,
    addresses: Vec<Ipv4Addr>,
}

impl ClusterZone {
    /// The zone of a cluster; `networks` are those whose addresses it names.
    pub fn new(
        cluster: Arc<RwLock<Cluster>>,
        domain: &str,
        networks: Vec<Ipv4Net>,
        fallback: Option<Arc<dyn Zone>>,
    ) -> Self {
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        Self { cluster, domain, networks, fallback, turn: AtomicUsize::new(0) }
    }

    fn elsewhere(&self, question: &Question) -> Answer {
        self.fallback.as_ref().map_or(Answer::Forward, |zone| zone.answer(question))
    }

    /// The labels before the domain; none if the name is not of the cluster.
    fn labels<'a>(&self, name: &'a str) -> Option<Vec<&'a str>> {
        let rest = name.strip_suffix(self.domain.as_str())?;
        if rest.is_empty() {
            return Some(Vec::new());
        }
        Some(rest.strip_suffix('.')?.split('.').collect())
    }

    fn find(&self, name: &str, labels: &[&str]) -> Found {
        let cluster = self.cluster.read();
        match labels {
            [] | ["svc" | "pod"] => Found::Empty,
            ["dns-version"] => Found::Text(SCHEMA_VERSION.to_owned()),
            [namespace, "svc" | "pod"] if cluster.has_namespace(namespace) => Found::Empty,
            // The pods are not looked up: the name says the address.
            [address, _, "pod"] => match address.replace('-', ".").parse() {
                Ok(address) => Found::Addresses(vec![address]),
                Err(_) => Found::Nothing,
            },
            [rest @ .., service, namespace, "svc"] => {
                let service = ServiceName { namespace: (*namespace).to_owned(), name: (*service).to_owned() };
                self.find_in_service(&cluster, &service, name, rest)
            }
            _ => Found::Nothing,
        }
    }

    fn find_in_service(&self, cluster: &Cluster, service: &ServiceName, name: &str, rest: &[&str]) -> Found {
        let Some(entry) = cluster.service(service) else { return Found::Nothing };
        if let Some(alias) = &entry.external_name {
            return if rest.is_empty() { Found::Alias(alias.clone()) } else { Found::Nothing };
        }
        let endpoints = || cluster.named_endpoints(service);
        match rest {
            [] if entry.headless => {
                let endpoints = endpoints();
                if endpoints.is_empty() {
                    return Found::Empty;
                }
                Found::Addresses(endpoints.into_iter().map(|endpoint| endpoint.address).collect())
            }
            [] => entry.cluster_address.map_or(Found::Empty, |address| Found::Addresses(vec![address])),
            [port, protocol] => {
                let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_'))
                else {
                    return Found::Nothing;
                };
                let service_name = name.splitn(3, '.').nth(2).unwrap_or_default();
                let targets = if entry.headless {
                    headless_targets(endpoints(), service_name, port, protocol)
                } else {
                    entry.cluster_address.map_or_else(Vec::new, |address| {
                        let wanted =
                            |entry: &&PortEntry| entry.name == port && entry.protocol.name() == protocol;
                        let target = |entry: &PortEntry| Target {
                            name: service_name.to_owned(),
                            port: entry.port,
                            addresses: vec![address],
                        };
                        entry.ports.iter().filter(wanted).map(target).collect()
                    })
                };
                let known =
                    entry.ports.iter().any(|entry| entry.name == port && entry.protocol.name() == protocol);
                match (targets.is_empty(), known) {
                    (false, _) => Found::Services(targets),
                    (true, true) => Found::Empty,
                    (true, false) => Found::Nothing,
                }
            }
            [label] => {
                let endpoints = endpoints().into_iter().filter(|endpoint| endpoint.label == *label);
                let addresses: Vec<_> = endpoints.map(|endpoint| endpoint.address).collect();
                if addresses.is_empty() { Found::Nothing } else { Found::Addresses(addresses) }
            }
            _ => Found::Nothing,
        }
    }

    fn reverse(&self, question: &Question, address: IpAddr) -> Answer {
        let IpAddr::V4(address) = address else { return self.elsewhere(question) };
        let cluster = self.cluster.read();
        let name = match cluster.service_at(address) {
            Some(service) => Some(format!("{}.{}.svc.{}", service.name, service.namespace, self.domain)),
            None => cluster.headless_at(address).map(|(service, label)| {
                format!("{label}.{}.{}.svc.{}", service.name, service.namespace, self.domain)
            }),
        };
        match name {
            Some(name) if matches!(question.kind, RecordKind::Ptr | RecordKind::Any) => {
                Answer::records(vec![record(&question.name, RecordData::Pointer(name))])
            }
            Some(_) => Answer::records(Vec::new()),
            // Nobody outside knows our addresses.
            None if self.networks.iter().any(|network| network.contains(&address)) => Answer::NoSuchName,
            None => self.elsewhere(question),
        }
    }
}

impl Zone for ClusterZone {
    fn answer(&self, question: &Question) -> Answer {
        if let Some(address) = question.reverse_address() {
            return self.reverse(question, address);
        }
        let Some(labels) = self.labels(&question.name) else { return self.elsewhere(question) };
        let asks = |kinds: &[RecordKind]| question.kind == RecordKind::Any || kinds.contains(&question.kind);
        let name = question.name.as_str();
        let none = || Answer::records(Vec::new());
        match self.find(name, &labels) {
            Found::Nothing => Answer::NoSuchName,
            Found::Empty => none(),
            Found::Addresses(addresses) if asks(&[RecordKind::A]) => {
                let mut answers: Vec<_> =
                    addresses.into_iter().map(|it| record(name, RecordData::Address(it.into()))).collect();
                let turn = self.turn.fetch_add(1, Ordering::Relaxed) % answers.len().max(1);
                answers.rotate_left(turn);
                Answer::records(answers)
            }
            Found::Services(targets) if asks(&[RecordKind::Srv]) => services(name, targets),
            Found::Alias(target) if asks(&[RecordKind::A, RecordKind::Aaaa, RecordKind::Cname]) => {
                Answer::records(vec![record(name, RecordData::Alias(target))])
            }
            Found::Text(text) if asks(&[RecordKind::Txt]) => {
                Answer::records(vec![record(name, RecordData::Text(text))])
            }
            _ => none(),
        }
    }

    fn apex(&self, name: &str) -> Option<String> {
        self.labels(name).map(|_| self.domain.clone())
    }
}

fn headless_targets(
    endpoints: impl IntoIterator<Item = NamedEndpoint>,
    service: &str,
    port: &str,
    protocol: &str,
) -> Vec<Target> {
    let targets = endpoints.into_iter().flat_map(|endpoint| {
        let NamedEndpoint { label, address, ports } = endpoint;
        let ports = ports.into_iter().filter(|(name, kind, _)| name == port && kind.name() == protocol);
        let targets: Vec<_> = ports
            .map(|(_, _, number)| Target {
                name: format!("{label}.{service}"),
                port: number,
                addresses: vec![address],
            })
            .collect();
        targets
    });
    targets.collect()
}

/// Weights share a hundred, as CoreDNS has it.
fn services(name: &str, targets: Vec<Target>) -> Answer {
    let weight = u16::try_from(targets.len()).map_or(1, |count| (FULL_WEIGHT / count.max(1)).max(1));
    let mut answers = Vec::new();
    let mut additional = Vec::new();
    for target in targets {
        additional.extend(
            target.addresses.iter().map(|&address| record(&target.name, RecordData::Address(address.into()))),
        );
        let data = RecordData::Service { priority: PRIORITY, weight, port: target.port, target: target.name };
        answers.push(record(name, data));
    }
    additional.sort();
    additional.dedup();
    Answer::Records { answers, additional }
}

fn record(name: &str, data: RecordData) -> Record {
    Record { name: name.to_owned(), time_to_live: TIME_TO_LIVE, data }
}
