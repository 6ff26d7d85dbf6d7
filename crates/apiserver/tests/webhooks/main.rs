//! Webhooks that change and refuse, over real TLS, with good and bad ones at the other end.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod hook;
#[path = "../support/peer.rs"]
mod peer;
#[path = "../support/server.rs"]
mod server;
mod versions;

use dray_apiserver::{ApiServer, User};
use hook::{Answer, Hook, allow, hook, patch};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client};
use serde_json::{Value, json};
use tower_service::Service as _;

struct Cluster {
    client: Client,
    server: ApiServer,
    _directory: tempfile::TempDir,
}

async fn cluster() -> Cluster {
    let directory = tempfile::tempdir().unwrap();
    let server = server::open(directory.path()).await;
    let client = Client::new(server.service(User::component("test")), "default");
    Cluster { client, server, _directory: directory }
}

/// A webhook for ConfigMaps; `more` is laid over it.
fn of_maps(name: &str, client_config: Value, more: Value) -> Value {
    let mut hook = json!({
        "name": format!("{name}.example.com"), "clientConfig": client_config, "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["*"] }],
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        hook[field] = value.clone();
    }
    hook
}

impl Cluster {
    async fn mutating(&self, name: &str, hooks: Vec<Value>) {
        let object = json!({ "metadata": { "name": name }, "webhooks": hooks });
        let api = Api::<MutatingWebhookConfiguration>::all(self.client.clone());
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }

    async fn validating(&self, name: &str, hooks: Vec<Value>) {
        let object = json!({ "metadata": { "name": name }, "webhooks": hooks });
        let api = Api::<ValidatingWebhookConfiguration>::all(self.client.clone());
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::default_namespaced(self.client.clone())
    }

    /// Makes a ConfigMap; gives its data, or what the refusal says.
    async fn make(&self, name: &str, parameters: &PostParams) -> Result<Value, (u16, String)> {
        let map =
            serde_json::from_value(json!({ "metadata": { "name": name }, "data": { "a": "1" } })).unwrap();
        match self.maps().create(parameters, &map).await {
            Ok(map) => Ok(json!(map.data)),
            Err(kube::Error::Api(status)) => Err((status.code, status.message.clone())),
            Err(other) => panic!("{other}"),
        }
    }

    async fn refusal(&self, name: &str) -> (u16, String) {
        self.make(name, &PostParams::default()).await.unwrap_err()
    }
}

fn dry() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

fn set(name: &str, value: &str) -> Answer {
    patch(&json!([{ "op": "add", "path": format!("/data/{name}"), "value": value }]))
}

#[tokio::test]
async fn objects_are_changed_in_the_order_of_names_and_then_judged() {
    let cluster = cluster().await;
    // The second sees what the first has done.
    let first = hook(&[], |_| set("b", "2")).await;
    let second = hook(&[], |review| {
        let seen = review["request"]["object"]["data"]["b"].as_str().unwrap_or("nothing");
        set("c", seen)
    })
    .await;
    let judge = hook(&[], |review| {
        let data = &review["request"]["object"]["data"];
        let allowed = data["c"] == "2" || review["request"]["operation"] == "DELETE";
        Answer::Response(json!({ "allowed": allowed, "warnings": ["judged"] }))
    })
    .await;
    cluster.mutating("z", vec![of_maps("second", second.client_config(), json!({}))]).await;
    cluster.mutating("a", vec![of_maps("first", first.client_config(), json!({}))]).await;
    cluster.validating("judge", vec![of_maps("judge", judge.client_config(), json!({}))]).await;
    let data = cluster.make("m", &PostParams::default()).await.unwrap();
    assert_eq!(data, json!({ "a": "1", "b": "2", "c": "2" }));
    let asked = judge.requests().remove(0);
    assert_eq!(asked["kind"], json!({ "group": "", "version": "v1", "kind": "ConfigMap" }));
    assert_eq!(asked["requestResource"], json!({ "group": "", "version": "v1", "resource": "configmaps" }));
    assert_eq!(
        (&asked["operation"], &asked["namespace"], &asked["name"]),
        (&json!("CREATE"), &json!("default"), &json!("m"))
    );
    assert_eq!(asked["userInfo"]["username"], "test");
    assert_eq!((&asked["oldObject"], &asked["dryRun"]), (&Value::Null, &json!(false)));
    assert_eq!(asked["options"]["kind"], "CreateOptions");
    assert_eq!(judge.seen.lock().unwrap()[0].0, "/review?timeout=10s");

    let change = Patch::Merge(json!({ "data": { "d": "4" } }));
    cluster.maps().patch("m", &PatchParams::default(), &change).await.unwrap();
    let asked = judge.requests().remove(1);
    assert_eq!((&asked["operation"], &asked["oldObject"]["data"]["d"]), (&json!("UPDATE"), &Value::Null));
    assert_eq!(
        (&asked["object"]["data"]["d"], &asked["options"]["kind"]),
        (&json!("4"), &json!("PatchOptions"))
    );
    cluster.maps().delete("m", &DeleteParams::default()).await.unwrap();
    let asked = judge.requests().remove(2);
    assert_eq!((&asked["operation"], &asked["object"]), (&json!("DELETE"), &Value::Null));
    assert_eq!(asked["oldObject"]["metadata"]["name"], "m");

    // Warnings reach the client.
    let body = json!({ "metadata": { "name": "w" }, "data": { "a": "1" } }).to_string();
    let request = Request::post("/api/v1/namespaces/default/configmaps").body(Full::from(body)).unwrap();
    let answer = cluster.server.service(User::component("test")).call(request).await.unwrap();
    assert_eq!(answer.headers()["warning"], "299 - \"judged\"");
    answer.into_body().collect().await.unwrap();
}

#[tokio::test]
async fn objects_of_definitions_are_changed_by_their_schema() {
    let cluster = cluster().await;
    let definition = json!({
        "metadata": { "name": "widgets.example.com" },
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": { "plural": "widgets", "kind": "Widget" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": {
                "type": "object", "properties": { "spec": { "type": "object", "properties": {
                    "size": { "type": "integer", "maximum": 9 }, "note": { "type": "string", "nullable": true },
                    "box": { "type": "object", "properties": { "color": { "type": "string", "default": "red" } } },
                } } },
            } } }],
        },
    });
    let definitions = Api::<CustomResourceDefinition>::all(cluster.client.clone());
    let definition = serde_json::from_value(definition).unwrap();
    definitions.create(&PostParams::default(), &definition).await.unwrap();
    await_condition(definitions, "widgets.example.com", conditions::is_crd_established()).await.unwrap();
    let changing = hook(&[], |review| {
        let size = review["request"]["object"]["spec"]["size"].as_i64().unwrap();
        patch(&json!([
            { "op": "add", "path": "/spec/box", "value": { "unknown": 1 } },
            { "op": "replace", "path": "/spec/size", "value": size + 5 },
        ]))
    })
    .await;
    let rules = json!({ "rules": [{
        "apiGroups": ["example.com"], "apiVersions": ["*"], "resources": ["*"], "operations": ["CREATE"],
    }] });
    cluster.mutating("a", vec![of_maps("changing", changing.client_config(), rules)]).await;
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Widget"));
    let widgets = Api::<DynamicObject>::default_namespaced_with(cluster.client.clone(), &resource);
    let widget = |name: &str, size: i32| {
        let spec = json!({ "size": size, "note": null });
        DynamicObject::new(name, &resource).data(json!({ "spec": spec }))
    };
    let made = widgets.create(&PostParams::default(), &widget("one", 2)).await.unwrap();
    // What the schema does not name is gone, what it has a default for is there, and what may be null is.
    assert_eq!(made.data["spec"], json!({ "size": 7, "note": null, "box": { "color": "red" } }));
    let refused = widgets.create(&PostParams::default(), &widget("two", 8)).await.unwrap_err();
    assert!(refused.to_string().contains("should be less than or equal to 9"), "{refused}");
}

