//! Sandboxes: the namespaces that the containers of a pod share, pinned by files, so that no process has to hold them.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use dray_runtime::namespaces::{self, NamespaceKind};
use jiff::Timestamp;
use oci_spec::runtime::LinuxNamespaceType;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::engine::{EngineConfig, private_directory};
use crate::error::{IoContext, Trying};
use crate::networks::Place;
use crate::record::{self, EndpointRecord};
use crate::spec::{EndpointSpec, PortBinding};
use crate::{Engine, Error, Id, Result};

/// A sandbox to be made.
#[derive(Clone, Debug, Default)]
pub struct SandboxSpec {
    /// Its name among sandboxes: letters, digits and '-'; the pod's uid.
    pub name: String,
    /// The host name.
    pub hostname: String,
    /// The network it is in; none means the host's.
    pub network: Option<String>,
    /// Ports of the host that lead to it.
    pub ports: Vec<PortBinding>,
}

/// A sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// Its name.
    pub name: String,
    /// An id of its own, for addresses and ports.
    pub id: Id,
    /// The host name.
    pub hostname: String,
    /// Its place in the network; none means the host's network.
    pub endpoint: Option<EndpointRecord>,
    /// Ports of the host that lead to it, as they are bound.
    pub ports: Vec<PortBinding>,
    /// The files that pin its namespaces.
    pub directory: PathBuf,
    /// When it was made.
    pub created: Timestamp,
}

impl SandboxRecord {
    /// Its address; none in the host's network.
    #[must_use]
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.endpoint.as_ref().and_then(|endpoint| endpoint.address)
    }

    /// The file that pins its network namespace; none in the host's network.
    #[must_use]
    pub fn network_namespace(&self) -> Option<PathBuf> {
        self.endpoint.as_ref().map(|_| self.directory.join("net"))
    }

    pub(crate) fn namespaces(&self) -> Vec<(LinuxNamespaceType, PathBuf)> {
        let mut all = vec![
            (LinuxNamespaceType::Ipc, self.directory.join("ipc")),
            (LinuxNamespaceType::Uts, self.directory.join("uts")),
        ];
        all.extend(self.network_namespace().map(|path| (LinuxNamespaceType::Network, path)));
        all
    }

    fn kinds(&self) -> Vec<NamespaceKind> {
        if self.endpoint.is_some() {
            vec![NamespaceKind::Network, NamespaceKind::Ipc, NamespaceKind::Uts]
        } else {
            vec![NamespaceKind::Ipc, NamespaceKind::Uts]
        }
    }
}

pub(crate) struct Sandboxes {
    records: PathBuf,
    pins: PathBuf,
    all: Mutex<BTreeMap<String, SandboxRecord>>,
}

impl Sandboxes {
    pub(crate) fn open(config: &EngineConfig) -> Result<Self> {
        let records = config.data_dir.join("sandboxes");
        let pins = config.run_dir.join("p");
        private_directory(&records)?;
        private_directory(&pins)?;
        Ok(Self { records, pins, all: Mutex::new(BTreeMap::new()) })
    }

    /// Reads the records; a sandbox whose namespaces a reboot took is forgotten.
    pub(crate) fn load(&self) -> Result<Vec<SandboxRecord>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.records).io("list", &self.records)? {
            let path = entry.io("list", &self.records)?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let sandbox: SandboxRecord = record::read(&path)?;
            if is_pinned(&sandbox.directory.join("uts")) {
                found.push(sandbox.clone());
                self.all.lock().insert(sandbox.name.clone(), sandbox);
            } else {
                fs::remove_file(&path).io("remove", &path)?;
            }
        }
        Ok(found)
    }

    pub(crate) fn get(&self, name: &str) -> Result<SandboxRecord> {
        let found = self.all.lock().get(name).cloned();
        found.ok_or_else(|| Error::NotFound { kind: "sandbox", name: name.to_owned() })
    }

    fn record_path(&self, name: &str) -> PathBuf {
        self.records.join(format!("{name}.json"))
    }
}

/// Whether a namespace is mounted on this file: after a reboot only the plain file is left, or nothing.
fn is_pinned(path: &std::path::Path) -> bool {
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|statfs| statfs.f_type == NSFS_MAGIC)
}

