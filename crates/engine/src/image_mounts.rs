//! Images as mounts: the files of another image at a path of a container, read-only.
//!
//! The layers are leased for as long as the container is there. They are mounted below the container's directory while it
//! runs, because kernels before 6.15 clone no mount that is nowhere.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use dray_runtime::rootfs::{OverlayMount, Root};
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount};

use crate::error::{IoContext, Trying};
use crate::record::{ContainerRecord, ImageUse};
use crate::spec::{ImageMount, Mount, MountSource};
use crate::{Engine, Error, Id, Result};

/// Whoever keeps the layers of a container's mount, by the mount's number.
fn lease(id: &Id, index: usize) -> String {
    format!("{id}{SEPARATOR}{index}")
}

const SEPARATOR: char = '.';

/// The container that a lease is of.
pub(crate) fn lease_owner(lease: &str) -> Option<Id> {
    lease.split(SEPARATOR).next()?.parse().ok()
}

impl Engine {
    /// Finds the images that are to be mounted, and keeps them from going.
    pub(crate) fn use_images(&self, record: &mut ContainerRecord) -> Result<()> {
        for mount in &record.spec.mounts {
            let MountSource::Image(ImageMount { image, .. }) = &mount.source else { continue };
            let image = self.inner.images.resolve(image)?;
            if let Some(chain) = image.chain_id() {
                self.inner.images.lease(&lease(&record.id, record.images.len()), chain)?;
            }
            let (image, layers) = (image.id, image.layers);
            record.images.push(ImageUse { target: mount.target.clone(), image, layers });
        }
        Ok(())
    }

    /// Ends all that a container keeps of images.
    pub(crate) fn release_images(&self, id: &Id) -> Result<()> {
        let owners = self.inner.images.lease_owners();
        for owner in owners.iter().filter(|owner| lease_owner(owner).as_ref() == Some(id)) {
            self.inner.images.release(owner)?;
        }
        Ok(())
    }

    /// Where the files of a mounted image are. A part of them is named by the descriptor that comes with it.
    pub(crate) fn image_source(
        &self,
        record: &ContainerRecord,
        mount: &Mount,
    ) -> Result<(PathBuf, Option<OwnedFd>)> {
        let used = record.images.iter().enumerate().find(|(_, used)| used.target == mount.target);
        let (Some((index, used)), MountSource::Image(wanted)) = (used, &mount.source) else {
            return Err(Error::invalid(format!("{} is no image", mount.target)));
        };
        let path = self.container_dir(&record.id).join("images").join(index.to_string());
        let _ = rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        fs::create_dir_all(&path).io("create", &path)?;
        let lower = self.inner.images.lower_directories(&used.layers)?;
        if lower.is_empty() {
            return Err(Error::invalid(format!("the image {} has no files to mount", wanted.image)));
        }
        let files = OverlayMount::detached(&lower, None, None).trying("mount an image")?;
        move_mount(&files, "", rustix::fs::CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .io("mount an image at", &path)?;
        if wanted.subpath.is_empty() {
            return Ok((path, None));
        }
        let root = Root::open(&path).trying("open an image")?;
        let (path, pinned) = crate::volumes::part(&root, &wanted.subpath).ok_or_else(|| {
            let ImageMount { image, subpath } = wanted;
            Error::invalid(format!(
                "cannot access path {subpath} of the image {image}: no such file or directory"
            ))
        })?;
        Ok((path, Some(pinned)))
    }

    /// Unmounts what [`Engine::image_source`] mounted.
    pub(crate) fn end_image_mounts(&self, record: &ContainerRecord) {
        let directory = self.container_dir(&record.id).join("images");
        for index in 0..record.images.len() {
            let path = directory.join(index.to_string());
            let _ = rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
    }
}
