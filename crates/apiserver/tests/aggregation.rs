//! Groups that other servers serve, with such a server of the test's own and the real kubectl.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "custom/support.rs"]
#[allow(dead_code, reason = "each test uses its part")]
mod custom;
#[path = "support/peer.rs"]
mod peer;
#[path = "support/server.rs"]
mod server;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use dray_apiserver::{ApiServer, User};
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tower_service::Service as _;

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const FLUNDERS: &str = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders";
const NAME: &str = "v1alpha1.wardle.example.com";
/// How long something may take that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster {
    server: ApiServer,
    directory: tempfile::TempDir,
}

async fn cluster() -> Cluster {
    let directory = tempfile::tempdir().unwrap();
    let server = server::open(directory.path()).await;
    Cluster { server, directory }
}

impl Cluster {
    async fn send(&self, user: User, request: Request<peer::Body>) -> Response<Bytes> {
        let (head, body) = self.server.service(user).call(request).await.unwrap().into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> Response<Bytes> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::CONTENT_TYPE, "application/merge-patch+json");
        self.send(User::component("test"), request.body(peer::full(body)).unwrap()).await
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.ask(Method::GET, path, &Value::Null).await;
        assert_eq!(answer.status(), 200, "{path}: {:?}", answer.body());
        serde_json::from_slice(answer.body()).unwrap()
    }

    async fn make(&self, path: &str, object: &Value) {
        let request = Request::post(path).body(peer::full(object.to_string())).unwrap();
        let made = self.send(User::component("test"), request).await;
        assert_eq!(made.status(), 201, "{:?}", made.body());
    }

    /// Waits until an APIService is as it should be, or gone where the condition takes null.
    async fn until(&self, name: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let path = format!("{SERVICES}?watch=true&fieldSelector=metadata.name%3D{name}");
        let request = Request::get(path).body(peer::full("")).unwrap();
        let mut events =
            self.server.service(User::component("test")).call(request).await.unwrap().into_body();
        let now = self.ask(Method::GET, &format!("{SERVICES}/{name}"), &Value::Null).await;
        let mut now: Value =
            if now.status() == 404 { Value::Null } else { serde_json::from_slice(now.body()).unwrap() };
        let mut rest = Vec::new();
        while !condition(&now) {
            let frame = tokio::time::timeout(PATIENCE, events.frame());
            let frame = frame.await.unwrap_or_else(|_| panic!("{name} stays as it is: {now}"));
            rest.extend_from_slice(&frame.unwrap().unwrap().into_data().unwrap());
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let mut event: Value = serde_json::from_slice(&line).unwrap();
                now = if event["type"] == "DELETED" { Value::Null } else { event["object"].take() };
                if condition(&now) {
                    break;
                }
            }
        }
        now
    }

    async fn reason(&self, expected: &str) -> Value {
        self.until(NAME, |service| available(service) == expected).await
    }

    /// Serves over TLS, and lets kubectl ask.
    async fn listen(&self) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        self.server.write_kubeconfig(&self.directory.path().join("kubeconfig"), &url).unwrap();
        let server = self.server.clone();
        tokio::spawn(async move { server.serve(listener, std::future::pending()).await });
    }

    async fn kubectl(&self, arguments: &[&str]) -> String {
        let program = std::env::var_os("KUBECTL").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from);
        let mut command = tokio::process::Command::new(program);
        let directory = self.directory.path();
        command.args(arguments).env("KUBECONFIG", directory.join("kubeconfig")).env("HOME", directory);
        let output = command.output().await.unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    }
}

