//! The cells of nodes, namespaces and of what lies in them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE_COLUMN, Column, age, column, items, or, wide};
use crate::object;

pub(in crate::kinds) const NODE: &[Column] = &[
    column("Status", "string", "The status of the node"),
    column("Roles", "string", "The roles of the node"),
    AGE_COLUMN,
    column("Version", "string", "Kubelet Version reported by the node."),
    wide("Internal-IP", "List of addresses reachable to the node."),
    wide("External-IP", "List of addresses reachable to the node."),
    wide("OS-Image", "OS Image reported by the node from /etc/os-release."),
    wide("Kernel-Version", "Kernel Version reported by the node from 'uname -r'."),
    wide("Container-Runtime", "ContainerRuntime Version reported by the node through runtime remote API."),
];

pub(in crate::kinds) const NAMESPACE: &[Column] =
    &[column("Status", "string", "The status of the namespace"), AGE_COLUMN];

pub(in crate::kinds) const CONFIG_MAP: &[Column] =
    &[column("Data", "string", "Data contains the configuration data."), AGE_COLUMN];

pub(in crate::kinds) const SECRET: &[Column] = &[
    column("Type", "string", "Used to facilitate programmatic handling of secret data."),
    column("Data", "string", "Data contains the secret data."),
    AGE_COLUMN,
];

pub(in crate::kinds) const SERVICE_ACCOUNT: &[Column] = &[
    column(
        "Secrets",
        "string",
        "Secrets is a list of the secrets in the same namespace that pods running using this ServiceAccount are allowed to use.",
    ),
    AGE_COLUMN,
];

pub(in crate::kinds) const LEASE: &[Column] = &[
    column("Holder", "string", "holderIdentity contains the identity of the holder of a current lease."),
    AGE_COLUMN,
];

pub(in crate::kinds) const RUNTIME_CLASS: &[Column] =
    &[column("Handler", "string", "The runtime and configuration that runs pods of this class."), AGE_COLUMN];

pub(in crate::kinds) fn runtime_class(class: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(class)), json!(object::text(class, &["handler"])), age(class, now)]
}

pub(in crate::kinds) fn node(node: &Value, now: Timestamp) -> Vec<Value> {
    let mut status: Vec<&str> = items(node, &["status", "conditions"])
        .iter()
        .filter(|condition| condition["type"] == "Ready")
        .map(|condition| if condition["status"] == "True" { "Ready" } else { "NotReady" })
        .collect();
    if status.is_empty() {
        status.push("Unknown");
    }
    if object::at(node, &["spec", "unschedulable"]) == true {
        status.push("SchedulingDisabled");
    }
    let mut roles: Vec<&str> = object::meta_map(node, "labels")
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| {
            key.strip_prefix("node-role.kubernetes.io/")
                .or_else(|| (key == "kubernetes.io/role").then(|| value.as_str()).flatten())
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    let address = |kind: &str| {
        let found = items(node, &["status", "addresses"]).iter().find(|address| address["type"] == kind);
        or(found.and_then(|address| address["address"].as_str()).unwrap_or_default(), "<none>")
    };
    let info = |field: &str| or(object::text(node, &["status", "nodeInfo", field]), "<unknown>");
    vec![
        json!(object::name(node)),
        json!(status.join(",")),
        or(&roles.join(","), "<none>"),
        age(node, now),
        json!(object::text(node, &["status", "nodeInfo", "kubeletVersion"])),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

pub(in crate::kinds) fn namespace(namespace: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        json!(object::name(namespace)),
        json!(object::text(namespace, &["status", "phase"])),
        age(namespace, now),
    ]
}

fn size(object: &Value, field: &str) -> usize {
    object[field].as_object().map_or(0, serde_json::Map::len)
}

pub(in crate::kinds) fn config_map(map: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(map)), json!(size(map, "data") + size(map, "binaryData")), age(map, now)]
}

pub(in crate::kinds) fn secret(secret: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        json!(object::name(secret)),
        json!(object::text(secret, &["type"])),
        json!(size(secret, "data")),
        age(secret, now),
    ]
}

pub(in crate::kinds) fn service_account(account: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(account)), json!(items(account, &["secrets"]).len()), age(account, now)]
}

pub(in crate::kinds) fn lease(lease: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(lease)), json!(object::text(lease, &["spec", "holderIdentity"])), age(lease, now)]
}
