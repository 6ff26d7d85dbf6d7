//! The directories of this node's local volumes, below one directory. It knows no claim and no pod.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use dray_controllers::Directories;

/// Directories below one that only root can reach.
#[derive(Debug)]
pub(crate) struct VolumeDirectories {
    root: PathBuf,
}

impl VolumeDirectories {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }
}

impl Directories for VolumeDirectories {
    fn place(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn make(&self, name: &str) -> io::Result<()> {
        fs::create_dir_all(&self.root)?;
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700))?;
        let place = self.place(name);
        match fs::create_dir(&place) {
            // Containers write to it as any user.
            Ok(()) => fs::set_permissions(&place, fs::Permissions::from_mode(0o777)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let place = self.place(name);
        if is_mounted_below(&place, &fs::read("/proc/self/mountinfo")?) {
            // What is behind a mount is somebody else's.
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "something is mounted in the volume"));
        }
        match fs::remove_dir_all(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Whether a table of mounts (proc(5), mountinfo) has one at or below a path.
fn is_mounted_below(path: &Path, table: &[u8]) -> bool {
    let points =
        table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    points.map(unescaped).any(|point| Path::new(std::ffi::OsStr::from_bytes(&point)).starts_with(path))
}

/// Spaces and the like are written as three octal digits.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| *first == b'\\') {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_and_go_with_all_that_they_hold() {
        let root = tempfile::tempdir().unwrap();
        let outside = root.path().join("outside");
        fs::write(&outside, "kept").unwrap();
        let directories = VolumeDirectories::new(root.path().join("volumes"));
        let place = directories.place("pvc-1");
        directories.make("pvc-1").unwrap();
        directories.make("pvc-1").unwrap();
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o7777, 0o777);
        fs::create_dir(place.join("deep")).unwrap();
        std::os::unix::fs::symlink(&outside, place.join("deep/link")).unwrap();
        directories.remove("pvc-1").unwrap();
        directories.remove("pvc-1").unwrap();
        assert!(!place.exists() && outside.exists());
    }

    #[test]
    fn what_is_mounted_is_seen() {
        let table = b"36 35 0:3 / /data/pvc-1/in\\040side rw - ext4 /dev/x rw\n40 35 0:4 / /data/pvc-22 rw - tmpfs t rw\n";
        for (path, expected) in [
            ("/data/pvc-1", true),
            ("/data/pvc-1/in side", true),
            ("/data/pvc-2", false),
            ("/data/pvc-22", true),
        ] {
            assert_eq!(is_mounted_below(Path::new(path), table), expected, "{path}");
        }
    }
}
