//! Pictures: everything that is stored at one revision, as a file. Checkpoints of the log are such files, and backups.

use std::io::{self, Read, Write};

use super::frame::{self, Chain, FORMAT, Frames, Kind, Next};
use crate::{Encryption, Entry, Error, Key, Snapshot};

/// What a file's first frame calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Picture = 1,
    Log = 2,
    Backup = 3,
}

/// The most bytes of values in one frame of a picture, unless one value is larger.
pub(super) const BATCH_BYTES: usize = 1024 * 1024;

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
pub(super) fn write(
    picture: &Snapshot,
    number: u64,
    encryption: &Encryption,
    out: &mut impl Write,
) -> io::Result<()> {
    let revision = picture.revision();
    let too_long = || io::Error::other("a value is too long for a frame");
    let (mut buffer, mut chain) = head(Content::Picture, number, revision);
    out.write_all(&buffer)?;
    Chain::begin(&mut buffer);
    let empty = buffer.len();
    let mut text = Vec::new();
    for (key, entry) in picture.all() {
        text.clear();
        entry.encode(&mut text);
        let record = encryption.seal(&key, &text).map_err(io::Error::other)?;
        frame::put(&mut buffer, &key.encode(), Some(&record));
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

/// Who takes in what is read.
pub(super) struct Loading<'a> {
    pub(super) encryption: &'a Encryption,
    pub(super) visit: &'a mut dyn FnMut(Key, Option<Entry>),
    /// Whether something was read that would be written in another way now.
    pub(super) stale: bool,
}

impl Loading<'_> {
    /// Takes in the changes of a frame; gives none when it has something else.
    ///
    /// # Errors
    /// `Sealed`.
    pub(super) fn batch(&mut self, payload: &[u8]) -> Option<Result<(), Error>> {
        let mut known = true;
        let read = frame::changes(payload, |key, record| {
            let Some(key) = Key::decode(key) else {
                known = false;
                return Ok(());
            };
            let opened = record.map(|record| self.encryption.open(&key, record)).transpose()?;
            let entry = opened.map(|(text, stale)| {
                self.stale |= stale;
                Entry::decode(&text)
            });
            match entry {
                Some(None) => known = false,
                Some(entry) => (self.visit)(key, entry),
                None => (self.visit)(key, None),
            }
            Ok(())
        });
        read.filter(|_| known)
    }

    /// Takes in a picture behind its head; says whether it is whole.
    ///
    /// # Errors
    /// `Sealed`, and those that `failed` makes of the system's.
    pub(super) fn picture<R: Read>(
        &mut self,
        frames: &mut Frames<R>,
        failed: impl Fn(io::Error) -> Error,
    ) -> Result<bool, Error> {
        loop {
            match frames.next().map_err(&failed)? {
                Next::Frame(header, payload) if header.kind == Kind::Batch => match self.batch(&payload) {
                    Some(read) => read?,
                    None => return Ok(false),
                },
                Next::Frame(header, _) if header.kind == Kind::End => {
                    return Ok(matches!(frames.next().map_err(&failed)?, Next::End));
                }
                _ => return Ok(false),
            }
        }
    }
}
