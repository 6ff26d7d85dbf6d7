//! How much volumes and file systems hold.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A file system, in bytes and inodes. `used` is what a volume holds where it shares the file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileSystem {
    pub(crate) capacity: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
}

/// The file system that a path is on; none when it cannot be looked at.
pub(crate) fn file_system(path: &Path) -> Option<FileSystem> {
    let found = rustix::fs::statvfs(path).ok()?;
    let size = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Some(FileSystem {
        capacity: size(found.f_blocks),
        available: size(found.f_bavail),
        used: size(found.f_blocks.saturating_sub(found.f_bfree)),
        inodes: found.f_files,
        inodes_free: found.f_ffree,
    })
}

/// The volumes that the agent has made for a pod, by name, and what they hold. This looks at each file.
pub(crate) fn measure(pod_directory: &Path) -> Vec<(String, FileSystem)> {
    let mut found = Vec::new();
    let kinds = std::fs::read_dir(pod_directory.join("volumes")).into_iter().flatten().flatten();
    for kind in kinds {
        for volume in std::fs::read_dir(kind.path()).into_iter().flatten().flatten() {
            let (Some(of), Ok(name)) = (file_system(&volume.path()), volume.file_name().into_string()) else {
                continue;
            };
            found.push((name, FileSystem { used: bytes(&volume.path()), ..of }));
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

/// Bytes on the disk of everything below a directory, each file counted once; links are not followed.
fn bytes(root: &Path) -> u64 {
    const BLOCK: u64 = 512;
    let (mut size, mut seen) = (0_u64, HashSet::new());
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                directories.push(entry.path());
            }
            if metadata.nlink() == 1 || metadata.is_dir() || seen.insert((metadata.dev(), metadata.ino())) {
                size = size.saturating_add(metadata.blocks().saturating_mul(BLOCK));
            }
        }
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_holds_its_files_once() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().join("volumes/empty-dir/cache");
        std::fs::create_dir_all(volume.join("deep")).unwrap();
        let before = measure(directory.path())[0].1.used;
        std::fs::write(volume.join("deep/file"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(volume.join("deep/file"), volume.join("again")).unwrap();
        std::os::unix::fs::symlink("/", volume.join("everything")).unwrap();
        let (name, of) = measure(directory.path()).remove(0);
        assert_eq!(name, "cache");
        let grown = of.used - before;
        assert!((1 << 20..(1 << 20) + 65_536).contains(&grown), "{grown}");
        assert!(of.capacity >= of.available && of.inodes >= of.inodes_free);
        assert!(measure(&directory.path().join("nowhere")).is_empty());
    }
}
