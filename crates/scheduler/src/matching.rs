//! What selectors, affinities and tolerations take. Pure functions over labels and taints.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::model::Pod;

pub(crate) type Labels = BTreeMap<String, String>;

/// Whether a node with these labels and this name is taken by one term. An empty term takes none.
pub(crate) fn node_term(term: &NodeSelectorTerm, labels: &Labels, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions
        .iter()
        .all(|requirement| requirement_takes(requirement, labels.get(&requirement.key).map(String::as_str)))
        && fields.iter().all(|requirement| {
            let value = (requirement.key == "metadata.name").then_some(name);
            requirement_takes(requirement, value)
        })
}

fn requirement_takes(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|one| one == value);
    let compared = || -> Option<(i64, i64)> { Some((value?.parse().ok()?, values.first()?.parse().ok()?)) };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared().is_some_and(|(value, bound)| value > bound),
        "Lt" => compared().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// Whether labels are taken by a selector. One that is not there takes none, an empty one all.
pub(crate) fn labels(selector: Option<&LabelSelector>, labels: Option<&Labels>) -> bool {
    let Some(selector) = selector else { return false };
    let value = |key: &str| labels.and_then(|labels| labels.get(key));
    selector.match_labels.iter().flatten().all(|(key, wanted)| value(key) == Some(wanted))
        && selector.match_expressions.iter().flatten().all(|expression| {
            let value = value(&expression.key);
            let values = expression.values.as_deref().unwrap_or_default();
            match expression.operator.as_str() {
                "In" => value.is_some_and(|value| values.contains(value)),
                "NotIn" => value.is_none_or(|value| !values.contains(value)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Whether a pod of a namespace with labels is meant by an affinity term of a pod.
pub(crate) fn affinity_term(
    term: &PodAffinityTerm,
    own_namespace: &str,
    namespace: &str,
    pod_labels: Option<&Labels>,
) -> bool {
    let listed = term.namespaces.as_deref().unwrap_or_default();
    let in_namespace = match (&term.namespace_selector, listed) {
        (None, []) => namespace == own_namespace,
        // An empty selector means all namespaces. Labels of namespaces are not known here.
        (Some(selector), _) if *selector == LabelSelector::default() => true,
        (_, listed) => listed.iter().any(|one| one == namespace),
    };
    in_namespace && labels(term.label_selector.as_ref(), pod_labels)
}

/// Whether one of the tolerations puts up with a taint.
pub(crate) fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| {
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let key = toleration.key.as_deref().unwrap_or_default();
        (effect.is_empty() || effect == taint.effect)
            && (key.is_empty() || key == taint.key)
            && match toleration.operator.as_deref().unwrap_or_default() {
                "Exists" => true,
                "" | "Equal" => {
                    !key.is_empty()
                        && toleration.value.as_deref().unwrap_or_default()
                            == taint.value.as_deref().unwrap_or_default()
                }
                _ => false,
            }
    })
}

/// The terms that nodes have to fulfil, one of them; nothing if there are none.
pub(crate) fn required_node_terms(pod: &Pod) -> Option<&[NodeSelectorTerm]> {
    let affinity = pod.spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    Some(&required.node_selector_terms)
}

/// The required terms by which a pod wants to be near others.
pub(crate) fn required_affinity(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod.spec.affinity.as_ref().and_then(|affinity| affinity.pod_affinity.as_ref());
    affinity
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default()
}

/// The required terms by which a pod wants to be away from others.
pub(crate) fn required_anti_affinity(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod.spec.affinity.as_ref().and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    affinity
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn taken(term: Value) -> bool {
        let labels =
            Labels::from([("zone".to_owned(), "a".to_owned()), ("cores".to_owned(), "8".to_owned())]);
        node_term(&serde_json::from_value(term).unwrap(), &labels, "one")
    }

    #[test]
    fn terms_take_nodes_by_labels_and_name() {
        let expression = |key: &str, operator: &str, values: &[&str]| json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] });
        assert!(taken(expression("zone", "In", &["a", "b"])));
        assert!(!taken(expression("zone", "NotIn", &["a"])));
        assert!(taken(expression("other", "NotIn", &["a"])));
        assert!(taken(expression("zone", "Exists", &[])));
        assert!(taken(expression("other", "DoesNotExist", &[])));
        assert!(taken(expression("cores", "Gt", &["4"])));
        assert!(!taken(expression("cores", "Lt", &["8"])));
        assert!(!taken(expression("zone", "Gt", &["4"])));
        let name = |name: &str| json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [name] }] });
        assert!(taken(name("one")) && !taken(name("two")));
        assert!(!taken(json!({})));
    }

    #[test]
    fn tolerations_put_up_with_taints() {
        let taint: Taint =
            serde_json::from_value(json!({ "key": "k", "value": "v", "effect": "NoSchedule" })).unwrap();
        let check = |toleration: Value, expected: bool| {
            let tolerations = [serde_json::from_value(toleration.clone()).unwrap()];
            assert_eq!(tolerates(&tolerations, &taint), expected, "{toleration}");
        };
        check(json!({ "operator": "Exists" }), true);
        check(json!({ "key": "k", "operator": "Exists" }), true);
        check(json!({ "key": "k", "value": "v" }), true);
        check(json!({ "key": "k", "value": "w" }), false);
        check(json!({ "key": "k", "value": "v", "effect": "NoExecute" }), false);
        check(json!({ "key": "other", "operator": "Exists" }), false);
    }
}
