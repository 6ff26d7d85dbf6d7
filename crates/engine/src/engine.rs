//! The engine itself: what it holds, and how its containers are found.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dray_image::{Digest, ImageStore};
use dray_network::pool::DefaultPool;
use dray_runtime::Executable;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::commit;
use crate::container::ContainerHandle;
use crate::discard::Discarded;
use crate::error::{IoContext, Trying};
use crate::events::{Event, EventFilter, EventKind, Events};
use crate::exec::Execs;
use crate::layers;
use crate::namespace_pool::NamespacePool;
use crate::networks::Networks;
use crate::record::{self, ContainerRecord};
use crate::sandbox::Sandboxes;
use crate::shutdown::Gate;
use crate::volumes::Volumes;
use crate::{Error, Id, Result};

/// Where an engine keeps what it has, and what tells it from another on the same host.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// State that survives a reboot.
    pub data_dir: PathBuf,
    /// State that does not: sockets, namespaces.
    pub run_dir: PathBuf,
    /// A short word that no other engine of this host has; it names cgroups, bridges and the packet filter's table.
    pub instance: String,
    /// The user namespace that containers get unless they ask for the host's.
    pub remap: Option<Remap>,
    /// What the subnets of networks are cut from that ask for none; Docker's own when there is none of their version.
    pub default_pools: Vec<DefaultPool>,
    /// Whose connections to published ports of 127.0.0.1 go straight to the container.
    pub led: Led,
}

/// Which processes' connections are led by programs in the kernel; those of others the packet rules translate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Led {
    /// Those of none.
    #[default]
    Nobody,
    /// Those of all of the host's network, where the kernel can.
    Everybody,
    /// Those of a control group of the unified hierarchy, a directory.
    Group(PathBuf),
}

/// Users and groups of a container, from 0 on, as the host sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remap {
    /// The host's number of the container's user 0.
    pub uid: u32,
    /// The host's number of the container's group 0.
    pub gid: u32,
    /// How many of each there are.
    pub size: u32,
}

/// The container engine. Clones share one state.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: EngineConfig,
    pub(crate) images: Arc<ImageStore>,
    pub(crate) executable: Executable,
    pub(crate) containers: RwLock<Containers>,
    pub(crate) networks: Networks,
    pub(crate) namespaces: NamespacePool,
    pub(crate) volumes: Volumes,
    pub(crate) sandboxes: Sandboxes,
    pub(crate) execs: Execs,
    pub(crate) discarded: Discarded,
    pub(crate) events: Events,
    /// Names given out to containers that are not in `containers` yet.
    pub(crate) reserved_names: Mutex<Vec<String>>,
    pub(crate) gate: Gate,
}

#[derive(Default)]
pub(crate) struct Containers {
    pub(crate) by_id: HashMap<Id, Arc<ContainerHandle>>,
    pub(crate) by_name: HashMap<String, Id>,
}

impl Engine {
    /// Opens the engine: reads its records, finds its running containers again and goes on with them.
    ///
    /// # Errors
    /// When a directory cannot be used, a record is damaged, or the kernel refuses the bridge.
    pub async fn open(config: EngineConfig) -> Result<Self> {
        let engine = tokio::task::spawn_blocking(move || Self::prepare(config))
            .await
            .map_err(|_| Error::Interrupted)??;
        engine.restore().await?;
        engine.fill_namespaces();
        engine.watch_rules()?;
        Ok(engine)
    }

