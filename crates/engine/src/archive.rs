//! Copying between a container's file system and an archive, whether it runs or not. Every path is resolved inside the
//! container's root, also while the container exchanges links below it (CVE-2018-15664).

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use dray_runtime::rootfs::{Inside, Root, with_mounts};
use jiff::Timestamp;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, statat};

use crate::container::ContainerHandle;
use crate::error::Trying;
use crate::late_root::LateRoot;
use crate::record::{ContainerRecord, Status};
use crate::spec::{MountSource, NetworkMode};
use crate::{Engine, Error, Result};
use crate::{files, oci};

/// What stands at a path of a container.
#[derive(Clone, Debug)]
pub struct PathEntry {
    /// The last part of the path.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// File type and permission bits, as stat(2) has them.
    pub mode: u32,
    /// When it was last changed.
    pub modified: Timestamp,
    /// What a symbolic link names; empty for others.
    pub link_target: String,
}

/// A path of a container, found: its directory, its name, and what it is.
struct Found {
    parent: OwnedFd,
    name: OsString,
    stat: Stat,
    /// Whether the path asks for what is in a directory, not for the directory (`/etc/.`).
    contents: bool,
}

/// What a root is wanted for. The engine's own files are in it for reading only: an archive replaces files, and one that
/// is mounted on cannot be replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

impl Engine {
    /// What stands at a path; a link as its last part is not followed.
    ///
    /// # Errors
    /// [`Error::NoSuchPath`].
    pub async fn stat_path(&self, container: &Arc<ContainerHandle>, path: &str) -> Result<PathEntry> {
        let path = path.to_owned();
        self.in_root(container, Access::Read, move |record, root| {
            let found = find(record, root, &path)?;
            let modified =
                Timestamp::new(found.stat.st_mtime, i32::try_from(found.stat.st_mtime_nsec).unwrap_or(0));
            let link_target = match FileType::from_raw_mode(found.stat.st_mode) {
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(&found.parent, &found.name, Vec::new());
                    target.map(|target| target.to_string_lossy().into_owned()).unwrap_or_default()
                }
                _ => String::new(),
            };
            Ok(PathEntry {
                name: if found.name == "." { "/".into() } else { found.name.to_string_lossy().into_owned() },
                size: u64::try_from(found.stat.st_size).unwrap_or(0),
                mode: found.stat.st_mode,
                modified: modified.unwrap_or_default(),
                link_target,
            })
        })
        .await
    }

    /// Writes an archive of a path and all below it, its entries beginning with the path's last part.
    ///
    /// # Errors
    /// [`Error::NoSuchPath`], or when the writer fails.
    pub async fn read_archive(
        &self,
        container: &Arc<ContainerHandle>,
        path: &str,
        writer: impl Write + Send + 'static,
    ) -> Result<()> {
        let path = path.to_owned();
        self.in_root(container, Access::Read, move |record, root| {
            let found = find(record, root, &path)?;
            let prefix = if found.contents { Path::new(".") } else { Path::new(&found.name) };
            Ok(dray_image::archive_path(found.parent.as_fd(), &found.name, prefix, writer)?)
        })
        .await
    }

    /// Unpacks an archive into a directory of the container.
    ///
    /// # Errors
    /// [`Error::NoSuchPath`]; [`Error::Invalid`] when it is no directory or cannot be written; [`Error::Image`] when
    /// the archive is damaged.
    pub async fn write_archive(
        &self,
        container: &Arc<ContainerHandle>,
        path: &str,
        reader: impl Read + Send + 'static,
    ) -> Result<()> {
        let path = path.to_owned();
        self.in_root(container, Access::Write, move |record, root| {
            if record.spec.security.read_only_root {
                return Err(Error::invalid("container rootfs is marked read-only"));
            }
            let inside = Path::new("/").join(&path);
            let stat = root.stat(&inside).map_err(|_| no_such(record, &path))?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                return Err(Error::invalid("extraction point is not a directory"));
            }
            let flags = OFlags::DIRECTORY | OFlags::RDONLY;
            let directory = root.open_at(&inside, flags, Mode::empty()).trying("open the directory")?;
            dray_image::extract_archive(reader, directory.as_fd())?;
            Ok(())
        })
        .await
    }

    /// Runs `work` on the container's root as it is: of its process, or of its layers when it does not run. It is not
    /// started or removed meanwhile.
    async fn in_root<T: Send + 'static>(
        &self,
        container: &Arc<ContainerHandle>,
        access: Access,
        work: impl FnOnce(&ContainerRecord, &Root) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let container = Arc::clone(container);
        let running = container.is_running();
        // A copy out of a running container may take long and must not hold up its end.
        let operation = if running { None } else { Some(Arc::clone(&container)) };
        let guard = match &operation {
            Some(container) => Some(container.operation.lock().await),
            None => None,
        };
        let record = container.record();
        let done = self
            .blocking(move |engine| {
                if let Some(process) = record.state.process.filter(|_| record.state.status == Status::Running)
                {
                    let root = Root::open(format!("/proc/{}/root", process.pid).as_ref());
                    return work(&record, &root.trying("open the container's root")?);
                }
                let lower = engine.inner.images.lower_directories(&record.layers)?;
                let (mut mounts, _pinned) = engine.volumes_inside(&record, &lower)?;
                // After the volumes, which may have mounted it to be filled: of two at once, the first cannot be written.
                let root = engine.root_of(&record, &lower)?;
                if access == Access::Read {
                    mounts.splice(..0, engine.files_inside(&record)?);
                }
                if mounts.is_empty() {
                    return work(&record, &root);
                }
                let place = engine.scratch()?;
                with_mounts(root.into_descriptor(), &mounts, place.path(), |root| work(&record, root))
                    .trying("mount the container's files and volumes")?
            })
            .await;
        drop(guard);
        done
    }

    /// The engine's own files at their places in a container that does not run; one that never did is given them first.
    fn files_inside(&self, record: &ContainerRecord) -> Result<Vec<Inside>> {
        let directory = match &record.spec.network {
            NetworkMode::Container(name) => match self.container(name) {
                Ok(other) => self.container_dir(&other.id),
                // Whose files they were is gone, and they with it.
                Err(_) => return Ok(Vec::new()),
            },
            _ => self.container_dir(&record.id),
        };
        if directory == self.container_dir(&record.id) && !directory.join(files::NAMES[0]).exists() {
            let on_host = record.spec.network == NetworkMode::Host;
            files::write_all(&directory, record, &oci::hostname(record), &[], &[], on_host)?;
        }
        let inside = files::NAMES.map(|name| Inside {
            source: directory.join(name),
            target: Path::new("/etc").join(name),
            read_only: false,
        });
        let is_own =
            |target: &Path| record.spec.mounts.iter().any(|mount| Path::new(&mount.target) == target);
        Ok(inside.into_iter().filter(|file| file.source.exists() && !is_own(&file.target)).collect())
    }

    /// What a container that does not run would have mounted: a copy finds the files where its process would. Volumes
    /// that no start has filled yet are filled.
    fn volumes_inside(
        &self,
        record: &ContainerRecord,
        lower: &[PathBuf],
    ) -> Result<(Vec<Inside>, Vec<OwnedFd>)> {
        let (mut mounts, mut all_pinned) = (Vec::new(), Vec::new());
        for mount in &record.spec.mounts {
            let source = match &mount.source {
                MountSource::Tmpfs { .. } | MountSource::Image(_) => continue,
                MountSource::Bind { path, .. } => PathBuf::from(path),
                MountSource::Volume(_) => {
                    let (source, pinned) = self.volume_source(mount, &LateRoot::new(self, record, lower))?;
                    all_pinned.extend(pinned);
                    source
                }
            };
            // A bind whose source is not there is refused by a start only.
            if source.exists() {
                let (target, read_only) = (PathBuf::from(&mount.target), mount.read_only);
                mounts.push(Inside { source, target, read_only });
            }
        }
        Ok((mounts, all_pinned))
    }
}

