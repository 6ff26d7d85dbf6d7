//! Bodies of requests and answers.

use std::fmt::Display;
use std::io::{self, Read};

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

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(whole(text.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Result<Response<Body>> {
    let bytes = serde_json::to_vec(value).map_err(|error| ApiError::internal(error.to_string()))?;
    let mut response = Response::new(whole(Bytes::from(bytes)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// An answer that goes on: whoever holds the sender writes it, and a client that has gone closes it.
pub(crate) fn stream(content_type: &'static str) -> (mpsc::Sender<Bytes>, Response<Body>) {
    let (sender, receiver) = mpsc::channel(AHEAD);
    (sender, from_channel(content_type, receiver, Ok))
}

/// An answer that `write` makes. When that fails, the connection breaks: an end like any other would make half an archive
/// look like a whole one.
pub(crate) fn written<F, E>(
    content_type: &'static str,
    write: impl FnOnce(BodyWriter) -> F + Send + 'static,
) -> Response<Body>
where
    F: Future<Output = Result<(), E>> + Send,
    E: Display,
{
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let outcome = write(BodyWriter { sender: sender.clone() }).await.map_err(|error| error.to_string());
        if let Err(error) = outcome {
            tracing::debug!(error, "an answer breaks off");
            let _ = sender.send(Err(io::Error::other(error))).await;
        }
    });
    from_channel(content_type, receiver, |part| part)
}

/// [`written`] by work that blocks.
pub(crate) fn written_by<E: Display + Send + 'static>(
    content_type: &'static str,
    write: impl FnOnce(BodyWriter) -> Result<(), E> + Send + 'static,
) -> Response<Body> {
    written(content_type, |writer| async {
        match tokio::task::spawn_blocking(|| write(writer)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    })
}

fn from_channel<T: Send + 'static>(
    content_type: &'static str,
    receiver: mpsc::Receiver<T>,
    part: fn(T) -> io::Result<Bytes>,
) -> Response<Body> {
    let frames = futures_util::stream::unfold(receiver, move |mut receiver| async move {
        receiver.recv().await.map(|item| (part(item).map(Frame::data), receiver))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
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
            let chunk = chunk.map_err(io::Error::other);
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
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    chunk: Bytes,
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
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
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl io::Write for BodyWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.sender
            .blocking_send(Ok(Bytes::copy_from_slice(buffer)))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
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

    /// What a client reads of an answer, and how it ends.
    async fn read(answer: impl Fn() -> Response<Body> + Send + Sync + 'static) -> (usize, Option<String>) {
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|_| std::future::ready(Ok::<_, io::Error>(answer())));
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(hyper_util::rt::TokioIo::new(far), service).await;
        });
        let io = hyper_util::rt::TokioIo::new(near);
        let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::builder().uri("/").body(Empty::<Bytes>::new()).unwrap();
        let mut body = client.send_request(request).await.unwrap().into_body();
        let mut n = 0;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => n += frame.into_data().unwrap().len(),
                Err(error) => return (n, Some(error.to_string())),
            }
        }
        (n, None)
    }

    #[tokio::test]
    async fn an_archive_that_cannot_be_finished_breaks_the_connection() {
        let answer = |outcome: fn() -> io::Result<()>| {
            move || {
                written_by("application/x-tar", move |mut writer| {
                    io::Write::write_all(&mut writer, &[7; 10_000])?;
                    outcome()
                })
            }
        };
        assert_eq!(read(answer(|| Ok(()))).await, (10_000, None));
        let (n, error) = read(answer(|| Err(io::Error::other("the file is gone")))).await;
        assert!(n <= 10_000 && error.is_some(), "{n} {error:?}");
        let (_, error) = read(answer(|| panic!("a bug"))).await;
        assert!(error.is_some());
    }
}
