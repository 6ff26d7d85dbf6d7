//! An OpenAPI document of version 2 as protobuf: gnostic's `openapi.v2.Document`, which clients written in Go ask for.
//!
//! Tables say which field of which message has which number; they hold what our documents have, and what is not in them is
//! left out. It must not know what the document says.

use serde_json::{Map, Value};

/// A field of a message: its name in JSON, its number, what is in it.
type Field = (&'static str, u32, Form);

/// A message: its fields, and the number of the field that has what begins with `x-`.
struct Message {
    fields: &'static [Field],
    extensions: u32,
}

/// What is in a field.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Flag,
    Number,
    Count,
    Texts,
    /// A value of any kind, as YAML.
    Any,
    Anys,
    Of(&'static Message),
    /// A list, each item a message.
    Each(&'static Message),
    /// A message whose one field has the value, or each of the values of a list.
    In(u32, &'static Form),
    /// A message whose field of this number is repeated: a name (1) and a value (2) for each entry of a map.
    Named(u32, &'static Form),
    /// What the values of a map are: a schema, or whether there may be any.
    Entries,
    Parameters,
}

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Form::Text),
        ("info", 2, Form::Of(&INFO)),
        ("paths", 8, Form::Named(2, &Form::Of(&PATH))),
        ("definitions", 9, Form::Named(1, &Form::Of(&SCHEMA))),
    ],
    extensions: 16,
};

static INFO: Message = Message {
    fields: &[("title", 1, Form::Text), ("version", 2, Form::Text), ("description", 3, Form::Text)],
    extensions: 7,
};

static PATH: Message = Message {
    fields: &[
        ("get", 2, Form::Of(&OPERATION)),
        ("put", 3, Form::Of(&OPERATION)),
        ("post", 4, Form::Of(&OPERATION)),
        ("delete", 5, Form::Of(&OPERATION)),
        ("options", 6, Form::Of(&OPERATION)),
        ("head", 7, Form::Of(&OPERATION)),
        ("patch", 8, Form::Of(&OPERATION)),
        ("parameters", 9, Form::Parameters),
    ],
    extensions: 10,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Form::Texts),
        ("summary", 2, Form::Text),
        ("description", 3, Form::Text),
        ("operationId", 5, Form::Text),
        ("produces", 6, Form::Texts),
        ("consumes", 7, Form::Texts),
        ("parameters", 8, Form::Parameters),
        ("responses", 9, Form::Named(1, &Form::In(1, &Form::Of(&RESPONSE)))),
        ("schemes", 10, Form::Texts),
        ("deprecated", 11, Form::Flag),
    ],
    extensions: 13,
};

static RESPONSE: Message = Message {
    fields: &[("description", 1, Form::Text), ("schema", 2, Form::In(1, &Form::Of(&SCHEMA)))],
    extensions: 5,
};

static BODY: Message = Message {
    fields: &[
        ("description", 1, Form::Text),
        ("name", 2, Form::Text),
        ("in", 3, Form::Text),
        ("required", 4, Form::Flag),
        ("schema", 5, Form::Of(&SCHEMA)),
    ],
    extensions: 6,
};

static QUERY: Message = Message {
    fields: &[
        ("required", 1, Form::Flag),
        ("in", 2, Form::Text),
        ("description", 3, Form::Text),
        ("name", 4, Form::Text),
        ("type", 6, Form::Text),
        ("format", 7, Form::Text),
        ("uniqueItems", 20, Form::Flag),
    ],
    extensions: 23,
};

static PLACE: Message = Message {
    fields: &[
        ("required", 1, Form::Flag),
        ("in", 2, Form::Text),
        ("description", 3, Form::Text),
        ("name", 4, Form::Text),
        ("type", 5, Form::Text),
        ("format", 6, Form::Text),
        ("uniqueItems", 19, Form::Flag),
    ],
    extensions: 22,
};

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Form::Text),
        ("format", 2, Form::Text),
        ("title", 3, Form::Text),
        ("description", 4, Form::Text),
        ("default", 5, Form::Any),
        ("multipleOf", 6, Form::Number),
        ("maximum", 7, Form::Number),
        ("exclusiveMaximum", 8, Form::Flag),
        ("minimum", 9, Form::Number),
        ("exclusiveMinimum", 10, Form::Flag),
        ("maxLength", 11, Form::Count),
        ("minLength", 12, Form::Count),
        ("pattern", 13, Form::Text),
        ("maxItems", 14, Form::Count),
        ("minItems", 15, Form::Count),
        ("uniqueItems", 16, Form::Flag),
        ("maxProperties", 17, Form::Count),
        ("minProperties", 18, Form::Count),
        ("required", 19, Form::Texts),
        ("enum", 20, Form::Anys),
        ("additionalProperties", 21, Form::Entries),
        ("type", 22, Form::In(1, &Form::Text)),
        ("items", 23, Form::In(1, &Form::Of(&SCHEMA))),
        ("allOf", 24, Form::Each(&SCHEMA)),
        ("properties", 25, Form::Named(1, &Form::Of(&SCHEMA))),
        ("externalDocs", 29, Form::Of(&ELSEWHERE)),
    ],
    extensions: 31,
};

