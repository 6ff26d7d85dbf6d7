//! The rules of structural schemas: every value's type is said once, outside of what is said about its value, so that what
//! is taken away and filled in does not depend on it
//! (<https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>).

use dray_cel::Pattern;
use dray_machinery::FieldErrors;
use serde_json::{Value, json};

use super::super::structural::child;

/// Where in the schema one is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What cannot be said about a value only, and what it must be there instead.
const NOT_OF_VALUES: [(&str, &str); 12] = [
    ("type", "empty"),
    ("additionalProperties", "undefined"),
    ("default", "undefined"),
    ("title", "empty"),
    ("description", "empty"),
    ("nullable", "false"),
    ("externalDocs", "undefined"),
    ("x-kubernetes-preserve-unknown-fields", "false"),
    ("x-kubernetes-embedded-resource", "false"),
    ("x-kubernetes-int-or-string", "false"),
    ("x-kubernetes-list-map-keys", "empty"),
    ("x-kubernetes-list-type", "undefined"),
];

/// Says what is not structural in a schema.
pub(super) fn check(schema: &Value, path: &str, errors: &mut FieldErrors) {
    invariants(schema, Level::Root, path, errors);
    complete(schema, path, errors);
}

fn yes(schema: &Value, name: &str) -> bool {
    schema[name] == true
}

fn parts<'a>(schema: &'a Value, path: &str) -> Vec<(&'a Value, Level, String)> {
    let mut parts = Vec::new();
    if schema["items"].is_object() {
        parts.push((&schema["items"], Level::Item, child(path, "items")));
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        parts.push((property, Level::Field, format!("{}[{name}]", child(path, "properties"))));
    }
    if schema["additionalProperties"].is_object() {
        parts.push((&schema["additionalProperties"], Level::Field, child(path, "additionalProperties")));
    }
    parts
}

fn invariants(schema: &Value, level: Level, path: &str, errors: &mut FieldErrors) {
    let at = |name: &str| child(path, name);
    let kind = schema["type"].as_str().unwrap_or_default();
    if kind == "array" && schema["items"].is_null() {
        errors.required(at("items"), "must be specified");
    }
    if level == Level::Root && !matches!(schema["additionalProperties"], Value::Null | Value::Bool(false)) {
        errors.forbidden(at("additionalProperties"), "must not be used at the root");
    }
    for (part, level, path) in parts(schema, path) {
        invariants(part, level, &path, errors);
    }
    let (int_or_string, open, embedded) = (
        yes(schema, "x-kubernetes-int-or-string"),
        yes(schema, "x-kubernetes-preserve-unknown-fields"),
        yes(schema, "x-kubernetes-embedded-resource"),
    );
    for (set, name) in
        [(open, "x-kubernetes-preserve-unknown-fields"), (embedded, "x-kubernetes-embedded-resource")]
    {
        if int_or_string && set {
            errors.invalid(at(name), true, "must be false if x-kubernetes-int-or-string is true");
        }
    }
    about_values(schema, schema, path, errors);
    if embedded && kind != "object" {
        let words = "must be object if x-kubernetes-embedded-resource is true";
        if kind.is_empty() {
            errors.required(at("type"), words);
        } else {
            errors.invalid(at("type"), kind, words);
        }
    } else if kind.is_empty() && !int_or_string && !open {
        let place = match level {
            Level::Root => "at the root",
            Level::Item => "for specified array items",
            Level::Field => "for specified object fields",
        };
        errors.required(at("type"), format!("must not be empty {place}"));
    }
    if embedded && !schema["additionalProperties"].is_null() {
        let words = "must not be used if x-kubernetes-embedded-resource is set";
        errors.forbidden(at("additionalProperties"), words);
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.invalid(at("type"), kind, "must be object at the root");
    }
    meta(schema, level, embedded, path, errors);
    let named = schema["properties"].as_object().is_some_and(|properties| !properties.is_empty());
    if embedded && !open && !named {
        let words = "must not be empty if x-kubernetes-embedded-resource is true without \
                     x-kubernetes-preserve-unknown-fields";
        errors.required(at("properties"), words);
    }
}

/// What a whole object says of its type and its metadata.
fn meta(schema: &Value, level: Level, embedded: bool, path: &str, errors: &mut FieldErrors) {
    let properties = &schema["properties"];
    let at = |name: &str| format!("{}[{name}]", child(path, "properties"));
    let whole = level == Level::Root || embedded;
    for (name, wanted) in [("kind", "string"), ("apiVersion", "string"), ("metadata", "object")] {
        let given = properties[name]["type"].as_str().unwrap_or_default();
        if whole && !properties[name].is_null() && given != wanted {
            errors.invalid(child(&at(name), "type"), given, format!("must be {wanted}"));
        }
    }
    if level != Level::Root {
        return;
    }
    let Some(metadata) = properties["metadata"].as_object() else { return };
    // Its names can be limited, and it can be described; everything else is known.
    let fine = metadata.iter().all(|(name, value)| match name.as_str() {
        "type" | "default" => true,
        "properties" => value
            .as_object()
            .is_some_and(|named| named.keys().all(|name| matches!(name.as_str(), "name" | "generateName"))),
        _ => false,
    });
    if !fine {
        let words = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.forbidden(at("metadata"), words);
    }
}

