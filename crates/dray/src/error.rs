//! What can go wrong with the daemon as a whole.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Why the daemon could not start or be stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("dray must run as root; try: sudo dray up")]
    NotRoot,
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("another daemon (process {pid}) uses {}; stop it with: dray down --run-dir {}", run_dir.display(), run_dir.display())]
    Running { pid: i32, run_dir: PathBuf },
    #[error("another daemon uses the data directory {}; stop it, or choose another with --data-dir", data_dir.display())]
    Locked { data_dir: PathBuf },
    #[error("no daemon runs with the run directory {}", run_dir.display())]
    NotRunning { run_dir: PathBuf },
    #[error("process {pid} still runs after {seconds} seconds; look at its log")]
    StillRunning { pid: i32, seconds: u64 },
    #[error("cannot stop process {pid}")]
    Signal { pid: i32, source: dray_runtime::Error },
    #[error("cannot listen on {address}; choose another with --{option}")]
    Listen { address: SocketAddr, option: &'static str, source: std::io::Error },
    #[error(
        "invalid node name {name:?}: it must be a DNS subdomain of lower-case letters, digits, '-' and '.'; choose one with --node-name"
    )]
    NodeName { name: String },
    #[error("cannot go on with the swarm")]
    Swarm { source: dray_swarm::Error },
    #[error("--userns-remap: {why}")]
    Remap { why: String },
    #[error("cannot start the asynchronous runtime")]
    Runtime { source: std::io::Error },
    #[error("cannot look at the host's networks")]
    Network { source: dray_network::Error },
    #[error("cannot open the container engine")]
    Engine { source: dray_engine::Error },
    #[error("cannot open the Kubernetes API")]
    Api { source: dray_apiserver::Error },
    #[error("there is a cluster already in {}; restore into another --data-dir, or move it away", path.display())]
    Exists { path: PathBuf },
    #[error("cannot use the backup")]
    Backup { source: dray_store::Error },
    #[error("cannot start the node agent")]
    Node { source: dray_node::Error },
    #[error("cannot set up the registry")]
    Registry { source: dray_registry::Error },
    #[error("the host lacks what dray needs: {missing}; see: dray doctor")]
    Host { missing: String },
}

/// Puts the action and the path to an error of the system.
pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}
