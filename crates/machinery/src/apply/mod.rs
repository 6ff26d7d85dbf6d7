//! Server-side apply: who manages which fields, and merging what is applied into what is there
//! (structured-merge-diff, `FieldsV1`).

mod fields;
mod overlay;

use serde_json::{Map, Value, json};

use crate::{
    Cause, Reason, Status,
    schema::{ListKind, Schema},
    time,
};

pub use fields::Fields;
use fields::{child_schema, differing, item_key};
pub use overlay::lay_over;

/// Merges what is applied into what is there.
fn merge(live: &mut Value, applied: &Value, schema: Option<&Schema>) {
    match applied {
        Value::Object(fields) if !schema.is_some_and(|schema| schema.is_atomic() || schema.is_free()) => {
            if !live.is_object() {
                *live = json!({});
            }
            let Some(map) = live.as_object_mut() else { return };
            for (key, value) in fields {
                let schema = schema.and_then(|schema| schema.field(key));
                merge(map.entry(key.clone()).or_insert(Value::Null), value, schema);
            }
        }
        Value::Array(items) => {
            let kind = schema.map_or(ListKind::Atomic, Schema::list);
            let (Some(list), true) = (live.as_array_mut(), kind != ListKind::Atomic) else {
                *live = applied.clone();
                return;
            };
            let inner = schema.and_then(Schema::items);
            for item in items {
                let at = match kind {
                    ListKind::Map(keys) => {
                        let wanted = item_key(item, keys, inner);
                        list.iter().position(|other| item_key(other, keys, inner) == wanted)
                    }
                    _ => list.iter().position(|other| other == item),
                };
                match at {
                    Some(at) => merge(&mut list[at], item, inner),
                    None => list.push(item.clone()),
                }
            }
        }
        other => *live = other.clone(),
    }
}

/// Removes fields from an object.
fn prune(value: &mut Value, fields: &Fields, schema: Option<&Schema>) {
    for (element, inner) in &fields.children {
        let Some((kind, name)) = element.split_at_checked(2) else { continue };
        let below = child_schema(element, schema);
        match (kind, value.as_array_mut()) {
            ("f:", _) => {
                let Some(map) = value.as_object_mut() else { continue };
                if inner.own && inner.children.is_empty() {
                    map.remove(name);
                } else if let Some(child) = map.get_mut(name) {
                    prune(child, inner, below);
                    let emptied = child.as_object().is_some_and(Map::is_empty)
                        || child.as_array().is_some_and(Vec::is_empty);
                    if emptied {
                        map.remove(name);
                    }
                }
            }
            ("k:", Some(items)) => {
                let Some(ListKind::Map(keys)) = schema.map(Schema::list) else { continue };
                if inner.own {
                    items.retain(|item| item_key(item, keys, below) != *element);
                } else if let Some(item) =
                    items.iter_mut().find(|item| item_key(item, keys, below) == *element)
                {
                    prune(item, inner, below);
                }
            }
            ("v:", Some(items)) => {
                if let Ok(gone) = serde_json::from_str::<Value>(name) {
                    items.retain(|item| *item != gone);
                }
            }
            _ => {}
        }
    }
}

/// Who changes an object, and how.
#[derive(Debug, Clone, Copy)]
pub struct Manager<'a> {
    /// The name.
    pub name: &'a str,
    /// The version of the API that is spoken.
    pub api_version: &'a str,
    /// The subresource; empty for the object itself.
    pub subresource: &'a str,
}

fn entries(object: &Value) -> Vec<Value> {
    object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default()
}

fn text<'a>(entry: &'a Value, field: &str) -> &'a str {
    entry[field].as_str().unwrap_or_default()
}

fn is_same(entry: &Value, manager: Manager<'_>, operation: &str) -> bool {
    text(entry, "manager") == manager.name
        && text(entry, "operation") == operation
        && text(entry, "subresource") == manager.subresource
        && (operation == "Apply" || text(entry, "apiVersion") == manager.api_version)
}

