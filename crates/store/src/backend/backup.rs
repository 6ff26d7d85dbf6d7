//! Backups: everything that a store holds at one revision, and files that belong to it, as one file.
//!
//! They are taken from the files of an embedded store, whether a process has it open or not: what is behind the last whole
//! frame of the newest log was not acknowledged when the reading began. Values are copied as they lie there: sealed
//! ones stay sealed, and no key is needed.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::Path,
};

use super::{
    acknowledged,
    embedded::{LOG, NEW, PICTURE, file_path, numbers, sync_directory},
    frame::{self, Chain, Frames, Kind, Next},
    picture::{self, BATCH_BYTES, Content, Head},
};
use crate::{Encryption, Error, Key};

/// How far the revisions of a restored store are ahead of the backup's: whoever saw something that was written after it holds a
/// revision below, and is told to list again.
pub const REVISIONS_AHEAD: u64 = 1_000_000_000;

/// Before the names of files among the keys of values.
const FILE: &str = "file:";
/// How often the reading begins anew because a picture has made the files needless that were being read.
const ATTEMPTS: usize = 20;

/// Writes a backup of the store in `directory`, and of `files` by their names. Returns the revision that it has.
///
/// # Errors
/// `Damaged`, `Format`, `Io`; of `out` as `Io` with the path `to`.
pub fn take(
    directory: &Path,
    files: &[(String, Vec<u8>)],
    out: &mut impl Write,
    to: &Path,
) -> Result<u64, Error> {
    let (revision, records) = collect(directory)?;
    let mut write = || {
        let mut batches = Batches::new(Content::Backup, revision, out)?;
        for (name, content) in files {
            batches.put(&format!("{FILE}{name}"), content)?;
        }
        for (key, record) in &records {
            batches.put(key, record)?;
        }
        batches.end()
    };
    write().map_err(Error::io("write", to))?;
    Ok(revision)
}

/// Reads a backup to its end and checks everything that can be checked without its keys. Returns its revision.
///
/// # Errors
/// `Damaged`, `Format`, `Io`.
pub fn check(path: &Path) -> Result<u64, Error> {
    read(path, &mut |_, _| Ok(()))
}

/// Makes a store of a backup in a directory that does not exist or is empty, and hands the files that belong to it to
/// `file`. Nothing is made of a backup that is damaged. Returns the revision of the store.
///
/// # Errors
/// `Damaged`, `Format`, `NotEmpty`, `Io`; what `file` says.
pub fn restore(
    path: &Path,
    directory: &Path,
    file: &mut dyn FnMut(&str, &[u8]) -> io::Result<()>,
) -> Result<u64, Error> {
    let revision = check(path)?.saturating_add(REVISIONS_AHEAD);
    let failed = Error::io("write", directory);
    fs::create_dir_all(directory).map_err(&failed)?;
    if fs::read_dir(directory).map_err(&failed)?.next().is_some() {
        return Err(Error::NotEmpty { path: directory.to_path_buf() });
    }
    let picture = file_path(directory, 0, PICTURE);
    let new = picture.with_extension(NEW);
    let out = File::create(&new).map_err(&failed)?;
    let mut out = BufWriter::new(out);
    let mut batches = Batches::new(Content::Picture, revision, &mut out).map_err(&failed)?;
    read(path, &mut |key, record| {
        let put = match key.strip_prefix(FILE) {
            Some(name) => file(name, record),
            None => batches.put(key, record),
        };
        put.map_err(&failed)
    })?;
    batches.end().map_err(&failed)?;
    let finish = || {
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&new, &picture)?;
        sync_directory(directory)
    };
    finish().map_err(&failed)?;
    Ok(revision)
}

type Visit<'a> = &'a mut dyn FnMut(&str, &[u8]) -> Result<(), Error>;

fn read(path: &Path, visit: Visit<'_>) -> Result<u64, Error> {
    let failed = Error::io("read", path);
    let file = File::open(path).map_err(&failed)?;
    let length = file.metadata().map_err(&failed)?.len();
    read_from(BufReader::new(file), length, path, visit)
}

fn read_from(reader: impl Read, length: u64, path: &Path, visit: Visit<'_>) -> Result<u64, Error> {
    let failed = Error::io("read", path);
    let mut frames = Frames::new(reader, length);
    let damaged = |what: String| Error::Damaged { path: path.to_path_buf(), what };
    let revision = match picture::read_head(&mut frames, Content::Backup).map_err(&failed)? {
        Head::Is { revision, .. } => revision,
        Head::Unknown => return Err(Error::Format { path: path.to_path_buf() }),
        Head::Bad => return Err(damaged("it does not begin as a backup does".into())),
    };
    loop {
        let next = frames.next().map_err(&failed)?;
        let broken = || damaged(format!("it is not as it was written at byte {}", frames.offset));
        match next {
            Next::Frame(header, payload) if header.kind == Kind::Batch => {
                let read = frame::changes(&payload, |key, record| {
                    let record = record.unwrap_or_default();
                    let file = key.starts_with(FILE);
                    let known = file || Key::decode(key).is_some_and(|_| Encryption::is_record(record));
                    if known { visit(key, record) } else { Err(broken()) }
                });
                read.ok_or_else(broken)??;
            }
            Next::Frame(header, _) if header.kind == Kind::End => {
                let whole = matches!(frames.next().map_err(&failed)?, Next::End);
                return if whole { Ok(revision) } else { Err(damaged("something follows its end".into())) };
            }
            _ => return Err(broken()),
        }
    }
}

