//! Reading what a container wrote, also while it writes and through rotation.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustix::fs::inotify;
use serde::Deserialize;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::container::ContainerHandle;
use crate::error::IoContext;
use crate::{Engine, Error, Result};

/// Lines read ahead of a slow reader.
const AHEAD: usize = 256;
/// Longest line that is read; the shim writes none longer than this.
const LINE_LIMIT: u64 = 1 << 20;

/// The stream a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Where it was written to.
    pub stream: LogStream,
    /// When.
    pub time: Timestamp,
    /// What, with its line feed; without one it goes on in the next line.
    pub text: String,
    /// What the log's options attach to every line.
    pub attributes: BTreeMap<String, String>,
}

/// What to read of a log.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogOptions {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Nothing before.
    pub since: Option<Timestamp>,
    /// Nothing after.
    pub until: Option<Timestamp>,
    /// Only so many of the last lines.
    pub tail: Option<usize>,
    /// Whether to go on as long as the container runs.
    pub follow: bool,
}

#[derive(Deserialize)]
struct Entry {
    log: String,
    stream: LogStream,
    time: Timestamp,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

impl Engine {
    /// Reads a container's log. The receiver ends with the log, or when following with the container.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the container keeps no log.
    pub fn logs(
        &self,
        container: &Arc<ContainerHandle>,
        options: LogOptions,
    ) -> Result<mpsc::Receiver<Result<LogLine>>> {
        if !container.record().spec.log.keep {
            return Err(Error::invalid("configured logging driver does not support reading"));
        }
        let path = self.log_path(&container.id);
        let (sender, receiver) = mpsc::channel(AHEAD);
        let container = Arc::clone(container);
        tokio::spawn(async move {
            if let Err(error) = read_log(&path, &container, options, &sender).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(receiver)
    }
}

async fn read_log(
    path: &Path,
    container: &ContainerHandle,
    options: LogOptions,
    sender: &mpsc::Sender<Result<LogLine>>,
) -> Result<()> {
    // Before the first read, so that nothing written meanwhile is missed.
    let watch = if options.follow { Some(Watch::new(path)?) } else { None };
    let mut observed = container.observed.subscribe();
    let mut reader = Reader::open(path)?;
    if let Some(tail) = options.tail {
        let lines = blocking_tail(path.to_owned(), options, tail).await?;
        for line in lines {
            if sender.send(Ok(line)).await.is_err() {
                return Ok(());
            }
        }
        reader.seek_to_end()?;
    } else {
        for old in rotated(path).into_iter().rev() {
            let mut old = Reader::open(&old)?;
            if !old.send_all(options, sender).await? {
                return Ok(());
            }
        }
    }
    loop {
        let running = {
            let observed = observed.borrow_and_update();
            matches!(observed.status, crate::Status::Running | crate::Status::Restarting) && !observed.removed
        };
        if !reader.send_all(options, sender).await? {
            return Ok(());
        }
        let Some(watch) = &watch else { return Ok(()) };
        if reader.was_rotated(path) {
            reader = Reader::open(path)?;
            continue;
        }
        if !running {
            return Ok(());
        }
        tokio::select! {
            () = watch.changed() => {}
            _ = observed.changed() => {}
            () = sender.closed() => return Ok(()),
        }
    }
}

/// The rotated files of a log, newest first.
fn rotated(path: &Path) -> Vec<PathBuf> {
    (1_u32..)
        .map(|number| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        })
        .take_while(|path| path.exists())
        .collect()
}

async fn blocking_tail(path: PathBuf, options: LogOptions, tail: usize) -> Result<VecDeque<LogLine>> {
    tokio::task::spawn_blocking(move || {
        let mut last: VecDeque<LogLine> = VecDeque::new();
        let mut files = vec![path.clone()];
        files.extend(rotated(&path));
        for file in files {
            let missing = tail - last.len().min(tail);
            if missing == 0 {
                break;
            }
            let mut reader = Reader::open(&file)?;
            let mut of_file: VecDeque<LogLine> = VecDeque::new();
            while let Some(line) = reader.next(options)? {
                if of_file.len() == missing {
                    of_file.pop_front();
                }
                of_file.push_back(line);
            }
            for line in of_file.into_iter().rev() {
                last.push_front(line);
            }
        }
        Ok(last)
    })
    .await
    .map_err(|_| Error::Interrupted)?
}

/// A log file, read line by line; a line that is not whole yet is left for later.
struct Reader {
    path: PathBuf,
    /// None while there is no file: the container has not written anything.
    file: Option<BufReader<File>>,
    inode: u64,
    position: u64,
}

impl Reader {
    fn open(path: &Path) -> Result<Self> {
        let mut reader = Self { path: path.to_owned(), file: None, inode: 0, position: 0 };
        reader.try_open()?;
        Ok(reader)
    }

