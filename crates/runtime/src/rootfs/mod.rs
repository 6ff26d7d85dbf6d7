//! Working inside the root directory of a container that one does not trust.
//!
//! Every path is resolved by the kernel inside the root (openat2 with RESOLVE_IN_ROOT): links and `..` of the
//! image lead nowhere else, also while somebody exchanges them. It knows files, not containers.

mod assembled;
mod overlay;
mod users;

use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, mkdirat, open, openat2, readlinkat,
};
use rustix::io::Errno;

use crate::{Error, Result};
pub use assembled::{Inside, with_mounts};
pub use overlay::OverlayMount;
pub(crate) use overlay::overlay;
pub use users::{User, lookup_group, lookup_user};

/// Attempts of one resolution: the kernel gives up with EAGAIN when names change under it.
const ATTEMPTS: usize = 128;

/// A root directory, held by a descriptor.
#[derive(Debug)]
pub struct Root {
    directory: OwnedFd,
}

impl Root {
    /// Opens a directory of the host as a root.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(path, flags, Mode::empty()).map_err(|errno| Error::File {
            operation: "open",
            path: path.into(),
            source: errno.into(),
        })?;
        Ok(Self { directory })
    }

    /// Takes an open directory as a root, for example that of an [`OverlayMount`].
    pub fn from_descriptor(directory: OwnedFd) -> Self {
        Self { directory }
    }

    /// The open directory.
    pub fn into_descriptor(self) -> OwnedFd {
        self.directory
    }

    /// Opens a path inside the root. With `OFlags::NOFOLLOW` a link as the last part is not followed.
    pub fn open_at(&self, path: impl AsRef<Path>, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        let path = path.as_ref();
        self.resolve(path, flags, mode).map_err(|source| in_root("open", path, source))
    }

    /// A descriptor of a path for later use, links followed: neither readable nor writable.
    pub fn locate(&self, path: impl AsRef<Path>) -> Result<OwnedFd> {
        self.open_at(path, OFlags::PATH, Mode::empty())
    }

    pub(crate) fn resolve(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        resolve_in(self.directory.as_fd(), path, flags, mode)
    }

    /// Reads a regular file of at most `limit` bytes; a larger one or another kind of file is an error.
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let mut bytes = Vec::new();
        let mut file = self.open_file(path)?.take(limit + 1);
        file.read_to_end(&mut bytes).map_err(|source| in_root("read", path, source))?;
        if bytes.len() as u64 > limit {
            return Err(Error::TooLarge { path: path.into(), limit });
        }
        Ok(bytes)
    }

    /// Opens a regular file for reading; another kind of file is an error, and is not opened: to open a device is to use
    /// it, and a root holds any that its image names.
    pub fn open_file(&self, path: impl AsRef<Path>) -> Result<std::fs::File> {
        let path = path.as_ref();
        let regular = |file: &OwnedFd| {
            let stat = fstat(file).map_err(|errno| in_root("stat", path, errno.into()))?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(in_root("read", path, io::ErrorKind::InvalidInput.into()));
            }
            Ok((stat.st_dev, stat.st_ino))
        };
        let place = self.locate(path)?;
        let found = regular(&place)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        // What was looked at is opened, whatever has its name by now.
        let own = format!("/proc/self/fd/{}", place.as_raw_fd());
        let file = match open(own.as_str(), flags | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => file,
            // A process inside a container without /proc: its devices are its control group's affair.
            Err(Errno::NOENT) => self.open_at(path, flags, Mode::empty())?,
            Err(errno) => return Err(in_root("open", path, errno.into())),
        };
        if regular(&file)? != found {
            return Err(in_root("open", path, Errno::STALE.into()));
        }
        Ok(file.into())
    }

    /// Status of a path, links followed.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Stat> {
        let path = path.as_ref();
        let file = self.locate(path)?;
        fstat(&file).map_err(|errno| in_root("stat", path, errno.into()))
    }

    /// Status of a path; a link as the last part is not followed.
    pub fn lstat(&self, path: impl AsRef<Path>) -> Result<Stat> {
        let path = path.as_ref();
        let file = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        fstat(&file).map_err(|errno| in_root("stat", path, errno.into()))
    }

    /// Target of a symbolic link.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        use std::os::unix::ffi::OsStringExt as _;
        let path = path.as_ref();
        let link = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        let target = readlinkat(&link, "", Vec::new())
            .map_err(|errno| in_root("read the link", path, errno.into()))?;
        Ok(std::ffi::OsString::from_vec(target.into_bytes()).into())
    }

    /// Makes a directory and its missing parents and returns it. Existing parts stay as they are, links inside the
    /// root are followed; a link to nothing gets its target made.
    pub fn make_directories(&self, path: impl AsRef<Path>, mode: Mode) -> Result<OwnedFd> {
        let path = path.as_ref();
        self.make_all(path, mode).map_err(|source| in_root("create", path, source))
    }

    fn make_all(&self, path: &Path, mode: Mode) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        if let Ok(found) = self.resolve(path, flags, Mode::empty()) {
            return Ok(found);
        }
        // Each prefix is resolved anew from the root, so that a directory moved meanwhile leads nowhere else.
        let mut so_far = PathBuf::from("/");
        let mut current = self.resolve(&so_far, flags, Mode::empty())?;
        let mut links = 0;
        let mut rest: Vec<std::ffi::OsString> = parts(path);
        rest.reverse();
        while let Some(part) = rest.pop() {
            if part == ".." {
                so_far.pop();
                current = self.resolve(&so_far, flags, Mode::empty())?;
                continue;
            }
            let next = so_far.join(&part);
            match self.resolve(&next, flags, Mode::empty()) {
                Ok(directory) => {
                    current = directory;
                    so_far = next;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            match mkdirat(&current, &part, mode) {
                Ok(()) => so_far = next,
                Err(Errno::EXIST) => {
                    // A link to nothing: go on at what it names.
                    links += 1;
                    if links > 40 {
                        return Err(Errno::LOOP.into());
                    }
                    let target = match readlinkat(&current, &part, Vec::new()) {
                        Ok(target) => target,
                        // Somebody made the directory just now.
                        Err(Errno::INVAL) => {
                            current = self.resolve(&next, flags, Mode::empty())?;
                            so_far = next;
                            continue;
                        }
                        Err(errno) => return Err(errno.into()),
                    };
                    use std::os::unix::ffi::OsStringExt as _;
                    let target = PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        so_far = PathBuf::from("/");
                    }
                    let mut front = parts(&target);
                    front.reverse();
                    rest.extend(front);
                    if rest.len() > 4096 {
                        return Err(Errno::NAMETOOLONG.into());
                    }
                    current = self.resolve(&so_far, flags, Mode::empty())?;
                    continue;
                }
                Err(errno) => return Err(errno.into()),
            }
            current = self.resolve(&so_far, flags, Mode::empty())?;
        }
        Ok(current)
    }

    /// Opens a regular file for writing, emptied, made with its parents where missing.
    pub fn create(&self, path: impl AsRef<Path>, mode: Mode) -> Result<OwnedFd> {
        let path = path.as_ref();
        if let Some(parent) = path.parent() {
            self.make_directories(parent, Mode::from_raw_mode(0o755))?;
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let file = self.open_at(path, flags, mode)?;
        let stat = fstat(&file).map_err(|errno| in_root("stat", path, errno.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(in_root("write", path, io::ErrorKind::InvalidInput.into()));
        }
        Ok(file)
    }

    /// An absolute path by which this process reaches a path of the root as it is now, for code that needs a path.
    ///
    /// It goes through `/proc/self/fd` and is valid while the returned descriptor lives.
    pub fn pinned_path(&self, path: impl AsRef<Path>) -> Result<(OwnedFd, PathBuf)> {
        let file = self.locate(path)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
        Ok((file, path))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Parts of a path without the root and `.`.
fn parts(path: &Path) -> Vec<std::ffi::OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

fn in_root(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::InRoot { operation, path: path.into(), source }
}

/// openat2(2) with the directory as the root of resolution; links of /proc that leave it are refused.
pub(crate) fn resolve_in(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC;
    for _ in 0..ATTEMPTS {
        match openat2(directory, path, flags, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result.map_err(Into::into),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Opens a path of the host as it is, without following a last link when `follow` is false.
pub(crate) fn open_host_path(path: &Path, follow: bool) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::inotify;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_and_dots_stay_inside() {
        let outside = tempfile::tempdir().unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        symlink(outside.path(), directory.path().join("absolute")).unwrap();
        symlink("../../../../../../..", directory.path().join("dots")).unwrap();
        let root = Root::open(directory.path()).unwrap();
        assert!(root.read("/absolute/secret", 100).is_err());
        root.make_directories("/dots/etc/new", Mode::from_raw_mode(0o755)).unwrap();
        assert!(directory.path().join("etc/new").is_dir());
        // A link to nothing makes its target inside.
        root.make_directories("/absolute/made", Mode::from_raw_mode(0o755)).unwrap();
        assert!(!outside.path().join("made").exists());
        assert!(directory.path().join(outside.path().strip_prefix("/").unwrap()).join("made").is_dir());
        root.create("/etc/../../file", Mode::from_raw_mode(0o644)).unwrap();
        assert!(directory.path().join("file").is_file());
        assert_eq!(root.read_link("dots").unwrap(), Path::new("../../../../../../.."));
    }

    #[test]
    fn only_small_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "12345").unwrap();
        nix::unistd::mkfifo(&directory.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let root = Root::open(directory.path()).unwrap();
        assert_eq!(root.read("file", 5).unwrap(), b"12345");
        assert!(matches!(root.read("file", 4), Err(Error::TooLarge { .. })));
        assert!(root.read("pipe", 10).is_err());
        // A device is not even opened: to open one may start a watchdog or wind a tape.
        let device = directory.path().join("device");
        let null = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(CWD, &device, FileType::CharacterDevice, Mode::from_raw_mode(0o666), null)
            .unwrap();
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&watch, &device, inotify::WatchFlags::OPEN).unwrap();
        assert!(root.read("device", 10).is_err());
        let mut buffer = [std::mem::MaybeUninit::uninit(); 1024];
        let mut events = inotify::Reader::new(&watch, &mut buffer);
        assert!(matches!(events.next(), Err(Errno::AGAIN)));
        assert!(root.read("/", 10).is_err());
    }

    #[test]
    fn loops_of_links_end() {
        let directory = tempfile::tempdir().unwrap();
        symlink("b/x", directory.path().join("a")).unwrap();
        symlink("a/x", directory.path().join("b")).unwrap();
        let root = Root::open(directory.path()).unwrap();
        assert!(root.make_directories("/a/c", Mode::from_raw_mode(0o755)).is_err());
    }
}
