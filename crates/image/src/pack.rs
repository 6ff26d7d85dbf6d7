//! Packing a directory into a layer's archive: the inverse of unpacking, with overlayfs' whiteouts translated.
//!
//! The directory may belong to a running container: every step goes through descriptors and follows no symlink.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fgetxattr, fstat, openat, readlinkat, statat,
};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use crate::error::IoContext;
use crate::{Error, Result};

/// Writes what stands below `root` as an uncompressed archive, names in order, so that equal trees give equal bytes.
/// With `overlay` the marks of an overlayfs upper layer become whiteouts of the image specification.
/// Answers the sum of the sizes of the regular files, in bytes.
///
/// # Errors
/// [`Error::Io`] when something cannot be read or the writer fails.
pub(crate) fn pack(root: &Path, overlay: bool, writer: impl Write) -> Result<u64> {
    pack_some(root, Packer::new(overlay, writer))
}

/// As [`pack`] with `overlay`, but only of paths that are `wanted`, which is asked for each directory before what is
/// in it.
///
/// # Errors
/// As [`pack`].
pub(crate) fn pack_wanted(root: &Path, wanted: &dyn Fn(&Path) -> bool, writer: impl Write) -> Result<u64> {
    pack_some(root, Packer { wanted, ..Packer::new(true, writer) })
}

fn pack_some<W: Write>(root: &Path, mut packer: Packer<'_, W>) -> Result<u64> {
    let fd = openat(CWD, root, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .io("open directory", root)?;
    packer.builder.mode(tar::HeaderMode::Complete);
    packer.directory(fd, Path::new(""))?;
    packer.builder.finish().io("write archive of", root)?;
    Ok(packer.size)
}

/// Copies what stands below the directory `source` into the existing directory `target`, with owners, modes and
/// times, those of the directory itself included. Sockets are left out.
///
/// # Errors
/// [`Error::Io`] when something cannot be read or written.
pub fn copy_directory(source: OwnedFd, target: &Path) -> Result<()> {
    let stat = fstat(&source).io("read attributes of", target)?;
    let (reader, writer) = io::pipe().io("make a pipe for", target)?;
    std::thread::scope(|scope| {
        let packing = scope.spawn(move || {
            let mut packer = Packer::new(false, io::BufWriter::with_capacity(64 * 1024, writer));
            packer.directory(source, Path::new(""))?;
            packer.builder.finish().io("write archive of", "directory")?;
            packer.builder.get_mut().flush().io("write archive of", "directory")
        });
        let unpacked = crate::unpack::unpack(
            io::BufReader::with_capacity(64 * 1024, reader),
            target,
            crate::unpack::Form::Plain,
        );
        let packed = packing.join().unwrap_or_else(|_| {
            Err(Error::InvalidArchive { why: "the directory could not be packed".to_owned() })
        });
        // When unpacking fails, packing only finds a closed pipe.
        unpacked.and(packed)
    })?;
    let owner = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(CWD, target, Some(owner.0), Some(owner.1), AtFlags::empty())
        .io("change owner of", target)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    rustix::fs::chmodat(CWD, target, mode, AtFlags::empty()).io("change mode of", target)
}

/// Writes an uncompressed archive of what has the name `name` in the directory `parent`, with all below it; its entries
/// begin with `prefix`. Nothing is followed.
///
/// # Errors
/// [`Error::Io`] when something cannot be read or the writer fails.
pub fn archive_path(parent: BorrowedFd<'_>, name: &OsStr, prefix: &Path, writer: impl Write) -> Result<()> {
    let mut packer = Packer::new(false, io::BufWriter::with_capacity(64 * 1024, writer));
    packer.entry(parent, name, prefix)?;
    packer.builder.finish().io("write archive of", prefix)?;
    packer.builder.get_mut().flush().io("write archive of", prefix)
}

/// Writes an uncompressed archive of what is in `directory`, without the directory itself.
///
/// # Errors
/// [`Error::Io`] when something cannot be read or the writer fails.
pub fn archive_contents(directory: OwnedFd, writer: impl Write) -> Result<()> {
    let mut packer = Packer::new(false, io::BufWriter::with_capacity(64 * 1024, writer));
    packer.directory(directory, Path::new(""))?;
    packer.builder.finish().io("write archive of", "directory")?;
    packer.builder.get_mut().flush().io("write archive of", "directory")
}

struct Packer<'a, W: Write> {
    builder: Builder<W>,
    overlay: bool,
    /// The first path of each file that has several.
    links: HashMap<(u64, u64), PathBuf>,
    size: u64,
    wanted: &'a dyn Fn(&Path) -> bool,
}