    fn try_open(&mut self) -> Result<()> {
        match File::open(&self.path) {
            Ok(file) => {
                self.inode = file.metadata().io("read attributes of", &self.path)?.ino();
                self.file = Some(BufReader::with_capacity(64 * 1024, file));
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).io("open", &self.path),
        }
    }

    fn was_rotated(&self, path: &Path) -> bool {
        self.file.is_some() && std::fs::metadata(path).is_ok_and(|metadata| metadata.ino() != self.inode)
    }

    fn seek_to_end(&mut self) -> Result<()> {
        if let Some(file) = &mut self.file {
            self.position = file.seek(SeekFrom::End(0)).io("seek in", &self.path)?;
        }
        Ok(())
    }

    /// The next whole line that the options let through.
    fn next(&mut self, options: LogOptions) -> Result<Option<LogLine>> {
        if self.file.is_none() {
            self.try_open()?;
        }
        let Some(file) = &mut self.file else { return Ok(None) };
        loop {
            let mut bytes = Vec::new();
            let mut limited = std::io::Read::take(&mut *file, LINE_LIMIT);
            let n = limited.read_until(b'\n', &mut bytes).io("read", &self.path)? as u64;
            if bytes.last() != Some(&b'\n') {
                // Not whole: the shim is writing it. The buffer must not keep what was read of it.
                file.seek(SeekFrom::Start(self.position)).io("seek in", &self.path)?;
                return Ok(None);
            }
            self.position += n;
            let Ok(entry) = serde_json::from_slice::<Entry>(&bytes) else { continue };
            let wanted = match entry.stream {
                LogStream::Stdout => options.stdout,
                LogStream::Stderr => options.stderr,
            };
            let early = options.since.is_some_and(|since| entry.time < since);
            let late = options.until.is_some_and(|until| entry.time > until);
            if wanted && !early && !late {
                return Ok(Some(LogLine {
                    stream: entry.stream,
                    time: entry.time,
                    text: entry.log,
                    attributes: entry.attrs,
                }));
            }
        }
    }

    /// Sends all that is there; false when nobody listens any more.
    async fn send_all(
        &mut self,
        options: LogOptions,
        sender: &mpsc::Sender<Result<LogLine>>,
    ) -> Result<bool> {
        while let Some(line) = self.next(options)? {
            if sender.send(Ok(line)).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Tells when something happens to the files of a directory.
struct Watch {
    fd: AsyncFd<OwnedFd>,
}

impl Watch {
    fn new(path: &Path) -> Result<Self> {
        let directory = path.parent().unwrap_or(path);
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let fd = inotify::init(flags).io("watch", directory)?;
        let events =
            inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&fd, directory, events).io("watch", directory)?;
        Ok(Self { fd: crate::readiness::watch(fd).io("watch", directory)? })
    }

    async fn changed(&self) {
        let Ok(mut guard) = self.fd.readable().await else { return std::future::pending().await };
        let mut buffer = [0_u8; 4096];
        while rustix::io::read(self.fd.get_ref(), &mut buffer).is_ok_and(|n| n > 0) {}
        guard.clear_ready();
    }
}
