//! The WebSocket form of attach (RFC 6455): what the process writes goes out as messages, its streams as one.

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, future};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use crate::body::{self, Body};
use crate::error::{ApiError, Result};
use crate::hijack::{self, DetachKeys, Session};

/// Longest message that is taken, in bytes.
const LONGEST_MESSAGE: usize = 4 << 20;
/// The one version of the protocol.
const VERSION: &str = "13";
/// How long a client is given to answer the end.
const LINGER: Duration = Duration::from_secs(1);

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case(token))
}

/// The answer to a handshake.
///
/// # Errors
/// 400 when it is none.
pub(crate) fn accept(headers: &HeaderMap) -> Result<Response<Body>> {
    if !has_token(headers, header::CONNECTION, "upgrade") || !has_token(headers, header::UPGRADE, "websocket")
    {
        return Err(ApiError::bad_request("not websocket protocol"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != VERSION) {
        return Err(ApiError::bad_request(format!("missing or bad WebSocket version: it is {VERSION}")));
    }
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        return Err(ApiError::bad_request("missing WebSocket key"));
    };
    let accepted = HeaderValue::try_from(derive_accept_key(key.as_bytes()));
    let accepted = accepted.map_err(|error| ApiError::internal(error.to_string()))?;
    let mut response = body::empty(StatusCode::SWITCHING_PROTOCOLS);
    let answer = response.headers_mut();
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, accepted);
    // The bytes mean the same by any name, and a browser that gives one expects it back.
    let offered = headers.get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|offered| offered.to_str().ok());
    let first = offered.and_then(|offered| offered.split(',').next()).map(str::trim);
    if let Some(protocol) = first.and_then(|first| HeaderValue::try_from(first).ok()) {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response)
}

/// What messages are that carry output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Binary,
    /// What clients before version 1.28 expect. Bytes that are no text are replaced.
    Text,
}

impl Kind {
    fn message(self, bytes: Bytes) -> Message {
        match self {
            Self::Binary => Message::Binary(bytes),
            Self::Text => Message::Text(String::from_utf8_lossy(&bytes).as_ref().into()),
        }
    }
}

/// Joins a client whose handshake was accepted with what `connect` gives, in the background.
pub(crate) fn serve(
    mut request: Request<Incoming>,
    kind: Kind,
    keys: Option<DetachKeys>,
    connect: impl Future<Output = Option<Session>> + Send + 'static,
) {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                let (client, gone) = match hijack::client(upgraded) {
                    Ok(client) => client,
                    Err(error) => {
                        tracing::warn!(%error, "cannot watch a client's connection");
                        return;
                    }
                };
                // A container may be joined long before it is started.
                let session = tokio::select! {
                    session = connect => session,
                    () = gone => return,
                };
                if let Some(session) = session {
                    speak(client, kind, session, keys).await;
                }
            }
            Err(error) => tracing::debug!(%error, "a client did not go on with its upgrade"),
        }
    });
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    kind: Kind,
    session: Session,
    keys: Option<DetachKeys>,
) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(LONGEST_MESSAGE))
        .max_frame_size(Some(LONGEST_MESSAGE));
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let (sink, messages) = socket.split();
    let messages = messages.filter_map(|message| {
        future::ready(match message {
            Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
            Ok(Message::Text(text)) => Some(Ok(Bytes::from(text))),
            // A ping is answered and an end comes back without our doing.
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_)) => None,
            Err(error) => Some(Err(io::Error::other(error))),
        })
    });
    let sink = sink
        .with(|bytes| future::ready(Ok(kind.message(bytes))))
        .sink_map_err(|error: tokio_tungstenite::tungstenite::Error| io::Error::other(error));
    let mut from_client = StreamReader::new(messages);
    let mut to_client = SinkWriter::new(CopyToBytes::new(sink));
    hijack::join(&mut from_client, &mut to_client, session, keys, future::ready(()), future::ready(())).await;
    // The end has been sent: it is the client's to answer it, and ours to close the connection then.
    let answered = async {
        let mut buffer = [0; 1024];
        while let Ok(1..) = from_client.read(&mut buffer).await {}
    };
    let _ = tokio::time::timeout(LINGER, answered).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_is_answered_as_the_specification_says() {
        let mut headers = HeaderMap::new();
        assert_eq!(accept(&headers).unwrap_err().status, StatusCode::BAD_REQUEST);
        headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("WebSocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"));
        headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("a, b"));
        assert!(accept(&headers).unwrap_err().message.contains("version"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        let answer = accept(&headers).unwrap();
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        // The example of RFC 6455, 1.3.
        assert_eq!(answer.headers()[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.headers()[header::SEC_WEBSOCKET_PROTOCOL], "a");
        headers.remove(header::SEC_WEBSOCKET_KEY);
        assert!(accept(&headers).unwrap_err().message.contains("key"));
    }
}
