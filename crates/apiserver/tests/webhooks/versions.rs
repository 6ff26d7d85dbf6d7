//! Kinds of several versions: whoever is about one of them is asked about all, and sees what he is about.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};

use super::*;

/// Defines widgets, whose size was a text in the first version.
async fn define(cluster: &Cluster, conversion: Value) {
    let version = |name: &str, served: bool, size: Value| {
        let spec = json!({ "type": "object", "properties": { "size": size, "note": { "type": "string" } } });
        json!({ "name": name, "served": served, "storage": name == "v2", "subresources": {
                "scale": { "specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size" } },
            "schema": { "openAPIV3Schema": { "type": "object", "properties": { "spec": spec, "status":
                { "type": "object", "properties": { "size": { "type": "integer" } } } } } } })
    };
    let definition = json!({
        "metadata": { "name": "widgets.example.com" },
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": { "plural": "widgets", "kind": "Widget" },
            "conversion": conversion,
            "versions": [version("v1", true, json!({ "type": "string" })),
                version("v1alpha1", false, json!({ "type": "string" })), version("v2", true, json!({ "type": "integer" }))],
        },
    });
    let definitions = Api::<CustomResourceDefinition>::all(cluster.client.clone());
    let definition = serde_json::from_value(definition).unwrap();
    definitions.create(&PostParams::default(), &definition).await.unwrap();
    await_condition(definitions, "widgets.example.com", conditions::is_crd_established()).await.unwrap();
}

