//! A registry: the OCI distribution specification 1.1 over the image store.
//!
//! Blobs are those of the store, and repositories only link to them. Who may do what is decided before a request reaches
//! its handler.

mod access;
mod answer;
mod blobs;
mod listing;
mod manifests;
mod mirror;
mod password;
mod router;
mod tokens;
mod uploads;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dray_image::ImageStore;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio_rustls::TlsAcceptor;

pub use access::TokenAuthority;

use self::access::Access;
use self::mirror::Mirror;
use self::uploads::Slot;
use crate::connect::certificates;
use crate::{Client, Error, Hosts, Result};

/// How long a client may take for the head of a request, and for a TLS handshake.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// How long a client that sends a body may be silent.
const BODY_PATIENCE: Duration = Duration::from_mins(1);
/// Connections at once.
const CONNECTION_LIMIT: usize = 4096;
/// Between two looks for what is abandoned.
const ROUND: Duration = Duration::from_mins(10);
/// How long an upload and a blob without a manifest wait for the client to go on.
const ABANDONED: Duration = Duration::from_hours(24);
/// How often another registry is asked: a client waits behind it, which tries again by itself.
const MIRROR_ATTEMPTS: u32 = 2;
/// After something was deleted, more is let come before the store is swept.
const SWEEP_PAUSE: Duration = Duration::from_secs(2);

/// What a registry is to be like.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Users and their passwords, as `htpasswd -B` writes them.
    pub htpasswd: Option<PathBuf>,
    /// With `htpasswd`: give out bearer tokens for names and passwords, in place of basic authentication.
    pub tokens: bool,
    /// With `tokens`: whoever gives no name may still pull.
    pub anonymous_pull: bool,
    /// Take the tokens of this authority.
    pub authority: Option<TokenAuthority>,
    /// Give out what the registry at this URL has, keep it, and take nothing from clients.
    pub mirror: Option<String>,
    /// Certificate chain and key, PEM files.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// A registry over an image store.
#[derive(Clone)]
pub struct Registry {
    state: Arc<State>,
}

/// What the handlers need.
pub(crate) struct State {
    pub(crate) store: Arc<ImageStore>,
    pub(crate) access: Access,
    pub(crate) mirror: Option<Mirror>,
    pub(crate) uploads: Mutex<BTreeMap<String, Arc<Slot>>>,
    /// Something was deleted.
    pub(crate) deleted: Notify,
    pub(crate) tls: Option<TlsAcceptor>,
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) is_secure: bool,
}

impl Registry {
    /// A registry that gives out and takes in what `options` say. `hosts` says how a registry that is mirrored is reached.
    ///
    /// # Errors
    /// [`Error::Setting`] when a file cannot be used or options contradict each other.
    pub fn new(store: Arc<ImageStore>, hosts: &Hosts, options: &Options) -> Result<Self> {
        let mirror = options.mirror.as_ref().map(|url| {
            let client = Client::new(Arc::clone(&store), hosts.clone()).with_attempts(MIRROR_ATTEMPTS);
            Mirror::new(client, hosts.mirror(url)?)
        });
        let state = State {
            access: Access::new(options)?,
            mirror: mirror.transpose()?,
            uploads: Mutex::default(),
            deleted: Notify::new(),
            tls: options.tls.as_ref().map(|(chain, key)| acceptor(chain, key)).transpose()?,
            store,
        };
        Ok(Self { state: Arc::new(state) })
    }

    /// Serves until `shutdown` is done; requests that are under way then are given a moment.
    pub async fn serve(&self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let graceful = GracefulShutdown::new();
        let limit = Arc::new(Semaphore::new(CONNECTION_LIMIT));
        let upkeep = tokio::spawn(upkeep(Arc::clone(&self.state)));
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut shutdown => break,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: others will be closed in a moment.
                    tracing::warn!(%error, "the registry cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&limit).try_acquire_owned() else { continue };
            let _ = stream.set_nodelay(true);
            let (state, watcher) = (Arc::clone(&self.state), graceful.watcher());
            tokio::spawn(async move {
                let _permit = permit;
                let peer = Peer { address, is_secure: state.tls.is_some() };
                match state.tls.clone() {
                    None => connection(state, peer, stream, watcher).await,
                    Some(tls) => match tokio::time::timeout(HEAD_LIMIT, tls.accept(stream)).await {
                        Ok(Ok(stream)) => connection(state, peer, stream, watcher).await,
                        Ok(Err(error)) => tracing::debug!(%address, %error, "a TLS handshake failed"),
                        Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
                    },
                }
            });
        }
        upkeep.abort();
        tokio::select! {
            () = graceful.shutdown() => {}
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
        }
    }

    /// Removes what no manifest is made of and nobody came back for in `age`; answers how many links and bytes went.
    ///
    /// # Errors
    /// When something cannot be read or removed.
    pub fn collect(&self, age: Duration) -> Result<(usize, u64)> {
        Ok(self.state.store.collect_repositories(age)?)
    }
}

async fn connection(
    state: Arc<State>,
    peer: Peer,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(router::handle(&state, peer, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(128);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(error, peer = %peer.address, "a connection to the registry ended badly");
    }
}

/// Takes away what is abandoned, and sweeps after deletions.
async fn upkeep(state: Arc<State>) {
    loop {
        let age = tokio::select! {
            () = state.deleted.notified() => {
                tokio::time::sleep(SWEEP_PAUSE).await;
                None
            }
            () = tokio::time::sleep(ROUND) => Some(ABANDONED),
        };
        state.forget_idle_uploads(ABANDONED);
        let store = Arc::clone(&state.store);
        let swept = tokio::task::spawn_blocking(move || match age {
            None => store.sweep().map(|freed| (0, freed)),
            Some(age) => store.collect_repositories(age),
        });
        match swept.await {
            Ok(Ok((links, freed))) => tracing::debug!(links, freed, "swept the registry"),
            Ok(Err(error)) => tracing::warn!(%error, "cannot sweep the registry"),
            Err(error) => tracing::warn!(%error, "the sweep of the registry ended unexpectedly"),
        }
    }
}

fn acceptor(chain: &Path, key: &Path) -> Result<TlsAcceptor> {
    let setting = |path: &Path, why: String| Error::Setting { setting: path.display().to_string(), why };
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| setting(key, error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder.with_no_client_auth().with_single_cert(
                certificates(chain).map_err(|error| rustls::Error::General(error.to_string()))?,
                private,
            )
        })
        .map_err(|error| setting(chain, error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