/// Whether alternatives say no more than that a value is a number or a text.
fn is_int_or_string(alternatives: &Value) -> bool {
    *alternatives == json!([{ "type": "integer" }, { "type": "string" }])
}

/// What a schema says about values: `schema` is the part that has the type.
fn about_values(schema: &Value, said: &Value, path: &str, errors: &mut FieldErrors) {
    let at = |name: &str| child(path, name);
    let of = yes(schema, "x-kubernetes-int-or-string");
    for word in ["anyOf", "allOf", "oneOf"] {
        if word == "anyOf" && of && is_int_or_string(&said[word]) {
            continue;
        }
        for (index, part) in said[word].as_array().into_iter().flatten().enumerate() {
            let path = format!("{}[{index}]", at(word));
            if word == "allOf" && index == 0 && of && is_int_or_string(&part["anyOf"]) {
                let mut rest = part.clone();
                dray_machinery::object::remove(&mut rest, "anyOf");
                nested(&rest, &path, errors);
            } else {
                nested(part, &path, errors);
            }
        }
    }
    if said["not"].is_object() {
        nested(&said["not"], &at("not"), errors);
    }
    let pattern = said["pattern"].as_str().unwrap_or_default();
    if let Err(why) = Pattern::new(pattern) {
        errors.invalid(
            at("pattern"),
            pattern,
            format!("must be a valid regular expression, but isn't: {why}"),
        );
    }
}

/// What is said below a junctor.
fn nested(said: &Value, path: &str, errors: &mut FieldErrors) {
    let at = |name: &str| child(path, name);
    about_values(&Value::Null, said, path, errors);
    if said["items"].is_object() {
        nested(&said["items"], &at("items"), errors);
    }
    for (name, property) in said["properties"].as_object().into_iter().flatten() {
        nested(property, &format!("{}[{name}]", at("properties")), errors);
    }
    for (name, wanted) in NOT_OF_VALUES {
        let given = &said[name];
        if !given.is_null() && *given != false && *given != "" && *given != json!([]) {
            errors.forbidden(at(name), format!("must be {wanted} to be structural"));
        }
    }
    for (name, wanted) in [("x-kubernetes-map-type", "undefined"), ("x-kubernetes-validations", "empty")] {
        if !said[name].is_null() {
            errors.forbidden(at(name), format!("must be {wanted} to be structural"));
        }
    }
    if said["properties"].get("metadata").is_some() {
        let words = "must not be specified in a nested context";
        errors.forbidden(format!("{}[metadata]", at("properties")), words);
    }
}

/// What junctors speak of is there outside of them.
fn complete(schema: &Value, path: &str, errors: &mut FieldErrors) {
    junctors(schema, schema, path, path, errors);
    for (part, _, path) in parts(schema, path) {
        complete(part, &path, errors);
    }
}

fn junctors(said: &Value, skeleton: &Value, path: &str, said_path: &str, errors: &mut FieldErrors) {
    for word in ["anyOf", "allOf", "oneOf"] {
        for (index, part) in said[word].as_array().into_iter().flatten().enumerate() {
            mirrored(part, skeleton, path, &format!("{}[{index}]", child(said_path, word)), errors);
        }
    }
    if said["not"].is_object() {
        mirrored(&said["not"], skeleton, path, &child(said_path, "not"), errors);
    }
}

/// `path` is where the skeleton is, `said_path` where it is spoken of.
fn mirrored(said: &Value, skeleton: &Value, path: &str, said_path: &str, errors: &mut FieldErrors) {
    if !skeleton.is_object() {
        errors.required(path, format!("because it is defined in {said_path}"));
        return;
    }
    junctors(said, skeleton, path, said_path, errors);
    if said["items"].is_object() {
        let (place, said_place) = (child(path, "items"), child(said_path, "items"));
        mirrored(&said["items"], &skeleton["items"], &place, &said_place, errors);
    }
    for (name, property) in said["properties"].as_object().into_iter().flatten() {
        let below = |path: &str| format!("{}[{name}]", child(path, "properties"));
        let of = skeleton["properties"].get(name).unwrap_or(&Value::Null);
        mirrored(property, of, &below(path), &below(said_path), errors);
    }
}
