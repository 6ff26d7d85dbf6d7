//! Answers: bodies, and errors in the form of the specification.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::exchange::read_file;

/// Pieces of a file that a slow client may be behind.
const AHEAD: usize = 4;

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(crate) type Answer = Result<Response<Body>, Refusal>;

/// Why a request is refused (specification, "Error Codes").
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    headers: Vec<(HeaderName, String)>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), headers: Vec::new() }
    }

    pub(crate) fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn blob_unknown() -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to registry")
    }

    pub(crate) fn manifest_unknown(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", format!("manifest unknown: {what}"))
    }

    pub(crate) fn upload_unknown() -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
    }

    pub(crate) fn digest(text: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "DIGEST_INVALID",
            format!("{text:?} is no sha256 or sha512 digest"),
        )
    }

    pub(crate) fn unsupported(message: &str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", message)
    }

    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        tracing::warn!(%error, "the registry failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "the registry failed; its log tells more")
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let document = json!({ "errors": [{ "code": self.code, "message": self.message, "detail": null }] });
        let mut response = json(self.status, &document, "application/json");
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

impl From<dray_image::Error> for Refusal {
    fn from(error: dray_image::Error) -> Self {
        use dray_image::Error;
        match &error {
            Error::DigestMismatch { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", error.to_string())
            }
            Error::InvalidDigest { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", error.to_string())
            }
            Error::InvalidReference { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "NAME_INVALID", error.to_string())
            }
            error => Self::internal(error),
        }
    }
}

/// An answer with headers and nothing behind them.
pub(crate) fn empty(status: StatusCode, headers: &[(HeaderName, String)]) -> Response<Body> {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name.clone(), value);
        }
    }
    response
}

pub(crate) fn bytes(status: StatusCode, bytes: Bytes, content_type: &str) -> Response<Body> {
    let mut response = Response::new(Full::new(bytes).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    if let Ok(value) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert(CONTENT_TYPE, value);
    }
    response
}

pub(crate) fn json(status: StatusCode, value: &Value, content_type: &str) -> Response<Body> {
    bytes(status, value.to_string().into(), content_type)
}

/// A part of a file.
pub(crate) fn file(status: StatusCode, file: Arc<File>, from: u64, length: u64) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || read_file(&file, from, length, &sender));
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece: io::Result<Bytes>| (piece.map(Frame::data), receiver))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response
}

/// Runs work of the store where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Refusal::internal(&error)),
    }
}
