//! Objects of custom kinds: what is taken away, filled in, refused, shown and merged.

use http::Method;
use serde_json::{Value, json};

use super::support::{MERGE, WIDGETS, cluster, of_spec, widget, widgets};

const APPLY: &str = "application/apply-patch+yaml";
const TABLE: (&str, &str) = ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json");

#[tokio::test]
async fn unknown_fields_go_and_are_told_of() {
    let cluster = cluster().await;
    cluster
        .define(&widgets(of_spec(json!({ "type": "object", "properties": {
            "a": { "type": "string" }, "map": { "type": "object", "additionalProperties": { "type": "object",
                "properties": { "k": { "type": "string" } } } } } }))))
        .await;
    let object = widget("a", json!({ "a": "x", "b": 1, "map": { "one": { "k": "v", "l": 1 } } }));
    let made = cluster.post(WIDGETS, &object).await;
    assert_eq!(
        made.warnings,
        ["299 - \"unknown field \\\"spec.b\\\"\"", "299 - \"unknown field \\\"spec.map.one.l\\\"\""]
    );
    assert_eq!(made.ok()["spec"], json!({ "a": "x", "map": { "one": { "k": "v" } } }));
    let strict =
        cluster.post(&format!("{WIDGETS}?fieldValidation=Strict"), &widget("b", json!({ "b": 1 }))).await;
    assert_eq!(
        strict.refused(400),
        "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown field \"spec.b\""
    );
    let ignored =
        cluster.post(&format!("{WIDGETS}?fieldValidation=Ignore"), &widget("c", json!({ "b": 1 }))).await;
    assert!(ignored.warnings.is_empty());
    assert_eq!(ignored.ok()["spec"], json!({}));
    let wrong = json!({ "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": "d", "labels": { "a": 1 } } });
    assert!(cluster.post(WIDGETS, &wrong).await.refused(400).contains("cannot unmarshal number"));
}

#[tokio::test]
async fn finalizers_are_called_as_their_authors_like() {
    let cluster = cluster().await;
    cluster.define(&widgets(json!({ "type": "object" }))).await;
    let mut object = widget("a", json!({}));
    object["metadata"]["finalizers"] = json!(["mine.example.com", "example.com/mine"]);
    let made = cluster.post(WIDGETS, &object).await;
    let warnings: Vec<&String> = made.warnings.iter().filter(|text| text.contains("finalizers")).collect();
    assert!(
        warnings.len() == 1 && warnings[0].contains("prefer a domain-qualified finalizer name"),
        "{warnings:?}"
    );
    made.ok();
    let going = cluster.delete(&format!("{WIDGETS}/a")).await.ok();
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    let released =
        cluster.patch(&format!("{WIDGETS}/a"), MERGE, &json!({ "metadata": { "finalizers": null } })).await;
    assert_eq!(released.code, 200);
    cluster.get(&format!("{WIDGETS}/a")).await.refused(404);
    let protobuf = [("content-type", "application/vnd.kubernetes.protobuf")];
    cluster.ask(Method::POST, WIDGETS, &protobuf, "k8s".to_owned()).await.refused(415);
}

