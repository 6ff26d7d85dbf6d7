//! From a request to its answer: paths, access, verbs.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use dray_access::{Attributes, User};
use dray_machinery::{Reason, Status, Subresource};
use http::{HeaderMap, Method, StatusCode, request::Parts};
use serde_json::{Value, json};

use crate::{
    admission::Operation,
    aggregator::Target,
    audit::Trail,
    body::Sent,
    discovery,
    flow::{self, Digest, Marks},
    negotiate::{self, Accept, Encoding, Shape},
    node, openapi,
    query::Query,
    request::{self, ResourceRequest},
    respond::{self, Answer},
    server::Inner,
    write::Change,
};

/// The release of the API that this server speaks.
pub(crate) const GIT_VERSION: &str = "v1.36.0";
/// What this binary was built from, and when, as whoever builds it for others says. Clients expect a number and a time.
const COMMIT: &str = match option_env!("DRAY_COMMIT") {
    Some(commit) => commit,
    None => "0000000000000000000000000000000000000000",
};
const BUILD_DATE: &str = match option_env!("DRAY_BUILD_DATE") {
    Some(date) => date,
    None => "1970-01-01T00:00:00Z",
};

impl Inner {
    /// Answers a request; every failure becomes a `Status`.
    pub(crate) async fn handle(
        self: &Arc<Self>,
        certified: Option<&User>,
        peer: Option<IpAddr>,
        parts: &mut Parts,
        body: Sent,
    ) -> Answer {
        let mut trail = Trail::begin(self.auditor.get(), parts, peer);
        let mut marks = Marks::default();
        match self.route(certified, parts, body, &mut trail, &mut marks).await {
            Ok(mut answer) => {
                marks.write(answer.headers_mut());
                trail.answered(answer, None).await
            }
            Err(status) => {
                if status.code >= 500 {
                    tracing::warn!(method = %parts.method, path = parts.uri.path(), %status, "request failed");
                }
                let mut answer = respond::failure(&status);
                marks.write(answer.headers_mut());
                trail.answered(answer, Some(&status)).await
            }
        }
    }

    async fn route(
        self: &Arc<Self>,
        certified: Option<&User>,
        parts: &mut Parts,
        body: Sent,
        trail: &mut Trail,
        marks: &mut Marks,
    ) -> Result<Answer, Status> {
        let path = parts.uri.path().to_owned();
        let sender = self.authenticate(certified, &parts.headers);
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let remote = self.aggregator.remote(&path);
        let (request, target) = match &remote {
            None => (request::resource(&path, query, || self.custom.table()), None),
            Some(_) => (Err(Status::no_such_resource()), Target::read(&path, query)),
        };
        let (verb, subject) = match (&request, &target) {
            (Ok(request), _) => (request::verb(&parts.method, request).to_owned(), Some(request.subject())),
            (Err(_), Some(target)) => (target.verb(&parts.method).to_owned(), Some(target.subject())),
            (Err(_), None) => (parts.method.as_str().to_lowercase(), None),
        };
        // Whoever cannot say who he is is written down as nobody.
        let nobody = User::default();
        let known = sender.as_ref().unwrap_or(&nobody);
        trail.received(known, &verb, &path, subject, &parts.headers, &body.bytes()).await;
        let sender = sender?;
        let user = self.impersonate(sender.clone(), &parts.headers)?;
        trail.acts_as(&sender, &user);
        // Kept until the answer has been made, or has begun where it goes on.
        let _admitted = match &request {
            Ok(request) if flow::is_endless(request) => None,
            request => {
                let seats = flow::width(&self.store, &verb, request.as_ref().ok());
                let digest = Digest { user: &user, verb: &verb, path: &path, subject };
                Some(self.flow.admit(&self.store, &digest, seats, marks).await?)
            }
        };
        if let Some(remote) = remote {
            match &target {
                Some(target) => self.check(trail, &user, &target.attributes(&parts.method))?,
                None => self.check(trail, &user, &Attributes::path(&verb, &path))?,
            }
            trail.passes_on();
            return self.send_on(&remote, &user, parts, body.into_body()).await;
        }
        let request = match request {
            Ok(request) => request,
            Err(unknown) => {
                self.check(trail, &user, &Attributes::path(&verb, &path))?;
                return self.path(&path, parts).await.unwrap_or(Err(unknown));
            }
        };
        self.check_access(trail, &user, &request, parts)?;
        self.resource(&user, &request, parts, body, trail).await
    }

    /// Whether a user may do what he asks, which the audit log hears of.
    fn check(&self, trail: &mut Trail, user: &User, asked: &Attributes<'_>) -> Result<(), Status> {
        let granted = self.access.grant(&self.store, user, asked);
        trail.decided(granted.is_ok(), granted.as_deref().unwrap_or_default());
        granted.map(drop)
    }

