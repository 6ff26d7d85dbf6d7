//! `GET /containerLogs/NAMESPACE/POD/CONTAINER`, as a body or as the messages of a WebSocket.

use std::pin::pin;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use dray_engine::{LogLine, LogOptions, LogStream};
use futures_util::{SinkExt as _, Stream, StreamExt as _, TryStreamExt as _};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use jiff::{SignedDuration, Timestamp};

use tokio_tungstenite::tungstenite::Message;

use super::query::Query;
use super::websocket::{self, Socket};
use super::{Body, Refusal, find};
use crate::context::Context;

/// How the text is sent to those who ask for a WebSocket.
const PROTOCOLS: &[&str] = &["binary.k8s.io", "base64.binary.k8s.io", ""];

/// What is asked of a log.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail: Option<usize>,
    since: Option<Timestamp>,
    limit: Option<u64>,
    stdout: bool,
    stderr: bool,
}

impl Wanted {
    fn parse(query: &Query) -> Result<Self, Refusal> {
        let since_seconds = query.number("sinceSeconds")?;
        let since_time = query.get("sinceTime").filter(|text| !text.is_empty());
        let since = match (since_seconds, since_time) {
            (Some(_), Some(_)) => {
                return Err(Refusal::bad_request(
                    "at most one of `sinceTime` or `sinceSeconds` may be specified",
                ));
            }
            (Some(seconds), None) => {
                let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
                let ago = SignedDuration::from_secs(seconds);
                Some(Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::MIN))
            }
            (None, Some(text)) => Some(text.parse().map_err(|_| {
                Refusal::bad_request(format!("invalid sinceTime {text:?}: must be RFC 3339"))
            })?),
            (None, None) => None,
        };
        let stream = query.get("stream").filter(|stream| !stream.is_empty()).unwrap_or("All");
        if !matches!(stream, "All" | "Stdout" | "Stderr") {
            return Err(Refusal::bad_request(format!("invalid stream {stream:?}")));
        }
        Ok(Self {
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            timestamps: query.flag("timestamps"),
            tail: query.number("tailLines")?.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
            since,
            limit: query.number("limitBytes")?,
            stdout: stream != "Stderr",
            stderr: stream != "Stdout",
        })
    }
}

/// Writes a line as `kubectl logs` shows it. `whole` says whether the text before ended a line.
fn render(line: &LogLine, timestamps: bool, whole: bool) -> Bytes {
    if timestamps && whole {
        Bytes::from(format!("{:.9} {}", line.time, line.text))
    } else {
        Bytes::from(line.text.clone())
    }
}

pub(super) async fn answer(
    context: &Arc<Context>,
    namespace: &str,
    pod: &str,
    container: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let wanted = Wanted::parse(&Query::parse(request.uri().query())?)?;
    let handle = find::container(context, namespace, pod, container, wanted.previous)?;
    let options = LogOptions {
        stdout: wanted.stdout,
        stderr: wanted.stderr,
        since: wanted.since,
        until: None,
        tail: wanted.tail,
        follow: wanted.follow,
    };
    let lines = context
        .engine
        .logs(&handle, options)
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.chain()))?;
    struct Reading {
        lines: tokio::sync::mpsc::Receiver<dray_engine::Result<LogLine>>,
        left: u64,
        whole: [bool; 2],
    }
    let reading = Reading { lines, left: wanted.limit.unwrap_or(u64::MAX), whole: [true; 2] };
    let timestamps = wanted.timestamps;
    let stream = futures_util::stream::unfold(reading, move |mut reading| async move {
        if reading.left == 0 {
            return None;
        }
        let line = match reading.lines.recv().await? {
            Ok(line) => line,
            Err(error) => {
                tracing::debug!(error = %error.chain(), "a log broke off");
                return Some((Err(std::io::Error::other(error.chain())), reading));
            }
        };
        let place = usize::from(line.stream == LogStream::Stderr);
        let mut bytes = render(&line, timestamps, reading.whole[place]);
        reading.whole[place] = line.text.ends_with('\n');
        bytes.truncate(usize::try_from(reading.left).unwrap_or(usize::MAX).min(bytes.len()));
        reading.left -= bytes.len() as u64;
        Some((Ok(bytes), reading))
    });
    if websocket::is_wanted(request.headers()) {
        let mut handshake = websocket::accept(&mut request, PROTOCOLS)?;
        let response = handshake.take_response();
        tokio::spawn(async move {
            let is_text = handshake.protocol.starts_with("base64.");
            if let Some(socket) = handshake.socket().await {
                send(stream, socket, is_text).await;
            }
        });
        return Ok(response);
    }
    let stream = stream.map_ok(Frame::data);
    let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
    let text = http::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    Ok(response)
}

/// Sends a log as messages, until its end or until the client goes.
async fn send(log: impl Stream<Item = std::io::Result<Bytes>>, socket: Socket, is_text: bool) {
    let (mut sink, mut source) = socket.split();
    let told = async {
        let mut log = pin!(log);
        // By an empty message the client knows that all is ready.
        sink.send(Message::binary(Bytes::new())).await?;
        while let Some(Ok(bytes)) = log.next().await {
            let message =
                if is_text { Message::text(STANDARD.encode(&bytes)) } else { Message::binary(bytes) };
            sink.send(message).await?;
        }
        sink.close().await
    };
    let gone = async { while let Some(Ok(_)) = source.next().await {} };
    tokio::select! {
        told = told => {
            if let Err(error) = told {
                tracing::debug!(%error, "the client went before the end of a log");
            }
        }
        () = gone => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(query: &str) -> Result<Wanted, Refusal> {
        Wanted::parse(&Query::parse(Some(query)).unwrap())
    }

    #[test]
    fn parameters() {
        let all = wanted("follow=true&tailLines=5&timestamps=true&limitBytes=10&previous=true").unwrap();
        assert!(all.follow && all.timestamps && all.previous);
        assert_eq!((all.tail, all.limit), (Some(5), Some(10)));
        assert!(wanted("sinceSeconds=99999999999999").unwrap().since.is_some());
        for wrong in [
            "tailLines=x",
            "tailLines=-1",
            "sinceTime=now",
            "sinceSeconds=1&sinceTime=2020-01-01T00:00:00Z",
            "stream=x",
        ] {
            assert!(wanted(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_have_nine_digits() {
        let time = "2026-01-02T03:04:05.6Z".parse().unwrap();
        let line =
            LogLine { stream: LogStream::Stdout, time, text: "x\n".into(), attributes: Default::default() };
        assert_eq!(render(&line, true, true), "2026-01-02T03:04:05.600000000Z x\n");
        assert_eq!(render(&line, true, false), "x\n");
    }
}
