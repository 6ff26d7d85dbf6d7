//! The API server: its parts, its start, its end.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use dray_access::User;
use dray_store::{EventKind, Store, Watcher};
use futures_util::{StreamExt as _, future::BoxFuture};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

use crate::{
    Error,
    access::Access,
    admission::{Policies, Programs, Waiting},
    aggregator::{Aggregator, Reader},
    allocation::{Allocator, Range},
    audit::Auditor,
    flow::Flow,
    pki::{self, Pki},
    read::Pages,
    service::ApiService,
    storage::{self, StoreConfig},
    tokens::Signer,
};

/// The first and the longest pause after the cluster's own objects could not be made again.
const RETRY: Duration = Duration::from_millis(10);
const LONGEST_RETRY: Duration = Duration::from_secs(1);

/// A connection to a node agent.
pub trait NodeStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> NodeStream for T {}

/// How node agents are reached. HTTP/1.1 is spoken over the connection.
pub trait NodeConnector: Send + Sync + 'static {
    /// Opens a connection to the agent of a node.
    fn connect<'a>(&'a self, node: &'a str) -> BoxFuture<'a, io::Result<Box<dyn NodeStream>>>;
}

/// A server in this process that serves a version of a group beside the kinds of this one, as those that APIServices name do.
/// HTTP/1.1 is spoken over the connection; who asks has been judged already.
pub trait Extension: Send + Sync + 'static {
    /// The group, as "metrics.k8s.io".
    fn group(&self) -> &str;
    /// Its version, as "v1beta1".
    fn version(&self) -> &str;
    /// Opens a connection.
    fn connect(&self) -> Box<dyn NodeStream>;
}

/// What the server is told at its start.
#[derive(Clone)]
pub struct Config {
    /// Where the store and the certificates live.
    pub data_dir: PathBuf,
    /// The range of Service addresses, as "10.43.0.0/16".
    pub service_cidr: String,
    /// Where clients reach the server.
    pub advertise_address: SocketAddr,
    /// Names and addresses, beside the usual ones, that the server's certificate is for.
    pub names: Vec<String>,
    /// How node agents are reached.
    pub node_connector: Option<Arc<dyn NodeConnector>>,
    /// What else is served in this process. Somebody's APIService of the same version goes before it.
    pub extensions: Vec<Arc<dyn Extension>>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) allocator: Allocator,
    pub(crate) pages: Pages,
    /// The kinds that definitions add.
    pub(crate) custom: crate::custom::Registry,
    /// What other servers serve.
    pub(crate) aggregator: Aggregator,
    /// What older clients read about all kinds.
    pub(crate) document: crate::openapi::Document,
    pub(crate) pki: Pki,
    pub(crate) signer: Signer,
    pub(crate) access: Arc<Access>,
    /// The requests that wait for the quotas of their namespaces.
    pub(crate) quotas: Waiting,
    pub(crate) programs: Programs,
    pub(crate) policies: Policies,
    pub(crate) flow: Flow,
    /// Who writes the audit log, when somebody is to.
    pub(crate) auditor: OnceLock<Arc<Auditor>>,
    pub(crate) shutdown: watch::Sender<bool>,
}

/// The API server. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) inner: Arc<Inner>,
}

impl ApiServer {
    /// Opens the store in the data directory and makes the objects that every cluster has.
    ///
    /// # Errors
    /// What the directory or the store refuses; a bad range of addresses.
    pub async fn open(config: Config) -> Result<ApiServer, Error> {
        ApiServer::open_on(config, StoreConfig::default()).await
    }

