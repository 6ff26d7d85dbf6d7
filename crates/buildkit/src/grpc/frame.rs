//! Messages with a length before them: one byte that tells of compression, four of the length.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use prost::Message;

use super::{Code, LARGEST_MESSAGE, Status};

const HEAD: usize = 5;

/// A message with its length.
pub(super) fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(HEAD + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // There is room: the buffer grows.
    let _ = message.encode(&mut frame);
    frame.freeze()
}

/// The first whole message of what has come so far, taken from it.
pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some(head) = buffer.get(..HEAD) else { return Ok(None) };
    if head[0] != 0 {
        return Err(Status::new(Code::Unimplemented, "compressed messages are not supported"));
    }
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > LARGEST_MESSAGE {
        let message = format!("a message of {length} bytes is larger than the limit of {LARGEST_MESSAGE}");
        return Err(Status::new(Code::ResourceExhausted, message));
    }
    if buffer.len() < HEAD + length {
        return Ok(None);
    }
    buffer.advance(HEAD);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// The messages of a body, one by one.
pub(super) struct Messages {
    body: Incoming,
    buffer: BytesMut,
    trailers: Option<HeaderMap>,
}

impl Messages {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new(), trailers: None }
    }

    /// The next message; none when the body has ended as it should.
    pub(super) async fn next<T: Message + Default>(&mut self) -> Result<Option<T>, Status> {
        loop {
            if let Some(bytes) = take(&mut self.buffer)? {
                let decoded = T::decode(bytes)
                    .map_err(|error| Status::invalid(format!("cannot decode a message: {error}")))?;
                return Ok(Some(decoded));
            }
            let Some(frame) = self.body.frame().await else {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(Status::new(Code::Internal, "the stream ended in the middle of a message"));
            };
            let frame = frame
                .map_err(|error| Status::new(Code::Unavailable, format!("the stream broke: {error}")))?;
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.trailers = Some(trailers);
                    }
                }
            }
        }
    }

    /// What followed the body, once it has ended.
    pub(super) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::session::BytesMessage;

    #[test]
    fn frames_are_as_recorded() {
        // What a Go client sent for `BytesMessage{Data: "hi"}`.
        let recorded = b"\0\0\0\0\x04\x0a\x02hi";
        assert_eq!(encode(&BytesMessage { data: Bytes::from_static(b"hi") })[..], recorded[..]);
        let mut buffer = BytesMut::from(&recorded[..]);
        assert_eq!(take(&mut buffer).unwrap().unwrap(), b"\x0a\x02hi"[..]);
        assert_eq!(take(&mut buffer).unwrap(), None);
    }

    #[test]
    fn what_is_compressed_or_too_large_is_refused() {
        let mut compressed = BytesMut::from(&b"\x01\0\0\0\x01x"[..]);
        assert_eq!(take(&mut compressed).unwrap_err().code, Code::Unimplemented);
        let mut large = BytesMut::from(&b"\0\xff\xff\xff\xff"[..]);
        assert_eq!(take(&mut large).unwrap_err().code, Code::ResourceExhausted);
    }

    proptest! {
        #[test]
        fn frames_come_out_however_they_are_cut(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..10),
            cut in 1_usize..50,
        ) {
            let mut wire = Vec::new();
            for data in &messages {
                wire.extend_from_slice(&encode(&BytesMessage { data: data.clone().into() }));
            }
            let mut buffer = BytesMut::new();
            let mut found = Vec::new();
            for piece in wire.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(message) = take(&mut buffer).unwrap() {
                    found.push(BytesMessage::decode(message).unwrap().data.to_vec());
                }
            }
            prop_assert_eq!(found, messages);
            prop_assert!(buffer.is_empty());
        }
    }
}
