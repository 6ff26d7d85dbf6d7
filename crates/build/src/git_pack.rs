//! Pack files of git (gitformat-pack(5)): objects, whole or as differences from others, found by their digest.
//!
//! What a server sends is hostile: every length is bounded, chains of differences are short, and an object is only given
//! out under the digest that its bytes have.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt as _;

use flate2::read::ZlibDecoder;
use sha1_checked::{Digest as _, Sha1};

/// Largest object, in bytes.
const LARGEST: u64 = 512 << 20;
/// Most objects of one pack.
const MOST: u32 = 4_000_000;
/// Longest chain of differences; git makes 50 at most unless told otherwise.
const LONGEST_CHAIN: usize = 4096;

/// An object's digest.
pub(crate) type ObjectId = [u8; 20];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ObjectKind {
    Commit,
    Tree,
    Blob,
    Tag,
}

impl ObjectKind {
    fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Tree => "tree",
            Self::Blob => "blob",
            Self::Tag => "tag",
        }
    }
}

#[derive(Clone, Copy)]
enum Stored {
    Whole(ObjectKind),
    /// The difference from the object at an offset.
    From(u64),
    FromId(ObjectId),
}

#[derive(Clone, Copy)]
struct Entry {
    stored: Stored,
    data: u64,
    size: u64,
}

/// A pack in a file.
pub(crate) struct Pack {
    file: File,
    entries: HashMap<u64, Entry>,
    by_id: HashMap<ObjectId, u64>,
}

fn damaged(why: &str) -> String {
    format!("the pack is damaged: {why}")
}

/// Reads a file from a place, and counts how much was read.
struct At<'a> {
    file: &'a File,
    at: u64,
    held: Vec<u8>,
    used: usize,
}

impl<'a> At<'a> {
    fn new(file: &'a File, at: u64) -> Self {
        Self { file, at, held: Vec::new(), used: 0 }
    }

    fn position(&self) -> u64 {
        self.at - (self.held.len() - self.used) as u64
    }

    fn byte(&mut self) -> Result<u8, String> {
        let mut byte = [0];
        self.read_exact(&mut byte).map_err(|_| damaged("it ends early"))?;
        Ok(byte[0])
    }
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.used == self.held.len() {
            self.held.resize(32 * 1024, 0);
            let n = self.file.read_at(&mut self.held, self.at)?;
            self.held.truncate(n);
            self.at += n as u64;
            self.used = 0;
        }
        let n = buffer.len().min(self.held.len() - self.used);
        buffer[..n].copy_from_slice(&self.held[self.used..self.used + n]);
        self.used += n;
        Ok(n)
    }
}

impl Pack {
    /// Reads the whole pack once, and knows its objects then.
    pub(crate) fn open(file: File) -> Result<Self, String> {
        let mut head = [0; 12];
        file.read_exact_at(&mut head, 0).map_err(|_| damaged("it ends early"))?;
        let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if &head[..4] != b"PACK" || number(4) != 2 {
            return Err(damaged("it is no pack of version 2"));
        }
        let count = number(8);
        if count > MOST {
            return Err(format!("the pack has more than {MOST} objects"));
        }
        let mut pack = Self { file, entries: HashMap::new(), by_id: HashMap::new() };
        let mut at = 12;
        for _ in 0..count {
            at = pack.scan(at)?;
        }
        let offsets: Vec<u64> = pack.entries.keys().copied().collect();
        // A difference from an object by its digest waits until that is known.
        let mut waiting = offsets;
        loop {
            let before = waiting.len();
            let mut left = Vec::new();
            for offset in waiting {
                match pack.read_at(offset)? {
                    Some((kind, bytes)) => {
                        let id = object_id(kind, &bytes)?;
                        pack.by_id.insert(id, offset);
                    }
                    None => left.push(offset),
                }
            }
            if left.is_empty() {
                return Ok(pack);
            }
            if left.len() == before {
                return Err(damaged("an object builds on one that is not there"));
            }
            waiting = left;
        }
    }

