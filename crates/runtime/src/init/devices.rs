//! `/dev`: nodes, links, the console, and the process' standard streams.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{
    FileType, Gid, Mode, OFlags, Stat, Uid, chmodat, chownat, fchmod, fchown, fstat, fstatfs, major, makedev,
    minor, mknodat, symlinkat, unlinkat,
};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::Streams;
use super::filesystem::{attach, clone_mount};
use super::mounts::{make_file, open_plain};
use crate::error::Context as _;
use crate::launch::TerminalSize;
use crate::rootfs::{Root, open_host_path};
use crate::{Error, Result};

/// Devices of every container: name, major and minor number, all of mode 0666.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/tty", 5, 0),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
];

const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

/// Superblock magic of devpts (linux/magic.h).
const DEVPTS_MAGIC: u64 = 0x1cd1;

/// One node to make.
pub(super) struct Node {
    path: PathBuf,
    kind: FileType,
    major: u32,
    minor: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    /// The host's node to bind where nodes cannot be made (user namespaces).
    bind: Option<OwnedFd>,
}

pub(crate) fn is_null(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3)
}

/// Lists the nodes to make, while the host's `/dev` can still be reached.
pub(super) fn prepare(devices: Option<&[LinuxDevice]>, user_namespace: bool) -> Result<Vec<Node>> {
    let devices = devices.unwrap_or_default();
    let mut nodes = Vec::with_capacity(DEFAULT.len() + devices.len());
    for (path, major, minor) in DEFAULT {
        if devices.iter().any(|device| device.path() == Path::new(path)) {
            continue;
        }
        nodes.push(Node {
            path: path.into(),
            kind: FileType::CharacterDevice,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
            bind: None,
        });
    }
    for device in devices {
        let kind = match device.typ() {
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
            LinuxDeviceType::P => FileType::Fifo,
            LinuxDeviceType::A => {
                return Err(Error::Invalid {
                    field: "linux.devices.type",
                    reason: format!("{} needs a type", device.path().display()),
                });
            }
        };
        let number = |value: i64| {
            u32::try_from(value).map_err(|_| Error::Invalid {
                field: "linux.devices",
                reason: format!("{value} is not a device number"),
            })
        };
        nodes.push(Node {
            path: device.path().clone(),
            kind,
            major: number(device.major())?,
            minor: number(device.minor())?,
            mode: device.file_mode().unwrap_or(0o666) & 0o7777,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
            bind: None,
        });
    }
    if user_namespace {
        for node in &mut nodes {
            node.bind = open_host_path(&node.path, true).ok();
        }
    }
    Ok(nodes)
}

/// Makes nodes and links. Defaults are made only in a `/dev` of the container's own.
pub(super) fn make(root: &Root, nodes: Vec<Node>, own_directory: bool) -> Result<()> {
    if !own_directory {
        return Ok(());
    }
    let failed =
        |path: &Path, source: io::Error| Error::InRoot { operation: "create", path: path.into(), source };
    for node in nodes {
        make_node(root, &node).map_err(|source| failed(&node.path, source))?;
    }
    let directory =
        open_plain(root, Path::new("/dev")).map_err(|source| failed(Path::new("/dev"), source))?;
    for (target, name) in LINKS {
        match symlinkat(target, &directory, name) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(failed(&Path::new("/dev").join(name), errno.into())),
        }
    }
    Ok(())
}

fn make_node(root: &Root, node: &Node) -> io::Result<()> {
    if let Some(host) = &node.bind {
        let at = make_file(root, &node.path)?;
        return attach(&clone_mount(host.as_fd(), false)?, at.as_fd());
    }
    let name = node.path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = node.path.parent().unwrap_or(Path::new("/"));
    let parent = root.make_directories(parent, Mode::from_raw_mode(0o755)).map_err(|error| match error {
        Error::InRoot { source, .. } => source,
        other => io::Error::other(other.to_string()),
    })?;
    let mode = Mode::from_raw_mode(node.mode);
    match mknodat(&parent, name, node.kind, mode, makedev(node.major, node.minor)) {
        // A mount of the specification may have put something there; it stays.
        Err(rustix::io::Errno::EXIST) => return Ok(()),
        result => result?,
    }
    if (node.uid, node.gid) != (0, 0) {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        chownat(&parent, name, Some(uid), Some(gid), flags)?;
        // Changing the owner may clear bits.
        chmodat(&parent, name, mode, rustix::fs::AtFlags::empty())?;
    }
    Ok(())
}

