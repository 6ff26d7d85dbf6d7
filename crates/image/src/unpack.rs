//! Unpacking a layer's archive beneath one directory, in the form that overlayfs expects of a lower layer.
//!
//! Every path is resolved inside the directory by the kernel (`openat2` with `RESOLVE_IN_ROOT`), so neither a
//! symlink nor `..` nor an absolute name of the archive reaches anything outside it.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags, chownat, fchmod,
    fsetxattr, fstat, linkat, mkdirat, mknodat, openat, openat2, symlinkat, unlinkat, utimensat,
};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use crate::compression::decompress;
use crate::error::IoContext;
use crate::{Error, Result};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";
const AUFS_METADATA_PREFIX: &[u8] = b".wh..wh.";
const XATTR_PREFIX: &str = "SCHILY.xattr.";
/// Archives are made of blocks of so many bytes.
const BLOCK: u64 = 512;
/// The kernel's limit of a path; longer names in an archive are refused.
const PATH_LIMIT: usize = 4096;

/// What names that begin with `.wh.` mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A layer: they hide what the layers below have.
    Layer,
    /// Any other archive: they are names like others.
    Plain,
}

/// Unpacks an archive (plain, or compressed with gzip, zstd, bzip2 or xz) into the existing directory `target`, which may hold
/// something already: what the archive names replaces it, only directories are joined. No path of the archive leads
/// out of `target`.
///
/// # Errors
/// [`Error::InvalidEntry`] for an entry that must not be unpacked; [`Error::Io`] when the system refuses or the
/// archive is damaged.
pub fn extract_archive(reader: impl Read + Send, target: BorrowedFd<'_>) -> Result<u64> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", target.as_raw_fd()));
    let plain = decompress(reader).io("read", "archive")?;
    unpack(plain, &path, Form::Plain)
}

/// Unpacks the uncompressed archive `reader` into the existing directory `root`.
/// Answers the sum of the sizes of its regular files, in bytes.
///
/// # Errors
/// [`Error::InvalidEntry`] for an entry that must not be unpacked; [`Error::Io`] when the system refuses or the
/// archive is damaged.
pub(crate) fn unpack(reader: impl Read, root: &Path, form: Form) -> Result<u64> {
    let root_fd = openat(CWD, root, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .io("open", root)?;
    let mut unpacker = Unpacker {
        form,
        root: root.to_owned(),
        root_fd,
        parent: None,
        directory_times: Vec::new(),
        size: 0,
        whole: false,
        block_end: 0,
        buffer: vec![0; 128 * 1024].into_boxed_slice(),
    };
    let position = Cell::new(0);
    let mut archive = Archive::new(Counting { inner: reader, position: &position });
    for entry in archive.entries().io("read", root)? {
        match entry {
            Ok(entry) => {
                unpacker.entry(entry)?;
                unpacker.block_end = position.get().next_multiple_of(BLOCK);
            }
            // Docker's client leaves out what follows the last file's bytes, which have all come.
            Err(_) if form == Form::Plain && unpacker.whole && position.get() < unpacker.block_end => break,
            Err(error) => return Err(error).io("read archive for", root),
        }
    }
    unpacker.finish()
}

/// Counts the bytes that pass.
struct Counting<'a, R> {
    inner: R,
    position: &'a Cell<u64>,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.position.set(self.position.get() + n as u64);
        Ok(n)
    }
}

struct Unpacker {
    form: Form,
    root: PathBuf,
    root_fd: OwnedFd,
    /// The directory of the previous entry: archives list a directory's entries one after the other.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Writing into a directory changes its times, so they are set at the end.
    directory_times: Vec<(PathBuf, u64)>,
    size: u64,
    /// Whether the last entry was a file that came whole.
    whole: bool,
    /// Where its last block ends in the archive.
    block_end: u64,
    buffer: Box<[u8]>,
}

