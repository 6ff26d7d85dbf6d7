//! Selectors, worked out once so that they can be compared, hashed and asked quickly: of pods by labels, of nodes by
//! labels and name, and of taints by tolerations. They must not know where pods and nodes are kept.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub(crate) type Labels = BTreeMap<String, String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Greater,
    Less,
    /// One that is not known: it takes nothing.
    Unknown,
}

impl Operator {
    fn read(text: &str) -> Operator {
        match text {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::Greater,
            "Lt" => Operator::Less,
            _ => Operator::Unknown,
        }
    }
}

/// What is required of the value of one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

impl Requirement {
    fn new(requirement: &NodeSelectorRequirement) -> Requirement {
        Requirement {
            key: requirement.key.clone(),
            operator: Operator::read(&requirement.operator),
            values: requirement.values.clone().unwrap_or_default(),
        }
    }

    fn equal(key: &str, value: &str) -> Requirement {
        Requirement { key: key.to_owned(), operator: Operator::In, values: vec![value.to_owned()] }
    }

    fn takes(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|one| one == value);
        let compared =
            || -> Option<(i64, i64)> { Some((value?.parse().ok()?, self.values.first()?.parse().ok()?)) };
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Greater => compared().is_some_and(|(value, bound)| value > bound),
            Operator::Less => compared().is_some_and(|(value, bound)| value < bound),
            Operator::Unknown => false,
        }
    }
}

/// A selector of labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Selector {
    requirements: Vec<Requirement>,
    /// Whether it is there: one that is not takes nothing, an empty one everything.
    given: bool,
}

impl Selector {
    pub(crate) fn new(selector: Option<&LabelSelector>) -> Selector {
        let Some(selector) = selector else { return Selector { requirements: Vec::new(), given: false } };
        let mut result = Selector::of(selector.match_labels.iter().flatten());
        result.requirements.extend(selector.match_expressions.iter().flatten().map(|one| Requirement {
            key: one.key.clone(),
            operator: match Operator::read(&one.operator) {
                // Only nodes are compared by size.
                Operator::Greater | Operator::Less => Operator::Unknown,
                known => known,
            },
            values: one.values.clone().unwrap_or_default(),
        }));
        result
    }

    /// One that takes what has all of these labels.
    pub(crate) fn of<'a>(labels: impl Iterator<Item = (&'a String, &'a String)>) -> Selector {
        let requirements = labels.map(|(key, value)| Requirement::equal(key, value)).collect();
        Selector { requirements, given: true }
    }

    /// Requires besides what another requires.
    pub(crate) fn extend(&mut self, other: &Selector) {
        self.requirements.extend(other.requirements.iter().cloned());
    }

    /// Requires for each key that a pod has the same value as it, or another if not `same`.
    pub(crate) fn narrow(&mut self, keys: &[String], labels: &Labels, same: bool) {
        if !self.given {
            return;
        }
        for key in keys {
            let Some(value) = labels.get(key) else { continue };
            let operator = if same { Operator::In } else { Operator::NotIn };
            let requirement = Requirement { key: key.clone(), operator, values: vec![value.clone()] };
            if !self.requirements.contains(&requirement) {
                self.requirements.push(requirement);
            }
        }
    }

    pub(crate) fn takes(&self, labels: &Labels) -> bool {
        self.given && self.requirements.iter().all(|one| one.takes(labels.get(&one.key).map(String::as_str)))
    }

    /// Whether nothing is required.
    pub(crate) fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

/// One of several ways in which a node can be right. An empty one takes no node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct NodeTerm {
    expressions: Vec<Requirement>,
    fields: Vec<Requirement>,
}

impl NodeTerm {
    pub(crate) fn new(term: &NodeSelectorTerm) -> NodeTerm {
        let read = |all: &Option<Vec<NodeSelectorRequirement>>| {
            all.iter().flatten().map(Requirement::new).collect::<Vec<_>>()
        };
        NodeTerm { expressions: read(&term.match_expressions), fields: read(&term.match_fields) }
    }

    pub(crate) fn takes(&self, labels: &Labels, name: &str) -> bool {
        if self.expressions.is_empty() && self.fields.is_empty() {
            return false;
        }
        let label = |key: &str| labels.get(key).map(String::as_str);
        self.expressions.iter().all(|one| one.takes(label(&one.key)))
            && self.fields.iter().all(|one| one.takes((one.key == "metadata.name").then_some(name)))
    }

    /// The names to which it binds a pod; nothing if it does not speak of names.
    fn names(&self) -> Option<Vec<&str>> {
        let mut fields =
            self.fields.iter().filter(|one| one.key == "metadata.name" && one.operator == Operator::In);
        let first: Vec<&str> = fields.next()?.values.iter().map(String::as_str).collect();
        Some(fields.fold(first, |mut names, field| {
            names.retain(|name| field.values.iter().any(|one| one == name));
            names
        }))
    }
}

