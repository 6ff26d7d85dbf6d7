//! Volumes: named directories that outlive containers.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::engine::private_directory;
use crate::error::IoContext;
use crate::events::EventKind;
use crate::failpoint::failpoint;
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
}

pub(crate) struct Volumes {
    root: PathBuf,
    all: Mutex<BTreeMap<String, VolumeRecord>>,
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
                fs::remove_dir_all(&directory).io("remove", &directory)?;
            }
        }
        Ok(Self { root, all: Mutex::new(all) })
    }

    /// The volume of this name, made when there is none; the flag tells whether it was made now.
    pub(crate) fn create(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
        anonymous: bool,
    ) -> Result<(VolumeRecord, bool)> {
        check_name(name)?;
        let mut all = self.all.lock();
        if let Some(volume) = all.get(name) {
            return Ok((volume.clone(), false));
        }
        let directory = self.root.join(name);
        // Containers reach the files by descriptor; nobody else of the host looks into the directory above.
        private_directory(&directory)?;
        let mountpoint = directory.join("_data");
        fs::create_dir_all(&mountpoint).io("create", &mountpoint)?;
        failpoint("volume.made");
        let volume =
            VolumeRecord { name: name.to_owned(), labels, created: Timestamp::now(), anonymous, mountpoint };
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
        self.get(name)?;
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
    ) -> Result<VolumeRecord> {
        self.blocking(move |engine| {
            let anonymous = name.is_none();
            let name = name.unwrap_or_else(|| crate::Id::random().to_string());
            let (volume, fresh) = engine.inner.volumes.create(&name, labels, anonymous)?;
            if fresh {
                engine.volume_event("create", &name);
            }
            Ok(volume)
        })
        .await
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
