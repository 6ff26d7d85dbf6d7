//! Sets of an object's fields, in the form in which it is remembered who manages them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::schema::{ListKind, Schema};

/// A set of fields: a tree of path elements in the form of `FieldsV1` ("f:name", "k:{…}", "v:…").
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    pub(super) own: bool,
    pub(super) children: BTreeMap<String, Fields>,
}

/// Fields that nobody manages.
const STRIPPED: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "generation",
    "resourceVersion",
    "managedFields",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generateName",
];

impl Fields {
    /// The fields that an object sets.
    pub fn of_object(object: &Value, schema: Option<&Schema>) -> Fields {
        Fields::of_difference(object, &Value::Null, schema)
    }

    /// The fields that an object sets, but for those whose values another object has as well: of a large object that
    /// hardly changes nothing else is looked at.
    pub(super) fn of_difference(object: &Value, other: &Value, schema: Option<&Schema>) -> Fields {
        let mut fields = Fields::default();
        for (key, value) in object.as_object().into_iter().flatten() {
            let theirs = other.get(key);
            if matches!(key.as_str(), "apiVersion" | "kind") || theirs == Some(value) {
                continue;
            }
            let schema = schema.and_then(|schema| schema.field(key));
            let child = if key == "metadata" {
                let mut metadata = Fields::of_others(value, theirs, schema, STRIPPED);
                metadata.own = false;
                metadata
            } else {
                Fields::of_others(value, theirs, schema, &[])
            };
            if key != "metadata" || !child.children.is_empty() {
                fields.children.insert(format!("f:{key}"), child);
            }
        }
        fields
    }

    /// Of an object's fields those that another has not, or has with other values.
    fn of_others(value: &Value, other: Option<&Value>, schema: Option<&Schema>, left_out: &[&str]) -> Fields {
        let Value::Object(map) = value else { return Fields::of(value, schema) };
        if schema.is_some_and(|schema| schema.is_atomic() || schema.is_free()) {
            return Fields::of(value, schema);
        }
        let mut fields = Fields { own: map.is_empty(), children: BTreeMap::new() };
        for (key, value) in map.iter().filter(|(key, _)| !left_out.contains(&key.as_str())) {
            let theirs = other.and_then(|other| other.get(key));
            if theirs != Some(value) {
                let schema = schema.and_then(|schema| schema.field(key));
                fields.children.insert(format!("f:{key}"), Fields::of_others(value, theirs, schema, &[]));
            }
        }
        fields
    }

    fn of(value: &Value, schema: Option<&Schema>) -> Fields {
        let mut fields = Fields::default();
        match value {
            Value::Object(map) if !schema.is_some_and(|schema| schema.is_atomic() || schema.is_free()) => {
                fields.own = map.is_empty();
                for (key, value) in map {
                    let schema = schema.and_then(|schema| schema.field(key));
                    fields.children.insert(format!("f:{key}"), Fields::of(value, schema));
                }
            }
            Value::Array(items) => match schema.map_or(ListKind::Atomic, Schema::list) {
                ListKind::Atomic => fields.own = true,
                ListKind::Set => {
                    for item in items {
                        fields
                            .children
                            .insert(format!("v:{item}"), Fields { own: true, ..Fields::default() });
                    }
                    fields.own = items.is_empty();
                }
                ListKind::Map(keys) => {
                    let schema = schema.and_then(Schema::items);
                    for item in items {
                        let mut child = Fields::of(item, schema);
                        child.own = true;
                        fields.children.insert(item_key(item, keys, schema), child);
                    }
                    fields.own = items.is_empty();
                }
            },
            _ => fields.own = true,
        }
        fields
    }

    /// Reads `FieldsV1`. What is no field is left out.
    pub fn from_value(value: &Value) -> Fields {
        Fields::read(value, 0)
    }

    fn read(value: &Value, depth: usize) -> Fields {
        let Some(map) = value.as_object().filter(|_| depth < 100) else { return Fields::default() };
        let mut fields = Fields { own: map.is_empty() || map.contains_key("."), children: BTreeMap::new() };
        for (key, value) in map.iter().filter(|(key, _)| *key != ".") {
            fields.children.insert(key.clone(), Fields::read(value, depth + 1));
        }
        fields
    }

    /// Writes `FieldsV1`.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        if self.own && !self.children.is_empty() {
            map.insert(".".into(), json!({}));
        }
        for (key, child) in &self.children {
            map.insert(key.clone(), child.to_value());
        }
        Value::Object(map)
    }

    /// Whether taking these fields away from a set in its written form would change it.
    pub(super) fn touch(&self, written: &Value) -> bool {
        let Some(map) = written.as_object() else { return false };
        (self.own && (map.is_empty() || map.contains_key(".")))
            || self.children.iter().any(|(key, child)| map.get(key).is_some_and(|inner| child.touch(inner)))
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        !self.own && self.children.is_empty()
    }

    pub(super) fn union(&mut self, other: &Fields) {
        self.own |= other.own;
        for (key, child) in &other.children {
            self.children.entry(key.clone()).or_default().union(child);
        }
    }

    pub(super) fn subtract(&mut self, other: &Fields) {
        self.own &= !other.own;
        for (key, child) in &other.children {
            if let Some(mine) = self.children.get_mut(key) {
                mine.subtract(child);
                if mine.is_empty() {
                    self.children.remove(key);
                }
            }
        }
    }

    pub(super) fn intersection(&self, other: &Fields) -> Fields {
        let mut both = Fields { own: self.own && other.own, children: BTreeMap::new() };
        for (key, child) in &self.children {
            if let Some(theirs) = other.children.get(key) {
                let common = child.intersection(theirs);
                if !common.is_empty() {
                    both.children.insert(key.clone(), common);
                }
            }
        }
        both
    }

    pub(super) fn paths(&self, prefix: &str, paths: &mut Vec<String>) {
        if self.own && !prefix.is_empty() {
            paths.push(prefix.to_owned());
        }
        for (key, child) in &self.children {
            let element = match key.split_at_checked(2).unwrap_or(("", key)) {
                ("f:", name) => format!(".{name}"),
                ("k:", keys) => {
                    let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                    let keys: Vec<String> =
                        keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                    format!("[{}]", keys.join(","))
                }
                ("v:", value) => format!("[={value}]"),
                (_, other) => format!("[{other}]"),
            };
            child.paths(&format!("{prefix}{element}"), paths);
        }
    }
}

