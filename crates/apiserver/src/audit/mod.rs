//! The audit log: who asked for what, when, and what came of it, as `audit.k8s.io/v1` events. What is written of which
//! request is for the policy to say. It must not know kinds, nor decide anything about a request.

mod log;
mod policy;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use dray_access::User;
use dray_machinery::{Status, object};
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

pub use log::Rotation;
use policy::{Asked, Level, Policy, Resource, Stage, Verdict};

use crate::{
    ApiServer, Error,
    body::{BoxError, ResponseBody},
    decode,
    request::Subject,
    respond::Answer,
    review::user_info,
};

const ID: &str = "audit-id";
const DECISION: &str = "authorization.k8s.io/decision";
const REASON: &str = "authorization.k8s.io/reason";
/// The longest that a client may call its own request.
const LONGEST_ID: usize = 64;

/// What is written of requests, and where to.
#[derive(Debug, Clone)]
pub struct Audit {
    /// The file of the policy, in YAML or JSON.
    pub policy: PathBuf,
    /// The log; "-" is the standard output.
    pub log: PathBuf,
    /// How the log is kept from growing without end.
    pub rotation: Rotation,
}

/// Who writes events.
pub(crate) struct Auditor {
    policy: Policy,
    log: mpsc::Sender<Bytes>,
}

impl ApiServer {
    /// Writes an audit log from now on. Only the first call counts.
    ///
    /// # Errors
    /// When the policy cannot be read or is none, or the log cannot be opened.
    pub fn audit(&self, audit: &Audit) -> Result<(), Error> {
        let failed = |action: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { action, path, source }
        };
        let text = std::fs::read_to_string(&audit.policy).map_err(failed("read", &audit.policy))?;
        let policy = Policy::parse(&text)
            .map_err(|reason| Error::AuditPolicy { path: audit.policy.clone(), reason })?;
        let log = log::open(&audit.log, audit.rotation).map_err(failed("write", &audit.log))?;
        self.inner.auditor.get_or_init(|| Arc::new(Auditor { policy, log }));
        Ok(())
    }
}

/// What is noted of one request on its way.
pub(crate) struct Trail {
    auditor: Option<Arc<Auditor>>,
    id: String,
    event: Value,
    verdict: Option<Verdict>,
    /// Whether the answer goes on until somebody ends it.
    is_long: bool,
    /// Whether somebody else answers.
    is_passed_on: bool,
    annotations: BTreeMap<String, String>,
}

impl Trail {
    /// Begins with a request.
    pub(crate) fn begin(auditor: Option<&Arc<Auditor>>, parts: &Parts, peer: Option<IpAddr>) -> Trail {
        let given = parts.headers.get(ID).and_then(|id| id.to_str().ok());
        let given = given.filter(|id| !id.is_empty() && id.len() <= LONGEST_ID).map(str::to_owned);
        let id = given.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let event = if auditor.is_some() { event(parts, peer, &id) } else { Value::Null };
        Trail {
            auditor: auditor.cloned(),
            id,
            event,
            verdict: None,
            is_long: false,
            is_passed_on: false,
            annotations: BTreeMap::new(),
        }
    }

    /// Notes who asks for what, and writes that it has come.
    pub(crate) async fn received(
        &mut self,
        user: &User,
        verb: &str,
        path: &str,
        subject: Option<Subject<'_>>,
        headers: &HeaderMap,
        body: &Bytes,
    ) {
        let Some(auditor) = &self.auditor else { return };
        let mut asked = Asked {
            user: user.name.clone(),
            groups: user.groups.clone(),
            verb: verb.to_owned(),
            resource: None,
            path: path.to_owned(),
        };
        if let Some(subject) = subject {
            let resource = Resource {
                group: subject.group.to_owned(),
                version: subject.version.to_owned(),
                plural: subject.resource.to_owned(),
                part: subject.part.to_owned(),
                namespace: subject.place().to_owned(),
                name: subject.name.to_owned(),
            };
            self.event["objectRef"] = reference(&resource);
            self.is_long =
                verb == "watch" || matches!(&*resource.part, "exec" | "attach" | "portforward" | "proxy");
            asked.resource = Some(resource);
        }
        let verdict = auditor.policy.judge(&asked);
        self.event["level"] = json!(verdict.level.as_str());
        self.event["verb"] = json!(verb);
        self.event["user"] = user_info(user);
        if verdict.level >= Level::Request && !body.is_empty() {
            self.sent(headers, body, verdict.omit_managed_fields);
        }
        self.verdict = Some(verdict);
        self.write(Stage::RequestReceived).await;
    }

    /// Notes what was sent.
    fn sent(&mut self, headers: &HeaderMap, body: &Bytes, omit_managed_fields: bool) {
        let media = decode::media(headers);
        let sent = if media.contains("yaml") { decode::yaml(body) } else { decode::json(body) };
        let Ok(mut sent) = sent.or_else(|_| decode::object(headers, body)) else { return };
        if omit_managed_fields {
            remove_managed_fields(&mut sent);
        }
        for field in ["name", "namespace", "uid", "resourceVersion"] {
            let given = object::meta(&sent, field);
            let known = &mut self.event["objectRef"];
            if known.is_object() && !given.is_empty() && known[field].is_null() {
                known[field] = json!(given);
            }
        }
        self.event["requestObject"] = sent;
    }

    /// Notes in whose place the user acts.
    pub(crate) fn acts_as(&mut self, user: &User, acted: &User) {
        if self.auditor.is_some() && user != acted {
            self.event["impersonatedUser"] = user_info(acted);
        }
    }

