//! Frames: taken apart as their bytes come, put together as they go.

use bytes::{Buf as _, Bytes, BytesMut};

use super::headers::{Headers, Packer, Unpacker};
use crate::{Error, Result};

/// The protocol's version in control frames.
const VERSION: u16 = 3;
/// Longest control frame that is taken, in bytes after its head.
const LONGEST_CONTROL: usize = 64 * 1024;
const HEAD: usize = 8;
/// Longest data frame that is sent.
pub(crate) const LONGEST_DATA: usize = 16 * 1024;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;
const FIN: u8 = 1;

/// Why a stream is reset: it was not accepted.
pub(crate) const REFUSED: u32 = 3;
/// Why a stream is reset: the frame makes no sense.
pub(crate) const PROTOCOL_ERROR: u32 = 1;

/// What a peer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A new stream.
    Open { stream: u32, headers: Headers, fin: bool },
    /// An answer to a new stream.
    Reply { stream: u32, headers: Headers, fin: bool },
    /// A part of a stream's bytes; `fin` with the last.
    Data { stream: u32, bytes: Bytes, fin: bool },
    /// The stream is over at once.
    Reset { stream: u32, status: u32 },
    /// To be sent back.
    Ping { id: u32 },
    /// No new streams.
    GoAway { last: u32, status: u32 },
    /// The peer takes so many more bytes.
    Window { stream: u32, more: u32 },
    /// More headers of a stream.
    Headers { stream: u32, headers: Headers, fin: bool },
    /// Settings, and types that are not known, which are passed over.
    Ignored,
}

fn broken(why: impl Into<String>) -> Error {
    Error::Protocol { protocol: "SPDY/3.1", why: why.into() }
}

/// Takes frames apart.
pub(crate) struct Decoder {
    buffer: BytesMut,
    unpacker: Unpacker,
    /// The data frame whose bytes are coming: stream, how many are left, whether it is the last.
    data: Option<(u32, usize, bool)>,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { buffer: BytesMut::new(), unpacker: Unpacker::new(), data: None }
    }

    /// Adds bytes of the peer.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, or a part of a data frame; none before more bytes come.
    ///
    /// # Errors
    /// When the bytes are not SPDY/3.1. Then nothing more can be read.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>> {
        if let Some((stream, left, fin)) = self.data {
            if self.buffer.is_empty() && left > 0 {
                return Ok(None);
            }
            let bytes = self.buffer.split_to(left.min(self.buffer.len())).freeze();
            let left = left - bytes.len();
            self.data = (left > 0).then_some((stream, left, fin));
            return Ok(Some(Frame::Data { stream, bytes, fin: fin && left == 0 }));
        }
        let Some(head) = self.buffer.first_chunk::<HEAD>().copied() else { return Ok(None) };
        let flags = head[4];
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if head[0] & 0x80 == 0 {
            let stream = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            self.buffer.advance(HEAD);
            self.data = Some((stream, length, flags & FIN != 0));
            return if length == 0 || !self.buffer.is_empty() { self.next() } else { Ok(None) };
        }
        let version = u16::from_be_bytes([head[0] & 0x7f, head[1]]);
        let kind = u16::from_be_bytes([head[2], head[3]]);
        if version != VERSION {
            return Err(broken(format!("a frame of version {version}")));
        }
        if length > LONGEST_CONTROL {
            return Err(broken("a control frame is too long"));
        }
        if self.buffer.len() < HEAD + length {
            return Ok(None);
        }
        self.buffer.advance(HEAD);
        let payload = self.buffer.split_to(length);
        self.control(kind, flags, &payload).map(Some)
    }

    fn control(&mut self, kind: u16, flags: u8, mut payload: &[u8]) -> Result<Frame> {
        let fin = flags & FIN != 0;
        Ok(match kind {
            SYN_STREAM => {
                let stream = stream(&mut payload)?;
                // The stream it belongs to, priority and slot mean nothing here.
                take(&mut payload, 6)?;
                Frame::Open { stream, headers: self.unpacker.unpack(payload)?, fin }
            }
            SYN_REPLY => {
                let stream = stream(&mut payload)?;
                Frame::Reply { stream, headers: self.unpacker.unpack(payload)?, fin }
            }
            HEADERS => {
                let stream = stream(&mut payload)?;
                Frame::Headers { stream, headers: self.unpacker.unpack(payload)?, fin }
            }
            RST_STREAM => Frame::Reset { stream: stream(&mut payload)?, status: number(&mut payload)? },
            PING => Frame::Ping { id: number(&mut payload)? },
            GOAWAY => Frame::GoAway { last: stream(&mut payload)?, status: number(&mut payload)? },
            WINDOW_UPDATE => {
                Frame::Window { stream: stream(&mut payload)?, more: number(&mut payload)? & 0x7fff_ffff }
            }
            SETTINGS => Frame::Ignored,
            _ => Frame::Ignored,
        })
    }
}

fn take<'a>(payload: &mut &'a [u8], count: usize) -> Result<&'a [u8]> {
    if payload.len() < count {
        return Err(broken("a control frame is cut off"));
    }
    let (taken, rest) = payload.split_at(count);
    *payload = rest;
    Ok(taken)
}