    /// As [`ApiServer::open`], with a store that is not as it is by default.
    ///
    /// # Errors
    /// Those of [`ApiServer::open`].
    pub async fn open_on(config: Config, store: StoreConfig) -> Result<ApiServer, Error> {
        let range = Range::parse(&config.service_cidr)?;
        let path = config.data_dir.join("store");
        let encryption_file = store.encryption.clone();
        let store = tokio::task::spawn_blocking(move || store.open(&path));
        let names = pki::server_names(range.at(1).into(), config.advertise_address.ip(), &config.names);
        let path = config.data_dir.join("pki");
        let keys = tokio::task::spawn_blocking(move || {
            let pki = Pki::open(&path, &names)?;
            Ok::<_, Error>((pki, Signer::open(&path)?))
        });
        let closed = |_| Error::Store(dray_store::Error::Closed);
        let (store, encryption) = store.await.map_err(closed)?.map_err(Error::Store)?;
        let (pki, signer) = keys.await.map_err(closed)??;
        let allocator = Allocator::new(range, &store.snapshot());
        let custom = crate::custom::Registry::load(&store);
        let aggregator =
            Aggregator::load(&store, Reader { identity: pki.front_proxy(), extensions: &config.extensions });
        let inner = Arc::new(Inner {
            config,
            store,
            allocator,
            pages: Pages::default(),
            custom,
            aggregator,
            document: crate::openapi::Document::default(),
            pki,
            signer,
            access: Arc::new(Access::new()),
            quotas: Waiting::default(),
            programs: Programs::default(),
            policies: Policies::default(),
            flow: Flow::default(),
            auditor: OnceLock::new(),
            shutdown: watch::Sender::new(false),
        });
        let server = ApiServer { inner };
        server.bootstrap(range.at(1)).await?;
        server.keep_bootstrapped(range.at(1));
        if let Some(path) = encryption_file {
            let (store, down) = (server.inner.store.clone(), server.inner.shutdown.subscribe());
            tokio::spawn(storage::follow(path, encryption, store, down));
        }
        server.inner.follow_definitions().map_err(Error::Store)?;
        server.inner.follow_services().map_err(Error::Store)?;
        server.inner.follow_policies().map_err(Error::Store)?;
        server.inner.follow_requests().map_err(Error::Store)?;
        Ok(server)
    }

    /// Makes the cluster's own objects again when somebody deletes them, until the server shuts down.
    fn keep_bootstrapped(&self, service_address: Ipv4Addr) {
        let inner = Arc::downgrade(&self.inner);
        let mut shutdown = self.inner.shutdown.subscribe();
        let revision = self.inner.store.snapshot().revision();
        let watchers = ["core/services", "core/endpoints", "discovery.k8s.io/endpointslices"]
            .map(|resource| self.inner.store.watch(resource, "default/kubernetes", revision));
        let watchers: Vec<Watcher> = watchers.into_iter().flatten().collect();
        tokio::spawn(async move {
            let gone = async {
                let following = watchers.into_iter().map(|watcher| {
                    futures_util::stream::unfold(watcher, |mut watcher| async {
                        let events = watcher.next().await.ok()?;
                        let gone = events.iter().any(|event| {
                            event.kind == EventKind::Deleted && &*event.name == "default/kubernetes"
                        });
                        Some((gone, watcher))
                    })
                    .boxed()
                });
                let mut changes = futures_util::stream::select_all(following);
                while let Some(gone) = changes.next().await {
                    let mut pause = RETRY;
                    while let Some(inner) = inner.upgrade().filter(|_| gone) {
                        let Err(error) = (ApiServer { inner }).bootstrap(service_address).await else {
                            break;
                        };
                        // The address of what was deleted may not be free again yet.
                        tracing::debug!(
                            error = &error as &dyn std::error::Error,
                            "the cluster lacks its own objects"
                        );
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LONGEST_RETRY);
                    }
                }
            };
            tokio::select! {
                () = gone => {}
                _ = shutdown.wait_for(|down| *down) => {}
            }
        });
    }

    /// The API for someone in the same process: give it to `kube::Client::new`.
    pub fn service(&self, user: User) -> ApiService {
        ApiService { inner: self.inner.clone(), user: Some(Arc::new(user)), peer: None }
    }

    /// A kubeconfig by which the administrator reaches the server at a URL, as "https://127.0.0.1:6443".
    pub fn kubeconfig(&self, url: &str) -> String {
        self.inner.pki.kubeconfig(url)
    }

    /// Writes such a kubeconfig to a file that only its owner may read.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn write_kubeconfig(&self, path: &std::path::Path, url: &str) -> Result<(), Error> {
        pki::write_private(path, &self.kubeconfig(url))
    }

    /// The certificate of the cluster's authority, as PEM.
    pub fn authority(&self) -> &str {
        self.inner.pki.authority()
    }

    /// The address of the Service `kubernetes`: the first of the range.
    pub fn kubernetes_address(&self) -> Ipv4Addr {
        // The range was read at the start.
        Range::parse(&self.inner.config.service_cidr).map_or(Ipv4Addr::UNSPECIFIED, |range| range.at(1))
    }

    /// Ends the watches, gives up this handle, and waits for the store's writer when it was the last.
    pub async fn close(self) {
        self.shut_down();
        let store = self.inner.store.clone();
        drop(self);
        let _ = tokio::task::spawn_blocking(move || store.close()).await;
    }

    /// Ends all watches, so that connections can be drained.
    pub fn shut_down(&self) {
        self.inner.shutdown.send_replace(true);
    }
}
