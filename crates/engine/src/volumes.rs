//! Volumes: named directories that outlive containers.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use dray_runtime::rootfs::Root;
use jiff::Timestamp;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use crate::engine::private_directory;
use crate::error::{IoContext, Trying};
use crate::events::EventKind;
use crate::failpoint::failpoint;
use crate::late_root::LateRoot;
use crate::spec::{Mount, MountSource, VolumeMount};
use crate::{Engine, Error, Result, record};

/// A volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Its name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created: Timestamp,
    /// Whether it was made without a name.
    pub anonymous: bool,
    /// Where its files are.
    pub mountpoint: PathBuf,
    /// Options of the local driver (`type`, `device`, `o`), as they were given.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

pub(crate) struct Volumes {
    root: PathBuf,
    all: Mutex<BTreeMap<String, VolumeRecord>>,
    /// Held while something is mounted or unmounted, so that nothing is mounted twice.
    mounting: Mutex<()>,
}

impl Volumes {
    pub(crate) fn open(root: PathBuf) -> Result<Self> {
        private_directory(&root)?;
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(&root).io("list", &root)? {
            let directory = entry.io("list", &root)?.path();
            let path = directory.join("volume.json");
            if path.exists() {
                let volume: VolumeRecord = record::read(&path)?;
                all.insert(volume.name.clone(), volume);
            } else {
                // A creation or removal that a crash cut off.
                unmount(&directory.join("_data"))?;
                fs::remove_dir_all(&directory).io("remove", &directory)?;
            }
        }
        Ok(Self { root, all: Mutex::new(all), mounting: Mutex::new(()) })
    }

    /// The volume of this name, made when there is none; the flag tells whether it was made now.
    pub(crate) fn create(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
        anonymous: bool,
    ) -> Result<(VolumeRecord, bool)> {
        check_name(name)?;
        if !options.is_empty() {
            LocalMount::parse(&options).map_err(|why| Error::invalid(format!("create {name}: {why}")))?;
        }
        let mut all = self.all.lock();
        if let Some(volume) = all.get(name) {
            if !options.is_empty() && options != volume.options {
                return Err(Error::conflict(format!(
                    "create {name}: volume {name} already exists with other options"
                )));
            }
            return Ok((volume.clone(), false));
        }
        let directory = self.root.join(name);
        // Containers reach the files by descriptor; nobody else of the host looks into the directory above.
        private_directory(&directory)?;
        let mountpoint = directory.join("_data");
        fs::create_dir_all(&mountpoint).io("create", &mountpoint)?;
        failpoint("volume.made");
        let (name_owned, created) = (name.to_owned(), Timestamp::now());
        let volume = VolumeRecord { name: name_owned, labels, created, anonymous, mountpoint, options };
        record::write(&directory.join("volume.json"), &volume)?;
        failpoint("volume.recorded");
        all.insert(name.to_owned(), volume.clone());
        Ok((volume, true))
    }

    pub(crate) fn get(&self, name: &str) -> Result<VolumeRecord> {
        let volume = self.all.lock().get(name).cloned();
        volume.ok_or_else(|| Error::NotFound { kind: "volume", name: name.to_owned() })
    }

    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let volume = self.get(name)?;
        self.unmount(&volume)?;
        let directory = self.root.join(name);
        // The record goes first: what a crash leaves without one is cleared by the next start.
        let record = directory.join("volume.json");
        match fs::remove_file(&record) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).io("remove", &record);
            }
            _ => {}
        }
        failpoint("volume.remove-begun");
        fs::remove_dir_all(&directory).io("remove", &directory)?;
        self.all.lock().remove(name);
        Ok(())
    }

    /// Mounts what a volume's options name, unless it is mounted already.
    fn mount(&self, volume: &VolumeRecord) -> Result<()> {
        let _mounting = self.mounting.lock();
        if is_mounted(&volume.mountpoint)? {
            return Ok(());
        }
        LocalMount::parse(&volume.options).map_err(Error::invalid)?.mount(volume)
    }

    fn unmount(&self, volume: &VolumeRecord) -> Result<()> {
        let _mounting = self.mounting.lock();
        unmount(&volume.mountpoint)
    }

    /// Takes away what is mounted for volumes; their next use mounts it again.
    pub(crate) fn unmount_all(&self) -> Result<()> {
        let all: Vec<_> = self.all.lock().values().cloned().collect();
        all.iter().try_for_each(|volume| self.unmount(volume))
    }
}

/// What the options of the local driver say.
struct LocalMount {
    kind: String,
    device: String,
    flags: MountFlags,
    data: Vec<String>,
}