fn no_such(record: &ContainerRecord, path: &str) -> Error {
    Error::NoSuchPath { path: path.to_owned(), container: record.name.clone() }
}

fn find(record: &ContainerRecord, root: &Root, path: &str) -> Result<Found> {
    let missing = || no_such(record, path);
    let contents = path.ends_with("/.") || path == ".";
    let mut clean = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    // A slash at the end asks for what a link leads to.
    let follow = contents || path.ends_with('/');
    let (parent, name) = match (clean.parent(), clean.file_name()) {
        (Some(parent), Some(name)) if !follow => (parent.to_owned(), name.to_owned()),
        _ => (clean.clone(), OsString::from(".")),
    };
    let flags = OFlags::DIRECTORY | OFlags::PATH;
    let opened = root.open_at(&parent, flags, Mode::empty()).map_err(|_| missing())?;
    let stat = statat(&opened, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| missing())?;
    if name == "."
        && !contents
        && let (Some(above), Some(own)) = (clean.parent(), clean.file_name())
    {
        // `/etc/`: the directory itself, by its own name.
        let above = root.open_at(above, flags, Mode::empty()).map_err(|_| missing())?;
        if let Ok(direct) = statat(&above, own, AtFlags::SYMLINK_NOFOLLOW)
            && FileType::from_raw_mode(direct.st_mode) == FileType::Directory
        {
            return Ok(Found { parent: above, name: own.to_owned(), stat: direct, contents });
        }
    }
    Ok(Found { parent: opened, name, stat, contents })
}
