//! What nodes and pods use, as `kubectl top` and autoscalers ask for it: the group `metrics.k8s.io`
//! (<https://kubernetes.io/docs/tasks/debug/debug-cluster/resource-metrics-pipeline/>), which other clusters install a server for.
//!
//! Node agents count; this looks at their counters twice and tells what came between. It looks only when somebody asks, so that a
//! cluster nobody looks at does nothing. It reaches the cluster through a [`kube::Client`] only, and must not know the API server,
//! the store or the node agent.
#![forbid(unsafe_code)]

mod counters;
mod objects;
mod sampler;
mod serve;

use std::sync::Arc;

use kube::Client;
use tokio::io::{AsyncRead, AsyncWrite};

use sampler::Samplers;

/// The group.
pub const GROUP: &str = "metrics.k8s.io";
/// Its version.
pub const VERSION: &str = "v1beta1";

/// The server.
#[derive(Clone)]
pub struct MetricsServer {
    client: Client,
    samplers: Arc<Samplers>,
}

impl MetricsServer {
    /// A server that asks the cluster, and through it the agents of nodes, by a client.
    #[must_use]
    pub fn new(client: Client) -> MetricsServer {
        MetricsServer { client, samplers: Arc::default() }
    }

    /// Serves one connection, on which HTTP/1.1 is spoken by somebody who has judged who asks.
    pub async fn serve_connection<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        serve::serve(self, stream).await;
    }
}