impl Unpacker {
    fn entry<R: Read>(&mut self, mut entry: Entry<'_, R>) -> Result<()> {
        let kind = entry.header().entry_type();
        self.whole = false;
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let path = clean(&entry.path_bytes())?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return self.root_entry(&entry);
        };
        let parent_path = path.parent().unwrap_or(Path::new("")).to_owned();
        if self.form == Form::Layer && name.as_bytes().starts_with(WHITEOUT_PREFIX) {
            return self.whiteout(&parent_path, &name);
        }
        let extensions = Extensions::of(&mut entry);
        self.open_parent(&parent_path)?;
        let mode = Mode::from_raw_mode(entry.header().mode().io("read mode of", &path)? & 0o7777);
        let made = match kind {
            EntryType::Directory => Some(self.directory(&path, &name)?),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                Some(self.file(&mut entry, &name, &path)?)
            }
            EntryType::Symlink => {
                let target = OsString::from_vec(entry.link_name_bytes().unwrap_or_default().into_owned());
                self.replacing(&name, &path, || symlinkat(&target, self.parent_fd(), &name))?
                    .io("create symlink", &path)?;
                None
            }
            EntryType::Link => {
                self.clear(&name, &path)?;
                return self.hard_link(&entry, &parent_path, &name, &path);
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                self.clear(&name, &path)?;
                Some(self.node(&entry, kind, &name, &path)?)
            }
            _ => return Err(Error::InvalidEntry { path: display(&path), why: "unknown entry type" }),
        };
        let seconds = extensions.modified.unwrap_or_else(|| entry.header().mtime().unwrap_or(0));
        let owner = owner(&entry, &path)?;
        match made {
            Some(made) => set_attributes(&made, &path, owner, mode, &extensions.attributes)?,
            None => chownat(self.parent_fd(), &name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)
                .io("change owner of", &path)?,
        }
        if kind == EntryType::Directory {
            self.directory_times.push((path, seconds));
            return Ok(());
        }
        utimensat(self.parent_fd(), &name, &times(seconds), AtFlags::SYMLINK_NOFOLLOW)
            .io("set times of", path)
    }

    /// The archive's entry for the layer's root itself.
    fn root_entry<R: Read>(&mut self, entry: &Entry<'_, R>) -> Result<()> {
        if entry.header().entry_type() != EntryType::Directory {
            return Ok(());
        }
        let (uid, gid) = owner(entry, Path::new("/"))?;
        chownat(CWD, &self.root, Some(uid), Some(gid), AtFlags::empty()).io("change owner of", &self.root)?;
        let mode = Mode::from_raw_mode(entry.header().mode().io("read mode of", &self.root)? & 0o7777);
        rustix::fs::chmodat(CWD, &self.root, mode, AtFlags::empty()).io("change mode of", &self.root)
    }

    fn parent_fd(&self) -> &OwnedFd {
        self.parent.as_ref().map_or(&self.root_fd, |(_, fd)| fd)
    }

    fn open_parent(&mut self, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() {
            self.parent = None;
            return Ok(());
        }
        if self.parent.as_ref().is_some_and(|(open, _)| open == path) {
            return Ok(());
        }
        let fd = match self.open_directory(path) {
            Err(Errno::NOENT) => self.make_directories(path)?,
            result => result.io("open directory", path)?,
        };
        self.parent = Some((path.to_owned(), fd));
        Ok(())
    }

    fn open_directory(&self, path: &Path) -> std::result::Result<OwnedFd, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        openat2(
            &self.root_fd,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// Archives may leave out the directories above an entry; they get mode 0755 and belong to root.
    fn make_directories(&self, path: &Path) -> Result<OwnedFd> {
        let mut current = self.open_directory(Path::new(".")).io("open directory", &self.root)?;
        let mut done = PathBuf::new();
        for component in path.components() {
            done.push(component);
            current = match self.open_directory(&done) {
                Err(Errno::NOENT) => {
                    mkdirat(&current, component.as_os_str(), Mode::from_raw_mode(0o755))
                        .io("create directory", &done)?;
                    self.open_directory(&done)
                }
                result => result,
            }
            .io("open directory", &done)?;
        }
        Ok(current)
    }

    /// Makes something; what has its place already, as an archive may hold a path twice, goes first.
    fn replacing<T>(
        &self,
        name: &OsStr,
        path: &Path,
        make: impl Fn() -> std::result::Result<T, Errno>,
    ) -> Result<std::result::Result<T, Errno>> {
        match make() {
            Err(Errno::EXIST) => {
                self.clear(name, path)?;
                Ok(make())
            }
            made => Ok(made),
        }
    }

    /// An archive may hold a path twice: the later one counts.
    fn clear(&self, name: &OsStr, path: &Path) -> Result<()> {
        match unlinkat(self.parent_fd(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => remove_tree(self.parent_fd().as_fd(), name).io("remove", path),
            Err(error) => Err(error).io("remove", path),
        }
    }

    fn directory(&self, path: &Path, name: &OsStr) -> Result<OwnedFd> {
        let open = || {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(self.parent_fd(), name, flags, Mode::empty())
        };
        match mkdirat(self.parent_fd(), name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            Err(Errno::EXIST) => match open() {
                // Something else is in its place.
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    self.clear(name, path)?;
                    mkdirat(self.parent_fd(), name, Mode::from_raw_mode(0o755))
                        .io("create directory", path)?;
                }
                opened => return opened.io("open directory", path),
            },
            Err(error) => return Err(error).io("create directory", path),
        }
        open().io("open directory", path)
    }

    fn file<R: Read>(&mut self, entry: &mut Entry<'_, R>, name: &OsStr, path: &Path) -> Result<OwnedFd> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || openat(self.parent_fd(), name, flags, Mode::from_raw_mode(0o600));
        let mut file = File::from(self.replacing(name, path, create)?.io("create", path)?);
        let mut left = entry.size();
        loop {
            let n = entry.read(&mut self.buffer).io("read archive for", path)?;
            if n == 0 {
                break;
            }
            io::Write::write_all(&mut file, &self.buffer[..n]).io("write", path)?;
            self.size += n as u64;
            left = left.saturating_sub(n as u64);
        }
        if left > 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).io("read archive for", path);
        }
        self.whole = true;
        Ok(file.into())
    }

    fn hard_link<R: Read>(
        &mut self,
        entry: &Entry<'_, R>,
        parent_path: &Path,
        name: &OsStr,
        path: &Path,
    ) -> Result<()> {
        let target = clean(&entry.link_name_bytes().unwrap_or_default())?;
        let Some(target_name) = target.file_name() else {
            return Err(Error::InvalidEntry { path: display(path), why: "a hard link to the root" });
        };
        let target_parent = target.parent().unwrap_or(Path::new(""));
        let directory = if target_parent.as_os_str().is_empty() { Path::new(".") } else { target_parent };
        let target_fd = self.open_directory(directory).io("open directory", directory)?;
        self.open_parent(parent_path)?;
        linkat(&target_fd, target_name, self.parent_fd(), name, AtFlags::empty()).io("create hard link", path)
    }

    /// Makes a device or a pipe and answers a descriptor of it that does not open it.
    fn node<R: Read>(
        &self,
        entry: &Entry<'_, R>,
        kind: EntryType,
        name: &OsStr,
        path: &Path,
    ) -> Result<OwnedFd> {
        let file_type = match kind {
            EntryType::Char => FileType::CharacterDevice,
            EntryType::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let number =
            |value: io::Result<Option<u32>>| value.map(|n| n.unwrap_or(0)).io("read device of", path);
        // The fields mean nothing for a pipe, and some programs leave them blank.
        let device = match file_type {
            FileType::Fifo => 0,
            _ => rustix::fs::makedev(
                number(entry.header().device_major())?,
                number(entry.header().device_minor())?,
            ),
        };
        if file_type == FileType::CharacterDevice && device == 0 {
            return Err(Error::InvalidEntry {
                path: display(path),
                why: "a device 0:0 would hide other files",
            });
        }
        mknodat(self.parent_fd(), name, file_type, Mode::from_raw_mode(0o600), device)
            .io("create device", path)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(self.parent_fd(), name, flags, Mode::empty()).io("open", path)?;
        let stat = fstat(&made).io("read attributes of", path)?;
        if FileType::from_raw_mode(stat.st_mode) != file_type || stat.st_rdev != device {
            return Err(Error::InvalidEntry {
                path: display(path),
                why: "something took its place as it was made",
            });
        }
        Ok(made)
    }

    fn whiteout(&mut self, parent_path: &Path, name: &OsStr) -> Result<()> {
        self.open_parent(parent_path)?;
        let bytes = name.as_bytes();
        if bytes == OPAQUE_WHITEOUT {
            let directory = openat(self.parent_fd(), ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .io("open directory", parent_path)?;
            return fsetxattr(&directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())
                .io("mark as opaque", parent_path);
        }
        if bytes.starts_with(AUFS_METADATA_PREFIX) {
            return Ok(());
        }
        let hidden = OsStr::from_bytes(&bytes[WHITEOUT_PREFIX.len()..]);
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            return Err(Error::InvalidEntry { path: display(parent_path), why: "a whiteout of no file" });
        }
        let path = parent_path.join(hidden);
        self.clear(hidden, &path)?;
        mknodat(self.parent_fd(), hidden, FileType::CharacterDevice, Mode::empty(), 0)
            .io("create whiteout", path)
    }

    fn finish(self) -> Result<u64> {
        for (path, seconds) in self.directory_times.iter().rev() {
            // The directory may have been replaced by a later entry; then there is nothing to set.
            if let Ok(fd) = self.open_directory(path) {
                let _ = utimensat(&fd, ".", &times(*seconds), AtFlags::empty());
            }
        }
        Ok(self.size)
    }
}

