//! Several versions of a kind: renamed, or converted by a webhook.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::peer;
use super::support::{DEFINITIONS, MERGE, WIDGETS, cluster, of_spec, widget, widgets};

const OTHERS: &str = "/apis/example.com/v2/namespaces/default/widgets";

fn versions(one: Value, two: Value) -> Value {
    let mut definition = widgets(of_spec(one));
    let two = json!({ "name": "v2", "served": true, "storage": false, "schema": { "openAPIV3Schema": of_spec(two) } });
    definition["spec"]["versions"].as_array_mut().unwrap().push(two);
    definition
}

fn fields(fields: Value) -> Value {
    json!({ "type": "object", "properties": fields })
}

#[tokio::test]
async fn versions_differ_by_their_name_and_by_what_they_keep() {
    let cluster = cluster().await;
    let text = json!({ "type": "string" });
    let definition = versions(
        fields(json!({ "a": text, "both": text })),
        fields(json!({ "b": { "type": "string", "default": "x" }, "both": text })),
    );
    cluster.define(&definition).await;
    cluster.post(WIDGETS, &widget("a", json!({ "a": "1", "both": "2" }))).await.ok();
    let other = cluster.get(&format!("{OTHERS}/a")).await.ok();
    assert_eq!(
        (&other["apiVersion"], &other["spec"]),
        (&json!("example.com/v2"), &json!({ "b": "x", "both": "2" }))
    );
    let list = cluster.get(OTHERS).await.ok();
    assert_eq!(
        (&list["apiVersion"], &list["items"][0]["apiVersion"]),
        (&json!("example.com/v2"), &json!("example.com/v2"))
    );
    let mut events = cluster.watch(&format!("{OTHERS}?watch=true")).await;
    assert_eq!(events.next().await.unwrap()["object"]["apiVersion"], "example.com/v2");
    let changed =
        cluster.patch(&format!("{OTHERS}/a"), MERGE, &json!({ "spec": { "both": "3" } })).await.ok();
    assert_eq!((&changed["apiVersion"], &changed["spec"]["both"]), (&json!("example.com/v2"), &json!("3")));
    assert_eq!(events.next().await.unwrap()["object"]["spec"]["both"], "3");
    // It is stored as the first version has it.
    assert_eq!(cluster.get(&format!("{WIDGETS}/a")).await.ok()["spec"], json!({ "both": "3" }));
    let group = cluster.get("/apis/example.com").await.ok();
    assert_eq!(group["preferredVersion"]["version"], "v2");
    // A version that is not served is none.
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let mut definition = cluster.get(&path).await.ok();
    definition["spec"]["versions"][0]["storage"] = json!(false);
    definition["spec"]["versions"][0]["served"] = json!(false);
    definition["spec"]["versions"][1]["storage"] = json!(true);
    let changed = cluster.put(&path, &definition).await.ok();
    assert_eq!(changed["status"]["storedVersions"], json!(["v1", "v2"]));
    while events.next().await.is_some() {}
    cluster.get(WIDGETS).await.refused(404);
    assert_eq!(cluster.get(&format!("{OTHERS}/a")).await.ok()["spec"]["both"], "3");
    // Whoever changes nothing has it stored in the new version, once: so do those who migrate.
    let path = format!("{OTHERS}/a");
    let version = |object: Value| object["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let before = version(cluster.get(&path).await.ok());
    let after = version(cluster.patch(&path, MERGE, &json!({})).await.ok());
    assert_ne!(before, after);
    assert_eq!(version(cluster.patch(&path, MERGE, &json!({})).await.ok()), after);
    let cluster = cluster.restart().await;
    assert_eq!(cluster.get(&format!("{OTHERS}/a")).await.ok()["spec"]["both"], "3");
}

#[tokio::test]
async fn a_version_that_is_deprecated_says_so() {
    let cluster = cluster().await;
    let mut definition = versions(json!({ "type": "object" }), json!({ "type": "object" }));
    definition["spec"]["versions"][0]["deprecated"] = json!(true);
    cluster.define(&definition).await;
    let list = cluster.get(WIDGETS).await;
    assert_eq!(list.warnings, ["299 - \"example.com/v1 Widget is deprecated; use example.com/v2 Widget\""]);
    assert!(cluster.get(OTHERS).await.warnings.is_empty());
}

/// A webhook that moves a text between "a" and "b", and how often it was asked.
async fn webhook() -> (String, String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, tls) = (asked.clone(), peer::tls(&["127.0.0.1"], None));
    let answer = move |request: Request<Incoming>| {
        let count = count.clone();
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let answer = converted(&serde_json::from_slice(&body).unwrap());
            Response::new(peer::full(answer.to_string()))
        }
    };
    let address = peer::serve(Some(&tls), answer).await;
    (format!("https://{address}/convert"), tls.bundle, asked)
}

