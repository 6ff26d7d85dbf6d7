//! What a structural schema says about values: their types, how large they can be, how JSON is read.
//!
//! Sizes are those of the reference: where a schema gives no limit, what fits into a request of three mebibytes.

pub(crate) mod names;

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use serde_json::{Value as Json, json};

use crate::types::{ObjectField, ObjectType, Type};
pub use names::{escape, unescape};

/// The largest request, in bytes.
pub(crate) const LARGEST_REQUEST: u64 = 3 * 1024 * 1024;
/// The deepest schema that is looked into.
const DEEPEST: usize = 150;

/// How the elements of a list are told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListStyle {
    /// By their place.
    Atomic,
    /// By themselves.
    Set,
    /// By these fields.
    Map(Vec<String>),
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Dyn,
    IntOrString,
    Bool,
    Int,
    Double,
    String,
    Bytes,
    Duration,
    Date,
    DateTime,
    List { item: Arc<Declared>, style: ListStyle },
    Map(Arc<Declared>),
    Object(Arc<ObjectType>),
}

/// A declared type: what an expression may expect, and what the worst case of its size is.
#[derive(Debug, Clone)]
pub struct Declared {
    pub(crate) kind: Kind,
    pub(crate) nullable: bool,
    /// The largest size, in the units of `size()`.
    pub(crate) most: u64,
    /// The smallest form in JSON, in bytes.
    pub(crate) least_bytes: u64,
}

static STRING: LazyLock<Arc<Declared>> =
    LazyLock::new(|| Arc::new(Declared { kind: Kind::String, nullable: false, most: 0, least_bytes: 2 }));

impl Declared {
    /// What nothing is known of.
    pub fn unknown() -> Declared {
        Declared { kind: Kind::Dyn, nullable: true, most: 0, least_bytes: 1 }
    }

    /// The declaration that a structural schema makes, if expressions can see such values at all.
    ///
    /// `name` is the name of its type, if it is an object. The root of a resource always has its type, its kind and the
    /// names of its metadata.
    pub fn from_schema(schema: &Json, root: bool, name: &str) -> Option<Declared> {
        Reader { depth: 0 }.read(schema, root, name)
    }

    /// An object of named fields, for variables that no schema describes.
    pub fn of_fields(name: &str, fields: impl IntoIterator<Item = (&'static str, Declared)>) -> Declared {
        let fields = fields.into_iter().map(|(name, declared)| {
            let escaped = escape(name).unwrap_or_else(|| name.to_owned());
            (escaped, ObjectField { json_name: name.to_owned(), declared: Arc::new(declared) })
        });
        let of = ObjectType { name: name.to_owned(), fields: fields.collect(), open: false };
        Declared { kind: Kind::Object(Arc::new(of)), nullable: true, most: 0, least_bytes: 2 }
    }

    /// Text of any length.
    pub fn string() -> Declared {
        Declared { kind: Kind::String, nullable: true, most: LARGEST_REQUEST, least_bytes: 2 }
    }

    /// Yes or no.
    pub fn bool() -> Declared {
        Declared { kind: Kind::Bool, nullable: true, most: 0, least_bytes: 4 }
    }

    /// A whole number.
    pub fn int() -> Declared {
        Declared { kind: Kind::Int, nullable: true, most: 0, least_bytes: 1 }
    }

    /// A point in time.
    pub fn timestamp() -> Declared {
        Declared { kind: Kind::DateTime, nullable: true, most: 32, least_bytes: 21 }
    }

    /// A list.
    pub fn list(item: Declared) -> Declared {
        let most = most_items(item.least_bytes);
        let kind = Kind::List { item: Arc::new(item), style: ListStyle::Atomic };
        Declared { kind, nullable: true, most, least_bytes: 2 }
    }

    /// A map whose keys are text.
    pub fn map(value: Declared) -> Declared {
        let most = most_entries(value.least_bytes);
        Declared { kind: Kind::Map(Arc::new(value)), nullable: true, most, least_bytes: 2 }
    }

    /// The type for the checker.
    pub fn cel_type(&self) -> Type {
        match &self.kind {
            Kind::Dyn | Kind::IntOrString => Type::Dyn,
            Kind::Bool => Type::Bool,
            Kind::Int => Type::Int,
            Kind::Double => Type::Double,
            Kind::String => Type::String,
            Kind::Bytes => Type::Bytes,
            Kind::Duration => Type::Duration,
            Kind::Date | Kind::DateTime => Type::Timestamp,
            Kind::List { item, .. } => Type::list(item.cel_type()),
            Kind::Map(value) => Type::map(Type::String, value.cel_type()),
            Kind::Object(of) => Type::Object(of.clone()),
        }
    }

    /// The declaration of elements or of a map's values.
    pub(crate) fn item(&self) -> Option<&Declared> {
        match &self.kind {
            Kind::List { item, .. } | Kind::Map(item) => Some(item),
            _ => None,
        }
    }

    pub(crate) fn object(&self) -> Option<&Arc<ObjectType>> {
        match &self.kind {
            Kind::Object(of) => Some(of),
            _ => None,
        }
    }

    /// The declaration of a field, by its name in expressions.
    pub(crate) fn field(&self, name: &str) -> Option<&Declared> {
        self.object()?.known(name).map(|field| &*field.declared)
    }

    /// The declaration of a map's keys.
    pub(crate) fn keys(&self) -> Option<&'static Declared> {
        matches!(self.kind, Kind::Map(_)).then(|| &**LazyLock::force(&STRING))
    }

