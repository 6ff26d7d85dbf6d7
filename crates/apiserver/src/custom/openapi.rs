//! What documents of OpenAPI say of custom kinds: what `kubectl explain` and clients that validate read.

mod shape;

use std::collections::{BTreeMap, BTreeSet};

use dray_machinery::schema;
use dray_store::Snapshot;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{Custom, DEFINITIONS, Table};
use crate::{openapi, respond};

const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

fn tell(digest: &mut Sha256, custom: &Custom) {
    digest.update(custom.definition.name.as_bytes());
    digest.update(custom.definition.fingerprint);
}

fn shown(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// The versions of groups that only definitions have, as documents name them, and what changes with what they say.
pub(crate) fn paths(table: &Table) -> Vec<(String, String)> {
    let mut paths: Vec<(String, Sha256)> = Vec::new();
    for custom in table.all() {
        let path = openapi::group_path(custom.kind);
        if paths.last().is_none_or(|(last, _)| *last != path) {
            paths.push((path, Sha256::new()));
        }
        if let Some((_, digest)) = paths.last_mut() {
            tell(digest, &custom);
        }
    }
    paths.into_iter().map(|(path, digest)| (path, shown(digest))).collect()
}

/// What changes with what all definitions say.
pub(crate) fn fingerprint(table: &Table) -> String {
    let mut digest = Sha256::new();
    table.all().iter().for_each(|custom| tell(&mut digest, custom));
    shown(digest)
}

/// The schemas of the custom kinds of a version of a group, and those that they refer to.
pub(crate) fn schemas(members: &[Custom], snapshot: &Snapshot) -> Map<String, Value> {
    let mut shown = own(members, snapshot, openapi::V3);
    let scales = members.iter().any(|custom| custom.scale.is_some());
    let roots = [schema::METADATA].into_iter().chain(openapi::SHARED).chain(scales.then_some(SCALE));
    built_in(roots.map(str::to_owned).collect(), &mut shown);
    shown
}

/// The schemas of custom kinds alone.
pub(crate) fn own(members: &[Custom], snapshot: &Snapshot, prefix: &str) -> Map<String, Value> {
    // Schemas are large and seldom asked for, so they are read from the stored definitions as they were written.
    let mut definitions: BTreeMap<&str, Value> = BTreeMap::new();
    let mut shown = Map::new();
    for custom in members {
        let kind = custom.kind;
        let named = |name: String| json!([{ "group": kind.group, "version": kind.version, "kind": name }]);
        let definition =
            definitions.entry(&custom.definition.name).or_insert_with(|| definition(custom, snapshot));
        let mut whole = shape::whole(schema_of(definition, custom), schema::METADATA, prefix);
        whole["x-kubernetes-group-version-kind"] = named(kind.kind.to_owned());
        shown.insert(kind.schema.to_owned(), whole);
        let items = format!(
            "List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
            kind.plural
        );
        let mut list = json!({
            "description": format!("{} is a list of {}", kind.list_kind(), kind.kind),
            "type": "object", "required": ["items"],
            "properties": {
                "items": {
                    "type": "array", "description": items,
                    "items": { "$ref": format!("{prefix}{}", kind.schema) },
                },
                "metadata": shape::described(LIST_META, "Standard list metadata.", prefix),
            },
            "x-kubernetes-group-version-kind": named(kind.list_kind()),
        });
        for (name, field) in shape::types() {
            list["properties"][name] = field;
        }
        shown.insert(openapi::list_name(kind), list);
    }
    shown
}

fn definition(custom: &Custom, snapshot: &Snapshot) -> Value {
    let stored = snapshot.get(DEFINITIONS, &custom.definition.name);
    stored.and_then(|entry| respond::parse(entry.json()).ok()).unwrap_or_default()
}

fn schema_of<'a>(definition: &'a Value, custom: &Custom) -> &'a Value {
    let mut versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    let version = versions.find(|version| version["name"] == custom.kind.version);
    version.map_or(&Value::Null, |version| &version["schema"]["openAPIV3Schema"])
}

/// The schema of a custom kind as it was written.
pub(crate) fn written(custom: &Custom, snapshot: &Snapshot) -> Value {
    schema_of(&definition(custom, snapshot), custom).clone()
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