fn converted(review: &Value) -> Value {
    let request = &review["request"];
    let wanted = request["desiredAPIVersion"].as_str().unwrap();
    let (from, to) = if wanted.ends_with("v2") { ("a", "b") } else { ("b", "a") };
    let mut result = json!({ "status": "Success" });
    let objects: Vec<Value> = request["objects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|object| {
            let mut object = object.clone();
            object["apiVersion"] = json!(wanted);
            let text = object["spec"][from].take();
            if text == "bad" {
                result = json!({ "status": "Failure", "message": "cannot convert bad" });
            }
            object["spec"] = json!({ to: text });
            object
        })
        .collect();
    json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
        "response": { "uid": request["uid"], "result": result, "convertedObjects": objects } })
}

#[tokio::test]
async fn a_webhook_converts() {
    let cluster = cluster().await;
    let (url, bundle, asked) = webhook().await;
    let text = json!({ "type": "string" });
    let mut definition = versions(fields(json!({ "a": text })), fields(json!({ "b": text })));
    definition["spec"]["conversion"] = json!({ "strategy": "Webhook", "webhook": {
        "conversionReviewVersions": ["v1"], "clientConfig": { "url": url, "caBundle": bundle } } });
    definition["spec"]["versions"][1]["selectableFields"] = json!([{ "jsonPath": ".spec.b" }]);
    cluster.define(&definition).await;
    let mut object = widget("one", json!({ "b": "hello" }));
    object["apiVersion"] = json!("example.com/v2");
    let made = cluster.post(OTHERS, &object).await.ok();
    assert_eq!((&made["apiVersion"], &made["spec"]), (&json!("example.com/v2"), &json!({ "b": "hello" })));
    let before = asked.load(Ordering::Relaxed);
    assert_eq!(cluster.get(&format!("{WIDGETS}/one")).await.ok()["spec"], json!({ "a": "hello" }));
    cluster.post(WIDGETS, &widget("two", json!({ "a": "you" }))).await.ok();
    // Nothing is asked about objects that are stored as they are wanted, and once about a whole list.
    assert_eq!(asked.load(Ordering::Relaxed), before);
    let list = cluster.get(OTHERS).await.ok();
    assert_eq!(list["items"][1]["spec"], json!({ "b": "you" }));
    assert_eq!(asked.load(Ordering::Relaxed), before + 1);
    // Selectors ask about what the version shows.
    let some = cluster.get(&format!("{OTHERS}?fieldSelector=spec.b%3Dyou")).await.ok();
    assert_eq!(some["items"].as_array().unwrap().len(), 1);
    assert_eq!(some["items"][0]["metadata"]["name"], "two");
    let mut events = cluster.watch(&format!("{OTHERS}?watch=true&fieldSelector=spec.b%3Dhello")).await;
    assert_eq!(events.next().await.unwrap()["object"]["spec"], json!({ "b": "hello" }));
    let changed =
        cluster.patch(&format!("{OTHERS}/one"), MERGE, &json!({ "spec": { "b": "bye" } })).await.ok();
    assert_eq!(changed["spec"]["b"], "bye");
    assert_eq!(cluster.get(&format!("{WIDGETS}/one")).await.ok()["spec"]["a"], "bye");
    object["metadata"]["name"] = json!("three");
    object["spec"]["b"] = json!("bad");
    assert_eq!(
        cluster.post(OTHERS, &object).await.refused(500),
        "conversion webhook for example.com/v2, Kind=Widget failed: cannot convert bad"
    );
}

#[tokio::test]
async fn a_webhook_that_is_not_there_is_told_of() {
    let cluster = cluster().await;
    let text = json!({ "type": "string" });
    let mut definition = versions(fields(json!({ "a": text })), fields(json!({ "b": text })));
    definition["spec"]["conversion"] = json!({ "strategy": "Webhook", "webhook": {
        "conversionReviewVersions": ["v1"], "clientConfig": { "service": { "namespace": "default", "name": "none" } } } });
    cluster.define(&definition).await;
    cluster.post(WIDGETS, &widget("a", json!({ "a": "x" }))).await.ok();
    let refused = cluster.get(OTHERS).await;
    let message = refused.refused(500);
    assert!(message.starts_with("conversion webhook for example.com/v1, Kind=Widget failed: "), "{message}");
    assert!(message.contains("service \"none\" not found"), "{message}");
    // What needs no conversion works.
    cluster.get(WIDGETS).await.ok();
}