/// Writes a file of changes.
struct Batches<'a, W: Write> {
    out: &'a mut W,
    buffer: Vec<u8>,
    empty: usize,
    chain: Chain,
    revision: u64,
}

impl<'a, W: Write> Batches<'a, W> {
    fn new(content: Content, revision: u64, out: &'a mut W) -> io::Result<Batches<'a, W>> {
        let (mut buffer, chain) = picture::head(content, 0, revision);
        out.write_all(&buffer)?;
        Chain::begin(&mut buffer);
        let empty = buffer.len();
        Ok(Batches { out, buffer, empty, chain, revision })
    }

    fn put(&mut self, key: &str, record: &[u8]) -> io::Result<()> {
        frame::put(&mut self.buffer, key, Some(record));
        if self.buffer.len() >= BATCH_BYTES { self.frame(Kind::Batch) } else { Ok(()) }
    }

    fn frame(&mut self, kind: Kind) -> io::Result<()> {
        let chain = self.chain.finish(&mut self.buffer, kind, self.revision);
        self.chain = chain.ok_or_else(|| io::Error::other("a value is too long for a frame"))?;
        self.out.write_all(&self.buffer)?;
        Chain::begin(&mut self.buffer);
        Ok(())
    }

    fn end(mut self) -> io::Result<()> {
        if self.buffer.len() > self.empty {
            self.frame(Kind::Batch)?;
        }
        self.frame(Kind::End)?;
        self.out.flush()
    }
}

type Records = BTreeMap<String, Vec<u8>>;

fn collect(directory: &Path) -> Result<(u64, Records), Error> {
    for _ in 0..ATTEMPTS {
        if let Some(found) = try_collect(directory)? {
            return Ok(found);
        }
    }
    let changes = io::Error::new(io::ErrorKind::ResourceBusy, "its files change too fast");
    Err(Error::io("read", directory)(changes))
}

/// Reads the files of a store; gives none when they went away meanwhile.
fn try_collect(directory: &Path) -> Result<Option<(u64, Records)>, Error> {
    // Everything that was acknowledged by now is in the files that are listed next.
    let acknowledged = acknowledged::read(directory).map_err(Error::io("read", directory))?;
    let Some(acknowledged) = acknowledged else { return Ok(None) };
    let base = numbers(directory, PICTURE)?.last().copied();
    let mut logs = numbers(directory, LOG)?;
    logs.retain(|number| *number >= base.unwrap_or(0));
    let mut records = Records::new();
    let mut revision = 0;
    let files = base.into_iter().map(|number| (number, Content::Picture, PICTURE));
    let files = files.chain(logs.into_iter().map(|number| (number, Content::Log, LOG)));
    for (number, content, extension) in files {
        let path = file_path(directory, number, extension);
        let failed = Error::io("read", &path);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(&failed)?,
        };
        let length = file.metadata().map_err(&failed)?.len();
        let mut frames = Frames::new(BufReader::new(file), length);
        match picture::read_head(&mut frames, content).map_err(&failed)? {
            Head::Is { revision: begins, .. } => revision = revision.max(begins),
            Head::Unknown => return Err(Error::Format { path }),
            // A log that is being made.
            Head::Bad => break,
        }
        while let Next::Frame(header, payload) = frames.next().map_err(&failed)? {
            let read = frame::changes(&payload, |key, record| {
                match record {
                    Some(record) => records.insert(key.to_owned(), record.to_vec()),
                    None => records.remove(key),
                };
                Ok::<(), Error>(())
            });
            read.transpose()?;
            revision = revision.max(header.revision);
        }
    }
    if revision < acknowledged {
        let what =
            format!("its files end at revision {revision}, and revision {acknowledged} was acknowledged");
        return Err(Error::Damaged { path: directory.to_path_buf(), what });
    }
    Ok(Some((revision, records)))
}

/// What the fuzzer gives to the reader of backups.
#[doc(hidden)]
pub fn check_bytes(bytes: &[u8]) -> Result<u64, Error> {
    read_from(bytes, bytes.len() as u64, Path::new("backup"), &mut |_, _| Ok(()))
}
