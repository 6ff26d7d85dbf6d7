//! Events: stored in the form of the core group, shown in both.

use serde_json::{Map, Value, json};

use crate::{FieldErrors, object};

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

pub(super) fn validate(event: &Value, errors: &mut FieldErrors) {
    if event["eventTime"].is_null() {
        errors.required("eventTime", "");
        return;
    }
    for field in ["reportingController", "reportingInstance", "action", "reason"] {
        if object::text(event, &[field]).is_empty() {
            errors.required(field, "");
        }
    }
    let kind = object::text(event, &["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid("type", kind, "has invalid value: ");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
