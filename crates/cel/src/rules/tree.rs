//! The rules of a schema as a tree of the same shape, without the parts that no rule is in.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value as Json;

use super::{
    DEEPEST, Rule, TYPE_NAME,
    compile::{Compiled, compile},
};
use crate::schema::{Declared, ListStyle, additional, escape, says};

/// The compiled rules of a schema.
#[derive(Debug)]
pub struct Validator(pub(super) Node);

/// The rules of one part of a schema and of what is below it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) declared: Arc<Declared>,
    /// Whether the value of an error is left out.
    pub(super) is_composite: bool,
    /// The type of the schema, as errors show it in place of a value.
    pub(super) type_name: String,
    pub(super) rules: Vec<Compiled>,
    pub(super) items: Option<Box<Node>>,
    /// The fields that tell the elements of a map list apart.
    pub(super) list_keys: Option<Vec<String>>,
    pub(super) properties: BTreeMap<String, Node>,
    pub(super) values: Option<Box<Node>>,
    pub(super) all_of: Vec<Node>,
    /// Whether entries are the same as those of before by their keys.
    pub(super) is_correlatable: bool,
}

impl Validator {
    /// Compiles the rules of a schema for Kubernetes 1.`minor`; nothing where it has none.
    ///
    /// `root` says that the schema is that of a resource, whose type, kind and names expressions can always see.
    pub fn new(schema: &Json, root: bool, minor: u32) -> Option<Validator> {
        if !has_rules(schema, 0) {
            return None;
        }
        let declared = Arc::new(Declared::from_schema(schema, root, TYPE_NAME)?);
        build(schema, schema, declared, minor, 0).map(Validator)
    }
}

/// Whether there is any rule.
pub(super) fn has_rules(schema: &Json, depth: usize) -> bool {
    if depth == DEEPEST {
        return false;
    }
    let below = |schema: &Json| has_rules(schema, depth + 1);
    let list = |name: &str| schema.get(name).and_then(Json::as_array).is_some_and(|of| of.iter().any(below));
    schema.get("x-kubernetes-validations").and_then(Json::as_array).is_some_and(|rules| !rules.is_empty())
        || schema.get("items").is_some_and(below)
        || additional(schema).is_some_and(below)
        || schema.get("properties").and_then(Json::as_object).is_some_and(|of| of.values().any(below))
        || list("allOf")
}

/// The declarations of what is below a schema, shared where the parent's declaration has them.
fn of_item(declared: &Declared) -> Option<Arc<Declared>> {
    declared.item().cloned().map(Arc::new)
}

fn build(rules: &Json, schema: &Json, declared: Arc<Declared>, minor: u32, depth: usize) -> Option<Node> {
    if depth == DEEPEST {
        return None;
    }
    let compiled = compile(Rule::of(rules), schema, &declared, minor);
    let below = |name: &str| -> Option<Box<Node>> {
        let (rules, schema) = (rules.get(name)?, schema.get(name)?);
        build(rules, schema, of_item(&declared)?, minor, depth + 1).map(Box::new)
    };
    let items = below("items");
    let values = additional(rules).and_then(|_| below("additionalProperties"));
    let mut properties = BTreeMap::new();
    for (name, rules) in rules.get("properties").and_then(Json::as_object).into_iter().flatten() {
        let Some(schema) = schema.get("properties").and_then(|properties| properties.get(name)) else {
            continue;
        };
        let declared = match escape(name) {
            Some(escaped) => {
                declared.object().and_then(|of| of.fields.get(&escaped)).map(|field| field.declared.clone())
            }
            // A name that no expression can use: what is below it can have rules of its own.
            None => Declared::from_schema(schema, says(schema, "x-kubernetes-embedded-resource"), TYPE_NAME)
                .map(Arc::new),
        };
        let Some(declared) = declared else { continue };
        if let Some(node) = build(rules, schema, declared, minor, depth + 1) {
            properties.insert(name.clone(), node);
        }
    }
    let all_of = rules.get("allOf").and_then(Json::as_array).into_iter().flatten();
    let all_of: Vec<Node> =
        all_of.filter_map(|rules| build(rules, schema, declared.clone(), minor, depth + 1)).collect();
    if compiled.is_empty()
        && items.is_none()
        && values.is_none()
        && properties.is_empty()
        && all_of.is_empty()
    {
        return None;
    }
    let type_name = schema.get("type").and_then(Json::as_str).unwrap_or_default().to_owned();
    let list_keys = match declared.list_style() {
        ListStyle::Map(_) => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Json::as_array);
            Some(keys.into_iter().flatten().filter_map(Json::as_str).map(str::to_owned).collect())
        }
        _ => None,
    };
    let map_type = schema.get("x-kubernetes-map-type").and_then(Json::as_str);
    Some(Node {
        is_composite: matches!(type_name.as_str(), "object" | "array"),
        type_name,
        rules: compiled,
        items,
        list_keys,
        properties,
        values,
        all_of,
        is_correlatable: matches!(map_type, None | Some("granular" | "atomic")),
        declared,
    })
}