impl LocalMount {
    /// Reads `type`, `device` and `o`, the words of mount(8). The error is Docker's.
    fn parse(options: &BTreeMap<String, String>) -> std::result::Result<Self, String> {
        if let Some(unknown) =
            options.keys().find(|name| !["type", "device", "o", "size"].contains(&name.as_str()))
        {
            return Err(format!("invalid option: {unknown:?}"));
        }
        let get = |name: &str| options.get(name).cloned().unwrap_or_default();
        let (mut kind, device) = (get("type"), get("device"));
        let (mut flags, mut data) = (MountFlags::empty(), Vec::new());
        let mut is_bind = false;
        for word in get("o").split(',').filter(|word| !word.is_empty()) {
            match word {
                "ro" => flags |= MountFlags::RDONLY,
                "nosuid" => flags |= MountFlags::NOSUID,
                "nodev" => flags |= MountFlags::NODEV,
                "noexec" => flags |= MountFlags::NOEXEC,
                "noatime" => flags |= MountFlags::NOATIME,
                "relatime" => flags |= MountFlags::RELATIME,
                "sync" => flags |= MountFlags::SYNCHRONOUS,
                "rw" | "defaults" | "suid" | "dev" | "exec" | "async" => {}
                "bind" | "rbind" => is_bind = true,
                other => data.push(other.to_owned()),
            }
        }
        if is_bind {
            kind = "bind".to_owned();
        }
        if device.is_empty() && (is_bind || !kind.is_empty()) {
            return Err("missing device in volume options".to_owned());
        }
        if !device.is_empty() && kind.is_empty() {
            return Err("missing required option: \"type\"".to_owned());
        }
        if is_bind && !device.starts_with('/') {
            return Err(format!("the device of a bind must be an absolute path: {device}"));
        }
        Ok(Self { kind, device, flags, data })
    }

    fn mount(&self, volume: &VolumeRecord) -> Result<()> {
        let failed = |error: rustix::io::Errno| {
            Error::invalid(format!(
                "error while mounting volume '{}': failed to mount local volume: mount {}:{}: {}",
                volume.mountpoint.display(),
                self.device,
                volume.mountpoint.display(),
                std::io::Error::from(error)
            ))
        };
        if self.kind == "bind" {
            rustix::mount::mount_bind_recursive(&self.device, &volume.mountpoint).map_err(failed)?;
            if !self.flags.is_empty() {
                let flags = self.flags | MountFlags::BIND;
                let changed = rustix::mount::mount_remount(&volume.mountpoint, flags, "").map_err(failed);
                if changed.is_err() {
                    // Otherwise the next use would find it mounted, and not as it was asked for.
                    unmount(&volume.mountpoint)?;
                }
                return changed;
            }
            return Ok(());
        }
        let data = std::ffi::CString::new(self.data.join(","))
            .map_err(|_| Error::invalid("options of a mount must not contain a NUL byte"))?;
        rustix::mount::mount(&self.device, &volume.mountpoint, &self.kind, self.flags, Some(data.as_c_str()))
            .map_err(failed)
    }
}

/// Whether something is mounted on a directory: then it is of another mount than its parent.
fn is_mounted(path: &Path) -> Result<bool> {
    let id = |path: &Path| {
        let mask = rustix::fs::StatxFlags::MNT_ID;
        rustix::fs::statx(rustix::fs::CWD, path, rustix::fs::AtFlags::empty(), mask)
            .map(|stat| stat.stx_mnt_id)
    };
    Ok(id(path).io("look at", path)? != id(path.parent().unwrap_or(path)).io("look at", path)?)
}

/// Takes away all that is mounted on a directory. Whoever removes the directory next must see what is beneath: with a bind
/// still there, the files of the host would go.
fn unmount(path: &Path) -> Result<()> {
    while path.exists() && is_mounted(path)? {
        rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH).io("unmount", path)?;
    }
    Ok(())
}

/// A path in a directory. It is resolved there, whatever others that use it exchange meanwhile (CVE-2021-25741), and named
/// by its descriptor.
pub(crate) fn part(root: &Root, subpath: &str) -> Option<(PathBuf, OwnedFd)> {
    let found = root.open_at(subpath, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), found.as_raw_fd());
    Some((path.into(), found))
}

fn inside(volume: &VolumeRecord, subpath: &str) -> Result<(PathBuf, OwnedFd)> {
    let root = Root::open(&volume.mountpoint).trying("open a volume")?;
    part(&root, subpath).ok_or_else(|| {
        let name = &volume.name;
        Error::invalid(format!(
            "cannot access path {subpath} of the volume {name}: no such file or directory"
        ))
    })
}

