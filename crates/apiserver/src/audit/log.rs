//! The log that audit events are written to: a line each, in a file that is put aside when it is full.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

/// How the log is kept from growing without end. Zero is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rotation {
    /// After how many days files that were put aside are deleted.
    pub days: u32,
    /// How many files that were put aside are kept.
    pub files: u32,
    /// At what size the file is put aside, in mebibytes.
    pub mebibytes: u32,
}

/// So many events may wait to be written; who comes then waits himself.
const WAITING: usize = 4096;
const MEBIBYTE: u64 = 1024 * 1024;
const DAY: u64 = 24 * 60 * 60;

enum Out {
    Standard,
    File { path: PathBuf, file: File, size: u64, rotation: Rotation },
}

/// Opens a log; what is sent is written by a thread of its own, until nobody can send any more.
pub(super) fn open(path: &Path, rotation: Rotation) -> io::Result<mpsc::Sender<Bytes>> {
    let mut out = if path == Path::new("-") {
        Out::Standard
    } else {
        let (file, size) = append(path)?;
        Out::File { path: path.to_owned(), file, size, rotation }
    };
    let (sender, mut events) = mpsc::channel::<Bytes>(WAITING);
    std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
        while let Some(line) = events.blocking_recv() {
            if let Err(error) = out.write(&line) {
                tracing::error!(%error, "an audit event cannot be written");
            }
        }
    })?;
    Ok(sender)
}

fn append(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

impl Out {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Out::Standard => io::stdout().lock().write_all(line),
            Out::File { path, file, size, rotation } => {
                let length = line.len() as u64;
                let most = u64::from(rotation.mebibytes) * MEBIBYTE;
                if most > 0 && *size > 0 && *size + length > most {
                    put_aside(path, *rotation)?;
                    (*file, *size) = append(path)?;
                }
                file.write_all(line)?;
                *size += length;
                Ok(())
            }
        }
    }
}

/// The names of files that were put aside: what comes before and after the time.
fn around(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let stem = text(path.file_stem()).unwrap_or_default();
    let end = text(path.extension()).map(|extension| format!(".{extension}")).unwrap_or_default();
    (format!("{stem}-"), end)
}

fn put_aside(path: &Path, rotation: Rotation) -> io::Result<()> {
    let (start, end) = around(path);
    let now = Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S%.6f").to_string();
    fs::rename(path, path.with_file_name(format!("{start}{now}{end}")))?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut aside: Vec<PathBuf> = fs::read_dir(directory)?
        .filter_map(Result::ok)
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let time = name.strip_prefix(&start).and_then(|rest| rest.strip_suffix(&end));
            time.is_some_and(|time| {
                time.starts_with(|first: char| first.is_ascii_digit()) && time.contains('T')
            })
        })
        .map(|entry| entry.path())
        .collect();
    // Names sort as times do: the newest first.
    aside.sort_unstable_by(|one, other| other.cmp(one));
    let old = Duration::from_secs(u64::from(rotation.days) * DAY);
    let is_old = |path: &Path| {
        let changed = fs::metadata(path).and_then(|metadata| metadata.modified());
        changed.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > old))
    };
    for (index, path) in aside.iter().enumerate() {
        let many = rotation.files > 0 && index >= rotation.files as usize;
        if many || (rotation.days > 0 && is_old(path)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_and_old_ones_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        fs::write(directory.path().join("audit-other.log"), "x").unwrap();
        let rotation = Rotation { days: 0, files: 2, mebibytes: 1 };
        let (file, size) = append(&path).unwrap();
        let mut out = Out::File { path: path.clone(), file, size, rotation };
        let line = vec![b'x'; 700 * 1024];
        for _ in 0..5 {
            out.write(&line).unwrap();
        }
        let mut names: Vec<String> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(names[0].starts_with("audit-2") && names[1].starts_with("audit-2"), "{names:?}");
        assert_eq!(&names[2..], ["audit-other.log", "audit.log"]);
        assert_eq!(fs::metadata(&path).unwrap().len(), line.len() as u64);
    }

    #[tokio::test]
    async fn what_is_sent_is_written_behind_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        fs::write(&path, "before\n").unwrap();
        let sender = open(&path, Rotation::default()).unwrap();
        sender.send(Bytes::from_static(b"after\n")).await.unwrap();
        drop(sender);
        dray_testkit::eventually("the line", Duration::from_secs(10), || {
            (fs::read_to_string(&path).unwrap() == "before\nafter\n").then_some(())
        });
    }
}
