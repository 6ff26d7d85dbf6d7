//! Whole objects inside of others: their types and metadata are held to the rules of every object.

use dray_machinery::{FieldErrors, metadata, names, object, schema};
use serde_json::Value;

use super::{Structural, child};

/// Reads the types and metadata of an object, and of those that are embedded in it, as those of every object are read:
/// fields of the metadata that are not known go, and are named.
///
/// # Errors
/// What is of a wrong type.
pub(crate) fn coerce(value: &mut Value, schema: &Structural, root: bool) -> Result<Vec<String>, String> {
    let mut unknown = Vec::new();
    walk(value, schema, root, "", &mut unknown)?;
    Ok(unknown)
}

fn walk(
    value: &mut Value,
    schema: &Structural,
    whole: bool,
    path: &str,
    unknown: &mut Vec<String>,
) -> Result<(), String> {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let below = child(path, name);
                if whole || schema.embedded {
                    match name.as_str() {
                        "apiVersion" | "kind" => {
                            if !value.is_string() {
                                return Err(format!("{below}: Invalid value: {value}: must be a string"));
                            }
                            continue;
                        }
                        "metadata" => {
                            read_metadata(value, &below, unknown)?;
                            continue;
                        }
                        _ => {}
                    }
                }
                if let Some(inner) = schema.field(name) {
                    walk(value, inner, false, &below, unknown)?;
                }
            }
        }
        Value::Array(items) => {
            let Some(inner) = &schema.items else { return Ok(()) };
            for (index, item) in items.iter_mut().enumerate() {
                walk(item, inner, false, &format!("{path}[{index}]"), unknown)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn read_metadata(value: &mut Value, path: &str, unknown: &mut Vec<String>) -> Result<(), String> {
    if !value.is_object() {
        return Err(format!("{path}: Invalid value: {value}: must be an object"));
    }
    object::prune_nulls(value);
    let Some(schema) = schema::find(schema::METADATA) else { return Ok(()) };
    let found = schema::conform(value, schema).map_err(|why| format!("{path}: Invalid value: {why}"))?;
    unknown.extend(found.iter().map(|name| child(path, name)));
    Ok(())
}

/// Says what is wrong with the types and metadata of embedded objects. `root` says that this object's own are judged
/// elsewhere.
pub(crate) fn validate(value: &Value, schema: &Structural, root: bool, path: &str, errors: &mut FieldErrors) {
    if schema.embedded && !root && value.is_object() {
        validate_one(value, path, errors);
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let Some(inner) = schema.field(name) {
                    validate(value, inner, false, &child(path, name), errors);
                }
            }
        }
        Value::Array(items) => {
            let Some(inner) = &schema.items else { return };
            for (index, item) in items.iter().enumerate() {
                validate(item, inner, false, &format!("{path}[{index}]"), errors);
            }
        }
        _ => {}
    }
}

fn validate_one(value: &Value, path: &str, errors: &mut FieldErrors) {
    let version = object::text(value, &["apiVersion"]);
    if version.is_empty() {
        errors.required(child(path, "apiVersion"), "must not be empty");
    } else if version.matches('/').count() > 1 {
        errors.invalid(
            child(path, "apiVersion"),
            version,
            format!("unexpected GroupVersion string: {version}"),
        );
    }
    let kind = object::text(value, &["kind"]);
    if kind.is_empty() {
        errors.required(child(path, "kind"), "must not be empty");
    } else {
        let wrong = names::label_1035(&kind.to_lowercase());
        if !wrong.is_empty() {
            let words = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
            errors.invalid(child(path, "kind"), kind, words);
        }
    }
    let below = child(path, "metadata");
    let name = object::name(value);
    for wrong in names::path_segment(name) {
        errors.invalid(child(&below, "name"), name, wrong);
    }
    metadata::labels(object::at(value, &["metadata", "labels"]), &child(&below, "labels"), errors);
    metadata::annotations(
        object::at(value, &["metadata", "annotations"]),
        &child(&below, "annotations"),
        errors,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn embedded_objects_are_objects() {
        let schema = Structural::read(&json!({ "type": "object", "properties": { "pod": {
            "type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true } } }));
        let mut object = json!({ "metadata": { "name": "a", "nothing": 1 },
            "pod": { "metadata": { "labels": { "a b": "c" }, "other": true } } });
        let unknown = coerce(&mut object, &schema, true).unwrap();
        assert_eq!(unknown, ["metadata.nothing", "pod.metadata.other"]);
        let mut errors = FieldErrors::default();
        validate(&object, &schema, true, "", &mut errors);
        let found: Vec<String> = errors.as_slice().iter().map(ToString::to_string).collect();
        assert_eq!(found[0], "pod.apiVersion: Required value: must not be empty");
        assert_eq!(found[1], "pod.kind: Required value: must not be empty");
        assert!(found[2].starts_with("pod.metadata.labels: Invalid value: \"a b\""), "{}", found[2]);
        let wrong = |object: Value| coerce(&mut object.clone(), &schema, true).unwrap_err();
        assert_eq!(wrong(json!({ "metadata": "x" })), "metadata: Invalid value: \"x\": must be an object");
        assert_eq!(wrong(json!({ "kind": 1 })), "kind: Invalid value: 1: must be a string");
        assert!(wrong(json!({ "metadata": { "labels": { "a": 1 } } })).contains("cannot unmarshal number"));
    }
}
