//! Where Services and pods are: the addresses behind a name, and which of them may be reached for users.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use dray_machinery::object;
use dray_store::Key;
use serde_json::Value;

use super::dial::Address;
use crate::{respond, server::Inner};

/// One place where a port of a Service is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: String,
    pub(crate) port: u16,
    /// Namespace and name of the pod that it is said to be.
    pod: Option<(String, String)>,
}

/// Whether users may be led to an address: those of the host itself, and of its links, are none of theirs.
pub(crate) fn is_proxyable(address: &str) -> bool {
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let address = address.to_canonical();
    let on_link = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(on_link || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// The addresses of a pod.
pub(crate) fn pod_addresses(pod: &Value) -> Vec<&str> {
    let all = pod["status"]["podIPs"].as_array().into_iter().flatten();
    let mut all: Vec<&str> = all.filter_map(|one| one["ip"].as_str()).collect();
    if all.is_empty() {
        all.extend(pod["status"]["podIP"].as_str().filter(|address| !address.is_empty()));
    }
    all
}

/// Begins with another of some places from time to time.
fn in_turn<T>(places: &mut [T]) {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    if !places.is_empty() {
        let turn = TURN.fetch_add(1, Ordering::Relaxed) % places.len();
        places.rotate_left(turn);
    }
}

impl Inner {
    /// A stored object, as "core/pods" and "NAMESPACE/NAME" name it.
    pub(crate) fn object(&self, resource: &str, name: String) -> Option<Value> {
        self.store.get(&Key::new(resource, name)).and_then(|entry| respond::parse(entry.json()).ok())
    }

    /// Where a port of a Service is served: at its endpoints, or behind its address where no slice tells of any.
    pub(crate) fn addresses(&self, namespace: &str, name: &str, port: u16) -> Result<Vec<Address>, String> {
        let service = self.object("core/services", format!("{namespace}/{name}"));
        let service = service.ok_or_else(|| format!("service {name:?} not found"))?;
        let spec = &service["spec"];
        if spec["type"] == "ExternalName" {
            return Ok(vec![(object::text(spec, &["externalName"]).to_owned(), port)]);
        }
        let mut ports = spec["ports"].as_array().into_iter().flatten();
        let found = ports
            .find(|one| one["port"] == port)
            .ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
        let endpoints = self.endpoints(namespace, name, object::text(found, &["name"]));
        let mut addresses: Vec<Address> =
            endpoints.into_iter().map(|endpoint| (endpoint.address, endpoint.port)).collect();
        if addresses.is_empty() {
            let address = object::text(spec, &["clusterIP"]);
            if matches!(address, "" | "None") {
                return Err(format!("no endpoints available for service {name:?}"));
            }
            addresses.push((address.to_owned(), port));
        }
        Ok(addresses)
    }

    /// Where a port of a Service, by its name, is served by pods of its own namespace, to whom users may be led.
    pub(crate) fn pods_of(&self, namespace: &str, name: &str, port: &str) -> Vec<Address> {
        let endpoints = self.endpoints(namespace, name, port);
        let is_pod = |endpoint: &Endpoint| {
            let Some((of, pod)) = endpoint.pod.as_ref().filter(|(of, _)| of == namespace) else {
                return false;
            };
            let pod = self.object("core/pods", format!("{of}/{pod}"));
            pod.is_some_and(|pod| pod_addresses(&pod).contains(&endpoint.address.as_str()))
        };
        let mut led = endpoints.into_iter().filter(|endpoint| is_proxyable(&endpoint.address));
        // Pods are looked up until one is right: there may be many.
        led.find(is_pod).map(|endpoint| (endpoint.address, endpoint.port)).into_iter().collect()
    }

    /// Where a port of a Service, by its name, is ready; who comes first changes from request to request.
    pub(crate) fn endpoints(&self, namespace: &str, service: &str, port: &str) -> Vec<Endpoint> {
        let snapshot = self.store.snapshot();
        let prefix = format!("{namespace}/");
        let slices = snapshot.range("discovery.k8s.io/endpointslices", &prefix, None);
        let slices = slices.filter_map(|(_, entry)| respond::parse(entry.json()).ok());
        let mut found = ready(slices, service, port);
        in_turn(&mut found);
        found
    }
}

/// Where a port of a Service is ready, by the slices of its namespace.
fn ready(slices: impl Iterator<Item = Value>, service: &str, port: &str) -> Vec<Endpoint> {
    let mut found = Vec::new();
    for slice in slices {
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] != service {
            continue;
        }
        let ports = slice["ports"].as_array().into_iter().flatten();
        let mut named = ports.filter(|one| object::text(one, &["name"]) == port);
        let number = named.find_map(|one| one["port"].as_u64());
        let Some(number) = number.and_then(|port| u16::try_from(port).ok()) else { continue };
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        for endpoint in endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false) {
            let Some(address) = endpoint["addresses"][0].as_str() else { continue };
            let target = &endpoint["targetRef"];
            let pod = (target["kind"] == "Pod").then(|| {
                let text = |field: &str| object::text(target, &[field]).to_owned();
                (text("namespace"), text("name"))
            });
            found.push(Endpoint { address: address.to_owned(), port: number, pod });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn services_are_where_they_are_ready() {
        let slice = |service: &str, port: &str, endpoints: Value| {
            json!({
                "metadata": { "labels": { "kubernetes.io/service-name": service } },
                "ports": [{ "name": "other", "port": 1 }, { "name": port, "port": 8443 }], "endpoints": endpoints,
            })
        };
        let slices = [
            slice(
                "hook",
                "https",
                json!([
                    { "addresses": ["10.0.0.1"], "conditions": { "ready": false } },
                    { "addresses": ["10.0.0.2"], "conditions": { "ready": true },
                        "targetRef": { "kind": "Pod", "namespace": "n", "name": "p" } },
                    { "addresses": ["10.0.0.3"], "targetRef": { "kind": "Node", "name": "n" } },
                ]),
            ),
            slice("hook", "http", json!([{ "addresses": ["10.0.0.4"] }])),
            slice("another", "https", json!([{ "addresses": ["10.0.0.5"] }])),
        ];
        let pod = Some(("n".to_owned(), "p".to_owned()));
        let expected = [("10.0.0.2", pod), ("10.0.0.3", None)].map(|(address, pod)| Endpoint {
            address: address.to_owned(),
            port: 8443,
            pod,
        });
        assert_eq!(ready(slices.into_iter(), "hook", "https"), expected);
    }

    #[test]
    fn users_are_led_to_nobody_on_the_host_or_its_links() {
        for (address, expected) in [
            ("10.0.0.1", true),
            ("fd00::1", true),
            ("203.0.113.9", true),
            ("127.0.0.1", false),
            ("127.8.9.1", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("169.254.169.254", false),
            ("fe80::1", false),
            ("0.0.0.0", false),
            ("::", false),
            ("224.0.0.1", false),
            ("ff02::1", false),
            ("255.255.255.255", false),
            ("localhost", false),
            ("", false),
        ] {
            assert_eq!(is_proxyable(address), expected, "{address}");
        }
    }
}
