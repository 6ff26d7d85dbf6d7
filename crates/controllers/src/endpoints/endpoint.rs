//! One pod as an endpoint. Pure.

use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::api::core::v1::{ObjectReference, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::model::Pod;

/// Whether nothing has changed that endpoints show.
pub(super) fn is_same(old: &Pod, new: &Pod) -> bool {
    old.metadata.uid == new.metadata.uid
        && old.metadata.labels == new.metadata.labels
        && old.is_ready() == new.is_ready()
        && old.is_terminating() == new.is_terminating()
        && old.is_finished() == new.is_finished()
        && old.addresses() == new.addresses()
        && old.spec.node_name == new.spec.node_name
}

pub(super) fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The name that a pod has in its Service's domain.
pub(super) fn host_name(pod: &Pod, service: &str) -> Option<String> {
    let named = !pod.spec.hostname.is_empty() && pod.spec.subdomain == service;
    named.then(|| pod.spec.hostname.clone())
}

/// A pod as an endpoint, but for its zone.
pub(super) fn endpoint(pod: &Pod, address: &str, service: &str, spec: &ServiceSpec) -> Endpoint {
    let serving = pod.is_ready();
    let terminating = pod.is_terminating();
    let unready_too = spec.publish_not_ready_addresses == Some(true);
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(unready_too || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: host_name(pod, service),
        node_name: (!pod.spec.node_name.is_empty()).then(|| pod.spec.node_name.clone()),
        target_ref: Some(reference(pod)),
        ..Endpoint::default()
    }
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().filter(|protocol| !protocol.is_empty()).unwrap_or("TCP")
}

/// The number of a Service's port at a pod; nothing where the pod has no port of the name.
pub(super) fn target(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let staying = pod.spec.init_containers.iter().filter(|one| one.restart_policy == "Always");
            let ports = pod.spec.containers.iter().chain(staying).flat_map(|container| &container.ports);
            let mut named = ports.filter(|own| {
                own.name == *name && (own.protocol == protocol(port) || own.protocol.is_empty())
            });
            named.next().map(|own| own.container_port)
        }
    }
}

/// The ports of a Service at a pod. A Service without ports has one that says nothing.
pub(super) fn ports(pod: &Pod, spec: &ServiceSpec) -> Vec<EndpointPort> {
    let mut ports: Vec<EndpointPort> = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target(pod, port)?),
                protocol: Some(protocol(port).to_owned()),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort_by(|left, right| (&left.name, left.port).cmp(&(&right.name, right.port)));
    ports
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn named_ports_are_those_of_each_pod() {
        let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": {
            "containers": [{ "ports": [{ "name": "http", "containerPort": 8080, "protocol": "TCP" }] }],
            "initContainers": [
                { "restartPolicy": "Always", "ports": [{ "name": "side", "containerPort": 9000 }] },
                { "ports": [{ "name": "early", "containerPort": 1 }] }],
        } }))
        .unwrap();
        let check = |target_port: serde_json::Value, expected: Option<i32>| {
            let port = json!({ "port": 80, "targetPort": target_port });
            assert_eq!(target(&pod, &serde_json::from_value(port).unwrap()), expected);
        };
        check(json!("http"), Some(8080));
        check(json!("side"), Some(9000));
        check(json!("early"), None);
        check(json!("other"), None);
        check(json!(81), Some(81));
        check(json!(null), Some(80));
    }
}
