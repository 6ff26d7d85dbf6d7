//! Trees of files by descriptor: what they are (a digest), and copies of them. Nothing here follows a link out of the
//! root it works in.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat,
    fgetxattr, fsetxattr, linkat, mkdirat, mknodat, openat, readlinkat, statat, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::chmod::Chmod;
use crate::error::IoContext;
use crate::{Error, Result};

/// Directories within directories that are followed; each holds descriptors open.
const DEEPEST: usize = 200;
const CAPABILITY: &str = "security.capability";

/// Whose the copies are, and what may be done with them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ownership {
    /// User and group; none keeps those of the source.
    pub(crate) owner: Option<(u32, u32)>,
    /// Permission bits; none keeps those of the source.
    pub(crate) mode: Option<Chmod>,
    /// Nothing is newer than this, in seconds since 1970.
    pub(crate) newest: Option<i64>,
}

fn too_deep(path: &Path) -> Error {
    Error::invalid(format!("directories are nested deeper than {DEEPEST}: {}", path.display()))
}

/// The names in a directory, in order.
pub(crate) fn names(directory: BorrowedFd<'_>, path: &Path) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).io("list", path)? {
        let entry = entry.io("list", path)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

pub(crate) fn open_directory(parent: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name.as_ref(), flags, Mode::empty())
}

fn open_file(parent: BorrowedFd<'_>, name: &OsStr) -> Result<File, Errno> {
    // Without NONBLOCK a pipe that took the file's place would hold us.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map(File::from)
}

/// Digests of trees: kinds, names, modes, contents, link targets, and owners where they are kept; no times.
pub(crate) struct Hasher<'a> {
    /// Asked for each path, relative to the directory that is hashed.
    wanted: &'a dyn Fn(&Path) -> bool,
    hash: Sha256,
    owners: bool,
    buffer: Box<[u8]>,
}

impl<'a> Hasher<'a> {
    pub(crate) fn new(owners: bool) -> Self {
        Self {
            wanted: &|_| true,
            hash: Sha256::new(),
            owners,
            buffer: vec![0; 128 * 1024].into_boxed_slice(),
        }
    }

    pub(crate) fn leaving_out(self, wanted: &'a dyn Fn(&Path) -> bool) -> Self {
        Self { wanted, ..self }
    }

    pub(crate) fn finish(self) -> String {
        self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A word, with its length before it so that no two sequences of words are alike.
    pub(crate) fn word(&mut self, word: &[u8]) {
        self.hash.update((word.len() as u64).to_le_bytes());
        self.hash.update(word);
    }

    fn attributes(&mut self, kind: &str, stat: &Stat) {
        self.word(kind.as_bytes());
        self.hash.update((stat.st_mode & 0o7777).to_le_bytes());
        if self.owners {
            self.hash.update(stat.st_uid.to_le_bytes());
            self.hash.update(stat.st_gid.to_le_bytes());
        }
    }

    /// An open regular file.
    pub(crate) fn file(&mut self, file: &mut File, stat: &Stat, path: &Path) -> Result<()> {
        self.attributes("file", stat);
        let mut capability = [0_u8; 64];
        let capability_length = fgetxattr(&*file, CAPABILITY, &mut capability).unwrap_or(0);
        self.word(&capability[..capability_length]);
        let mut content = Sha256::new();
        loop {
            let n = file.read(&mut self.buffer).io("read", path)?;
            if n == 0 {
                break;
            }
            content.update(&self.buffer[..n]);
        }
        self.hash.update(content.finalize());
        Ok(())
    }

    /// All that is in a directory and wanted.
    pub(crate) fn directory(&mut self, directory: BorrowedFd<'_>) -> Result<()> {
        self.directory_at(directory, Path::new(""), 0)
    }

    fn directory_at(&mut self, directory: BorrowedFd<'_>, path: &Path, depth: usize) -> Result<()> {
        if depth > DEEPEST {
            return Err(too_deep(path));
        }
        for name in names(directory, path)? {
            let path = path.join(&name);
            let stat = statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW).io("read attributes of", &path)?;
            if !(self.wanted)(&path) {
                // A directory that is left out may hold what is not.
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    self.word(b"passed");
                    self.word(name.as_bytes());
                    let inner = open_directory(directory, &name).io("open", &path)?;
                    self.directory_at(inner.as_fd(), &path, depth + 1)?;
                    self.word(b"end");
                }
                continue;
            }
            // Said before each name, so that none is taken for the end of its directory.
            self.word(b"entry");
            self.word(name.as_bytes());
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    self.attributes("directory", &stat);
                    let inner = open_directory(directory, &name).io("open", &path)?;
                    self.directory_at(inner.as_fd(), &path, depth + 1)?;
                    self.word(b"end");
                }
                FileType::RegularFile => {
                    let mut file = open_file(directory, &name).io("open", &path)?;
                    self.file(&mut file, &stat, &path)?;
                }
                FileType::Symlink => {
                    self.attributes("link", &stat);
                    let target = readlinkat(directory, &name, Vec::new()).io("read symlink", &path)?;
                    self.word(target.as_bytes());
                }
                _ => {
                    self.attributes("node", &stat);
                    self.hash.update((stat.st_mode & 0o170_000).to_le_bytes());
                    self.hash.update(stat.st_rdev.to_le_bytes());
                }
            }
        }
        Ok(())
    }
}

