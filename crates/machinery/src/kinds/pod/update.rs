//! What may change in a pod after it was made: little.

use std::net::IpAddr;

use serde_json::Value;

use crate::{FieldErrors, kinds::field::Field, names, object};

const MESSAGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn validate(pod: &Value, old: &Value, errors: &mut FieldErrors) {
    let (spec, was) = (&pod["spec"], &old["spec"]);
    for field in ["containers", "initContainers"] {
        let count = |spec: &Value| spec[field].as_array().map_or(0, Vec::len);
        if count(spec) != count(was) {
            errors.forbidden(
                format!("spec.{field}"),
                if field == "containers" {
                    "pod updates may not add or remove containers"
                } else {
                    "pod updates may not add or remove init containers"
                },
            );
            return;
        }
    }
    let tolerations = |spec: &Value| spec["tolerations"].as_array().cloned().unwrap_or_default();
    let new_tolerations = tolerations(spec);
    for (index, old_one) in tolerations(was).iter().enumerate() {
        // Only how long it is tolerated may change.
        let same = |new: &Value| {
            ["key", "operator", "value", "effect"].iter().all(|field| new[*field] == old_one[*field])
        };
        if !new_tolerations.iter().any(same) {
            errors.forbidden(
                format!("spec.tolerations[{index}]"),
                "existing toleration can not be modified except its tolerationSeconds",
            );
            return;
        }
    }
    let mut copy = spec.clone();
    for field in ["containers", "initContainers"] {
        for (new, old) in object::items_mut(&mut copy, field).zip(was[field].as_array().into_iter().flatten())
        {
            object::copy_field(old, new, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations"] {
        object::copy_field(was, &mut copy, field);
    }
    let gates = |spec: &Value| spec["schedulingGates"].as_array().cloned().unwrap_or_default();
    for gate in gates(spec) {
        if !gates(was).contains(&gate) {
            let name = object::text(&gate, &["name"]);
            errors.forbidden(
                "spec.schedulingGates",
                format!("only deletion is allowed, but found new scheduling gate '{name}'"),
            );
        }
    }
    object::copy_field(was, &mut copy, "schedulingGates");
    if !gates(was).is_empty() {
        let (new, before) = (&spec["nodeSelector"], &was["nodeSelector"]);
        if before.as_object().into_iter().flatten().any(|(key, value)| new.get(key) != Some(value)) {
            let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            errors.invalid("spec.nodeSelector", new.clone(), detail);
        }
        object::copy_field(was, &mut copy, "nodeSelector");
        affinity_of_nodes(was, &mut copy);
    }
    if was["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0)
        && spec["terminationGracePeriodSeconds"] == 1
    {
        object::copy_field(was, &mut copy, "terminationGracePeriodSeconds");
    }
    let (new, old_seconds) = (spec["activeDeadlineSeconds"].as_i64(), was["activeDeadlineSeconds"].as_i64());
    if let Some(old_seconds) = old_seconds {
        match new {
            Some(new) if new <= old_seconds => {}
            Some(new) => errors.invalid(
                "spec.activeDeadlineSeconds",
                new,
                "must be less than or equal to previous value",
            ),
            None => errors.invalid(
                "spec.activeDeadlineSeconds",
                Value::Null,
                "must not update from a positive integer to nil value",
            ),
        }
    }
    if copy != *was {
        errors.forbidden("spec", format!("{MESSAGE}\n{}", difference(&copy, was)));
    }
}

/// Before a pod is to be placed, the nodes that it prefers may still change.
fn affinity_of_nodes(was: &Value, copy: &mut Value) {
    let before = object::at(was, &["affinity", "nodeAffinity"]).clone();
    if copy["affinity"].is_null() && before.is_null() {
        return;
    }
    let affinity = object::child(copy, "affinity");
    if before.is_null() {
        affinity.remove("nodeAffinity");
    } else {
        affinity.insert("nodeAffinity".into(), before);
    }
    if affinity.is_empty() && was["affinity"].is_null() {
        object::remove(copy, "affinity");
    }
}

/// Containers may be added to a running pod, and none that was added changes or goes.
pub(super) fn validate_ephemeral(pod: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = ["spec", "ephemeralContainers"];
    let (new, was) = (Field::root(pod).at(&path), Field::root(old).at(&path));
    for before in was.items() {
        let name = before.get("name").text();
        let Some(after) = new.items().find(|one| one.get("name").text() == name) else {
            new.forbidden(format!("existing ephemeral containers {name:?} may not be removed"), errors);
            continue;
        };
        if after.value() != before.value() {
            after.forbidden(format!("existing ephemeral containers {name:?} may not be changed"), errors);
        }
    }
    super::validate(pod, errors);
    only(pod, old, &["ephemeralContainers"], "pod updates may only add ephemeral containers", errors);
}

/// What containers may use changes while they run; nothing else does.
pub(super) fn validate_resize(pod: &Value, old: &Value, errors: &mut FieldErrors) {
    super::validate(pod, errors);
    let mut copy = pod["spec"].clone();
    for field in ["containers", "initContainers"] {
        let known = old["spec"][field].as_array().into_iter().flatten();
        for (new, old) in object::items_mut(&mut copy, field).zip(known) {
            for (list, resources) in [("limits", ["cpu", "memory"]), ("requests", ["cpu", "memory"])] {
                for resource in resources {
                    let value = &old["resources"][list][resource];
                    if value.is_null() {
                        object::remove(&mut new["resources"][list], resource);
                    } else {
                        object::child(&mut new["resources"], list).insert(resource.into(), value.clone());
                    }
                }
                if old["resources"][list].is_null() {
                    object::remove(&mut new["resources"], list);
                }
            }
        }
    }
    if copy != old["spec"] {
        errors.forbidden("spec", "only cpu and memory resources are mutable");
    }
    if super::resources::quality(pod) != super::resources::quality(old) {
        errors.invalid(
            "spec",
            super::resources::quality(pod),
            "Pod QOS Class may not change as a result of resizing",
        );
    }
}

/// A status names a node and addresses that there can be.
pub(super) fn validate_status(pod: &Value, errors: &mut FieldErrors) {
    const ONE_EACH: &str = "may specify no more than one IP for each IP family";
    let status = Field::root(pod).get("status");
    status.get("nominatedNodeName").named(names::subdomain, errors);
    let list = status.get("podIPs");
    let mut families = Vec::new();
    for address in list.items() {
        let address = address.get("ip");
        let address = Field::new(address.value(), address.path().trim_end_matches(".ip"));
        address.address(errors);
        families.extend(address.text().parse::<IpAddr>().map(|address| address.is_ipv4()));
    }
    let texts: Vec<&str> = list.items().map(|one| one.get("ip").text()).collect();
    if families.len() > 2 || matches!(families[..], [first, second] if first == second) {
        errors.invalid(list.path(), texts.clone(), ONE_EACH);
    }
    for (index, text) in texts.iter().enumerate() {
        if texts[..index].contains(text) {
            errors.duplicate(format!("{}[{index}]", list.path()), *text);
        }
    }
}

/// Nothing but these fields of the specification changes.
fn only(pod: &Value, old: &Value, fields: &[&str], why: &str, errors: &mut FieldErrors) {
    let mut copy = pod["spec"].clone();
    for field in fields {
        object::copy_field(&old["spec"], &mut copy, field);
    }
    if copy != old["spec"] {
        errors.forbidden("spec", why);
    }
}

/// Names the fields that differ.
fn difference(new: &Value, old: &Value) -> String {
    let mut fields: Vec<String> = Vec::new();
    let empty = serde_json::Map::new();
    let (left, right) = (new.as_object().unwrap_or(&empty), old.as_object().unwrap_or(&empty));
    for key in left.keys().chain(right.keys()) {
        if left.get(key) != right.get(key) && !fields.contains(key) {
            fields.push(key.clone());
        }
    }
    format!("changed: {}", fields.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(new: Value, fields: &[&str]) {
        let old = json!({ "spec": { "nodeName": "n", "containers": [{ "name": "a", "image": "x" }] } });
        let mut errors = FieldErrors::default();
        validate(&json!({ "spec": new }), &old, &mut errors);
        let found: Vec<&str> = errors.as_slice().iter().map(crate::FieldError::field).collect();
        assert_eq!(found, fields);
    }

    #[test]
    fn only_images_deadlines_and_new_tolerations() {
        check(json!({ "nodeName": "n", "containers": [{ "name": "a", "image": "y" }] }), &[]);
        check(
            json!({ "nodeName": "n", "containers": [{ "name": "a", "image": "x" }], "tolerations": [{}] }),
            &[],
        );
        check(json!({ "nodeName": "m", "containers": [{ "name": "a", "image": "x" }] }), &["spec"]);
        check(json!({ "nodeName": "n", "containers": [] }), &["spec.containers"]);
    }
}