/// What a map's values are.
static ENTRY: Form = Form::Of(&SCHEMA);

static ELSEWHERE: Message =
    Message { fields: &[("description", 1, Form::Text), ("url", 2, Form::Text)], extensions: 3 };

/// The document's bytes.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    message(document, &DOCUMENT)
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number as u8) | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn bytes(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

/// A value of any kind: JSON is YAML.
fn any(value: &Value) -> Vec<u8> {
    let mut inner = Vec::new();
    bytes(&mut inner, 2, value.to_string().as_bytes());
    inner
}

fn named(name: &str, value: &[u8]) -> Vec<u8> {
    let mut inner = Vec::with_capacity(name.len() + value.len() + 8);
    bytes(&mut inner, 1, name.as_bytes());
    bytes(&mut inner, 2, value);
    inner
}

fn message(value: &Value, of: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    let nothing = Map::new();
    let fields = value.as_object().unwrap_or(&nothing);
    for (name, number, form) in of.fields {
        if let Some(value) = fields.get(*name) {
            field(&mut out, *number, *form, value);
        }
    }
    for (name, value) in fields.iter().filter(|(name, _)| name.starts_with("x-")) {
        bytes(&mut out, of.extensions, &named(name, &any(value)));
    }
    out
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn field(out: &mut Vec<u8>, number: u32, form: Form, value: &Value) {
    match form {
        Form::Text => bytes(out, number, value.as_str().unwrap_or_default().as_bytes()),
        Form::Flag => {
            // What is false is not written.
            if value == true {
                varint(out, u64::from(number) << 3);
                varint(out, 1);
            }
        }
        Form::Number => {
            varint(out, u64::from(number) << 3 | 1);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Form::Count => {
            // A whole number may be written as "3.0".
            let count = value.as_i64().unwrap_or_else(|| value.as_f64().unwrap_or_default() as i64);
            varint(out, u64::from(number) << 3);
            varint(out, count as u64);
        }
        Form::Texts => items(value).iter().for_each(|item| field(out, number, Form::Text, item)),
        Form::Any => bytes(out, number, &any(value)),
        Form::Anys => items(value).iter().for_each(|item| bytes(out, number, &any(item))),
        Form::Of(of) => bytes(out, number, &message(value, of)),
        Form::Each(of) => items(value).iter().for_each(|item| bytes(out, number, &message(item, of))),
        Form::In(inside, form) => {
            let mut inner = Vec::new();
            match value {
                Value::Array(values) => values.iter().for_each(|one| field(&mut inner, inside, *form, one)),
                one => field(&mut inner, inside, *form, one),
            }
            bytes(out, number, &inner);
        }
        Form::Named(inside, form) => {
            let mut all = Vec::new();
            for (name, value) in value.as_object().into_iter().flatten() {
                let mut entry = Vec::new();
                bytes(&mut entry, 1, name.as_bytes());
                field(&mut entry, 2, *form, value);
                bytes(&mut all, inside, &entry);
            }
            bytes(out, number, &all);
        }
        Form::Entries if value.is_boolean() => field(out, number, Form::In(2, &Form::Flag), value),
        Form::Entries => field(out, number, Form::In(1, &ENTRY), value),
        Form::Parameters => items(value).iter().for_each(|one| bytes(out, number, &parameter(one))),
    }
}

/// A parameter, in the messages that say where it is.
fn parameter(value: &Value) -> Vec<u8> {
    let mut kinds = Vec::new();
    match value["in"].as_str() {
        Some("body") => bytes(&mut kinds, 1, &message(value, &BODY)),
        place => {
            let mut one = Vec::new();
            let (number, of) = if place == Some("path") { (4, &PLACE) } else { (3, &QUERY) };
            bytes(&mut one, number, &message(value, of));
            bytes(&mut kinds, 2, &one);
        }
    }
    let mut item = Vec::new();
    bytes(&mut item, 1, &kinds);
    item
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The fields of a message whose fields all have a length.
    fn read(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        fn number(bytes: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let (first, rest) = bytes.split_first().unwrap();
                *bytes = rest;
                value |= u64::from(first & 0x7f) << shift;
                if first & 0x80 == 0 {
                    return value;
                }
            }
            unreachable!()
        }
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let tag = number(&mut bytes);
            let content = if tag & 7 == 0 {
                number(&mut bytes).to_string().into_bytes()
            } else if tag & 7 == 1 {
                let (content, rest) = bytes.split_first_chunk().unwrap();
                bytes = rest;
                f64::from_le_bytes(*content).to_string().into_bytes()
            } else {
                assert_eq!(tag & 7, 2);
                let length = number(&mut bytes) as usize;
                let (content, rest) = bytes.split_at(length);
                bytes = rest;
                content.to_vec()
            };
            fields.push((tag >> 3, content));
        }
        fields
    }

    /// What is found by going into the first field of each number.
    fn at(bytes: &[u8], path: &[u64]) -> Option<Vec<u8>> {
        path.iter().try_fold(bytes.to_vec(), |bytes, number| {
            read(&bytes).into_iter().find(|(found, _)| found == number).map(|(_, content)| content)
        })
    }

    #[track_caller]
    fn check(bytes: &[u8], path: &[u64], expected: &str) {
        let found = at(bytes, path).map(|content| String::from_utf8(content).unwrap());
        assert_eq!(found.as_deref(), Some(expected), "{path:?}");
    }

    #[test]
    fn a_document_is_written_as_gnostic_reads_it() {
        let long = "x".repeat(300);
        let bytes = encode(&json!({
            "swagger": "2.0", "info": { "title": "Kubernetes", "version": "v1" },
            "paths": { "/api/v1/pods/{name}": {
                "parameters": [{ "name": "name", "in": "path", "required": true, "type": "string" }],
                "patch": {
                    "operationId": "patchPod",
                    "parameters": [
                        { "name": "fieldValidation", "in": "query", "type": "string" },
                        { "name": "body", "in": "body", "schema": { "$ref": "#/definitions/Patch" } },
                    ],
                    "responses": { "200": { "description": "OK", "schema": { "$ref": "#/definitions/Pod" } } },
                    "x-kubernetes-action": "patch",
                },
            } },
            "definitions": { "Pod": {
                "type": "object", "description": long, "required": ["spec"],
                "properties": { "spec": { "type": "array", "items": { "type": "string" } } },
                "additionalProperties": { "type": "string" },
                "x-kubernetes-group-version-kind": [{ "group": "", "kind": "Pod", "version": "v1" }],
            } },
        }));
        check(&bytes, &[1], "2.0");
        check(&bytes, &[2, 1], "Kubernetes");
        check(&bytes, &[8, 2, 1], "/api/v1/pods/{name}");
        let path = [8, 2, 2];
        let below = |rest: &[u64]| [&path[..], rest].concat();
        check(&bytes, &below(&[9, 1, 2, 4, 4]), "name");
        check(&bytes, &below(&[9, 1, 2, 4, 1]), "1");
        check(&bytes, &below(&[8, 5]), "patchPod");
        check(&bytes, &below(&[8, 8, 1, 2, 3, 4]), "fieldValidation");
        check(&bytes, &below(&[8, 9, 1, 1]), "200");
        check(&bytes, &below(&[8, 9, 1, 2, 1, 2, 1, 1]), "#/definitions/Pod");
        check(&bytes, &below(&[8, 13, 2, 2]), "\"patch\"");
        let parameters: Vec<_> =
            read(&at(&bytes, &below(&[8])).unwrap()).into_iter().filter(|(number, _)| *number == 8).collect();
        check(&parameters[1].1, &[1, 1, 5, 1], "#/definitions/Patch");
        let schema = [9, 1, 2];
        let below = |rest: &[u64]| [&schema[..], rest].concat();
        check(&bytes, &[9, 1, 1], "Pod");
        check(&bytes, &below(&[4]), &long);
        check(&bytes, &below(&[22, 1]), "object");
        check(&bytes, &below(&[19]), "spec");
        check(&bytes, &below(&[21, 1, 22, 1]), "string");
        check(&bytes, &below(&[25, 1, 1]), "spec");
        check(&bytes, &below(&[25, 1, 2, 23, 1, 22, 1]), "string");
        check(&bytes, &below(&[31, 1]), "x-kubernetes-group-version-kind");
        check(&bytes, &below(&[31, 2, 2]), r#"[{"group":"","kind":"Pod","version":"v1"}]"#);
    }

    #[test]
    fn limits_of_values_are_written() {
        let bytes = encode(&json!({ "definitions": { "Widget": {
            "type": "object", "maxProperties": 3, "additionalProperties": true,
            "externalDocs": { "url": "https://example.com", "description": "more" },
            "properties": { "spec": {
                "type": "number", "minimum": -0.5, "exclusiveMinimum": true, "maximum": 7, "multipleOf": 0.25,
                "pattern": "^a", "maxLength": 2.0, "minLength": 1, "maxItems": 4, "minItems": 5, "uniqueItems": false,
                "minProperties": 6, "exclusiveMaximum": false,
            } },
        } } }));
        let schema = [9, 1, 2];
        let below = |rest: &[u64]| [&schema[..], rest].concat();
        check(&bytes, &below(&[17]), "3");
        check(&bytes, &below(&[21, 2]), "1");
        check(&bytes, &below(&[29, 2]), "https://example.com");
        let field = |number: u64| below(&[25, 1, 2, number]);
        for (number, expected) in [
            (6, "0.25"),
            (7, "7"),
            (9, "-0.5"),
            (10, "1"),
            (11, "2"),
            (12, "1"),
            (13, "^a"),
            (14, "4"),
            (15, "5"),
            (18, "6"),
        ] {
            check(&bytes, &field(number), expected);
        }
        assert_eq!((at(&bytes, &field(16)), at(&bytes, &field(8))), (None, None));
    }
}