/// Copies trees into one root.
pub(crate) struct Copier<'a> {
    ownership: Ownership,
    /// Asked for each path, relative to what is copied.
    wanted: &'a dyn Fn(&Path) -> bool,
    /// Where each file that has several names was copied first: its directory and name.
    links: HashMap<(u64, u64), (PathBuf, OsString)>,
    target_root: OwnedFd,
}

impl<'a> Copier<'a> {
    /// `target` is the directory that hard links are made in.
    pub(crate) fn new(ownership: Ownership, target: BorrowedFd<'_>) -> Result<Self> {
        let target_root = target.try_clone_to_owned().io("open", "/")?;
        Ok(Self { ownership, wanted: &|_| true, links: HashMap::new(), target_root })
    }

    /// Copies only what is wanted. A directory that is not wanted is made when something in it is.
    pub(crate) fn leaving_out(self, wanted: &'a dyn Fn(&Path) -> bool) -> Self {
        Self { wanted, ..self }
    }

    /// Copies what is in `source` into `target`; directories are joined, anything else is replaced.
    pub(crate) fn contents(&mut self, source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
        self.directory(source, target, Path::new(""), 0)
    }

    fn directory(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        path: &Path,
        depth: usize,
    ) -> Result<()> {
        if depth > DEEPEST {
            return Err(too_deep(path));
        }
        for name in names(source, path)? {
            let inner = path.join(&name);
            let stat = statat(source, &name, AtFlags::SYMLINK_NOFOLLOW).io("read attributes of", &inner)?;
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let is_wanted = (self.wanted)(&inner);
            if !(is_wanted || is_directory && self.wants_below(source, &name, &inner, depth)?) {
                continue;
            }
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    make_directory(target, &name, &inner)?;
                    let from = open_directory(source, &name).io("open", &inner)?;
                    let to = open_directory(target, &name).io("open", &inner)?;
                    self.directory(from.as_fd(), to.as_fd(), &inner, depth + 1)?;
                    self.attributes(target, &name, &stat, &inner)?;
                }
                FileType::RegularFile => {
                    if stat.st_nlink > 1 && self.link(target, path, &name, &stat)? {
                        continue;
                    }
                    let file = open_file(source, &name).io("open", &inner)?;
                    self.file(file, &stat, target, &name, &inner)?;
                }
                FileType::Symlink => {
                    clear(target, &name, &inner)?;
                    let link = readlinkat(source, &name, Vec::new()).io("read symlink", &inner)?;
                    symlinkat(link, target, &name).io("create symlink", &inner)?;
                    self.attributes(target, &name, &stat, &inner)?;
                }
                FileType::Socket => {}
                kind => {
                    if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
                        return Err(Error::invalid(format!(
                            "{}: a device 0:0 would hide other files",
                            inner.display()
                        )));
                    }
                    clear(target, &name, &inner)?;
                    mknodat(target, &name, kind, Mode::from_raw_mode(0o600), stat.st_rdev)
                        .io("create device", &inner)?;
                    self.attributes(target, &name, &stat, &inner)?;
                }
            }
        }
        Ok(())
    }

    /// Whether something below a directory is wanted.
    fn wants_below(&self, parent: BorrowedFd<'_>, name: &OsStr, path: &Path, depth: usize) -> Result<bool> {
        if depth > DEEPEST {
            return Err(too_deep(path));
        }
        let directory = open_directory(parent, name).io("open", path)?;
        for inner in names(directory.as_fd(), path)? {
            let inner_path = path.join(&inner);
            if (self.wanted)(&inner_path) {
                return Ok(true);
            }
            let stat = statat(&directory, &inner, AtFlags::SYMLINK_NOFOLLOW);
            let stat = stat.io("read attributes of", &inner_path)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory
                && self.wants_below(directory.as_fd(), &inner, &inner_path, depth + 1)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes another name of a file that was copied already; false when it is the first.
    fn link(&mut self, target: BorrowedFd<'_>, path: &Path, name: &OsStr, stat: &Stat) -> Result<bool> {
        let key = (stat.st_dev, stat.st_ino);
        let Some((directory, first)) = self.links.get(&key) else {
            self.links.insert(key, (path.to_owned(), name.to_owned()));
            return Ok(false);
        };
        let beneath = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let resolve = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
        let opened = rustix::fs::openat2(&self.target_root, beneath, flags, Mode::empty(), resolve);
        let from = opened.io("open", beneath)?;
        clear(target, name, path)?;
        linkat(&from, first, target, name, AtFlags::empty()).io("create hard link", path.join(name))?;
        Ok(true)
    }

    /// Copies one open file to a name.
    pub(crate) fn file(
        &self,
        mut source: File,
        stat: &Stat,
        target: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<()> {
        let mut file = create(target, name, path)?;
        // The kernel copies, where the file systems let it.
        io::copy(&mut source, &mut file).io("copy", path)?;
        self.attributes(target, name, stat, path)?;
        // A change of the owner takes capabilities away, so they come last.
        let mut capability = [0_u8; 64];
        if let Ok(n) = fgetxattr(&source, CAPABILITY, &mut capability) {
            match fsetxattr(&file, CAPABILITY, &capability[..n], XattrFlags::empty()) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error).io("set capabilities of", path),
            }
        }
        Ok(())
    }

    /// Gives a copy the owner, mode and times it should have.
    pub(crate) fn attributes(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
        path: &Path,
    ) -> Result<()> {
        let (uid, gid) = self.ownership.owner.unwrap_or((stat.st_uid, stat.st_gid));
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        chownat(parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).io("change owner of", path)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let own = stat.st_mode & 0o7777;
            let mode = self.ownership.mode.map_or(own, |mode| mode.apply(own, is_directory));
            // The name is what was just made here, never a link.
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())
                .io("change mode of", path)?;
        }
        let time = match self.ownership.newest {
            Some(newest) if stat.st_mtime >= newest => Timespec { tv_sec: newest, tv_nsec: 0 },
            _ => Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
        };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW).io("set times of", path)
    }
}