    pub(crate) fn list_style(&self) -> &ListStyle {
        match &self.kind {
            Kind::List { style, .. } => style,
            _ => &ListStyle::Atomic,
        }
    }
}

fn most_items(least_bytes: u64) -> u64 {
    (LARGEST_REQUEST - 2) / (least_bytes + 1)
}

fn most_entries(least_bytes: u64) -> u64 {
    (LARGEST_REQUEST - 2) / (least_bytes + 6)
}

/// How often data of this size can be in one request.
pub(crate) fn cardinality(least_bytes: u64) -> u64 {
    LARGEST_REQUEST / (least_bytes + 1)
}

/// Whether a schema says `true` under a name.
pub(crate) fn says(schema: &Json, name: &str) -> bool {
    schema.get(name) == Some(&Json::Bool(true))
}

/// A limit of a schema, 0 where it is negative.
pub(crate) fn limit(schema: &Json, name: &str) -> Option<u64> {
    let limit = schema.get(name)?;
    limit.as_u64().or_else(|| limit.as_f64().map(|limit| limit.max(0.0) as u64))
}

/// The schema that the values of a map follow.
pub(crate) fn additional(schema: &Json) -> Option<&Json> {
    schema.get("additionalProperties").filter(|values| values.is_object())
}

struct Reader {
    depth: usize,
}

impl Reader {
    fn read(&mut self, schema: &Json, root: bool, name: &str) -> Option<Declared> {
        if self.depth == DEEPEST {
            return None;
        }
        self.depth += 1;
        let mut found = self.declare(schema, root, name);
        if let Some(found) = &mut found {
            found.nullable = says(schema, "nullable");
        }
        self.depth -= 1;
        found
    }

    fn child(&mut self, schema: &Json, name: &str) -> Option<Declared> {
        self.read(schema, says(schema, "x-kubernetes-embedded-resource"), name)
    }

    fn declare(&mut self, schema: &Json, root: bool, name: &str) -> Option<Declared> {
        let longest =
            |default: u64| limit(schema, "maxLength").map_or(default, |limit| limit.saturating_mul(4));
        let declared = |kind, most, least_bytes| Some(Declared { kind, nullable: false, most, least_bytes });
        if says(schema, "x-kubernetes-int-or-string") {
            return declared(Kind::IntOrString, longest(LARGEST_REQUEST - 2), 1);
        }
        match schema.get("type").and_then(Json::as_str) {
            Some("array") => {
                let item = self.child(schema.get("items")?, &format!("{name}.@idx"))?;
                let most = limit(schema, "maxItems").unwrap_or_else(|| most_items(item.least_bytes));
                declared(Kind::List { item: Arc::new(item), style: list_style(schema) }, most, 2)
            }
            Some("object") => match additional(schema) {
                Some(values) if !root => {
                    let value = self.child(values, &format!("{name}.@elem"))?;
                    let most =
                        limit(schema, "maxProperties").unwrap_or_else(|| most_entries(value.least_bytes));
                    declared(Kind::Map(Arc::new(value)), most, 2)
                }
                _ => Some(self.object(schema, root, name)),
            },
            Some("boolean") => declared(Kind::Bool, 0, 4),
            Some("number") => declared(Kind::Double, 0, 1),
            Some("integer") => declared(Kind::Int, 0, 1),
            Some("string") => match schema.get("format").and_then(Json::as_str) {
                Some("byte") => {
                    declared(Kind::Bytes, limit(schema, "maxLength").unwrap_or(LARGEST_REQUEST - 2), 2)
                }
                Some("duration") => declared(Kind::Duration, 32, 3),
                Some("date") => declared(Kind::Date, 12, 12),
                Some("date-time") => declared(Kind::DateTime, 32, 21),
                _ => declared(Kind::String, longest(longest_word(schema)), 2),
            },
            _ => None,
        }
    }

