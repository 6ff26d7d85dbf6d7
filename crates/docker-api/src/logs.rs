//! `GET /containers/{id}/logs`: the log in Docker's frames.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use dray_engine::{AttachOptions, ContainerHandle, LogLine, LogOptions, LogStream};
use http::Response;
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::Api;
use crate::body::{self, Body};
use crate::error::{ApiError, Result};
use crate::query::Query;

/// Pieces that a slow client may be behind.
const AHEAD: usize = 32;
/// Lines that are sent together when they are there.
const TOGETHER: usize = 256;

/// What is shown of each line besides its text.
#[derive(Clone, Copy, Debug, Default)]
struct Form {
    timestamps: bool,
    details: bool,
}

pub(crate) fn stream(api: &Api, id: &str, query: &Query) -> Result<Response<Body>> {
    let container = api.engine.container(id)?;
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !stdout && !stderr {
        return Err(ApiError::bad_request("Bad parameters: you must choose at least one stream"));
    }
    let tail = match query.non_empty("tail") {
        None | Some("all") => None,
        Some(text) => text.parse::<usize>().ok(),
    };
    let options = LogOptions {
        stdout,
        stderr,
        since: time(query, "since")?,
        until: time(query, "until")?,
        tail,
        follow: query.flag("follow"),
    };
    let form = Form { timestamps: query.flag("timestamps"), details: query.flag("details") };
    send(api, &container, options, form)
}

/// What was written so far, for `attach` with `logs`.
pub(crate) fn past(
    api: &Api,
    container: &Arc<ContainerHandle>,
    streams: AttachOptions,
) -> Result<mpsc::Receiver<Bytes>> {
    let options = LogOptions { stdout: streams.stdout, stderr: streams.stderr, ..LogOptions::default() };
    let (sender, receiver) = mpsc::channel(AHEAD);
    copy(api, container, options, Form::default(), sender)?;
    Ok(receiver)
}

fn send(
    api: &Api,
    container: &Arc<ContainerHandle>,
    options: LogOptions,
    form: Form,
) -> Result<Response<Body>> {
    let content_type = if container.record().spec.tty {
        "application/vnd.docker.raw-stream"
    } else {
        "application/vnd.docker.multiplexed-stream"
    };
    let (sender, response) = body::stream(content_type);
    copy(api, container, options, form, sender)?;
    Ok(response)
}

/// Sends the lines of a log, until they end or nobody listens.
fn copy(
    api: &Api,
    container: &Arc<ContainerHandle>,
    options: LogOptions,
    form: Form,
    sender: mpsc::Sender<Bytes>,
) -> Result<()> {
    let tty = container.record().spec.tty;
    let mut lines = api.engine.logs(container, options)?;
    tokio::spawn(async move {
        let mut some = Vec::with_capacity(TOGETHER);
        loop {
            let received = tokio::select! {
                received = lines.recv_many(&mut some, TOGETHER) => received,
                () = sender.closed() => return,
            };
            if received == 0 {
                return;
            }
            let mut frames = BytesMut::new();
            let mut failed = None;
            for line in some.drain(..) {
                match line {
                    Ok(line) => frame(&mut frames, &line, tty, form),
                    Err(error) => failed = Some(error),
                }
            }
            if !frames.is_empty() && sender.send(frames.freeze()).await.is_err() {
                return;
            }
            if let Some(error) = failed {
                tracing::warn!(error = %error.chain(), "cannot read a log");
                return;
            }
        }
    });
    Ok(())
}

/// One frame: the stream's number, three zeros, the length in four bytes, the text. With a terminal only the text.
fn frame(frames: &mut BytesMut, line: &LogLine, tty: bool, form: Form) {
    let mut prefix = String::new();
    if form.timestamps {
        prefix = format!("{:.9} ", line.time);
    }
    if form.details {
        let pairs: Vec<String> = line
            .attributes
            .iter()
            .map(|(name, value)| format!("{}={}", escaped(name), escaped(value)))
            .collect();
        prefix.push_str(&pairs.join(","));
        prefix.push(' ');
    }
    let length = prefix.len() + line.text.len();
    frames.reserve(8 + length);
    if !tty {
        let number = match line.stream {
            LogStream::Stdout => 1,
            LogStream::Stderr => 2,
        };
        frames.put_slice(&[number, 0, 0, 0]);
        frames.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    }
    frames.put_slice(prefix.as_bytes());
    frames.put_slice(line.text.as_bytes());
}

/// As part of a query, which details are written like.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            b if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) => out.push(char::from(b)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// A time as seconds with an optional fraction, or as RFC 3339; zero is none.
pub(crate) fn time(query: &Query, name: &str) -> Result<Option<Timestamp>> {
    let Some(text) = query.non_empty(name) else { return Ok(None) };
    let time = parse_time(text)
        .ok_or_else(|| ApiError::bad_request(format!("invalid value for \"{name}\": {text:?}")))?;
    Ok(Some(time).filter(|time| *time != Timestamp::UNIX_EPOCH))
}

/// A time in either form; none when it is neither.
pub(crate) fn parse_time(text: &str) -> Option<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    Timestamp::new(seconds.parse().ok()?, digits.parse().ok()?).ok()
}