impl<W: Write> Packer<'_, W> {
    fn new(overlay: bool, writer: W) -> Self {
        Self { builder: Builder::new(writer), overlay, links: HashMap::new(), size: 0, wanted: &|_| true }
    }

    fn directory(&mut self, fd: OwnedFd, path: &Path) -> Result<()> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&fd).io("list", path)? {
            let entry = entry.io("list", path)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        if self.overlay && is_opaque(fd.as_fd()) {
            self.marker(&path.join(".wh..wh..opq"))?;
        }
        for name in names {
            let path = path.join(&name);
            if (self.wanted)(&path) {
                self.entry(fd.as_fd(), &name, &path)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<()> {
        let found = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
        let Some(stat) = unless_gone(found, path)? else { return Ok(()) };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mut header = header(&stat);
        match kind {
            FileType::Directory => {
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let Some(fd) = unless_gone(openat(parent, name, flags, Mode::empty()), path)? else {
                    return Ok(());
                };
                header.set_entry_type(EntryType::Directory);
                let mut with_slash = path.as_os_str().to_owned();
                with_slash.push("/");
                self.append(&mut header, Path::new(&with_slash), io::empty())?;
                self.directory(fd, path)
            }
            FileType::RegularFile => match open_regular(parent, name, path)? {
                Some((file, stat)) => self.file(file, path, &stat),
                None => Ok(()),
            },
            FileType::Symlink => {
                let Some(target) = unless_gone(readlinkat(parent, name, Vec::new()), path)? else {
                    return Ok(());
                };
                header.set_entry_type(EntryType::Symlink);
                self.link(&mut header, path, &OsString::from_vec(target.into_bytes()))
            }
            FileType::CharacterDevice if self.overlay && stat.st_rdev == 0 => {
                let mut hidden = OsString::from(".wh.");
                hidden.push(name);
                self.marker(&path.with_file_name(hidden))
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                header.set_entry_type(match kind {
                    FileType::CharacterDevice => EntryType::Char,
                    FileType::BlockDevice => EntryType::Block,
                    _ => EntryType::Fifo,
                });
                let major = rustix::fs::major(stat.st_rdev);
                let minor = rustix::fs::minor(stat.st_rdev);
                header.set_device_major(major).io("write archive of", path)?;
                header.set_device_minor(minor).io("write archive of", path)?;
                self.append(&mut header, path, io::empty())
            }
            // Sockets mean nothing in an image, and archives cannot hold them.
            _ => Ok(()),
        }
    }

    fn file(&mut self, file: File, path: &Path, stat: &Stat) -> Result<()> {
        let mut header = header(stat);
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key) {
                let first = first.as_os_str().to_owned();
                header.set_entry_type(EntryType::Link);
                header.set_size(0);
                return self.link(&mut header, path, &first);
            }
            self.links.insert(key, path.to_owned());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        self.size += size;
        let mut capability = [0_u8; 64];
        if let Ok(n) = fgetxattr(&file, "security.capability", &mut capability) {
            let extension = [("SCHILY.xattr.security.capability", &capability[..n])];
            self.builder.append_pax_extensions(extension).io("write archive of", path)?;
        }
        // A file that grows or shrinks meanwhile must not shift what follows it in the archive.
        let exact = file.take(size).chain(io::repeat(0)).take(size);
        self.append(&mut header, path, exact)
    }

    fn append(&mut self, header: &mut Header, path: &Path, data: impl Read) -> Result<()> {
        self.builder.append_data(header, path, data).io("write archive of", path)
    }

    fn link(&mut self, header: &mut Header, path: &Path, target: &OsStr) -> Result<()> {
        self.builder.append_link(header, path, target).io("write archive of", path)
    }

    fn marker(&mut self, path: &Path) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(0);
        self.append(&mut header, path, io::empty())
    }
}

/// What was found, or none when a running container has taken it away or put something of another kind in its place.
fn unless_gone<T>(found: rustix::io::Result<T>, path: &Path) -> Result<Option<T>> {
    match found {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL) => Ok(None),
        found => found.map(Some).io("look at", path),
    }
}

/// Opens a regular file and nothing else: to open a device is to use it, so what stands there is looked at first, and what
/// was looked at is opened, whatever has its name by then. None when it is no regular file (any more).
fn open_regular(parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<Option<(File, Stat)>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Some(place) = unless_gone(openat(parent, name, flags, Mode::empty()), path)? else { return Ok(None) };
    let stat = fstat(&place).io("read attributes of", path)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let own = format!("/proc/self/fd/{}", place.as_raw_fd());
    let file = openat(CWD, own, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).io("open", path)?;
    Ok(Some((file.into(), stat)))
}

fn header(stat: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(u64::from(stat.st_uid));
    header.set_gid(u64::from(stat.st_gid));
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    let mut value = [0_u8; 8];
    matches!(fgetxattr(directory, "trusted.overlay.opaque", &mut value), Ok(1) if value[0] == b'y')
}

/// An archive as large as it says, or [`Error::InvalidArchive`]: the counterpart for callers that read whole entries.
pub(crate) fn read_bounded(reader: &mut impl Read, limit: u64, what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes).io("read", what)?;
    if bytes.len() as u64 > limit {
        return Err(Error::InvalidArchive { why: format!("{what} is larger than {limit} bytes") });
    }
    Ok(bytes)
}
