//! Events: stored in the form of the core group, shown in both.

use serde_json::{Map, Value, json};

use super::field::Field;
use crate::{FieldErrors, names, object};

/// The longest reason, action and name of an instance, in bytes.
const MOST_NAME: usize = 128;
/// The longest note, in bytes.
const MOST_NOTE: usize = 1024;

pub(super) const FIELDS: &[(&str, &[&str])] = &[
    ("involvedObject.kind", &["involvedObject", "kind"]),
    ("involvedObject.namespace", &["involvedObject", "namespace"]),
    ("involvedObject.name", &["involvedObject", "name"]),
    ("involvedObject.uid", &["involvedObject", "uid"]),
    ("involvedObject.apiVersion", &["involvedObject", "apiVersion"]),
    ("involvedObject.resourceVersion", &["involvedObject", "resourceVersion"]),
    ("involvedObject.fieldPath", &["involvedObject", "fieldPath"]),
    ("reason", &["reason"]),
    ("reportingComponent", &["reportingComponent"]),
    ("source", &["source", "component"]),
    // Events of today have their writer elsewhere.
    ("source", &["reportingComponent"]),
    ("type", &["type"]),
];

pub(super) const FIELDS_V1: &[(&str, &[&str])] = &[
    ("regarding.kind", &["regarding", "kind"]),
    ("regarding.namespace", &["regarding", "namespace"]),
    ("regarding.name", &["regarding", "name"]),
    ("regarding.uid", &["regarding", "uid"]),
    ("regarding.apiVersion", &["regarding", "apiVersion"]),
    ("regarding.resourceVersion", &["regarding", "resourceVersion"]),
    ("regarding.fieldPath", &["regarding", "fieldPath"]),
    ("reason", &["reason"]),
    ("reportingController", &["reportingController"]),
    ("type", &["type"]),
];

const RENAMED: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn rename(
    object: &mut Value,
    from: impl Fn(&(&'static str, &'static str)) -> (&'static str, &'static str),
    version: &str,
) {
    let Some(fields) = object.as_object_mut() else { return };
    let mut moved = Map::new();
    for pair in RENAMED {
        let (from, to) = from(pair);
        if let Some(value) = fields.remove(from) {
            moved.insert(to.into(), value);
        }
    }
    fields.extend(moved);
    fields.insert("apiVersion".into(), json!(version));
}

pub(super) fn to_core(object: &mut Value) {
    rename(object, |pair| *pair, "v1");
}

pub(super) fn from_core(object: &mut Value) {
    rename(object, |(new, old)| (old, new), "events.k8s.io/v1");
}

/// What events of the core group must say, which have fewer rules than those of their own group.
pub(super) fn validate_core(event: &Value, errors: &mut FieldErrors) {
    let involved = object::text(event, &["involvedObject", "namespace"]);
    let namespace = object::namespace(event);
    let wrong = if involved.is_empty() {
        !matches!(namespace, "" | "default" | "kube-system")
    } else {
        involved != namespace
    };
    if wrong {
        errors.invalid("involvedObject.namespace", involved, "does not match event.namespace");
    }
}

pub(super) fn validate(event: &Value, errors: &mut FieldErrors) {
    let event = Field::root(event);
    event.get("eventTime").needed(errors);
    let kind = event.get("type");
    if !matches!(kind.text(), "Normal" | "Warning") {
        errors.invalid(kind.path(), "", format!("has invalid value: {}", kind.text()));
    }
    event.get("reportingController").needs_name(names::qualified, errors);
    for (field, limit) in [("reportingInstance", MOST_NAME), ("action", MOST_NAME), ("reason", MOST_NAME)] {
        event.get(field).needed(errors);
        event.get(field).longest(limit, errors);
    }
    event.get("note").longest(MOST_NOTE, errors);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_found_by_who_wrote_it_wherever_that_is_said() {
        let kind = crate::kinds::find("", "v1", "events").unwrap();
        for (event, expected) in [
            (json!({ "source": { "component": "kubelet" }, "reportingComponent": "other" }), "kubelet"),
            (json!({ "source": { "component": "" }, "reportingComponent": "scheduler" }), "scheduler"),
            (json!({ "reportingComponent": "scheduler" }), "scheduler"),
            (json!({}), ""),
        ] {
            assert_eq!(kind.field(&event, "source"), expected, "{event}");
        }
    }

    #[test]
    fn both_forms_are_the_same_event() {
        let event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n", "reason": "r",
            "regarding": { "kind": "Pod" }, "deprecatedCount": 2, "reportingController": "c",
        });
        let mut stored = event.clone();
        to_core(&mut stored);
        assert_eq!(stored["message"], "n");
        assert_eq!(stored["involvedObject"]["kind"], "Pod");
        assert_eq!(stored["apiVersion"], "v1");
        from_core(&mut stored);
        assert_eq!(stored, event);
    }
}
