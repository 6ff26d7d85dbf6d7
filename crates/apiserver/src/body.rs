//! Bodies of responses: nothing, bytes, lists of stored values sent without decoding, and streams.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};

/// Any error of a body.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every response.
pub type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// What comes with a request.
pub(crate) enum Sent {
    /// All of it.
    Whole(Bytes),
    /// What goes on to others as it comes.
    Coming(ResponseBody),
}

impl Sent {
    /// What of it is there: of what goes on to others, nothing.
    pub(crate) fn bytes(&self) -> Bytes {
        match self {
            Sent::Whole(bytes) => bytes.clone(),
            Sent::Coming(_) => Bytes::new(),
        }
    }

    pub(crate) fn into_body(self) -> ResponseBody {
        match self {
            Sent::Whole(bytes) => full(bytes),
            Sent::Coming(body) => body,
        }
    }
}

/// A body of bytes that are there.
pub(crate) fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of bytes that come.
pub(crate) fn stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> ResponseBody {
    StreamBody::new(stream.map(|bytes| Ok(Frame::data(bytes)))).boxed_unsync()
}

/// A body of parts, one after the other, copied nowhere.
pub(crate) fn parts(parts: Vec<Bytes>) -> ResponseBody {
    let left = parts.iter().map(Bytes::len).sum();
    Parts { parts: parts.into(), left }.boxed_unsync()
}

struct Parts {
    parts: VecDeque<Bytes>,
    left: usize,
}

/// Parts shorter than this are copied together: each costs its way through the connection.
const SMALL: usize = 1024;
const CHUNK: usize = 16 * 1024;

impl http_body::Body for Parts {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(first) = self.parts.pop_front() else { return Poll::Ready(None) };
        let is_small = |part: Option<&Bytes>| part.is_some_and(|part| part.len() < SMALL);
        let frame = if first.len() < SMALL && is_small(self.parts.front()) {
            let mut chunk = BytesMut::with_capacity(CHUNK + SMALL);
            chunk.extend_from_slice(&first);
            while chunk.len() < CHUNK && is_small(self.parts.front()) {
                let Some(part) = self.parts.pop_front() else { break };
                chunk.extend_from_slice(&part);
            }
            chunk.freeze()
        } else {
            first
        };
        self.left -= frame.len();
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn parts_come_in_order_and_their_length_is_known() {
        for length in [1, 40, SMALL, 5000] {
            for count in [0, 1, 3, 500] {
                let all: Vec<Bytes> =
                    (0..count).map(|number| Bytes::from(vec![(number % 256) as u8; length])).collect();
                let expected = all.concat();
                let body = parts(all);
                assert_eq!(http_body::Body::size_hint(&body).exact(), Some(expected.len() as u64));
                assert_eq!(body.collect().await.unwrap().to_bytes(), expected);
            }
        }
    }
}
