//! The schemas of the kinds: one representation for decoding, merging, applying and describing.
//!
//! The data is generated (`cargo xtask schemas`) and read at first use; texts for people stay compressed.

use std::{collections::BTreeMap, io::Read as _, sync::OnceLock};

use serde::Deserialize;
use serde_json::Value;

use crate::object;
use crate::quantity::{NotAQuantity, Quantity};

static DATA: &[u8] = include_bytes!("../data/schemas.json.gz");

const PREFIX: &str = "#/definitions/";

/// How one value is described.
#[derive(Debug, Default, Deserialize)]
pub struct Schema {
    #[serde(rename = "$ref")]
    reference: Option<String>,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    format: String,
    #[serde(default)]
    properties: BTreeMap<String, Schema>,
    items: Option<Box<Schema>>,
    #[serde(rename = "additionalProperties")]
    values: Option<Box<Schema>>,
    #[serde(rename = "x-kubernetes-list-type", default)]
    list_type: String,
    #[serde(rename = "x-kubernetes-list-map-keys", default)]
    list_keys: Vec<String>,
    #[serde(rename = "x-kubernetes-map-type", default)]
    map_type: String,
    #[serde(rename = "x-kubernetes-patch-strategy", default)]
    patch_strategy: String,
    #[serde(rename = "x-kubernetes-patch-merge-key", default)]
    patch_key: String,
    default: Option<Value>,
    #[serde(rename = "x-wire", default)]
    wire: Vec<u32>,
    #[serde(rename = "x-one-of", default)]
    alternatives: Vec<Schema>,
    #[serde(rename = "x-kubernetes-int-or-string", default)]
    int_or_string: bool,
    #[serde(rename = "x-kubernetes-preserve-unknown-fields", default)]
    open: bool,
}

/// How a list is merged when it is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListKind<'a> {
    /// As a whole.
    Atomic,
    /// By its values.
    Set,
    /// By these keys of its items.
    Map(&'a [String]),
}

static SCHEMAS: OnceLock<BTreeMap<String, Schema>> = OnceLock::new();

fn text() -> Vec<u8> {
    let mut text = Vec::new();
    // The data is part of the program: a test reads all of it.
    let _ = flate2::read::GzDecoder::new(DATA).read_to_end(&mut text);
    text
}

fn schemas() -> &'static BTreeMap<String, Schema> {
    SCHEMAS.get_or_init(|| serde_json::from_slice(&text()).unwrap_or_default())
}

/// All definitions as OpenAPI has them, texts included. Read anew at every call: it is large.
pub fn definitions() -> Value {
    serde_json::from_slice(&text()).unwrap_or_default()
}

/// The data as it is kept: whoever shows the definitions makes their fingerprint of it.
pub fn compressed() -> &'static [u8] {
    DATA
}

/// The schema of a definition, as "io.k8s.api.core.v1.Pod".
pub fn find(name: &str) -> Option<&'static Schema> {
    schemas().get(name)
}

/// What of a custom kind's schema matters to who decodes, merges or applies its objects.
const KEPT: [&str; 10] = [
    "type",
    "format",
    "default",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
    "items",
    "properties",
];

/// The schema of a custom kind in the form in which those of the built-in kinds are generated. `root` says that it
/// describes a whole object, whose metadata are those of every object.
fn generated(schema: &Value, root: bool) -> Value {
    let mut fields = serde_json::Map::new();
    for (key, value) in schema.as_object().into_iter().flatten() {
        let kept = match key.as_str() {
            "items" => generated(value, false),
            "properties" => {
                let properties = value.as_object().into_iter().flatten();
                properties.map(|(name, schema)| (name.clone(), generated(schema, false))).collect()
            }
            "additionalProperties" if value.is_object() => generated(value, false),
            "additionalProperties" if *value == true => {
                fields.insert("x-kubernetes-preserve-unknown-fields".into(), Value::Bool(true));
                continue;
            }
            key if KEPT.contains(&key) => value.clone(),
            _ => continue,
        };
        fields.insert(key.clone(), kept);
    }
    if root || schema["x-kubernetes-embedded-resource"] == true {
        let properties = fields.entry("properties").or_insert_with(|| Value::Object(serde_json::Map::new()));
        for field in ["apiVersion", "kind"] {
            properties[field] = serde_json::json!({ "type": "string" });
        }
        properties["metadata"] = serde_json::json!({ "$ref": format!("{PREFIX}{METADATA}") });
    }
    Value::Object(fields)
}

/// The name of the schema of every object's metadata.
pub const METADATA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

impl Schema {
    /// The schema that a structural schema of OpenAPI 3.0 describes: that of a custom kind.
    ///
    /// # Errors
    /// What in it is no schema.
    pub fn of_custom(schema: &Value) -> Result<Schema, String> {
        serde_json::from_value(generated(schema, true)).map_err(|error| error.to_string())
    }

    fn target(&self) -> &Schema {
        match &self.reference {
            Some(reference) => find(reference.trim_start_matches(PREFIX)).unwrap_or(self),
            None => self,
        }
    }