impl Engine {
    /// Makes a sandbox, or answers the one that has this name.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad name, [`Error::Network`] and [`Error::Runtime`] when the kernel refuses. Then
    /// nothing is left behind.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<SandboxRecord> {
        let passed = self.inner.gate.pass().await?;
        self.blocking(move |engine| {
            let _passed = passed;
            if let Ok(present) = engine.inner.sandboxes.get(&spec.name) {
                return Ok(present);
            }
            let valid =
                !spec.name.is_empty() && spec.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            if !valid {
                return Err(Error::invalid(format!("invalid sandbox name {:?}", spec.name)));
            }
            engine.make_sandbox(&spec)
        })
        .await
    }

    fn make_sandbox(&self, spec: &SandboxSpec) -> Result<SandboxRecord> {
        let sandboxes = &self.inner.sandboxes;
        let directory = sandboxes.pins.join(&spec.name);
        private_directory(&directory)?;
        let mut kinds = vec![NamespaceKind::Ipc, NamespaceKind::Uts];
        if spec.network.is_some() {
            kinds.push(NamespaceKind::Network);
        }
        namespaces::pin(&kinds, &directory, Some(&spec.hostname))
            .trying("make the namespaces of a sandbox")?;
        let mut sandbox = SandboxRecord {
            name: spec.name.clone(),
            id: Id::random(),
            hostname: spec.hostname.clone(),
            endpoint: None,
            ports: Vec::new(),
            directory,
            created: Timestamp::now(),
        };
        let connected = self
            .connect_sandbox(spec, &mut sandbox)
            .and_then(|()| record::write(&sandboxes.record_path(&spec.name), &sandbox));
        if let Err(error) = connected {
            self.dissolve(&sandbox, &kinds);
            return Err(error);
        }
        sandboxes.all.lock().insert(sandbox.name.clone(), sandbox.clone());
        Ok(sandbox)
    }

    fn connect_sandbox(&self, spec: &SandboxSpec, sandbox: &mut SandboxRecord) -> Result<()> {
        let Some(network) = &spec.network else { return Ok(()) };
        let namespace = sandbox.directory.join("net");
        let endpoint = EndpointSpec::default();
        let place = Place {
            owner: &sandbox.id,
            namespace: &namespace,
            index: 0,
            endpoint: &endpoint,
            names: Vec::new(),
            leads: (true, true),
        };
        let endpoint = self.inner.networks.connect(network, &place)?;
        let published = self.inner.networks.published_at(std::slice::from_ref(&endpoint), |_| 0);
        sandbox.endpoint = Some(endpoint);
        sandbox.ports = self.inner.networks.publish(&sandbox.id, &sandbox.name, &spec.ports, published)?;
        Ok(())
    }

    /// All sandboxes.
    #[must_use]
    pub fn sandboxes(&self) -> Vec<SandboxRecord> {
        self.inner.sandboxes.all.lock().values().cloned().collect()
    }

    /// The sandbox of this name.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn sandbox(&self, name: &str) -> Result<SandboxRecord> {
        self.inner.sandboxes.get(name)
    }

    /// Takes a sandbox away. One that is not there is no error.
    ///
    /// # Errors
    /// When its record cannot be removed.
    pub async fn remove_sandbox(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.blocking(move |engine| {
            let Some(sandbox) = engine.inner.sandboxes.all.lock().remove(&name) else { return Ok(()) };
            engine.dissolve(&sandbox, &sandbox.kinds());
            let path = engine.inner.sandboxes.record_path(&name);
            fs::remove_file(&path).io("remove", &path)
        })
        .await
    }

    fn dissolve(&self, sandbox: &SandboxRecord, kinds: &[NamespaceKind]) {
        if let Some(endpoint) = &sandbox.endpoint {
            let published = self.inner.networks.published_at(std::slice::from_ref(endpoint), |_| 0);
            if let Err(error) = self.inner.networks.unpublish(&sandbox.id, &sandbox.ports, published) {
                tracing::warn!(sandbox = sandbox.name, error = %error.chain(), "cannot take back ports");
            }
            if let Err(error) = self.inner.networks.disconnect(endpoint, &sandbox.directory.join("net")) {
                tracing::warn!(sandbox = sandbox.name, error = %error.chain(), "cannot disconnect");
            }
        }
        for kind in kinds {
            if let Err(error) = namespaces::unpin(&sandbox.directory.join(kind.file_name())) {
                tracing::warn!(sandbox = sandbox.name, %error, "cannot unpin a namespace");
            }
        }
        let _ = fs::remove_dir_all(&sandbox.directory);
    }
}
