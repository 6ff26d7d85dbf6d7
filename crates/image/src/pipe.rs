//! Chunks of bytes from one thread to the next, bounded, as a reader.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::{Buf, Bytes};

/// Chunks that one thread may be ahead of the next.
const AHEAD: usize = 16;
/// Bytes of a chunk that is made here.
pub(crate) const CHUNK: usize = 256 * 1024;

/// The reading end. It ends when the writing end is dropped.
pub(crate) struct PipeReader {
    receiver: Receiver<Bytes>,
    current: Bytes,
}

pub(crate) fn pipe() -> (SyncSender<Bytes>, PipeReader) {
    let (sender, receiver) = sync_channel(AHEAD);
    (sender, PipeReader { receiver, current: Bytes::new() })
}

impl PipeReader {
    /// The chunks as they come.
    pub(crate) fn into_chunks(self) -> impl Iterator<Item = Bytes> {
        std::iter::once(self.current).chain(self.receiver).filter(|chunk| !chunk.is_empty())
    }
}

impl BufRead for PipeReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            match self.receiver.recv() {
                Ok(chunk) => self.current = chunk,
                Err(_) => break,
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        self.current.advance(amount);
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buffer.len());
        buffer[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

/// Reads a whole chunk unless the end comes before.
pub(crate) fn read_chunk(reader: &mut impl Read) -> io::Result<Bytes> {
    let mut chunk = Vec::with_capacity(CHUNK);
    reader.take(CHUNK as u64).read_to_end(&mut chunk)?;
    Ok(chunk.into())
}
