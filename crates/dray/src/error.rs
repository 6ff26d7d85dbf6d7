//! What can go wrong with the daemon as a whole.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the daemon could not start or be stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("dray must run as root; try: sudo dray up")]
    NotRoot,
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("another daemon (process {pid}) uses {}; stop it with: dray down --run-dir {}", run_dir.display(), run_dir.display())]
    Running { pid: i32, run_dir: PathBuf },
    #[error("no daemon runs with the run directory {}", run_dir.display())]
    NotRunning { run_dir: PathBuf },
    #[error("cannot stop process {pid}")]
    Signal { pid: i32, source: dray_runtime::Error },
    #[error("cannot listen on {address}; choose another with --api-listen")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot start the asynchronous runtime")]
    Runtime { source: std::io::Error },
    #[error("cannot open the container engine")]
    Engine { source: dray_engine::Error },
    #[error("cannot open the Kubernetes API")]
    Api { source: dray_apiserver::Error },
}
