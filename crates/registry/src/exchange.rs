//! One request and its answer: bodies, time limits, the errors of registries.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap, LOCATION};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::connect::{HttpClient, RequestBody};
use crate::{Error, Result};

/// Bytes of the longest error document that is read.
const ERROR_LIMIT: usize = 64 << 10;
/// Bytes of one piece of a file that is sent.
const PIECE: usize = 256 << 10;
/// Pieces that are read ahead.
const AHEAD: usize = 8;

/// Told of the bytes of a file that are on their way.
pub(crate) type Sent = Arc<dyn Fn(u64) + Send + Sync>;

/// What is sent; it can be sent again.
#[derive(Clone)]
pub(crate) enum Payload {
    Nothing,
    Bytes(Bytes),
    File { file: Arc<File>, from: u64, length: u64, sent: Sent },
}

impl Payload {
    pub(crate) fn length(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { length, .. } => *length,
        }
    }

    fn body(&self) -> RequestBody {
        match self.clone() {
            Self::Nothing => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            Self::Bytes(bytes) => Full::new(bytes).map_err(|never| match never {}).boxed_unsync(),
            Self::File { file, from, length, sent } => {
                let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(AHEAD);
                tokio::task::spawn_blocking(move || read_file(&file, from, length, &sender));
                let frames =
                    futures_util::stream::unfold((receiver, sent), |(mut receiver, sent)| async move {
                        let piece = receiver.recv().await?;
                        if let Ok(bytes) = &piece {
                            sent(bytes.len() as u64);
                        }
                        Some((piece.map(Frame::data), (receiver, sent)))
                    });
                StreamBody::new(frames).boxed_unsync()
            }
        }
    }
}

pub(crate) fn read_file(file: &File, from: u64, length: u64, sender: &mpsc::Sender<io::Result<Bytes>>) {
    let end = from + length;
    let mut at = from;
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
        let mut piece = vec![0; wanted];
        let read = file.read_exact_at(&mut piece, at).map(|()| Bytes::from(piece));
        let failed = read.is_err();
        if sender.blocking_send(read).is_err() || failed {
            return;
        }
        at += wanted as u64;
    }
}

/// Sends a request to an address and waits for the head of its answer.
pub(crate) async fn send(
    client: &HttpClient,
    method: &Method,
    url: &str,
    headers: &HeaderMap,
    payload: &Payload,
    patience: Duration,
) -> Result<Response<Incoming>> {
    let wrong = |why: String| Error::Protocol { registry: url.to_owned(), why };
    let mut request = Request::new(payload.body());
    *request.method_mut() = method.clone();
    *request.uri_mut() = url.parse().map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
    request.headers_mut().clone_from(headers);
    if !matches!(*method, Method::GET | Method::HEAD) {
        request.headers_mut().insert(CONTENT_LENGTH, payload.length().into());
    }
    let sending = client.request(request);
    let answered = if matches!(payload, Payload::File { .. }) {
        // It takes as long as it takes to send; who watches what is sent ends it.
        sending.await
    } else {
        match tokio::time::timeout(patience, sending).await {
            Ok(answered) => answered,
            Err(_) => {
                return Err(Error::Interrupted { url: url.to_owned(), why: "no answer came".to_owned() });
            }
        }
    };
    answered.map_err(|error| {
        if error.is_connect() {
            return Error::Connect { url: url.to_owned(), source: cause(error) };
        }
        Error::Interrupted { url: url.to_owned(), why: chain(&error) }
    })
}

