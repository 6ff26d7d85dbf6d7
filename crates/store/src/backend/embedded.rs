//! The store's own files: a log of commits, and pictures from which the log goes on.
//!
//! All values are in memory anyway, so that the disk needs to do one thing only: to take a batch with one write and one sync.
//! A commit is a frame at the end of the newest log. When the logs have grown, the next log begins, and a thread writes the
//! picture at its beginning beside the commits; once that is on the disk, the files before it go.
//!
//! At the start the newest picture is read and every log from it on. An unfinished frame at the end of the newest log is
//! what a crash leaves, and is cut off; anything else that is not as it was written is told, and nothing is changed.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufReader, BufWriter, Read as _, Seek as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    Backend, Change, Done, Loaded,
    acknowledged::Acknowledged,
    frame::{self, Chain, Frames, Kind, Next},
    picture::{self, Content, Head, Loading},
};
use crate::{Encryption, Entry, Error, Key, Snapshot};

pub(super) const LOG: &str = "log";
pub(super) const PICTURE: &str = "picture";
/// The length of a log that has only its first frame.
const EMPTY_LOG: u64 = 53;
/// How long a start waits for the end of who had the store open.
const PATIENCE: Duration = Duration::from_secs(2);
/// A file that is being written.
pub(super) const NEW: &str = "new";

/// The store in one directory.
pub struct Embedded {
    path: PathBuf,
    /// A picture is due when the logs since the last have more bytes than this and than all values.
    log_bytes: u64,
    encryption: Encryption,
    acknowledged: Acknowledged,
    log: Option<Log>,
    /// The logs' bytes since the last picture.
    since_picture: u64,
    /// After a picture that failed: no other before the logs have so many bytes.
    not_before: u64,
    writing: Option<JoinHandle<bool>>,
    /// Held as long as the store is open.
    _lock: File,
}

/// The newest log.
struct Log {
    number: u64,
    file: File,
    path: PathBuf,
    /// The end of the last frame that is durable.
    length: u64,
    chain: Chain,
    revision: u64,
    buffer: Vec<u8>,
}

