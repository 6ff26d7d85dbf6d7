//! Objects as JSON values: reading and writing the parts that all of them have, and their stored form.

use serde_json::{Map, Value};

/// The value at a path of keys; `Null` where there is none.
pub fn at<'a>(object: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(object, |value, key| &value[*key])
}

/// The text at a path of keys; empty where there is none.
pub fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).as_str().unwrap_or_default()
}

/// A field of the metadata as text; empty where there is none.
pub fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    text(object, &["metadata", field])
}

/// The object's name.
pub fn name(object: &Value) -> &str {
    meta(object, "name")
}

/// The object's namespace; empty where it has none.
pub fn namespace(object: &Value) -> &str {
    meta(object, "namespace")
}

/// The labels, or another map of texts in the metadata.
pub fn meta_map<'a>(object: &'a Value, field: &str) -> Option<&'a Map<String, Value>> {
    object["metadata"][field].as_object()
}

/// The items of a list of the metadata, as `finalizers`.
pub fn meta_list<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object["metadata"][field].as_array().map_or(&[], Vec::as_slice)
}

/// Whether the metadata names a finalizer.
pub fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    meta_list(object, "finalizers").iter().any(|item| item == finalizer)
}

/// Whether the object is on its way out.
pub fn is_terminating(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// The metadata to be changed; made where there is none. `object` must be a JSON object.
pub fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    child(object, "metadata")
}

/// A sub-object to be changed; made, or put in the place of anything else, where there is none.
pub fn child<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let slot = &mut object[key];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("it was just made an object")
}

/// Sets a text field of the metadata, or removes it when empty.
pub fn set_meta(object: &mut Value, field: &str, value: &str) {
    let metadata = meta_mut(object);
    if value.is_empty() {
        metadata.remove(field);
    } else {
        metadata.insert(field.into(), Value::String(value.into()));
    }
}

/// The items of a list to be changed; none where there is no list.
pub fn items_mut<'a>(object: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    object.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Removes every `null` of an object's maps, which the API reads as not being there.
pub fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(prune_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

/// Removes a field of a map, where there is a map.
pub fn remove(object: &mut Value, key: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(key);
    }
}

/// Copies a top-level field from one object to another, or removes it there.
pub fn copy_field(from: &Value, to: &mut Value, key: &str) {
    match from.get(key) {
        Some(value) => to[key] = value.clone(),
        None => remove(to, key),
    }
}

/// The `resourceVersion` of an object, where it has one that is a number.
pub fn revision(object: &Value) -> Option<u64> {
    meta(object, "resourceVersion").parse().ok()
}

/// The stored form: the JSON text with an empty `resourceVersion`, and the place of that version's digits.
pub fn encode(object: &Value) -> (Vec<u8>, usize) {
    let mut text = Vec::with_capacity(1024);
    let mut at = 0;
    text.push(b'{');
    let mut first = true;
    for key in ["kind", "apiVersion"] {
        if let Some(value) = object.get(key) {
            field(&mut text, &mut first, key, value);
        }
    }
    if !first {
        text.push(b',');
    }
    first = false;
    text.extend_from_slice(b"\"metadata\":{\"resourceVersion\":\"");
    at += text.len();
    text.push(b'"');
    let mut inner = false;
    if let Some(metadata) = object["metadata"].as_object() {
        for (key, value) in metadata {
            if key != "resourceVersion" && !value.is_null() {
                field(&mut text, &mut inner, key, value);
            }
        }
    }
    text.push(b'}');
    if let Some(fields) = object.as_object() {
        for (key, value) in fields {
            if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") && !value.is_null() {
                field(&mut text, &mut first, key, value);
            }
        }
    }
    text.push(b'}');
    (text, at)
}

fn field(text: &mut Vec<u8>, first: &mut bool, key: &str, value: &Value) {
    if !*first {
        text.push(b',');
    }
    *first = false;
    // Writing JSON into memory cannot fail.
    let _ = serde_json::to_writer(&mut *text, key);
    text.push(b':');
    let _ = serde_json::to_writer(&mut *text, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn encodes_with_a_gap_for_the_version() {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "a", "resourceVersion": "7", "uid": null }, "spec": { "x": [1] },
        });
        let (mut text, at) = encode(&object);
        text.splice(at..at, b"42".iter().copied());
        let back: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(back["metadata"], json!({ "name": "a", "resourceVersion": "42" }));
        assert_eq!(back["spec"], object["spec"]);
        let (text, at) = encode(&json!({}));
        assert_eq!((text[at - 1], text[at]), (b'"', b'"'));
        assert!(serde_json::from_slice::<Value>(&text).is_ok());
    }
}
