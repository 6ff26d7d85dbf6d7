//! Connections: TLS, HTTP/1.1 and HTTP/2, and the user that a client's certificate is of.

use std::{future::Future, sync::Arc, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{ApiServer, ApiService, Error, pki};

/// How long a client may take to agree on TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long requests that are under way may still take when the server ends.
const DRAIN: Duration = Duration::from_secs(5);

impl ApiServer {
    /// Serves HTTPS on a listener until `shutdown` is done, then lets requests end.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let acceptor = TlsAcceptor::from(Arc::new(self.inner.pki.server_config()?));
        let graceful = GracefulShutdown::new();
        tokio::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut shutdown => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (server, acceptor, watcher) = (self.clone(), acceptor.clone(), graceful.watcher());
                    tokio::spawn(async move {
                        if let Err(error) = server.connection(stream, acceptor, watcher).await {
                            tracing::debug!(error, "connection ended");
                        }
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: give those that are open time to close.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        self.shut_down();
        if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
        Ok(())
    }

    async fn connection(
        &self,
        stream: TcpStream,
        acceptor: TlsAcceptor,
        watcher: hyper_util::server::graceful::Watcher,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        stream.set_nodelay(true)?;
        let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let user = certificate.and_then(pki::user).map(Arc::new);
        let peer = stream.get_ref().0.peer_addr().ok().map(|peer| peer.ip().to_canonical());
        let service = ApiService { inner: self.inner.clone(), user, peer };
        let service = hyper_util::service::TowerToHyperService::new(service);
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http2().max_concurrent_streams(250).adaptive_window(true);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        watcher.watch(connection).await
    }
}