impl Embedded {
    /// Opens or makes the store in `path`. A picture is written whenever its logs have more than `log_bytes` bytes,
    /// and more than all values.
    ///
    /// # Errors
    /// `Locked`, `Format`, `Io`.
    pub fn open(path: &Path, log_bytes: u64, encryption: Encryption) -> Result<Embedded, Error> {
        fs::create_dir_all(path).map_err(Error::io("make", path))?;
        let lock = path.join("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&lock);
        let file = file.map_err(Error::io("open", &lock))?;
        hold(&file, path)?;
        // What the first versions kept their files by.
        if path.join("keyspaces").exists() {
            return Err(Error::Format { path: path.to_path_buf() });
        }
        let acknowledged = Acknowledged::open(path).map_err(Error::io("open", &path.join("acknowledged")))?;
        Ok(Embedded {
            path: path.to_path_buf(),
            log_bytes,
            encryption,
            acknowledged,
            log: None,
            since_picture: 0,
            not_before: 0,
            writing: None,
            _lock: file,
        })
    }

    /// Reads the log `number`, which goes on from `revision`. `newest` says whether its end may be torn.
    fn read_log(
        &self,
        number: u64,
        revision: u64,
        newest: bool,
        loading: &mut Loading<'_>,
    ) -> Result<Log, Error> {
        let path = file_path(&self.path, number, LOG);
        let failed = Error::io("read", &path);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(&failed)?;
        let length = file.metadata().map_err(&failed)?.len();
        let mut frames = Frames::new(BufReader::new(&file), length);
        let damaged = |offset: u64, what: &str| Error::Damaged {
            path: path.clone(),
            what: format!("{what} at byte {offset}"),
        };
        let mut at = revision;
        let mut torn = false;
        match picture::read_head(&mut frames, Content::Log).map_err(&failed)? {
            Head::Is { number: said, revision: begins } if said == number && begins == revision => {}
            Head::Is { .. } => return Err(damaged(0, "another log begins")),
            Head::Unknown => return Err(Error::Format { path }),
            Head::Bad => torn = true,
        }
        while !torn {
            match frames.next().map_err(&failed)? {
                Next::Frame(header, payload) => {
                    let right = header.kind == Kind::Batch && header.revision > at;
                    let read = right.then(|| loading.batch(&payload)).flatten();
                    read.ok_or_else(|| damaged(frames.offset, "something else than a commit ends"))??;
                    at = header.revision;
                }
                Next::End => break,
                Next::Bad => torn = true,
            }
        }
        let (offset, chain) = (frames.offset, frames.chain);
        drop(frames);
        if torn && (!newest || goes_on_behind(&file, offset).map_err(&failed)?) {
            return Err(damaged(offset, "a commit is not as it was written"));
        }
        Ok(Log { number, file, path, length: offset, chain, revision: at, buffer: Vec::new() })
    }

    /// Ends the log and begins the next, and lets a thread write the picture between them.
    fn begin_picture(&mut self, picture: &Snapshot, done: Done) {
        let number = self.log.as_ref().map_or(0, |log| log.number + 1);
        let log = match Log::make(&self.path, number, picture.revision()) {
            Ok(log) => log,
            Err(error) => return done(Err(error)),
        };
        self.since_picture += log.length;
        self.log = Some(log);
        let (path, picture, encryption) = (self.path.clone(), picture.clone(), self.encryption.clone());
        let write = move || {
            let written = write_picture(&path, number, &picture, &encryption);
            let outcome = written.and_then(|()| remove_before(&path, number));
            let is_written = outcome.is_ok();
            done(outcome);
            is_written
        };
        match thread::Builder::new().name("store-picture".into()).spawn(write) {
            Ok(thread) => self.writing = Some(thread),
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "cannot start what writes a picture");
            }
        }
    }

    /// Looks what became of a picture, and waits for it where that is asked.
    fn finish_picture(&mut self, wait: bool) {
        if let Some(thread) = self.writing.take_if(|thread| wait || thread.is_finished())
            && thread.join().unwrap_or_default()
        {
            self.since_picture = self.log.as_ref().map_or(0, |log| log.length);
        }
    }

    /// Begins a picture when one is due.
    fn keep_short(&mut self, picture: &Snapshot) {
        self.finish_picture(false);
        let due = self.log_bytes.max(picture.bytes()).max(self.not_before);
        if self.writing.is_some() || self.since_picture <= due {
            return;
        }
        // Should it fail, the logs only grow.
        self.not_before = self.since_picture + self.log_bytes;
        self.begin_picture(
            picture,
            Box::new(|outcome| {
                if let Err(error) = outcome {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot write a picture");
                }
            }),
        );
    }
}

impl Log {
    /// Makes a log, durable when it returns. One of that number that holds nothing is made again.
    fn make(directory: &Path, number: u64, revision: u64) -> Result<Log, Error> {
        let path = file_path(directory, number, LOG);
        let (head, chain) = picture::head(Content::Log, number, revision);
        let make = || {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
            file.write_all_at(&head, 0)?;
            file.sync_all()?;
            sync_directory(directory)?;
            Ok(file)
        };
        let file = make().map_err(Error::io("make", &path))?;
        Ok(Log { number, file, path, length: head.len() as u64, chain, revision, buffer: Vec::new() })
    }

    fn append(&mut self, revision: u64, changes: &[Change], encryption: &Encryption) -> io::Result<()> {
        Chain::begin(&mut self.buffer);
        let mut text = Vec::new();
        for Change { key, entry } in changes {
            let record = entry.as_ref().map(|entry| {
                text.clear();
                entry.encode(&mut text);
                encryption.seal(key, &text).map_err(io::Error::other)
            });
            let record = record.transpose()?;
            frame::put(&mut self.buffer, &key.encode(), record.as_deref());
        }
        let chain = self.chain.finish(&mut self.buffer, Kind::Batch, revision);
        let chain = chain.ok_or_else(|| io::Error::other("the batch is too long for a frame"))?;
        self.file.write_all_at(&self.buffer, self.length)?;
        self.file.sync_data()?;
        self.length += self.buffer.len() as u64;
        (self.chain, self.revision) = (chain, revision);
        Ok(())
    }