#[tokio::test]
async fn values_are_filled_in_and_judged() {
    let cluster = cluster().await;
    let schema = of_spec(json!({
        "type": "object", "required": ["name"],
        "properties": {
            "name": { "type": "string", "minLength": 2, "maxLength": 5, "pattern": "^[a-z]+$" },
            "size": { "type": "integer", "minimum": 1, "maximum": 10, "default": 3 },
            "kind": { "type": "string", "enum": ["big", "small"] },
            "ratio": { "type": "number", "exclusiveMaximum": true, "maximum": 1, "multipleOf": 0.25 },
            "port": { "x-kubernetes-int-or-string": true },
            "when": { "type": "string", "format": "date-time" },
            "note": { "type": "string", "nullable": true },
            "parts": { "type": "array", "minItems": 1, "maxItems": 2, "items": { "type": "string" } },
            "keyed": { "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": { "type": "object", "required": ["k"], "properties": { "k": { "type": "string" } } } },
            "set": { "type": "array", "x-kubernetes-list-type": "set", "items": { "type": "string" } },
            "labels": { "type": "object", "maxProperties": 1, "additionalProperties": { "type": "string" } },
            "small": { "type": "integer", "format": "int32" },
            "either": { "type": "object", "properties": { "a": { "type": "integer" }, "b": { "type": "integer" } },
                "oneOf": [{ "required": ["a"] }, { "required": ["b"] }] },
            "not": { "type": "string", "not": { "enum": ["no"] } },
        },
    }));
    cluster.define(&widgets(schema)).await;
    let fine = json!({ "name": "abc", "kind": "big", "ratio": 0.5, "port": "http", "when": "2024-01-01T00:00:00Z",
        "note": null, "parts": ["x"], "keyed": [{ "k": "a" }], "set": ["a"], "either": { "a": 1 } });
    let made = cluster.post(WIDGETS, &widget("fine", fine)).await.ok();
    assert_eq!(made["spec"]["size"], 3);
    assert!(made["spec"].get("note").is_some_and(Value::is_null));
    for (spec, expected) in [
        (json!({}), vec!["spec.name: Required value"]),
        (
            json!({ "name": "a" }),
            vec!["spec.name: Invalid value: \"a\": spec.name in body should be at least 2 chars long"],
        ),
        (json!({ "name": "abcdef" }), vec!["spec.name: Too long: may not be more than 5 bytes"]),
        (
            json!({ "name": "AB" }),
            vec!["spec.name: Invalid value: \"AB\": spec.name in body should match '^[a-z]+$'"],
        ),
        (
            json!({ "name": 7 }),
            vec![
                "spec.name: Invalid value: \"integer\": spec.name in body must be of type string: \"integer\"",
            ],
        ),
        (
            json!({ "name": "ab", "size": 0 }),
            vec!["spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"],
        ),
        (
            json!({ "name": "ab", "size": 11 }),
            vec!["spec.size: Invalid value: 11: spec.size in body should be less than or equal to 10"],
        ),
        (
            json!({ "name": "ab", "size": "1" }),
            vec![
                "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"",
            ],
        ),
        (
            json!({ "name": "ab", "size": 1.5 }),
            vec![
                "spec.size: Invalid value: \"number\": spec.size in body must be of type integer: \"number\"",
            ],
        ),
        (
            json!({ "name": "ab", "kind": "huge" }),
            vec!["spec.kind: Unsupported value: \"huge\": supported values: \"big\", \"small\""],
        ),
        (
            json!({ "name": "ab", "ratio": 1 }),
            vec!["spec.ratio: Invalid value: 1: spec.ratio in body should be less than 1"],
        ),
        (
            json!({ "name": "ab", "ratio": 0.3 }),
            vec!["spec.ratio: Invalid value: 0.3: spec.ratio in body should be a multiple of 0.25"],
        ),
        (
            json!({ "name": "ab", "port": true }),
            vec![
                "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
            ],
        ),
        (
            json!({ "name": "ab", "when": "now" }),
            vec!["spec.when: Invalid value: \"now\": spec.when in body must be of type date-time: \"now\""],
        ),
        (
            json!({ "name": "ab", "parts": [] }),
            vec!["spec.parts: Invalid value: 0: spec.parts in body should have at least 1 items"],
        ),
        (
            json!({ "name": "ab", "parts": ["a", "b", "c"] }),
            vec!["spec.parts: Too many: 3: must have at most 2 items"],
        ),
        (
            json!({ "name": "ab", "parts": ["a", 1] }),
            vec![
                "spec.parts[1]: Invalid value: \"integer\": spec.parts[1] in body must be of type string: \"integer\"",
            ],
        ),
        (
            json!({ "name": "ab", "keyed": [{ "k": "a" }, { "k": "a" }] }),
            vec!["spec.keyed[1]: Duplicate value: {\"k\":\"a\"}"],
        ),
        (json!({ "name": "ab", "keyed": [{}] }), vec!["spec.keyed[0].k: Required value"]),
        (json!({ "name": "ab", "set": ["a", "b", "a"] }), vec!["spec.set[2]: Duplicate value: \"a\""]),
        (
            json!({ "name": "ab", "labels": { "a": "b", "c": "d" } }),
            vec!["spec.labels: Too many: 2: must have at most 1 items"],
        ),
        (
            json!({ "name": "ab", "labels": { "a": 1 } }),
            vec![
                "spec.labels.a: Invalid value: \"integer\": spec.labels.a in body must be of type string: \"integer\"",
            ],
        ),
        (
            json!({ "name": "ab", "small": 2_147_483_648_i64 }),
            vec![
                "<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in spec.small",
            ],
        ),
        (
            json!({ "name": "ab", "size": 9_223_372_036_854_775_808_u64 }),
            vec![
                "spec.size: Invalid value: \"number\": spec.size in body must be of type integer: \"number\"",
                "spec.size: Invalid value: 9223372036854775808: spec.size in body should be less than or equal to 10",
            ],
        ),
        (
            json!({ "name": "ab", "either": {} }),
            vec![
                "<nil>: Invalid value: \"\": \"spec.either\" must validate one and only one schema (oneOf). Found none valid",
                "spec.either.a: Required value",
            ],
        ),
        (
            json!({ "name": "ab", "either": { "a": 1, "b": 1 } }),
            vec![
                "<nil>: Invalid value: \"\": \"spec.either\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
            ],
        ),
        (
            json!({ "name": "ab", "not": "no" }),
            vec!["<nil>: Invalid value: \"\": \"spec.not\" must not validate the schema (not)"],
        ),
    ] {
        let shown = spec.to_string();
        assert_eq!(cluster.post(WIDGETS, &widget("x", spec)).await.causes(), expected, "{shown}");
    }
    let answer = cluster.post(WIDGETS, &widget("x", json!({ "name": 7 }))).await;
    assert_eq!(answer.body["details"]["causes"][0]["reason"], "FieldValueTypeInvalid");
    assert_eq!(
        answer.refused(422),
        "Widget.example.com \"x\" is invalid: spec.name: Invalid value: \"integer\": spec.name in body must be of type string: \"integer\""
    );
}

