//! Work on layers outside of a container: looking into those of an image, and writing new ones.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dray_image::{Digest, ImageStore, Layer};
use dray_runtime::rootfs::{OverlayMount, Root};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, statat};

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

    /// Makes a layer of what was written, leased to `owner`; none when nothing was.
    ///
    /// # Errors
    /// When it cannot be packed.
    pub fn commit(self, owner: &str) -> Result<Option<Layer>> {
        let Self { images, parent, root, scratch } = self;
        // Nobody writes any more: the mount goes first.
        drop(root);
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
    pub async fn take_layer(&self, container: &Arc<ContainerHandle>, owner: &str) -> Result<Option<Layer>> {
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
            clear_mount_points(&upper, &lower)?;
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

/// Takes away the empty files and directories that only a start needed. Nothing is followed: what a program made a
/// link of is the program's.
fn clear_mount_points(upper: &Path, lower: &[PathBuf]) -> Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(upper, flags, Mode::empty()).io("open", upper)?;
    for point in MOUNT_POINTS {
        let (parent, name) = match point.split_once('/') {
            Some((parent, name)) => match rustix::fs::openat(&root, parent, flags, Mode::empty()) {
                Ok(parent) => (parent, name),
                Err(_) => continue,
            },
            None => (root.try_clone().io("open", upper)?, *point),
        };
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
        clear_mount_points(&upper, std::slice::from_ref(&lower)).unwrap();
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
        clear_mount_points(&upper, &[lower]).unwrap();
        assert!(victim.join("hosts").exists() && exists("etc") && exists("proc"));
    }
}