/// Sets what an entry says of a file, a directory or a device that was just made. All is done by its descriptor: a program
/// of the container may have put something else in its place by now, and to change the mode of a name follows links.
fn set_attributes(
    made: &OwnedFd,
    path: &Path,
    (uid, gid): (Uid, Gid),
    mode: Mode,
    attributes: &HashMap<String, Vec<u8>>,
) -> Result<()> {
    chownat(made, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).io("change owner of", path)?;
    match fchmod(made, mode) {
        // Devices and pipes are not opened; the kernel's name of a descriptor leads to just this file.
        Err(Errno::BADF) => {
            let own = format!("/proc/self/fd/{}", made.as_raw_fd());
            return rustix::fs::chmodat(CWD, own, mode, AtFlags::empty()).io("change mode of", path);
        }
        result => result.io("change mode of", path)?,
    }
    for (key, value) in attributes {
        match fsetxattr(made, key.as_str(), value, XattrFlags::empty()) {
            // A file system without this class of attributes: the image still works without.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error).io("set extended attribute of", path),
        }
    }
    Ok(())
}

fn times(seconds: u64) -> Timestamps {
    let time = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(0), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

fn owner<R: Read>(entry: &Entry<'_, R>, path: &Path) -> Result<(Uid, Gid)> {
    let id = |field: &[u8], value: io::Result<u64>| {
        // Some programs leave the fields blank, which is root.
        if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
            return Ok(0);
        }
        let value = value.io("read owner of", path)?;
        match u32::try_from(value) {
            Ok(id) if id != u32::MAX => Ok(id),
            _ => Err(Error::InvalidEntry { path: display(path), why: "its owner is out of range" }),
        }
    };
    let header = entry.header();
    let fields = header.as_old();
    Ok((Uid::from_raw(id(&fields.uid, header.uid())?), Gid::from_raw(id(&fields.gid, header.gid())?)))
}

