//! Connections: HTTP/1.1 on a unix socket, with upgrades.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use dray_build::Builder;
use dray_buildkit::BuildKit;
use dray_engine::Engine;
use dray_registry::Client;
use dray_swarm::Swarm;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::UnixListener;
use tokio_util::task::TaskTracker;

use crate::build_images::RegistryImages;
use crate::build_push::RegistryPushes;
use crate::metrics::Metrics;
use crate::router;
use crate::swarm::ByRequest;

/// What the handlers need.
#[derive(Clone)]
pub struct Api {
    pub(crate) engine: Engine,
    pub(crate) builder: Builder,
    pub(crate) buildkit: BuildKit,
    pub(crate) swarm: Swarm,
    pub(crate) registries: Client,
    pub(crate) about: Arc<About>,
    pub(crate) metrics: Arc<Metrics>,
}

/// What the daemon says of itself.
pub(crate) struct About {
    pub(crate) version: &'static str,
    pub(crate) name: String,
    pub(crate) id: String,
}

impl Api {
    /// The API over an engine, a builder on it, the swarm that it is in, if any, and a client for registries. `id` tells this daemon from others and
    /// stays the same.
    ///
    /// # Errors
    /// When the swarm's state is damaged.
    pub fn new(
        engine: Engine,
        registries: Client,
        version: &'static str,
        id: String,
    ) -> dray_swarm::Result<Self> {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let images = RegistryImages { registries: registries.clone(), store: Arc::clone(engine.images()) };
        let builder = Builder::new(engine.clone()).with_images(Arc::new(images));
        let pushes = Arc::new(RegistryPushes { registries: registries.clone() });
        let buildkit = BuildKit::new(engine.clone(), builder.clone(), pushes, version);
        let swarm = Swarm::open(engine.clone(), Arc::new(ByRequest { registries: registries.clone() }))?;
        let about = Arc::new(About { version, name, id });
        Ok(Self { engine, builder, buildkit, swarm, registries, about, metrics: Arc::default() })
    }

    /// The builder, with its cache.
    #[must_use]
    pub fn builder(&self) -> Builder {
        self.builder.clone()
    }
}

/// Serves the API until `shutdown` is done; requests that are under way then are given time by the caller, and
/// connections that idle are closed.
pub async fn serve(api: Api, listener: UnixListener, shutdown: impl Future<Output = ()>) {
    let tracker = TaskTracker::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: others will be closed in a moment.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let api = api.clone();
        tracker.spawn(async move {
            let service = service_fn(move |request| {
                let api = api.clone();
                async move { Ok::<_, Infallible>(router::handle(&api, request).await) }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a connection ended badly");
            }
        });
    }
}
