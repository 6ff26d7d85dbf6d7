//! What can go wrong in this crate.

use std::net::SocketAddr;

/// The result of every fallible function here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure that ends the proxy; a failure of one change is logged and tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The packet rules could not be written.
    #[error("cannot write the rules of services to table {table}")]
    Rules {
        /// The table.
        table: String,
        /// What the kernel said.
        source: dray_network::Error,
    },
    /// The services' network could not be routed.
    #[error("cannot route the services' network of {bridge}")]
    Route {
        /// The pods' bridge.
        bridge: String,
        /// What the kernel said.
        source: dray_network::Error,
    },
    /// The cluster's names could not be served.
    #[error("cannot serve the cluster's names at {address}")]
    Names {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: dray_network::Error,
    },
    /// A watch of the API ended, which it never should.
    #[error("the watch of {kind} ended")]
    WatchEnded {
        /// Services or EndpointSlices.
        kind: &'static str,
    },
    /// The thread that writes rules died.
    #[error("the writing of rules was cut off")]
    WriterDied,
}
