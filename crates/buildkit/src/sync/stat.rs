//! Entries in Go's words, and in the system's.

use std::cmp::Ordering;

use rustix::fs::{FileType, Mode, Timespec};

use crate::grpc::Status;
use crate::proto::fsutil::Stat;

const DIRECTORY: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const PIPE: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const SET_UID: u32 = 1 << 23;
const SET_GID: u32 = 1 << 22;
const CHARACTER_DEVICE: u32 = 1 << 21;
const STICKY: u32 = 1 << 20;
const IRREGULAR: u32 = 1 << 19;
const KINDS: u32 = DIRECTORY | SYMLINK | DEVICE | PIPE | SOCKET | CHARACTER_DEVICE | IRREGULAR;

/// The longest path that is taken, in bytes: the kernel's own limit.
const LONGEST_PATH: usize = 4096;
const LONGEST_NAME: usize = 255;
const SECOND: i64 = 1_000_000_000;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    Symlink,
    /// Devices, pipes and sockets, which are no content.
    Special,
}

pub(super) fn kind(stat: &Stat) -> Kind {
    match stat.mode & KINDS {
        0 => Kind::File,
        DIRECTORY => Kind::Directory,
        SYMLINK => Kind::Symlink,
        _ => Kind::Special,
    }
}

/// The permissions in the system's bits.
pub(super) fn permissions(stat: &Stat) -> Mode {
    let mut bits = stat.mode & 0o777;
    for (go, unix) in [(SET_UID, 0o4000), (SET_GID, 0o2000), (STICKY, 0o1000)] {
        if stat.mode & go != 0 {
            bits |= unix;
        }
    }
    Mode::from_raw_mode(bits)
}

/// The bits of Go's for what the system says.
pub(super) fn go_mode(raw: u32) -> u32 {
    let mut mode = raw & 0o777;
    for (go, unix) in [(SET_UID, 0o4000), (SET_GID, 0o2000), (STICKY, 0o1000)] {
        if raw & unix != 0 {
            mode |= go;
        }
    }
    mode | match FileType::from_raw_mode(raw) {
        FileType::Directory => DIRECTORY,
        FileType::Symlink => SYMLINK,
        FileType::RegularFile => 0,
        FileType::Fifo => PIPE,
        FileType::Socket => SOCKET,
        FileType::CharacterDevice => DEVICE | CHARACTER_DEVICE,
        FileType::BlockDevice => DEVICE,
        FileType::Unknown => IRREGULAR,
    }
}

/// An entry of a file system, by the name that it is to have.
pub(crate) fn stat_of(path: &str, found: &rustix::fs::Stat, link: String) -> Stat {
    Stat {
        path: path.to_owned(),
        mode: go_mode(found.st_mode),
        uid: found.st_uid,
        gid: found.st_gid,
        size: found.st_size,
        modified: found.st_mtime * SECOND + i64::try_from(found.st_mtime_nsec).unwrap_or_default(),
        link,
        ..Stat::default()
    }
}

pub(super) fn modified(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.modified.div_euclid(SECOND), tv_nsec: stat.modified.rem_euclid(SECOND) }
}

/// Checks a path and cuts it into its directory, which is empty for the top, and its name.
pub(super) fn split(path: &str) -> Result<(&str, &str), Status> {
    let refused =
        || Status::invalid(format!("the client sent the path {path:?}, which has no place in a tree"));
    let proper = |name: &str| {
        !name.is_empty() && name != "." && name != ".." && name.len() <= LONGEST_NAME && !name.contains('\0')
    };
    if path.len() > LONGEST_PATH || !path.split('/').all(proper) {
        return Err(refused());
    }
    Ok(path.rsplit_once('/').unwrap_or(("", path)))
}

/// The order that entries come in: what is in a directory comes right after it.
pub(super) fn order(one: &str, other: &str) -> Ordering {
    one.split('/').map(str::as_bytes).cmp(other.split('/').map(str::as_bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_paths_are_refused() {
        let long = "a".repeat(256);
        let deep = "a/".repeat(3000) + "a";
        let bad = ["", "/", "/etc", "..", "../x", "a/../b", "a//b", "a/", "./a", "a/.", "a\0b", &long, &deep];
        for path in bad {
            assert!(split(path).is_err(), "{path:?}");
        }
        assert_eq!(split("a").unwrap(), ("", "a"));
        assert_eq!(split("a/b/..c").unwrap(), ("a/b", "..c"));
        assert_eq!(split("a\\b/ü").unwrap(), ("a\\b", "ü"));
    }

    #[test]
    fn a_directory_comes_before_what_is_in_it_and_that_before_its_neighbours() {
        let mut paths = vec!["a.b", "a/b", "a", "a/b/c", "B", "a/b.c", "b"];
        paths.sort_by(|one, other| order(one, other));
        assert_eq!(paths, ["B", "a", "a/b", "a/b/c", "a/b.c", "a.b", "b"]);
    }

    proptest! {
        #[test]
        fn kinds_survive_the_way(raw in any::<u32>()) {
            let raw = raw & 0o177_777;
            let stat = Stat { mode: go_mode(raw), ..Stat::default() };
            prop_assert_eq!(permissions(&stat).as_raw_mode(), raw & 0o7777);
            let expected = match FileType::from_raw_mode(raw) {
                FileType::Directory => Kind::Directory,
                FileType::Symlink => Kind::Symlink,
                FileType::RegularFile => Kind::File,
                _ => Kind::Special,
            };
            prop_assert_eq!(kind(&stat), expected);
        }
    }
}