/// What lies at the bottom of an error that the client wraps.
fn cause(error: hyper_util::client::legacy::Error) -> Box<dyn std::error::Error + Send + Sync> {
    let text = chain(&error);
    // `client error (Connect)` says no more than we do.
    text.split_once(": ").map_or_else(|| text.clone(), |(_, rest)| rest.to_owned()).into()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// The next piece of a body; none at its end.
pub(crate) async fn next_piece(body: &mut Incoming, url: &str, patience: Duration) -> Result<Option<Bytes>> {
    let broken = |why: String| Error::Interrupted { url: url.to_owned(), why };
    loop {
        let frame = match tokio::time::timeout(patience, body.frame()).await {
            Err(_) => return Err(broken("nothing came for too long".to_owned())),
            Ok(None) => return Ok(None),
            Ok(Some(frame)) => frame.map_err(|error| broken(chain(&error)))?,
        };
        if let Ok(bytes) = frame.into_data()
            && !bytes.is_empty()
        {
            return Ok(Some(bytes));
        }
    }
}

/// A whole body of not more than `limit` bytes.
pub(crate) async fn read_all(
    mut body: Incoming,
    url: &str,
    limit: usize,
    patience: Duration,
) -> Result<Bytes> {
    let mut all = BytesMut::new();
    while let Some(piece) = next_piece(&mut body, url, patience).await? {
        if all.len() + piece.len() > limit {
            let why = format!("its answer is larger than {limit} bytes");
            return Err(Error::Protocol { registry: url.to_owned(), why });
        }
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<OneError>,
    #[serde(default)]
    details: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The error that an answer is.
pub(crate) async fn failure(response: Response<Incoming>, registry: &str, patience: Duration) -> Error {
    let status = response.status();
    let body = read_all(response.into_body(), registry, ERROR_LIMIT, patience).await.unwrap_or_default();
    let parsed: Option<Errors> = serde_json::from_slice(&body).ok();
    let reason = status.canonical_reason().unwrap_or("error").to_ascii_lowercase();
    let first = parsed.as_ref().and_then(|parsed| parsed.errors.first());
    let clean = |text: &str| text.chars().filter(|c| !c.is_control()).take(1024).collect::<String>();
    let code = first.map(|error| clean(&error.code.to_ascii_lowercase().replace('_', " ")));
    let code = code.filter(|code| !code.is_empty()).unwrap_or_else(|| reason.clone());
    let told = first.map(|error| error.message.clone());
    let told = told.or_else(|| parsed.and_then(|parsed| parsed.details.or(parsed.message)));
    let message = told.map(|told| clean(&told)).filter(|told| !told.is_empty()).unwrap_or(reason);
    match status {
        StatusCode::UNAUTHORIZED => Error::Unauthorized { registry: registry.to_owned(), message },
        StatusCode::FORBIDDEN => Error::Denied { message },
        StatusCode::NOT_FOUND => Error::NotFound { code, message },
        status => Error::Refused { status, code, message },
    }
}

/// Where an answer leads: its `Location`, resolved against the address that was asked.
pub(crate) fn location(headers: &HeaderMap, asked: &str) -> Option<String> {
    let location = headers.get(LOCATION)?.to_str().ok()?;
    if location.starts_with("http://") || location.starts_with("https://") {
        return Some(location.to_owned());
    }
    let (scheme, rest) = asked.split_once("://")?;
    if let Some(rest) = location.strip_prefix("//") {
        return Some(format!("{scheme}://{rest}"));
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if location.starts_with('/') {
        return Some(format!("{scheme}://{authority}{location}"));
    }
    let path = path.split('?').next().unwrap_or_default();
    if location.starts_with('?') {
        return Some(format!("{scheme}://{authority}/{path}{location}"));
    }
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let slash = if directory.is_empty() { "" } else { "/" };
    Some(format!("{scheme}://{authority}/{directory}{slash}{location}"))
}

/// Scheme and authority of an address, by which it is told whether credentials may go there.
pub(crate) fn origin(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    Some((scheme, &rest[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved() {
        let asked = "https://a.example:5/v2/x/blobs/uploads/?mount=1";
        for (location_header, expected) in [
            ("/v2/u?s=1", "https://a.example:5/v2/u?s=1"),
            ("http://b/c", "http://b/c"),
            ("//b/c", "https://b/c"),
            ("next", "https://a.example:5/v2/x/blobs/uploads/next"),
            ("?s=2", "https://a.example:5/v2/x/blobs/uploads/?s=2"),
        ] {
            let headers = HeaderMap::from_iter([(LOCATION, location_header.parse().unwrap())]);
            assert_eq!(location(&headers, asked).as_deref(), Some(expected), "{location_header}");
        }
        assert_eq!(origin(asked), Some(("https", "a.example:5")));
    }
}
