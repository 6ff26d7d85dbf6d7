//! What every part of the agent holds in common.

use std::path::PathBuf;

use dray_engine::Engine;
use kube::Client;
use parking_lot::RwLock;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::NodeConfig;
use crate::admission::Admission;
use crate::recorder::Recorder;
use crate::services::Services;

/// Engine, client, configuration, and what is known of the cluster.
pub(crate) struct Context {
    pub(crate) engine: Engine,
    /// Brings images that are not here.
    pub(crate) registries: dray_registry::Client,
    pub(crate) client: Client,
    pub(crate) config: NodeConfig,
    pub(crate) recorder: Recorder,
    pub(crate) services: Services,
    /// The node's memory in bytes.
    pub(crate) memory: i64,
    /// Who has which share of the node.
    pub(crate) admission: Admission,
    /// Who may have the kernel make namespaces and processes: more at once than the machine has work for only wait for
    /// each other, and hold memory meanwhile.
    pub(crate) makers: Semaphore,
    /// The Node's uid, once it is registered: events name it.
    pub(crate) node_uid: RwLock<String>,
}

/// Makers a processor.
const MAKERS: usize = 4;

impl Context {
    pub(crate) fn makers(processors: usize) -> Semaphore {
        Semaphore::new(processors.max(1) * MAKERS)
    }

    /// Where a pod's files are.
    pub(crate) fn pod_directory(&self, uid: &str) -> PathBuf {
        self.config.state_dir.join(crate::agent::PODS).join(uid)
    }

    /// Waits for a turn; it ends when the permit is dropped.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // Nobody closes the semaphore; without it all would go on at once.
        self.makers.acquire().await.ok()
    }
}