    /// Cuts off what stands behind the last frame that is durable.
    fn cut(&self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.sync_all()
    }
}

impl Backend for Embedded {
    fn load(&mut self, visit: &mut dyn FnMut(Key, Option<Entry>)) -> Result<Loaded, Error> {
        let encryption = self.encryption.clone();
        let mut loading = Loading { encryption: &encryption, visit, stale: false };
        let damaged = |what: String| Error::Damaged { path: self.path.clone(), what };
        let base = numbers(&self.path, PICTURE)?.last().copied();
        let mut revision = 0;
        if let Some(base) = base {
            let path = file_path(&self.path, base, PICTURE);
            revision = read_picture(&path, base, &mut loading)?;
        }
        let base = base.unwrap_or(0);
        let mut logs = numbers(&self.path, LOG)?;
        logs.retain(|number| *number >= base);
        if !logs.iter().copied().eq((base..).take(logs.len())) || (logs.is_empty() && base > 0) {
            return Err(damaged(format!("not all of its logs from {base} on are there")));
        }
        // A log that was begun and not used: commits went on in the one before, whose end may be torn then.
        let mut unused = Vec::new();
        while let [_, .., last] = logs[..] {
            let path = file_path(&self.path, last, LOG);
            if fs::metadata(&path).map_err(Error::io("read", &path))?.len() > EMPTY_LOG {
                break;
            }
            logs.pop();
            unused.push(path);
        }
        let mut newest = None;
        for (index, number) in logs.iter().enumerate() {
            let log = self.read_log(*number, revision, index + 1 == logs.len(), &mut loading)?;
            self.since_picture += log.length;
            revision = log.revision;
            newest = Some(log);
        }
        let file = self.acknowledged.path().to_path_buf();
        let acknowledged = self.acknowledged.read().map_err(Error::io("read", &file))?;
        let acknowledged = acknowledged.ok_or_else(|| Error::Damaged {
            path: file.clone(),
            what: "it does not say how far writes were acknowledged".into(),
        })?;
        if revision < acknowledged {
            let path = newest.map_or_else(|| self.path.clone(), |log| log.path);
            let what =
                format!("it ends at revision {revision}, and revision {acknowledged} was acknowledged");
            return Err(Error::Damaged { path, what });
        }
        // From here on what was found is shown to readers: it must stay.
        for path in unused {
            let removed = fs::remove_file(&path).and_then(|()| sync_directory(&self.path));
            removed.map_err(Error::io("remove", &path))?;
        }
        let log = match newest {
            Some(log) if log.length > 0 => {
                log.cut().map_err(Error::io("write", &log.path))?;
                log
            }
            unfinished => Log::make(&self.path, unfinished.map_or(0, |log| log.number), revision)?,
        };
        self.log = Some(log);
        self.acknowledged
            .write(revision)
            .and_then(|()| self.acknowledged.sync())
            .map_err(Error::io("write", &file))?;
        remove_before(&self.path, base)?;
        Ok(Loaded { revision, rewrite: loading.stale })
    }

    fn commit(&mut self, picture: &Snapshot, changes: &[Change]) -> Result<(), Error> {
        let log = self.log.as_mut().ok_or(Error::Closed)?;
        let before = log.length;
        let revision = picture.revision();
        log.append(revision, changes, &self.encryption)
            .map_err(|source| Error::Commit { path: log.path.clone(), source: Arc::new(source) })?;
        self.since_picture += log.length - before;
        if let Err(error) = self.acknowledged.write(revision) {
            // The commit is durable; only a damage to come would be found later than it could be.
            tracing::warn!(%error, path = %self.acknowledged.path().display(), "cannot note what is acknowledged");
        }
        self.keep_short(picture);
        Ok(())
    }

    fn recover(&mut self) -> Result<(), Error> {
        let log = self.log.as_ref().ok_or(Error::Closed)?;
        log.cut().map_err(|source| Error::Commit { path: log.path.clone(), source: Arc::new(source) })
    }

