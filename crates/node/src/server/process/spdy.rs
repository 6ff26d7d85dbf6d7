//! The streams of a process in streams of SPDY, as clients before 1.30 ask for it.
//!
//! The client opens one stream for each; its header `streamtype` says which. By `error` it is told how the process ended: since
//! version 4 as a Status, before that in words where it failed.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{ERROR, Hears, OUTPUT, OUTPUT_OF_ERRORS, Said, Tells, Wanted, plain_words};
use crate::server::spdy::{Source, Wire, Writer};
use crate::spdy::frame::{self, Encoder, Frame};
use crate::{Error, Result};

/// The versions, the best first. The oldest has no name.
pub(super) const PROTOCOLS: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
    "",
];
/// How long the client may take to open all streams.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest word about a terminal's size.
const LONGEST_SIZE: usize = 1024;

/// The numbers of the streams; 0 is none.
#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    error: u32,
    input: u32,
    output: u32,
    errors: u32,
    size: u32,
}

impl Numbers {
    fn place(&mut self, kind: &str) -> Option<&mut u32> {
        Some(match kind {
            "error" => &mut self.error,
            "stdin" => &mut self.input,
            "stdout" => &mut self.output,
            "stderr" => &mut self.errors,
            "resize" => &mut self.size,
            _ => return None,
        })
    }

    fn all(self) -> [u32; 5] {
        [self.input, self.output, self.errors, self.size, self.error]
    }

    /// Whether all are there that the request says.
    fn are_complete(&self, wanted: &Wanted, has_size: bool) -> bool {
        self.error != 0
            && (self.input != 0 || !wanted.stdin)
            && (self.output != 0 || !wanted.stdout)
            && (self.errors != 0 || !wanted.stderr || wanted.tty)
            && (self.size != 0 || !wanted.tty || !has_size)
    }
}

fn broken(why: impl Into<String>) -> Error {
    Error::Protocol { protocol: "remote command", why: why.into() }
}

/// Waits for the streams and makes the two directions of them.
///
/// # Errors
/// When the client goes, breaks the protocol, or takes too long.
pub(super) async fn halves(wire: Wire, version: &str, wanted: &Wanted) -> Result<(Mouth, Ear)> {
    let Wire { mut source, outgoing, writer } = wire;
    let has_size = version.starts_with('v') && version != "v2.channel.k8s.io";
    let opened = open(&mut source, &outgoing, wanted, has_size);
    let numbers = tokio::time::timeout(PATIENCE, opened)
        .await
        .map_err(|_| broken("timed out waiting for client to create streams"))??;
    let status = version.starts_with("v4.") || version.starts_with("v5.");
    let ear = Ear { source, outgoing: outgoing.clone(), numbers, size: BytesMut::new(), ended: false };
    Ok((Mouth { outgoing, writer, numbers, status }, ear))
}

async fn open(
    source: &mut Source,
    outgoing: &mpsc::Sender<Vec<u8>>,
    wanted: &Wanted,
    has_size: bool,
) -> Result<Numbers> {
    let mut encoder = Encoder::default();
    let mut numbers = Numbers::default();
    let mut last = 0;
    while !numbers.are_complete(wanted, has_size) {
        let Some(frame) = source.next().await? else { return Err(broken("the client has gone")) };
        let answer = match frame {
            Frame::Open { stream, headers, .. } => {
                if stream.is_multiple_of(2) || stream <= last {
                    return Err(broken(format!("a client must not open stream {stream}")));
                }
                last = stream;
                let kind = headers.iter().find(|(key, _)| key == "streamtype").map(|(_, kind)| kind.as_str());
                match numbers.place(kind.unwrap_or_default()).filter(|place| **place == 0) {
                    Some(place) => {
                        *place = stream;
                        encoder.reply(stream)
                    }
                    None => frame::reset(stream, frame::PROTOCOL_ERROR),
                }
            }
            Frame::Ping { id } => frame::ping(id),
            Frame::Data { bytes, .. } if !bytes.is_empty() => {
                return Err(broken("bytes came before all streams were there"));
            }
            _ => continue,
        };
        outgoing.send(answer).await.map_err(|_| broken("the client has gone"))?;
    }
    Ok(numbers)
}

pub(super) struct Mouth {
    outgoing: mpsc::Sender<Vec<u8>>,
    writer: Writer,
    numbers: Numbers,
    status: bool,
}

impl Tells for Mouth {
    async fn begin(&mut self, _first: u8) -> bool {
        true
    }

    async fn tell(&mut self, channel: u8, bytes: &[u8]) -> bool {
        let stream = match channel {
            OUTPUT => self.numbers.output,
            OUTPUT_OF_ERRORS => self.numbers.errors,
            _ => self.numbers.error,
        };
        if stream == 0 {
            return true;
        }
        for chunk in bytes.chunks(frame::LONGEST_DATA) {
            if self.outgoing.send(frame::data(stream, chunk, false)).await.is_err() {
                return false;
            }
        }
        true
    }

    async fn end(mut self, status: Value) {
        let text = if self.status { Some(status.to_string()) } else { plain_words(&status) };
        if let Some(text) = text {
            self.tell(ERROR, text.as_bytes()).await;
        }
        for stream in self.numbers.all().into_iter().filter(|stream| *stream != 0) {
            let _ = self.outgoing.send(frame::data(stream, &[], true)).await;
        }
        drop(self.outgoing);
        self.writer.finish().await;
    }
}

pub(super) struct Ear {
    source: Source,
    outgoing: mpsc::Sender<Vec<u8>>,
    numbers: Numbers,
    /// The beginning of a word about the terminal's size.
    size: BytesMut,
    /// The end of the input came with its last bytes and is still to be told.
    ended: bool,
}

impl Ear {
    /// The next whole word about the terminal's size.
    fn size(&mut self) -> Option<Bytes> {
        let end = self.size.iter().position(|byte| *byte == b'\n')?;
        Some(self.size.split_to(end + 1).freeze())
    }
}

impl Hears for Ear {
    async fn next(&mut self) -> Option<Said> {
        loop {
            if std::mem::take(&mut self.ended) {
                return Some(Said::InputEnds);
            }
            if let Some(size) = self.size() {
                return Some(Said::Size(size));
            }
            match self.source.next().await {
                Ok(Some(Frame::Data { stream, bytes, fin })) if stream == self.numbers.input => {
                    self.ended = fin;
                    return Some(Said::Input(bytes));
                }
                Ok(Some(Frame::Data { stream, bytes, .. })) if stream == self.numbers.size => {
                    if self.size.len() + bytes.len() > LONGEST_SIZE {
                        self.size.clear();
                    } else {
                        self.size.extend_from_slice(&bytes);
                    }
                }
                Ok(Some(Frame::Reset { stream, .. })) if stream == self.numbers.input => {
                    return Some(Said::InputEnds);
                }
                Ok(Some(Frame::Ping { id })) => self.outgoing.send(frame::ping(id)).await.ok()?,
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => {
                    tracing::debug!(error = %error.chain(), "the streams of a client broke");
                    return None;
                }
            }
        }
    }
}
