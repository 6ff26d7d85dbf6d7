//! The swarm itself: beginning, changing and leaving it, and its one node.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use dray_engine::{Engine, NetworkSpec};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::error::{Error, Result};
use crate::model::{Cluster, Object, new_id, new_token};
use crate::task::Translate;
use crate::{defaults, reconcile};

/// The network that published ports of services would come through.
const INGRESS: &str = "ingress";

/// The swarm of an engine, or its absence. Clones share one.
#[derive(Clone)]
pub struct Swarm {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) engine: Engine,
    pub(crate) translate: Translate,
    path: PathBuf,
    /// Where the files of secrets and configs are, by task.
    pub(crate) files: PathBuf,
    pub(crate) state: Mutex<Option<Cluster>>,
    /// Something changed that tasks may have to follow.
    pub(crate) changed: Notify,
    /// Tasks whose containers are being ended.
    pub(crate) ending: Mutex<HashSet<String>>,
    /// A container of a task has been ended.
    pub(crate) ended: Notify,
}

/// What `docker swarm update` makes anew.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rotation {
    /// The token of workers.
    pub worker: bool,
    /// The token of managers.
    pub manager: bool,
    /// The key that unlocks managers.
    pub unlock_key: bool,
}

impl Swarm {
    /// Finds the swarm that the engine is in, if any, and goes on with its services.
    ///
    /// # Errors
    /// [`Error::State`] when its state is damaged.
    pub fn open(engine: Engine, translate: Translate) -> Result<Self> {
        let directory = engine.config().data_dir.join("swarm");
        let path = directory.join("swarm.json");
        let state = match std::fs::read(&path) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes).map_err(|error| Error::State {
                action: "understand",
                path: path.clone(),
                source: error.into(),
            })?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => return Err(Error::State { action: "read", path, source }),
        };
        let files = engine.config().run_dir.join("s");
        let inner = Inner {
            engine,
            translate,
            path,
            files,
            state: Mutex::new(state),
            changed: Notify::new(),
            ending: Mutex::default(),
            ended: Notify::new(),
        };
        let swarm = Self { inner: Arc::new(inner) };
        tokio::spawn(reconcile::run(swarm.clone()));
        Ok(swarm)
    }

    /// Begins a swarm; gives the node's id. The request is that of `POST /swarm/init`.
    ///
    /// # Errors
    /// [`Error::Member`].
    pub async fn init(&self, request: &Value) -> Result<String> {
        if self.inner.state.lock().is_some() {
            return Err(Error::Member);
        }
        let spec = defaults::cluster(&request["Spec"]);
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let object = Object::new(1, spec);
        let node = Object::new(2, json!({ "Role": "manager", "Availability": "active", "Labels": {} }));
        let id = node.id.clone();
        let pools: Vec<String> = request["DefaultAddrPool"]
            .as_array()
            .map(|all| all.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect())
            .unwrap_or_default();
        let address = request["AdvertiseAddr"].as_str().unwrap_or_default();
        let cluster = Cluster {
            worker_token: new_token(&object.id),
            manager_token: new_token(&object.id),
            unlock_key: format!("SWMKEY-1-{}{}", new_id(), new_id()),
            object,
            node,
            hostname: hostname.trim().to_owned(),
            address: if address.is_empty() { "127.0.0.1".to_owned() } else { address.to_owned() },
            index: 2,
            pools: if pools.is_empty() { vec!["10.0.0.0/8".to_owned()] } else { pools },
            subnet_size: request["SubnetSize"].as_u64().filter(|size| *size > 0).unwrap_or(24),
            data_path_port: request["DataPathPort"].as_u64().filter(|port| *port > 0).unwrap_or(4789),
            services: Default::default(),
            tasks: Default::default(),
            secrets: Default::default(),
            configs: Default::default(),
        };
        let is_made = self.inner.engine.network(INGRESS).is_err();
        if is_made {
            let spec = NetworkSpec {
                name: INGRESS.to_owned(),
                driver: "bridge".to_owned(),
                overlay: true,
                ingress: true,
                ..NetworkSpec::default()
            };
            self.inner.engine.create_network(spec).await?;
        }
        let begun = {
            let mut state = self.inner.state.lock();
            if state.is_some() { Err(Error::Member) } else { self.replace(&mut state, Some(cluster)) }
        };
        if matches!(begun, Err(Error::State { .. })) && is_made {
            self.inner.engine.remove_network(INGRESS).await?;
        }
        begun.map(|()| id)
    }

    /// Joins the swarm of others, of which there is none.
    ///
    /// # Errors
    /// Always: [`Error::Member`] or [`Error::OneNode`].
    pub fn join(&self) -> Result<()> {
        if self.is_active() { Err(Error::Member) } else { Err(Error::OneNode) }
    }

    /// Ends the swarm with its services; without `force` that is refused.
    ///
    /// # Errors
    /// [`Error::NotMember`], [`Error::LastManager`], or when something of it cannot be removed.
    pub async fn leave(&self, force: bool) -> Result<()> {
        let tasks = {
            let mut state = self.inner.state.lock();
            let cluster = state.as_ref().ok_or(Error::NotMember)?;
            if !force {
                return Err(Error::LastManager);
            }
            let tasks: Vec<_> = cluster.tasks.values().cloned().collect();
            self.replace(&mut state, None)?;
            tasks
        };
        // All at once, for each may take its time.
        let ended: Vec<_> = tasks
            .into_iter()
            .map(|task| {
                let swarm = self.clone();
                tokio::spawn(async move { swarm.discard(&task).await })
            })
            .collect();
        for end in ended {
            let _ = end.await;
        }
        for network in self.inner.engine.networks() {
            if network.overlay {
                self.inner.engine.remove_network(network.id.as_str()).await?;
            }
        }
        self.inner.changed.notify_one();
        Ok(())
    }

    /// Whether the engine is in a swarm.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.inner.state.lock().is_some()
    }

    /// The swarm, as `GET /swarm` shows it.
    ///
    /// # Errors
    /// [`Error::NotManager`].
    pub fn inspect(&self) -> Result<Value> {
        self.read(|cluster| {
            let mut document = cluster.object.document();
            document["TLSInfo"] =
                json!({ "TrustRoot": "", "CertIssuerSubject": "", "CertIssuerPublicKey": "" });
            document["RootRotationInProgress"] = json!(false);
            document["DefaultAddrPool"] = json!(cluster.pools);
            document["SubnetSize"] = json!(cluster.subnet_size);
            document["DataPathPort"] = json!(cluster.data_path_port);
            document["JoinTokens"] =
                json!({ "Worker": cluster.worker_token, "Manager": cluster.manager_token });
            Ok(document)
        })
    }

    /// The part of `GET /info` that tells of the swarm.
    #[must_use]
    pub fn info(&self) -> Value {
        let absent = json!({
            "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "",
            "RemoteManagers": null,
        });
        self.read(|cluster| {
            let mut object = cluster.object.document();
            object["DefaultAddrPool"] = json!(cluster.pools);
            object["SubnetSize"] = json!(cluster.subnet_size);
            object["DataPathPort"] = json!(cluster.data_path_port);
            Ok(json!({
                "NodeID": cluster.node.id, "NodeAddr": cluster.address, "LocalNodeState": "active",
                "ControlAvailable": true, "Error": "", "Nodes": 1, "Managers": 1, "Cluster": object,
                "RemoteManagers": [{ "NodeID": cluster.node.id, "Addr": format!("{}:2377", cluster.address) }],
            }))
        })
        .unwrap_or(absent)
    }

    /// Changes the swarm's specification, and makes tokens and keys anew.
    ///
    /// # Errors
    /// [`Error::OutOfSequence`] when `version` is not the present one.
    pub fn update(&self, version: u64, spec: &Value, rotation: Rotation) -> Result<()> {
        self.change(|cluster| {
            if cluster.object.index != version {
                return Err(Error::OutOfSequence);
            }
            let index = cluster.next();
            let mut whole = cluster.object.spec.clone();
            defaults::overlay(&mut whole, spec);
            cluster.object.change(index, whole);
            if rotation.worker {
                cluster.worker_token = new_token(&cluster.object.id);
            }
            if rotation.manager {
                cluster.manager_token = new_token(&cluster.object.id);
            }
            if rotation.unlock_key {
                cluster.unlock_key = format!("SWMKEY-1-{}{}", new_id(), new_id());
            }
            Ok(())
        })
    }

    /// The key that unlocks managers; empty when they are not locked.
    ///
    /// # Errors
    /// [`Error::NotManager`].
    pub fn unlock_key(&self) -> Result<String> {
        self.read(|cluster| {
            let is_locking = cluster.object.spec["EncryptionConfig"]["AutoLockManagers"] == true;
            Ok(if is_locking { cluster.unlock_key.clone() } else { String::new() })
        })
    }

    /// The one node, as `GET /nodes` shows it.
    ///
    /// # Errors
    /// [`Error::NotManager`].
    pub fn node(&self) -> Result<Value> {
        self.read(|cluster| {
            let mut document = cluster.node.document();
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            document["Description"] = json!({
                "Hostname": cluster.hostname,
                "Platform": { "Architecture": std::env::consts::ARCH, "OS": "linux" },
                "Resources": { "NanoCPUs": processors as u64 * 1_000_000_000, "MemoryBytes": memory() },
                "Engine": { "EngineVersion": env!("CARGO_PKG_VERSION"), "Labels": {}, "Plugins": [] },
            });
            document["Status"] = json!({ "State": "ready", "Addr": cluster.address });
            document["ManagerStatus"] = json!({
                "Leader": true, "Reachability": "reachable", "Addr": format!("{}:2377", cluster.address),
            });
            Ok(document)
        })
    }

    /// The node with this id, name of host, or prefix of an id.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotManager`].
    pub fn node_named(&self, name: &str) -> Result<Value> {
        let node = self.node()?;
        let is_it =
            node["ID"].as_str().is_some_and(|id| id == name || (!name.is_empty() && id.starts_with(name)))
                || node["Description"]["Hostname"] == name
                || name == "self";
        if is_it { Ok(node) } else { Err(Error::NotFound { kind: "node", name: name.to_owned() }) }
    }

    /// Changes the node's specification.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::OutOfSequence`], [`Error::Precondition`] for a demotion of the last manager.
    pub fn update_node(&self, name: &str, version: u64, spec: &Value) -> Result<()> {
        self.node_named(name)?;
        self.change(|cluster| {
            if cluster.node.index != version {
                return Err(Error::OutOfSequence);
            }
            if spec["Role"] == "worker" {
                return Err(Error::Precondition {
                    message: "attempting to demote the last manager of the swarm".to_owned(),
                });
            }
            let index = cluster.next();
            cluster.node.change(index, spec.clone());
            Ok(())
        })
    }

    /// Removes a node, which the last one cannot be.
    ///
    /// # Errors
    /// Always: [`Error::NotFound`] or [`Error::Precondition`].
    pub fn remove_node(&self, name: &str) -> Result<()> {
        let node = self.node_named(name)?;
        Err(Error::Precondition {
            message: format!(
                "node {} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal",
                node["ID"].as_str().unwrap_or_default()
            ),
        })
    }

    pub(crate) fn read<T>(&self, work: impl FnOnce(&Cluster) -> Result<T>) -> Result<T> {
        work(self.inner.state.lock().as_ref().ok_or(Error::NotManager)?)
    }

    /// Changes the state and has tasks follow; what is refused changes nothing, and what is done is on disk.
    pub(crate) fn change<T>(&self, work: impl FnOnce(&mut Cluster) -> Result<T>) -> Result<T> {
        let answer = self.change_silently(work)?;
        self.inner.changed.notify_one();
        Ok(answer)
    }

    /// The same by those who have tasks follow themselves. What changes nothing writes nothing.
    pub(crate) fn change_silently<T>(&self, work: impl FnOnce(&mut Cluster) -> Result<T>) -> Result<T> {
        let mut state = self.inner.state.lock();
        let mut next = state.clone().ok_or(Error::NotManager)?;
        let answer = work(&mut next)?;
        if state.as_ref() != Some(&next) {
            self.replace(&mut state, Some(next))?;
        }
        Ok(answer)
    }

    /// Another state, first on disk: what cannot be written has not happened.
    fn replace(&self, state: &mut Option<Cluster>, next: Option<Cluster>) -> Result<()> {
        self.save(next.as_ref())?;
        *state = next;
        Ok(())
    }

    fn save(&self, state: Option<&Cluster>) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = &self.inner.path;
        let failed = |action: &'static str| {
            let path = path.clone();
            move |source| Error::State { action, path, source }
        };
        let Some(cluster) = state else {
            return match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("remove")(error)),
                _ => Ok(()),
            };
        };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed("make the directory of"))?;
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))
                .map_err(failed("close the directory of"))?;
        }
        let bytes = serde_json::to_vec(cluster).map_err(|error| failed("write")(error.into()))?;
        let staged = path.with_extension("new");
        std::fs::write(&staged, bytes).map_err(failed("write"))?;
        std::fs::rename(&staged, path).map_err(failed("replace"))
    }
}

/// The host's memory in bytes.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