    fn object(&mut self, schema: &Json, root: bool, name: &str) -> Declared {
        let named = |field: &str| {
            schema
                .get("required")
                .and_then(Json::as_array)
                .is_some_and(|required| required.iter().any(|required| required == field))
        };
        let mut least_bytes = 2;
        let mut fields = BTreeMap::new();
        let mut add = |reader: &mut Self, property: &str, schema: &Json| {
            let Some(declared) = reader.child(schema, &format!("{name}.{property}")) else { return };
            if named(property) && schema.get("default").is_none() {
                least_bytes += property.len() as u64 + declared.least_bytes + 4;
            }
            if let Some(escaped) = escape(property) {
                let field = ObjectField { json_name: property.to_owned(), declared: Arc::new(declared) };
                fields.insert(escaped, field);
            }
        };
        let properties = schema.get("properties").and_then(Json::as_object);
        for (property, schema) in properties.into_iter().flatten() {
            add(self, property, schema);
        }
        if root && !has_metadata(schema) {
            let text = json!({"type": "string"});
            add(self, "kind", &text);
            add(self, "apiVersion", &text);
            let metadata = json!({"type": "object", "properties": {"name": &text, "generateName": &text}});
            add(self, "metadata", &metadata);
        }
        let of = ObjectType { name: name.to_owned(), fields, open: false };
        Declared { kind: Kind::Object(Arc::new(of)), nullable: false, most: 0, least_bytes }
    }
}

/// Whether a root describes everything that every root has.
fn has_metadata(schema: &Json) -> bool {
    let of = |path: &str, wanted: &str| schema.pointer(path).is_some_and(|found| found == wanted);
    of("/properties/kind/type", "string")
        && of("/properties/apiVersion/type", "string")
        && of("/properties/metadata/type", "object")
        && of("/properties/metadata/properties/name/type", "string")
        && of("/properties/metadata/properties/generateName/type", "string")
}

fn longest_word(schema: &Json) -> u64 {
    let words = schema.get("enum").and_then(Json::as_array).filter(|words| !words.is_empty());
    let longest = words.map(|words| words.iter().filter_map(Json::as_str).map(str::len).max().unwrap_or(0));
    longest.map_or(LARGEST_REQUEST - 2, |longest| longest as u64)
}

fn list_style(schema: &Json) -> ListStyle {
    match schema.get("x-kubernetes-list-type").and_then(Json::as_str) {
        Some("set") => ListStyle::Set,
        Some("map") => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Json::as_array);
            let keys = keys.into_iter().flatten().filter_map(Json::as_str);
            ListStyle::Map(keys.map(|key| escape(key).unwrap_or_else(|| key.to_owned())).collect())
        }
        _ => ListStyle::Atomic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(schema: Json) -> Declared {
        Declared::from_schema(&schema, false, "self").expect("the schema has a declaration")
    }

    #[test]
    fn sizes_are_what_fits_into_a_request() {
        for (schema, most, least) in [
            (json!({"type": "string"}), 3_145_726, 2),
            (json!({"type": "string", "maxLength": 10}), 40, 2),
            (json!({"type": "string", "enum": ["a", "abc"]}), 3, 2),
            (json!({"type": "string", "format": "date-time"}), 32, 21),
            (json!({"type": "string", "format": "byte", "maxLength": 7}), 7, 2),
            (json!({"x-kubernetes-int-or-string": true}), 3_145_726, 1),
            (json!({"type": "array", "items": {"type": "integer"}}), 1_572_863, 2),
            (json!({"type": "array", "maxItems": 5, "items": {"type": "integer"}}), 5, 2),
            (json!({"type": "object", "additionalProperties": {"type": "boolean"}}), 314_572, 2),
            (
                json!({"type": "object", "required": ["ab", "c"],
                    "properties": {"ab": {"type": "boolean"}, "c": {"type": "integer", "default": 1}}}),
                0,
                12,
            ),
        ] {
            let shown = schema.to_string();
            let found = declared(schema);
            assert_eq!((found.most, found.least_bytes), (most, least), "{shown}");
        }
    }

    #[test]
    fn what_has_no_type_is_not_seen() {
        let schema = json!({"type": "object", "properties": {
            "any": {"x-kubernetes-preserve-unknown-fields": true},
            "list": {"type": "array", "items": {"x-kubernetes-preserve-unknown-fields": true}},
            "number": {"type": "number"},
            "a-b": {"type": "string"},
            "namespace": {"type": "string"},
            "x$": {"type": "string"},
        }});
        let found = declared(schema);
        let names: Vec<_> = found.object().unwrap().fields.keys().collect();
        assert_eq!(names, ["__namespace__", "a__dash__b", "number"]);
    }

    #[test]
    fn a_root_has_metadata() {
        let found = Declared::from_schema(&json!({"type": "object"}), true, "self").unwrap();
        let metadata = found.field("metadata").unwrap();
        assert_eq!(metadata.field("name").unwrap().cel_type(), Type::String);
        assert_eq!(metadata.cel_type().to_string(), "self.metadata");
        assert!(found.field("spec").is_none());
    }
}