#[tokio::test]
async fn rules_judge_objects_and_changes() {
    let cluster = cluster().await;
    let schema = of_spec(json!({
        "type": "object",
        "properties": {
            "min": { "type": "integer" }, "max": { "type": "integer" },
            "fixed": { "type": "string", "x-kubernetes-validations": [{ "rule": "self == oldSelf", "message": "is immutable" }] },
            "even": { "type": "integer", "x-kubernetes-validations": [{ "rule": "self % 2 == 0", "messageExpression": "self > 10 ? 'large and not even' : 'small and not even'", "reason": "FieldValueForbidden" }] },
        },
        "x-kubernetes-validations": [{ "rule": "!has(self.min) || !has(self.max) || self.min <= self.max", "message": "min must not be above max", "fieldPath": ".min" }],
    }));
    cluster.define(&widgets(schema)).await;
    for (spec, expected) in [
        (json!({ "min": 3, "max": 1 }), "spec.min: Invalid value"),
        (json!({ "even": 3 }), "spec.even: Forbidden: small and not even"),
    ] {
        let causes = cluster.post(WIDGETS, &widget("x", spec)).await.causes();
        assert!(causes.len() == 1 && causes[0].starts_with(expected), "{causes:?}");
    }
    cluster.post(WIDGETS, &widget("a", json!({ "fixed": "x", "min": 1, "max": 2 }))).await.ok();
    let path = format!("{WIDGETS}/a");
    let changed = cluster.patch(&path, MERGE, &json!({ "spec": { "fixed": "y" } })).await;
    assert_eq!(changed.causes(), ["spec.fixed: Invalid value: \"y\": is immutable"]);
    cluster.patch(&path, MERGE, &json!({ "spec": { "max": 5 } })).await.ok();
    // Where the types are wrong, rules are not asked.
    let causes = cluster.post(WIDGETS, &widget("x", json!({ "min": "a", "even": 3 }))).await.causes();
    assert_eq!(causes.len(), 2, "{causes:?}");
    assert!(causes[1].contains("some validation rules were not checked because the object was invalid"));
}