/// "STATUS REASON" of the condition.
fn available(service: &Value) -> String {
    let mut conditions = service["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == "Available");
    found.map_or(String::new(), |one| {
        format!("{} {}", one["status"].as_str().unwrap(), one["reason"].as_str().unwrap())
    })
}

fn text(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

/// A server of flunders; `code` is what its list of resources is answered with.
async fn wardle(request: Request<Incoming>, code: u16) -> Response<peer::Body> {
    let (head, body) = request.into_parts();
    let sent = body.collect().await.unwrap().to_bytes();
    let said = |value: Value| {
        Response::builder()
            .header(header::CONTENT_TYPE, "application/json")
            .body(peer::full(value.to_string()))
            .unwrap()
    };
    match head.uri.path() {
        "/apis/wardle.example.com/v1alpha1" => {
            let mut answer = said(json!({
                "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1alpha1",
                "resources": [{ "name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder",
                    "verbs": ["get", "list", "create"], "shortNames": ["fl"] }],
            }));
            *answer.status_mut() = code.try_into().unwrap();
            answer
        }
        "/openapi/v3" => said(json!({ "paths": { "apis/wardle.example.com/v1alpha1":
            { "serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=1" } } })),
        "/openapi/v3/apis/wardle.example.com/v1alpha1" => {
            said(json!({ "openapi": "3.0.0", "info": { "title": "wardle" } }))
        }
        path if path.ends_with("/moved") => Response::builder()
            .status(302)
            .header(header::LOCATION, "https://elsewhere/")
            .body(peer::full(""))
            .unwrap(),
        path if path.ends_with("/flunders") && head.method == Method::GET => said(json!({
            "kind": "FlunderList", "apiVersion": "wardle.example.com/v1alpha1", "metadata": { "resourceVersion": "1" },
            "items": [{ "kind": "Flunder", "apiVersion": "wardle.example.com/v1alpha1", "metadata": { "name": "one", "namespace": "default" } }],
        })),
        _ => said(json!({
            "kind": "Flunder", "apiVersion": "wardle.example.com/v1alpha1", "metadata": { "name": "x" },
            "told": {
                "method": head.method.as_str(), "target": head.uri.to_string(), "sent": String::from_utf8_lossy(&sent),
                "user": text(&head.headers, "x-remote-user"), "groups": text(&head.headers, "x-remote-group"),
                "uid": text(&head.headers, "x-remote-uid"), "scopes": text(&head.headers, "x-remote-extra-example.com%2fscopes"),
                "secrets": text(&head.headers, "authorization"), "acted": text(&head.headers, "impersonate-user"),
            },
        })),
    }
}

fn registration(port: u16, bundle: &str) -> Value {
    json!({
        "metadata": { "name": NAME },
        "spec": {
            "group": "wardle.example.com", "version": "v1alpha1", "groupPriorityMinimum": 2000, "versionPriority": 200,
            "service": { "namespace": "default", "name": "wardle", "port": port }, "caBundle": bundle,
        },
    })
}

/// Makes the Service: this machine by its name.
async fn make_service(cluster: &Cluster, port: u16) {
    let spec = json!({ "type": "ExternalName", "externalName": "localhost", "ports": [{ "port": port }] });
    let service = json!({ "metadata": { "name": "wardle" }, "spec": spec });
    cluster.make("/api/v1/namespaces/default/services", &service).await;
}

/// What servers of others read to know this one.
async fn trust(cluster: &Cluster) -> Value {
    cluster.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await["data"]
        .take()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_others_is_served_by_them_and_told_who_asks() {
    let cluster = cluster().await;
    let told = trust(&cluster).await;
    assert_eq!(told["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    assert_eq!(told["client-ca-file"], cluster.server.authority());
    // Only this server is let in.
    let tls = peer::tls(&["wardle.default.svc"], told["requestheader-client-ca-file"].as_str());
    let port = peer::serve(Some(&tls), |request| wardle(request, 200)).await.port();
    make_service(&cluster, port).await;
    cluster.make(SERVICES, &registration(port, &tls.bundle)).await;
    let service = cluster.reason("True Passed").await;
    assert_eq!(service["status"]["conditions"][0]["message"], "all checks passed");

    let mut user = User::authenticated("jane", ["system:masters".to_owned()]);
    user.uid = "42".to_owned();
    user.extra.insert("example.com/scopes".to_owned(), vec!["a".to_owned(), "b".to_owned()]);
    let big = "x".repeat(4 * 1024 * 1024);
    let request = Request::post(format!("{FLUNDERS}?dryRun=All"))
        .header(header::AUTHORIZATION, "Bearer secret")
        .header("x-remote-group", "others")
        .body(peer::full(big.clone()))
        .unwrap();
    let answer = cluster.send(user, request).await;
    assert_eq!(answer.status(), 200, "{:?}", answer.body());
    let answer: Value = serde_json::from_slice(answer.body()).unwrap();
    let told = &answer["told"];
    assert_eq!(
        (&told["method"], &told["target"]),
        (&json!("POST"), &json!(format!("{FLUNDERS}?dryRun=All")))
    );
    assert_eq!((&told["user"], &told["uid"]), (&json!(["jane"]), &json!(["42"])));
    assert_eq!(told["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!((&told["scopes"], &told["secrets"]), (&json!(["a", "b"]), &json!([])));
    assert_eq!(told["sent"].as_str().map(str::len), Some(big.len()));
    // Who acts in somebody's place is that somebody.
    let request = Request::get(format!("{FLUNDERS}/x")).header("impersonate-user", "joe");
    let request = request.header("impersonate-group", "system:masters").body(peer::full("")).unwrap();
    let answer: Value =
        serde_json::from_slice(cluster.send(User::component("test"), request).await.body()).unwrap();
    assert_eq!((&answer["told"]["user"], &answer["told"]["acted"]), (&json!(["joe"]), &json!([])));
    // Whoever may not is not let through.
    let request = Request::get(format!("{FLUNDERS}/x")).body(peer::full("")).unwrap();
    let refused = cluster.send(User::authenticated("bob", []), request).await;
    let said: Value = serde_json::from_slice(refused.body()).unwrap();
    let why = "flunders.wardle.example.com \"x\" is forbidden: User \"bob\" cannot get resource \"flunders\" in API group \"wardle.example.com\" in the namespace \"default\"";
    assert_eq!((refused.status().as_u16(), &said["message"]), (403, &json!(why)));
    // Nobody is sent elsewhere with his credentials.
    let moved = cluster.ask(Method::GET, &format!("{FLUNDERS}/moved"), &Value::Null).await;
    assert_eq!(moved.status(), 502);
    assert!(!moved.headers().contains_key(header::LOCATION));

    let index = cluster.get("/openapi/v3").await;
    let place = index["paths"]["apis/wardle.example.com/v1alpha1"]["serverRelativeURL"].as_str().unwrap();
    assert_eq!(cluster.get(place).await["info"]["title"], "wardle");
    let groups = cluster.get("/apis").await;
    let names: Vec<&str> =
        groups["groups"].as_array().unwrap().iter().map(|group| group["name"].as_str().unwrap()).collect();
    assert_eq!((names.first(), names.last()), (Some(&"apiregistration.k8s.io"), Some(&"wardle.example.com")));
    let group = cluster.get("/apis/wardle.example.com").await;
    assert_eq!(group["preferredVersion"]["groupVersion"], "wardle.example.com/v1alpha1");

    cluster.listen().await;
    let rows = cluster.kubectl(&["get", "apiservices", "--no-headers"]).await;
    let row = |name: &str| {
        rows.lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default()
            .split_whitespace()
            .take(3)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(row("v1alpha1.wardle"), format!("{NAME} default/wardle True"), "{rows}");
    assert_eq!(
        (row("v1. "), row("v1.apps ")),
        ("v1. Local True".to_owned(), "v1.apps Local True".to_owned()),
        "{rows}"
    );
    assert!(!rows.contains("v1.apiregistration.k8s.io"), "{rows}");
    assert_eq!(cluster.kubectl(&["get", "fl", "-o", "name"]).await, "flunder.wardle.example.com/one\n");
    let listed = cluster.kubectl(&["api-resources", "--api-group=wardle.example.com", "--no-headers"]).await;
    assert_eq!(
        listed.split_whitespace().collect::<Vec<_>>().join(" "),
        "flunders fl wardle.example.com/v1alpha1 true Flunder"
    );

    // What this server is said to serve itself is not asked of others.
    let mine = json!({ "spec": { "service": null, "caBundle": null } });
    cluster.ask(Method::PATCH, &format!("{SERVICES}/{NAME}"), &mine).await;
    cluster.reason("True Local").await;
    cluster.gone().await;
    cluster.ask(Method::DELETE, &format!("{SERVICES}/{NAME}"), &Value::Null).await;
    cluster.until(NAME, Value::is_null).await;
}

impl Cluster {
    /// Waits until nobody serves the group any more.
    async fn gone(&self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.ask(Method::GET, FLUNDERS, &Value::Null).await.status() != 404 {
            assert!(tokio::time::Instant::now() < deadline, "it is still served");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_is_told_of() {
    let cluster = cluster().await;
    let code = Arc::new(AtomicU16::new(404));
    let told = code.clone();
    let tls = peer::tls(&["wardle.default.svc"], None);
    let port =
        peer::serve(Some(&tls), move |request| wardle(request, told.load(Ordering::Relaxed))).await.port();
    cluster.make(SERVICES, &registration(port, &tls.bundle)).await;
    let message =
        |service: &Value| service["status"]["conditions"][0]["message"].as_str().unwrap().to_owned();
    let service = cluster.reason("False ServiceNotFound").await;
    assert_eq!(message(&service), "service/wardle in \"default\" is not present");
    let answer = cluster.ask(Method::GET, FLUNDERS, &Value::Null).await;
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (503, &b"service unavailable\n"[..]));
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/plain; charset=utf-8");

    let place = "/api/v1/namespaces/default/services";
    let ports = json!([{ "name": "https", "port": 1 }]);
    cluster.make(place, &json!({ "metadata": { "name": "wardle" }, "spec": { "ports": ports } })).await;
    let service = cluster.reason("False ServicePortError").await;
    assert_eq!(message(&service), format!("service/wardle in \"default\" is not listening on port {port}"));
    let path = format!("{place}/wardle");
    let ports = json!([{ "name": "https", "port": port }]);
    cluster.ask(Method::PATCH, &path, &json!({ "spec": { "ports": ports } })).await;
    let service = cluster.reason("False EndpointsNotFound").await;
    assert_eq!(message(&service), "cannot find endpointslices for service/wardle in \"default\"");
    let slice = json!({
        "metadata": { "name": "wardle", "labels": { "kubernetes.io/service-name": "wardle" } }, "addressType": "IPv4",
        "endpoints": [{ "addresses": ["192.0.2.1"], "conditions": { "ready": false } }], "ports": [{ "name": "https", "port": port }],
    });
    cluster.make("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await;
    let service = cluster.reason("False MissingEndpoints").await;
    assert_eq!(
        message(&service),
        "endpointslices for service/wardle in \"default\" have no addresses with port name \"https\""
    );
    cluster.ask(Method::DELETE, &path, &Value::Null).await;
    cluster.reason("False ServiceNotFound").await;
    make_service(&cluster, port).await;
    let service = cluster.reason("False FailedDiscoveryCheck").await;
    let url = format!("https://localhost:{port}/apis/wardle.example.com/v1alpha1");
    assert_eq!(
        message(&service),
        format!("failing or missing response from {url}: bad status from {url}: 404")
    );
    // It is looked at again without being asked to.
    code.store(200, Ordering::Relaxed);
    cluster.reason("True Passed").await;
    // A certificate of another authority is not believed by those who send requests.
    let other = peer::tls(&["wardle.default.svc"], None);
    cluster
        .ask(Method::PATCH, &format!("{SERVICES}/{NAME}"), &json!({ "spec": { "caBundle": other.bundle } }))
        .await;
    let refused = "error trying to reach service: tls: failed to verify certificate: x509: certificate signed by unknown authority\n";
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = cluster.ask(Method::GET, FLUNDERS, &Value::Null).await;
        if answer.status() == 503 {
            assert_eq!(answer.body(), refused);
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "it is believed");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_this_server_serves_is_registered_as_its_own() {
    let mine = custom::cluster().await;
    let label = "kube-aggregator.kubernetes.io/automanaged";
    let path = |name: &str| format!("{SERVICES}/{name}");
    let apps = mine.get(&path("v1.apps")).await.ok();
    assert_eq!(
        (&apps["metadata"]["labels"][label], &apps["spec"]["groupPriorityMinimum"]),
        (&json!("onstart"), &json!(17_800))
    );
    assert_eq!(available(&apps), "True Local");
    let schema = json!({ "type": "object" });
    mine.define(&custom::widgets(schema)).await;
    let name = "v1.example.com";
    let found = mine.service_until(name, |service| available(service) == "True Local").await;
    assert_eq!(found["metadata"]["labels"][label], "true");
    assert_eq!(
        (&found["spec"]["groupPriorityMinimum"], &found["spec"]["versionPriority"]),
        (&json!(1000), &json!(100))
    );
    // What is looked after comes back as it was.
    let uid = found["metadata"]["uid"].clone();
    mine.delete(&path(name)).await.ok();
    mine.service_until(name, |service| !service.is_null() && service["metadata"]["uid"] != uid).await;
    mine.patch(&path(name), custom::MERGE, &json!({ "spec": { "versionPriority": 7 } })).await.ok();
    mine.service_until(name, |service| service["spec"]["versionPriority"] == 100).await;
    mine.delete(&format!("{}/widgets.example.com", custom::DEFINITIONS)).await.ok();
    mine.service_until(name, Value::is_null).await;
    // One of the start goes when it is deleted, and comes with the next start.
    mine.delete(&path("v1.apps")).await.ok();
    assert_eq!(mine.get("/apis/apps/v1").await.code, 200);
    let mine = mine.restart().await;
    assert_eq!(available(&mine.get(&path("v1.apps")).await.ok()), "True Local");
    mine.end().await;
}

impl custom::Cluster {
    /// Waits until an APIService is as it should be, or gone where the condition takes null.
    async fn service_until(&self, name: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let mut events =
            self.watch(&format!("{SERVICES}?watch=true&fieldSelector=metadata.name%3D{name}")).await;
        let now = self.get(&format!("{SERVICES}/{name}")).await;
        let mut now = if now.code == 404 { Value::Null } else { now.ok() };
        while !condition(&now) {
            let event = events.next().await.unwrap();
            now = if event["type"] == "DELETED" { Value::Null } else { event["object"].clone() };
        }
        now
    }
}