    /// The schema of a field or of a map's values.
    pub fn field(&self, name: &str) -> Option<&Schema> {
        let target = self.target();
        target.properties.get(name).or(target.values.as_deref())
    }

    /// The schema of a list's items.
    pub fn items(&self) -> Option<&Schema> {
        self.target().items.as_deref()
    }

    /// Whether a map or structure is one value to those who apply it.
    pub fn is_atomic(&self) -> bool {
        self.map_type == "atomic" || self.target().map_type == "atomic"
    }

    /// Whether anything may be in it.
    pub fn is_free(&self) -> bool {
        let target = self.target();
        matches!(target.kind.as_str(), "object" | "")
            && !target.open
            && target.properties.is_empty()
            && target.values.is_none()
    }

    /// The alternative that a value is meant as, where there are several.
    fn alternative(&self, value: &Value) -> Option<&Schema> {
        let kind = match value {
            Value::Bool(_) => "boolean",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
            _ => return None,
        };
        self.target().alternatives.iter().find(|schema| schema.kind() == kind)
    }

    /// Whether its values are quantities, which have a canonical form.
    fn is_quantity(&self) -> bool {
        self.target().int_or_string && self.short_name() == "Quantity"
    }

    /// How a list is merged when it is applied.
    pub fn list(&self) -> ListKind<'_> {
        let target = self.target();
        match target.list_type.as_str() {
            "map" => ListKind::Map(&target.list_keys),
            "set" => ListKind::Set,
            _ => ListKind::Atomic,
        }
    }

    /// What a missing value stands for.
    pub fn default_value(&self) -> Option<&Value> {
        self.default.as_ref()
    }

    /// Whether a strategic merge patch merges it, and by which key of the items.
    pub fn patch_merge(&self) -> Option<&str> {
        self.patch_strategy.split(',').any(|part| part == "merge").then_some(self.patch_key.as_str())
    }

    /// The field that a path of numbers on the wire leads to.
    pub(crate) fn wired(&self, path: &[u32]) -> Option<(&str, &Schema)> {
        let found = self.target().properties.iter().find(|(_, schema)| schema.wire == path);
        found.map(|(name, schema)| (name.as_str(), schema))
    }

    /// Whether a number on the wire is that of a message whose fields are this one's.
    pub(crate) fn wired_below(&self, tag: u32) -> bool {
        self.target().properties.values().any(|schema| schema.wire.len() == 2 && schema.wire[0] == tag)
    }

    /// The schema of a map's values.
    pub(crate) fn values(&self) -> Option<&Schema> {
        self.target().values.as_deref()
    }

    /// The last part of the name of the definition that it refers to; empty where it refers to none.
    pub(crate) fn short_name(&self) -> &str {
        self.reference.as_deref().and_then(|reference| reference.rsplit('.').next()).unwrap_or_default()
    }

    /// "string", "object" and so on.
    pub(crate) fn kind(&self) -> &str {
        &self.target().kind
    }

    /// "int32", "byte" and so on.
    pub(crate) fn format(&self) -> &str {
        &self.target().format
    }

    fn go_type(&self) -> String {
        if let Some(reference) = &self.reference {
            let parts: Vec<&str> = reference.trim_start_matches(PREFIX).rsplit('.').collect();
            return match parts.as_slice() {
                [name, version, ..] => format!("{version}.{name}"),
                _ => "interface {}".into(),
            };
        }
        match (self.kind.as_str(), self.format.as_str()) {
            ("string", "byte") => "[]uint8".into(),
            ("string", _) => "string".into(),
            ("boolean", _) => "bool".into(),
            ("integer", "") => "int64".into(),
            ("integer", format) => format.into(),
            ("number", _) => "float64".into(),
            ("array", _) => format!("[]{}", self.items().map_or_else(String::new, Schema::go_type)),
            ("object", _) => {
                format!(
                    "map[string]{}",
                    self.values.as_deref().map_or("interface {}".into(), Schema::go_type)
                )
            }
            _ => "interface {}".into(),
        }
    }
}

/// Reads an object by its schema: fields that are not known are taken away and named, values of a wrong type
/// are an error in the words of the reference's decoder.
///
/// # Errors
/// What is wrong with the first value of a wrong type.
pub fn conform(object: &mut Value, schema: &Schema) -> Result<Vec<String>, String> {
    let mut unknown = Vec::new();
    walk(object, schema, &mut Place { path: String::new(), structure: String::new() }, &mut unknown)?;
    Ok(unknown)
}

/// Writes a quantity in its canonical form.
fn canonical(value: &mut Value) -> Result<(), String> {
    let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let quantity: Quantity = text.parse().map_err(|wrong: NotAQuantity| wrong.to_string())?;
    *value = Value::String(quantity.to_string());
    Ok(())
}

