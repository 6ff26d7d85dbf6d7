//! What may change in a pod after it was made: little.

use serde_json::Value;

use crate::{FieldErrors, object};

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
    if was["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        for field in ["schedulingGates", "nodeSelector", "affinity"] {
            object::copy_field(was, &mut copy, field);
        }
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
