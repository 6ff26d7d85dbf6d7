//! What the API server asks a node: logs, exec, attach, port-forward, and what is used, on the kubelet's paths.
//!
//! The connection comes from the API server, which has checked who asks and for what; what is in the request still is
//! data from outside.

mod exposition;
mod find;
mod logs;
mod portforward;
mod process;
mod query;
mod spdy;
mod summary;
mod websocket;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::context::Context;

/// What answers hold.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A request that cannot be done, as a Status of the Kubernetes API.
#[derive(Debug)]
pub(crate) struct Refusal {
    code: StatusCode,
    message: String,
    /// More headers of the answer.
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(crate) fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), headers: Vec::new() }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    fn reason(&self) -> &'static str {
        match self.code {
            StatusCode::NOT_FOUND => "NotFound",
            StatusCode::BAD_REQUEST => "BadRequest",
            StatusCode::FORBIDDEN => "Forbidden",
            StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowed",
            _ => "InternalError",
        }
    }

    fn into_response(self) -> Response<Body> {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason(), "code": self.code.as_u16(),
        });
        let mut response = Response::new(full(status.to_string()));
        *response.status_mut() = self.code;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Serves one connection to its end.
pub(crate) async fn serve<S>(context: Arc<Context>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let context = Arc::clone(&context);
        async move { Ok::<_, Infallible>(answer(context, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of the API server broke");
    }
}

async fn answer(context: Arc<Context>, request: Request<Incoming>) -> Response<Body> {
    route(context, request).await.unwrap_or_else(Refusal::into_response)
}

async fn route(context: Arc<Context>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let path = query::decode_path(request.uri().path())?;
    let words: Vec<&str> = path.iter().map(String::as_str).collect();
    let upgrade_method = matches!(*request.method(), Method::GET | Method::POST);
    match words.as_slice() {
        ["healthz"] => Ok(Response::new(full("ok"))),
        ["metrics", "resource"] => Ok(exposition::resource(&context).await),
        ["metrics", "cadvisor"] => Ok(exposition::cadvisor(&context).await),
        ["stats", "summary"] => {
            let query = query::Query::parse(request.uri().query())?;
            Ok(summary::answer(&context, &query).await)
        }
        ["containerLogs", namespace, pod, container] if *request.method() == Method::GET => {
            logs::answer(&context, namespace, pod, container, request).await
        }
        [verb @ ("exec" | "attach"), namespace, pod, container] if upgrade_method => {
            let place = process::Place { namespace, pod, container, exec: *verb == "exec" };
            process::answer(&context, &place, request).await
        }
        ["portForward", namespace, pod] if upgrade_method => {
            portforward::answer(&context, namespace, pod, request).await
        }
        ["containerLogs" | "exec" | "attach" | "portForward", ..] => {
            Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "the method or path does not fit the verb"))
        }
        _ => Err(Refusal::new(StatusCode::NOT_FOUND, "the node agent has no such path")),
    }
}
