//! HTTP to the daemon over its socket.

use std::env;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::{Error, Result};

const DEFAULT_HOST: &str = "unix:///run/dray/docker.sock";
/// The version of the API that this client speaks.
const VERSION: &str = "/v1.44";

/// A request's body.
pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// Where the daemon is. Each request has a connection of its own: they cost nothing on a socket of this host.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    host: String,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A body that is there already.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// Makes a part of a path or a value of a query out of any text. Names of images keep their slashes and colons.
pub(crate) fn encode(text: &str) -> String {
    crate::text::encode(text, b":/")
}

/// Builds a query out of what is not empty.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<_> = pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

impl Client {
    pub(crate) fn new(host: Option<&str>) -> Self {
        let host = host.map(str::to_owned).or_else(|| env::var("DOCKER_HOST").ok());
        Self { host: host.filter(|host| !host.is_empty()).unwrap_or_else(|| DEFAULT_HOST.to_owned()) }
    }

    async fn connect(&self) -> Result<Box<dyn Stream>> {
        let failed = |source| Error::Connect { host: self.host.clone(), source };
        if let Some(path) = self.host.strip_prefix("unix://") {
            return Ok(Box::new(UnixStream::connect(path).await.map_err(failed)?));
        }
        if let Some(address) = self.host.strip_prefix("tcp://") {
            return Ok(Box::new(TcpStream::connect(address).await.map_err(failed)?));
        }
        Err(Error::Host { host: self.host.clone() })
    }

    /// Sends a request and answers its response, whatever its status.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Response<Incoming>> {
        let connection = TokioIo::new(self.connect().await?);
        let lost = |source| Error::Connection { source };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Body>(connection).await.map_err(lost)?;
        tokio::spawn(async move {
            // The request itself hears of it when the connection breaks.
            let _ = connection.with_upgrades().await;
        });
        let mut request = Request::new(body);
        *request.method_mut() = method;
        let uri = format!("{VERSION}{path}");
        *request.uri_mut() = uri
            .parse()
            .map_err(|source: http::uri::InvalidUri| Error::Request { what: uri, source: source.into() })?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(header::HOST, http::HeaderValue::from_static("docker"));
        sender.send_request(request).await.map_err(lost)
    }

    /// Sends a request; an answer that is no success becomes an error with what the daemon said.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Body,
    ) -> Result<Response<Incoming>> {
        let mut headers = HeaderMap::new();
        if !content_type.is_empty() {
            headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
        }
        self.send_with(method, path, headers, body).await
    }

    /// Sends a request with headers of its own; an answer that is no success becomes an error with what the daemon said.
    pub(crate) async fn send_with(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Response<Incoming>> {
        let response = self.exchange(method, path, headers, body).await?;
        success(response).await
    }

    /// A request whose answer is JSON.
    pub(crate) async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let (content_type, body) = match body {
            Some(value) => ("application/json", full(value.to_string())),
            None => ("", full("")),
        };
        let response = self.send(method, path, content_type, body).await?;
        let bytes = collect(response.into_body()).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|source| Error::Answer { source })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.json(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str) -> Result<Value> {
        self.json(Method::POST, path, None).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Value> {
        self.json(Method::DELETE, path, None).await
    }

    /// A request whose connection becomes a raw stream.
    pub(crate) async fn hijack(&self, path: &str, body: Option<&Value>) -> Result<TokioIo<Upgraded>> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, http::HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, http::HeaderValue::from_static("tcp"));
        headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        let body = full(body.map(Value::to_string).unwrap_or_default());
        let response = self.exchange(Method::POST, path, headers, body).await?;
        let response = success(response).await?;
        let upgraded = hyper::upgrade::on(response).await.map_err(|source| Error::Connection { source })?;
        Ok(TokioIo::new(upgraded))
    }
}

async fn success(response: Response<Incoming>) -> Result<Response<Incoming>> {
    let status = response.status();
    if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS || status == StatusCode::NOT_MODIFIED
    {
        return Ok(response);
    }
    let bytes = collect(response.into_body()).await?;
    let text = String::from_utf8_lossy(&bytes);
    let message = serde_json::from_slice::<Value>(&bytes)
        .ok()
        .and_then(|value| value["message"].as_str().map(str::to_owned))
        .unwrap_or_else(|| text.trim().to_owned());
    Err(Error::Daemon { status: status.as_u16(), message })
}

async fn collect(body: Incoming) -> Result<Bytes> {
    Ok(body.collect().await.map_err(|source| Error::Connection { source })?.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_holds_what_is_not_empty() {
        assert_eq!(query(&[("name", "a b"), ("no", ""), ("t", "x:1/y")]), "?name=a%20b&t=x:1/y");
        assert_eq!(query(&[("no", "")]), "");
    }
}
