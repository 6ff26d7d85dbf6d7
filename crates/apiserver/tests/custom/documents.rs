//! What the document of version 2 tells of custom kinds, and when it tells something else.

use http::Method;
use serde_json::{Value, json};

use super::support::{Cluster, DEFINITIONS, MERGE, cluster};

const META: &str = "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

async fn document(cluster: &Cluster) -> Value {
    cluster.get("/openapi/v2").await.ok()
}

/// A definition with some versions, the first of which is stored.
fn definition(plural: &str, kind: &str, group: &str, versions: &[(&str, &Value)]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .enumerate()
        .map(|(index, (name, schema))| {
            json!({ "name": name, "served": true, "storage": index == 0, "schema": { "openAPIV3Schema": schema },
                "subresources": { "status": {} } })
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{group}") },
        "spec": { "group": group, "scope": "Namespaced", "names": { "plural": plural, "kind": kind }, "versions": versions },
    })
}

/// A schema as users write it, with what only version 3 can say.
fn bars() -> Value {
    json!({ "type": "object", "description": "Foo for tests", "properties": { "spec": {
        "type": "object", "description": "What is wanted", "required": ["bars"], "properties": {
            "bars": { "type": "array", "items": { "type": "object", "required": ["name"], "properties": {
                "name": { "type": "string", "pattern": "a|b", "default": "a" },
                "port": { "x-kubernetes-int-or-string": true },
                "note": { "type": "string", "nullable": true },
                "feeling": { "type": "string", "enum": ["Great", "Down"] } } } },
        } } } })
}

#[tokio::test]
async fn custom_kinds_are_in_the_document() {
    let cluster = cluster().await;
    let open = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    cluster
        .define(&definition("foos", "Foo", "stable.example.com", &[("v1", &bars()), ("v2beta1", &open)]))
        .await;
    let document = document(&cluster).await;
    let foo = &document["definitions"]["com.example.stable.v1.Foo"];
    let kind = json!([{ "group": "stable.example.com", "version": "v1", "kind": "Foo" }]);
    assert_eq!(foo["x-kubernetes-group-version-kind"], kind);
    assert_eq!((&foo["type"], &foo["description"]), (&json!("object"), &json!("Foo for tests")));
    assert_eq!(foo["properties"]["metadata"]["$ref"], META);
    assert_eq!(foo["properties"]["apiVersion"]["type"], "string");
    let items = &foo["properties"]["spec"]["properties"]["bars"]["items"];
    let expected = json!({ "type": "object", "required": ["name"], "properties": {
        "name": { "type": "string", "pattern": "a|b" }, "port": { "x-kubernetes-int-or-string": true },
        "note": {}, "feeling": { "type": "string", "enum": ["Great", "Down"] } } });
    assert_eq!(items, &expected);
    let list = &document["definitions"]["com.example.stable.v1.FooList"];
    assert_eq!(list["properties"]["items"]["items"]["$ref"], "#/definitions/com.example.stable.v1.Foo");
    assert_eq!(list["x-kubernetes-group-version-kind"][0]["kind"], "FooList");
    let mut other = document["definitions"]["com.example.stable.v2beta1.Foo"].clone();
    assert_eq!(other["x-kubernetes-group-version-kind"][0]["version"], "v2beta1");
    other.as_object_mut().unwrap().remove("x-kubernetes-group-version-kind");
    // Clients would refuse what is not named.
    assert_eq!(other, json!({ "type": "object" }));
    let one = &document["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/foos/{name}"];
    assert_eq!(one["patch"]["x-kubernetes-group-version-kind"]["kind"], "Foo");
    assert_eq!(one["get"]["responses"]["200"]["schema"]["$ref"], "#/definitions/com.example.stable.v1.Foo");
    assert!(document["paths"]["/apis/stable.example.com/v1/foos"]["get"].is_object());
    assert!(
        document["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/foos/{name}/status"]
            .is_object()
    );
    // Every reference leads somewhere.
    for part in document.to_string().split("\"#/definitions/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(document["definitions"][name].is_object(), "{name}");
    }
    cluster.end().await;
}

