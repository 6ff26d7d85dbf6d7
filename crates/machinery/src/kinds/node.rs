//! Nodes, and the runtimes that their pods may ask for.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    Subresource,
    field::{Field, cidr},
    pod::scheduling,
};
use crate::{FieldErrors, names, object};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
const UPDATE: &str = "node updates may only change labels, taints, or capacity (or configSource, if the DynamicKubeletConfig \
feature gate is enabled)";

pub(super) fn validate(node: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(node).get("spec");
    let mut seen = BTreeSet::new();
    for taint in spec.get("taints").items() {
        taint.get("key").ruled(names::qualified, errors);
        let value = taint.get("value");
        value.ruled(names::label_value, errors);
        let effect = taint.get("effect");
        effect.needs_one_of(EFFECTS, errors);
        if !seen.insert((effect.text(), taint.get("key").text())) {
            taint.duplicate(errors);
        }
    }
    let ranges = spec.get("podCIDRs");
    for range in ranges.items() {
        if cidr(range.text()).is_none() {
            range.range(errors);
        }
    }
    if ranges.count() > 2 {
        ranges.invalid("may specify no more than one CIDR for each IP family", errors);
    } else if let [first, second] = ranges.texts()[..]
        && cidr(first)
            .zip(cidr(second))
            .is_some_and(|(first, second)| first.0.is_ipv4() == second.0.is_ipv4())
    {
        ranges.invalid("may specify no more than one CIDR for each IP family", errors);
    }
    amounts(node, errors);
}

fn amounts(node: &Value, errors: &mut FieldErrors) {
    let status = Field::root(node).get("status");
    for list in ["capacity", "allocatable"] {
        for (name, amount) in status.get(list).entries() {
            for wrong in names::qualified(name) {
                errors.invalid(amount.path(), name, wrong);
            }
            amount.quantity_not_negative(errors);
        }
    }
    status.get("addresses").unique("", errors);
}

pub(super) fn validate_update(node: &Value, old: &Value, errors: &mut FieldErrors) {
    let (spec, was) = (Field::root(node).get("spec"), Field::root(old).get("spec"));
    if was.get("podCIDRs").count() > 0 && spec.get("podCIDRs").value() != was.get("podCIDRs").value() {
        errors.forbidden("spec.podCIDRs", "node updates may not change podCIDR except from \"\" to valid");
    }
    if !was.get("providerID").is_empty() && spec.get("providerID").value() != was.get("providerID").value() {
        errors
            .forbidden("spec.providerID", "node updates may not change providerID except from \"\" to valid");
    }
    let fixed = |spec: &Field<'_>| {
        let mut fixed = spec.value().clone();
        for field in ["podCIDR", "podCIDRs", "providerID", "taints", "unschedulable", "configSource"] {
            object::remove(&mut fixed, field);
        }
        fixed.as_object().is_none_or(serde_json::Map::is_empty).then_some(()).ok_or(fixed)
    };
    if fixed(&spec) != fixed(&was) {
        errors.forbidden("", UPDATE);
    }
}

pub(super) fn validate_part(part: Subresource, node: &Value, _old: &Value, errors: &mut FieldErrors) {
    if part == Subresource::Status {
        amounts(node, errors);
    }
}

pub(super) fn validate_runtime_class(class: &Value, errors: &mut FieldErrors) {
    let root = Field::root(class);
    root.get("handler").ruled(names::label, errors);
    let overhead = root.at(&["overhead", "podFixed"]);
    for (name, amount) in overhead.entries() {
        for wrong in names::qualified(name) {
            errors.invalid(amount.path(), name, wrong);
        }
        if !name.contains('/')
            && !matches!(name, "cpu" | "memory" | "ephemeral-storage")
            && !name.starts_with("hugepages-")
        {
            errors.invalid(amount.path(), name, "must be a standard resource type or fully qualified");
        }
        amount.quantity_not_negative(errors);
    }
    let scheduling = root.get("scheduling");
    scheduling.get("nodeSelector").labels(errors);
    let tolerations = scheduling.get("tolerations");
    scheduling::tolerations(&tolerations, errors);
    let mut seen: Vec<&Value> = Vec::new();
    for toleration in tolerations.items() {
        if seen.contains(&toleration.value()) {
            toleration.duplicate(errors);
        }
        seen.push(toleration.value());
    }
}

pub(super) fn validate_runtime_class_update(class: &Value, old: &Value, errors: &mut FieldErrors) {
    Field::root(class).all_unchanged(&Field::root(old), &["handler"], errors);
}
