//! Where pods may run: selectors of nodes, affinities, tolerations, spread.

use std::collections::BTreeSet;

use crate::{FieldErrors, kinds::field::Field, names};

const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "PreferNoSchedule"];

pub(super) fn validate(spec: &Field<'_>, errors: &mut FieldErrors) {
    spec.get("nodeSelector").labels(errors);
    let affinity = spec.get("affinity");
    let nodes = affinity.get("nodeAffinity");
    let required = nodes.get("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        node_selector(&required, errors);
    }
    for preferred in nodes.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
        let weight = preferred.get("weight");
        if !(1..=100).contains(&weight.number().unwrap_or(0)) {
            weight.invalid("must be in the range 1-100", errors);
        }
        node_term(&preferred.get("preference"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = affinity.get(kind);
        for term in pods.get("requiredDuringSchedulingIgnoredDuringExecution").items() {
            pod_term(&term, errors);
        }
        for weighted in pods.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
            let weight = weighted.get("weight");
            if !(1..=100).contains(&weight.number().unwrap_or(0)) {
                weight.invalid("must be in the range 1-100", errors);
            }
            pod_term(&weighted.get("podAffinityTerm"), errors);
        }
    }
    tolerations(&spec.get("tolerations"), errors);
    spread(&spec.get("topologySpreadConstraints"), errors);
}

/// A selector of nodes with at least one term.
pub(in crate::kinds) fn node_selector(selector: &Field<'_>, errors: &mut FieldErrors) {
    let terms = selector.get("nodeSelectorTerms");
    if terms.is_empty() {
        return terms.required("must have at least one node selector term", errors);
    }
    for term in terms.items() {
        node_term(&term, errors);
    }
}

fn node_term(term: &Field<'_>, errors: &mut FieldErrors) {
    for requirement in term.get("matchExpressions").items() {
        let (operator, values) = (requirement.get("operator"), requirement.get("values"));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                values.required("must be specified when `operator` is 'In' or 'NotIn'", errors);
            }
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    values.forbidden(
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                        errors,
                    );
                }
            }
            "Gt" | "Lt" => {
                if values.count() != 1 {
                    values.required("must be specified single value when `operator` is 'Lt' or 'Gt'", errors);
                }
            }
            _ => operator.invalid("not a valid selector operator", errors),
        }
        requirement.get("key").ruled(names::qualified, errors);
        for value in values.items() {
            value.ruled(names::label_value, errors);
        }
    }
    for requirement in term.get("matchFields").items() {
        let (operator, values, key) =
            (requirement.get("operator"), requirement.get("values"), requirement.get("key"));
        if matches!(operator.text(), "In" | "NotIn") {
            if values.count() != 1 {
                values.required(
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                    errors,
                );
            }
        } else {
            operator.invalid("not a valid selector operator", errors);
        }
        if key.text() == "metadata.name" {
            for value in values.items() {
                value.ruled(names::subdomain, errors);
            }
        } else {
            key.invalid("not a valid field selector key", errors);
        }
    }
}

fn pod_term(term: &Field<'_>, errors: &mut FieldErrors) {
    let selector = term.get("labelSelector");
    selector.selector(errors);
    term.get("namespaceSelector").selector(errors);
    for namespace in term.get("namespaces").items() {
        namespace.ruled(names::label, errors);
    }
    label_keys(term, &selector, errors);
    let key = term.get("topologyKey");
    if key.is_empty() {
        key.required("can not be empty", errors);
    } else {
        key.ruled(names::qualified, errors);
    }
}

/// Keys whose values are taken from the pod itself.
fn label_keys(term: &Field<'_>, selector: &Field<'_>, errors: &mut FieldErrors) {
    let lists = ["matchLabelKeys", "mismatchLabelKeys"];
    for list in lists {
        let keys = term.get(list);
        if !keys.is_empty() && !selector.is_set() {
            keys.forbidden("must not be set when labelSelector is not set", errors);
        }
        for key in keys.items() {
            key.ruled(names::qualified, errors);
        }
        keys.unique("", errors);
    }
    let mismatched = term.get(lists[1]).texts();
    for key in term.get(lists[0]).items() {
        if mismatched.contains(&key.text()) {
            key.invalid("exists in both matchLabelKeys and mismatchLabelKeys", errors);
        }
    }
}

pub(in crate::kinds) fn tolerations(list: &Field<'_>, errors: &mut FieldErrors) {
    for toleration in list.items() {
        let (key, operator, value) =
            (toleration.get("key"), toleration.get("operator"), toleration.get("value"));
        key.named(names::qualified, errors);
        if key.is_empty() && operator.text() != "Exists" {
            errors.invalid(
                operator.path(),
                operator.text(),
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        let (effect, seconds) = (toleration.get("effect"), toleration.get("tolerationSeconds"));
        if seconds.is_set() && effect.text() != "NoExecute" {
            errors.invalid(
                effect.path(),
                effect.text(),
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        match operator.text() {
            "" | "Equal" => {
                let wrong = names::label_value(value.text());
                if !wrong.is_empty() {
                    errors.invalid(operator.path(), value.text(), wrong.join(";"));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    errors.invalid(
                        operator.path(),
                        value.text(),
                        "value must be empty when `operator` is 'Exists'",
                    );
                }
            }
            "Gt" | "Lt" => {
                if value.text().parse::<i64>().is_err() {
                    errors.invalid(value.path(), value.text(), "value must be a valid integer");
                }
            }
            _ => operator.unsupported(&["Equal", "Exists", "Gt", "Lt"], errors),
        }
        if !effect.is_empty() {
            effect.one_of(EFFECTS, errors);
        }
    }
}

fn spread(constraints: &Field<'_>, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for constraint in constraints.items() {
        let (skew, key, otherwise) =
            (constraint.get("maxSkew"), constraint.get("topologyKey"), constraint.get("whenUnsatisfiable"));
        if skew.number().unwrap_or(0) <= 0 {
            errors.invalid(skew.path(), skew.number().unwrap_or(0), "must be greater than zero");
        }
        if key.is_empty() {
            key.required("can not be empty", errors);
        } else {
            key.ruled(names::qualified, errors);
        }
        if !matches!(otherwise.text(), "DoNotSchedule" | "ScheduleAnyway") {
            otherwise.unsupported(&["DoNotSchedule", "ScheduleAnyway"], errors);
        }
        if !seen.insert((key.text(), otherwise.text())) {
            errors.duplicate(
                format!("{}.{{topologyKey, whenUnsatisfiable}}", constraint.path()),
                format!("{{{}, {}}}", key.text(), otherwise.text()),
            );
        }
        let least = constraint.get("minDomains");
        if least.number().is_some_and(|least| least <= 0) {
            least.invalid("must be greater than zero", errors);
        }
        if least.is_set() && otherwise.text() != "DoNotSchedule" {
            let detail = format!(
                "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                otherwise.text()
            );
            least.invalid(detail, errors);
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            constraint.get(policy).one_of(&["Honor", "Ignore"], errors);
        }
        let selector = constraint.get("labelSelector");
        label_keys(&constraint, &selector, errors);
        selector.selector(errors);
    }
}
