//! HTTP to the API server: JSON, watches, and WebSockets.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use super::config::Config;
use crate::{Error, Result};

pub(crate) const JSON: &str = "application/json";
/// Rows as the server would print them.
pub(crate) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection to the API server that is used again and again, and further ones for streams.
pub(crate) struct Client {
    config: Config,
    kept: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

/// A part of a path or a value of a query.
pub(crate) fn encode(text: &str) -> String {
    crate::text::encode(text, b"")
}

impl Client {
    pub(crate) fn new(config: Config) -> Self {
        Self { config, kept: Mutex::new(None) }
    }

    /// The namespace of whoever names none.
    pub(crate) fn namespace(&self) -> &str {
        &self.config.namespace
    }

    async fn connect(&self) -> Result<Box<dyn Stream>> {
        let server = &self.config.server;
        let failed = |source| Error::Connect { host: server.clone(), source };
        let (tls, authority) = match server.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err(Error::invalid("server", format!("{server:?} is no URL"))),
        };
        let authority = authority.split('/').next().unwrap_or(authority);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().unwrap_or(443)),
            _ => (authority, if tls { 443 } else { 80 }),
        };
        let host = host.trim_matches(['[', ']']);
        let tcp = TcpStream::connect((host, port)).await.map_err(failed)?;
        // Small requests must not wait for acknowledgements.
        tcp.set_nodelay(true).map_err(failed)?;
        if !tls {
            return Ok(Box::new(tcp));
        }
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| Error::invalid("server", format!("{host:?}: {error}")))?;
        let stream = TlsConnector::from(self.config.tls.clone()).connect(name, tcp).await;
        Ok(Box::new(stream.map_err(failed)?))
    }

    async fn open(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream = TokioIo::new(self.connect().await?);
        let (sender, connection) =
            http1::handshake(stream).await.map_err(|source| Error::Connection { source })?;
        tokio::spawn(async move {
            // The request itself hears of it when the connection breaks.
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        content_type: &'static str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>> {
        let malformed = |source| Error::Request { what: path.to_owned(), source };
        let mut builder = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "kubernetes")
            .header(header::ACCEPT, accept)
            .header(header::USER_AGENT, concat!("dray/", env!("CARGO_PKG_VERSION")));
        if !content_type.is_empty() {
            builder = builder.header(header::CONTENT_TYPE, content_type);
        }
        if let Some(token) = &self.config.token {
            builder = builder.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        builder.body(Full::new(body)).map_err(malformed)
    }

    /// A request whose answer is JSON, with its status.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        content_type: &'static str,
        body: impl Into<Bytes>,
    ) -> Result<(u16, Value)> {
        let request = self.request(method, path, accept, content_type, body.into())?;
        let mut kept = self.kept.lock().await;
        let mut sender = match kept.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.open().await?,
        };
        let lost = |source| Error::Connection { source };
        sender.ready().await.map_err(lost)?;
        let response = success(sender.send_request(request).await.map_err(lost)?).await?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.map_err(lost)?.to_bytes();
        *kept = Some(sender);
        let value = serde_json::from_slice(&bytes).map_err(|source| Error::Answer { source })?;
        Ok((status, value))
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        Ok(self.send(Method::GET, path, JSON, "", "").await?.1)
    }

    /// A request whose answer goes on and on, on a connection of its own.
    pub(crate) async fn stream(&self, path: &str, accept: &str) -> Result<Incoming> {
        let request = self.request(Method::GET, path, accept, "", Bytes::new())?;
        let mut sender = self.open().await?;
        let response = sender.send_request(request).await.map_err(|source| Error::Connection { source })?;
        Ok(success(response).await?.into_body())
    }

    /// A WebSocket that speaks one of the protocols; the one chosen comes with it.
    pub(crate) async fn websocket(
        &self,
        path: &str,
        protocols: &str,
    ) -> Result<WebSocketStream<Box<dyn Stream>>> {
        use tokio_tungstenite::tungstenite::Error as WebSocketError;
        let mut request = Request::builder()
            .uri(format!("ws://kubernetes{path}"))
            .header(header::HOST, "kubernetes")
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, generate_key())
            .header(header::SEC_WEBSOCKET_PROTOCOL, protocols)
            .body(())
            .map_err(|source| Error::Request { what: path.to_owned(), source })?;
        if let Some(token) = &self.config.token
            && let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}"))
        {
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        let stream = self.connect().await?;
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => Ok(socket),
            Err(WebSocketError::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                Err(refusal(response.status().as_u16(), body))
            }
            Err(WebSocketError::Io(source)) => Err(Error::stream(source)),
            Err(error) => Err(Error::Failed { message: format!("cannot open a stream: {error}") }),
        }
    }
}

async fn success(response: Response<Incoming>) -> Result<Response<Incoming>> {
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(|source| Error::Connection { source })?;
    Err(refusal(status, &body.to_bytes()))
}

/// The server's `Status` as an error.
fn refusal(status: u16, body: &[u8]) -> Error {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = String::from_utf8_lossy(body).trim().to_owned();
    Error::Server {
        status,
        reason: value["reason"].as_str().unwrap_or("UnexpectedServerError").to_owned(),
        message: value["message"].as_str().map_or(text, str::to_owned),
    }
}
