//! The cells of Services and of where their packets go.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE_COLUMN, Column, age, column, items, labels, number, or, shortened, wide};
use crate::object;

pub(in crate::kinds) const SERVICE: &[Column] = &[
    column("Type", "string", "type determines how the Service is exposed."),
    column("Cluster-IP", "string", "clusterIP is the IP address of the service."),
    column(
        "External-IP",
        "string",
        "externalIPs is a list of IP addresses for which nodes in the cluster will also accept traffic for this service.",
    ),
    column("Port(s)", "string", "The list of ports that are exposed by this service."),
    AGE_COLUMN,
    wide("Selector", "Route service traffic to pods with label keys and values matching this selector."),
];

pub(in crate::kinds) const ENDPOINTS: &[Column] =
    &[column("Endpoints", "string", "The set of all endpoints is the union of all subsets."), AGE_COLUMN];

pub(in crate::kinds) const ENDPOINT_SLICE: &[Column] = &[
    column(
        "AddressType",
        "string",
        "addressType specifies the type of address carried by this EndpointSlice.",
    ),
    column(
        "Ports",
        "string",
        "ports specifies the list of network ports exposed by each endpoint in this slice.",
    ),
    column("Endpoints", "string", "endpoints is a list of unique endpoints in this slice."),
    AGE_COLUMN,
];

pub(in crate::kinds) fn service(service: &Value, now: Timestamp) -> Vec<Value> {
    let kind = object::text(service, &["spec", "type"]);
    let external: Vec<&str> =
        items(service, &["spec", "externalIPs"]).iter().filter_map(Value::as_str).collect();
    let balanced: Vec<&str> = items(service, &["status", "loadBalancer", "ingress"])
        .iter()
        .filter_map(|ingress| ingress["ip"].as_str().or(ingress["hostname"].as_str()))
        .collect();
    let external = match kind {
        "ExternalName" => object::text(service, &["spec", "externalName"]).to_owned(),
        "LoadBalancer" if balanced.is_empty() && external.is_empty() => "<pending>".into(),
        "LoadBalancer" => [balanced, external].concat().join(","),
        _ if external.is_empty() => "<none>".into(),
        _ => external.join(","),
    };
    let ports: Vec<String> = items(service, &["spec", "ports"])
        .iter()
        .map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            match number(port, &["nodePort"]) {
                0 => format!("{}/{protocol}", port["port"]),
                node => format!("{}:{node}/{protocol}", port["port"]),
            }
        })
        .collect();
    vec![
        json!(object::name(service)),
        json!(kind),
        or(object::text(service, &["spec", "clusterIP"]), "<none>"),
        json!(external),
        or(&ports.join(","), "<none>"),
        age(service, now),
        labels(object::at(service, &["spec", "selector"])),
    ]
}

pub(in crate::kinds) fn endpoints(endpoints: &Value, now: Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in items(endpoints, &["subsets"]) {
        let ports = items(subset, &["ports"]);
        for address in items(subset, &["addresses"]) {
            let ip = address["ip"].as_str().unwrap_or_default();
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            all.extend(ports.iter().map(|port| format!("{ip}:{}", port["port"])));
        }
    }
    vec![json!(object::name(endpoints)), or(&shortened(&all, 3), "<none>"), age(endpoints, now)]
}

pub(in crate::kinds) fn endpoint_slice(slice: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = items(slice, &["ports"])
        .iter()
        .map(|port| match (port["port"].as_i64(), port["name"].as_str()) {
            (Some(number), _) => number.to_string(),
            (None, name) => name.unwrap_or("*").to_owned(),
        })
        .collect();
    let addresses: Vec<String> = items(slice, &["endpoints"])
        .iter()
        .flat_map(|endpoint| items(endpoint, &["addresses"]))
        .filter_map(|address| address.as_str().map(ToOwned::to_owned))
        .collect();
    vec![
        json!(object::name(slice)),
        json!(object::text(slice, &["addressType"])),
        or(&shortened(&ports, 3), "<unset>"),
        or(&shortened(&addresses, 3), "<unset>"),
        age(slice, now),
    ]
}
