//! The cells of the kinds of `networking.k8s.io`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE_COLUMN, Column, age, items, selector_text, shown, text};
use crate::object;

pub(in crate::kinds) const INGRESS: &[Column] = &[
    text("Class", "The name of the IngressClass resource that should be used for additional configuration"),
    text("Hosts", "Hosts that incoming requests are matched against before the ingress rule"),
    text("Address", "Address is a list containing ingress points for the load-balancer"),
    text("Ports", "Ports of TLS configurations that open"),
    AGE_COLUMN,
];

pub(in crate::kinds) const INGRESS_CLASS: &[Column] = &[
    text("Controller", "Controller that is responsible for handling this class"),
    text("Parameters", "A reference to a resource with additional parameters"),
    AGE_COLUMN,
];

pub(in crate::kinds) const NETWORK_POLICY: &[Column] =
    &[text("Pod-Selector", "The pods to which this NetworkPolicy applies."), AGE_COLUMN];

pub(in crate::kinds) const SERVICE_CIDR: &[Column] =
    &[text("CIDRs", "The IP blocks in CIDR notation from which to assign service cluster IPs."), AGE_COLUMN];

pub(in crate::kinds) const IP_ADDRESS: &[Column] =
    &[text("ParentRef", "The resource that an IPAddress is attached to."), AGE_COLUMN];

/// The hosts of at most three rules; rules without one do not count among them.
fn hosts(rules: &[Value]) -> String {
    let mut hosts = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= hosts.len() == 3;
        let host = object::text(rule, &["host"]);
        if !more && !host.is_empty() {
            hosts.push(host);
        }
    }
    match (hosts.is_empty(), more) {
        (true, _) => "*".into(),
        (false, false) => hosts.join(","),
        (false, true) => format!("{} + {} more...", hosts.join(","), rules.len() - 3),
    }
}

pub(in crate::kinds) fn ingress(ingress: &Value, now: Timestamp) -> Vec<Value> {
    let addresses: BTreeSet<&str> = items(ingress, &["status", "loadBalancer", "ingress"])
        .iter()
        .filter_map(|point| point["ip"].as_str().or(point["hostname"].as_str()))
        .collect();
    let addresses: Vec<&str> = addresses.into_iter().collect();
    let ports = if items(ingress, &["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
    vec![
        json!(object::name(ingress)),
        json!(shown(&ingress["spec"]["ingressClassName"], "<none>")),
        json!(hosts(items(ingress, &["spec", "rules"]))),
        json!(addresses.join(",")),
        json!(ports),
        age(ingress, now),
    ]
}

pub(in crate::kinds) fn ingress_class(class: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = &class["spec"]["parameters"];
    let text = if parameters.is_object() {
        let group = parameters["apiGroup"].as_str().map_or_else(String::new, |group| format!(".{group}"));
        format!("{}{group}/{}", object::text(parameters, &["kind"]), object::text(parameters, &["name"]))
    } else {
        "<none>".into()
    };
    vec![
        json!(object::name(class)),
        json!(object::text(class, &["spec", "controller"])),
        json!(text),
        age(class, now),
    ]
}

pub(in crate::kinds) fn network_policy(policy: &Value, now: Timestamp) -> Vec<Value> {
    let selector = selector_text(object::at(policy, &["spec", "podSelector"]));
    vec![json!(object::name(policy)), selector, age(policy, now)]
}

pub(in crate::kinds) fn service_cidr(range: &Value, now: Timestamp) -> Vec<Value> {
    let ranges: Vec<&str> = items(range, &["spec", "cidrs"]).iter().filter_map(Value::as_str).collect();
    vec![json!(object::name(range)), json!(ranges.join(",")), age(range, now)]
}

pub(in crate::kinds) fn ip_address(address: &Value, now: Timestamp) -> Vec<Value> {
    let parent = &address["spec"]["parentRef"];
    let mut text = "<none>".to_owned();
    if parent.is_object() {
        let group = object::text(parent, &["group"]);
        text = crate::status::qualified(group, object::text(parent, &["resource"])).to_lowercase();
        for field in ["namespace", "name"] {
            let part = object::text(parent, &[field]);
            if !part.is_empty() {
                text.push('/');
                text.push_str(part);
            }
        }
    }
    vec![json!(object::name(address)), json!(text), age(address, now)]
}