    fn rewrite(&mut self, picture: &Snapshot, done: Done) {
        // What is being written now may be of the old kind.
        self.finish_picture(true);
        self.begin_picture(picture, done);
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(thread) = self.writing.take() {
            let _ = thread.join();
        }
        if let Err(error) = self.acknowledged.sync() {
            tracing::warn!(%error, path = %self.acknowledged.path().display(), "cannot sync");
        }
    }
}

/// Locks a store. Whoever had it open in this process may be about to end.
fn hold(file: &File, path: &Path) -> Result<(), Error> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => {
                thread::park_timeout(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { path: path.to_path_buf() }),
            Err(TryLockError::Error(source)) => return Err(Error::io("lock", path)(source)),
        }
    }
}

/// The numbers of the files of a kind, in order.
pub(super) fn numbers(directory: &Path, extension: &str) -> Result<Vec<u64>, Error> {
    let failed = Error::io("read", directory);
    let mut numbers = Vec::new();
    for file in fs::read_dir(directory).map_err(&failed)? {
        let path = file.map_err(&failed)?.path();
        if path.extension().is_some_and(|found| found == extension) {
            numbers.extend(path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok()));
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn file_path(directory: &Path, number: u64, extension: &str) -> PathBuf {
    directory.join(format!("{number:016}.{extension}"))
}

pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Whether a whole frame begins behind one that is not right: then that one was once right as well.
fn goes_on_behind(mut file: &File, offset: u64) -> io::Result<bool> {
    let mut rest = Vec::new();
    file.seek(io::SeekFrom::Start(offset + 1))?;
    file.read_to_end(&mut rest)?;
    Ok(frame::any_begins(&rest))
}

/// Reads a picture and returns its revision.
fn read_picture(path: &Path, number: u64, loading: &mut Loading<'_>) -> Result<u64, Error> {
    let failed = Error::io("read", path);
    let file = File::open(path).map_err(&failed)?;
    let length = file.metadata().map_err(&failed)?.len();
    let mut frames = Frames::new(BufReader::new(file), length);
    let damaged = |what: String| Error::Damaged { path: path.to_path_buf(), what };
    let revision = match picture::read_head(&mut frames, Content::Picture).map_err(&failed)? {
        Head::Is { number: said, revision } if number == said => revision,
        Head::Unknown => return Err(Error::Format { path: path.to_path_buf() }),
        Head::Is { .. } | Head::Bad => return Err(damaged("it does not begin as it was written".into())),
    };
    if !loading.picture(&mut frames, &failed)? {
        return Err(damaged(format!("it is not as it was written at byte {}", frames.offset)));
    }
    Ok(revision)
}

/// Writes a picture under its name, durable when it returns.
fn write_picture(
    directory: &Path,
    number: u64,
    picture: &Snapshot,
    encryption: &Encryption,
) -> Result<(), Error> {
    let path = file_path(directory, number, PICTURE);
    let new = path.with_extension(NEW);
    let write = || {
        let mut file = BufWriter::with_capacity(1 << 16, File::create(&new)?);
        picture::write(picture, number, encryption, &mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&new, &path)?;
        sync_directory(directory)
    };
    write().map_err(Error::io("write", &path))
}

/// Removes the files that a picture has made needless, and what was not finished.
fn remove_before(directory: &Path, number: u64) -> Result<(), Error> {
    let failed = Error::io("remove a file of", directory);
    let mut needless = Vec::new();
    for file in fs::read_dir(directory).map_err(&failed)? {
        let path = file.map_err(&failed)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let found = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        let (Some(extension), Some(found)) = (extension, found) else { continue };
        if extension == NEW || (found < number && [LOG, PICTURE].contains(&extension)) {
            needless.push(path);
        }
    }
    needless.into_iter().try_for_each(fs::remove_file).map_err(&failed)
}

#[cfg(test)]
mod tests {
    use super::{Content, EMPTY_LOG, picture};

    #[test]
    fn a_log_that_was_not_used_is_known_by_its_length() {
        assert_eq!(picture::head(Content::Log, u64::MAX, u64::MAX).0.len() as u64, EMPTY_LOG);
    }
}