/// A webhook that makes the size a text, or a number.
async fn converter() -> Hook {
    hook(&[], |review| {
        let wanted = review["request"]["desiredAPIVersion"].clone();
        let mut objects = review["request"]["objects"].clone();
        for object in objects.as_array_mut().unwrap() {
            object["apiVersion"] = wanted.clone();
            let size = &mut object["spec"]["size"];
            *size = match (&*size, wanted == "example.com/v2") {
                (Value::String(text), true) => json!(text.parse::<i64>().unwrap()),
                (Value::Number(number), false) => json!(number.to_string()),
                (other, _) => other.clone(),
            };
        }
        let response = json!({ "uid": review["request"]["uid"], "result": { "status": "Success" }, "convertedObjects": objects });
        let answer = json!({ "kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response });
        Answer::Plain(200, answer.to_string().into_bytes())
    })
    .await
}

fn webhook(converter: &Hook) -> Value {
    json!({ "strategy": "Webhook", "webhook": {
        "clientConfig": converter.client_config(), "conversionReviewVersions": ["v1"] } })
}

fn widgets(cluster: &Cluster, version: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", version, "Widget"));
    Api::default_namespaced_with(cluster.client.clone(), &resource)
}

/// Makes a widget of the second version.
async fn make(cluster: &Cluster, name: &str, size: i64) -> Result<Value, String> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v2", "Widget"));
    let widget = DynamicObject::new(name, &resource).data(json!({ "spec": { "size": size } }));
    let made = widgets(cluster, "v2").create(&PostParams::default(), &widget).await;
    made.map(|widget| widget.data["spec"].clone()).map_err(|error| error.to_string())
}

fn rules(version: &str) -> Value {
    json!([{ "apiGroups": ["example.com"], "apiVersions": [version], "resources": ["widgets", "widgets/scale"],
        "operations": ["*"] }])
}

#[tokio::test]
async fn webhooks_about_one_version_are_asked_about_all_of_a_custom_kind() {
    let cluster = cluster().await;
    let converter = converter().await;
    define(&cluster, webhook(&converter)).await;
    let changing = hook(&[], |review| {
        let size = review["request"]["object"]["spec"]["size"].as_str().unwrap();
        patch(&json!([{ "op": "replace", "path": "/spec/size", "value": format!("{size}0") },
            { "op": "add", "path": "/spec/unknown", "value": 1 }]))
    })
    .await;
    let judging = hook(&[], |review| match review["request"]["object"]["spec"]["size"].as_str() {
        Some("990") => Answer::Response(json!({ "allowed": false, "status": { "message": "too large" } })),
        _ => allow(),
    })
    .await;
    let exact = hook(&[], |_| Answer::Response(json!({ "allowed": false }))).await;
    // That nobody is served a version does not matter to whoever is about it.
    let of = |name: &str, hook: &Hook, version: &str, policy: &str| {
        let condition = json!([{ "name": "text", "expression": "type(object.spec.size) == string" }]);
        let more = json!({ "rules": rules(version), "matchPolicy": policy, "matchConditions": condition });
        of_maps(name, hook.client_config(), more)
    };
    cluster.mutating("a", vec![of("changing", &changing, "v1", "Equivalent")]).await;
    let judges = vec![of("judging", &judging, "v1alpha1", "Equivalent"), of("exact", &exact, "v1", "Exact")];
    cluster.validating("a", judges).await;
    assert_eq!(make(&cluster, "one", 4).await.unwrap(), json!({ "size": 40 }));
    assert!(make(&cluster, "two", 99).await.unwrap_err().contains("too large"));
    let asked = &changing.requests()[0];
    assert_eq!((&asked["kind"]["version"], &asked["requestKind"]["version"]), (&json!("v1"), &json!("v2")));
    assert_eq!(asked["resource"]["version"], "v1");
    assert_eq!(asked["object"]["apiVersion"], "example.com/v1");
    assert_eq!(judging.requests()[0]["object"]["apiVersion"], "example.com/v1alpha1");
    assert_eq!(judging.requests()[0]["object"]["spec"]["size"], "40");
    // What is changed is seen as it was, too.
    let change = Patch::Merge(json!({ "spec": { "size": 5 } }));
    widgets(&cluster, "v2").patch("one", &PatchParams::default(), &change).await.unwrap();
    let asked = changing.requests().pop().unwrap();
    assert_eq!(
        (&asked["oldObject"]["spec"]["size"], &asked["object"]["spec"]["size"]),
        (&json!("40"), &json!("5"))
    );
    assert!(exact.requests().is_empty());
    // What cannot be converted is not let through.
    cluster.validating("b", vec![of("again", &judging, "v1", "Equivalent")]).await;
    let definitions = Api::<CustomResourceDefinition>::all(cluster.client.clone());
    let nowhere = Patch::Merge(json!({ "spec": { "conversion": { "webhook": { "clientConfig":
        { "url": "https://127.0.0.1:1/", "caBundle": converter.bundle } } } } }));
    definitions.patch("widgets.example.com", &PatchParams::default(), &nowhere).await.unwrap();
    let failed = tokio::time::timeout(std::time::Duration::from_secs(30), async {
        loop {
            if let Err(why) = make(&cluster, "three", 1).await {
                return why;
            }
            widgets(&cluster, "v2").delete("three", &DeleteParams::default()).await.ok();
            tokio::task::yield_now().await;
        }
    });
    assert!(failed.await.unwrap().contains("conversion webhook for example.com/v2, Kind=Widget failed"));
}

#[tokio::test]
async fn scales_of_custom_kinds_are_seen_where_the_definition_has_them() {
    let cluster = cluster().await;
    define(&cluster, json!({ "strategy": "None" })).await;
    assert_eq!(make(&cluster, "one", 4).await.unwrap(), json!({ "size": 4 }));
    let changing = hook(&[], |review| {
        let replicas = review["request"]["object"]["spec"]["replicas"].as_i64().unwrap();
        patch(&json!([{ "op": "replace", "path": "/spec/replicas", "value": replicas + 1 }]))
    })
    .await;
    let more = json!({ "rules": rules("v1") });
    cluster.mutating("a", vec![of_maps("changing", changing.client_config(), more)]).await;
    let scale = Patch::Merge(json!({ "spec": { "replicas": 7 } }));
    let scaled = widgets(&cluster, "v2").patch_scale("one", &PatchParams::default(), &scale).await.unwrap();
    assert_eq!(scaled.spec.unwrap().replicas, Some(8));
    let asked = changing.requests().pop().unwrap();
    assert_eq!((&asked["kind"]["kind"], &asked["resource"]["version"]), (&json!("Scale"), &json!("v1")));
    assert_eq!(asked["oldObject"]["spec"]["replicas"], 4);
    assert_eq!(widgets(&cluster, "v2").get("one").await.unwrap().data["spec"], json!({ "size": 8 }));
}

#[tokio::test]
async fn policies_are_about_all_versions_of_a_custom_kind_and_take_parameters_of_any() {
    let cluster = cluster().await;
    let converter = converter().await;
    define(&cluster, webhook(&converter)).await;
    assert_eq!(make(&cluster, "limit", 9).await.unwrap(), json!({ "size": 9 }));
    // The parameter is asked for in a version in which it is not stored.
    let policy = json!({ "metadata": { "name": "p" }, "spec": {
        "paramKind": { "apiVersion": "example.com/v1", "kind": "Widget" },
        "matchConstraints": { "resourceRules": rules("v1") },
        "validations": [{
            "expression": "request.requestKind.version == 'v2' && size(object.spec.size) <= size(params.spec.size)",
            "messageExpression": "object.spec.size + ' is longer than ' + params.spec.size" }] } });
    let binding = json!({ "metadata": { "name": "b" }, "spec": { "policyName": "p", "validationActions": ["Deny"],
        "paramRef": { "name": "limit", "namespace": "default", "parameterNotFoundAction": "Deny" } } });
    let policies = Api::<ValidatingAdmissionPolicy>::all(cluster.client.clone());
    let bindings = Api::<ValidatingAdmissionPolicyBinding>::all(cluster.client.clone());
    policies.create(&PostParams::default(), &serde_json::from_value(policy).unwrap()).await.unwrap();
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
    assert_eq!(make(&cluster, "one", 8).await.unwrap(), json!({ "size": 8 }));
    let refused = make(&cluster, "two", 10).await.unwrap_err();
    assert!(refused.contains("denied request: 10 is longer than 9"), "{refused}");
}
