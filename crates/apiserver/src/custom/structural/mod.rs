//! A structural schema: what a definition says about the objects of one version, read once and walked for every object.
//!
//! Each walk is a module: what is taken away ([`prune`]), what is filled in ([`default`]), what is wrong ([`values`]), and
//! what embedded objects must be ([`embedded`]). None of them knows definitions, requests or the store. Schemas and objects
//! nest no deeper than the texts that they were read from, which the readers bound.

pub(crate) mod default;
pub(crate) mod embedded;
mod formats;
pub(crate) mod prune;
pub(crate) mod values;

use std::{collections::BTreeMap, sync::OnceLock};

use dray_cel::Pattern;
use serde_json::{Number, Value};

pub(crate) use formats::Format;

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    pub(crate) const ALL: [Type; 6] =
        [Type::Array, Type::Boolean, Type::Integer, Type::Number, Type::Object, Type::String];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Type::Object => "object",
            Type::Array => "array",
            Type::String => "string",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::Boolean => "boolean",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Type> {
        Type::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// How the items of a list are told apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Keyed {
    /// By their place.
    #[default]
    No,
    /// By themselves.
    Set,
    /// By these fields.
    By(Vec<String>),
}

/// What a map's values are.
#[derive(Debug)]
pub(crate) enum Entries {
    /// Anything.
    Any,
    /// As a schema says.
    Of(Box<Structural>),
}

/// A text that a pattern is found in, compiled when the first value is held to it.
#[derive(Debug)]
pub(crate) struct Lazy {
    text: String,
    compiled: OnceLock<Option<Pattern>>,
}

impl Lazy {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is found in a text; one that is no pattern is found in none.
    pub(crate) fn is_match(&self, text: &str) -> bool {
        let compiled = self.compiled.get_or_init(|| Pattern::new(&self.text).ok());
        compiled.as_ref().is_some_and(|pattern| pattern.is_match(text))
    }
}

/// What values must be beside their type.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    pub(crate) format: Option<Format>,
    pub(crate) maximum: Option<Number>,
    pub(crate) exclusive_maximum: bool,
    pub(crate) minimum: Option<Number>,
    pub(crate) exclusive_minimum: bool,
    pub(crate) multiple_of: Option<Number>,
    pub(crate) max_length: Option<u64>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) min_properties: Option<u64>,
    pub(crate) pattern: Option<Lazy>,
    pub(crate) choices: Vec<Value>,
    pub(crate) required: Vec<String>,
    pub(crate) all_of: Vec<Structural>,
    pub(crate) any_of: Vec<Structural>,
    pub(crate) one_of: Vec<Structural>,
    pub(crate) not: Option<Box<Structural>>,
}

/// A part of a schema.
#[derive(Debug, Default)]
pub(crate) struct Structural {
    pub(crate) kind: Option<Type>,
    pub(crate) nullable: bool,
    /// Whether it is a whole object with a type and metadata.
    pub(crate) embedded: bool,
    /// Whether fields that it does not name are kept.
    pub(crate) open: bool,
    pub(crate) int_or_string: bool,
    pub(crate) default: Option<Value>,
    pub(crate) properties: BTreeMap<String, Structural>,
    pub(crate) entries: Option<Entries>,
    pub(crate) items: Option<Box<Structural>>,
    pub(crate) keyed: Keyed,
    pub(crate) limits: Limits,
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn number(value: &Value) -> Option<Number> {
    value.as_number().cloned()
}

/// A length or count; one below zero allows nothing.
fn count(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_i64().map(|_| 0))
}

impl Structural {
    /// Reads a schema. What is not one of its words is left out: whether a schema may say it is judged elsewhere.
    pub(crate) fn read(schema: &Value) -> Structural {
        let yes = |name: &str| schema[name] == true;
        let all = |name: &str| -> Vec<Structural> {
            schema[name].as_array().into_iter().flatten().map(Structural::read).collect()
        };
        let part = |name: &str| {
            Some(&schema[name]).filter(|part| part.is_object()).map(|part| Box::new(Structural::read(part)))
        };
        let properties = schema["properties"].as_object().into_iter().flatten();
        let keyed = match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => Keyed::Set,
            Some("map") => Keyed::By(texts(&schema["x-kubernetes-list-map-keys"])),
            _ => Keyed::No,
        };
        let pattern = schema["pattern"].as_str().filter(|text| !text.is_empty());
        Structural {
            kind: schema["type"].as_str().and_then(Type::parse),
            nullable: yes("nullable"),
            embedded: yes("x-kubernetes-embedded-resource"),
            open: yes("x-kubernetes-preserve-unknown-fields"),
            int_or_string: yes("x-kubernetes-int-or-string"),
            default: Some(&schema["default"]).filter(|default| !default.is_null()).cloned(),
            properties: properties.map(|(name, part)| (name.clone(), Structural::read(part))).collect(),
            entries: if yes("additionalProperties") {
                Some(Entries::Any)
            } else {
                part("additionalProperties").map(Entries::Of)
            },
            items: part("items"),
            keyed,
            limits: Limits {
                format: schema["format"].as_str().and_then(Format::parse),
                maximum: number(&schema["maximum"]),
                exclusive_maximum: yes("exclusiveMaximum"),
                minimum: number(&schema["minimum"]),
                exclusive_minimum: yes("exclusiveMinimum"),
                multiple_of: number(&schema["multipleOf"]),
                max_length: count(&schema["maxLength"]),
                min_length: count(&schema["minLength"]),
                max_items: count(&schema["maxItems"]),
                min_items: count(&schema["minItems"]),
                max_properties: count(&schema["maxProperties"]),
                min_properties: count(&schema["minProperties"]),
                pattern: pattern.map(|text| Lazy { text: text.to_owned(), compiled: OnceLock::new() }),
                choices: schema["enum"].as_array().cloned().unwrap_or_default(),
                required: texts(&schema["required"]),
                all_of: all("allOf"),
                any_of: all("anyOf"),
                one_of: all("oneOf"),
                not: part("not"),
            },
        }
    }

    /// What is said about a field of an object or a key of a map.
    pub(crate) fn field(&self, name: &str) -> Option<&Structural> {
        self.properties.get(name).or(match &self.entries {
            Some(Entries::Of(of)) => Some(of),
            _ => None,
        })
    }
}

/// Below a path.
pub(crate) fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
