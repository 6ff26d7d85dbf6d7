//! The audit log: what is written of which request.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "support/server.rs"]
mod server;

use std::path::PathBuf;
use std::time::Duration;

use dray_apiserver::{ApiServer, Audit, Rotation, User};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tower_service::Service as _;

struct Cluster {
    server: ApiServer,
    log: PathBuf,
    _directory: tempfile::TempDir,
}

async fn cluster(policy: &str) -> Cluster {
    let directory = tempfile::tempdir().unwrap();
    let server = server::open(&directory.path().join("data")).await;
    let (file, log) = (directory.path().join("policy.yaml"), directory.path().join("audit.log"));
    std::fs::write(&file, format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{policy}")).unwrap();
    server.audit(&Audit { policy: file, log: log.clone(), rotation: Rotation::default() }).unwrap();
    Cluster { server, log, _directory: directory }
}

impl Cluster {
    async fn send(&self, user: &str, method: &str, target: &str, body: &Value) -> (StatusCode, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("user-agent", "tester/1")
            .header("audit-id", "my-own")
            .body(Full::from(body))
            .unwrap();
        let groups = if user == "root" { vec!["system:masters".to_owned()] } else { Vec::new() };
        let user = User::authenticated(user, groups);
        let answer = self.server.service(user).call(request).await.unwrap();
        assert_eq!(answer.headers()["audit-id"], "my-own");
        let status = answer.status();
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&text).unwrap_or_default())
    }

    /// The events, once there are so many.
    fn events(&self, count: usize) -> Vec<Value> {
        dray_testkit::eventually("audit events", Duration::from_secs(10), || {
            let text = std::fs::read_to_string(&self.log).unwrap();
            let events: Vec<Value> = text.lines().map_while(|line| serde_json::from_str(line).ok()).collect();
            (events.len() >= count).then_some(events)
        })
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn events_say_who_did_what_and_what_came_of_it() {
    let cluster = cluster("rules: [{level: RequestResponse, omitManagedFields: true}]").await;
    let map = json!({ "metadata": { "name": "m" }, "data": { "a": "1" } });
    assert_eq!(cluster.send("root", "POST", MAPS, &map).await.0, StatusCode::CREATED);
    let events = cluster.events(2);
    let stages: Vec<&Value> = events.iter().map(|event| &event["stage"]).collect();
    assert_eq!(stages, ["RequestReceived", "ResponseComplete"]);
    let event = &events[1];
    for (field, expected) in [
        ("kind", json!("Event")),
        ("apiVersion", json!("audit.k8s.io/v1")),
        ("level", json!("RequestResponse")),
        ("auditID", json!("my-own")),
        ("requestURI", json!(MAPS)),
        ("verb", json!("create")),
        ("userAgent", json!("tester/1")),
        (
            "objectRef",
            json!({ "resource": "configmaps", "namespace": "default", "name": "m", "apiVersion": "v1" }),
        ),
        ("responseStatus", json!({ "metadata": {}, "code": 201 })),
    ] {
        assert_eq!(event[field], expected, "{field}");
    }
    assert_eq!(event["user"]["username"], "root");
    assert_eq!(event["requestObject"]["data"], json!({ "a": "1" }));
    assert_eq!(event["responseObject"]["data"], json!({ "a": "1" }));
    assert!(event["responseObject"]["metadata"]["uid"].is_string());
    assert!(event["responseObject"]["metadata"]["managedFields"].is_null());
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");
}

#[tokio::test]
async fn refusals_are_written_with_their_reasons() {
    let cluster = cluster("omitStages: [RequestReceived]\nrules: [{level: Metadata}]").await;
    assert_eq!(cluster.send("eve", "GET", MAPS, &Value::Null).await.0, StatusCode::FORBIDDEN);
    assert_eq!(cluster.send("eve", "GET", "/metrics", &Value::Null).await.0, StatusCode::FORBIDDEN);
    let events = cluster.events(2);
    assert_eq!(events[0]["verb"], "list");
    assert_eq!(events[0]["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(events[0]["responseStatus"]["reason"], "Forbidden");
    assert!(events[0]["responseStatus"]["message"].as_str().unwrap().contains("cannot list"));
    assert_eq!((&events[1]["verb"], &events[1]["objectRef"]), (&json!("get"), &Value::Null));
    assert!(events.iter().all(|event| event["requestObject"].is_null()));
}

#[tokio::test]
async fn a_watch_is_written_when_it_begins_and_when_it_ends() {
    let cluster = cluster("rules: [{level: RequestResponse, verbs: [watch]}]").await;
    let target = format!("{MAPS}?watch=true&resourceVersion=0&timeoutSeconds=0");
    assert_eq!(cluster.send("root", "GET", MAPS, &Value::Null).await.0, StatusCode::OK);
    let request = Request::get(target).body(Full::from(String::new())).unwrap();
    let answer = cluster.server.service(User::component("root")).call(request).await.unwrap();
    let stages = |events: &[Value]| -> Vec<String> {
        events.iter().map(|event| event["stage"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(stages(&cluster.events(2)), ["RequestReceived", "ResponseStarted"]);
    drop(answer);
    assert_eq!(stages(&cluster.events(3))[2], "ResponseComplete");
}

#[tokio::test]
async fn policies_tell_the_log() {
    let cluster = cluster("omitStages: [RequestReceived]\nrules: [{level: Metadata, resources: [{group: '', resources: [configmaps]}]}]").await;
    let policy = json!({ "metadata": { "name": "p" }, "spec": {
        "matchConstraints": { "resourceRules": [{ "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["*"] }] },
        "validations": [{ "expression": "false", "message": "no" }],
        "auditAnnotations": [{ "key": "name", "valueExpression": "'called ' + object.metadata.name" }],
    } });
    let path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic";
    assert_eq!(cluster.send("root", "POST", &format!("{path}ies"), &policy).await.0, StatusCode::CREATED);
    let binding =
        json!({ "metadata": { "name": "b" }, "spec": { "policyName": "p", "validationActions": ["Audit"] } });
    let made = cluster.send("root", "POST", &format!("{path}ybindings"), &binding).await;
    assert_eq!(made.0, StatusCode::CREATED, "{made:?}");
    cluster.send("root", "POST", MAPS, &json!({ "metadata": { "name": "m" } })).await;
    let event = cluster.events(1).remove(0);
    assert_eq!(event["annotations"]["p/name"], "called m");
    let failures =
        event["annotations"]["validation.policy.admission.k8s.io/validation_failure"].as_str().unwrap();
    let failures: Value = serde_json::from_str(failures).unwrap();
    assert_eq!((&failures[0]["message"], &failures[0]["binding"]), (&json!("no"), &json!("b")));
}

#[tokio::test]
async fn a_bad_policy_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let server = server::open(&directory.path().join("data")).await;
    let policy = directory.path().join("policy.yaml");
    std::fs::write(&policy, "kind: Policy\napiVersion: audit.k8s.io/v1\nrules: []\n").unwrap();
    let audit =
        Audit { policy: policy.clone(), log: directory.path().join("log"), rotation: Rotation::default() };
    let wrong = server.audit(&audit).unwrap_err().to_string();
    assert_eq!(wrong, format!("{} is no audit policy: it has no rules", policy.display()));
}
