//! The tree on disk while a client tells of its own: what is there no more goes, what differs is asked for.
//!
//! Synchronous: it runs on a thread that may block.

use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chownat, fchmod, fchown,
    futimens, linkat, mkdirat, openat2, readlinkat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::stat::{self, Kind};
use crate::grpc::{Code, Status};
use crate::proto::fsutil::Stat;

/// Entries of a tree, contents that are asked for, and files that may be open at once. A client sends four at a time.
const MOST_ENTRIES: u32 = 8_000_000;
const MOST_OPEN: usize = 64;

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);
const WHILE_WRITTEN: Mode = Mode::RUSR.union(Mode::WUSR);

/// A directory that entries are told of now.
struct Level {
    /// Its path, empty for the top.
    path: String,
    /// What was in it before and has not come yet, in order.
    before: VecDeque<Vec<u8>>,
}

/// A file whose content is on its way.
struct Awaited {
    stat: Stat,
    file: Option<File>,
    written: i64,
}

/// A tree that is being brought up to date.
pub(super) struct Tree {
    top: OwnedFd,
    levels: Vec<Level>,
    /// The directory of the last entry, held open.
    parent: Option<(String, OwnedFd)>,
    last: String,
    /// How many entries have come: the next one's number.
    entries: u32,
    awaited: HashMap<u32, Awaited>,
    open: usize,
    /// Directories get their times in the end, when nothing changes in them any more.
    directories: Vec<(String, Timespec)>,
    /// Further names of files, made in the end: the files they name may be on their way. Path and target.
    links: Vec<(String, String)>,
    is_told: bool,
    /// Bytes that the contents asked for add up to.
    pub(super) wanted: u64,
}

fn failed(action: &str, path: &str) -> impl FnOnce(Errno) -> Status {
    move |error| {
        let code = if error == Errno::NOSPC { Code::ResourceExhausted } else { Code::Internal };
        Status::new(code, format!("cannot {action} {path}: {}", std::io::Error::from(error)))
    }
}

