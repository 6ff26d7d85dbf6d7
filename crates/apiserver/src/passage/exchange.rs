//! One request over a connection, and what comes back: an answer, or the connection itself where both sides change the
//! protocol. Here is also which headers go on to others, and which never do.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper::{body::Incoming, client::conn::http1, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;

use crate::{
    body::{self, ResponseBody},
    respond::Answer,
    server::NodeStream,
};

/// What is for the next on the way only (RFC 9110, 7.6.1), beside what `Connection` names.
const NEXT_ONLY: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What tells, or claims to tell, who asks: this server alone reads it.
const WHO_ASKS: [&str; 3] = ["authorization", "impersonate-", "x-remote-"];
/// A token that a browser sends along with the protocols of a WebSocket.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// An answer that has begun.
pub(crate) struct Exchange {
    pub(crate) answer: Response<Incoming>,
    sender: http1::SendRequest<ResponseBody>,
}

/// Sends a request over a connection of its own.
pub(crate) async fn send(
    stream: Box<dyn NodeStream>,
    request: Request<ResponseBody>,
) -> Result<Exchange, hyper::Error> {
    let mut builder = http1::Builder::new();
    // Names of headers are the same however they are written, but not to every small server.
    builder.title_case_headers(true);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to another server ended");
        }
    });
    let answer = sender.send_request(request).await?;
    Ok(Exchange { answer, sender })
}

impl Exchange {
    /// Joins the two connections once both have changed the protocol.
    pub(crate) fn join(mut self, upgrade: OnUpgrade) -> Answer {
        let theirs = hyper::upgrade::on(&mut self.answer);
        let mut answer = Answer::new(body::full(""));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let protocol = self.answer.headers().get(header::UPGRADE).cloned();
        *answer.headers_mut() = std::mem::take(self.answer.headers_mut());
        strip(answer.headers_mut());
        ask_upgrade(answer.headers_mut(), protocol);
        let sender = self.sender;
        tokio::spawn(async move {
            // The sender keeps the connection's driver alive until both sides have been upgraded.
            let (client, server) = match tokio::try_join!(upgrade, theirs) {
                Ok(both) => both,
                Err(error) => {
                    tracing::debug!(%error, "an upgrade came to nothing");
                    return;
                }
            };
            drop(sender);
            let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut server).await {
                tracing::debug!(%error, "a stream to another server broke");
            }
        });
        answer
    }
}

/// The protocol that a request wants to change to.
pub(crate) fn wanted_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let asks = asks.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| asks).cloned()
}

/// Says that the protocol changes.
pub(crate) fn ask_upgrade(headers: &mut HeaderMap, protocol: Option<HeaderValue>) {
    if let Some(protocol) = protocol {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
}

/// Takes away what is for the next on the way only.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in NEXT_ONLY.iter().chain(&named) {
        headers.remove(name);
    }
}

/// The headers of a request that go on to another server.
pub(crate) fn outgoing(given: &HeaderMap) -> HeaderMap {
    let protocol = wanted_protocol(given);
    let mut headers = given.clone();
    strip(&mut headers);
    ask_upgrade(&mut headers, protocol);
    // This server has said already that it takes the body.
    headers.remove(header::EXPECT);
    let secret: Vec<HeaderName> = headers
        .keys()
        .filter(|name| WHO_ASKS.iter().any(|start| name.as_str().starts_with(start)))
        .cloned()
        .collect();
    for name in secret {
        headers.remove(name);
    }
    drop_tokens(&mut headers);
    join_cookies(&mut headers);
    headers
}

fn drop_tokens(headers: &mut HeaderMap) {
    let name = header::SEC_WEBSOCKET_PROTOCOL;
    let given: Vec<String> =
        headers.get_all(&name).iter().filter_map(|value| value.to_str().ok().map(str::to_owned)).collect();
    if !given.iter().any(|value| value.contains(TOKEN_PROTOCOL)) {
        return;
    }
    headers.remove(&name);
    let kept: Vec<&str> = given
        .iter()
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|protocol| !protocol.starts_with(TOKEN_PROTOCOL))
        .collect();
    if let Some(value) = HeaderValue::from_str(&kept.join(", ")).ok().filter(|value| !value.is_empty()) {
        headers.insert(name, value);
    }
}

/// HTTP/2 sends cookies one by one, HTTP/1.1 has one header of them.
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() < 2 {
        return;
    }
    let joined = HeaderValue::from_bytes(&cookies.join(&b"; "[..]));
    if let Ok(joined) = joined {
        headers.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn only_what_is_meant_for_the_other_goes_on() {
        for (given, expected) in [
            (&[("accept", "a"), ("x-own", "b")][..], &[("accept", "a"), ("x-own", "b")][..]),
            (&[("connection", "close, x-hop"), ("x-hop", "1"), ("te", "trailers")], &[]),
            (&[("transfer-encoding", "chunked"), ("keep-alive", "5"), ("expect", "100-continue")], &[]),
            (&[("proxy-authorization", "Basic x"), ("proxy-connection", "keep-alive")], &[]),
            // Who asks is not told, and nobody is somebody by saying so.
            (&[("authorization", "Bearer x"), ("impersonate-user", "a"), ("impersonate-extra-k", "v")], &[]),
            (
                &[
                    ("x-remote-user", "admin"),
                    ("x-remote-group", "system:masters"),
                    ("x-remote-extra-a", "b"),
                ],
                &[],
            ),
            (&[("upgrade", "h2c")], &[]),
            (
                &[
                    ("connection", "keep-alive, Upgrade"),
                    ("upgrade", "websocket"),
                    ("sec-websocket-key", "k"),
                ],
                &[("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "k")],
            ),
            (
                &[("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.dG9rZW4, chat")],
                &[("sec-websocket-protocol", "chat")],
            ),
            (&[("cookie", "a=1"), ("cookie", "b=2")], &[("cookie", "a=1; b=2")]),
        ] {
            assert_eq!(outgoing(&headers(given)), headers(expected), "{given:?}");
        }
    }
}
