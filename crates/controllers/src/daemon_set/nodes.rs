//! On which nodes a DaemonSet's pods run. A pod that is there already may stay where a new one would not come.

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};
use kube::ResourceExt as _;

use crate::labels::contains;
use crate::taints::tolerates;

/// What every pod of a DaemonSet bears, besides what its template says: trouble of nodes does not keep it off.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// Whether a node is for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// A pod is to run there.
    Runs,
    /// One that runs there may go on.
    Stays,
    /// None may run there.
    Never,
}

/// The tolerations of a pod of this template.
pub(super) fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let network = (spec.host_network == Some(true)).then_some(NETWORK);
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let added = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !all.contains(&added) {
            all.push(added);
        }
    }
    all
}

/// Whether a node is for the pods of a template.
pub(super) fn fit(spec: &PodSpec, node: &Node) -> Fit {
    let name = node.name_any();
    if spec.node_name.as_ref().is_some_and(|wanted| !wanted.is_empty() && *wanted != name) {
        return Fit::Never;
    }
    if spec.node_selector.as_ref().is_some_and(|wanted| !contains(node.metadata.labels.as_ref(), wanted)) {
        return Fit::Never;
    }
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    if required.is_some_and(|required| !required.node_selector_terms.iter().any(|term| takes(term, node))) {
        return Fit::Never;
    }
    let tolerations = tolerations(spec);
    let is_tolerated = |taint: &Taint| tolerations.iter().any(|toleration| tolerates(toleration, taint));
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let untolerated =
        |effect: &str| taints.iter().any(|taint| taint.effect == effect && !is_tolerated(taint));
    match (untolerated("NoExecute"), untolerated("NoSchedule")) {
        (true, _) => Fit::Never,
        (false, true) => Fit::Stays,
        (false, false) => Fit::Runs,
    }
}

/// Whether a term takes a node; an empty one takes none.
fn takes(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let field = |key: &str| node.metadata.name.as_deref().filter(|_| key == "metadata.name");
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|requirement| meets(requirement, label(&requirement.key)))
        && fields.iter().all(|requirement| meets(requirement, field(&requirement.key)))
}

fn meets(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let is_in = || value.is_some_and(|value| values.iter().any(|wanted| wanted == value));
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => is_in(),
        "NotIn" => !is_in(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, wanted)| value > wanted),
        "Lt" => numbers().is_some_and(|(value, wanted)| value < wanted),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn nodes_are_chosen_by_labels_names_and_taints() {
        let node = |spec: Value| -> Node {
            let metadata = json!({ "name": "one", "labels": { "disk": "ssd", "cores": "8" } });
            serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
        };
        let plain = node(json!({}));
        let tainted =
            |effect: &str| node(json!({ "taints": [{ "key": "a", "value": "b", "effect": effect }] }));
        let required = |term: Value| {
            json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [term] } } } })
        };
        let expression = |key: &str, operator: &str, values: Value| {
            required(json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] }))
        };
        let name = |name: &str| {
            required(
                json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [name] }] }),
            )
        };
        for (spec, node, expected) in [
            (json!({}), &plain, Fit::Runs),
            (json!({ "nodeName": "two" }), &plain, Fit::Never),
            (json!({ "nodeSelector": { "disk": "ssd" } }), &plain, Fit::Runs),
            (json!({ "nodeSelector": { "disk": "hdd" } }), &plain, Fit::Never),
            (expression("disk", "In", json!(["ssd", "x"])), &plain, Fit::Runs),
            (expression("disk", "NotIn", json!(["ssd"])), &plain, Fit::Never),
            (expression("gpu", "DoesNotExist", json!(null)), &plain, Fit::Runs),
            (expression("cores", "Gt", json!(["4"])), &plain, Fit::Runs),
            (expression("cores", "Lt", json!(["8"])), &plain, Fit::Never),
            (required(json!({})), &plain, Fit::Never),
            (name("one"), &plain, Fit::Runs),
            (name("two"), &plain, Fit::Never),
            (json!({}), &tainted("NoSchedule"), Fit::Stays),
            (json!({}), &tainted("NoExecute"), Fit::Never),
            (json!({}), &tainted("PreferNoSchedule"), Fit::Runs),
            (
                json!({ "tolerations": [{ "key": "a", "operator": "Exists" }] }),
                &tainted("NoExecute"),
                Fit::Runs,
            ),
            (
                json!({}),
                &node(
                    json!({ "taints": [{ "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" }] }),
                ),
                Fit::Runs,
            ),
        ] {
            let mut whole = json!({ "containers": [] });
            whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            let parsed: PodSpec = serde_json::from_value(whole).unwrap();
            assert_eq!(fit(&parsed, node), expected, "{spec}");
        }
    }
}