#[tokio::test]
async fn a_webhook_that_wants_to_is_asked_again_after_changes() {
    let cluster = cluster().await;
    let count =
        |review: &Value| review["request"]["object"]["data"].as_object().map_or(0, serde_json::Map::len);
    let counting = hook(&[], move |review| set("count", &count(review).to_string())).await;
    let adding = hook(&[], |_| set("b", "2")).await;
    let again = json!({ "reinvocationPolicy": "IfNeeded" });
    let hooks = vec![
        of_maps("counting", counting.client_config(), again),
        of_maps("adding", adding.client_config(), json!({})),
    ];
    cluster.mutating("a", hooks).await;
    let data = cluster.make("m", &PostParams::default()).await.unwrap();
    assert_eq!(data, json!({ "a": "1", "b": "2", "count": "3" }));
    assert_eq!((counting.requests().len(), adding.requests().len()), (2, 1));
}

#[tokio::test]
async fn refusals_are_told_as_the_webhook_tells_them() {
    let cluster = cluster().await;
    let refusing = hook(&[], |_| {
        let status = json!({ "code": 418, "message": "too early", "reason": "Tea" });
        Answer::Response(json!({ "allowed": false, "warnings": ["mind"], "status": status }))
    })
    .await;
    cluster.validating("a", vec![of_maps("w", refusing.client_config(), json!({}))]).await;
    let (code, message) = cluster.refusal("m").await;
    let words = "admission webhook \"w.example.com\" denied the request: too early";
    assert_eq!((code, message.as_str()), (418, words));
    assert!(cluster.maps().get_opt("m").await.unwrap().is_none());
    let body = json!({ "metadata": { "name": "m" } }).to_string();
    let request = Request::post("/api/v1/namespaces/default/configmaps").body(Full::from(body)).unwrap();
    let answer = cluster.server.service(User::component("test")).call(request).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["warning"].to_str().unwrap()),
        (418, "299 - \"mind\"")
    );
}