#[tokio::test]
async fn what_was_wrong_before_may_stay() {
    let cluster = cluster().await;
    let of = |limits: Value| {
        of_spec(json!({ "type": "object", "properties": { "a": limits, "b": { "type": "string" } } }))
    };
    cluster.define(&widgets(of(json!({ "type": "string" })))).await;
    cluster.post(WIDGETS, &widget("a", json!({ "a": "long", "b": "x" }))).await.ok();
    let path = format!("{}/widgets.example.com", super::support::DEFINITIONS);
    let mut definition = cluster.get(&path).await.ok();
    let mut events = cluster.watch(&format!("{WIDGETS}?watch=true")).await;
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        of(json!({ "type": "string", "maxLength": 2 }));
    cluster.put(&path, &definition).await.ok();
    while events.next().await.is_some() {}
    let object = format!("{WIDGETS}/a");
    cluster.patch(&object, MERGE, &json!({ "spec": { "b": "y" } })).await.ok();
    let changed = cluster.patch(&object, MERGE, &json!({ "spec": { "a": "longer" } })).await;
    assert_eq!(changed.causes(), ["spec.a: Too long: may not be more than 2 bytes"]);
}

fn scaled() -> Value {
    let mut definition = widgets(json!({ "type": "object", "properties": {
        "spec": { "type": "object", "properties": { "replicas": { "type": "integer" }, "color": { "type": "string" } } },
        "status": { "type": "object", "properties": { "replicas": { "type": "integer" }, "selector": { "type": "string" } } },
    } }));
    let version = &mut definition["spec"]["versions"][0];
    version["subresources"] = json!({ "status": {}, "scale": { "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector" } });
    version["selectableFields"] = json!([{ "jsonPath": ".spec.color" }]);
    version["additionalPrinterColumns"] = json!([
        { "name": "Color", "type": "string", "jsonPath": ".spec.color", "description": "What it looks like" },
        { "name": "Wanted", "type": "integer", "jsonPath": ".spec.replicas", "priority": 1 },
        { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
    ]);
    definition
}

#[tokio::test]
async fn status_and_scale_are_changed_on_their_own() {
    let cluster = cluster().await;
    cluster.define(&scaled()).await;
    let mut object = widget("a", json!({ "replicas": 1 }));
    object["status"] = json!({ "replicas": 9 });
    let made = cluster.post(WIDGETS, &object).await.ok();
    assert_eq!((&made["status"], &made["metadata"]["generation"]), (&Value::Null, &json!(1)));
    let (path, status) = (format!("{WIDGETS}/a"), format!("{WIDGETS}/a/status"));
    let change = json!({ "metadata": { "labels": { "x": "y" } }, "spec": { "replicas": 7 }, "status": { "replicas": 1, "selector": "app=a" } });
    let changed = cluster.patch(&status, MERGE, &change).await.ok();
    assert_eq!((&changed["spec"]["replicas"], &changed["status"]["replicas"]), (&json!(1), &json!(1)));
    assert_eq!(
        (&changed["metadata"]["labels"], &changed["metadata"]["generation"]),
        (&Value::Null, &json!(1))
    );
    let changed = cluster
        .patch(&path, MERGE, &json!({ "spec": { "replicas": 2 }, "status": { "replicas": 8 } }))
        .await
        .ok();
    assert_eq!((&changed["status"]["replicas"], &changed["metadata"]["generation"]), (&json!(1), &json!(2)));
    let scale = cluster.get(&format!("{path}/scale")).await.ok();
    assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!(
        (&scale["spec"], &scale["status"]),
        (&json!({ "replicas": 2 }), &json!({ "replicas": 1, "selector": "app=a" }))
    );
    let scale =
        cluster.patch(&format!("{path}/scale"), MERGE, &json!({ "spec": { "replicas": 4 } })).await.ok();
    assert_eq!(scale["spec"]["replicas"], 4);
    let object = cluster.get(&path).await.ok();
    assert_eq!((&object["spec"]["replicas"], &object["metadata"]["generation"]), (&json!(4), &json!(3)));
    let causes = cluster.patch(&path, MERGE, &json!({ "spec": { "replicas": -1 } })).await.causes();
    assert_eq!(causes, [".spec.replicas: Invalid value: -1: should be a non-negative integer"]);
    let causes =
        cluster.patch(&path, MERGE, &json!({ "spec": { "replicas": 2_147_483_648_i64 } })).await.causes();
    assert_eq!(
        causes,
        [".spec.replicas: Invalid value: 2147483648: should be less than or equal to 2147483647"]
    );
}

#[tokio::test]
async fn without_a_status_of_its_own_it_is_a_field_like_others() {
    let cluster = cluster().await;
    cluster.define(&widgets(json!({ "type": "object", "properties": { "status": { "type": "object", "properties": { "a": { "type": "integer" } } } } }))).await;
    let mut object = widget("a", json!({}));
    object["status"] = json!({ "a": 1 });
    assert_eq!(cluster.post(WIDGETS, &object).await.ok()["status"]["a"], 1);
    let changed = cluster.patch(&format!("{WIDGETS}/a"), MERGE, &json!({ "status": { "a": 2 } })).await.ok();
    assert_eq!(changed["metadata"]["generation"], 2);
    cluster.get(&format!("{WIDGETS}/a/status")).await.refused(404);
    cluster.get(&format!("{WIDGETS}/a/scale")).await.refused(404);
}

#[tokio::test]
async fn tables_have_the_columns_of_the_definition() {
    let cluster = cluster().await;
    cluster.define(&scaled()).await;
    cluster.post(WIDGETS, &widget("a", json!({ "color": "red", "replicas": 2 }))).await.ok();
    cluster.post(WIDGETS, &widget("b", json!({}))).await.ok();
    let table = cluster.ask(Method::GET, WIDGETS, &[TABLE], String::new()).await.ok();
    assert_eq!(table["kind"], "Table");
    let columns: Vec<(&Value, &Value)> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (&one["name"], &one["priority"]))
        .collect();
    assert_eq!(
        columns,
        [
            (&json!("Name"), &json!(0)),
            (&json!("Color"), &json!(0)),
            (&json!("Wanted"), &json!(1)),
            (&json!("Age"), &json!(0))
        ]
    );
    assert_eq!(table["columnDefinitions"][1]["description"], "What it looks like");
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..3], [json!("a"), json!("red"), json!(2)]);
    assert_eq!(table["rows"][1]["cells"].as_array().unwrap()[..3], [json!("b"), Value::Null, Value::Null]);
    assert!(table["rows"][0]["cells"][3].as_str().unwrap().ends_with('s'));
    let one = cluster.ask(Method::GET, &format!("{WIDGETS}/a"), &[TABLE], String::new()).await.ok();
    assert_eq!(one["rows"][0]["cells"][1], "red");
}

