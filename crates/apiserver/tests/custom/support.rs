//! An API server in this process, asked over HTTP.

#![allow(missing_docs, unreachable_pub, reason = "it is part of one test")]

use std::time::Duration;

use bytes::Bytes;
use dray_apiserver::{ApiServer, ApiService, ResponseBody, User};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tower_service::Service as _;

use crate::server;

/// How long something may take that must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const JSON: &str = "application/json";
pub const MERGE: &str = "application/merge-patch+json";

/// A server and its data.
pub struct Cluster {
    server: ApiServer,
    service: ApiService,
    directory: tempfile::TempDir,
}

/// What a request came to.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub warnings: Vec<String>,
    pub body: Value,
}

impl Answer {
    /// The body of a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.code < 300, "{}: {}", self.code, self.body);
        self.body
    }

    /// What is wrong, as "path: message" of each cause.
    #[track_caller]
    pub fn causes(&self) -> Vec<String> {
        assert_eq!(self.code, 422, "{}", self.body);
        let causes = self.body["details"]["causes"].as_array().unwrap();
        let text = |cause: &Value, name: &str| cause[name].as_str().unwrap_or_default().to_owned();
        causes.iter().map(|cause| format!("{}: {}", text(cause, "field"), text(cause, "message"))).collect()
    }

    /// The message of a failure.
    #[track_caller]
    pub fn refused(&self, code: u16) -> &str {
        assert_eq!(self.code, code, "{}", self.body);
        self.body["message"].as_str().unwrap()
    }
}

async fn read(response: Response<ResponseBody>) -> Answer {
    let code = response.status().as_u16();
    let warnings = response.headers().get_all("warning").iter();
    let warnings = warnings.map(|value| value.to_str().unwrap().to_owned()).collect();
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&text)
        .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&text).into_owned()));
    Answer { code, warnings, body }
}

async fn open(directory: &tempfile::TempDir) -> (ApiServer, ApiService) {
    let server = server::open(directory.path()).await;
    let service = server.service(User::component("test"));
    (server, service)
}

pub async fn cluster() -> Cluster {
    let directory = tempfile::tempdir().unwrap();
    let (server, service) = open(&directory).await;
    Cluster { server, service, directory }
}

impl Cluster {
    /// Ends the server and starts another on the same data.
    pub async fn restart(self) -> Cluster {
        let Cluster { server, service, directory } = self;
        drop(service);
        server.close().await;
        let (server, service) = open(&directory).await;
        Cluster { server, service, directory }
    }

    /// The store's directory goes with it.
    pub async fn end(self) {
        drop(self.service);
        self.server.close().await;
        drop(self.directory);
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Response<ResponseBody> {
        let mut request = Request::builder().method(method).uri(path).header("user-agent", "tester/1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        self.service.clone().call(request).await.unwrap()
    }

    pub async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
        read(self.send(method, path, headers, body).await).await
    }

    /// An answer and its tag.
    pub async fn tagged(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> (Answer, String) {
        let response = self.send(method, path, headers, String::new()).await;
        let tag = response.headers()["etag"].to_str().unwrap().to_owned();
        (read(response).await, tag)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[], String::new()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::POST, path, &[("content-type", JSON)], body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::PUT, path, &[("content-type", JSON)], body.to_string()).await
    }

    pub async fn patch(&self, path: &str, media: &str, body: &Value) -> Answer {
        self.ask(Method::PATCH, path, &[("content-type", media)], body.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.ask(Method::DELETE, path, &[], String::new()).await
    }

    /// Follows a collection.
    pub async fn watch(&self, path: &str) -> Events {
        let response = self.send(Method::GET, path, &[], String::new()).await;
        assert_eq!(response.status().as_u16(), 200);
        Events { body: response.into_body(), rest: Vec::new() }
    }

    /// Waits until a definition is as it should be, or gone where the condition takes null.
    pub async fn until(&self, name: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let path = format!("{DEFINITIONS}?watch=true&fieldSelector=metadata.name%3D{name}");
        let mut events = self.watch(&path).await;
        let now = self.get(&format!("{DEFINITIONS}/{name}")).await;
        let now = if now.code == 404 { Value::Null } else { now.ok() };
        if condition(&now) {
            return now;
        }
        loop {
            let event = events.next().await.expect("the watch goes on");
            let object = if event["type"] == "DELETED" { Value::Null } else { event["object"].clone() };
            if condition(&object) {
                return object;
            }
        }
    }

    /// Makes a definition and waits until it is served.
    pub async fn define(&self, definition: &Value) -> Value {
        self.post(DEFINITIONS, definition).await.ok();
        let name = definition["metadata"]["name"].as_str().unwrap();
        self.until(name, |definition| condition(definition, "Established").starts_with("True")).await
    }
}

/// The events of a watch.
pub struct Events {
    body: ResponseBody,
    rest: Vec<u8>,
}

impl Events {
    /// The next event; none at the end of the watch.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame =
                tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("something happens")?;
            self.rest.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }
}

/// "STATUS REASON" of a definition's condition; empty where it has none.
pub fn condition(definition: &Value, kind: &str) -> String {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    conditions
        .filter(|condition| condition["type"] == kind)
        .map(|condition| format!("{} {}", text(condition, "status"), text(condition, "reason")))
        .collect()
}

/// A definition of widgets with one version.
pub fn widgets(schema: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "widgets.example.com" },
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": { "plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"] },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } }],
        },
    })
}

pub const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

/// A widget.
pub fn widget(name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": name }, "spec": spec })
}

/// The schema of an object with a specification.
pub fn of_spec(spec: Value) -> Value {
    json!({ "type": "object", "properties": { "spec": spec } })
}
