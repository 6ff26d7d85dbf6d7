//! The words of OpenAPI 3.0 that a schema may use, and how they go together.

use dray_machinery::FieldErrors;
use serde_json::Value;

use super::super::structural::{Type, child, prune::META};

/// Words of the standard that have no meaning here.
const REFUSED: [&str; 6] =
    ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"];

/// What a root may say when the status is changed on its own, in the reference's names.
const AT_ROOT: [(&str, &str); 22] = [
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
    ("x-kubernetes-validations", "XValidations"),
];

/// Where in the schema one is.
#[derive(Clone, Copy, Default)]
struct Place<'a> {
    /// Whether it is the type or the metadata of an object.
    in_meta: bool,
    /// Why nothing may be filled in here.
    no_default: Option<&'a str>,
}

/// A root whose status is validated on its own says nothing about the whole.
pub(super) fn root(schema: &Value, path: &str, errors: &mut FieldErrors) {
    let empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    let other = schema
        .as_object()
        .into_iter()
        .flatten()
        .any(|(name, value)| !empty(value) && AT_ROOT.iter().all(|(known, _)| known != name));
    if other {
        let names: Vec<&str> = AT_ROOT.iter().map(|(_, name)| *name).collect();
        let words = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            names.join(" ")
        );
        errors.invalid(path, schema.clone(), words);
    }
}

/// Says what is wrong with the words of a schema.
pub(super) fn check(schema: &Value, path: &str, errors: &mut FieldErrors) {
    walk(schema, path, true, Place::default(), errors);
}

