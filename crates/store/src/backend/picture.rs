//! Pictures: everything that is stored at one revision, as a file. Checkpoints of the log are such files, and backups.

use std::io::{self, Read, Write};

use super::frame::{self, Chain, FORMAT, Frames, Kind, Next};
use crate::{Entry, Key, Snapshot};

/// What a file's first frame calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Picture = 1,
    Log = 2,
}

/// The most bytes of values in one frame of a picture, unless one value is larger.
const BATCH_BYTES: usize = 1024 * 1024;

/// A file's first frame.
pub(super) fn head(content: Content, number: u64, revision: u64) -> (Vec<u8>, Chain) {
    let mut buffer = Vec::new();
    Chain::begin(&mut buffer);
    buffer.extend_from_slice(&FORMAT.to_le_bytes());
    buffer.push(content as u8);
    buffer.extend_from_slice(&number.to_le_bytes());
    // The payload is short.
    let chain = Chain::default().finish(&mut buffer, Kind::Head, revision).unwrap_or_default();
    (buffer, chain)
}

/// What a first frame says.
pub(super) enum Head {
    /// The number and the revision of a file of the expected content.
    Is { number: u64, revision: u64 },
    /// A layout that is not known here.
    Unknown,
    /// No file of that content begins so.
    Bad,
}

/// Reads a file's first frame.
pub(super) fn read_head<R: Read>(frames: &mut Frames<R>, content: Content) -> io::Result<Head> {
    let Next::Frame(header, payload) = frames.next()? else { return Ok(Head::Bad) };
    let Some((format, rest)) = payload.split_first_chunk::<4>().filter(|_| header.kind == Kind::Head) else {
        return Ok(Head::Bad);
    };
    if u32::from_le_bytes(*format) != FORMAT {
        return Ok(Head::Unknown);
    }
    let Some((first, rest)) = rest.split_first() else { return Ok(Head::Bad) };
    let Ok(number) = <[u8; 8]>::try_from(rest) else { return Ok(Head::Bad) };
    if *first != content as u8 {
        return Ok(Head::Bad);
    }
    Ok(Head::Is { number: u64::from_le_bytes(number), revision: header.revision })
}

/// Writes a picture. The end says that it is whole.
pub(super) fn write(picture: &Snapshot, number: u64, out: &mut impl Write) -> io::Result<()> {
    let revision = picture.revision();
    let too_long = || io::Error::other("a value is too long for a frame");
    let (mut buffer, mut chain) = head(Content::Picture, number, revision);
    out.write_all(&buffer)?;
    Chain::begin(&mut buffer);
    let empty = buffer.len();
    for (key, entry) in picture.all() {
        frame::put(&mut buffer, &key.encode(), Some(&entry.encode()));
        if buffer.len() >= BATCH_BYTES {
            chain = chain.finish(&mut buffer, Kind::Batch, revision).ok_or_else(too_long)?;
            out.write_all(&buffer)?;
            Chain::begin(&mut buffer);
        }
    }
    if buffer.len() > empty {
        chain = chain.finish(&mut buffer, Kind::Batch, revision).ok_or_else(too_long)?;
        out.write_all(&buffer)?;
        Chain::begin(&mut buffer);
    }
    chain.finish(&mut buffer, Kind::End, revision).ok_or_else(too_long)?;
    out.write_all(&buffer)
}

/// Reads the changes of a frame.
pub(super) fn read_batch(payload: &[u8], visit: &mut dyn FnMut(Key, Option<Entry>)) -> Option<()> {
    let read = frame::changes(payload, |key, record| {
        let key = Key::decode(key).ok_or(())?;
        let entry = record.map(|record| Entry::decode(record).ok_or(())).transpose()?;
        visit(key, entry);
        Ok::<(), ()>(())
    });
    read?.ok()
}

/// Reads a picture behind its head; says whether it is whole.
pub(super) fn read<R: Read>(
    frames: &mut Frames<R>,
    visit: &mut dyn FnMut(Key, Option<Entry>),
) -> io::Result<bool> {
    loop {
        match frames.next()? {
            Next::Frame(header, payload) if header.kind == Kind::Batch => {
                if read_batch(&payload, visit).is_none() {
                    return Ok(false);
                }
            }
            Next::Frame(header, _) if header.kind == Kind::End => {
                return Ok(matches!(frames.next()?, Next::End));
            }
            _ => return Ok(false),
        }
    }
}
