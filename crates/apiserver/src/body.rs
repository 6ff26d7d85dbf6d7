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

/// A body of bytes that are there.
pub(crate) fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of bytes that come.
pub(crate) fn stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> ResponseBody {
    StreamBody::new(stream.map(|bytes| Ok(Frame::data(bytes)))).boxed_unsync()
}

/// A body of parts, joined by commas between `head` and `tail`.
pub(crate) fn joined(head: Bytes, parts: Vec<Bytes>, tail: Bytes) -> ResponseBody {
    let commas = parts.len().saturating_sub(1);
    let left = head.len() + tail.len() + commas + parts.iter().map(Bytes::len).sum::<usize>();
    Joined { head: Some(head), parts: parts.into(), tail: Some(tail), left }.boxed_unsync()
}

struct Joined {
    head: Option<Bytes>,
    parts: VecDeque<Bytes>,
    tail: Option<Bytes>,
    left: usize,
}

const CHUNK: usize = 64 * 1024;

impl http_body::Body for Joined {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut chunk = BytesMut::with_capacity(self.left.min(CHUNK + 4096));
        if let Some(head) = self.head.take() {
            chunk.extend_from_slice(&head);
        }
        while chunk.len() < CHUNK {
            let Some(part) = self.parts.pop_front() else { break };
            chunk.extend_from_slice(&part);
            if !self.parts.is_empty() {
                chunk.extend_from_slice(b",");
            }
        }
        if self.parts.is_empty()
            && let Some(tail) = self.tail.take()
        {
            chunk.extend_from_slice(&tail);
        }
        self.left -= chunk.len();
        Poll::Ready(Some(Ok(Frame::data(chunk.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn joins_with_commas_and_knows_its_length() {
        for count in [0, 1, 3, 5000] {
            let parts = vec![Bytes::from(vec![b'x'; 40]); count];
            let body = joined("[".into(), parts, "]".into());
            let length = http_body::Body::size_hint(&body).exact().unwrap() as usize;
            let bytes = body.collect().await.unwrap().to_bytes();
            assert_eq!(bytes.len(), length);
            assert_eq!(bytes.iter().filter(|byte| **byte == b',').count(), count.saturating_sub(1));
        }
    }
}
