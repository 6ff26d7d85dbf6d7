//! Strategic merge patches: merge patches that know by which key the items of a list are the same.

use serde_json::{Map, Value};

use crate::{Status, schema::Schema};

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

/// Applies a strategic merge patch.
///
/// # Errors
/// 400 for directives that make no sense.
pub fn strategic(object: &mut Value, patch: &Value, schema: Option<&Schema>) -> Result<(), Status> {
    let Some(changes) = patch.as_object() else {
        return Err(Status::bad_request("the patch is no object"));
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Some(fields) = object.as_object_mut() else { return Ok(()) };
    match changes.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => {
            *object = stripped(patch);
            return Ok(());
        }
        Some("delete") => {
            fields.clear();
            return Ok(());
        }
        Some(other) => return Err(Status::bad_request(format!("unknown patch type found: {other}"))),
    }
    if let Some(retained) = changes.get(RETAIN).and_then(Value::as_array) {
        fields.retain(|key, _| retained.iter().any(|kept| kept == key));
    }
    for (key, change) in changes {
        if let Some(list) = key.strip_prefix(DELETE) {
            let gone = change.as_array().map_or(&[][..], Vec::as_slice);
            if let Some(items) = fields.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|item| !gone.contains(item));
            }
        }
    }
    for (key, change) in changes {
        if key.starts_with('$') {
            continue;
        }
        let schema = schema.and_then(|schema| schema.field(key));
        match change {
            Value::Null => {
                fields.remove(key);
            }
            Value::Object(_) => {
                let slot = fields.entry(key.clone()).or_insert(Value::Null);
                if schema.is_none() {
                    super::merge(slot, change);
                } else {
                    strategic(slot, change, schema)?;
                }
                if change.get(DIRECTIVE).is_some_and(|directive| directive == "delete") {
                    fields.remove(key);
                }
            }
            Value::Array(items) => match schema.and_then(Schema::patch_merge) {
                Some(by) => {
                    let slot = fields.entry(key.clone()).or_insert_with(|| Value::Array(Vec::new()));
                    if !slot.is_array() {
                        *slot = Value::Array(Vec::new());
                    }
                    if let Some(list) = slot.as_array_mut() {
                        merge_list(list, items, by, schema.and_then(Schema::items))?;
                    }
                }
                None => {
                    fields.insert(key.clone(), stripped(change));
                }
            },
            other => {
                fields.insert(key.clone(), other.clone());
            }
        }
    }
    for (key, change) in changes {
        if let Some(list) = key.strip_prefix(ORDER)
            && let Some(items) = fields.get_mut(list).and_then(Value::as_array_mut)
            && let Some(order) = change.as_array()
        {
            let by = schema
                .and_then(|schema| schema.field(list))
                .and_then(Schema::patch_merge)
                .unwrap_or_default();
            sort(items, order, by);
        }
    }
    Ok(())
}

fn merge_list(
    list: &mut Vec<Value>,
    changes: &[Value],
    by: &str,
    schema: Option<&Schema>,
) -> Result<(), Status> {
    if by.is_empty() {
        for change in changes {
            if !list.contains(change) {
                list.push(change.clone());
            }
        }
        return Ok(());
    }
    if changes.iter().any(|change| change[DIRECTIVE] == "replace" && change.get(by).is_none()) {
        *list = changes.iter().filter(|change| change[DIRECTIVE] != "replace").map(stripped).collect();
        return Ok(());
    }
    for change in changes {
        let Some(key) = change.get(by) else {
            return Err(Status::bad_request(format!(
                "map: {change} does not contain declared merge key: {by}"
            )));
        };
        let at = list.iter().position(|item| item.get(by) == Some(key));
        if change[DIRECTIVE] == "delete" {
            list.retain(|item| item.get(by) != Some(key));
        } else if let Some(at) = at {
            strategic(&mut list[at], change, schema)?;
        } else {
            list.push(stripped(change));
        }
    }
    Ok(())
}

/// Puts the items that `order` names into that order; others stay where they are among them.
fn sort(items: &mut Vec<Value>, order: &[Value], by: &str) {
    let rank = |item: &Value| {
        order.iter().position(|wanted| {
            if by.is_empty() {
                wanted == item
            } else {
                wanted.get(by).is_some_and(|key| item.get(by) == Some(key))
            }
        })
    };
    let mut named: Vec<(usize, usize, Value)> = Vec::new();
    let mut others: Vec<(usize, Value)> = Vec::new();
    for (index, item) in items.drain(..).enumerate() {
        match rank(&item) {
            Some(rank) => named.push((rank, index, item)),
            None => others.push((index, item)),
        }
    }
    named.sort_by_key(|(rank, _, _)| *rank);
    let mut others = others.into_iter().peekable();
    for (_, index, item) in named {
        while let Some((_, other)) = others.next_if(|(at, _)| *at < index) {
            items.push(other);
        }
        items.push(item);
    }
    items.extend(others.map(|(_, item)| item));
}

/// A value of a patch without its directives.
fn stripped(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .filter(|(key, value)| !key.starts_with('$') && !value.is_null())
                .map(|(key, value)| (key.clone(), stripped(value)))
                .collect(),
        ),
        Value::Array(items) => {
            Value::Array(items.iter().filter(|item| item[DIRECTIVE] != "delete").map(stripped).collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;
    use serde_json::json;

    fn check(object: Value, patch: Value, expected: Value) {
        let mut patched = object;
        strategic(&mut patched, &patch, schema::find("io.k8s.api.core.v1.PodSpec")).unwrap();
        assert_eq!(patched, expected);
    }

    #[test]
    fn lists_merge_by_key() {
        check(
            json!({ "containers": [{ "name": "a", "image": "1" }, { "name": "b" }] }),
            json!({ "containers": [{ "name": "a", "image": "2" }, { "name": "c" }] }),
            json!({ "containers": [{ "name": "a", "image": "2" }, { "name": "b" }, { "name": "c" }] }),
        );
        check(
            json!({ "containers": [{ "name": "a" }, { "name": "b" }] }),
            json!({ "$setElementOrder/containers": [{ "name": "c" }, { "name": "a" }],
                "containers": [{ "name": "c" }, { "name": "b", "$patch": "delete" }] }),
            json!({ "containers": [{ "name": "c" }, { "name": "a" }] }),
        );
        check(
            json!({ "containers": [{ "name": "a" }] }),
            json!({ "containers": [{ "$patch": "replace" }, { "name": "z" }] }),
            json!({ "containers": [{ "name": "z" }] }),
        );
    }

    #[test]
    fn maps_are_merged_replaced_and_retained() {
        check(
            json!({ "nodeSelector": { "a": "1" } }),
            json!({ "nodeSelector": { "b": "2", "a": null } }),
            json!({ "nodeSelector": { "b": "2" } }),
        );
        check(
            json!({ "nodeSelector": { "a": "1" } }),
            json!({ "nodeSelector": { "$patch": "replace", "b": "2" } }),
            json!({ "nodeSelector": { "b": "2" } }),
        );
        check(
            json!({ "volumes": [{ "name": "v", "emptyDir": {} }] }),
            json!({ "volumes": [{ "name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": { "path": "/" } }] }),
            json!({ "volumes": [{ "name": "v", "hostPath": { "path": "/" } }] }),
        );
    }
}
