//! Definitions: names and conditions, what is wrong with schemas, and their end.

use serde_json::{Value, json};

use super::support::{DEFINITIONS, WIDGETS, cluster, condition, of_spec, widget, widgets};

fn anything() -> Value {
    json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

#[tokio::test]
async fn a_definition_is_served_once_it_is_established() {
    let cluster = cluster().await;
    cluster.get(WIDGETS).await.refused(404);
    let made = cluster.define(&widgets(anything())).await;
    assert_eq!(condition(&made, "NamesAccepted"), "True NoConflicts");
    assert_eq!(condition(&made, "Established"), "True InitialNamesAccepted");
    assert_eq!(
        made["status"]["acceptedNames"],
        json!({ "plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList",
            "shortNames": ["wd"], "categories": ["all"] })
    );
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(made["metadata"]["generation"], 1);
    let empty = cluster.get(WIDGETS).await.ok();
    assert_eq!((&empty["kind"], &empty["items"]), (&json!("WidgetList"), &json!([])));
    // It is still there after a restart.
    let cluster = cluster.restart().await;
    cluster.post(WIDGETS, &widget("a", json!({}))).await.ok();
    cluster.end().await;
}

#[tokio::test]
async fn names_that_others_have_wait_until_they_are_free() {
    let cluster = cluster().await;
    cluster.define(&widgets(anything())).await;
    let mut other = widgets(anything());
    other["metadata"]["name"] = json!("gadgets.example.com");
    other["spec"]["names"] = json!({ "plural": "gadgets", "kind": "Widget", "listKind": "GadgetList" });
    cluster.post(DEFINITIONS, &other).await.ok();
    let waiting =
        cluster.until("gadgets.example.com", |one| !condition(one, "NamesAccepted").is_empty()).await;
    assert_eq!(condition(&waiting, "NamesAccepted"), "False KindConflict");
    assert_eq!(condition(&waiting, "Established"), "False NotAccepted");
    assert_eq!(waiting["status"]["conditions"][0]["message"], "\"Widget\" is already in use");
    cluster.get("/apis/example.com/v1/gadgets").await.refused(404);
    cluster.delete(&format!("{DEFINITIONS}/widgets.example.com")).await.ok();
    cluster.until("gadgets.example.com", |one| condition(one, "Established").starts_with("True")).await;
    cluster.get("/apis/example.com/v1/gadgets").await.ok();
}

#[tokio::test]
async fn groups_of_kubernetes_say_whether_they_are_approved() {
    let cluster = cluster().await;
    let mut definition = widgets(anything());
    definition["metadata"] = json!({ "name": "widgets.x.k8s.io" });
    definition["spec"]["group"] = json!("x.k8s.io");
    let refused = cluster.post(DEFINITIONS, &definition).await;
    assert_eq!(refused.causes().len(), 1);
    definition["metadata"]["annotations"] = json!({ "api-approved.kubernetes.io": "unapproved, a test" });
    let made = cluster.define(&definition).await;
    assert_eq!(condition(&made, "KubernetesAPIApprovalPolicyConformant"), "False UnapprovedAnnotation");
}

#[tokio::test]
async fn a_definition_goes_after_its_objects_and_ends_their_watches() {
    let cluster = cluster().await;
    cluster.define(&widgets(anything())).await;
    cluster.post(WIDGETS, &widget("a", json!({}))).await.ok();
    let mut held = widget("b", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/held"]);
    cluster.post(WIDGETS, &held).await.ok();
    let mut events = cluster.watch(&format!("{WIDGETS}?watch=true")).await;
    for name in ["a", "b"] {
        let event = events.next().await.unwrap();
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!(name)));
    }
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let going = cluster.delete(&path).await.ok();
    assert_eq!(going["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    assert_eq!(condition(&going, "Terminating"), "True InstanceDeletionPending");
    // The first goes at once, the second when its finalizer does.
    let gone = events.next().await.unwrap();
    assert_eq!((&gone["type"], &gone["object"]["metadata"]["name"]), (&json!("DELETED"), &json!("a")));
    let going = events.next().await.unwrap();
    assert_eq!((&going["type"], &going["object"]["metadata"]["name"]), (&json!("MODIFIED"), &json!("b")));
    let refused = cluster.post(WIDGETS, &widget("c", json!({}))).await;
    assert_eq!(refused.refused(405), "create not allowed while custom resource definition is terminating");
    let list = cluster.get("/apis/example.com/v1").await.ok();
    assert!(!list["resources"][0]["verbs"].as_array().unwrap().contains(&json!("create")));
    let release = json!({ "metadata": { "finalizers": null } });
    cluster.patch(&format!("{WIDGETS}/b"), super::support::MERGE, &release).await.ok();
    cluster.until("widgets.example.com", Value::is_null).await;
    assert_eq!(events.next().await.unwrap()["type"], "DELETED");
    assert!(events.next().await.is_none(), "the watch ends with its kind");
    cluster.get(WIDGETS).await.refused(404);
    cluster.get("/apis/example.com").await.refused(404);
    // What was there under the name before is not there again.
    cluster.define(&widgets(anything())).await;
    assert_eq!(cluster.get(WIDGETS).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn a_definition_that_comes_again_is_another() {
    let cluster = cluster().await;
    for turn in 0..5 {
        cluster.define(&widgets(anything())).await;
        cluster.post(WIDGETS, &widget("a", json!({ "turn": turn }))).await.ok();
        let mut events = cluster.watch(&format!("{WIDGETS}?watch=true")).await;
        assert_eq!(events.next().await.unwrap()["object"]["spec"]["turn"], turn);
        cluster.delete(&format!("{DEFINITIONS}/widgets.example.com")).await.ok();
        assert_eq!(events.next().await.unwrap()["type"], "DELETED");
        assert!(events.next().await.is_none());
        cluster.until("widgets.example.com", Value::is_null).await;
    }
}

#[tokio::test]
async fn a_definition_that_never_was_served_goes_at_once() {
    let cluster = cluster().await;
    cluster.define(&widgets(anything())).await;
    let mut other = widgets(anything());
    other["metadata"]["name"] = json!("gadgets.example.com");
    other["spec"]["names"] = json!({ "plural": "gadgets", "kind": "Widget", "listKind": "GadgetList" });
    cluster.post(DEFINITIONS, &other).await.ok();
    cluster.delete(&format!("{DEFINITIONS}/gadgets.example.com")).await.ok();
    cluster.until("gadgets.example.com", Value::is_null).await;
    cluster.get(WIDGETS).await.ok();
}

#[tokio::test]
async fn what_is_served_follows_the_definition() {
    let cluster = cluster().await;
    cluster.define(&widgets(of_spec(anything()))).await;
    cluster.post(WIDGETS, &widget("a", json!({ "color": "red" }))).await.ok();
    let mut events = cluster.watch(&format!("{WIDGETS}?watch=true")).await;
    assert_eq!(events.next().await.unwrap()["type"], "ADDED");
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let mut definition = cluster.get(&path).await.ok();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = of_spec(json!({
        "type": "object", "properties": { "color": { "type": "string" }, "size": { "type": "integer", "default": 3 } },
    }));
    let changed = cluster.put(&path, &definition).await.ok();
    assert_eq!(changed["metadata"]["generation"], 2);
    // A watch that began under another schema ends; who asks again sees what is filled in.
    assert!(events.next().await.is_none());
    let object = cluster.get(&format!("{WIDGETS}/a")).await.ok();
    assert_eq!(object["spec"], json!({ "color": "red", "size": 3 }));
    let mut events = cluster.watch(&format!("{WIDGETS}?watch=true")).await;
    assert_eq!(events.next().await.unwrap()["object"]["spec"]["size"], 3);
    let list = cluster.get(WIDGETS).await.ok();
    assert_eq!(list["items"][0]["spec"]["size"], 3);
    definition["metadata"]["resourceVersion"] =
        cluster.get(&path).await.ok()["metadata"]["resourceVersion"].clone();
    for (field, value) in [("scope", json!("Cluster")), ("group", json!("other.com"))] {
        let mut other = definition.clone();
        other["spec"][field] = value;
        let causes = cluster.put(&path, &other).await.causes();
        assert!(
            causes.iter().any(|cause| cause.contains(&format!("spec.{field}: Invalid value"))
                && cause.ends_with("field is immutable")),
            "{causes:?}"
        );
    }
}

/// What is wrong with a schema: at a path below "spec.validation.openAPIV3Schema".
#[tokio::test]
async fn schemas_are_structural() {
    let cluster = cluster().await;
    let strings = json!({ "type": "string" });
    for (schema, expected) in [
        (json!({}), vec![".type: Required value: must not be empty at the root"]),
        (json!({ "type": "string" }), vec![".type: Invalid value: \"string\": must be object at the root"]),
        (
            of_spec(json!({})),
            vec![".properties[spec].type: Required value: must not be empty for specified object fields"],
        ),
        (
            of_spec(json!({ "type": "array", "items": {} })),
            vec![".properties[spec].items.type: Required value: must not be empty for specified array items"],
        ),
        (
            of_spec(json!({ "type": "array" })),
            vec![".properties[spec].items: Required value: must be specified"],
        ),
        (
            of_spec(json!({ "type": "text" })),
            vec![
                ".properties[spec].type: Unsupported value: \"text\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
            ],
        ),
        (
            json!({ "type": "object", "additionalProperties": strings }),
            vec![".additionalProperties: Forbidden: must not be used at the root"],
        ),
        (
            of_spec(
                json!({ "type": "object", "properties": { "a": strings }, "additionalProperties": strings }),
            ),
            vec![
                ".properties[spec].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
            ],
        ),
        (
            of_spec(json!({ "type": "object", "$ref": "#/definitions/x" })),
            vec![".properties[spec].$ref: Forbidden: $ref is not supported"],
        ),
        (
            of_spec(json!({ "type": "array", "uniqueItems": true, "items": strings })),
            vec![
                ".properties[spec].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ],
        ),
        (
            of_spec(
                json!({ "type": "object", "properties": { "a": strings }, "anyOf": [{ "properties": { "b": { "minLength": 1 } } }] }),
            ),
            vec![
                ".properties[spec].properties[b]: Required value: because it is defined in spec.validation.openAPIV3Schema.properties[spec].anyOf[0].properties[b]",
            ],
        ),
        (
            of_spec(
                json!({ "type": "object", "not": { "type": "string", "description": "x", "nullable": true } }),
            ),
            vec![
                ".properties[spec].not.type: Forbidden: must be empty to be structural",
                ".properties[spec].not.description: Forbidden: must be empty to be structural",
                ".properties[spec].not.nullable: Forbidden: must be false to be structural",
            ],
        ),
        (
            of_spec(
                json!({ "x-kubernetes-int-or-string": true, "anyOf": [{ "type": "integer" }, { "type": "string" }] }),
            ),
            vec![],
        ),
        (
            of_spec(
                json!({ "x-kubernetes-int-or-string": true, "x-kubernetes-preserve-unknown-fields": true }),
            ),
            vec![
                ".properties[spec].x-kubernetes-preserve-unknown-fields: Invalid value: true: must be false if x-kubernetes-int-or-string is true",
            ],
        ),
        (
            of_spec(json!({ "type": "object", "x-kubernetes-embedded-resource": true })),
            vec![
                ".properties[spec].properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
            ],
        ),
        (
            json!({ "type": "object", "properties": { "metadata": { "type": "object", "properties": { "labels": { "type": "object" } } } } }),
            vec![
                ".properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
            ],
        ),
        (
            of_spec(
                json!({ "type": "array", "x-kubernetes-list-type": "map", "items": { "type": "object", "properties": { "k": strings } } }),
            ),
            vec![
                ".properties[spec].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
            ],
        ),
        (
            of_spec(
                json!({ "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k", "z"],
                "items": { "type": "object", "properties": { "k": strings } } }),
            ),
            vec![
                ".properties[spec].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
                ".properties[spec].x-kubernetes-list-map-keys: Invalid value: [\"k\",\"z\"]: entries must all be names of item properties",
            ],
        ),
        (
            of_spec(
                json!({ "type": "array", "x-kubernetes-list-type": "set", "items": { "type": "object" } }),
            ),
            vec![
                ".properties[spec].items.x-kubernetes-map-type: Invalid value: \"\": must be atomic as item of a list with x-kubernetes-list-type=set",
            ],
        ),
        (
            of_spec(json!({ "type": "string", "x-kubernetes-list-type": "set" })),
            vec![
                ".properties[spec].type: Invalid value: \"string\": must be array if x-kubernetes-list-type is specified",
            ],
        ),
        (
            of_spec(json!({ "type": "string", "pattern": "(" })),
            vec![
                ".properties[spec].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `(`",
            ],
        ),
        (
            of_spec(json!({ "type": "integer", "default": "x" })),
            vec![
                ".properties[spec].default: Invalid value: \"string\":  in body must be of type integer: \"string\"",
            ],
        ),
        (
            of_spec(json!({ "type": "object", "default": { "a": 1 }, "properties": { "b": strings } })),
            vec![".properties[spec].default: Invalid value: {\"a\":1}: must not have unknown fields"],
        ),
        (
            of_spec(
                json!({ "type": "object", "properties": { "n": { "type": "integer" } }, "x-kubernetes-validations": [{ "rule": "self.m > 1" }] }),
            ),
            vec![
                ".properties[spec].x-kubernetes-validations[0].rule: Invalid value: {\"rule\":\"self.m > 1\"}: compilation failed: ERROR: <input>:1:5: undefined field 'm'\n | self.m > 1\n | ....^",
            ],
        ),
    ] {
        let shown = schema.to_string();
        let answer = cluster.post(&format!("{DEFINITIONS}?dryRun=All"), &widgets(schema)).await;
        let mut found = if answer.code == 201 { Vec::new() } else { answer.causes() };
        let mut expected: Vec<String> =
            expected.into_iter().map(|text| format!("spec.validation.openAPIV3Schema{text}")).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{shown}");
    }
    // With several versions that say different things, each is named.
    let mut two = widgets(json!({ "type": "object" }));
    let other =
        json!({ "name": "v2", "served": true, "storage": false, "schema": { "openAPIV3Schema": {} } });
    two["spec"]["versions"].as_array_mut().unwrap().push(other);
    let causes = cluster.post(DEFINITIONS, &two).await.causes();
    assert_eq!(
        causes,
        ["spec.versions[1].schema.openAPIV3Schema.type: Required value: must not be empty at the root"]
    );
    // With the same schema and other fields to select by, only these are looked at twice.
    let mut two = widgets(of_spec(json!({ "type": "object", "properties": { "a": strings } })));
    let mut other = two["spec"]["versions"][0].clone();
    other["name"] = json!("v2");
    other["storage"] = json!(false);
    other["selectableFields"] = json!([{ "jsonPath": ".spec.b" }]);
    two["spec"]["versions"].as_array_mut().unwrap().push(other);
    let causes = cluster.post(DEFINITIONS, &two).await.causes();
    assert_eq!(causes.len(), 1);
    assert!(
        causes[0].starts_with("spec.versions[1].selectableFields[0].jsonPath: Invalid value"),
        "{causes:?}"
    );
    // The status on its own leaves nothing to be said about the whole.
    let mut whole = widgets(
        json!({ "type": "object", "allOf": [{ "required": ["spec"] }], "properties": { "spec": strings } }),
    );
    whole["spec"]["versions"][0]["subresources"] = json!({ "status": {} });
    let causes = cluster.post(DEFINITIONS, &whole).await.causes();
    assert!(causes[0].contains("only [Description Type Format Title"), "{causes:?}");
}

#[tokio::test]
async fn selectable_fields_lead_to_simple_values() {
    let cluster = cluster().await;
    let schema = of_spec(json!({ "type": "object", "properties": {
        "color": { "type": "string" }, "parts": { "type": "array", "items": { "type": "string" } } } }));
    let mut definition = widgets(schema);
    definition["spec"]["versions"][0]["selectableFields"] = json!([
        { "jsonPath": ".spec.color" }, { "jsonPath": ".spec.none" }, { "jsonPath": ".spec.parts" },
        { "jsonPath": ".spec.color" },
    ]);
    let causes = cluster.post(DEFINITIONS, &definition).await.causes();
    assert_eq!(causes.len(), 3, "{causes:?}");
    assert_eq!(
        causes[0],
        "spec.selectableFields[1].jsonPath: Invalid value: \".spec.none\": is an invalid path: does not refer to a valid field"
    );
    assert!(causes[1].starts_with(
        "spec.selectableFields[2].jsonPath: Invalid value: \".spec.parts\": must point to a field of type"
    ));
    assert_eq!(causes[2], "spec.selectableFields[3].jsonPath: Duplicate value: \".spec.color\"");
}