/// A pseudo terminal of the container's own devpts.
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

/// Makes a terminal in the container's `/dev/pts`. What stands there is the kernel's or nothing: a file that only
/// looks like a terminal would be handed to the daemon (CVE-2025-52565).
pub(super) fn open_terminal(root: &Root, size: TerminalSize) -> Result<Terminal> {
    let path = Path::new("/dev/pts/ptmx");
    let failed = |source: io::Error| Error::InRoot { operation: "open", path: path.into(), source };
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let place = open_plain(root, path).map_err(failed)?;
    let stat = fstat(&place).map_err(|errno| failed(errno.into()))?;
    let system = fstatfs(&place).map_err(|errno| failed(errno.into()))?;
    let multiplexer = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (major(stat.st_rdev), minor(stat.st_rdev)) == (5, 2);
    if !multiplexer || system.f_type as u64 != DEVPTS_MAGIC {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "it is not the terminal multiplexer")));
    }
    let master = root.resolve(path, flags, Mode::empty()).map_err(failed)?;
    let opened = fstat(&master).map_err(|errno| failed(errno.into()))?;
    if (opened.st_dev, opened.st_ino) != (stat.st_dev, stat.st_ino) {
        return Err(failed(io::ErrorKind::InvalidData.into()));
    }
    unlockpt(&master).to("unlock a terminal")?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .to("open a terminal")?;
    set_size(&master, size)?;
    Ok(Terminal { master, slave })
}

/// Sets a terminal's size.
pub(crate) fn set_size(terminal: &OwnedFd, size: TerminalSize) -> Result<()> {
    let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).to("set the size of a terminal")
}

/// Mounts the terminal at `/dev/console`, by the descriptor of this very terminal.
pub(super) fn mount_console(root: &Root, terminal: &Terminal) -> Result<()> {
    let path = Path::new("/dev/console");
    let failed = |source: io::Error| Error::Mount {
        mount_source: "terminal".into(),
        destination: path.into(),
        source,
    };
    let directory = open_plain(root, Path::new("/dev")).map_err(failed)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&directory, "console", flags, Mode::from_raw_mode(0o600)) {
        Ok(_) => {}
        Err(rustix::io::Errno::EXIST) => {
            unlinkat(&directory, "console", rustix::fs::AtFlags::empty())
                .map_err(|errno| failed(errno.into()))?;
            rustix::fs::openat(&directory, "console", flags, Mode::from_raw_mode(0o600))
                .map_err(|errno| failed(errno.into()))?;
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    let at = open_plain(root, path).map_err(failed)?;
    let mount = clone_mount(terminal.slave.as_fd(), false).map_err(failed)?;
    attach(&mount, at.as_fd()).map_err(failed)
}

/// Makes a terminal the controlling one and the three standard streams.
pub(super) fn use_terminal(slave: &OwnedFd, uid: u32) -> Result<()> {
    crate::sys::set_controlling_terminal(slave.as_fd()).to("take the controlling terminal")?;
    if uid != 0 {
        // As login does: the user owns the terminal, group tty may write to it.
        fchown(slave, Some(Uid::from_raw(uid)), None).to("give the terminal to the user")?;
        let _ = fchmod(slave, Mode::from_raw_mode(0o620));
    }
    for number in 0..=2 {
        crate::sys::onto_standard(slave.as_fd(), number).to("set a standard stream")?;
    }
    Ok(())
}

/// Makes pipes the standard streams, owned by the user so that `/dev/stdout` can be opened again.
pub(super) fn use_streams(streams: &Streams, uid: u32) -> Result<()> {
    for (number, stream) in [(0, &streams.input), (1, &streams.output), (2, &streams.error)] {
        let stat = fstat(stream).to("look at a standard stream")?;
        if uid != 0 && stat.st_uid != uid && !is_null(&stat) {
            // In a user namespace the owner may have no number there.
            match fchown(stream, Some(Uid::from_raw(uid)), None) {
                Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM) => {}
                Err(errno) => return Err(errno).to("give a standard stream to the user"),
            }
        }
        crate::sys::onto_standard(stream.as_fd(), number).to("set a standard stream")?;
    }
    Ok(())
}
