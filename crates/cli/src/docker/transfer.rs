//! Bodies that are written while they are sent, and answers that are read while they come.

use std::io::Write;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::Value;
use tokio::sync::mpsc;

use super::client::Body;
use super::say;
use crate::{Error, Result};

const BLOCK: usize = 256 * 1024;

/// A body that is read on a thread of its own while it is sent.
pub(super) fn streamed(write: impl FnOnce(&mut dyn Write) -> std::io::Result<()> + Send + 'static) -> Body {
    let (sender, mut receiver) = mpsc::channel::<std::io::Result<Bytes>>(4);
    std::thread::spawn(move || {
        let mut writer = std::io::BufWriter::with_capacity(BLOCK, ChannelWriter(sender.clone()));
        let written = write(&mut writer).and_then(|()| writer.flush());
        if let Err(error) = written {
            // When nobody receives any more, there is nobody to tell.
            let _ = sender.blocking_send(Err(error));
        }
    });
    let stream = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
    http_body_util::BodyExt::boxed(StreamBody::new(stream.map(|chunk| chunk.map(Frame::data))))
}

struct ChannelWriter(mpsc::Sender<std::io::Result<Bytes>>);

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A stream of JSON objects, one a line.
pub(super) struct Lines {
    body: hyper::body::Incoming,
    pending: Vec<u8>,
    ended: bool,
}

impl Lines {
    pub(super) fn new(body: hyper::body::Incoming) -> Self {
        Self { body, pending: Vec::new(), ended: false }
    }

    /// The next object; an error when it tells one.
    pub(super) async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return read_line(&line).map(Some);
            }
            if self.ended {
                let line = std::mem::take(&mut self.pending);
                let empty = line.iter().all(u8::is_ascii_whitespace);
                return if empty { Ok(None) } else { read_line(&line).map(Some) };
            }
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.map_err(|source| Error::Connection { source })?;
                    self.pending.extend_from_slice(frame.data_ref().map_or(&[], |bytes| bytes));
                }
                None => self.ended = true,
            }
        }
    }
}

fn read_line(line: &[u8]) -> Result<Value> {
    let value: Value = serde_json::from_slice(line).map_err(|source| Error::Answer { source })?;
    let message = value["errorDetail"]["message"].as_str().or(value["error"].as_str());
    match message {
        Some(message) => Err(Error::Failed { message: message.to_owned() }),
        None => Ok(value),
    }
}

/// What a line of progress says.
pub(super) fn print_progress(line: &Value) -> Result<()> {
    if let Some(text) = line["stream"].as_str() {
        let mut out = std::io::stdout();
        return out
            .write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(Error::io("write to", "the output"));
    }
    match line["status"].as_str() {
        Some(status) => say(status),
        None => Ok(()),
    }
}