fn make_entry(manager: Manager<'_>, operation: &str, fields: &Fields) -> Value {
    let mut entry = json!({
        "manager": manager.name, "operation": operation, "apiVersion": manager.api_version, "time": time::now(),
        "fieldsType": "FieldsV1", "fieldsV1": fields.to_value(),
    });
    if !manager.subresource.is_empty() {
        entry["subresource"] = json!(manager.subresource);
    }
    entry
}

fn set_entries(object: &mut Value, entries: Vec<Value>) {
    let metadata = crate::object::meta_mut(object);
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".into(), Value::Array(entries));
    }
}

/// Remembers a create or an update: what it changed is from now on its manager's, and nobody else's.
pub fn track_update(old: Option<&Value>, new: &mut Value, schema: Option<&Schema>, manager: Manager<'_>) {
    let given_up = new["metadata"].get("managedFields").is_some_and(|given| {
        given.as_array().is_some_and(|list| list.len() == 1 && list[0] == json!({}))
            || given.as_array().is_some_and(Vec::is_empty)
    });
    let mut list = if given_up { Vec::new() } else { old.map(entries).unwrap_or_default() };
    crate::object::meta_mut(new).remove("managedFields");
    let Some(before_object) = old else {
        let mine = Fields::of_object(new, schema);
        if !mine.is_empty() {
            list.push(make_entry(manager, "Update", &mine));
        }
        set_entries(new, list);
        return;
    };
    let after = Fields::of_difference(new, before_object, schema);
    let before = Fields::of_difference(before_object, new, schema);
    let mut all = after.clone();
    all.union(&before);
    let changed = differing(&all, Some(before_object), Some(new), schema);
    if changed.is_empty() {
        set_entries(new, list);
        return;
    }
    let mut gone = before.clone();
    gone.subtract(&after);
    let mut mine = changed.clone();
    mine.subtract(&gone);
    let mut kept = Vec::with_capacity(list.len() + 1);
    for mut entry in list.drain(..) {
        if is_same(&entry, manager, "Update") {
            let mut fields = Fields::from_value(&entry["fieldsV1"]);
            fields.subtract(&gone);
            mine.union(&fields);
            continue;
        }
        if changed.touch(&entry["fieldsV1"]) || gone.touch(&entry["fieldsV1"]) {
            let mut fields = Fields::from_value(&entry["fieldsV1"]);
            fields.subtract(&changed);
            fields.subtract(&gone);
            if fields.is_empty() {
                continue;
            }
            entry["fieldsV1"] = fields.to_value();
        }
        kept.push(entry);
    }
    if !mine.is_empty() {
        kept.push(make_entry(manager, "Update", &mine));
    }
    set_entries(new, kept);
}

/// Applies a configuration to an object (or to none), and returns the object as it is then.
///
/// # Errors
/// 409 with every field that another manager set to another value, unless `force`.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    schema: Option<&Schema>,
    manager: Manager<'_>,
    force: bool,
) -> Result<Value, Status> {
    let mut wanted = applied.clone();
    crate::object::meta_mut(&mut wanted).remove("managedFields");
    let mine = Fields::of_object(&wanted, schema);
    let mut merged = live.cloned().unwrap_or_else(|| json!({}));
    let mut list = live.map(entries).unwrap_or_default();
    let mut conflicts = Vec::new();
    let mut others = Fields::default();
    let mut previous = Fields::default();
    list.retain_mut(|entry| {
        let mut fields = Fields::from_value(&entry["fieldsV1"]);
        if is_same(entry, manager, "Apply") {
            previous = fields;
            return false;
        }
        let common = fields.intersection(&mine);
        let clash = differing(&common, live, Some(&wanted), schema);
        if !clash.is_empty() {
            if force {
                fields.subtract(&clash);
                entry["fieldsV1"] = fields.to_value();
            } else {
                let mut paths = Vec::new();
                clash.paths("", &mut paths);
                let version = match text(entry, "subresource") {
                    "" => text(entry, "apiVersion").to_owned(),
                    subresource => format!("{} with subresource {subresource:?}", text(entry, "apiVersion")),
                };
                conflicts.push((format!("{:?} using {version}", text(entry, "manager")), paths));
            }
        }
        others.union(&fields);
        !fields.is_empty()
    });
    if !conflicts.is_empty() {
        return Err(conflict(&conflicts));
    }
    merge(&mut merged, &wanted, schema);
    let mut dropped = previous;
    dropped.subtract(&mine);
    dropped.subtract(&others);
    prune(&mut merged, &dropped, schema);
    list.push(make_entry(manager, "Apply", &mine));
    set_entries(&mut merged, list);
    Ok(merged)
}

