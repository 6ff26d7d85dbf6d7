//! What documents of OpenAPI 3.0 say of custom kinds: what `kubectl explain` and clients that validate read.

use std::collections::BTreeSet;

use dray_machinery::schema;
use dray_store::{Snapshot, Store};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{Custom, DEFINITIONS, Table, structural::prune::META};
use crate::{openapi, respond};

const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const KIND_TEXT: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer \
this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: \
https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const VERSION_TEXT: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should \
convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: \
https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";

/// The versions of groups that only definitions have, as documents name them, and what changes with what they say.
pub(crate) fn paths(table: &Table) -> Vec<(String, String)> {
    let mut paths: Vec<(String, Sha256)> = Vec::new();
    for custom in table.all() {
        let path = openapi::group_path(custom.kind);
        if paths.last().is_none_or(|(last, _)| *last != path) {
            paths.push((path, Sha256::new()));
        }
        if let Some((_, digest)) = paths.last_mut() {
            digest.update(custom.definition.name.as_bytes());
            digest.update(custom.definition.fingerprint);
        }
    }
    let shown = |digest: Sha256| digest.finalize().iter().map(|byte| format!("{byte:02X}")).collect();
    paths.into_iter().map(|(path, digest)| (path, shown(digest))).collect()
}

/// The schemas of the custom kinds of a version of a group, and those that they refer to.
pub(crate) fn schemas(members: &[Custom], store: &Store) -> Map<String, Value> {
    let snapshot = store.snapshot();
    let mut shown = Map::new();
    for custom in members {
        let kind = custom.kind;
        let named = |name: String| json!([{ "group": kind.group, "version": kind.version, "kind": name }]);
        let mut document = document(custom, &snapshot);
        document["x-kubernetes-group-version-kind"] = named(kind.kind.to_owned());
        shown.insert(kind.schema.to_owned(), document);
        let list = json!({
            "description": format!("{} is a list of {}", kind.list_kind(), kind.kind),
            "type": "object", "required": ["items"],
            "properties": {
                "apiVersion": { "type": "string", "description": VERSION_TEXT },
                "kind": { "type": "string", "description": KIND_TEXT },
                "items": {
                    "type": "array",
                    "description": format!(
                        "List of {}. More info: \
                         https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
                        kind.plural
                    ),
                    "items": reference(kind.schema),
                },
                "metadata": {
                    "description": "Standard list metadata.", "allOf": [reference(LIST_META)],
                },
            },
            "x-kubernetes-group-version-kind": named(kind.list_kind()),
        });
        shown.insert(openapi::list_name(kind), list);
    }
    let scales = members.iter().any(|custom| custom.scale.is_some());
    let roots = [schema::METADATA].into_iter().chain(openapi::SHARED).chain(scales.then_some(SCALE));
    built_in(roots.map(str::to_owned).collect(), &mut shown);
    shown
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("{}{name}", openapi::V3) })
}

/// Adds schemas that are built in, and what they refer to.
fn built_in(mut wanted: Vec<String>, shown: &mut Map<String, Value>) {
    let all = schema::definitions();
    let mut seen = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        if !seen.insert(name.clone()) || shown.contains_key(&name) || all[name.as_str()].is_null() {
            continue;
        }
        let mut definition = all[name.as_str()].clone();
        openapi::references(&definition, &mut wanted);
        openapi::rewrite(&mut definition, openapi::V3);
        shown.insert(name, definition);
    }
}

/// The schema of a kind as it was written, with what every object has. It is large and seldom asked for, so it is read from
/// the stored definition.
fn document(custom: &Custom, snapshot: &Snapshot) -> Value {
    let stored = snapshot.get(DEFINITIONS, &custom.definition.name);
    let definition = stored.and_then(|entry| respond::parse(entry.json()).ok()).unwrap_or_default();
    let mut versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    let version = versions.find(|version| version["name"] == custom.kind.version);
    let schema = version.map(|version| version["schema"]["openAPIV3Schema"].clone());
    let mut document = schema.filter(Value::is_object).unwrap_or_else(|| json!({ "type": "object" }));
    whole(&mut document);
    document
}

/// Adds to a schema what every object has.
fn whole(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    let properties = fields.entry("properties").or_insert_with(|| json!({}));
    for name in META {
        let known = properties[name]["description"].as_str().map(str::to_owned);
        properties[name] = match name {
            "metadata" => json!({
                "description": known.unwrap_or_else(|| "Standard object's metadata. More info: \
                    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata".into()),
                "allOf": [reference(schema::METADATA)],
            }),
            "kind" => json!({ "type": "string", "description": KIND_TEXT }),
            _ => json!({ "type": "string", "description": VERSION_TEXT }),
        };
    }
}
