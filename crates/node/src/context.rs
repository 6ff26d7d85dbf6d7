//! What every part of the agent holds in common.

use dray_engine::Engine;
use kube::Client;
use parking_lot::RwLock;

use crate::NodeConfig;
use crate::recorder::Recorder;
use crate::services::Services;

/// Engine, client, configuration, and what is known of the cluster.
pub(crate) struct Context {
    pub(crate) engine: Engine,
    pub(crate) client: Client,
    pub(crate) config: NodeConfig,
    pub(crate) recorder: Recorder,
    pub(crate) services: Services,
    /// The node's memory in bytes.
    pub(crate) memory: i64,
    /// The Node's uid, once it is registered: events name it.
    pub(crate) node_uid: RwLock<String>,
}