    fn prepare(config: EngineConfig) -> Result<Self> {
        private_directory(&config.run_dir)?;
        let run = |name| config.run_dir.join(name);
        for path in [config.data_dir.join("containers"), run("c"), run("e"), run("n")] {
            private_directory(&path)?;
        }
        private_directory(&config.data_dir)?;
        layers::clear_scratch(&config.data_dir)?;
        let images = Arc::new(ImageStore::open(config.data_dir.join("image"))?);
        commit::clear_leases(&images)?;
        let executable = Executable::open().trying("open the running binary")?;
        let networks = Networks::open(&config)?;
        let namespaces = NamespacePool::open(run("q"))?;
        let volumes = Volumes::open(config.data_dir.join("volumes"))?;
        let sandboxes = Sandboxes::open(&config)?;
        let inner = Inner {
            images,
            executable,
            containers: RwLock::new(Containers::default()),
            networks,
            namespaces,
            volumes,
            sandboxes,
            execs: Execs::default(),
            discarded: Discarded::default(),
            events: Events::new(),
            reserved_names: Mutex::new(Vec::new()),
            gate: Gate::default(),
            config,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The images that containers start from.
    #[must_use]
    pub fn images(&self) -> &Arc<ImageStore> {
        &self.inner.images
    }

    /// What the engine was opened with.
    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    /// The container with this id, name, or unique prefix of an id.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Invalid`] when a prefix fits several.
    pub fn container(&self, name: &str) -> Result<Arc<ContainerHandle>> {
        let containers = self.inner.containers.read();
        let plain = name.strip_prefix('/').unwrap_or(name);
        if let Some(id) = containers.by_name.get(plain)
            && let Some(container) = containers.by_id.get(id)
        {
            return Ok(Arc::clone(container));
        }
        let is_hex = !name.is_empty() && name.bytes().all(|b| b.is_ascii_hexdigit());
        let mut matches =
            containers.by_id.iter().filter(|(id, _)| is_hex && id.as_str().starts_with(name)).map(|(_, c)| c);
        match (matches.next(), matches.next()) {
            (Some(only), None) => Ok(Arc::clone(only)),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("multiple IDs found with provided prefix: {name}")))
            }
            (None, _) => Err(Error::no_container(name)),
        }
    }

    /// Takes the engine's own control group away at its end, unless something still runs in it.
    pub async fn close(self) {
        let closed = self.blocking(|engine| {
            engine.inner.namespaces.close();
            if engine.containers().iter().all(|record| record.state.process.is_none()) {
                let path = format!("dray-{}", engine.inner.config.instance);
                let group =
                    dray_runtime::cgroup::Cgroup::new(path.as_ref()).trying("find the control group")?;
                if group.exists() {
                    group.delete().trying("remove the control group")?;
                }
            }
            Ok(())
        });
        if let Err(error) = closed.await {
            tracing::warn!(error = %error.chain(), "cannot clean up at the end");
        }
    }

    /// All containers, newest first.
    #[must_use]
    pub fn containers(&self) -> Vec<Arc<ContainerRecord>> {
        let mut all: Vec<_> = self.inner.containers.read().by_id.values().map(|c| c.record()).collect();
        all.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        all
    }

    /// Events of the past that fit, and a receiver for all that follow.
    #[must_use]
    pub fn events(&self, filter: EventFilter) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        self.inner.events.subscribe(filter)
    }

    /// Tells listeners that something happened to an image: the store itself knows no listeners.
    pub fn image_event(&self, action: &str, id: &Digest, name: &str) {
        let attributes = [("name".to_owned(), name.to_owned())].into();
        self.inner.events.publish(EventKind::Image, action, id.as_str(), attributes);
    }

    pub(crate) fn publish(
        &self,
        record: &ContainerRecord,
        action: impl Into<String>,
        more: &[(&str, String)],
    ) {
        let mut attributes = record.spec.labels.clone();
        attributes.insert("image".to_owned(), record.spec.image.clone());
        attributes.insert("name".to_owned(), record.name.clone());
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        self.inner.events.publish(EventKind::Container, action, record.id.as_str(), attributes);
    }

    /// The durable directory of a container.
    pub(crate) fn container_dir(&self, id: &Id) -> PathBuf {
        self.inner.config.data_dir.join("containers").join(id.as_str())
    }

    /// The directory of a container's shim.
    pub(crate) fn shim_dir(&self, id: &Id) -> PathBuf {
        self.inner.config.run_dir.join("c").join(&id.as_str()[..32])
    }

    /// Writes the record as it is now to disk, unless the container has been removed meanwhile.
    pub(crate) fn save(&self, container: &ContainerHandle) -> Result<()> {
        let on_disk = container.on_disk.lock();
        if !*on_disk {
            return Ok(());
        }
        self.write_record(&container.record())
    }

    /// Writes what a record is about to be, unless the container has been removed meanwhile.
    pub(crate) fn write_ahead(&self, container: &ContainerHandle, record: &ContainerRecord) -> Result<()> {
        let on_disk = container.on_disk.lock();
        if *on_disk { self.write_record(record) } else { Ok(()) }
    }

    pub(crate) fn write_record(&self, record: &ContainerRecord) -> Result<()> {
        record::write(&self.container_dir(&record.id).join("container.json"), record)
    }

    /// Does `work` to its end, also when whoever asked for it has gone: a start or a removal that is left in the
    /// middle would leave what nobody looks after.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        tokio::spawn(work).await.map_err(|_| Error::Interrupted)?
    }

    /// Runs `work` where it may block.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let engine = self.clone();
        tokio::task::spawn_blocking(move || work(&engine)).await.map_err(|_| Error::Interrupted)?
    }
}

/// Makes a directory that only root can look into.
pub(crate) fn private_directory(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(path).io("create", path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).io("change mode of", path)
}