#[tokio::test]
async fn lists_watches_and_selectors() {
    let cluster = cluster().await;
    cluster.define(&scaled()).await;
    for (name, color) in [("a", "red"), ("b", "blue"), ("c", "red")] {
        cluster.post(WIDGETS, &widget(name, json!({ "color": color }))).await.ok();
    }
    let names = |list: &Value| -> Vec<String> {
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let list = cluster.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dred")).await.ok();
    assert_eq!(names(&list), ["a", "c"]);
    let page = cluster.get("/apis/example.com/v1/widgets?limit=2").await.ok();
    assert_eq!(names(&page), ["a", "b"]);
    let wrong = cluster.get(&format!("{WIDGETS}?fieldSelector=spec.size%3D1")).await;
    assert_eq!(wrong.refused(400), "field label not supported: spec.size");
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{WIDGETS}?watch=true&resourceVersion={version}&fieldSelector=spec.color%3Dred");
    let mut events = cluster.watch(&path).await;
    cluster.patch(&format!("{WIDGETS}/b"), MERGE, &json!({ "spec": { "color": "red" } })).await.ok();
    cluster.patch(&format!("{WIDGETS}/a"), MERGE, &json!({ "spec": { "color": "blue" } })).await.ok();
    for (kind, name) in [("ADDED", "b"), ("DELETED", "a")] {
        let event = events.next().await.unwrap();
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!(kind), &json!(name)));
    }
    let gone = cluster.delete(&format!("{WIDGETS}?fieldSelector=spec.color%3Dred")).await.ok();
    assert_eq!(gone["items"].as_array().unwrap().len(), 2);
    assert_eq!(names(&cluster.get(WIDGETS).await.ok()), ["a"]);
}

