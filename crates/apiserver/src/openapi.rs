//! OpenAPI documents, version 3 for each group's version and version 2 for all: what clients validate, apply
//! and explain by. Those of version 3 are made at every request: clients keep them, and they are large. That of version 2
//! is kept, as older clients do not.

mod gnostic;
mod v2;

use std::{collections::BTreeSet, sync::LazyLock};

use dray_machinery::{Kind, Status, Subresource, kinds, schema};
use dray_store::{Snapshot, Store};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    custom::{self, Custom, Table},
    handler::GIT_VERSION,
    negotiate::Encoding,
    respond::{self, Answer},
    server::Inner,
};

pub(crate) use v2::Document;

pub(crate) const V2: &str = "#/definitions/";
pub(crate) const V3: &str = "#/components/schemas/";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// The schemas that the operations of every kind refer to.
pub(crate) const SHARED: [&str; 3] = [LIST_META, STATUS, DELETE_OPTIONS];

pub(crate) fn group_path(kind: &Kind) -> String {
    if kind.group.is_empty() {
        format!("api/{}", kind.version)
    } else {
        format!("apis/{}/{}", kind.group, kind.version)
    }
}

/// What all fingerprints begin with: the schemas of the built-in kinds, which are large and never change.
static BUILT_IN: LazyLock<Sha256> = LazyLock::new(|| Sha256::new_with_prefix(schema::compressed()));

fn hash(path: &str) -> String {
    let digest = BUILT_IN.clone().chain_update(path);
    digest.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Answers a request for a document; none when the path is no such document.
pub(crate) async fn answer(path: &str, headers: &HeaderMap, inner: &Inner) -> Option<Result<Answer, Status>> {
    let path = path.trim_matches('/');
    if path == "openapi/v2" {
        return Some(version_two(headers, inner).await);
    }
    let table = inner.custom.table();
    let table = &*table;
    let rest = path.strip_prefix("openapi/v3")?.trim_start_matches('/');
    let members: Vec<&'static Kind> = kinds::all().iter().filter(|kind| group_path(kind) == rest).collect();
    if rest.is_empty() {
        let mut paths = Map::new();
        for kind in kinds::all() {
            let path = group_path(kind);
            let url = format!("/openapi/v3/{path}?hash={}", hash(&path));
            paths.insert(path, json!({ "serverRelativeURL": url }));
        }
        for (path, digest) in custom::openapi::paths(table) {
            let url = format!("/openapi/v3/{path}?hash={digest}");
            paths.entry(path).or_insert_with(|| json!({ "serverRelativeURL": url }));
        }
        for (path, url) in inner.aggregator.documents() {
            paths.insert(path, json!({ "serverRelativeURL": url }));
        }
        return Some(Ok(respond::value(StatusCode::OK, Encoding::Json, &json!({ "paths": paths }))));
    }
    if members.is_empty() {
        return Some(custom_answer(rest, headers, table, &inner.store));
    }
    Some(Ok(document(headers, &hash(rest), &members, || definitions(&members, V3))))
}

/// The document of a version of a group that only definitions have.
fn custom_answer(path: &str, headers: &HeaderMap, table: &Table, store: &Store) -> Result<Answer, Status> {
    let digest = custom::openapi::paths(table).into_iter().find(|(known, _)| known == path);
    let (_, digest) = digest.ok_or_else(Status::no_such_resource)?;
    let members: Vec<Custom> =
        table.all().into_iter().filter(|custom| group_path(custom.kind) == path).collect();
    let kinds: Vec<&'static Kind> = members.iter().map(|custom| custom.kind).collect();
    Ok(document(headers, &digest, &kinds, || {
        let mut schemas = custom::openapi::schemas(&members, &store.snapshot());
        schemas.insert(PATCH.into(), patch_schema());
        Value::Object(schemas)
    }))
}

fn document(
    headers: &HeaderMap,
    digest: &str,
    members: &[&'static Kind],
    schemas: impl FnOnce() -> Value,
) -> Answer {
    let tag = format!("\"{digest}\"");
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return respond::text(StatusCode::NOT_MODIFIED, "");
    }
    let document = json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": GIT_VERSION },
        "paths": paths(members, V3),
        "components": { "schemas": schemas() },
    });
    let mut answer = respond::value(StatusCode::OK, Encoding::Json, &document);
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        answer.headers_mut().insert(header::ETAG, tag);
    }
    answer
}