fn conflict(conflicts: &[(String, Vec<String>)]) -> Status {
    let count: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
    let mut parts = Vec::new();
    for (who, paths) in conflicts {
        parts.push(match paths.as_slice() {
            [one] => format!("conflict with {who}: {one}"),
            many => format!("conflicts with {who}:\n- {}", many.join("\n- ")),
        });
    }
    let noun = if count == 1 { "conflict" } else { "conflicts" };
    let mut status =
        Status::new(409, Reason::Conflict, format!("Apply failed with {count} {noun}: {}", parts.join("\n")));
    for (who, paths) in conflicts {
        status.causes.extend(paths.iter().map(|path| Cause {
            reason: "FieldManagerConflict".into(),
            message: format!("conflict with {who}"),
            field: path.clone(),
        }));
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    fn manager(name: &str) -> Manager<'_> {
        Manager { name, api_version: "v1", subresource: "" }
    }

    fn pod(containers: Value) -> Value {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" }, "spec": { "containers": containers } })
    }

    #[test]
    fn applying_merges_takes_away_and_conflicts() {
        let schema = schema::find("io.k8s.api.core.v1.Pod");
        let first = pod(json!([{ "name": "a", "image": "1" }, { "name": "b", "image": "1" }]));
        let one = apply(None, &first, schema, manager("one"), false).unwrap();
        let second = pod(json!([{ "name": "a", "image": "2" }]));
        let refused = apply(Some(&one), &second, schema, manager("two"), false).unwrap_err();
        assert_eq!(
            refused.message,
            "Apply failed with 1 conflict: conflict with \"one\" using v1: .spec.containers[name=\"a\"].image"
        );
        let two = apply(Some(&one), &second, schema, manager("two"), true).unwrap();
        assert_eq!(two["spec"]["containers"][0]["image"], "2");
        // What only "one" applied goes when "one" no longer applies it.
        let less = pod(json!([{ "name": "a" }]));
        let three = apply(Some(&two), &less, schema, manager("one"), false).unwrap();
        assert_eq!(three["spec"]["containers"], json!([{ "name": "a", "image": "2" }]));
    }

    #[test]
    fn updates_take_fields_over() {
        let schema = schema::find("io.k8s.api.core.v1.Pod");
        let one =
            apply(None, &pod(json!([{ "name": "a", "image": "1" }])), schema, manager("one"), false).unwrap();
        let mut new = one.clone();
        new["spec"]["containers"][0]["image"] = json!("2");
        track_update(Some(&one), &mut new, schema, manager("edit"));
        let list = new["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!(list.len(), 2);
        let edit = list.iter().find(|entry| entry["manager"] == "edit").unwrap();
        assert_eq!(
            edit["fieldsV1"],
            json!({ "f:spec": { "f:containers": { "k:{\"name\":\"a\"}": { "f:image": {} } } } })
        );
        let mut same = new.clone();
        track_update(Some(&new), &mut same, schema, manager("other"));
        assert_eq!(same["metadata"]["managedFields"], new["metadata"]["managedFields"]);
    }
}