async fn check_bad(answer: fn(&Value) -> Answer, mutating: bool, expected: &str) {
    let cluster = cluster().await;
    let bad = hook(&[], answer).await;
    let one = |name: &str, more: Value| vec![of_maps(name, bad.client_config(), more)];
    let short = json!({ "timeoutSeconds": 1 });
    if mutating {
        cluster.mutating("a", one("w", short)).await;
    } else {
        cluster.validating("a", one("w", short)).await;
    }
    let (code, message) = cluster.refusal("m").await;
    let head = "Internal error occurred: failed calling webhook \"w.example.com\": ";
    let rest = message.strip_prefix(head).unwrap_or_else(|| panic!("{message}"));
    assert_eq!((code, &*rest.replace(&bad.address.to_string(), "HOST")), (500, expected));
}

#[tokio::test]
async fn bad_webhooks_fail_with_words() {
    check_bad(
        |_| Answer::Silence,
        false,
        "failed to call webhook: Post \"https://HOST/review?timeout=1s\": context deadline exceeded",
    )
    .await;
    check_bad(
        |_| Answer::Endless,
        false,
        "failed to call webhook: Post \"https://HOST/review?timeout=1s\": the answer is longer than 16777216 bytes",
    )
    .await;
    check_bad(
        |_| Answer::Plain(200, b"<html>".to_vec()),
        true,
        "failed to call webhook: couldn't get version/kind; json parse error: expected value at line 1 column 1",
    )
    .await;
    check_bad(
        |_| Answer::Plain(200, "[".repeat(100_000).into_bytes()),
        true,
        "failed to call webhook: couldn't get version/kind; json parse error: recursion limit exceeded at line 1 column 128",
    )
    .await;
    check_bad(
        |_| Answer::Plain(404, Vec::new()),
        true,
        "failed to call webhook: the server could not find the requested resource",
    )
    .await;
    check_bad(
        |_| Answer::Plain(200, b"{}".to_vec()),
        true,
        "received invalid webhook response: webhook response was absent",
    )
    .await;
    check_bad(
        |_| patch(&json!({})),
        true,
        "received undecodable patch in webhook response: it is no list of operations",
    )
    .await;
}

#[tokio::test]
async fn an_answer_to_another_question_is_none() {
    let cluster = cluster().await;
    let other = hook(&[], |_| Answer::Response(json!({ "uid": "other", "allowed": true }))).await;
    cluster.validating("a", vec![of_maps("w", other.client_config(), json!({}))]).await;
    let (_, message) = cluster.refusal("m").await;
    assert!(message.contains("received invalid webhook response: expected response.uid="), "{message}");
    assert!(message.ends_with("got \"other\""), "{message}");
}

#[tokio::test]
async fn nobody_is_trusted_but_whom_the_configuration_names() {
    let cluster = cluster().await;
    let (one, other) = (hook(&[], |_| allow()).await, hook(&[], |_| allow()).await);
    let mut config = one.client_config();
    config["caBundle"] = json!(other.bundle);
    cluster.validating("a", vec![of_maps("w", config, json!({}))]).await;
    let (_, message) = cluster.refusal("m").await;
    assert!(message.contains("tls: failed to verify certificate: x509: "), "{message}");
    assert!(one.requests().is_empty());
}

