//! Work on layers outside of a container: looking into those of an image, and writing new ones.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dray_image::{Digest, ImageStore, Layer};
use dray_runtime::rootfs::{OverlayMount, Root};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, statat};

use crate::container::ContainerHandle;
use crate::engine::private_directory;
use crate::error::{IoContext, Trying};
use crate::record::Status;
use crate::{Engine, Error, Id, Result};

/// The directory of unfinished work below the data directory.
const SCRATCH: &str = "scratch";
/// What a start puts into every root to mount on, parents behind what is in them.
pub(crate) const MOUNT_POINTS: &[&str] =
    &["etc/hosts", "etc/hostname", "etc/resolv.conf", "etc", "proc", "sys", "dev/console", "dev"];

/// Removes what a crash left of unfinished work.
pub(crate) fn clear_scratch(data_dir: &Path) -> Result<()> {
    let path = data_dir.join(SCRATCH);
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).io("clear", &path),
        _ => private_directory(&path),
    }
}

/// How what a program wrote becomes a layer.
#[derive(Clone, Debug, Default)]
pub struct LayerOptions {
    /// Paths that were mounted on and were not there before, without links in them. What is still empty there goes.
    pub mount_points: Vec<PathBuf>,
    /// Nothing is newer than this, in seconds since 1970.
    pub newest: Option<i64>,
}

/// A private directory on the file system of the images, which goes when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove unfinished work");
        }
    }
}

/// A layer in the making: the layers below with a writable one over them. Dropped without a commit it leaves nothing.
pub struct WritableLayer {
    images: Arc<ImageStore>,
    parent: Option<Digest>,
    root: Root,
    scratch: Scratch,
}

impl WritableLayer {
    /// The file system as a container on this layer would see it.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Where what is written is kept: with layers below, their marks of what is hidden included.
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.scratch.path.join("upper")
    }

    /// Makes a layer of what was written, leased to `owner`; none when nothing was. Nothing in it is newer than
    /// `newest`, in seconds since 1970.
    ///
    /// # Errors
    /// When it cannot be packed.
    pub fn commit(self, owner: &str, newest: Option<i64>) -> Result<Option<Layer>> {
        let Self { images, parent, root, scratch } = self;
        // Nobody writes any more: the mount goes first.
        drop(root);
        if let Some(newest) = newest {
            age(&scratch.path.join("upper"), newest)?;
        }
        commit_upper(&images, parent.as_ref(), &scratch.path.join("upper"), owner)
    }
}

impl Engine {
    /// A new private directory for unfinished work.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self) -> Result<Scratch> {
        let path = self.inner.config.data_dir.join(SCRATCH).join(&Id::random().as_str()[..32]);
        private_directory(&path)?;
        Ok(Scratch { path })
    }

    /// The file system that layers (lowest first) make together, read-only and on no path of the host.
    ///
    /// # Errors
    /// When a layer is missing or the kernel refuses the mount.
    pub fn open_layers(&self, layers: &[Layer]) -> Result<Root> {
        let lower = self.inner.images.lower_directories(layers)?;
        let fd = OverlayMount::detached(&lower, None, None).trying("mount layers")?;
        Ok(Root::from_descriptor(fd))
    }

    /// A layer to be written over `layers` (lowest first).
    ///
    /// # Errors
    /// When a layer is missing or the kernel refuses the mount.
    pub fn write_layer(&self, layers: &[Layer]) -> Result<WritableLayer> {
        use std::os::unix::fs::PermissionsExt;
        let scratch = self.scratch()?;
        let (upper, work) = (scratch.path.join("upper"), scratch.path.join("work"));
        for path in [&upper, &work] {
            fs::create_dir(path).io("create", path)?;
        }
        fs::set_permissions(&upper, fs::Permissions::from_mode(0o755)).io("change mode of", &upper)?;
        let lower = self.inner.images.lower_directories(layers)?;
        let fd: OwnedFd = if lower.is_empty() {
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH;
            rustix::fs::open(&upper, flags, Mode::empty()).io("open", &upper)?
        } else {
            OverlayMount::detached(&lower, Some(&upper), Some(&work)).trying("mount layers to write on")?
        };
        let parent = layers.last().map(|layer| layer.chain_id.clone());
        let images = Arc::clone(&self.inner.images);
        Ok(WritableLayer { images, parent, root: Root::from_descriptor(fd), scratch })
    }

    /// Makes a layer of what a container that has ended wrote, leased to `owner`; none when it wrote nothing. What it
    /// wrote moves away from it, so all that is left to do with the container is to remove it.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it has not ended.
    pub async fn take_layer(
        &self,
        container: &Arc<ContainerHandle>,
        owner: &str,
        options: LayerOptions,
    ) -> Result<Option<Layer>> {
        let _operation = container.operation.lock().await;
        let record = container.record();
        if record.state.status != Status::Exited {
            return Err(Error::conflict(format!("container {} has not ended", record.id)));
        }
        let owner = owner.to_owned();
        self.blocking(move |engine| {
            let upper = engine.container_dir(&record.id).join("upper");
            let images = &engine.inner.images;
            let lower = images.lower_directories(&record.layers)?;
            clear_mount_points(&upper, &lower, &options.mount_points)?;
            if let Some(newest) = options.newest {
                age(&upper, newest)?;
            }
            let parent = record.layers.last().map(|layer| &layer.chain_id);
            commit_upper(images, parent, &upper, &owner)
        })
        .await
    }
}

fn commit_upper(
    images: &ImageStore,
    parent: Option<&Digest>,
    upper: &Path,
    owner: &str,
) -> Result<Option<Layer>> {
    if fs::read_dir(upper).io("list", upper)?.next().is_none() {
        return Ok(None);
    }
    Ok(Some(images.commit_directory(parent, upper, owner)?))
}