/// What PAX headers say of an entry beyond what the archive's reader takes from them.
#[derive(Default)]
struct Extensions {
    /// The extended attributes that an image may set. Those of overlayfs itself would let a layer redirect lookups.
    attributes: HashMap<String, Vec<u8>>,
    /// When it was last changed, in seconds since 1970.
    modified: Option<u64>,
}

impl Extensions {
    fn of<R: Read>(entry: &mut Entry<'_, R>) -> Self {
        let mut found = Self::default();
        let Ok(Some(extensions)) = entry.pax_extensions() else { return found };
        for extension in extensions.flatten() {
            let Ok(key) = extension.key() else { continue };
            if key == "mtime" {
                let seconds = extension.value().ok().and_then(|value| value.split('.').next());
                found.modified = seconds.and_then(|seconds| seconds.parse().ok());
            }
            let Some(key) = key.strip_prefix(XATTR_PREFIX) else { continue };
            let allowed =
                key.starts_with("user.") && !key.starts_with("user.overlay.") || key == "security.capability";
            if allowed {
                found.attributes.insert(key.to_owned(), extension.value_bytes().to_vec());
            }
        }
        found
    }
}

/// The entry's path relative to the layer's root; `..` is refused.
fn clean(bytes: &[u8]) -> Result<PathBuf> {
    let refuse = |why| Err(Error::InvalidEntry { path: String::from_utf8_lossy(bytes).into_owned(), why });
    if bytes.len() >= PATH_LIMIT {
        return refuse("its path is too long");
    }
    if bytes.contains(&0) {
        return refuse("its path holds a NUL byte");
    }
    let mut path = PathBuf::new();
    for component in bytes.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return refuse("its path leads upwards"),
            name => path.push(OsStr::from_bytes(name)),
        }
    }
    Ok(path)
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

/// Removes a directory and all below it, following no symlink.
fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> std::result::Result<(), Errno> {
    let directory = openat(
        parent,
        name,
        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        let child = OsStr::from_bytes(entry.file_name().to_bytes());
        if child == "." || child == ".." {
            continue;
        }
        match unlinkat(&directory, child, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => remove_tree(directory.as_fd(), child)?,
            result => result?,
        }
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}
