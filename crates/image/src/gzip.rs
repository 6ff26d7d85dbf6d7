//! Gzip on all processors: blocks are compressed beside each other and joined to one stream (RFC 1952, one member). What
//! comes out depends on what went in only, not on how many threads there are.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::thread::JoinHandle;

use flate2::{Compress, Compression, Crc, FlushCompress};

/// Bytes that one thread compresses.
const BLOCK: usize = 1 << 20;
/// Faster than the usual 6, and a few hundredths larger.
const LEVEL: u32 = 4;
/// Magic, deflate, no flags, no time, no hints, Unix.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];

/// A writer that compresses; [`Gzip::finish`] ends the stream.
pub(crate) struct Gzip<W: Write> {
    inner: W,
    block: Vec<u8>,
    crc: Crc,
    busy: VecDeque<JoinHandle<io::Result<Vec<u8>>>>,
    threads: usize,
}

fn compress(block: &[u8], flush: FlushCompress) -> io::Result<Vec<u8>> {
    let mut compress = Compress::new(Compression::new(LEVEL), false);
    let mut output = Vec::with_capacity(block.len() / 2 + 1024);
    loop {
        let consumed = usize::try_from(compress.total_in()).unwrap_or(usize::MAX);
        let before = output.len();
        compress.compress_vec(&block[consumed..], &mut output, flush).map_err(io::Error::other)?;
        // All is out once there was room left for more.
        if compress.total_in() == block.len() as u64
            && (output.len() < output.capacity() || output.len() == before)
        {
            return Ok(output);
        }
        output.reserve(block.len() / 2 + 1024);
    }
}

impl<W: Write> Gzip<W> {
    pub(crate) fn new(mut inner: W) -> io::Result<Self> {
        inner.write_all(&HEADER)?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { inner, block: Vec::with_capacity(BLOCK), crc: Crc::new(), busy: VecDeque::new(), threads })
    }

    fn next_block(&mut self, flush: FlushCompress) -> io::Result<()> {
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        let work = move || compress(&block, flush);
        self.busy.push_back(std::thread::Builder::new().name("deflate".to_owned()).spawn(work)?);
        if self.busy.len() > self.threads { self.write_first() } else { Ok(()) }
    }

    fn write_first(&mut self) -> io::Result<()> {
        let Some(first) = self.busy.pop_front() else { return Ok(()) };
        let packed = first.join().map_err(|_| io::Error::other("a block could not be compressed"))??;
        self.inner.write_all(&packed)
    }

    /// Writes what is left and the end of the stream.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.next_block(FlushCompress::Finish)?;
        while !self.busy.is_empty() {
            self.write_first()?;
        }
        self.inner.write_all(&self.crc.sum().to_le_bytes())?;
        self.inner.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.inner)
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = buffer.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&buffer[..n]);
        self.crc.update(&buffer[..n]);
        if self.block.len() == BLOCK {
            self.next_block(FlushCompress::Sync)?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_is_compressed_in_blocks_is_one_stream() {
        for size in [0, 1, BLOCK, BLOCK + 77] {
            let mut state = 1_u32;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            let plain: Vec<u8> = (0..size).map(|at| if at % 3 == 0 { next() } else { 7 }).collect();
            let mut gzip = Gzip::new(Vec::new()).unwrap();
            gzip.write_all(&plain).unwrap();
            let packed = gzip.finish().unwrap();
            let mut again = Vec::new();
            flate2::bufread::GzDecoder::new(packed.as_slice()).read_to_end(&mut again).unwrap();
            assert!(again == plain, "{size}");
        }
    }
}
