//! What the agent is told at its start.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// The node and the cluster it is part of.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The node's name.
    pub name: String,
    /// The agent's own files; the volumes of pods live below.
    pub state_dir: PathBuf,
    /// The engine's network that pods are in; it exists already.
    pub pod_network: String,
    /// Where pods ask for names.
    pub cluster_dns: Ipv4Addr,
    /// Where the cluster's names end, as "cluster.local".
    pub cluster_domain: String,
    /// What containers are told as KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT.
    pub kubernetes_service: SocketAddr,
    /// The node's address, which pods in the host's network have too.
    pub node_address: IpAddr,
    /// More labels for the node.
    pub labels: BTreeMap<String, String>,
    /// The version of the engine, as the node tells it.
    pub version: String,
}