/// The path element of an item of a list that is merged by keys.
pub(super) fn item_key(item: &Value, keys: &[String], schema: Option<&Schema>) -> String {
    let mut map = Map::new();
    for key in keys {
        let value = item
            .get(key)
            .cloned()
            .or_else(|| schema.and_then(|schema| schema.field(key)).and_then(Schema::default_value).cloned());
        if let Some(value) = value {
            map.insert(key.clone(), value);
        }
    }
    format!("k:{}", Value::Object(map))
}

/// The child of a value that a path element names.
fn child<'a>(value: &'a Value, element: &str, schema: Option<&Schema>) -> Option<&'a Value> {
    match element.split_at_checked(2)? {
        ("f:", name) => value.get(name),
        ("k:", _) => {
            let ListKind::Map(keys) = schema?.list() else { return None };
            let items = schema.and_then(Schema::items);
            value.as_array()?.iter().find(|item| item_key(item, keys, items) == element)
        }
        ("v:", text) => {
            let wanted: Value = serde_json::from_str(text).ok()?;
            value.as_array()?.iter().find(|item| **item == wanted)
        }
        _ => None,
    }
}

pub(super) fn child_schema<'a>(element: &str, schema: Option<&'a Schema>) -> Option<&'a Schema> {
    match element.split_at_checked(2)? {
        ("f:", name) => schema?.field(name),
        _ => schema?.items(),
    }
}

/// Of a set of fields, those whose values differ between two objects.
pub(super) fn differing(
    fields: &Fields,
    left: Option<&Value>,
    right: Option<&Value>,
    schema: Option<&Schema>,
) -> Fields {
    let mut found = Fields::default();
    if fields.children.is_empty() {
        found.own = fields.own && left != right;
        return found;
    }
    found.own = fields.own && left.is_some() != right.is_some();
    for (element, inner) in &fields.children {
        let (left, right) = (
            left.and_then(|value| child(value, element, schema)),
            right.and_then(|value| child(value, element, schema)),
        );
        let inner = differing(inner, left, right, child_schema(element, schema));
        if !inner.is_empty() {
            found.children.insert(element.clone(), inner);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::schema;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(json!(1)), Just(json!(2)), Just(json!({})), Just(json!([]))];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    fn object() -> impl Strategy<Value = Value> {
        let containers = prop::collection::btree_map("[a-c]", "[12]", 0..3).prop_map(|containers| {
            let items = containers.into_iter().map(|(name, image)| json!({ "name": name, "image": image }));
            Value::Array(items.collect())
        });
        let labels = prop::collection::btree_map("[a-b]", "[12]", 0..3);
        (containers, labels, value()).prop_map(|(containers, labels, other)| {
            json!({ "metadata": { "name": "x", "labels": labels }, "spec": { "containers": containers },
                "other": other })
        })
    }

    proptest! {
        #[test]
        fn looking_only_at_what_differs_finds_the_same(old in object(), new in object()) {
            let schema = schema::find("io.k8s.api.core.v1.Pod");
            let found = |before: &Fields, after: &Fields| {
                let mut all = after.clone();
                all.union(before);
                let mut gone = before.clone();
                gone.subtract(after);
                (differing(&all, Some(&old), Some(&new), schema), gone)
            };
            let whole = found(&Fields::of_object(&old, schema), &Fields::of_object(&new, schema));
            let part = found(
                &Fields::of_difference(&old, &new, schema),
                &Fields::of_difference(&new, &old, schema),
            );
            prop_assert_eq!(whole, part);
        }
    }

    proptest! {
        #[test]
        fn what_is_touched_is_changed(set in object(), taken in object()) {
            let schema = schema::find("io.k8s.api.core.v1.Pod");
            let taken = Fields::of_object(&taken, schema);
            let written = Fields::of_object(&set, schema).to_value();
            let set = Fields::from_value(&written);
            let mut left = set.clone();
            left.subtract(&taken);
            // What is taken away whole leaves nothing of what held it.
            prop_assert!(taken.touch(&written) || left == set || left.to_value() == written);
            if taken.touch(&written) {
                prop_assert_ne!(left, set);
            }
        }
    }

    #[test]
    fn sets_survive_their_written_form() {
        let value = json!({ "f:a": { ".": {}, "f:b": {} }, "f:c": { "v:1": {} } });
        assert_eq!(Fields::from_value(&value).to_value(), value);
    }
}