#[tokio::test]
async fn a_failure_that_is_ignored_is_none() {
    let cluster = cluster().await;
    let gone = json!({ "url": "https://127.0.0.1:1/", "caBundle": hook(&[], |_| allow()).await.bundle });
    let ignoring = of_maps("ignored", gone.clone(), json!({ "failurePolicy": "Ignore" }));
    cluster.validating("a", vec![ignoring.clone()]).await;
    cluster.mutating("a", vec![ignoring]).await;
    cluster.make("m", &PostParams::default()).await.unwrap();
    cluster.validating("b", vec![of_maps("w", gone, json!({}))]).await;
    let (_, message) = cluster.refusal("n").await;
    assert!(message.ends_with("dial tcp 127.0.0.1:1: connect: connection refused"), "{message}");
}

#[tokio::test]
async fn only_those_who_are_meant_are_asked() {
    let cluster = cluster().await;
    let asked = hook(&[], |_| Answer::Response(json!({ "allowed": false }))).await;
    let of = |name: &str, more: Value| of_maps(name, asked.client_config(), more);
    let hooks = vec![
        of("namespace", json!({ "namespaceSelector": { "matchLabels": { "no": "such" } } })),
        of("object", json!({ "objectSelector": { "matchLabels": { "no": "such" } } })),
        of(
            "condition",
            json!({ "matchConditions": [
            { "name": "name", "expression": "object.metadata.name == 'other'" },
            { "name": "user", "expression": "request.userInfo.username == 'test' && authorizer.path('/').check('get').allowed()" }] }),
        ),
        of(
            "part",
            json!({ "rules": [{ "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/status"], "operations": ["*"] }] }),
        ),
        of(
            "cluster",
            json!({ "rules": [{ "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "operations": ["*"], "scope": "Cluster" }] }),
        ),
    ];
    cluster.validating("a", hooks).await;
    cluster.make("m", &PostParams::default()).await.unwrap();
    assert!(asked.requests().is_empty());
    let (_, message) = cluster.refusal("other").await;
    assert!(message.starts_with("admission webhook \"condition.example.com\" denied"), "{message}");
    // Their own configurations are nobody's business.
    let api = Api::<ValidatingWebhookConfiguration>::all(cluster.client.clone());
    api.delete("a", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn conditions_that_cannot_be_are_refused_and_those_that_fail_refuse() {
    let cluster = cluster().await;
    let asked = hook(&[], |_| allow()).await;
    let of = |expression: &str| {
        let conditions = json!({ "matchConditions": [{ "name": "c", "expression": expression }] });
        let hooks = [of_maps("w", asked.client_config(), conditions)];
        let object = json!({ "metadata": { "name": "a" }, "webhooks": hooks });
        serde_json::from_value::<ValidatingWebhookConfiguration>(object).unwrap()
    };
    let api = Api::<ValidatingWebhookConfiguration>::all(cluster.client.clone());
    let refused = api.create(&PostParams::default(), &of("object.")).await.unwrap_err().to_string();
    assert!(refused.contains("webhooks[0].matchConditions[0].expression: Invalid value"), "{refused}");
    api.create(&PostParams::default(), &of("object.spec.x")).await.unwrap();
    let (code, message) = cluster.refusal("m").await;
    let words =
        "configmaps \"m\" is forbidden: expression 'object.spec.x' resulted in error: no such key: spec";
    assert_eq!((code, message.as_str()), (403, words));
}

#[tokio::test]
async fn dry_runs_ask_only_those_without_effects() {
    let cluster = cluster().await;
    let asked = hook(&[], |_| allow()).await;
    cluster
        .validating("a", vec![of_maps("w", asked.client_config(), json!({ "sideEffects": "NoneOnDryRun" }))])
        .await;
    cluster.make("m", &dry()).await.unwrap();
    assert_eq!(asked.requests()[0]["dryRun"], true);
    assert!(cluster.maps().get_opt("m").await.unwrap().is_none());
}

#[tokio::test]
async fn a_service_is_asked_where_it_is() {
    let cluster = cluster().await;
    let asked = hook(&["hook.default.svc"], |_| set("b", "2")).await;
    let create = |object: Value| {
        let path = "/api/v1/namespaces/default/services";
        let request = Request::post(path).body(object.to_string().into_bytes()).unwrap();
        let client = cluster.client.clone();
        async move { client.request::<Value>(request).await.unwrap() }
    };
    let port = asked.address.port();
    let service =
        |name: &str| json!({ "namespace": "default", "name": name, "path": "/in/service", "port": port });
    let config = |name: &str| json!({ "service": service(name), "caBundle": asked.bundle });
    cluster.mutating("a", vec![of_maps("w", config("hook"), json!({}))]).await;
    let url = format!("https://hook.default.svc:{port}/in/service?timeout=10s");
    let (_, message) = cluster.refusal("m").await;
    assert!(message.ends_with(&format!("Post {url:?}: service \"hook\" not found")), "{message}");
    let ports = json!([{ "name": "https", "port": port }]);
    create(json!({ "metadata": { "name": "none" }, "spec": { "clusterIP": "None", "ports": ports } })).await;
    create(json!({ "metadata": { "name": "hook" }, "spec": {
        "type": "ExternalName", "externalName": "localhost", "ports": ports } }))
    .await;
    assert_eq!(cluster.make("m", &PostParams::default()).await.unwrap()["b"], "2");
    assert_eq!(asked.seen.lock().unwrap()[0].0, "/in/service?timeout=10s");
    cluster.validating("b", vec![of_maps("w", config("none"), json!({}))]).await;
    let (_, message) = cluster.refusal("other").await;
    assert!(message.ends_with("no endpoints available for service \"none\""), "{message}");
}

#[tokio::test]
async fn parts_and_other_versions_are_seen_in_their_own_form() {
    let cluster = cluster().await;
    let seen = hook(&[], |review| {
        if review["request"]["kind"]["kind"] == "Scale" {
            return patch(&json!([{ "op": "replace", "path": "/spec/replicas", "value": 5 }]));
        }
        patch(&json!([{ "op": "replace", "path": "/spec/targetCPUUtilizationPercentage", "value": 50 }]))
    })
    .await;
    let rule = |group: &str, resource: &str| json!([{ "apiGroups": [group], "apiVersions": ["v1"], "resources": [resource], "operations": ["*"] }]);
    let of = |name: &str, rules: Value| of_maps(name, seen.client_config(), json!({ "rules": rules }));
    let hooks = vec![
        of("scale", rule("apps", "deployments/scale")),
        of("scaler", rule("autoscaling", "horizontalpodautoscalers")),
    ];
    cluster.mutating("a", hooks).await;
    let template = json!({ "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "name": "c", "image": "c" }] } });
    let deployment = json!({ "metadata": { "name": "d" }, "spec": { "selector": { "matchLabels": { "a": "b" } }, "template": template } });
    let deployments = Api::<Deployment>::default_namespaced(cluster.client.clone());
    let made = serde_json::from_value(deployment).unwrap();
    deployments.create(&PostParams::default(), &made).await.unwrap();
    let scale = Patch::Merge(json!({ "spec": { "replicas": 2 } }));
    let scaled = deployments.patch_scale("d", &PatchParams::default(), &scale).await.unwrap();
    assert_eq!(scaled.spec.unwrap().replicas, Some(5));
    let scaler = json!({ "metadata": { "name": "h" }, "spec": {
        "maxReplicas": 3, "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "d" },
        "metrics": [{ "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 80 } } }],
    } });
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let request = Request::post(path).body(scaler.to_string().into_bytes()).unwrap();
    let made: Value = cluster.client.request(request).await.unwrap();
    assert_eq!(made["apiVersion"], "autoscaling/v2");
    assert_eq!(made["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    let kinds: Vec<Value> =
        seen.requests().iter().map(|request| request["requestKind"]["version"].clone()).collect();
    assert_eq!(kinds, ["v1", "v2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn many_judges_are_asked_at_once() {
    let cluster = cluster().await;
    // Each answers only when all have been asked.
    const JUDGES: usize = 4;
    let (sender, _) = tokio::sync::watch::channel(0_usize);
    let mut hooks = Vec::new();
    let mut judges: Vec<Hook> = Vec::new();
    for number in 0..JUDGES {
        let sender = sender.clone();
        let judge = hook(&[], move |_| {
            sender.send_modify(|count| *count += 1);
            let mut asked = sender.subscribe();
            let all = asked.wait_for(|count| *count == JUDGES);
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(all).map(drop))
                .unwrap();
            allow()
        })
        .await;
        hooks.push(of_maps(&format!("w{number}"), judge.client_config(), json!({})));
        judges.push(judge);
    }
    cluster.validating("a", hooks).await;
    cluster.make("m", &PostParams::default()).await.unwrap();
    assert!(judges.iter().all(|judge| judge.requests().len() == 1));
}
