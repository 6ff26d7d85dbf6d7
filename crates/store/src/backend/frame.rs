//! Frames: of what the store's files are made.
//!
//! Each has a sum over itself and names the sum of the frame before it, so that a byte that changed, a frame that is missing and
//! one that stands in another place are found. What is read here is as hostile as any file: lengths are held against
//! what there is before anything is allocated.

use std::io::{self, Read};

use xxhash_rust::xxh3::xxh3_64;

/// The layout of the files; another layout gets another number.
pub(super) const FORMAT: u32 = 1;

/// The bytes before a frame's payload.
const HEADER: usize = 40;
/// No text has the last of these bytes, so that no value looks like a frame.
const MAGIC: [u8; 3] = [0xD7, b'y', 0xFF];

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Begins a file and says which it is.
    Head = b'h' as isize,
    /// Changes.
    Batch = b'b' as isize,
    /// Ends a picture.
    End = b'e' as isize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) revision: u64,
    length: u32,
    previous: u64,
    payload: u64,
    sum: u64,
}

impl Header {
    fn decode(bytes: &[u8; HEADER]) -> Option<Header> {
        let (body, sum) = bytes.split_last_chunk::<8>()?;
        let number = |at: usize| Some(u64::from_le_bytes(*body.get(at..)?.first_chunk()?));
        let sum = u64::from_le_bytes(*sum);
        let kind = match body.strip_prefix(&MAGIC)?.first()? {
            b'h' => Kind::Head,
            b'b' => Kind::Batch,
            b'e' => Kind::End,
            _ => return None,
        };
        let length = u32::from_le_bytes(*body.get(4..)?.first_chunk()?);
        let header =
            Header { kind, length, revision: number(8)?, previous: number(16)?, payload: number(24)?, sum };
        (xxh3_64(body) == sum).then_some(header)
    }
}

/// Makes frames that follow each other.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Chain(u64);

impl Chain {
    /// Begins a frame in an empty buffer; the payload is written behind what it holds then.
    pub(super) fn begin(buffer: &mut Vec<u8>) {
        buffer.clear();
        buffer.resize(HEADER, 0);
    }

    /// Completes the frame in a buffer and goes on behind it. Gives none when the payload is too long for a frame.
    pub(super) fn finish(self, buffer: &mut [u8], kind: Kind, revision: u64) -> Option<Chain> {
        let (header, payload) = buffer.split_at_mut_checked(HEADER)?;
        let length = u32::try_from(payload.len()).ok()?;
        header[..3].copy_from_slice(&MAGIC);
        header[3] = kind as u8;
        header[4..8].copy_from_slice(&length.to_le_bytes());
        header[8..16].copy_from_slice(&revision.to_le_bytes());
        header[16..24].copy_from_slice(&self.0.to_le_bytes());
        header[24..32].copy_from_slice(&xxh3_64(payload).to_le_bytes());
        let sum = xxh3_64(&header[..32]);
        header[32..].copy_from_slice(&sum.to_le_bytes());
        Some(Chain(sum))
    }
}

/// What comes next in a file.
pub(super) enum Next {
    Frame(Header, Vec<u8>),
    /// The file ends where a frame ends.
    End,
    /// What comes is no frame that belongs here.
    Bad,
}

/// Reads the frames of a file.
pub(super) struct Frames<R> {
    reader: R,
    left: u64,
    /// Where the frames end that were read.
    pub(super) offset: u64,
    pub(super) chain: Chain,
}

impl<R: Read> Frames<R> {
    /// Reads at most `length` bytes.
    pub(super) fn new(reader: R, length: u64) -> Frames<R> {
        Frames { reader, left: length, offset: 0, chain: Chain::default() }
    }

