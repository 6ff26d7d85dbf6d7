//! One client on the control socket, without blocking.

use std::os::unix::net::UnixStream;

use rustix::io::{Errno, read};
use rustix::net::{SendFlags, Shutdown, send, shutdown};

use super::stdio::Stream;
use crate::protocol::{REQUEST_LIMIT, Reply, Request};

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Has not said what it wants.
    Asking,
    /// Waits until the program runs.
    Starting,
    /// Waits until the process has ended.
    Waiting,
    /// Takes part in stdio.
    Attached { stdin: bool, stdout: bool, stderr: bool },
    /// Gets what is pending, then goes.
    Leaving,
}

pub(super) struct Connection {
    stream: UnixStream,
    pub(super) stage: Stage,
    request: Vec<u8>,
    pending: Vec<u8>,
    sent: usize,
    /// The client sends nothing more.
    pub(super) finished_sending: bool,
    /// The client hears nothing more.
    deaf: bool,
    pub(super) gone: bool,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            stage: Stage::Asking,
            request: Vec::new(),
            pending: Vec::new(),
            sent: 0,
            finished_sending: false,
            deaf: false,
            gone: false,
        }
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub(super) fn has_pending(&self) -> bool {
        self.sent < self.pending.len()
    }

    pub(super) fn takes(&self, stream: Stream) -> bool {
        let asked = matches!(
            (self.stage, stream),
            (Stage::Attached { stdout: true, .. }, Stream::Output)
                | (Stage::Attached { stderr: true, .. }, Stream::Error)
        );
        asked && !self.deaf
    }

    pub(super) fn gives_input(&self) -> bool {
        matches!(self.stage, Stage::Attached { stdin: true, .. }) && !self.finished_sending
    }

    /// Whether it is worth looking at what the client sends.
    pub(super) fn is_read(&self, input_wanted: bool) -> bool {
        match self.stage {
            Stage::Asking => true,
            Stage::Attached { stdin: true, .. } => input_wanted && !self.finished_sending,
            // Read only to notice that it goes.
            Stage::Attached { .. } | Stage::Starting | Stage::Waiting => !self.finished_sending,
            Stage::Leaving => false,
        }
    }

    /// Reads what the client sent: so many bytes, or none for the end. None of nothing for now.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            match read(&self.stream, &mut *buffer) {
                Ok(0) => {
                    self.finished_sending = true;
                    return Some(0);
                }
                Ok(count) => return Some(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                // It went without having read everything.
                Err(_) => {
                    self.finished_sending = true;
                    self.gone = true;
                    return Some(0);
                }
            }
        }
    }

    /// Adds bytes of the request line; when it is complete, the request and what follows it.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Option<Result<(Request, Vec<u8>), String>> {
        self.request.extend_from_slice(bytes);
        let Some(end) = self.request.iter().position(|&byte| byte == b'\n') else {
            let too_long = self.request.len() > REQUEST_LIMIT;
            return too_long.then(|| Err(format!("the request is longer than {REQUEST_LIMIT} bytes")));
        };
        let rest = self.request.split_off(end + 1);
        let line = std::mem::take(&mut self.request);
        Some(serde_json::from_slice(&line).map(|request| (request, rest)).map_err(|error| error.to_string()))
    }

    pub(super) fn reply(&mut self, reply: &Reply) {
        if serde_json::to_writer(&mut self.pending, reply).is_ok() {
            self.pending.push(b'\n');
        }
    }

    /// Adds output of the process, in a frame unless it is a terminal's.
    pub(super) fn add_output(&mut self, stream: Stream, bytes: &[u8], framed: bool) {
        if framed {
            let length = (bytes.len() as u32).to_be_bytes();
            self.pending.extend_from_slice(&[stream as u8, 0, 0, 0]);
            self.pending.extend_from_slice(&length);
        }
        self.pending.extend_from_slice(bytes);
    }

    /// Sends what it can.
    pub(super) fn flush(&mut self) {
        while self.has_pending() {
            match send(&self.stream, &self.pending[self.sent..], SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.pending.clear();
                    self.sent = 0;
                    self.deaf = true;
                    // What it has sent before it left, and the end of that, is still to come.
                    self.gone = !self.gives_input();
                    return;
                }
            }
        }
        self.pending.clear();
        self.pending.shrink_to(1024);
        self.sent = 0;
        if self.stage == Stage::Leaving {
            let _ = shutdown(&self.stream, Shutdown::Write);
            self.gone = true;
        }
    }
}
