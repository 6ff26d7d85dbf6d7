//! A structural schema as documents show it: each version of OpenAPI has words that the other lacks, and clients that
//! read version 2 take what they do not know for a mistake. It must not know definitions, kinds or requests.

use serde_json::{Map, Value, json};

use crate::openapi::V2;

/// The words that every version has.
const WORDS: [&str; 27] = [
    "type",
    "title",
    "description",
    "format",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "maxProperties",
    "minProperties",
    "required",
    "enum",
    "externalDocs",
    OPEN,
    EMBEDDED,
    INT_OR_STRING,
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-validations",
];
/// Those that version 2 lacks: what it cannot say, and what is filled in, which is none of its readers' business.
const NEWER: [&str; 2] = ["nullable", "default"];
/// Lists of schemas, which version 2 lacks too.
const CHOICES: [&str; 3] = ["allOf", "anyOf", "oneOf"];

const OPEN: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";

const KIND_TEXT: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer \
this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: \
https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const VERSION_TEXT: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should \
convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: \
https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const EMBEDDED_KIND_TEXT: &str = "kind is a string value representing the type of this object. In CamelCase. More info: \
https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const EMBEDDED_VERSION_TEXT: &str = "apiVersion defines the versioned schema of this representation of an object. More \
info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const METADATA_TEXT: &str = "Standard object's metadata. More info: \
https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// A reference to a schema, with a text of its own.
pub(super) fn described(name: &str, description: &str, prefix: &str) -> Value {
    let target = json!({ "$ref": format!("{prefix}{name}") });
    if prefix == V2 {
        json!({ "$ref": target["$ref"], "description": description })
    } else {
        // Version 3.0 allows nothing beside a reference.
        json!({ "allOf": [target], "description": description })
    }
}