impl Tree {
    /// Begins with what is in a directory.
    pub(super) fn open(top: &Path) -> Result<Self, Status> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let top = rustix::fs::openat(CWD, top, flags, Mode::empty())
            .map_err(failed("open", &top.display().to_string()))?;
        let mut tree = Self {
            top,
            levels: Vec::new(),
            parent: None,
            last: String::new(),
            entries: 0,
            awaited: HashMap::new(),
            open: 0,
            directories: Vec::new(),
            links: Vec::new(),
            is_told: false,
            wanted: 0,
        };
        let before = tree.listing("")?;
        tree.levels.push(Level { path: String::new(), before });
        Ok(tree)
    }

    /// Opens a directory of the tree, never through a link.
    fn directory(&self, path: &str) -> Result<OwnedFd, Status> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let path = if path.is_empty() { "." } else { path };
        openat2(&self.top, path, flags, Mode::empty(), BENEATH).map_err(failed("open", path))
    }

    /// The names in a directory, in order.
    fn listing(&self, path: &str) -> Result<VecDeque<Vec<u8>>, Status> {
        let directory = self.directory(path)?;
        let mut names = Vec::new();
        for entry in Dir::new(directory).map_err(failed("read", path))? {
            let name = entry.map_err(failed("read", path))?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names.into())
    }

    /// Makes the directory at hand the one that an entry is in; what was told of is left behind in order.
    fn enter(&mut self, directory: &str, path: &str) -> Result<(), Status> {
        while self.levels.last().is_some_and(|level| level.path != directory) {
            self.leave()?;
        }
        if self.levels.is_empty() {
            let message = format!("the client sent {path:?} before its directory");
            return Err(Status::invalid(message));
        }
        if self.parent.as_ref().is_none_or(|(open, _)| open != directory) {
            self.parent = Some((directory.to_owned(), self.directory(directory)?));
        }
        Ok(())
    }

    /// Ends with a directory: what has not come is there no more.
    fn leave(&mut self) -> Result<(), Status> {
        let Some(level) = self.levels.pop() else { return Ok(()) };
        if !level.before.is_empty() {
            let directory = self.directory(&level.path)?;
            for name in &level.before {
                remove(&directory, OsStr::from_bytes(name), &level.path)?;
            }
        }
        Ok(())
    }

    /// Takes an entry. The answer is its number when its content is wanted.
    pub(super) fn entry(&mut self, stat: Stat) -> Result<Option<u32>, Status> {
        if self.is_told {
            return Err(Status::invalid("the client sent an entry after the last one"));
        }
        let number = self.entries;
        if number >= MOST_ENTRIES {
            let message = format!(
                "the directory has more than {MOST_ENTRIES} entries: name what to leave out in .dockerignore"
            );
            return Err(Status::new(Code::ResourceExhausted, message));
        }
        self.entries += 1;
        let path = stat.path.clone();
        let (directory, name) = stat::split(&path)?;
        if number > 0 && stat::order(&self.last, &path) != Ordering::Less {
            let message = format!("the client sent {path:?} after {:?}, out of order", self.last);
            return Err(Status::invalid(message));
        }
        self.last.clone_from(&path);
        self.enter(directory, &path)?;
        self.drop_until(name.as_bytes(), directory)?;
        let Some((_, parent)) = &self.parent else { return Ok(None) };
        let there = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => Some(there),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(failed("look at", &path)(error)),
        };
        let there_kind = there
            .as_ref()
            .map(|there| stat::kind(&Stat { mode: stat::go_mode(there.st_mode), ..Stat::default() }));
        let kind = stat::kind(&stat);
        if there_kind.is_some_and(|there| there != kind) {
            remove(parent, OsStr::new(name), &path)?;
        }
        let is_there = there_kind == Some(kind);
        match kind {
            Kind::Special => {}
            Kind::Directory => self.take_directory(&stat, name, is_there)?,
            Kind::Symlink => take_symlink(parent, &stat, name, is_there)?,
            Kind::File if !stat.link.is_empty() => self.take_link(stat)?,
            Kind::File => {
                let same = there.filter(|_| is_there).is_some_and(|there| {
                    there.st_size == stat.size
                        && there.st_mode & 0o7777 == stat::permissions(&stat).as_raw_mode()
                        && (there.st_uid, there.st_gid) == (stat.uid, stat.gid)
                        && (there.st_mtime, i64::try_from(there.st_mtime_nsec).unwrap_or_default())
                            == (stat::modified(&stat).tv_sec, stat::modified(&stat).tv_nsec)
                });
                if !same {
                    self.wanted += u64::try_from(stat.size).unwrap_or_default();
                    self.awaited.insert(number, Awaited { stat, file: None, written: 0 });
                    return Ok(Some(number));
                }
            }
        }
        Ok(None)
    }

    /// Removes what was before this name, and takes the name itself off what is left over.
    fn drop_until(&mut self, name: &[u8], directory: &str) -> Result<(), Status> {
        let Some((_, parent)) = &self.parent else { return Ok(()) };
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        while let Some(first) = level.before.front() {
            match first.as_slice().cmp(name) {
                Ordering::Less => remove(parent, OsStr::from_bytes(first), directory)?,
                Ordering::Equal => {}
                Ordering::Greater => break,
            }
            level.before.pop_front();
        }
        Ok(())
    }

    fn take_directory(&mut self, stat: &Stat, name: &str, is_there: bool) -> Result<(), Status> {
        let Some((_, parent)) = &self.parent else { return Ok(()) };
        if !is_there {
            mkdirat(parent, name, Mode::RWXU).map_err(failed("make", &stat.path))?;
        }
        let directory = self.directory(&stat.path)?;
        own(&directory, stat)?;
        fchmod(&directory, stat::permissions(stat)).map_err(failed("change", &stat.path))?;
        let before = if is_there { self.listing(&stat.path)? } else { VecDeque::new() };
        self.levels.push(Level { path: stat.path.clone(), before });
        self.directories.push((stat.path.clone(), stat::modified(stat)));
        Ok(())
    }

    /// One more name of a file that was told of before.
    fn take_link(&mut self, stat: Stat) -> Result<(), Status> {
        stat::split(&stat.link)?;
        if stat::order(&stat.link, &stat.path) != Ordering::Less {
            let message =
                format!("the client sent {:?} as a link to {:?}, which comes later", stat.path, stat.link);
            return Err(Status::invalid(message));
        }
        self.links.push((stat.path, stat.link));
        Ok(())
    }

    /// Makes a further name of a file, unless it is there.
    fn link(&self, path: &str, target: &str) -> Result<(), Status> {
        let ((directory, name), (from, target)) = (stat::split(path)?, stat::split(target)?);
        let (parent, from) = (self.directory(directory)?, self.directory(from)?);
        let found = statat(&from, target, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("link", path))?;
        match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) if there.st_ino == found.st_ino => return Ok(()),
            Ok(_) => remove(&parent, OsStr::new(name), directory)?,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(failed("look at", path)(error)),
        }
        linkat(&from, target, &parent, name, AtFlags::empty()).map_err(failed("link", path))
    }

    /// Takes a piece of a content; an empty one ends it.
    pub(super) fn data(&mut self, number: u32, data: &[u8]) -> Result<(), Status> {
        let unasked =
            || Status::invalid(format!("the client sent content that nobody asked for, of entry {number}"));
        let Some(awaited) = self.awaited.get_mut(&number) else { return Err(unasked()) };
        let path = awaited.stat.path.clone();
        if awaited.file.is_none() {
            if self.open >= MOST_OPEN {
                return Err(Status::invalid(format!("the client sends more than {MOST_OPEN} files at once")));
            }
            let (directory, name) = stat::split(&path)?;
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
            let within = if directory.is_empty() { "." } else { directory };
            let parent =
                openat2(&self.top, within, flags, Mode::empty(), BENEATH).map_err(failed("open", within))?;
            match unlinkat(&parent, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(failed("replace", &path)(error)),
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file =
                openat2(&parent, name, flags, WHILE_WRITTEN, BENEATH).map_err(failed("make", &path))?;
            awaited.file = Some(File::from(file));
            self.open += 1;
        }
        let Some(file) = awaited.file.as_mut() else { return Err(unasked()) };
        if !data.is_empty() {
            awaited.written += i64::try_from(data.len()).unwrap_or(i64::MAX);
            return file.write_all(data).map_err(|error| {
                let full = error.kind() == std::io::ErrorKind::StorageFull;
                let code = if full { Code::ResourceExhausted } else { Code::Internal };
                Status::new(code, format!("cannot write {path}: {error}"))
            });
        }
        own(file, &awaited.stat)?;
        fchmod(&*file, stat::permissions(&awaited.stat)).map_err(failed("change", &path))?;
        // A file that grew while it was read is asked for again the next time.
        if awaited.written == awaited.stat.size {
            futimens(&*file, &times(stat::modified(&awaited.stat))).map_err(failed("change", &path))?;
        }
        self.awaited.remove(&number);
        self.open -= 1;
        Ok(())
    }

    /// Takes the end of the entries.
    pub(super) fn told(&mut self) -> Result<(), Status> {
        while !self.levels.is_empty() {
            self.leave()?;
        }
        self.parent = None;
        self.is_told = true;
        Ok(())
    }

    /// Whether all has come.
    pub(super) fn is_complete(&self) -> bool {
        self.is_told && self.awaited.is_empty()
    }

    /// The last touches, when all has come.
    pub(super) fn finish(self) -> Result<(), Status> {
        for (path, target) in &self.links {
            self.link(path, target)?;
        }
        for (path, modified) in self.directories.iter().rev() {
            let directory = self.directory(path)?;
            futimens(&directory, &times(*modified)).map_err(failed("change", path))?;
        }
        Ok(())
    }
}