/// Removes every `null` of an object's maps, which the API reads as not being there. What is kept as it was written keeps its own.
pub fn prune_nulls(value: &mut Value, schema: &Schema) {
    if let Some(alternative) = schema.alternative(value) {
        return prune_nulls(value, alternative);
    }
    match value {
        Value::Object(fields) if !schema.is_free() => {
            fields.retain(|_, field| !field.is_null());
            for (key, field) in fields {
                match schema.field(key) {
                    Some(schema) => prune_nulls(field, schema),
                    None => object::prune_nulls(field),
                }
            }
        }
        Value::Array(items) => match schema.items() {
            Some(schema) => items.iter_mut().for_each(|item| prune_nulls(item, schema)),
            None => items.iter_mut().for_each(object::prune_nulls),
        },
        _ => {}
    }
}

struct Place {
    path: String,
    structure: String,
}

fn walk(
    value: &mut Value,
    schema: &Schema,
    place: &mut Place,
    unknown: &mut Vec<String>,
) -> Result<(), String> {
    if value.is_null() {
        return Ok(());
    }
    if let Some(alternative) = schema.alternative(value) {
        return walk(value, alternative, place, unknown);
    }
    if schema.is_quantity() && (value.is_string() || value.is_number()) {
        return canonical(value);
    }
    let target = schema.target();
    let fits = match target.kind.as_str() {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => match (value.as_i64(), target.format.as_str()) {
            (Some(number), "int32") => i32::try_from(number).is_ok(),
            (Some(_), _) => true,
            (None, _) => false,
        },
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ if target.int_or_string => value.is_string() || value.is_number(),
        _ => target.alternatives.is_empty(),
    };
    if !fits {
        let got = match value {
            Value::String(_) => "string".to_owned(),
            Value::Number(number) if target.kind == "integer" => format!("number {number}"),
            Value::Number(_) => "number".into(),
            Value::Bool(_) => "bool".into(),
            Value::Object(_) => "object".into(),
            _ => "array".into(),
        };
        return Err(format!(
            "json: cannot unmarshal {got} into Go struct field {}.{} of type {}",
            place.structure,
            place.path,
            schema.go_type()
        ));
    }
    match value {
        Value::Object(fields) if !schema.is_free() => {
            if let Some(reference) = &schema.reference {
                place.structure = reference.rsplit('.').next().unwrap_or_default().to_owned();
            }
            let structure = place.structure.clone();
            let length = place.path.len();
            let mut bad = Vec::new();
            for (key, field) in fields.iter_mut() {
                if length > 0 {
                    place.path.push('.');
                }
                place.path.push_str(key);
                match schema.field(key) {
                    Some(schema) => walk(field, schema, place, unknown)?,
                    None => {
                        unknown.push(place.path.clone());
                        bad.push(key.clone());
                    }
                }
                place.path.truncate(length);
                place.structure.clone_from(&structure);
            }
            for key in bad {
                fields.remove(&key);
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.items() else { return Ok(()) };
            let length = place.path.len();
            let structure = place.structure.clone();
            for (index, item) in items.iter_mut().enumerate() {
                place.path.push_str(&format!("[{index}]"));
                walk(item, schema, place, unknown)?;
                place.path.truncate(length);
                place.structure.clone_from(&structure);
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_as_it_was_written_keeps_its_nulls() {
        let mut revision = serde_json::json!({
            "metadata": { "name": "a", "creationTimestamp": null, "labels": { "a": null, "b": "c" } },
            "data": { "spec": { "metadata": { "creationTimestamp": null } } }, "revision": null,
        });
        let kind = crate::kinds::find("apps", "v1", "controllerrevisions").unwrap();
        prune_nulls(&mut revision, find(kind.schema).unwrap());
        let expected = serde_json::json!({
            "metadata": { "name": "a", "labels": { "b": "c" } },
            "data": { "spec": { "metadata": { "creationTimestamp": null } } },
        });
        assert_eq!(revision, expected);
    }
    use serde_json::json;

    #[test]
    fn every_kind_has_its_schema() {
        for kind in crate::kinds::all() {
            assert!(find(kind.schema).is_some(), "{}", kind.schema);
        }
    }

    #[test]
    fn unknown_fields_go_and_wrong_types_are_named() {
        let schema = find("io.k8s.api.core.v1.Pod").unwrap();
        let mut pod = json!({ "spec": { "foo": 1, "containers": [{ "name": "a", "imag": "x" }] } });
        let unknown = conform(&mut pod, schema).unwrap();
        assert_eq!(unknown, ["spec.containers[0].imag", "spec.foo"]);
        assert_eq!(pod, json!({ "spec": { "containers": [{ "name": "a" }] } }));
        let error = conform(&mut json!({ "spec": { "containers": "a" } }), schema).unwrap_err();
        assert_eq!(
            error,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container"
        );
        let mut free = json!({ "spec": { "containers": [{ "ports": [{ "containerPort": 80 }],
            "livenessProbe": { "httpGet": { "port": "http" } }, "resources": { "limits": { "cpu": 1 } } }] } });
        assert!(conform(&mut free, schema).unwrap().is_empty());
    }
}