/// Fills an empty volume with what the image has at the mount point, with its owner and mode.
fn copy_up(root: &LateRoot<'_>, target: &str, volume: &Path) -> Result<()> {
    let empty = fs::read_dir(volume).io("list", volume)?.next().is_none();
    if !empty {
        return Ok(());
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    match root.whole()?.open_at(target, flags, Mode::empty()) {
        Ok(directory) => Ok(dray_image::copy_directory(directory, volume)?),
        // The image has nothing there.
        Err(_) => Ok(()),
    }
}

fn check_name(name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let valid = name.len() >= 2
        && name.len() <= 255
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if valid {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

impl Engine {
    /// The volume of this name, made when there is none; without a name an anonymous one.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the name breaks the rules.
    pub async fn create_volume(
        &self,
        name: Option<String>,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<VolumeRecord> {
        self.blocking(move |engine| {
            let anonymous = name.is_none();
            let name = name.unwrap_or_else(|| crate::Id::random().to_string());
            let (volume, fresh) = engine.inner.volumes.create(&name, labels, options, anonymous)?;
            if fresh {
                engine.volume_event("create", &name);
            }
            Ok(volume)
        })
        .await
    }

    /// Where the files of a mounted volume are: it is made and mounted when it is not there yet, and filled from the
    /// image when it is empty. A part of one is named by the descriptor that comes with it.
    pub(crate) fn volume_source(
        &self,
        mount: &Mount,
        root: &LateRoot<'_>,
    ) -> Result<(PathBuf, Option<OwnedFd>)> {
        let MountSource::Volume(VolumeMount { name, no_copy, subpath, labels, options }) = &mount.source
        else {
            return Err(Error::invalid(format!("{} is no volume", mount.target)));
        };
        let (volume, _) = self.inner.volumes.create(name, labels.clone(), options.clone(), false)?;
        if !volume.options.is_empty() {
            self.inner.volumes.mount(&volume)?;
        }
        if !subpath.is_empty() {
            return inside(&volume, subpath).map(|(path, pinned)| (path, Some(pinned)));
        }
        if !no_copy {
            copy_up(root, &mount.target, &volume.mountpoint)?;
        }
        Ok((volume.mountpoint, None))
    }

    /// All volumes, by name.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeRecord> {
        self.inner.volumes.all.lock().values().cloned().collect()
    }

    /// The volume of this name.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn volume(&self, name: &str) -> Result<VolumeRecord> {
        self.inner.volumes.get(name)
    }

    /// Removes a volume that no container uses. With `force` one that is not there is no error.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Conflict`] when a container uses it.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        let name = name.to_owned();
        self.blocking(move |engine| {
            if let Err(error) = engine.inner.volumes.get(&name) {
                return if force { Ok(()) } else { Err(error) };
            }
            let users: Vec<String> = engine
                .containers()
                .iter()
                .filter(|container| container.volumes.iter().any(|used| used.name == name))
                .map(|container| container.id.to_string())
                .collect();
            if !users.is_empty() {
                return Err(Error::conflict(format!(
                    "remove {name}: volume is in use - [{}]",
                    users.join(", ")
                )));
            }
            engine.inner.volumes.remove(&name)?;
            engine.volume_event("destroy", &name);
            Ok(())
        })
        .await
    }

    pub(crate) fn volume_event(&self, action: &str, name: &str) {
        let attributes = [("driver".to_owned(), "local".to_owned())].into();
        self.inner.events.publish(EventKind::Volume, action, name, attributes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_local_driver_are_mounts_words() {
        let parse = |pairs: &[(&str, &str)]| {
            let options = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            LocalMount::parse(&options.collect())
        };
        let tmpfs = parse(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,nosuid,ro")]).unwrap();
        assert_eq!((tmpfs.kind.as_str(), tmpfs.data.as_slice()), ("tmpfs", &["size=1m".to_owned()][..]));
        assert_eq!(tmpfs.flags, MountFlags::NOSUID | MountFlags::RDONLY);
        assert_eq!(parse(&[("type", "none"), ("device", "/srv"), ("o", "bind")]).unwrap().kind, "bind");
        for refused in [
            &[("bogus", "x")][..],
            &[("type", "tmpfs")],
            &[("device", "/dev/sda1")],
            &[("device", "relative"), ("o", "bind")],
        ] {
            assert!(parse(refused).is_err(), "{refused:?}");
        }
    }
}
