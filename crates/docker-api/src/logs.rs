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

/// Lines that a slow client may be behind.
const AHEAD: usize = 32;

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
    send(api, &container, options, query.flag("timestamps"))
}

/// What was written so far, for `attach` with `logs`.
pub(crate) fn past(
    api: &Api,
    container: &Arc<ContainerHandle>,
    streams: AttachOptions,
) -> Result<mpsc::Receiver<Bytes>> {
    let options = LogOptions { stdout: streams.stdout, stderr: streams.stderr, ..LogOptions::default() };
    let (sender, receiver) = mpsc::channel(AHEAD);
    copy(api, container, options, false, sender)?;
    Ok(receiver)
}

fn send(
    api: &Api,
    container: &Arc<ContainerHandle>,
    options: LogOptions,
    timestamps: bool,
) -> Result<Response<Body>> {
    let content_type = if container.record().spec.tty {
        "application/vnd.docker.raw-stream"
    } else {
        "application/vnd.docker.multiplexed-stream"
    };
    let (sender, response) = body::stream(content_type);
    copy(api, container, options, timestamps, sender)?;
    Ok(response)
}

/// Sends the lines of a log, until they end or nobody listens.
fn copy(
    api: &Api,
    container: &Arc<ContainerHandle>,
    options: LogOptions,
    timestamps: bool,
    sender: mpsc::Sender<Bytes>,
) -> Result<()> {
    let tty = container.record().spec.tty;
    let mut lines = api.engine.logs(container, options)?;
    tokio::spawn(async move {
        while let Some(line) = lines.recv().await {
            let line = match line {
                Ok(line) => line,
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "cannot read a log");
                    return;
                }
            };
            if sender.send(frame(&line, tty, timestamps)).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// One frame: the stream's number, three zeros, the length in four bytes, the text. With a terminal only the text.
fn frame(line: &LogLine, tty: bool, timestamps: bool) -> Bytes {
    let prefix = if timestamps { format!("{:.9} ", line.time) } else { String::new() };
    let length = prefix.len() + line.text.len();
    let mut bytes = BytesMut::with_capacity(8 + length);
    if !tty {
        let number = match line.stream {
            LogStream::Stdout => 1,
            LogStream::Stderr => 2,
        };
        bytes.put_slice(&[number, 0, 0, 0]);
        bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    }
    bytes.put_slice(prefix.as_bytes());
    bytes.put_slice(line.text.as_bytes());
    bytes.freeze()
}

/// A time as seconds with an optional fraction, or as RFC 3339; zero is none.
pub(crate) fn time(query: &Query, name: &str) -> Result<Option<Timestamp>> {
    let Some(text) = query.non_empty(name) else { return Ok(None) };
    let invalid = || ApiError::bad_request(format!("invalid value for \"{name}\": {text:?}"));
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Some(time));
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().map_err(|_| invalid())?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: i32 = digits.parse().map_err(|_| invalid())?;
    let time = Timestamp::new(seconds, nanoseconds).map_err(|_| invalid())?;
    Ok(Some(time).filter(|time| *time != Timestamp::UNIX_EPOCH))
}
