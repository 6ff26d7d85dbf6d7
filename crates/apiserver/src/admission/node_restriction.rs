//! NodeRestriction: the agent of a node writes about its own node and its own pods, and gives its node no label that
//! decides over where pods of others go.

use dray_access::node_of;
use dray_machinery::{Status, Subresource, object};
use serde_json::Value;

use super::{Admission, Operation};

const MIRROR: &str = "kubernetes.io/config.mirror";
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Labels below kubernetes.io and k8s.io that an agent may set on its node.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
];
const OWN_SPACES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

pub(super) fn check(admission: &Admission<'_>, new: &Value) -> Result<(), Status> {
    let Some(node) = node_of(admission.user()) else { return Ok(()) };
    let request = admission.request();
    match (request.kind.group, request.kind.plural, request.subresource) {
        ("", "pods", None) => pod(admission, node, new),
        ("", "pods", Some(Subresource::Status)) => pod_status(admission, node, new),
        ("", "pods", Some(Subresource::Eviction)) => Ok(()),
        ("", "pods", Some(_)) => Err(admission.forbidden("unexpected subresource")),
        ("", "nodes", _) => own_node(admission, node, new),
        ("", "serviceaccounts", Some(Subresource::Token)) => Ok(()),
        ("coordination.k8s.io", "leases", _) | ("storage.k8s.io", "csinodes", _) => {
            if admission.name == node {
                Ok(())
            } else {
                Err(admission.forbidden(format!("node {node:?} can only access an object of its own name")))
            }
        }
        _ => Ok(()),
    }
}

fn node_name(pod: &Value) -> &str {
    object::text(pod, &["spec", "nodeName"])
}

fn pod(admission: &Admission<'_>, node: &str, pod: &Value) -> Result<(), Status> {
    match admission.operation {
        Operation::Create => {
            if !object::meta_map(pod, "annotations").is_some_and(|all| all.contains_key(MIRROR)) {
                return Err(admission.forbidden(format!("node {node:?} can only create mirror pods")));
            }
            if node_name(pod) != node {
                let why = format!("node {node:?} can only create pods with spec.nodeName set to itself");
                return Err(admission.forbidden(why));
            }
            let owners = object::meta_list(pod, "ownerReferences");
            let own = owners
                .iter()
                .all(|owner| owner["kind"] == "Node" && owner["name"] == node && owner["apiVersion"] == "v1");
            if !own || owners.len() > 1 {
                let why = format!("node {node:?} can only create pods with an owner reference set to itself");
                return Err(admission.forbidden(why));
            }
            Ok(())
        }
        Operation::Delete if node_name(pod) != node => Err(admission
            .forbidden(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))),
        Operation::Delete | Operation::Connect => Ok(()),
        Operation::Update => {
            Err(admission.forbidden(format!("unexpected operation of node {node:?}: UPDATE")))
        }
    }
}

fn pod_status(admission: &Admission<'_>, node: &str, pod: &Value) -> Result<(), Status> {
    if node_name(admission.old) != node {
        let why =
            format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself");
        return Err(admission.forbidden(why));
    }
    if object::meta_map(admission.old, "labels") != object::meta_map(pod, "labels") {
        return Err(admission.forbidden(format!("node {node:?} cannot update labels through pod status")));
    }
    Ok(())
}

fn own_node(admission: &Admission<'_>, node: &str, new: &Value) -> Result<(), Status> {
    if admission.name != node {
        return Err(
            admission.forbidden(format!("node {node:?} is not allowed to modify node {:?}", admission.name))
        );
    }
    if admission.operation == Operation::Delete {
        return Ok(());
    }
    if new["spec"]["configSource"].is_object() {
        return Err(
            admission.forbidden(format!("node {node:?} is not allowed to create or set a configSource"))
        );
    }
    let (old, labels) = (object::meta_map(admission.old, "labels"), object::meta_map(new, "labels"));
    let changed = |key: &String| old.and_then(|all| all.get(key)) != labels.and_then(|all| all.get(key));
    let keys = old.into_iter().flatten().chain(labels.into_iter().flatten()).map(|(key, _)| key);
    let mut forbidden: Vec<&str> =
        keys.filter(|key| changed(key) && !is_own(key)).map(String::as_str).collect();
    forbidden.sort_unstable();
    forbidden.dedup();
    if !forbidden.is_empty() {
        return Err(admission.forbidden(format!("is not allowed to modify labels: {}", forbidden.join(", "))));
    }
    let taints = |object: &Value| object::at(object, &["spec", "taints"]).clone();
    if admission.operation == Operation::Update && taints(admission.old) != taints(new) {
        return Err(admission.forbidden(format!("node {node:?} is not allowed to modify taints")));
    }
    Ok(())
}

/// Whether an agent may set a label of its node.
fn is_own(label: &str) -> bool {
    let Some((space, _)) = label.split_once('/') else { return true };
    let within = |domain: &str| space == domain || space.ends_with(&format!(".{domain}"));
    if within(RESTRICTED) {
        return false;
    }
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    OWN_LABELS.contains(&label) || OWN_SPACES.iter().any(|own| within(own))
}

#[cfg(test)]
mod tests {
    use super::is_own;

    #[test]
    fn agents_set_labels_of_their_own() {
        for label in
            ["a", "example.com/a", "kubernetes.io/arch", "node.kubernetes.io/x", "x.kubelet.kubernetes.io/y"]
        {
            assert!(is_own(label), "{label}");
        }
        for label in [
            "node-restriction.kubernetes.io/a",
            "x.node-restriction.kubernetes.io/a",
            "kubernetes.io/other",
            "node-role.kubernetes.io/control-plane",
            "foo.k8s.io/a",
        ] {
            assert!(!is_own(label), "{label}");
        }
    }
}
