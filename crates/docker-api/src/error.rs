//! Errors on the wire: a status code and `{"message": …}`. The one place that maps the engine's errors.

use dray_engine::Error as EngineError;
use dray_image::Error as ImageError;
use http::{Response, StatusCode};
use serde_json::json;

use crate::body::{self, Body};

pub(crate) type Result<T, E = ApiError> = std::result::Result<T, E>;

/// An error as a client sees it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        if self.status == StatusCode::NOT_MODIFIED {
            return body::empty(self.status);
        }
        let message = json!({ "message": self.message });
        body::json(self.status, &message).unwrap_or_else(|_| body::empty(StatusCode::INTERNAL_SERVER_ERROR))
    }
}

fn image_status(error: &ImageError) -> StatusCode {
    match error {
        ImageError::NotFound { .. } | ImageError::OtherPlatform { .. } => StatusCode::NOT_FOUND,
        ImageError::AmbiguousId { .. }
        | ImageError::InvalidReference { .. }
        | ImageError::InvalidDigest { .. }
        | ImageError::InvalidPlatform { .. }
        | ImageError::InvalidArchive { .. }
        | ImageError::InvalidEntry { .. }
        | ImageError::DigestMismatch { .. } => StatusCode::BAD_REQUEST,
        ImageError::Conflict { .. } => StatusCode::CONFLICT,
        ImageError::Io { .. } | ImageError::Record { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<ImageError> for ApiError {
    fn from(error: ImageError) -> Self {
        EngineError::from(error).into()
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let status = match &error {
            EngineError::NotFound { .. }
            | EngineError::NetworkNotFound { .. }
            | EngineError::NoSuchPath { .. } => StatusCode::NOT_FOUND,
            EngineError::Conflict { .. } => StatusCode::CONFLICT,
            EngineError::Forbidden { .. } => StatusCode::FORBIDDEN,
            EngineError::Invalid { .. } | EngineError::Start { .. } => StatusCode::BAD_REQUEST,
            EngineError::NotModified { .. } => StatusCode::NOT_MODIFIED,
            EngineError::Image(error) => image_status(error),
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let message = match &error {
            EngineError::NotFound { kind: "volume", name } => format!("get {name}: no such volume"),
            // Docker's words, which its CLI searches to choose the exit code.
            EngineError::Start { message, .. } => format!(
                "failed to create task for container: failed to create shim task: OCI runtime create failed: unable to start container process: {message}"
            ),
            error => error.chain(),
        };
        Self { status, message }
    }
}