/// A new, empty file in the place of whatever had its name, but for a directory.
pub(crate) fn create(target: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<File> {
    clear(target, name, path)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(target, name, flags, Mode::from_raw_mode(0o600)).map(File::from).io("create", path)
}

fn make_directory(target: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<()> {
    let mode = Mode::from_raw_mode(0o755);
    match mkdirat(target, name, mode) {
        Err(Errno::EXIST) => {}
        result => return result.io("create directory", path),
    }
    let stat = statat(target, name, AtFlags::SYMLINK_NOFOLLOW).io("read attributes of", path)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Ok(());
    }
    clear(target, name, path)?;
    mkdirat(target, name, mode).io("create directory", path)
}

fn clear(target: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<()> {
    match unlinkat(target, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {
            Err(Error::invalid(format!("cannot overwrite directory {} with a file", path.display())))
        }
        Err(error) => Err(error).io("remove", path),
    }
}

/// Removes a directory with all that is in it. Nothing is followed.
pub(crate) fn remove_all(parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let path = Path::new(name);
    let directory = open_directory(parent, name).io("open", path)?;
    for inner in names(directory.as_fd(), path)? {
        let stat = statat(&directory, &inner, AtFlags::SYMLINK_NOFOLLOW).io("read attributes of", &inner)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            remove_all(directory.as_fd(), &inner)?;
        } else {
            unlinkat(&directory, &inner, AtFlags::empty()).io("remove", &inner)?;
        }
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR).io("remove", path)
}