    /// Notes the entry at an offset; answers where the next one is.
    fn scan(&mut self, offset: u64) -> Result<u64, String> {
        let mut from = At::new(&self.file, offset);
        let first = from.byte()?;
        let (mut size, mut shift, mut byte) = (u64::from(first & 15), 4, first);
        while byte & 0x80 != 0 {
            byte = from.byte()?;
            size |=
                u64::from(byte & 0x7f).checked_shl(shift).ok_or_else(|| damaged("a size is too large"))?;
            shift += 7;
            if shift > 60 {
                return Err(damaged("a size is too large"));
            }
        }
        if size > LARGEST {
            return Err(format!("an object is larger than {LARGEST} bytes"));
        }
        let stored = match (first >> 4) & 7 {
            1 => Stored::Whole(ObjectKind::Commit),
            2 => Stored::Whole(ObjectKind::Tree),
            3 => Stored::Whole(ObjectKind::Blob),
            4 => Stored::Whole(ObjectKind::Tag),
            6 => {
                let mut byte = from.byte()?;
                let mut back = u64::from(byte & 0x7f);
                while byte & 0x80 != 0 {
                    byte = from.byte()?;
                    let next = back.checked_add(1).and_then(|back| back.checked_mul(128));
                    let next = next.ok_or_else(|| damaged("an offset is too large"))?;
                    back = next | u64::from(byte & 0x7f);
                }
                Stored::From(offset.checked_sub(back).ok_or_else(|| damaged("an offset is too large"))?)
            }
            7 => {
                let mut id = [0; 20];
                from.read_exact(&mut id).map_err(|_| damaged("it ends early"))?;
                Stored::FromId(id)
            }
            _ => return Err(damaged("an object of no kind")),
        };
        let data = from.position();
        let mut inflated = ZlibDecoder::new(At::new(&self.file, data));
        let n = std::io::copy(&mut Read::by_ref(&mut inflated).take(size + 1), &mut std::io::sink());
        if n.map_err(|_| damaged("an object does not inflate"))? != size {
            return Err(damaged("an object has another size than it says"));
        }
        let end = data + inflated.total_in();
        self.entries.insert(offset, Entry { stored, data, size });
        Ok(end)
    }

    fn inflate(&self, entry: Entry) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let inflated = ZlibDecoder::new(At::new(&self.file, entry.data));
        inflated.take(entry.size).read_to_end(&mut bytes).map_err(|error| damaged(&error.to_string()))?;
        Ok(bytes)
    }

    /// The object at an offset; none when what it builds on is not known yet.
    fn read_at(&self, offset: u64) -> Result<Option<(ObjectKind, Vec<u8>)>, String> {
        let mut chain = Vec::new();
        let mut at = offset;
        let (kind, mut bytes) = loop {
            let entry = self.entries.get(&at).copied().ok_or_else(|| damaged("an offset leads nowhere"))?;
            let base = match entry.stored {
                Stored::Whole(kind) => break (kind, self.inflate(entry)?),
                Stored::From(base) => base,
                Stored::FromId(id) => match self.by_id.get(&id) {
                    Some(base) => *base,
                    None => return Ok(None),
                },
            };
            chain.push(entry);
            if chain.len() > LONGEST_CHAIN {
                return Err(damaged("a chain of differences is too long"));
            }
            at = base;
        };
        for entry in chain.into_iter().rev() {
            bytes = apply(&bytes, &self.inflate(entry)?)?;
        }
        Ok(Some((kind, bytes)))
    }

    /// The object of this digest.
    pub(crate) fn read(&self, id: &ObjectId) -> Result<(ObjectKind, Vec<u8>), String> {
        let offset = self.by_id.get(id).ok_or_else(|| format!("object {} is missing", hex(id)))?;
        self.read_at(*offset)?.ok_or_else(|| damaged("an object builds on one that is not there"))
    }

    /// All objects.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &ObjectId> {
        self.by_id.keys()
    }
}