async fn version_two(headers: &HeaderMap, inner: &Inner) -> Result<Answer, Status> {
    let now = || {
        let (table, snapshot) = (inner.custom.table(), inner.store.snapshot());
        let fingerprint = hash(&format!("openapi/v2 {}", custom::openapi::fingerprint(&table)));
        (fingerprint, move || all(&table, &snapshot))
    };
    v2::answer(headers, &inner.document, now).await
}

/// The document of version 2.
fn all(table: &Table, snapshot: &Snapshot) -> Value {
    let members: Vec<&'static Kind> = kinds::all().iter().collect();
    let (mut paths, mut definitions) = (paths(&members, V2), definitions(&members, V2));
    // What is built in is never shadowed: not by a path, and not by a name that happens to be the same.
    let is_free = |custom: &Custom| {
        let kind = custom.kind;
        kinds::find(kind.group, kind.version, kind.plural).is_none()
            && definitions.get(kind.schema).is_none()
            && definitions.get(list_name(kind)).is_none()
    };
    let added: Vec<Custom> = table.all().into_iter().filter(is_free).collect();
    let rows: Vec<&'static Kind> = added.iter().map(|custom| custom.kind).collect();
    let more = [
        (&mut paths, self::paths(&rows, V2)),
        (&mut definitions, Value::Object(custom::openapi::own(&added, snapshot, V2))),
    ];
    for (all, more) in more {
        if let (Value::Object(all), Value::Object(more)) = (all, more) {
            all.extend(more);
        }
    }
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": GIT_VERSION },
        "paths": paths,
        "definitions": definitions,
    })
}

pub(crate) fn list_name(kind: &Kind) -> String {
    let package = kind.schema.rsplit_once('.').map_or("", |(package, _)| package);
    format!("{package}.{}", kind.list_kind())
}