/// The fields that say of what type an object is.
pub(super) fn types() -> [(&'static str, Value); 2] {
    [("apiVersion", text(VERSION_TEXT)), ("kind", text(KIND_TEXT))]
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn says(schema: &Value, word: &str) -> bool {
    schema[word] == true
}

/// The schema of a whole object.
pub(super) fn whole(schema: &Value, metadata: &str, prefix: &str) -> Value {
    // Readers of version 2 refuse every field that is not named where some are.
    if !schema.is_object() || (prefix == V2 && says(schema, OPEN)) {
        return json!({ "type": "object" });
    }
    let mut shown = part(schema, metadata, prefix);
    let properties = &mut shown["properties"];
    properties["metadata"] = described(metadata, METADATA_TEXT, prefix);
    for (name, field) in types() {
        properties[name] = field;
    }
    shown
}

/// Whether a word says nothing with this value.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(yes) => !yes,
        Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

fn part(schema: &Value, metadata: &str, prefix: &str) -> Value {
    let mut shown = Map::new();
    for (word, value) in schema.as_object().into_iter().flatten() {
        let kept = match word.as_str() {
            "items" if value.is_object() => part(value, metadata, prefix),
            "properties" => {
                let fields = value.as_object().into_iter().flatten();
                fields.map(|(name, field)| (name.clone(), part(field, metadata, prefix))).collect()
            }
            "additionalProperties" if value.is_object() => {
                shown.insert(word.clone(), part(value, metadata, prefix));
                continue;
            }
            "additionalProperties" => value.clone(),
            "not" if prefix != V2 => value.clone(),
            word if WORDS.contains(&word) => value.clone(),
            word if prefix != V2 && CHOICES.contains(&word) => value.clone(),
            word if prefix != V2 && NEWER.contains(&word) => {
                // What is filled in may be nothing.
                shown.insert(word.to_owned(), value.clone());
                continue;
            }
            _ => continue,
        };
        if !is_nothing(&kept) {
            shown.insert(word.clone(), kept);
        }
    }
    if prefix == V2 {
        simplify(schema, &mut shown);
    } else if says(schema, INT_OR_STRING) {
        unfold(&mut shown);
    }
    if says(schema, EMBEDDED) && !(prefix == V2 && says(schema, OPEN)) {
        embed(&mut shown, metadata, prefix);
    }
    Value::Object(shown)
}

/// Says less where version 2 would say something else.
fn simplify(schema: &Value, shown: &mut Map<String, Value>) {
    let (nullable, open) = (says(schema, "nullable"), says(schema, OPEN));
    if nullable || open {
        // Readers hold a value to what it would be made of, whether or not it may be something else.
        shown.remove("items");
        shown.remove("properties");
    }
    let kind = schema["type"].as_str().unwrap_or_default();
    if nullable || (open && kind == "object") || (kind == "array" && !shown.contains_key("items")) {
        shown.remove("type");
    }
    let entries_may_be_null = says(&schema["additionalProperties"], "nullable");
    let fields = shown.contains_key("properties").then(|| &schema["properties"]);
    if let Some(required) = shown.get_mut("required").and_then(Value::as_array_mut) {
        // A field that is null counts as one that is missing.
        required.retain(|name| {
            let field = fields.and_then(|fields| fields.get(name.as_str().unwrap_or_default()));
            !entries_may_be_null && !field.is_some_and(|field| says(field, "nullable"))
        });
        if required.is_empty() {
            shown.remove("required");
        }
    }
}

/// Says in the words of OpenAPI that a value is a number or a text.
fn unfold(shown: &mut Map<String, Value>) {
    let choice = json!([{ "type": "integer" }, { "type": "string" }]);
    let all = shown.get("allOf").and_then(Value::as_array).cloned().unwrap_or_default();
    if shown.get("anyOf") == Some(&choice) || all.first().is_some_and(|first| first["anyOf"] == choice) {
        return;
    }
    if shown.contains_key("anyOf") {
        let all: Vec<Value> = [json!({ "anyOf": choice })].into_iter().chain(all).collect();
        shown.insert("allOf".into(), Value::Array(all));
    } else {
        shown.insert("anyOf".into(), choice);
    }
}

/// Adds to a schema what every object inside of another has.
fn embed(shown: &mut Map<String, Value>, metadata: &str, prefix: &str) {
    let properties = shown.entry("properties").or_insert_with(|| json!({}));
    properties["apiVersion"] = text(EMBEDDED_VERSION_TEXT);
    properties["kind"] = text(EMBEDDED_KIND_TEXT);
    properties["metadata"] = described(metadata, METADATA_TEXT, prefix);
    let required = shown.entry("required").or_insert_with(|| json!([]));
    if let Some(required) = required.as_array_mut() {
        for field in ["kind", "apiVersion"] {
            if !required.iter().any(|known| known == field) {
                required.push(json!(field));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openapi::V3;

    fn shown(schema: Value, prefix: &str) -> Value {
        part(&schema, "Meta", prefix)
    }

    #[test]
    fn version_2_says_less() {
        for (schema, expected) in [
            (
                json!({ "type": "string", "nullable": true, "description": "d", "default": "x" }),
                json!({ "description": "d" }),
            ),
            (
                json!({ "type": "object", "nullable": true, "required": ["a"], "properties": { "a": { "type": "string" } } }),
                json!({ "required": ["a"] }),
            ),
            (
                json!({ "type": "object", "required": ["a", "b"], "properties": {
                    "a": { "type": "string", "nullable": true }, "b": { "type": "string" } } }),
                json!({ "type": "object", "required": ["b"], "properties": { "a": {}, "b": { "type": "string" } } }),
            ),
            (
                json!({ "type": "object", "required": ["a"], "additionalProperties": { "type": "integer", "nullable": true } }),
                json!({ "type": "object", "additionalProperties": {} }),
            ),
            (
                json!({ "x-kubernetes-int-or-string": true, "anyOf": [{ "type": "integer" }, { "type": "string" }] }),
                json!({ "x-kubernetes-int-or-string": true }),
            ),
            (
                json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": { "a": { "type": "string" } } }),
                json!({ "x-kubernetes-preserve-unknown-fields": true }),
            ),
            (
                json!({ "type": "array", "items": { "type": "string", "default": "", "not": { "enum": ["x"] } }, "minItems": 0 }),
                json!({ "type": "array", "items": { "type": "string" }, "minItems": 0 }),
            ),
            (
                json!({ "type": "array", "nullable": true, "items": { "type": "string" }, "oneOf": [{ "minItems": 1 }] }),
                json!({}),
            ),
            (
                json!({ "type": "integer", "enum": [1, 2], "format": "int64", "example": 1, "allOf": [{ "minimum": 1 }],
                    "exclusiveMinimum": false, "title": "", "maximum": 0 }),
                json!({ "type": "integer", "enum": [1, 2], "format": "int64", "maximum": 0 }),
            ),
            (
                json!({ "type": "object", "additionalProperties": true }),
                json!({ "type": "object", "additionalProperties": true }),
            ),
            (json!({ "type": "object", "properties": {} }), json!({ "type": "object" })),
        ] {
            assert_eq!(shown(schema.clone(), V2), expected, "{schema}");
        }
    }

    #[test]
    fn version_3_says_what_there_is() {
        let choice = json!([{ "type": "integer" }, { "type": "string" }]);
        for (schema, expected) in [
            (json!({ "type": "string", "nullable": true, "default": "" }), None),
            (
                json!({ "type": "string", "default": false, "oneOf": [{ "pattern": "a" }], "not": { "enum": ["x"] } }),
                None,
            ),
            (
                json!({ "x-kubernetes-int-or-string": true }),
                Some(json!({ "x-kubernetes-int-or-string": true, "anyOf": choice })),
            ),
            (json!({ "x-kubernetes-int-or-string": true, "anyOf": choice }), None),
            (
                json!({ "x-kubernetes-int-or-string": true, "allOf": [{ "anyOf": choice }, { "minimum": 1 }] }),
                None,
            ),
            (
                json!({ "x-kubernetes-int-or-string": true, "anyOf": [{ "minimum": 1 }], "allOf": [{ "maximum": 2 }] }),
                Some(json!({ "x-kubernetes-int-or-string": true, "anyOf": [{ "minimum": 1 }],
                    "allOf": [{ "anyOf": choice }, { "maximum": 2 }] })),
            ),
        ] {
            assert_eq!(shown(schema.clone(), V3), expected.unwrap_or(schema));
        }
    }

    #[test]
    fn objects_inside_of_others_have_a_type_and_metadata() {
        let embedded = |open: bool| {
            json!({ "type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": open,
                "required": ["spec", "kind"], "properties": { "spec": { "type": "object" } } })
        };
        let two = shown(embedded(false), V2);
        assert_eq!(two["required"], json!(["spec", "kind", "apiVersion"]));
        assert_eq!(two["properties"]["metadata"]["$ref"], "#/definitions/Meta");
        assert_eq!(two["properties"]["spec"], json!({ "type": "object" }));
        // One that may have more fields names none.
        assert!(shown(embedded(true), V2).get("properties").is_none());
        let three = shown(embedded(true), V3);
        assert_eq!(three["properties"]["metadata"]["allOf"][0]["$ref"], "#/components/schemas/Meta");
        assert_eq!(three["properties"]["spec"], json!({ "type": "object" }));
    }

    #[test]
    fn a_whole_object_that_may_have_any_field_names_none() {
        let schema = json!({ "type": "object", "description": "d", "x-kubernetes-preserve-unknown-fields": true,
            "properties": { "spec": { "type": "object" } } });
        assert_eq!(whole(&schema, "Meta", V2), json!({ "type": "object" }));
        assert_eq!(whole(&schema, "Meta", V3)["properties"]["spec"], json!({ "type": "object" }));
        assert_eq!(whole(&Value::Null, "Meta", V3), json!({ "type": "object" }));
        let schema = json!({ "type": "object", "properties": { "metadata": { "type": "object" } } });
        assert_eq!(whole(&schema, "Meta", V2)["properties"]["metadata"]["$ref"], "#/definitions/Meta");
    }
}