#[tokio::test]
async fn patches_and_apply_know_the_schema() {
    let cluster = cluster().await;
    cluster
        .define(&widgets(of_spec(json!({ "type": "object", "properties": {
            "color": { "type": "string" },
            "parts": { "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": { "type": "object", "required": ["name"], "properties": { "name": { "type": "string" }, "size": { "type": "integer" } } } },
            "free": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
        } }))))
        .await;
    let path = format!("{WIDGETS}/a");
    let apply = |manager: &str| format!("{path}?fieldManager={manager}");
    let one = widget(
        "a",
        json!({ "color": "red", "parts": [{ "name": "x", "size": 1 }], "free": { "k": { "l": 1 } } }),
    );
    let made = cluster.patch(&apply("one"), APPLY, &one).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let fields = &made.body["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"];
    assert_eq!(fields["f:free"], json!({ "f:k": { "f:l": {} } }));
    assert_eq!(fields["f:parts"], json!({ "k:{\"name\":\"x\"}": { ".": {}, "f:name": {}, "f:size": {} } }));
    let two = widget("a", json!({ "parts": [{ "name": "y", "size": 2 }] }));
    let both = cluster.patch(&apply("two"), APPLY, &two).await.ok();
    assert_eq!(both["spec"]["parts"], json!([{ "name": "x", "size": 1 }, { "name": "y", "size": 2 }]));
    let clash = cluster.patch(&apply("two"), APPLY, &widget("a", json!({ "color": "blue" }))).await;
    assert_eq!(
        clash.refused(409),
        "Apply failed with 1 conflict: conflict with \"one\" using example.com/v1: .spec.color"
    );
    let operations = json!([{ "op": "replace", "path": "/spec/color", "value": "green" }]);
    let patched = cluster.patch(&path, "application/json-patch+json", &operations).await.ok();
    assert_eq!(patched["spec"]["color"], "green");
    let refused =
        cluster.patch(&path, "application/strategic-merge-patch+json", &json!({ "spec": {} })).await;
    assert_eq!(
        refused.refused(415),
        "the body of the request was in an unknown format - accepted media types include: \
         application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, \
         application/apply-patch+cbor"
    );
    let without = cluster.put(&path, &widget("a", json!({}))).await;
    assert_eq!(
        without.causes(),
        ["metadata.resourceVersion: Invalid value: 0: must be specified for an update"]
    );
}

