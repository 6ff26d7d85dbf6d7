//! Which labels a selector takes.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub(crate) type Labels = BTreeMap<String, String>;

enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

/// A selector that has been checked.
pub(crate) struct Selector {
    requirements: Vec<(String, Operator)>,
}

impl Selector {
    /// Reads a selector; says what is wrong with it.
    pub(crate) fn new(selector: &LabelSelector) -> Result<Selector, String> {
        let equal = selector.match_labels.iter().flatten();
        let mut requirements: Vec<(String, Operator)> =
            equal.map(|(key, value)| (key.clone(), Operator::In(vec![value.clone()]))).collect();
        for expression in selector.match_expressions.iter().flatten() {
            let values = || expression.values.clone().unwrap_or_default();
            let operator = match expression.operator.as_str() {
                "In" => Operator::In(values()),
                "NotIn" => Operator::NotIn(values()),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            requirements.push((expression.key.clone(), operator));
        }
        Ok(Selector { requirements })
    }

    /// Whether it takes everything.
    pub(crate) fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    pub(crate) fn matches(&self, labels: Option<&Labels>) -> bool {
        self.requirements.iter().all(|(key, operator)| {
            let value = labels.and_then(|labels| labels.get(key));
            match operator {
                Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}

/// Whether labels hold all of some others.
pub(crate) fn contains(labels: Option<&Labels>, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}