/// The names of the only nodes that terms can take; nothing if they could take any.
pub(crate) fn only_names(terms: &[NodeTerm]) -> Option<Vec<String>> {
    let mut all = Vec::new();
    for term in terms {
        all.extend(term.names()?.into_iter().map(str::to_owned));
    }
    all.sort_unstable();
    all.dedup();
    (!terms.is_empty()).then_some(all)
}

/// One way to put up with taints.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Tolerance {
    key: String,
    value: Option<String>,
    effect: String,
}

impl Tolerance {
    pub(crate) fn new(toleration: &Toleration) -> Option<Tolerance> {
        let key = toleration.key.clone().unwrap_or_default();
        let value = match toleration.operator.as_deref().unwrap_or_default() {
            "Exists" => None,
            "" | "Equal" if !key.is_empty() => Some(toleration.value.clone().unwrap_or_default()),
            _ => return None,
        };
        Some(Tolerance { key, value, effect: toleration.effect.clone().unwrap_or_default() })
    }

    pub(crate) fn takes(&self, key: &str, value: &str, effect: &str) -> bool {
        (self.effect.is_empty() || self.effect == effect)
            && (self.key.is_empty() || self.key == key)
            && self.value.as_deref().is_none_or(|wanted| wanted == value)
    }
}

/// Whether one of the tolerances puts up with a taint.
pub(crate) fn tolerates(tolerances: &[Tolerance], taint: &Taint) -> bool {
    let value = taint.value.as_deref().unwrap_or_default();
    tolerances.iter().any(|one| one.takes(&taint.key, value, &taint.effect))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn taken(term: Value) -> bool {
        let labels =
            Labels::from([("zone".to_owned(), "a".to_owned()), ("cores".to_owned(), "8".to_owned())]);
        NodeTerm::new(&serde_json::from_value(term).unwrap()).takes(&labels, "one")
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
    fn terms_that_name_nodes_name_all_that_they_can_take() {
        let check = |terms: Value, expected: Option<&[&str]>| {
            let terms: Vec<NodeSelectorTerm> = serde_json::from_value(terms).unwrap();
            let terms: Vec<NodeTerm> = terms.iter().map(NodeTerm::new).collect();
            let names = expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
            assert_eq!(only_names(&terms), names);
        };
        let name = |names: &[&str]| json!({ "key": "metadata.name", "operator": "In", "values": names });
        check(json!([]), None);
        check(
            json!([{ "matchFields": [name(&["b"])] }, { "matchFields": [name(&["a", "b"])] }]),
            Some(&["a", "b"]),
        );
        check(json!([{ "matchFields": [name(&["a", "b"]), name(&["b", "c"])] }]), Some(&["b"]));
        let other = json!({ "matchExpressions": [{ "key": "k", "operator": "Exists" }] });
        check(json!([{ "matchFields": [name(&["b"])] }, other]), None);
    }

    #[test]
    fn tolerations_put_up_with_taints() {
        let taint: Taint =
            serde_json::from_value(json!({ "key": "k", "value": "v", "effect": "NoSchedule" })).unwrap();
        let check = |toleration: Value, expected: bool| {
            let tolerance = Tolerance::new(&serde_json::from_value(toleration.clone()).unwrap());
            let tolerances: Vec<Tolerance> = tolerance.into_iter().collect();
            assert_eq!(tolerates(&tolerances, &taint), expected, "{toleration}");
        };
        check(json!({ "operator": "Exists" }), true);
        check(json!({ "key": "k", "operator": "Exists" }), true);
        check(json!({ "key": "k", "value": "v" }), true);
        check(json!({ "key": "k", "value": "w" }), false);
        check(json!({ "key": "k", "value": "v", "effect": "NoExecute" }), false);
        check(json!({ "key": "other", "operator": "Exists" }), false);
        check(json!({ "value": "v" }), false);
    }

    #[test]
    fn selectors_are_narrowed_by_a_pods_own_labels() {
        let labels =
            Labels::from([("app".to_owned(), "web".to_owned()), ("hash".to_owned(), "1".to_owned())]);
        let other = Labels::from([("app".to_owned(), "web".to_owned()), ("hash".to_owned(), "2".to_owned())]);
        let selector: LabelSelector =
            serde_json::from_value(json!({ "matchLabels": { "app": "web" } })).unwrap();
        let keys = ["hash".to_owned(), "absent".to_owned()];
        let mut same = Selector::new(Some(&selector));
        assert!(same.takes(&other));
        same.narrow(&keys, &labels, true);
        assert!(same.takes(&labels) && !same.takes(&other));
        let mut different = Selector::new(Some(&selector));
        different.narrow(&keys, &labels, false);
        assert!(!different.takes(&labels) && different.takes(&other));
        assert!(!Selector::new(None).takes(&labels));
        assert!(Selector::new(Some(&LabelSelector::default())).takes(&labels));
    }
}
