//! Between threads that read or write and tasks that send or receive.

use std::io::{self, Read, Write};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

/// Pieces that wait.
const AHEAD: usize = 16;
/// Bytes of one piece.
const PIECE: usize = 64 * 1024;

/// What a task receives, for a thread to read.
pub(crate) struct PipeReader {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

/// The sending side of [`PipeReader`].
pub(crate) fn reader() -> (mpsc::Sender<io::Result<Bytes>>, PipeReader) {
    let (sender, pieces) = mpsc::channel(AHEAD);
    (sender, PipeReader { pieces, piece: Bytes::new() })
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let n = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

/// What a thread writes, for a task to send.
pub(crate) struct PipeWriter {
    pieces: mpsc::Sender<Bytes>,
    piece: Vec<u8>,
}

/// The receiving side of [`PipeWriter`].
pub(crate) fn writer() -> (PipeWriter, mpsc::Receiver<Bytes>) {
    let (pieces, receiver) = mpsc::channel(AHEAD);
    (PipeWriter { pieces, piece: Vec::with_capacity(PIECE) }, receiver)
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..n]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.pieces.blocking_send(piece.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_come_through_whole() {
        let sent: Vec<u8> = (0..300_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let (mut pipe, mut pieces) = writer();
        let (to_reader, mut from_writer) = reader();
        let expected = sent.clone();
        let writing = tokio::task::spawn_blocking(move || {
            pipe.write_all(&sent).unwrap();
            pipe.flush().unwrap();
        });
        let reading = tokio::task::spawn_blocking(move || {
            let mut received = Vec::new();
            from_writer.read_to_end(&mut received).unwrap();
            received
        });
        while let Some(piece) = pieces.recv().await {
            to_reader.send(Ok(piece)).await.unwrap();
        }
        drop(to_reader);
        writing.await.unwrap();
        assert_eq!(reading.await.unwrap(), expected);
    }
}