    /// The next frame, whose place and content are right.
    pub(super) fn next(&mut self) -> io::Result<Next> {
        if self.left == 0 {
            return Ok(Next::End);
        }
        let mut bytes = [0; HEADER];
        if self.left < HEADER as u64 {
            return Ok(Next::Bad);
        }
        self.reader.read_exact(&mut bytes)?;
        let left = self.left - HEADER as u64;
        let header = Header::decode(&bytes)
            .filter(|header| header.previous == self.chain.0 && u64::from(header.length) <= left);
        let Some(header) = header else { return Ok(Next::Bad) };
        let mut payload = vec![0; header.length as usize];
        self.reader.read_exact(&mut payload)?;
        if xxh3_64(&payload) != header.payload {
            return Ok(Next::Bad);
        }
        self.left = left - u64::from(header.length);
        self.offset += HEADER as u64 + u64::from(header.length);
        self.chain = Chain(header.sum);
        Ok(Next::Frame(header, payload))
    }
}

/// Whether a frame begins somewhere in these bytes: then what stands before it was written wholly once.
pub(super) fn any_begins(bytes: &[u8]) -> bool {
    let mut windows = bytes.windows(HEADER);
    windows.any(|window| {
        window.starts_with(&MAGIC)
            && window.first_chunk::<HEADER>().is_some_and(|header| Header::decode(header).is_some())
    })
}

/// Adds a change to the payload of a batch.
pub(super) fn put(payload: &mut Vec<u8>, key: &str, record: Option<&[u8]>) {
    let mut part = |part: &[u8]| {
        // No key and no value is nearly so long; a batch that is too long is refused as a whole.
        payload.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        payload.extend_from_slice(part);
    };
    part(key.as_bytes());
    // A record is never empty.
    part(record.unwrap_or_default());
}

/// Hands out the changes of a batch; gives none when the payload is something else.
pub(super) fn changes<'a, E>(
    mut payload: &'a [u8],
    mut visit: impl FnMut(&'a str, Option<&'a [u8]>) -> Result<(), E>,
) -> Option<Result<(), E>> {
    while !payload.is_empty() {
        let mut part = || {
            let (length, rest) = payload.split_first_chunk::<4>()?;
            let (part, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            payload = rest;
            Some(part)
        };
        let key = std::str::from_utf8(part()?).ok()?;
        let record = part()?;
        if let Err(error) = visit(key, (!record.is_empty()).then_some(record)) {
            return Some(Err(error));
        }
    }
    Some(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::{Chain, Frames, Kind, Next, any_begins, changes, put};

    fn frames() -> Vec<u8> {
        let mut file = Vec::new();
        let mut chain = Chain::default();
        for (number, kind) in [Kind::Head, Kind::Batch, Kind::Batch, Kind::End].into_iter().enumerate() {
            let mut buffer = Vec::new();
            Chain::begin(&mut buffer);
            put(&mut buffer, "/registry/a/b/c", (number != 2).then_some(b"value"));
            chain = chain.finish(&mut buffer, kind, number as u64).unwrap();
            file.extend_from_slice(&buffer);
        }
        file
    }

    /// How many frames are right, and whether the file ends behind them.
    fn read(file: &[u8]) -> (usize, bool) {
        let mut frames = Frames::new(file, file.len() as u64);
        let mut count = 0;
        loop {
            match frames.next().unwrap() {
                Next::Frame(header, payload) => {
                    assert_eq!(header.revision, count as u64);
                    let seen = changes(&payload, |key, record| {
                        assert_eq!(key, "/registry/a/b/c");
                        assert_eq!(record.is_some(), count != 2);
                        Ok::<(), ()>(())
                    });
                    assert_eq!(seen, Some(Ok(())));
                    count += 1;
                }
                Next::End => return (count, true),
                Next::Bad => return (count, false),
            }
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let file = frames();
        assert_eq!(read(&file), (4, true));
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (count, whole) = read(&flipped);
            assert!(count < 4 && !whole, "bit {bit}");
        }
        for length in 0..file.len() {
            assert!(read(&file[..length]).0 < 4);
        }
    }

    #[test]
    fn a_frame_in_another_place_is_found() {
        let file = frames();
        // The third is a delete, five bytes shorter than the others.
        let length = (file.len() + 5) / 4;
        let without_the_second = [&file[..length], &file[length * 2..]].concat();
        assert_eq!(read(&without_the_second), (1, false));
        assert!(any_begins(&file[1..]) && any_begins(&file[length..]));
        assert!(!any_begins(&file[file.len() - 20..]));
    }
}
