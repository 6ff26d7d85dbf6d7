//! Definitions and objects that are made to hurt.

use serde_json::{Value, json};

use super::support::{DEFINITIONS, WIDGETS, cluster, of_spec, widget, widgets};

/// A schema of objects in objects.
fn nested(depth: usize) -> Value {
    let inner = json!({ "type": "object", "properties": { "leaf": { "type": "string", "default": "x" } } });
    (0..depth).fold(inner, |inner, _| json!({ "type": "object", "properties": { "a": inner } }))
}

#[tokio::test]
async fn schemas_do_not_nest_without_end() {
    let cluster = cluster().await;
    let junctors = (0..30).fold(json!({ "minLength": 1 }), |inner, _| json!({ "not": inner }));
    let mut schema = json!({ "type": "string" });
    schema["not"] = junctors;
    assert_eq!(cluster.post(&format!("{DEFINITIONS}?dryRun=All"), &widgets(of_spec(schema))).await.code, 201);
    // As deep as a text may be.
    cluster.define(&widgets(of_spec(nested(40)))).await;
    let object = (0..40).fold(json!({}), |inner, _| json!({ "a": inner }));
    let made = cluster.post(WIDGETS, &widget("a", object)).await.ok();
    let leaf = (0..40).fold(&made["spec"], |object, _| &object["a"]);
    assert_eq!(leaf["leaf"], "x");
    let deep = format!("{}{}", "{\"a\":".repeat(100_000), "1");
    for path in [WIDGETS, DEFINITIONS] {
        let answer = cluster
            .ask(http::Method::POST, path, &[("content-type", "application/json")], deep.clone())
            .await;
        assert_eq!(answer.code, 400);
    }
}

#[tokio::test]
async fn a_schema_that_refers_to_itself_is_refused() {
    let cluster = cluster().await;
    let schema = json!({ "type": "object", "properties": { "spec": { "$ref": "#/properties/spec" } } });
    let causes = cluster.post(DEFINITIONS, &widgets(schema)).await.causes();
    assert!(
        causes
            .iter()
            .any(|cause| cause.ends_with(".properties[spec].$ref: Forbidden: $ref is not supported")),
        "{causes:?}"
    );
}

#[tokio::test]
async fn many_choices_and_long_patterns_are_bounded() {
    let cluster = cluster().await;
    let choices: Vec<String> = (0..20_000).map(|number| format!("choice-{number}")).collect();
    cluster
        .define(&widgets(of_spec(json!({ "type": "object", "properties": {
            "one": { "type": "string", "enum": choices },
            "slow": { "type": "string", "pattern": "^(a+)+$" },
        } }))))
        .await;
    cluster.post(WIDGETS, &widget("a", json!({ "one": "choice-19999" }))).await.ok();
    // Backtracking would take for ever.
    let slow = format!("{}b", "a".repeat(100_000));
    let causes = cluster.post(WIDGETS, &widget("b", json!({ "slow": slow }))).await.causes();
    assert!(causes[0].ends_with("should match '^(a+)+$'"));
    for pattern in ["(x{1000}){1000}", "(((((x{50}){50}){50}){50}){50})", "\\C", "(?<name"] {
        let schema = of_spec(json!({ "type": "string", "pattern": pattern }));
        let causes = cluster.post(&format!("{DEFINITIONS}?dryRun=All"), &widgets(schema)).await.causes();
        assert!(causes[0].contains("must be a valid regular expression, but isn't"), "{causes:?}");
    }
}

#[tokio::test]
async fn rules_that_cost_too_much_are_refused() {
    let cluster = cluster().await;
    let schema = of_spec(json!({ "type": "array", "items": { "type": "string" },
        "x-kubernetes-validations": [{ "rule": "self.all(x, self.all(y, x == y))" }] }));
    let causes = cluster.post(DEFINITIONS, &widgets(schema)).await.causes();
    assert!(
        causes[0].contains("estimated rule cost exceeds budget by factor of more than 100x"),
        "{causes:?}"
    );
    assert!(
        causes.last().unwrap().starts_with(
            "spec.validation.openAPIV3Schema: Forbidden: x-kubernetes-validations estimated rule cost total"
        ),
        "{causes:?}"
    );
}

#[tokio::test]
async fn numbers_and_names_do_not_overflow() {
    let cluster = cluster().await;
    // Names that are no names of anything.
    for name in ["__proto__", "a/b", "\u{0}", "x\".\"y"] {
        let schema = of_spec(
            json!({ "type": "object", "properties": { name: { "type": "string", "default": "d" } } }),
        );
        let answer = cluster.post(&format!("{DEFINITIONS}?dryRun=All"), &widgets(schema)).await;
        assert_eq!(answer.code, 201, "{}", answer.body);
    }
    let limits = json!({ "type": "object", "properties": {
        "a": { "type": "integer", "maximum": 1e300, "minimum": -1e300, "multipleOf": 1e-300 },
        "b": { "type": "string", "maxLength": i64::MAX, "minLength": i64::MIN },
        "c": { "type": "array", "items": { "type": "string" }, "maxItems": -1 },
    } });
    cluster.define(&widgets(of_spec(limits))).await;
    cluster.post(WIDGETS, &widget("a", json!({ "a": i64::MIN, "b": "x" }))).await.ok();
    let causes = cluster.post(WIDGETS, &widget("b", json!({ "c": ["x"] }))).await.causes();
    assert_eq!(causes, ["spec.c: Too many: 1: must have at most 0 items"]);
}
