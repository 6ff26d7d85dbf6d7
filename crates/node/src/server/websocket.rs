//! The WebSocket handshake (RFC 6455, 4.2), and what comes after it.

use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};

use super::{Body, Refusal, full};

/// Longest message that is taken, in bytes.
const LONGEST_MESSAGE: usize = 4 << 20;

pub(super) type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// A handshake that was agreed on.
pub(super) struct Handshake {
    /// What goes through the socket, as the list of supported ones names it.
    pub(super) protocol: &'static str,
    response: Response<Body>,
    upgrade: OnUpgrade,
}

impl Handshake {
    /// The socket, once the answer has been sent.
    pub(super) async fn socket(self) -> Option<Socket> {
        match self.upgrade.await {
            Ok(upgraded) => {
                let config = WebSocketConfig::default()
                    .max_message_size(Some(LONGEST_MESSAGE))
                    .max_frame_size(Some(LONGEST_MESSAGE));
                let stream = TokioIo::new(upgraded);
                Some(WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await)
            }
            Err(error) => {
                tracing::debug!(%error, "an upgrade came to nothing");
                None
            }
        }
    }

    /// Gives the answer out; the rest can be turned into a socket.
    pub(super) fn take_response(&mut self) -> Response<Body> {
        std::mem::replace(&mut self.response, Response::new(full(Bytes::new())))
    }
}

/// The words of a header, whether they come in one or in several.
pub(super) fn tokens(headers: &HeaderMap, name: header::HeaderName) -> Vec<&str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).collect()
}

pub(super) fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    tokens(headers, name).iter().any(|word| word.eq_ignore_ascii_case(token))
}

/// Whether the client offers this protocol.
pub(super) fn offers(headers: &HeaderMap, protocol: &str) -> bool {
    has_token(headers, header::SEC_WEBSOCKET_PROTOCOL, protocol)
}

/// Whether a request is a handshake.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    has_token(headers, header::UPGRADE, "websocket") && has_token(headers, header::CONNECTION, "upgrade")
}

/// Agrees on a protocol: of those that the client offers the first that is supported. One without a name is for clients that offer
/// nothing.
///
/// # Errors
/// 400 when it is no handshake, or no protocol fits.
pub(super) fn accept(
    request: &mut Request<Incoming>,
    supported: &[&'static str],
) -> Result<Handshake, Refusal> {
    let headers = request.headers();
    if !is_wanted(headers) {
        return Err(Refusal::bad_request("Upgrade request required"));
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| Refusal::bad_request("the WebSocket handshake has no key"))?
        .clone();
    let offered = tokens(headers, header::SEC_WEBSOCKET_PROTOCOL);
    let offered = if offered.is_empty() { vec![""] } else { offered };
    let protocol =
        offered.iter().find_map(|offer| supported.iter().find(|known| *known == offer)).copied().ok_or_else(
            || {
                Refusal::bad_request(format!(
                    "unable to upgrade: none of the protocols {offered:?} is supported, only {supported:?}"
                ))
            },
        )?;
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "Upgrade")
        .header(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()));
    if !protocol.is_empty() {
        response = response.header(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    let response = response
        .body(full(Bytes::new()))
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(Handshake { protocol, response, upgrade: hyper::upgrade::on(request) })
}
