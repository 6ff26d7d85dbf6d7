//! The state directory: one directory a container, with what is needed to find and end it after any interruption.
//!
//! `state.json` is written as a whole or not at all, `config.json` is the configuration that the container was made
//! from, and `door` is the socket at which its first process waits for the start.

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use dray_runtime::cgroup::Cgroup;
use dray_runtime::{Process, direct};
use oci_spec::runtime::{ContainerState, Spec, State};
use serde::{Deserialize, Serialize};

use crate::arguments::Global;
use crate::bundle;
use crate::error::{Context as _, Error, OnFile as _, Result};

const STATE_FILE: &str = "state.json";
const CONFIG_FILE: &str = "config.json";
const DOOR: &str = "door";

/// Largest `state.json` that is read, in bytes.
const STATE_LIMIT: u64 = 1 << 20;

/// What is kept of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) oci_version: String,
    pub(crate) id: String,
    /// Absolute.
    pub(crate) bundle: PathBuf,
    /// Absolute.
    pub(crate) rootfs: PathBuf,
    pub(crate) created: String,
    /// User number of whoever made it.
    pub(crate) owner: u32,
    /// Below the roots of the hierarchies.
    pub(crate) cgroup: Option<PathBuf>,
    /// Whoever makes it, until there is a process.
    pub(crate) maker: Process,
    pub(crate) process: Option<Process>,
    /// Whether processes that leave their parents die with the first.
    pub(crate) own_pid_namespace: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<HashMap<String, String>>,
}

/// How far a container has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// All containers of one state directory.
pub(crate) struct Store {
    root: PathBuf,
}

/// One container's directory.
pub(crate) struct Container {
    pub(crate) directory: PathBuf,
    pub(crate) record: Record,
}

impl Store {
    pub(crate) fn of(global: &Global) -> Result<Self> {
        let root = match &global.root {
            Some(root) => std::path::absolute(root).on("find", root)?,
            None if rustix::process::geteuid().is_root() => "/run/dray/runtime".into(),
            None => match std::env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty()) {
                Some(directory) => Path::new(&directory).join("dray/runtime"),
                None => return Err(Error::Invalid { field: "--root", reason: "it is needed".into() }),
            },
        };
        Ok(Self { root })
    }

    /// Names become parts of paths: only plain ones (runc takes the same).
    fn directory(&self, id: &str) -> Result<PathBuf> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
        if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.bytes().all(plain) {
            return Err(Error::InvalidId { id: id.into() });
        }
        Ok(self.root.join(id))
    }

    /// Makes the directory of a new container.
    pub(crate) fn create(&self, record: Record, config: &[u8]) -> Result<Container> {
        let directory = self.directory(&record.id)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.root).on("create", &self.root)?;
        self.keep_private()?;
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::Exists { id: record.id });
            }
            result => result.on("create", &directory)?,
        }
        let container = Container { directory, record };
        let written = container.write().and_then(|()| {
            let path = container.directory.join(CONFIG_FILE);
            private_file(&path).and_then(|mut file| file.write_all(config)).on("write", &path)
        });
        if written.is_err() {
            let _ = fs::remove_dir_all(&container.directory);
        }
        written.map(|()| container)
    }

    /// Others must not get at containers through the state directory, whoever made it (CVE-2024-25621).
    fn keep_private(&self) -> Result<()> {
        let metadata = fs::symlink_metadata(&self.root).on("look at", &self.root)?;
        if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(Error::Invalid {
                field: "--root",
                reason: format!("{} is not a directory of this user", self.root.display()),
            });
        }
        if metadata.mode() & 0o077 != 0 {
            fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700)).on("protect", &self.root)?;
        }
        Ok(())
    }

    /// Finds a container.
    pub(crate) fn open(&self, id: &str) -> Result<Container> {
        let directory = self.directory(id)?;
        let path = directory.join(STATE_FILE);
        let bytes = match read_bounded(&path, STATE_LIMIT) {
            Err(Error::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::Missing { id: id.into() });
            }
            result => result?,
        };
        let record =
            serde_json::from_slice(&bytes).map_err(|source| Error::Json { what: "state", path, source })?;
        Ok(Container { directory, record })
    }

    /// Removes a directory that an interrupted creation or deletion left without a state.
    pub(crate) fn remove_remains(&self, id: &str) -> Result<()> {
        let directory = self.directory(id)?;
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.on("remove", &directory),
        }
    }

    /// All containers, by name.
    pub(crate) fn all(&self) -> Result<Vec<Container>> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.on("list", &self.root)?,
        };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names.iter().filter_map(|name| self.open(name).ok()).collect())
    }
}

impl Container {
    /// Writes `state.json`, so that a reader sees all of it or what was before.
    pub(crate) fn write(&self) -> Result<()> {
        let path = self.directory.join(STATE_FILE);
        let new = self.directory.join("state.json.new");
        let bytes = serde_json::to_vec(&self.record).map_err(|source| Error::Json {
            what: "state",
            path: path.clone(),
            source,
        })?;
        private_file(&new).and_then(|mut file| file.write_all(&bytes)).on("write", &new)?;
        fs::rename(&new, &path).on("write", &path)
    }

    pub(crate) fn door(&self) -> PathBuf {
        self.directory.join(DOOR)
    }

    /// The configuration that it was made from.
    pub(crate) fn spec(&self) -> Result<Spec> {
        bundle::parse(&self.directory.join(CONFIG_FILE)).map(|(spec, _)| spec)
    }

    pub(crate) fn cgroup(&self) -> Result<Option<Cgroup>> {
        self.record.cgroup.as_deref().map(Cgroup::new).transpose().to("name the control group")
    }

    /// The first process, when it lives.
    pub(crate) fn process(&self) -> Option<Process> {
        self.record.process.filter(Process::is_alive)
    }

    pub(crate) fn status(&self) -> Status {
        match self.record.process {
            None if self.record.maker.is_alive() => Status::Creating,
            None => Status::Stopped,
            Some(process) if !process.is_alive() => Status::Stopped,
            Some(_) => {
                let frozen = self.cgroup().ok().flatten().is_some_and(|cgroup| cgroup.is_frozen());
                if frozen {
                    Status::Paused
                } else if direct::is_waiting(&self.door()) {
                    Status::Created
                } else {
                    Status::Running
                }
            }
        }
    }

    /// The state as hooks are told it.
    pub(crate) fn state(&self, status: ContainerState) -> State {
        let record = &self.record;
        let mut state = State::default();
        state
            .set_version(record.oci_version.clone())
            .set_id(record.id.clone())
            .set_status(status)
            // Told also when it has ended by now: a short program may have.
            .set_pid(record.process.filter(|_| status != ContainerState::Stopped).map(|process| process.pid))
            .set_bundle(record.bundle.clone())
            .set_annotations(record.annotations.clone());
        state
    }

    /// Removes the directory; `state.json` goes last, so that a half removed container can be removed again.
    pub(crate) fn remove(&self) -> Result<()> {
        for name in [DOOR, CONFIG_FILE, STATE_FILE] {
            match fs::remove_file(self.directory.join(name)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                result => result.on("remove", &self.directory)?,
            }
        }
        fs::remove_dir_all(&self.directory).on("remove", &self.directory)
    }
}

fn private_file(path: &Path) -> std::io::Result<fs::File> {
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = fs::File::open(path).on("open", path)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).on("read", path)?;
    if bytes.len() as u64 > limit {
        return Err(Error::TooLarge { path: path.into(), limit });
    }
    Ok(bytes)
}
