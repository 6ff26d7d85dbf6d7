//! Requests to webhooks: a JSON text goes by POST over TLS to the place that a configuration names, and a JSON text comes
//! back. What the texts say is not known here.
//!
//! A webhook is somebody else's program: how long it takes and how much it answers is bounded. Failures are told in the
//! words that users know from the reference.

use std::time::Duration;

use bytes::Bytes;
use dray_machinery::object;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    passage::dial::{self, Address, Tls, Trust},
    server::{Inner, NodeStream},
};

/// The most that a webhook may answer, in bytes: an object, encoded again, and what changes all of it.
const ANSWER_LIMIT: usize = 16 * 1024 * 1024;
/// The most of an answer that is no success that is told.
const TOLD: usize = 1024;
const TOO_LONG: &str = "context deadline exceeded";

/// Why a webhook gave no answer, in words.
pub(crate) type Failure = String;

/// Where a webhook is.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// What its certificate has to be for.
    name: String,
    /// "NAME:PORT", as the request says it.
    authority: String,
    path: String,
    /// Where it can be reached, one or the other.
    addresses: Vec<Address>,
}

impl Inner {
    /// Sends a text to the webhook of a `clientConfig` and reads its answer.
    pub(crate) async fn call_webhook(
        &self,
        client_config: &Value,
        body: Bytes,
        patience: Duration,
    ) -> Result<Value, Failure> {
        let seconds = patience.as_secs();
        let place = self.place(client_config);
        let url = match &place {
            Ok(place) => format!("https://{}{}?timeout={seconds}s", place.authority, place.path),
            Err((url, _)) => format!("{url}?timeout={seconds}s"),
        };
        let failed = |why: &dyn std::fmt::Display| format!("Post {url:?}: {why}");
        let place = place.map_err(|(_, why)| failed(&why))?;
        let trust = Trust::Bundle(object::text(client_config, &["caBundle"]));
        let config = dial::config(trust, None).map_err(|why| failed(&why))?;
        let tls = Tls { name: place.name, config };
        let work = async {
            let stream = dial::connect(&place.addresses, Some(&tls)).await?;
            let target = format!("{}?timeout={seconds}s", place.path);
            exchange(stream, &place.authority, &target, body).await
        };
        let (status, text) = match timeout(patience, work).await {
            Ok(answered) => answered.map_err(|why| failed(&why))?,
            Err(_) => return Err(failed(&TOO_LONG)),
        };
        if !status.is_success() {
            return Err(unsuccessful(status, &text));
        }
        serde_json::from_slice(&text)
            .map_err(|error| format!("couldn't get version/kind; json parse error: {error}"))
    }

    fn place(&self, client_config: &Value) -> Result<Place, (String, String)> {
        let service = &client_config["service"];
        if !service.is_object() {
            return place_of_url(object::text(client_config, &["url"]));
        }
        let (namespace, name) = (object::text(service, &["namespace"]), object::text(service, &["name"]));
        let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
        let server = format!("{name}.{namespace}.svc");
        let authority = format!("{server}:{port}");
        let path = match object::text(service, &["path"]) {
            "" => "/",
            path => path,
        };
        match self.addresses(namespace, name, port) {
            Ok(addresses) => Ok(Place { name: server, authority, path: path.to_owned(), addresses }),
            Err(why) => Err((format!("https://{authority}{path}"), why)),
        }
    }
}

fn place_of_url(url: &str) -> Result<Place, (String, String)> {
    let wrong = |why: &str| (url.to_owned(), why.to_owned());
    let uri: Uri = url.parse().map_err(|_| wrong("it is no URL"))?;
    let host = uri.host().ok_or_else(|| wrong("no Host in request URL"))?;
    if uri.scheme_str() != Some("https") {
        return Err(wrong("unsupported protocol scheme"));
    }
    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16();
    Ok(Place {
        authority: port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
        path: uri.path().to_owned(),
        addresses: vec![(name.clone(), port.unwrap_or(443))],
        name,
    })
}

async fn exchange(
    stream: Box<dyn NodeStream>,
    authority: &str,
    target: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), String> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.parse().map_err(|_| format!("{target:?} is no path"))?;
    let headers = request.headers_mut();
    let host = HeaderValue::from_str(authority).map_err(|_| format!("{authority:?} is no host"))?;
    headers.insert(header::HOST, host);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, */*"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("dray-admission"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let answering = async {
        let answer =
            sender.send_request(request).await.map_err(|error| match error.is_incomplete_message() {
                true => "EOF".to_owned(),
                false => error.to_string(),
            })?;
        let status = answer.status();
        match Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await {
            Ok(text) => Ok((status, text.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(format!("the answer is longer than {ANSWER_LIMIT} bytes"))
            }
            Err(error) => Err(format!("unexpected error when reading response body: {error}")),
        }
    };
    // Both end with this function: nothing is left of a webhook that does not come to an end.
    tokio::select! {
        biased;
        answered = answering => answered,
        ended = connection => Err(ended.map_or_else(|error| error.to_string(), |()| "EOF".to_owned())),
    }
}

/// What an answer that is no success is told as.
fn unsuccessful(status: StatusCode, text: &[u8]) -> String {
    if let Ok(told) = serde_json::from_slice::<Value>(text)
        && told["kind"] == "Status"
        && let Some(message) = told["message"].as_str()
    {
        return message.chars().take(TOLD).collect();
    }
    let text: String = String::from_utf8_lossy(text).trim().chars().take(TOLD).collect();
    match status.as_u16() {
        404 => "the server could not find the requested resource".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 => text,
        405 => "the server does not allow this method on the requested resource".to_owned(),
        code if code >= 500 => {
            let text = if text.is_empty() { "unknown".to_owned() } else { text };
            format!("an error on the server ({text:?}) has prevented the request from succeeding")
        }
        _ => "the server rejected our request for an unknown reason".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_places() {
        let place = |name: &str, authority: &str, path: &str, port| Place {
            name: name.to_owned(),
            authority: authority.to_owned(),
            path: path.to_owned(),
            addresses: vec![(name.to_owned(), port)],
        };
        for (url, expected) in [
            ("https://example.com", place("example.com", "example.com", "/", 443)),
            ("https://127.0.0.1:8443/a/b", place("127.0.0.1", "127.0.0.1:8443", "/a/b", 8443)),
            ("https://[::1]:8443/a", place("::1", "[::1]:8443", "/a", 8443)),
        ] {
            assert_eq!(place_of_url(url), Ok(expected), "{url}");
        }
        for url in ["http://example.com", "/path", "https://"] {
            assert!(place_of_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn what_is_no_success_is_told_as_clients_of_the_reference_do() {
        for (code, text, expected) in [
            (404, "", "the server could not find the requested resource"),
            (500, "oops\n", "an error on the server (\"oops\") has prevented the request from succeeding"),
            (502, "", "an error on the server (\"unknown\") has prevented the request from succeeding"),
            (400, r#"{"kind":"Status","message":"no"}"#, "no"),
            (301, "", "the server rejected our request for an unknown reason"),
        ] {
            let code = StatusCode::from_u16(code).unwrap();
            assert_eq!(unsuccessful(code, text.as_bytes()), expected);
        }
    }
}
