//! The streams of a process in the channels of one WebSocket.
//!
//! The first byte of each message is its channel: 0 standard input, 1 and 2 standard output and error, 3 how it ended, 4 the size
//! of the terminal, and since version 5 also 255, which closes the channel named by the next byte. In the base64 forms the first
//! character is the channel's digit, and the rest is encoded.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

use super::{ERROR, Hears, Said, Tells, plain_words};
use crate::server::websocket::Socket;

/// The versions, the best first. The oldest may come without a name.
pub(super) const PROTOCOLS: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];
const INPUT: u8 = 0;
const SIZE: u8 = 4;
const CLOSE: u8 = 255;

/// How messages look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    base64: bool,
    /// The end is told as a Status, not in words.
    status: bool,
}

impl Form {
    fn of(protocol: &str) -> Form {
        let status = protocol.starts_with("v4.") || protocol.starts_with("v5.");
        Form { base64: protocol.contains("base64."), status }
    }

    fn message(self, channel: u8, bytes: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::from(char::from(b'0' + channel));
            STANDARD.encode_string(bytes, &mut text);
            return Message::text(text);
        }
        let mut message = Vec::with_capacity(bytes.len() + 1);
        message.push(channel);
        message.extend_from_slice(bytes);
        Message::binary(message)
    }

    /// The channel and the bytes of a message; none when it makes no sense.
    fn read(self, mut bytes: Bytes) -> Option<(u8, Bytes)> {
        let channel = *bytes.first()?;
        let rest = bytes.split_off(1);
        if self.base64 {
            return Some((channel.checked_sub(b'0')?, STANDARD.decode(rest).ok()?.into()));
        }
        Some((channel, rest))
    }
}

/// The two directions.
pub(super) fn halves(socket: Socket, protocol: &str) -> (Mouth, Ear) {
    let (sink, source) = socket.split();
    let form = Form::of(protocol);
    (Mouth { sink, form }, Ear { source, form })
}

pub(super) struct Mouth {
    sink: SplitSink<Socket, Message>,
    form: Form,
}

impl Tells for Mouth {
    async fn begin(&mut self, first: u8) -> bool {
        // By an empty message the oldest clients know that all is ready.
        self.form.status || self.tell(first, &[]).await
    }

    async fn tell(&mut self, channel: u8, bytes: &[u8]) -> bool {
        self.sink.send(self.form.message(channel, bytes)).await.is_ok()
    }

    async fn end(mut self, status: Value) {
        let text = if self.form.status { Some(status.to_string()) } else { plain_words(&status) };
        let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let told = async {
            if let Some(text) = text {
                self.sink.send(self.form.message(ERROR, text.as_bytes())).await?;
            }
            self.sink.send(Message::Close(Some(close))).await?;
            self.sink.flush().await
        };
        if let Err(error) = told.await {
            tracing::debug!(%error, "the client went before it was told how its command ended");
        }
    }
}

pub(super) struct Ear {
    source: SplitStream<Socket>,
    form: Form,
}

impl Hears for Ear {
    async fn next(&mut self) -> Option<Said> {
        loop {
            let bytes = match self.source.next().await?.ok()? {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => text.into(),
                Message::Close(_) => return None,
                _ => continue,
            };
            let Some((channel, rest)) = self.form.read(bytes) else { continue };
            match channel {
                INPUT => return Some(Said::Input(rest)),
                SIZE => return Some(Said::Size(rest)),
                CLOSE if *rest == [INPUT] => return Some(Said::InputEnds),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_their_channel_first() {
        let plain = Form::of("v4.channel.k8s.io");
        assert_eq!(plain.message(1, b"out"), Message::binary(&b"\x01out"[..]));
        assert_eq!(plain.read(Bytes::from_static(b"\0in")), Some((0, Bytes::from_static(b"in"))));
        let encoded = Form::of("v4.base64.channel.k8s.io");
        assert_eq!(encoded.message(1, b"out"), Message::text("1b3V0"));
        assert_eq!(encoded.read(Bytes::from_static(b"0aW4=")), Some((0, Bytes::from_static(b"in"))));
        for wrong in [&b""[..], b"0=", b"\x01aW4="] {
            assert_eq!(encoded.read(Bytes::from_static(wrong)), None, "{wrong:?}");
        }
        assert!(
            plain.status && !Form::of("channel.k8s.io").status && Form::of("base64.channel.k8s.io").base64
        );
    }
}