/// Gives everything below a directory that is newer than `newest` (seconds since 1970) that time. Nothing is followed.
fn age(directory: &Path, newest: i64) -> Result<()> {
    let root = rustix::fs::open(directory, AGED, Mode::empty()).io("open", directory)?;
    age_inside(&root, directory, newest)
}

const AGED: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn age_inside(directory: &OwnedFd, path: &Path, newest: i64) -> Result<()> {
    for entry in rustix::fs::Dir::read_from(directory).io("list", path)? {
        let entry = entry.io("list", path)?;
        let name = entry.file_name();
        if name.to_bytes() == b".." {
            continue;
        }
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).io("look at", path)?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory && name.to_bytes() != b"." {
            let inner = rustix::fs::openat(directory, name, AGED, Mode::empty()).io("open", path)?;
            age_inside(&inner, &path.join(name.to_string_lossy().as_ref()), newest)?;
        }
        if stat.st_mtime >= newest {
            let time = rustix::fs::Timespec { tv_sec: newest, tv_nsec: 0 };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                .io("set times of", path)?;
        }
    }
    Ok(())
}

/// Takes away the empty files and directories that only a start needed: the usual ones and `more`, and the directories
/// above those. Nothing is followed: what a program made a link of is the program's.
fn clear_mount_points(upper: &Path, lower: &[PathBuf], more: &[PathBuf]) -> Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(upper, flags, Mode::empty()).io("open", upper)?;
    let mut points: Vec<PathBuf> = MOUNT_POINTS.iter().map(PathBuf::from).collect();
    for path in more {
        let path = path.strip_prefix("/").unwrap_or(path);
        points.extend(path.ancestors().filter(|path| !path.as_os_str().is_empty()).map(Path::to_owned));
    }
    points.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    points.dedup();
    for point in &points {
        let parent = point.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = match parent {
            Some(parent) => {
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
                match rustix::fs::openat2(&root, parent, flags, Mode::empty(), resolve) {
                    Ok(parent) => parent,
                    Err(_) => continue,
                }
            }
            None => root.try_clone().io("open", upper)?,
        };
        let Some(name) = point.file_name() else { continue };
        let Ok(stat) = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let below = lower.iter().find_map(|layer| layer.join(point).symlink_metadata().ok());
        let removal = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if below.is_none() && stat.st_size == 0 => AtFlags::empty(),
            // A directory that is below as well is here only because something was made in it, unless it was changed.
            FileType::Directory if below.as_ref().is_none_or(|below| same_directory(below, &stat)) => {
                AtFlags::REMOVEDIR
            }
            _ => continue,
        };
        match rustix::fs::unlinkat(&parent, name, removal) {
            Ok(()) | Err(rustix::io::Errno::NOTEMPTY) => {}
            Err(error) => return Err(error).io("remove", upper.join(point)),
        }
    }
    Ok(())
}

fn same_directory(below: &fs::Metadata, stat: &rustix::fs::Stat) -> bool {
    use std::os::unix::fs::MetadataExt;
    below.is_dir() && below.mode() == stat.st_mode && below.uid() == stat.st_uid && below.gid() == stat.st_gid
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn nothing_stays_newer_than_it_may() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("new"), "x").unwrap();
        fs::write(path.join("old"), "x").unwrap();
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(5);
        fs::File::options().write(true).open(path.join("old")).unwrap().set_modified(old).unwrap();
        symlink("nowhere", path.join("link")).unwrap();
        age(directory.path(), 100).unwrap();
        let seconds = |name: &str| {
            use std::os::unix::fs::MetadataExt as _;
            path.join(name).symlink_metadata().unwrap().mtime()
        };
        assert_eq!((seconds("new"), seconds("old"), seconds("link"), seconds(".")), (100, 5, 100, 100));
    }

    #[test]
    fn cve_2024_23652_mount_points_go_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (upper, lower) = (path("upper"), path("lower"));
        for made in ["upper/etc", "upper/proc", "upper/sys/left", "lower/etc", "lower/dev", "upper/dev"] {
            fs::create_dir_all(path(made)).unwrap();
        }
        for file in ["upper/etc/hosts", "upper/etc/resolv.conf", "lower/etc/resolv.conf"] {
            fs::write(path(file), "").unwrap();
        }
        fs::write(upper.join("etc/hostname"), "written").unwrap();
        fs::set_permissions(upper.join("dev"), fs::Permissions::from_mode(0o700)).unwrap();
        clear_mount_points(&upper, std::slice::from_ref(&lower), &[]).unwrap();
        let exists = |name: &str| upper.join(name).symlink_metadata().is_ok();
        assert!(!exists("etc/hosts") && !exists("proc"), "what a start made goes");
        assert!(exists("etc/resolv.conf"), "an empty file over the image's own is the program's");
        assert!(exists("etc/hostname") && exists("sys/left") && exists("dev"), "what was written stays");

        // A program that makes links of mount points leads nobody out.
        let victim = path("victim");
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("hosts"), "").unwrap();
        fs::remove_dir_all(upper.join("etc")).unwrap();
        symlink(&victim, upper.join("etc")).unwrap();
        symlink(&victim, upper.join("proc")).unwrap();
        fs::create_dir_all(upper.join("cache/deep")).unwrap();
        symlink(&victim, upper.join("linked")).unwrap();
        let more = ["cache/deep".into(), "linked/hosts".into()];
        clear_mount_points(&upper, &[lower], &more).unwrap();
        assert!(!exists("cache") && exists("linked"));
        assert!(victim.join("hosts").exists() && exists("etc") && exists("proc"));
    }
}
