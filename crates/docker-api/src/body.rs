//! Bodies of requests and answers.

use std::convert::Infallible;
use std::io::Read;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::error::{ApiError, Result};

/// Chunks that a slow client may be behind.
const AHEAD: usize = 32;
/// What is taken of a body that nobody wants any more, in bytes.
const DISCARDED: usize = 64 << 20;
/// Largest JSON document that is read.
const JSON_LIMIT: usize = 16 << 20;

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Empty::new().boxed_unsync());
    *response.status_mut() = status;
    response
}

pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Result<Response<Body>> {
    let bytes = serde_json::to_vec(value).map_err(|error| ApiError::internal(error.to_string()))?;
    let mut response = Response::new(Full::new(Bytes::from(bytes)).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// An answer that goes on: whoever holds the sender writes it, and a client that has gone closes it.
pub(crate) fn stream(content_type: &'static str) -> (mpsc::Sender<Bytes>, Response<Body>) {
    let (sender, receiver) = mpsc::channel::<Bytes>(AHEAD);
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|bytes| (Ok::<_, Infallible>(Frame::data(bytes)), receiver))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    (sender, response)
}

/// The whole body, as long as it is not larger than a JSON document may be.
pub(crate) async fn read_all(body: Incoming) -> Result<Bytes> {
    let mut all = BytesMut::new();
    let mut stream = body.into_data_stream();
    while let Some(chunk) = stream.next().await {
        let chunk =
            chunk.map_err(|error| ApiError::bad_request(format!("cannot read the request: {error}")))?;
        if all.len() + chunk.len() > JSON_LIMIT {
            return Err(ApiError::bad_request("the request body is too large"));
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

/// The body as JSON; an empty one is the default.
pub(crate) async fn read_json<T: DeserializeOwned + Default>(body: Incoming) -> Result<T> {
    let bytes = read_all(body).await?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    parse_json(&bytes)
}

/// An error as the answer to a request whose body nobody asks for. It is read all the same: a client that is still writing
/// would see the end of its connection instead of the error.
pub(crate) async fn refuse(body: Incoming, error: ApiError) -> Result<Response<Body>> {
    let _ = read_all(body).await;
    Err(error)
}

/// Reads a JSON document; the error is in the words of Go's parser, which scripts know.
pub(crate) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::bad_request(format!("invalid JSON: {}", in_go_words(bytes, &error))))
}

fn in_go_words(bytes: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected EOF".to_owned();
    }
    if !error.is_syntax() {
        return error.to_string();
    }
    // The position is that of the last byte that was read, from one.
    let line = bytes.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let found = line.get(error.column().saturating_sub(1)).copied().map_or(' ', char::from);
    let text = error.to_string();
    let place = [
        ("key must be a string", "looking for beginning of object key string"),
        ("expected `:`", "after object key"),
        ("expected `,` or `}`", "after object key:value pair"),
        ("expected `,` or `]`", "after array element"),
        ("trailing characters", "after top-level value"),
        ("control character", "in string literal"),
        ("invalid escape", "in string escape code"),
    ];
    let place = place.iter().find(|(words, _)| text.starts_with(words));
    format!("invalid character {found:?} {}", place.map_or("looking for beginning of value", |(_, go)| go))
}

/// The body as a blocking reader, for work that goes on elsewhere. When it is dropped early, some of what is left is
/// still taken: a client that writes while the answer comes would see a broken connection instead of the answer.
pub(crate) fn reader(body: Incoming) -> impl Read + Send + 'static {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let mut stream = body.into_data_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(std::io::Error::other);
            let failed = chunk.is_err();
            if sender.send(chunk).await.is_err() {
                break;
            }
            if failed {
                return;
            }
        }
        let mut left = DISCARDED;
        while let Some(Ok(chunk)) = stream.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                return;
            }
        }
    });
    BodyReader { receiver, chunk: Bytes::new() }
}

struct BodyReader {
    receiver: mpsc::Receiver<std::io::Result<Bytes>>,
    chunk: Bytes,
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

/// A blocking writer into an answer that goes on.
pub(crate) struct BodyWriter {
    pub(crate) sender: mpsc::Sender<Bytes>,
}

impl std::io::Write for BodyWriter {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.sender
            .blocking_send(Bytes::copy_from_slice(buffer))
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_json_is_told_in_gos_words() {
        let words = |text: &str| parse_json::<serde_json::Value>(text.as_bytes()).unwrap_err().message;
        for (text, expected) in [
            ("{x", "invalid character 'x' looking for beginning of object key string"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{} y", "invalid character 'y' after top-level value"),
            ("{\"a\":", "unexpected EOF"),
        ] {
            assert_eq!(words(text), format!("invalid JSON: {expected}"), "{text}");
        }
    }
}