fn times(modified: Timespec) -> Timestamps {
    Timestamps { last_access: modified, last_modification: modified }
}

fn own(file: &impl AsFd, stat: &Stat) -> Result<(), Status> {
    let (uid, gid) = owners(stat)?;
    fchown(file, Some(uid), Some(gid)).map_err(failed("change the owner of", &stat.path))
}

/// The owners; the number that means none to the system is no owner.
fn owners(stat: &Stat) -> Result<(Uid, Gid), Status> {
    if stat.uid == u32::MAX || stat.gid == u32::MAX {
        return Err(Status::invalid(format!("the client sent {:?} with no proper owner", stat.path)));
    }
    Ok((Uid::from_raw(stat.uid), Gid::from_raw(stat.gid)))
}

fn take_symlink(parent: &OwnedFd, stat: &Stat, name: &str, is_there: bool) -> Result<(), Status> {
    let refuse = || Status::invalid(format!("the client sent {:?} as a link to nowhere", stat.path));
    if stat.link.is_empty() || stat.link.len() > 4095 || stat.link.contains('\0') {
        return Err(refuse());
    }
    if is_there {
        let there = readlinkat(parent, name, Vec::new()).map_err(failed("read", &stat.path))?;
        if there.to_bytes() != stat.link.as_bytes() {
            unlinkat(parent, name, AtFlags::empty()).map_err(failed("replace", &stat.path))?;
            symlinkat(&stat.link, parent, name).map_err(failed("make", &stat.path))?;
        }
    } else {
        symlinkat(&stat.link, parent, name).map_err(failed("make", &stat.path))?;
    }
    let (uid, gid) = owners(stat)?;
    chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("change the owner of", &stat.path))?;
    let modified = times(stat::modified(stat));
    utimensat(parent, name, &modified, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("change", &stat.path))
}

/// Removes a name and all that is below it, without following a link. Directories are opened one below the other, and
/// the kernel bounds how deep that can be.
fn remove(parent: &OwnedFd, name: &OsStr, path: &str) -> Result<(), Status> {
    let told = || format!("{path}/{}", name.to_string_lossy());
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(failed("remove", &told())(error)),
    }
    let within = std::path::PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd()));
    // The standard library's way down does not follow links either.
    std::fs::remove_dir_all(within.join(name))
        .map_err(|error| Status::new(Code::Internal, format!("cannot remove {}: {error}", told())))
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
