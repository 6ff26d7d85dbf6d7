//! From a request to its answer: paths, access, verbs.

use std::sync::Arc;

use bytes::Bytes;
use dray_machinery::{Status, Subresource};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use serde_json::json;

use crate::{
    discovery,
    negotiate::{self, Accept, Encoding, Shape},
    openapi,
    query::Query,
    request::{self, Identity, ResourceRequest},
    respond::{self, Answer},
    review,
    server::Inner,
    write::Change,
};

/// The release of the API that this server speaks.
pub(crate) const GIT_VERSION: &str = "v1.36.0";

impl Inner {
    /// Answers a request; every failure becomes a `Status`.
    pub(crate) async fn handle(
        self: &Arc<Self>,
        identity: Option<&Identity>,
        parts: &mut Parts,
        body: Bytes,
    ) -> Answer {
        match self.route(identity, parts, body).await {
            Ok(answer) => answer,
            Err(status) => {
                if status.code >= 500 {
                    tracing::warn!(method = %parts.method, path = parts.uri.path(), %status, "request failed");
                }
                respond::failure(&status)
            }
        }
    }

    async fn route(
        self: &Arc<Self>,
        identity: Option<&Identity>,
        parts: &mut Parts,
        body: Bytes,
    ) -> Result<Answer, Status> {
        let path = parts.uri.path().to_owned();
        if let Some(answer) = self.open_path(&path, parts.uri.query().unwrap_or_default()) {
            return Ok(answer);
        }
        let identity = identity.ok_or_else(Status::unauthorized)?;
        let acted = request::impersonated(identity, &parts.headers)?;
        let identity = acted.as_ref().unwrap_or(identity);
        let get = matches!(parts.method, Method::GET | Method::HEAD);
        if get {
            let address = self.config.advertise_address.to_string();
            if let Some(answer) = discovery::answer(&path, &parts.headers, &address) {
                return answer;
            }
            if let Some(answer) = openapi::answer(&path, &parts.headers) {
                return answer;
            }
            if path == "/" {
                return Ok(respond::value(StatusCode::OK, Encoding::Json, &json!({ "paths": PATHS })));
            }
            if path == "/metrics" {
                return Ok(self.metrics());
            }
        }
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let request = request::resource(&path, query)?;
        request::authorize(identity, request::verb(&parts.method, &request), &request)?;
        self.resource(identity, &request, parts, body).await
    }

    /// The paths that need no identity.
    fn open_path(&self, path: &str, query: &str) -> Option<Answer> {
        match path {
            "/healthz" | "/livez" | "/readyz" => {
                let verbose = Query::parse(query).flag("verbose");
                let text = if verbose {
                    format!("[+]ping ok\n[+]log ok\n[+]store ok\n{} check passed\n", path.trim_matches('/'))
                } else {
                    "ok".into()
                };
                Some(respond::text(StatusCode::OK, text))
            }
            "/healthz/ping" | "/livez/ping" | "/readyz/ping" => Some(respond::text(StatusCode::OK, "ok")),
            "/version" => Some(respond::value(
                StatusCode::OK,
                Encoding::Json,
                &json!({
                    "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
                    "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
                    "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "",
                    "goVersion": "", "compiler": "rustc", "platform": concat!("linux/", "amd64"),
                }),
            )),
            _ => None,
        }
    }

    async fn resource(
        self: &Arc<Self>,
        identity: &Identity,
        request: &ResourceRequest,
        parts: &mut Parts,
        body: Bytes,
    ) -> Result<Answer, Status> {
        if let Some(subresource) = request.subresource
            && matches!(
                subresource,
                Subresource::Log | Subresource::Exec | Subresource::Attach | Subresource::PortForward
            )
        {
            return self.node_request(subresource, request, parts).await;
        }
        let headers: &HeaderMap = &parts.headers;
        let accept = negotiate::accept(headers)?;
        let manager = request::manager(&request.query, headers);
        let mut change = Change::new(request, headers, &body, accept, manager);
        change.requester = Some(identity);
        if request.kind.question {
            return review::answer(&parts.method, identity, &change);
        }
        if let Some(subresource) = request.subresource
            && !matches!(
                subresource,
                Subresource::Status
                    | Subresource::Approval
                    | Subresource::EphemeralContainers
                    | Subresource::Resize
            )
        {
            return self.subresource(&parts.method, subresource, &change).await;
        }
        let mut answer = self.verb(&parts.method, &change, accept).await?;
        for warning in change.warnings.lock().iter() {
            if let Ok(value) = HeaderValue::from_str(&format!("299 - {warning:?}")) {
                answer.headers_mut().append(header::WARNING, value);
            }
        }
        Ok(answer)
    }

    async fn verb(
        self: &Arc<Self>,
        method: &Method,
        change: &Change<'_>,
        accept: Accept,
    ) -> Result<Answer, Status> {
        let request = change.request;
        let one = !request.name.is_empty();
        let looks = matches!(*method, Method::GET | Method::HEAD) && !request.query.flag("watch");
        if request.kind.read_only && !looks {
            return Err(Status::method_not_allowed());
        }
        match *method {
            Method::GET | Method::HEAD if request.query.flag("watch") => self.watch(request, accept),
            Method::GET | Method::HEAD if one => self.get(request, accept),
            Method::GET | Method::HEAD => self.list(request, accept),
            Method::POST if !one && (!request.kind.namespaced || !request.namespace.is_empty()) => {
                if accept.shape == Shape::Table {
                    respond::include_object(&request.query)?;
                }
                self.create(change).await
            }
            Method::PUT if one => self.update(change).await,
            Method::PATCH if one => self.patch(change).await,
            Method::DELETE if one && request.subresource.is_none() => self.delete(change).await,
            Method::DELETE if !one && request.kind.verbs().contains(&"deletecollection") => {
                self.delete_collection(change).await
            }
            _ => Err(Status::method_not_allowed()),
        }
    }

    fn metrics(&self) -> Answer {
        use std::fmt::Write as _;
        let snapshot = self.store.snapshot();
        let mut text = String::from(
            "# HELP apiserver_resource_objects Number of stored objects at the time of last check split by kind.\n\
             # TYPE apiserver_resource_objects gauge\n",
        );
        for kind in
            dray_machinery::kinds::all().iter().filter(|kind| kind.stored_as.is_none() && !kind.question)
        {
            let count = snapshot.count(&kind.storage());
            let _ = writeln!(
                text,
                "apiserver_resource_objects{{group=\"{}\",resource=\"{}\"}} {count}",
                kind.group, kind.plural
            );
        }
        let _ = writeln!(
            text,
            "# HELP dray_store_revision Revision of the last commit.\n# TYPE dray_store_revision counter\n\
             dray_store_revision {}",
            snapshot.revision()
        );
        respond::text(StatusCode::OK, text)
    }
}

const PATHS: &[&str] = &[
    "/api",
    "/api/v1",
    "/apis",
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/readyz",
    "/version",
];