fn walk(schema: &Value, path: &str, root: bool, place: Place<'_>, errors: &mut FieldErrors) {
    let at = |name: &str| child(path, name);
    if let Some(why) = place.no_default.filter(|_| !schema["default"].is_null()) {
        errors.forbidden(at("default"), format!("must not be set {why}").trim_end());
    }
    for word in REFUSED.into_iter().filter(|word| !schema[*word].is_null()) {
        errors.forbidden(at(word), format!("{word} is not supported"));
    }
    let kind = schema["type"].as_str().unwrap_or_default();
    if kind == "null" {
        errors.forbidden(at("type"), "type cannot be set to null, use nullable as an alternative");
    } else if !kind.is_empty() && Type::parse(kind).is_none() {
        errors.not_supported(at("type"), kind, &Type::ALL.map(Type::as_str));
    }
    if schema["items"].is_array() {
        errors.forbidden(at("items"), "items must be a schema object and not an array");
    }
    if place.in_meta && schema["x-kubernetes-embedded-resource"] == true {
        errors.forbidden(at("x-kubernetes-embedded-resource"), "must not be used inside of resource meta");
    }
    if schema["uniqueItems"] == true {
        let words = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(at("uniqueItems"), words);
    }
    if schema["x-kubernetes-preserve-unknown-fields"] == false {
        errors.invalid(at("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined");
    }
    kinds_of_lists(schema, path, errors);
    below(schema, path, root, place, errors);
}

fn below(schema: &Value, path: &str, root: bool, place: Place<'_>, errors: &mut FieldErrors) {
    let at = |name: &str| child(path, name);
    let has_properties = schema["properties"].as_object().is_some_and(|properties| !properties.is_empty());
    let values = &schema["additionalProperties"];
    if has_properties && (values.is_object() || *values == false) {
        let words = "additionalProperties and properties are mutual exclusive";
        errors.forbidden(at("additionalProperties"), words);
    }
    if values.is_object() {
        let why = "inside additionalProperties applying to object metadata";
        let inner = if place.in_meta { Place { no_default: Some(why), ..place } } else { place };
        walk(values, &at("additionalProperties"), false, inner, errors);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let whole = root || schema["x-kubernetes-embedded-resource"] == true;
        let why = format!("in top-level {name}");
        let inner = if whole && META.contains(&name.as_str()) {
            Place { in_meta: true, no_default: if root { Some(&why) } else { place.no_default } }
        } else {
            place
        };
        walk(property, &format!("{}[{name}]", at("properties")), false, inner, errors);
    }
    for word in ["not", "items"] {
        if schema[word].is_object() {
            walk(&schema[word], &at(word), false, place, errors);
        }
    }
    for word in ["allOf", "oneOf", "anyOf"] {
        for (index, part) in schema[word].as_array().into_iter().flatten().enumerate() {
            walk(part, &format!("{}[{index}]", at(word)), false, place, errors);
        }
    }
}

/// Lists and maps that are told apart by something, and what their items must be for that.
fn kinds_of_lists(schema: &Value, path: &str, errors: &mut FieldErrors) {
    let at = |name: &str| child(path, name);
    let kind = schema["type"].as_str().unwrap_or_default();
    let mut needs = |wanted: &str, word: &str| {
        let words = format!("must be {wanted} if {word} is specified");
        match kind {
            kind if kind == wanted => return true,
            "" => errors.required(at("type"), words),
            other => errors.invalid(at("type"), other, words),
        }
        false
    };
    let (map, list) = ("x-kubernetes-map-type", "x-kubernetes-list-type");
    let (map_type, list_type) = (schema[map].as_str(), schema[list].as_str());
    if map_type.is_some() {
        needs("object", map);
    }
    let is_list = list_type.is_some() && needs("array", list);
    if let Some(other) = map_type.filter(|kind| !matches!(*kind, "atomic" | "granular")) {
        errors.not_supported(at(map), other, &["atomic", "granular"]);
    }
    if let Some(other) = list_type.filter(|kind| is_list && !matches!(*kind, "atomic" | "set" | "map")) {
        errors.not_supported(at(list), other, &["atomic", "map", "set"]);
    }
    let keys = &schema["x-kubernetes-list-map-keys"];
    let has_keys = keys.as_array().is_some_and(|keys| !keys.is_empty());
    match list_type {
        _ if !has_keys => {}
        Some("map") => {}
        Some(other) => {
            errors.invalid(at(list), other, "must be map if x-kubernetes-list-map-keys is non-empty");
        }
        None => errors.required(at(list), "must be map if x-kubernetes-list-map-keys is non-empty"),
    }
    let items = &schema["items"];
    match list_type {
        Some("map") => keyed(schema, items, path, errors),
        Some("set") => set(items, path, errors),
        _ => return,
    }
    if let Some(kind) = list_type.filter(|_| items["nullable"] == true) {
        let words = format!("cannot be nullable when x-kubernetes-list-type is {kind}");
        errors.forbidden(at("items.nullable"), words);
    }
}

fn keyed(schema: &Value, items: &Value, path: &str, errors: &mut FieldErrors) {
    let at = |name: &str| child(path, name);
    let list = &schema["x-kubernetes-list-map-keys"];
    let keys: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if keys.is_empty() {
        let words = "must not be empty if x-kubernetes-list-type is map";
        errors.required(at("x-kubernetes-list-map-keys"), words);
    }
    if !items.is_object() {
        errors.required(at("items"), "must have a schema if x-kubernetes-list-type is map");
        return;
    }
    let kind = items["type"].as_str().unwrap_or_default();
    if kind != "object" {
        let words = "must be object if parent array's x-kubernetes-list-type is map";
        errors.invalid(at("items.type"), kind, words);
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for key in keys {
        let Some(property) = items["properties"].get(key) else {
            let words = "entries must all be names of item properties";
            errors.invalid(at("x-kubernetes-list-map-keys"), list.clone(), words);
            continue;
        };
        let of = property["type"].as_str().unwrap_or_default();
        let property_path = format!("{}[{key}]", at("items.properties"));
        if matches!(of, "array" | "object" | "") {
            let words = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.invalid(child(&property_path, "type"), of, words);
        }
        if seen.contains(&key) {
            let words = "must not contain duplicate entries";
            errors.invalid(at("x-kubernetes-list-map-keys"), list.clone(), words);
        }
        seen.push(key);
        let required = items["required"].as_array().is_some_and(|names| names.iter().any(|name| name == key));
        if !required && property["default"].is_null() {
            let words = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.required(child(&property_path, "default"), words);
        }
    }
}

fn set(items: &Value, path: &str, errors: &mut FieldErrors) {
    let wanted = match items["type"].as_str() {
        Some("object") => "x-kubernetes-map-type",
        Some("array") => "x-kubernetes-list-type",
        _ => return,
    };
    let given = items[wanted].as_str().unwrap_or_default();
    let fine = given == "atomic" || (given.is_empty() && wanted == "x-kubernetes-list-type");
    if !fine {
        let words = "must be atomic as item of a list with x-kubernetes-list-type=set";
        errors.invalid(child(path, &format!("items.{wanted}")), given, words);
    }
}
