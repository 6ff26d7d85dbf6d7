//! What a container has changed of its image, read from its upper directory, and its whole file system for who only
//! reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dray_runtime::rootfs::{OverlayMount, Root};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fgetxattr, statat};

use crate::container::ContainerHandle;
use crate::error::{IoContext, Trying};
use crate::layers::MOUNT_POINTS;
use crate::record::ContainerRecord;
use crate::{Engine, Result};

/// How a path differs from the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Both have it, and something about it or below it is different.
    Modified,
    /// Only the container has it.
    Added,
    /// Only the image has it.
    Deleted,
}

/// Paths without a leading slash, parents before what is in them.
pub(crate) type Changes = BTreeMap<PathBuf, ChangeKind>;

impl Engine {
    /// What a container has changed of its image: paths below its root without a leading slash, in order, parents of
    /// what is changed included. What only a start needed is left out.
    ///
    /// # Errors
    /// When a directory cannot be read or the kernel refuses to mount the image's layers.
    pub async fn changes(&self, container: &Arc<ContainerHandle>) -> Result<Vec<(PathBuf, ChangeKind)>> {
        let record = container.record();
        self.blocking(move |engine| Ok(engine.changes_of(&record)?.into_iter().collect())).await
    }

    pub(crate) fn changes_of(&self, record: &ContainerRecord) -> Result<Changes> {
        let lower = if record.layers.is_empty() { None } else { Some(self.open_layers(&record.layers)?) };
        compare(&self.container_dir(&record.id).join("upper"), lower.as_ref())
    }

    /// The root directory of a container's file system as it is now, read-only, and without what is mounted in it.
    ///
    /// # Errors
    /// When a layer is missing or the kernel refuses the mount.
    pub async fn merged_root(&self, container: &Arc<ContainerHandle>) -> Result<OwnedFd> {
        let record = container.record();
        self.blocking(move |engine| {
            // The upper directory as one more lower one: its marks mean the same there, and a mount that only reads
            // takes nothing from the one that writes.
            let mut layers = vec![engine.container_dir(&record.id).join("upper")];
            layers.extend(engine.inner.images.lower_directories(&record.layers)?);
            let mounted =
                OverlayMount::detached(&layers, None, None).trying("mount the container's layers")?;
            let root = Root::from_descriptor(mounted);
            let opened = root.open_at("/", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty());
            let opened = opened.trying("open the container's root")?;
            engine.publish(&record, "export", &[]);
            Ok(opened)
        })
        .await
    }
}

/// Goes through the upper directory and looks for each of its paths in what is below.
fn compare(upper: &Path, lower: Option<&Root>) -> Result<Changes> {
    let root = Root::open(upper).trying("open the container's layer")?;
    let mut changes = Changes::new();
    // Mount points that are additions only when something else is in them.
    let mut needed_by_start = BTreeSet::new();
    // Directories, and whether the image has a directory there: then no link stands on the way to it.
    let mut directories = vec![(PathBuf::new(), lower.is_some())];
    while let Some((path, is_below)) = directories.pop() {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW;
        // What vanishes meanwhile is no longer a change.
        let Ok(directory) = root.open_at(Path::new("/").join(&path), flags, Mode::empty()) else { continue };
        let names = names(&directory, &path)?;
        let below = |path: &Path| {
            let lower = lower.filter(|_| is_below)?;
            lower.lstat(Path::new("/").join(path)).ok()
        };
        if is_below && is_opaque(&directory) {
            for name in names_below(lower, &path)?.difference(&names) {
                changes.insert(path.join(name), ChangeKind::Deleted);
            }
        }
        for name in &names {
            let Ok(stat) = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let path = path.join(name);
            let below = below(&path);
            let change = if below.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
            let kind = FileType::from_raw_mode(stat.st_mode);
            let is_mount_point = below.is_none() && MOUNT_POINTS.iter().any(|point| path == Path::new(point));
            if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
                if below.is_some() {
                    changes.insert(path, ChangeKind::Deleted);
                }
            } else if kind == FileType::Directory {
                let below =
                    below.filter(|below| FileType::from_raw_mode(below.st_mode) == FileType::Directory);
                match &below {
                    Some(below) if same_attributes(below, &stat) => {}
                    Some(_) => drop(changes.insert(path.clone(), ChangeKind::Modified)),
                    None if is_mount_point => drop(needed_by_start.insert(path.clone())),
                    None => drop(changes.insert(path.clone(), change)),
                }
                directories.push((path, below.is_some()));
            } else if !(is_mount_point && kind == FileType::RegularFile && stat.st_size == 0) {
                changes.insert(path, change);
            }
        }
    }
    let parents: BTreeSet<PathBuf> =
        changes.keys().flat_map(|path| path.ancestors().skip(1)).map(Path::to_owned).collect();
    for parent in parents.into_iter().filter(|parent| !parent.as_os_str().is_empty()) {
        let added = needed_by_start.contains(&parent);
        changes.entry(parent).or_insert(if added { ChangeKind::Added } else { ChangeKind::Modified });
    }
    Ok(changes)
}

fn names(directory: &OwnedFd, path: &Path) -> Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in Dir::read_from(directory).io("list", path)? {
        let entry = entry.io("list", path)?;
        let name = std::ffi::OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

fn names_below(lower: Option<&Root>, path: &Path) -> Result<BTreeSet<OsString>> {
    let Some(lower) = lower else { return Ok(BTreeSet::new()) };
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW;
    let opened = lower.open_at(Path::new("/").join(path), flags, Mode::empty());
    names(&opened.trying("open a directory of the image")?, path)
}

fn same_attributes(below: &Stat, stat: &Stat) -> bool {
    (below.st_mode, below.st_uid, below.st_gid) == (stat.st_mode, stat.st_uid, stat.st_gid)
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0_u8; 8];
    matches!(fgetxattr(directory.as_fd(), "trusted.overlay.opaque", &mut value), Ok(1) if value[0] == b'y')
}
