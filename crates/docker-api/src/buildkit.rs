//! `POST /grpc` and `POST /session`: connections that become BuildKit's.

use dray_buildkit::Error as BuildKitError;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;

use crate::Api;
use crate::body::{self, Body};
use crate::error::{ApiError, Result};
use crate::query::Query;

/// HTTP/2 from the first byte on, as clients call it.
const PROTOCOL: &str = "h2c";

impl From<BuildKitError> for ApiError {
    fn from(error: BuildKitError) -> Self {
        let status = match error {
            BuildKitError::Conflict { .. } => StatusCode::CONFLICT,
            BuildKitError::Request { .. } => StatusCode::BAD_REQUEST,
            BuildKitError::Connection { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

/// Ends a build by its name.
pub(crate) fn cancel(api: &Api, query: &Query) -> Result<Response<Body>> {
    let id = query.non_empty("id").ok_or_else(|| ApiError::bad_request("build ID not provided"))?;
    api.buildkit.cancel(id);
    Ok(body::empty(StatusCode::OK))
}

/// Opens a session, on which the daemon asks and the client answers.
pub(crate) async fn session(api: &Api, request: Request<Incoming>) -> Result<Response<Body>> {
    if let Err(error) = api.buildkit.check_session(request.headers()) {
        return body::refuse(request.into_body(), error.into()).await;
    }
    let (buildkit, headers) = (api.buildkit.clone(), request.headers().clone());
    upgraded(request, async move |connection| buildkit.serve_session(&headers, connection).await).await
}

/// Opens a connection on which the client asks and the daemon answers.
pub(crate) async fn calls(api: &Api, request: Request<Incoming>) -> Result<Response<Body>> {
    let buildkit = api.buildkit.clone();
    upgraded(request, async move |connection| buildkit.serve_calls(connection).await).await
}

/// Answers with the upgrade, and serves what comes after it.
async fn upgraded<F>(
    mut request: Request<Incoming>,
    serve: impl FnOnce(Upgraded) -> F + Send + 'static,
) -> Result<Response<Body>>
where
    F: Future<Output = Result<(), BuildKitError>> + Send,
{
    let asked = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if asked != Some(PROTOCOL) {
        let error = match asked {
            None => ApiError::bad_request(format!("no upgrade in the request: ask for {PROTOCOL}")),
            Some(other) => {
                ApiError::bad_request(format!("protocol {other} is not supported: ask for {PROTOCOL}"))
            }
        };
        return body::refuse(request.into_body(), error).await;
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => {
                if let Err(error) = serve(connection).await {
                    tracing::debug!(%error, "a connection of BuildKit's ended badly");
                }
            }
            Err(error) => tracing::debug!(%error, "a client did not go on with its upgrade"),
        }
    });
    let mut response = body::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    Ok(response)
}
