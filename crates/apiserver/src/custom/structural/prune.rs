//! What a schema does not name is taken away.

use serde_json::Value;

use super::{Entries, Structural, child};

/// The fields that every whole object has.
pub(crate) const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Takes away the fields that the schema does not name, and returns their paths. `root` says that this is a whole object,
/// whose type and metadata are always known.
pub(crate) fn prune(object: &mut Value, schema: &Structural, root: bool) -> Vec<String> {
    let mut gone = Vec::new();
    walk(object, Some(schema), root || schema.embedded, String::new(), &mut gone);
    gone
}

fn walk(value: &mut Value, schema: Option<&Structural>, whole: bool, path: String, gone: &mut Vec<String>) {
    let open = schema.is_some_and(|schema| schema.open);
    match value {
        Value::Object(fields) => fields.retain(|name, value| {
            if whole && META.contains(&name.as_str()) {
                return true;
            }
            let inner = schema.and_then(|schema| schema.properties.get(name));
            let entries = schema.and_then(|schema| schema.entries.as_ref());
            let below = || child(&path, name);
            match (inner, entries) {
                (Some(inner), _) => walk(value, Some(inner), inner.embedded, below(), gone),
                (None, Some(Entries::Of(of))) => walk(value, Some(of), of.embedded, below(), gone),
                // What is in there is known as little as where nothing is said.
                (None, Some(Entries::Any)) if !open => walk(value, None, false, below(), gone),
                (None, Some(Entries::Any)) => {}
                (None, None) if open => {}
                (None, None) => {
                    gone.push(below());
                    return false;
                }
            }
            true
        }),
        Value::Array(items) => {
            let inner = schema.and_then(|schema| schema.items.as_deref());
            if inner.is_none() && open {
                return;
            }
            for (index, item) in items.iter_mut().enumerate() {
                let whole = inner.is_some_and(|inner| inner.embedded);
                walk(item, inner, whole, format!("{path}[{index}]"), gone);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(schema: Value, object: Value, expected: Value, gone: &[&str]) {
        let mut pruned = object;
        let found = prune(&mut pruned, &Structural::read(&schema), true);
        assert_eq!(pruned, expected);
        assert_eq!(found, gone);
    }

    #[test]
    fn what_is_not_named_goes() {
        let schema = json!({ "type": "object", "properties": {
            "spec": { "type": "object", "properties": {
                "a": { "type": "string" },
                "open": { "type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
                    "shut": { "type": "object", "properties": { "x": { "type": "integer" } } } } },
                "map": { "type": "object", "additionalProperties": { "type": "object", "properties": {
                    "k": { "type": "string" } } } },
                "list": { "type": "array", "items": { "type": "object", "properties": { "n": { "type": "integer" } } } },
                "pod": { "type": "object", "x-kubernetes-embedded-resource": true, "properties": {
                    "spec": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } } },
            } },
        } });
        check(
            schema,
            json!({ "apiVersion": "v1", "kind": "X", "metadata": { "name": "a" }, "other": 1, "spec": {
                "a": "b", "b": 1,
                "open": { "y": 1, "shut": { "x": 1, "z": 2 } },
                "map": { "one": { "k": "v", "l": "w" } },
                "list": [{ "n": 1, "m": 2 }, {}],
                "pod": { "apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": { "q": 1 }, "status": {} },
            } }),
            json!({ "apiVersion": "v1", "kind": "X", "metadata": { "name": "a" }, "spec": {
                "a": "b",
                "open": { "y": 1, "shut": { "x": 1 } },
                "map": { "one": { "k": "v" } },
                "list": [{ "n": 1 }, {}],
                "pod": { "apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": { "q": 1 } },
            } }),
            &["other", "spec.b", "spec.list[0].m", "spec.map.one.l", "spec.open.shut.z", "spec.pod.status"],
        );
    }

    #[test]
    fn a_schema_without_words_keeps_nothing() {
        check(
            json!({ "type": "object" }),
            json!({ "kind": "X", "spec": {} }),
            json!({ "kind": "X" }),
            &["spec"],
        );
        let open = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        check(
            open,
            json!({ "kind": "X", "a": [{ "b": {} }] }),
            json!({ "kind": "X", "a": [{ "b": {} }] }),
            &[],
        );
    }
}