    /// Notes that somebody else answers.
    pub(crate) fn passes_on(&mut self) {
        self.is_passed_on = true;
    }

    /// Notes whether it is allowed, and why.
    pub(crate) fn decided(&mut self, allowed: bool, reason: &str) {
        if self.auditor.is_some() {
            let decision = if allowed { "allow" } else { "forbid" };
            self.annotations.insert(DECISION.to_owned(), decision.to_owned());
            self.annotations.insert(REASON.to_owned(), reason.to_owned());
        }
    }

    /// Notes what others have to tell.
    pub(crate) fn annotate(&mut self, annotations: BTreeMap<String, String>) {
        if self.auditor.is_some() {
            self.annotations.extend(annotations);
        }
    }

    fn level(&self) -> Level {
        self.verdict.as_ref().map_or(Level::None, |verdict| verdict.level)
    }

    async fn write(&self, stage: Stage) {
        if let Some((auditor, line)) = self.line(stage) {
            // Nobody writes any more when the server ends.
            let _ = auditor.log.send(line).await;
        }
    }

    fn line(&self, stage: Stage) -> Option<(&Arc<Auditor>, Bytes)> {
        let (Some(auditor), Some(verdict)) = (&self.auditor, &self.verdict) else { return None };
        if verdict.level == Level::None || verdict.omitted.contains(&stage) {
            return None;
        }
        let mut event = self.event.clone();
        event["stage"] = json!(stage.as_str());
        event["stageTimestamp"] = json!(now());
        if !self.annotations.is_empty() {
            event["annotations"] = json!(self.annotations);
        }
        Some((auditor, Bytes::from(format!("{event}\n"))))
    }

    /// Ends with an answer, which gets the name of the request.
    pub(crate) async fn answered(mut self, mut answer: Answer, failure: Option<&Status>) -> Answer {
        if let Ok(id) = HeaderValue::from_str(&self.id) {
            answer.headers_mut().insert(ID, id);
        }
        if self.auditor.is_none() {
            return answer;
        }
        if self.level() == Level::None {
            return answer;
        }
        let mut status = json!({ "metadata": {}, "code": answer.status().as_u16() });
        if let Some(failure) = failure {
            let told = failure.to_value();
            for field in ["status", "message", "reason", "details"] {
                if let Some(value) = told.get(field) {
                    status[field] = value.clone();
                }
            }
        }
        self.event["responseStatus"] = status;
        if self.is_long
            && (answer.status().is_success() || answer.status() == StatusCode::SWITCHING_PROTOCOLS)
        {
            self.write(Stage::ResponseStarted).await;
            return answer.map(|body| Followed { body, trail: Some(self) }.boxed_unsync());
        }
        // What somebody else answers is his, and may have no end.
        if self.level() == Level::RequestResponse && !self.is_passed_on {
            answer = self.keep(answer).await;
        }
        self.write(Stage::ResponseComplete).await;
        answer
    }

    /// Notes what is answered.
    async fn keep(&mut self, answer: Answer) -> Answer {
        let is_json = answer
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|media| media.as_bytes().starts_with(b"application/json"));
        if !is_json || answer.body().size_hint().exact().is_none() {
            return answer;
        }
        let (head, body) = answer.into_parts();
        let bytes = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => Bytes::new(),
        };
        if let Ok(mut told) = serde_json::from_slice::<Value>(&bytes) {
            if self.verdict.as_ref().is_some_and(|verdict| verdict.omit_managed_fields) {
                remove_managed_fields(&mut told);
            }
            self.event["responseObject"] = told;
        }
        Answer::from_parts(head, crate::body::full(bytes))
    }
}

/// The body of an answer that goes on: when it ends, that is written.
struct Followed {
    body: ResponseBody,
    trail: Option<Trail>,
}

impl Body for Followed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        if let Some((auditor, line)) =
            self.trail.take().as_ref().and_then(|trail| trail.line(Stage::ResponseComplete))
            && auditor.log.try_send(line).is_err()
        {
            tracing::warn!("the end of a watch was not written to the audit log: too much waits to be");
        }
    }
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

fn event(parts: &Parts, peer: Option<IpAddr>, id: &str) -> Value {
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let forwarded =
        parts.headers.get("x-forwarded-for").and_then(|list| list.to_str().ok()).unwrap_or_default();
    let mut sources: Vec<IpAddr> = forwarded.split(',').filter_map(|one| one.trim().parse().ok()).collect();
    sources.extend(peer.filter(|peer| !sources.contains(peer)));
    let agent =
        parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "auditID": id, "requestURI": target, "sourceIPs": sources,
        "userAgent": agent, "user": {}, "requestReceivedTimestamp": now(),
    })
}

fn reference(resource: &Resource) -> Value {
    let mut reference = json!({ "resource": resource.plural, "apiVersion": resource.version });
    for (field, text) in [
        ("namespace", &resource.namespace),
        ("name", &resource.name),
        ("apiGroup", &resource.group),
        ("subresource", &resource.part),
    ] {
        if !text.is_empty() {
            reference[field] = json!(text);
        }
    }
    reference
}

fn remove_managed_fields(value: &mut Value) {
    if value["metadata"].is_object() {
        object::remove(&mut value["metadata"], "managedFields");
    }
    for item in object::items_mut(value, "items") {
        if item["metadata"].is_object() {
            object::remove(&mut item["metadata"], "managedFields");
        }
    }
}