/// The digest of an object; bytes that were made to collide with others are refused.
fn object_id(kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId, String> {
    let mut hash = Sha1::new();
    hash.update(format!("{} {}\0", kind.name(), bytes.len()));
    hash.update(bytes);
    let result = hash.try_finalize();
    if result.has_collision() {
        return Err("an object was made to have the digest of another one".to_owned());
    }
    Ok((*result.hash()).into())
}

/// An object as git keeps it in a file of its own.
pub(crate) fn loose(kind: ObjectKind, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    use std::io::Write as _;
    let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(format!("{} {}\0", kind.name(), bytes.len()).as_bytes())?;
    out.write_all(bytes)?;
    out.finish()
}

pub(crate) fn hex(id: &ObjectId) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn parse_id(text: &str) -> Option<ObjectId> {
    if text.len() != 40 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut id = [0; 20];
    for (byte, at) in id.iter_mut().zip((0..40).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(id)
}

/// An object made of another one and the difference.
fn apply(base: &[u8], delta: &[u8]) -> Result<Vec<u8>, String> {
    let bad = || damaged("a difference makes no sense");
    let mut rest = delta.iter().copied();
    let mut number = || {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let byte = rest.next()?;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return Some(value);
            }
            if shift > 56 {
                return None;
            }
        }
    };
    let (from, to) = (number().ok_or_else(bad)?, number().ok_or_else(bad)?);
    if from != base.len() as u64 || to > LARGEST {
        return Err(bad());
    }
    let mut out = Vec::with_capacity(usize::try_from(to).unwrap_or(0).min(1 << 20));
    while let Some(command) = rest.next() {
        if command & 0x80 != 0 {
            let (mut offset, mut size) = (0_usize, 0_usize);
            for bit in 0..4 {
                if command & (1 << bit) != 0 {
                    offset |= usize::from(rest.next().ok_or_else(bad)?) << (8 * bit);
                }
            }
            for bit in 0..3 {
                if command & (0x10 << bit) != 0 {
                    size |= usize::from(rest.next().ok_or_else(bad)?) << (8 * bit);
                }
            }
            let size = if size == 0 { 0x10000 } else { size };
            let end = offset.checked_add(size).ok_or_else(bad)?;
            out.extend_from_slice(base.get(offset..end).ok_or_else(bad)?);
        } else if command != 0 {
            let wanted = usize::from(command);
            let before = out.len();
            out.extend(rest.by_ref().take(wanted));
            if out.len() - before != wanted {
                return Err(bad());
            }
        } else {
            return Err(bad());
        }
        if out.len() as u64 > to {
            return Err(bad());
        }
    }
    if out.len() as u64 == to { Ok(out) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_copy_and_insert() {
        let delta = [11, 9, 0x91, 6, 5, 4, b' ', b'y', b'o', b'u'];
        assert_eq!(apply(b"hello world", &delta).unwrap(), b"world you");
        assert!(apply(b"hello", &delta).is_err());
        assert!(apply(b"hello world", &delta[..9]).is_err());
        assert!(apply(b"hello world", &[11, 5, 0x91, 8, 5]).is_err(), "it reads behind the end");
        assert!(apply(b"", &[0, 0, 0]).is_err());
    }

    #[test]
    fn digests_are_gits() {
        let id = object_id(ObjectKind::Blob, b"hello\n").unwrap();
        assert_eq!(hex(&id), "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(parse_id(&hex(&id)), Some(id));
        assert_eq!(parse_id("ä"), None);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(base in proptest::collection::vec(0_u8.., 0..40), delta in proptest::collection::vec(0_u8.., 0..60)) {
            let _ = apply(&base, &delta);
            let mut bytes = b"PACK\0\0\0\x02\0\0\0\x03".to_vec();
            bytes.extend_from_slice(&delta);
            let mut file = tempfile::tempfile().unwrap();
            std::io::Write::write_all(&mut file, &bytes).unwrap();
            let _ = Pack::open(file);
        }
    }
}
