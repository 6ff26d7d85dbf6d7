//! Priority and fairness over HTTP: what clients are told of it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "support/server.rs"]
mod server;

use dray_apiserver::{ApiServer, User};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tower_service::Service as _;

struct Cluster {
    server: ApiServer,
    _directory: tempfile::TempDir,
}

async fn cluster() -> Cluster {
    let directory = tempfile::tempdir().unwrap();
    let server = server::open(directory.path()).await;
    Cluster { server, _directory: directory }
}

const FLOW: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

impl Cluster {
    async fn send(&self, user: User, method: &str, path: &str, body: &Value) -> http::Response<Value> {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(path).body(Full::from(text)).unwrap();
        let (head, body) = self.server.service(user).call(request).await.unwrap().into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        http::Response::from_parts(head, serde_json::from_slice(&text).unwrap_or_default())
    }

    async fn uid(&self, path: &str) -> String {
        let object = self.send(User::component("root"), "GET", &format!("{FLOW}/{path}"), &Value::Null).await;
        object.body()["metadata"]["uid"].as_str().unwrap().to_owned()
    }
}

fn bob() -> User {
    User::authenticated("bob", [])
}

#[tokio::test]
async fn answers_say_to_which_flow_they_belong() {
    let cluster = cluster().await;
    for (user, path, schema, level) in [
        (User::component("root"), "/api/v1/pods", "exempt", "exempt"),
        (bob(), "/healthz", "probes", "exempt"),
        // Refusals belong somewhere, too.
        (bob(), "/api/v1/pods", "global-default", "global-default"),
    ] {
        let answer = cluster.send(user, "GET", path, &Value::Null).await;
        let expected = cluster.uid(&format!("flowschemas/{schema}")).await;
        assert_eq!(answer.headers()["x-kubernetes-pf-flowschema-uid"], expected, "{path}");
        let expected = cluster.uid(&format!("prioritylevelconfigurations/{level}")).await;
        assert_eq!(answer.headers()["x-kubernetes-pf-prioritylevel-uid"], expected, "{path}");
    }
}

#[tokio::test]
async fn a_level_without_seats_refuses_and_says_when_to_come_again() {
    let cluster = cluster().await;
    let level = json!({ "metadata": { "name": "none" }, "spec": { "type": "Limited", "limited": {
        "nominalConcurrencyShares": 0, "limitResponse": { "type": "Reject" } } } });
    let schema = json!({ "metadata": { "name": "bob" }, "spec": {
        "priorityLevelConfiguration": { "name": "none" }, "matchingPrecedence": 50, "rules": [{
            "subjects": [{ "kind": "User", "user": { "name": "bob" } }],
            "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }] }] } });
    for (resource, object) in [("prioritylevelconfigurations", level), ("flowschemas", schema)] {
        let made =
            cluster.send(User::component("root"), "POST", &format!("{FLOW}/{resource}"), &object).await;
        assert_eq!(made.status(), StatusCode::CREATED, "{}", made.body());
    }
    let refused = cluster.send(bob(), "GET", "/version", &Value::Null).await;
    assert_eq!(
        (refused.status(), &refused.body()["reason"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("TooManyRequests"))
    );
    assert_eq!(refused.headers()["retry-after"], "1");
    let other = cluster.send(User::authenticated("eve", []), "GET", "/version", &Value::Null).await;
    assert_eq!(other.status(), StatusCode::OK);
}