    /// Whether a user may do what he asks of a resource.
    fn check_access(
        &self,
        trail: &mut Trail,
        user: &User,
        request: &ResourceRequest,
        parts: &Parts,
    ) -> Result<(), Status> {
        let asked = request::attributes(&parts.method, request);
        self.check(trail, user, &asked)?;
        let streams = [Subresource::Exec, Subresource::Attach, Subresource::PortForward];
        if asked.verb != "create" && request.subresource.is_some_and(|asked| streams.contains(&asked)) {
            // A WebSocket begins with GET, and is no reading for that.
            self.check(trail, user, &Attributes { verb: "create", ..asked })?;
        }
        Ok(())
    }

    /// Answers what is no resource.
    async fn path(&self, path: &str, parts: &Parts) -> Option<Result<Answer, Status>> {
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            return None;
        }
        if let Some(answer) = openapi::answer(path, &parts.headers, self).await {
            return Some(answer);
        }
        let address = self.config.advertise_address.to_string();
        discovery::answer(path, &parts.headers, &address, &self.custom.table(), &self.aggregator)
            .or_else(|| self.health(path, parts.uri.query().unwrap_or_default()).map(Ok))
            .or_else(|| self.document(path).map(Ok))
    }

    /// What the server tells about itself.
    fn document(&self, path: &str) -> Option<Answer> {
        let json = |value: &Value| Some(respond::value(StatusCode::OK, Encoding::Json, value));
        match path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path) {
            "/" => json(&json!({ "paths": PATHS })),
            "/metrics" => Some(self.metrics()),
            "/.well-known/openid-configuration" => {
                json(&self.signer.discovery(&self.config.advertise_address.to_string()))
            }
            "/openid/v1/jwks" => json(&self.signer.keys()),
            "/version" => json(&json!({
                "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
                "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
                "gitVersion": GIT_VERSION, "gitCommit": COMMIT, "gitTreeState": "clean", "buildDate": BUILD_DATE,
                "goVersion": "", "compiler": "rustc", "platform": concat!("linux/", "amd64"),
            })),
            _ => None,
        }
    }

    async fn resource(
        self: &Arc<Self>,
        user: &User,
        request: &ResourceRequest,
        parts: &mut Parts,
        sent: Sent,
        trail: &mut Trail,
    ) -> Result<Answer, Status> {
        let body = sent.bytes();
        if let Some(subresource) = request.subresource
            && (subresource.is_proxy()
                || matches!(
                    subresource,
                    Subresource::Log | Subresource::Exec | Subresource::Attach | Subresource::PortForward
                ))
        {
            if subresource != Subresource::Log {
                let accept = Accept { shape: Shape::Full, encoding: Encoding::Json };
                let change = Change::new(request, user, &parts.headers, &body, accept, String::new());
                let admitted = self
                    .admit_request(&change, Operation::Connect, node::options(subresource, request))
                    .await;
                trail.annotate(std::mem::take(&mut change.annotations.lock()));
                admitted?;
            }
            if subresource.is_proxy() {
                trail.passes_on();
                return self.proxy(subresource, request, parts, sent.into_body()).await;
            }
            return self.node_request(subresource, request, parts).await;
        }
        let headers: &HeaderMap = &parts.headers;
        let choose = if request.kind.question { negotiate::accept_whole } else { negotiate::accept };
        let accept = choose(headers)?;
        let manager = request::manager(&request.query, headers);
        let change = Change::new(request, user, headers, &body, accept, manager);
        if let Some(custom) = request.custom.as_ref().filter(|custom| !custom.deprecation.is_empty()) {
            change.warnings.lock().push(custom.deprecation.clone());
        }
        if request.kind.question {
            return self.review(&parts.method, &change);
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
        let answer = self.verb(&parts.method, &change, accept).await;
        trail.annotate(std::mem::take(&mut change.annotations.lock()));
        let warnings = std::mem::take(&mut *change.warnings.lock());
        match answer {
            Ok(mut answer) => {
                respond::warn(&mut answer, &warnings);
                Ok(answer)
            }
            Err(mut status) => {
                status.warnings = warnings;
                Err(status)
            }
        }
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
        if request.kind.terminating && *method == Method::POST {
            let why = "create not allowed while custom resource definition is terminating";
            return Err(Status::new(405, Reason::MethodNotAllowed, why));
        }
        match *method {
            Method::GET | Method::HEAD if request.query.flag("watch") => self.watch(request, accept),
            Method::GET | Method::HEAD if one => self.get(request, accept).await,
            Method::GET | Method::HEAD => self.list(request, accept).await,
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
        let mut counted = BTreeSet::new();
        for kind in self.custom.table().rows() {
            // Versions of a kind are stored together.
            if kind.stored_as.is_some() || kind.question || !counted.insert((kind.group, kind.plural)) {
                continue;
            }
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
             dray_store_revision {}\n\
             # HELP apiserver_storage_size_bytes Size of the stored keys and values.\n\
             # TYPE apiserver_storage_size_bytes gauge\n\
             apiserver_storage_size_bytes{{storage_cluster_id=\"store-0\"}} {}",
            snapshot.revision(),
            snapshot.bytes()
        );
        respond::text(StatusCode::OK, text)
    }
}

const PATHS: &[&str] = &[
    "/.well-known/openid-configuration",
    "/api",
    "/api/v1",
    "/apis",
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/readyz",
    "/version",
];