fn definitions(members: &[&'static Kind], prefix: &str) -> Value {
    let all = schema::definitions();
    let mut wanted = BTreeSet::new();
    let mut stack: Vec<String> = vec![LIST_META.into(), STATUS.into(), DELETE_OPTIONS.into()];
    for kind in members {
        stack.push(kind.schema.into());
        if kind.has(Subresource::Scale) {
            stack.push("io.k8s.api.autoscaling.v1.Scale".into());
        }
        if kind.has(Subresource::Eviction) {
            stack.push("io.k8s.api.policy.v1.Eviction".into());
            stack.push("io.k8s.api.core.v1.Binding".into());
        }
    }
    while let Some(name) = stack.pop() {
        if wanted.insert(name.clone()) {
            references(&all[name.as_str()], &mut stack);
        }
    }
    let mut shown = Map::new();
    for name in wanted {
        let mut definition = all[name.as_str()].clone();
        if definition.is_null() {
            continue;
        }
        rewrite(&mut definition, prefix);
        // No object has to say anything about itself: what is left out is filled in.
        if let Some(required) = definition["required"].as_array_mut() {
            required.retain(|field| field != "metadata");
        }
        if name.ends_with(".IntOrString") {
            definition["format"] = json!("int-or-string");
        }
        shown.insert(name, definition);
    }
    for kind in members {
        let kinds = json!([{ "group": kind.group, "version": kind.version, "kind": kind.kind }]);
        shown[kind.schema]["x-kubernetes-group-version-kind"] = kinds;
        let reference = |name: &str| json!({ "$ref": format!("{prefix}{name}") });
        if kind.question {
            continue;
        }
        let mut list = json!({
            "description": format!("{} is a list of {} objects.", kind.list_kind(), kind.kind),
            "type": "object", "required": ["items"],
            "properties": {
                "apiVersion": { "type": "string", "description": "APIVersion defines the versioned schema of this representation of an object." },
                "kind": { "type": "string", "description": "Kind is a string value representing the REST resource this object represents." },
                "items": { "type": "array", "description": "Items of the list.", "items": reference(kind.schema) },
                "metadata": reference(LIST_META),
            },
            "x-kubernetes-group-version-kind":
                [{ "group": kind.group, "version": kind.version, "kind": kind.list_kind() }],
        });
        rewrite_properties(&mut list, prefix);
        shown.insert(list_name(kind), list);
    }
    shown.insert(PATCH.into(), patch_schema());
    Value::Object(shown)
}

fn patch_schema() -> Value {
    json!({ "type": "object", "description": "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body." })
}

pub(crate) fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                found.push(target.trim_start_matches(V2).to_owned());
            }
            fields.values().for_each(|field| references(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

/// Puts references where the version of OpenAPI has them, and says what the scalar types of the reference are.
pub(crate) fn rewrite(definition: &mut Value, prefix: &str) {
    if definition.get("x-kubernetes-int-or-string").is_some() {
        if let Some(fields) = definition.as_object_mut() {
            fields.remove("x-kubernetes-int-or-string");
            if prefix == V3 {
                fields.insert("oneOf".into(), json!([{ "type": "string" }, { "type": "number" }]));
            } else {
                fields.insert("type".into(), json!("string"));
            }
        }
        return;
    }
    rewrite_properties(definition, prefix);
}

fn rewrite_properties(value: &mut Value, prefix: &str) {
    match value {
        Value::Object(fields) => {
            fields.remove("x-wire");
            fields.remove("x-one-of");
            if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                let name = target.trim_start_matches(V2).trim_start_matches(V3);
                let reference = json!({ "$ref": format!("{prefix}{name}") });
                if prefix == V3 && fields.len() > 1 {
                    // Version 3.0 allows nothing beside a reference.
                    fields.remove("$ref");
                    fields.insert("allOf".into(), json!([reference]));
                } else {
                    fields["$ref"] = reference["$ref"].clone();
                }
                return;
            }
            fields.values_mut().for_each(|field| rewrite_properties(field, prefix));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rewrite_properties(item, prefix)),
        _ => {}
    }
}

fn parameter(name: &str, kind: &str, place: &str, prefix: &str) -> Value {
    let mut parameter = json!({ "name": name, "in": place });
    if prefix == V3 {
        parameter["schema"] = json!({ "type": kind, "uniqueItems": true });
    } else {
        parameter["type"] = json!(kind);
        parameter["uniqueItems"] = json!(true);
    }
    if place == "path" {
        parameter["required"] = json!(true);
    }
    parameter
}

/// The parameters of a verb's query.
fn query_parameters(verb: &str, prefix: &str) -> Vec<Value> {
    let names: &[(&str, &str)] = match verb {
        "list" | "deletecollection" => &[
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ],
        "post" | "put" => &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")],
        "patch" => &[
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("force", "boolean"),
        ],
        "delete" => &[
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
        ],
        _ => &[],
    };
    names.iter().map(|(name, kind)| parameter(name, kind, "query", prefix)).collect()
}

fn operation(kind: &Kind, verb: &str, action: &str, body: Option<&str>, result: &str, prefix: &str) -> Value {
    let reference = |name: &str| json!({ "$ref": format!("{prefix}{name}") });
    let response = if prefix == V3 {
        json!({ "description": "OK", "content": { "application/json": { "schema": reference(result) } } })
    } else {
        json!({ "description": "OK", "schema": reference(result) })
    };
    let mut parameters = query_parameters(verb, prefix);
    let mut operation = json!({
        "operationId": format!("{verb}{}{}", kind.version, kind.kind),
        "responses": { "200": response, "401": { "description": "Unauthorized" } },
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": { "group": kind.group, "version": kind.version, "kind": kind.kind },
    });
    if let Some(body) = body {
        if prefix == V3 {
            let medias: &[&str] = if verb == "patch" {
                &[
                    "application/apply-patch+yaml",
                    "application/json-patch+json",
                    "application/merge-patch+json",
                    "application/strategic-merge-patch+json",
                ]
            } else {
                &["*/*"]
            };
            let content: Map<String, Value> = medias
                .iter()
                .filter(|media| !kind.defined || !media.contains("strategic"))
                .map(|media| ((*media).to_owned(), json!({ "schema": reference(body) })))
                .collect();
            operation["requestBody"] = json!({ "content": content, "required": true });
        } else {
            parameters
                .push(json!({ "name": "body", "in": "body", "required": true, "schema": reference(body) }));
        }
    }
    operation["parameters"] = json!(parameters);
    operation
}

fn paths(members: &[&'static Kind], prefix: &str) -> Value {
    let mut paths = Map::new();
    for kind in members {
        let base = format!("/{}", group_path(kind));
        let place = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{base}{place}/{}", kind.plural);
        let mut shared = Vec::new();
        if kind.question {
            if kind.namespaced {
                shared.push(parameter("namespace", "string", "path", prefix));
            }
            let post = operation(kind, "post", "post", Some(kind.schema), kind.schema, prefix);
            paths.insert(collection, json!({ "post": post, "parameters": shared }));
            continue;
        }
        let list = list_name(kind);
        if kind.namespaced {
            shared.push(parameter("namespace", "string", "path", prefix));
            paths.insert(
                format!("{base}/{}", kind.plural),
                json!({ "get": operation(kind, "list", "list", None, &list, prefix) }),
            );
        }
        paths.insert(
            collection.clone(),
            json!({
                "get": operation(kind, "list", "list", None, &list, prefix),
                "post": operation(kind, "post", "post", Some(kind.schema), kind.schema, prefix),
                "delete": operation(kind, "deletecollection", "deletecollection", Some(DELETE_OPTIONS), STATUS, prefix),
                "parameters": shared,
            }),
        );
        shared.push(parameter("name", "string", "path", prefix));
        let one = |result: &str| {
            json!({
                "get": operation(kind, "get", "get", None, result, prefix),
                "put": operation(kind, "put", "put", Some(result), result, prefix),
                "patch": operation(kind, "patch", "patch", Some(PATCH), result, prefix),
                "parameters": shared,
            })
        };
        let mut item = one(kind.schema);
        item["delete"] = operation(kind, "delete", "delete", Some(DELETE_OPTIONS), STATUS, prefix);
        paths.insert(format!("{collection}/{{name}}"), item);
        for subresource in kind.subresources {
            let path = format!("{collection}/{{name}}/{}", subresource.as_str());
            match subresource {
                Subresource::Status => {
                    paths.insert(path, one(kind.schema));
                }
                Subresource::Scale => {
                    let mut scale = one("io.k8s.api.autoscaling.v1.Scale");
                    for verb in ["get", "put", "patch"] {
                        scale[verb]["x-kubernetes-group-version-kind"] =
                            json!({ "group": "autoscaling", "version": "v1", "kind": "Scale" });
                    }
                    paths.insert(path, scale);
                }
                _ => {}
            }
        }
    }
    Value::Object(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dangling(value: &Value, prefix: &str, known: &Value) -> Vec<String> {
        let mut found = Vec::new();
        references(value, &mut found);
        found
            .into_iter()
            .map(|name| name.trim_start_matches(prefix).to_owned())
            .filter(|name| known.get(name).is_none())
            .collect()
    }

    #[test]
    fn no_reference_leads_nowhere() {
        let members: Vec<&'static Kind> = kinds::all().iter().collect();
        for prefix in [V2, V3] {
            let definitions = definitions(&members, prefix);
            assert_eq!(dangling(&definitions, prefix, &definitions), Vec::<String>::new());
            assert_eq!(dangling(&paths(&members, prefix), prefix, &definitions), Vec::<String>::new());
        }
    }
}