#[tokio::test]
async fn the_document_changes_with_the_definitions() {
    let cluster = cluster().await;
    let names = |document: &Value| -> Vec<String> {
        let all = document["definitions"].as_object().unwrap().keys();
        all.filter(|name| name.starts_with("com.example.") && !name.ends_with("List")).cloned().collect()
    };
    let object = json!({ "type": "object" });
    assert!(names(&document(&cluster).await).is_empty());
    cluster.define(&definition("foos", "Foo", "a.example.com", &[("v2", &object), ("v3", &object)])).await;
    cluster.define(&definition("foos", "Foo", "b.example.com", &[("v1", &object)])).await;
    cluster.define(&definition("waldos", "Waldo", "b.example.com", &[("v1", &object)])).await;
    let all =
        ["com.example.a.v2.Foo", "com.example.a.v3.Foo", "com.example.b.v1.Foo", "com.example.b.v1.Waldo"];
    assert_eq!(names(&document(&cluster).await), all);

    let foos = format!("{DEFINITIONS}/foos.a.example.com");
    let rename = json!([{ "op": "test", "path": "/spec/versions/1/name", "value": "v3" },
        { "op": "replace", "path": "/spec/versions/1/name", "value": "v4" }]);
    cluster.patch(&foos, "application/json-patch+json", &rename).await.ok();
    until_shown(&cluster, "com.example.a.v4.Foo", true).await;
    let renamed =
        ["com.example.a.v2.Foo", "com.example.a.v4.Foo", "com.example.b.v1.Foo", "com.example.b.v1.Waldo"];
    assert_eq!(names(&document(&cluster).await), renamed);

    let unserve = json!([{ "op": "replace", "path": "/spec/versions/1/served", "value": false }]);
    cluster.patch(&foos, "application/json-patch+json", &unserve).await.ok();
    until_shown(&cluster, "com.example.a.v4.Foo", false).await;

    cluster.delete(&format!("{DEFINITIONS}/waldos.b.example.com")).await.ok();
    until_shown(&cluster, "com.example.b.v1.Waldo", false).await;
    assert_eq!(names(&document(&cluster).await), ["com.example.a.v2.Foo", "com.example.b.v1.Foo"]);
    // A change of the schema shows too.
    let described = json!({ "spec": { "versions": [{ "name": "v1", "served": true, "storage": true,
        "schema": { "openAPIV3Schema": { "type": "object", "description": "told anew" } } }] } });
    cluster.patch(&format!("{DEFINITIONS}/foos.b.example.com"), MERGE, &described).await.ok();
    until_shown_so(&cluster, |document| {
        document["definitions"]["com.example.b.v1.Foo"]["description"] == "told anew"
    })
    .await;
    cluster.end().await;
}

/// Waits until a definition is in the document, or no more. Whoever knows the document by its tag hears of the change.
async fn until_shown(cluster: &Cluster, name: &str, shown: bool) {
    until_shown_so(cluster, |document| document["definitions"][name].is_object() == shown).await;
}

async fn until_shown_so(cluster: &Cluster, is_so: impl Fn(&Value) -> bool) {
    let mut tag = String::new();
    let until = async {
        loop {
            let known = [("if-none-match", tag.as_str())];
            let (answer, newest) = cluster.tagged(Method::GET, "/openapi/v2", &known).await;
            assert!(
                answer.code == 200 && newest != tag || answer.code == 304 && newest == tag,
                "{}",
                answer.code
            );
            if answer.code == 200 && is_so(&answer.body) {
                return;
            }
            tag = newest;
            // What follows the definitions has its turn.
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(super::support::PATIENCE, until).await.expect("the document changes");
}

#[tokio::test]
async fn a_list_has_the_name_that_its_definition_gives_it() {
    let cluster = cluster().await;
    let mut definition = definition("foos", "Foo", "a.example.com", &[("v1", &json!({ "type": "object" }))]);
    definition["spec"]["names"]["listKind"] = json!("ManyFoos");
    definition["spec"]["scope"] = json!("Cluster");
    cluster.define(&definition).await;
    for (document, base) in
        [("/openapi/v2", "definitions"), ("/openapi/v3/apis/a.example.com/v1", "components")]
    {
        let document = cluster.get(document).await.ok();
        let schemas = if base == "components" { &document[base]["schemas"] } else { &document[base] };
        assert_eq!(
            schemas["com.example.a.v1.ManyFoos"]["x-kubernetes-group-version-kind"][0]["kind"],
            "ManyFoos"
        );
        assert!(schemas["com.example.a.v1.FooList"].is_null());
        assert!(document["paths"]["/apis/a.example.com/v1/foos"]["post"].is_object());
    }
    cluster.end().await;
}

#[tokio::test]
async fn nothing_that_is_built_in_is_shadowed() {
    let cluster = cluster().await;
    let before = document(&cluster).await["definitions"]["io.k8s.api.core.v1.Pod"].clone();
    let mut shadow = definition("pods", "Pod", "core.api.k8s.io", &[("v1", &json!({ "type": "object" }))]);
    shadow["metadata"]["annotations"] = json!({ "api-approved.kubernetes.io": "unapproved, for a test" });
    cluster.define(&shadow).await;
    let after = document(&cluster).await;
    assert_eq!(after["definitions"]["io.k8s.api.core.v1.Pod"], before);
    assert!(after["paths"]["/apis/core.api.k8s.io/v1/pods"].is_null());
    cluster.end().await;
}