fn number(payload: &mut &[u8]) -> Result<u32> {
    let bytes = take(payload, 4)?;
    Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn stream(payload: &mut &[u8]) -> Result<u32> {
    Ok(number(payload)? & 0x7fff_ffff)
}

/// Puts frames together.
#[derive(Default)]
pub(crate) struct Encoder {
    packer: Packer,
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD + payload.len());
    frame.extend_from_slice(&(VERSION | 0x8000).to_be_bytes());
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&((payload.len() as u32) | (u32::from(flags) << 24)).to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

impl Encoder {
    /// Accepts a stream.
    pub(crate) fn reply(&mut self, stream: u32) -> Vec<u8> {
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend_from_slice(&self.packer.pack(&[]));
        control(SYN_REPLY, 0, &payload)
    }
}

/// Ends a stream at once.
pub(crate) fn reset(stream: u32, status: u32) -> Vec<u8> {
    control(RST_STREAM, 0, &[stream.to_be_bytes(), status.to_be_bytes()].concat())
}

/// Answers a ping.
pub(crate) fn ping(id: u32) -> Vec<u8> {
    control(PING, 0, &id.to_be_bytes())
}

/// Says that no new streams are taken.
pub(crate) fn go_away(last: u32) -> Vec<u8> {
    control(GOAWAY, 0, &[last.to_be_bytes(), 0_u32.to_be_bytes()].concat())
}

/// Bytes of a stream, at most [`LONGEST_DATA`].
pub(crate) fn data(stream: u32, bytes: &[u8], fin: bool) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD + bytes.len());
    frame.extend_from_slice(&(stream & 0x7fff_ffff).to_be_bytes());
    let flags = if fin { u32::from(FIN) << 24 } else { 0 };
    frame.extend_from_slice(&((bytes.len() as u32 & 0x00ff_ffff) | flags).to_be_bytes());
    frame.extend_from_slice(bytes);
    frame
}

#[cfg(test)]
mod tests {
    use super::super::headers::tests::ClientPacker;
    use super::*;
    use proptest::prelude::*;

    fn open(packer: &mut ClientPacker, stream: u32, headers: &[(&str, &str)], fin: bool) -> Vec<u8> {
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend_from_slice(&[0; 6]);
        payload.extend_from_slice(&packer.pack(headers));
        control(SYN_STREAM, u8::from(fin), &payload)
    }

    fn all(decoder: &mut Decoder) -> Vec<Frame> {
        std::iter::from_fn(|| decoder.next().unwrap()).collect()
    }

    #[test]
    fn a_clients_frames() {
        let mut packer = ClientPacker::new();
        let mut bytes = open(&mut packer, 1, &[("streamtype", "error"), ("port", "80")], true);
        bytes.extend(open(&mut packer, 3, &[("streamtype", "data"), ("port", "80")], false));
        bytes.extend(data(3, b"GET", false));
        bytes.extend(data(3, b"", true));
        bytes.extend(ping(1));
        bytes.extend(reset(3, 5));
        bytes.extend(control(SETTINGS, 0, &[0; 4]));
        bytes.extend(go_away(3));
        let mut decoder = Decoder::new();
        decoder.push(&bytes);
        let frames = all(&mut decoder);
        let pair = |kind: &str| {
            vec![("streamtype".to_owned(), kind.to_owned()), ("port".to_owned(), "80".to_owned())]
        };
        assert_eq!(
            frames,
            [
                Frame::Open { stream: 1, headers: pair("error"), fin: true },
                Frame::Open { stream: 3, headers: pair("data"), fin: false },
                Frame::Data { stream: 3, bytes: Bytes::from_static(b"GET"), fin: false },
                Frame::Data { stream: 3, bytes: Bytes::new(), fin: true },
                Frame::Ping { id: 1 },
                Frame::Reset { stream: 3, status: 5 },
                Frame::Ignored,
                Frame::GoAway { last: 3, status: 0 },
            ]
        );
        let mut encoder = Encoder::default();
        decoder = Decoder::new();
        decoder.push(&encoder.reply(1));
        decoder.push(&encoder.reply(3));
        let reply = |stream| Frame::Reply { stream, headers: vec![], fin: false };
        assert_eq!(all(&mut decoder), [reply(1), reply(3)]);
    }

    #[test]
    fn what_is_not_spdy_is_refused() {
        let refused = |bytes: &[u8]| {
            let mut decoder = Decoder::new();
            decoder.push(bytes);
            decoder.next().is_err()
        };
        assert!(refused(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]), "version 2");
        assert!(refused(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]), "too long");
        assert!(refused(&[0x80, 3, 0, 6, 0, 0, 0, 2, 0, 0]), "cut off");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut decoder = Decoder::new();
            decoder.push(&bytes);
            for _ in 0..1000 {
                match decoder.next() {
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return Ok(()),
                }
            }
            prop_assert!(false, "there is no end");
        }

        #[test]
        fn frames_are_the_same_wherever_they_are_cut(
            sent in prop::collection::vec((1_u32..8, prop::collection::vec(any::<u8>(), 0..50), any::<bool>()), 1..8),
            cuts in prop::collection::vec(1_usize..20, 1..40),
        ) {
            let mut bytes = Vec::new();
            for (stream, payload, fin) in &sent {
                bytes.extend(data(*stream, payload, *fin));
                bytes.extend(ping(*stream));
            }
            let mut decoder = Decoder::new();
            let mut found: Vec<(u32, Vec<u8>, bool)> = Vec::new();
            let mut whole = true;
            let mut rest = bytes.as_slice();
            let mut cuts = cuts.into_iter().cycle();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                rest = later;
                decoder.push(now);
                while let Some(frame) = decoder.next().unwrap() {
                    match frame {
                        Frame::Data { stream, bytes, fin } => {
                            if std::mem::take(&mut whole) || found.is_empty() {
                                found.push((stream, bytes.to_vec(), fin));
                            } else {
                                let last = found.last_mut().unwrap();
                                last.1.extend_from_slice(&bytes);
                                last.2 = fin;
                            }
                        }
                        Frame::Ping { .. } => whole = true,
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
            }
            prop_assert_eq!(found, sent);
        }
    }
}