#[tokio::test]
async fn embedded_objects_are_whole_objects() {
    let cluster = cluster().await;
    cluster
        .define(&widgets(of_spec(json!({ "type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true }))))
        .await;
    let fine = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "nothing": 1 }, "spec": { "a": 1 } });
    let made = cluster.post(WIDGETS, &widget("a", fine)).await;
    assert_eq!(made.warnings, ["299 - \"unknown field \\\"spec.metadata.nothing\\\"\""]);
    assert_eq!(made.ok()["spec"]["spec"]["a"], 1);
    let causes = cluster.post(WIDGETS, &widget("b", json!({ "kind": "Pod" }))).await.causes();
    assert_eq!(causes, ["spec.apiVersion: Required value: must not be empty"]);
}

#[tokio::test]
async fn names_are_limited_by_the_schema_too() {
    let cluster = cluster().await;
    let metadata =
        json!({ "type": "object", "properties": { "name": { "type": "string", "pattern": "^w-" } } });
    cluster.define(&widgets(json!({ "type": "object", "properties": { "metadata": metadata } }))).await;
    cluster.post(WIDGETS, &widget("w-a", json!({}))).await.ok();
    let causes = cluster.post(WIDGETS, &widget("a", json!({}))).await.causes();
    assert_eq!(causes, ["metadata.name: Invalid value: \"a\": metadata.name in body should match '^w-'"]);
    let causes = cluster.post(WIDGETS, &widget("w-A", json!({}))).await.causes();
    assert!(causes.len() == 1 && causes[0].contains("RFC 1123 subdomain"), "{causes:?}");
    let metrics = cluster.get("/metrics").await.ok();
    let line = "apiserver_resource_objects{group=\"example.com\",resource=\"widgets\"} 1\n";
    assert!(metrics.as_str().unwrap().contains(line));
}

#[tokio::test]
async fn discovery_and_documents_tell_of_custom_kinds() {
    let cluster = cluster().await;
    let before = cluster.get("/openapi/v3").await.ok();
    cluster.define(&scaled()).await;
    let groups = cluster.get("/apis").await.ok();
    let group = groups["groups"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&group["name"], &group["preferredVersion"]["version"]),
        (&json!("example.com"), &json!("v1"))
    );
    let list = cluster.get("/apis/example.com/v1").await.ok();
    let resources: Vec<&Value> =
        list["resources"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(resources, ["widgets", "widgets/scale", "widgets/status"]);
    assert_eq!(list["resources"][0]["shortNames"], json!(["wd"]));
    assert_eq!(list["resources"][0]["categories"], json!(["all"]));
    let accept = ("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let all = cluster.ask(Method::GET, "/apis", &[accept], String::new()).await.ok();
    let group =
        all["items"].as_array().unwrap().iter().find(|one| one["metadata"]["name"] == "example.com").unwrap();
    let resource = &group["versions"][0]["resources"][0];
    assert_eq!((&resource["resource"], &resource["scope"]), (&json!("widgets"), &json!("Namespaced")));
    assert_eq!(resource["subresources"][0]["responseKind"]["kind"], "Scale");
    let after = cluster.get("/openapi/v3").await.ok();
    assert!(before["paths"]["apis/example.com/v1"].is_null());
    let url = after["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = cluster.get(url).await.ok();
    let schemas = &document["components"]["schemas"];
    let schema = &schemas["com.example.v1.Widget"];
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    assert_eq!(schema["properties"]["spec"]["properties"]["color"]["type"], "string");
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    assert_eq!(schema["properties"]["metadata"]["allOf"][0]["$ref"], format!("#/components/schemas/{meta}"));
    assert!(schemas[meta].is_object() && schemas["com.example.v1.WidgetList"].is_object());
    // Every reference leads somewhere.
    let text = document.to_string();
    for part in text.split("\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(schemas[name].is_object(), "{name}");
    }
}
