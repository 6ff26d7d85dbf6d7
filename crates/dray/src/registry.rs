//! `dray registry`, and the registry of `dray up`.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dray_image::ImageStore;
use dray_registry::Hosts;
use dray_registry::server::{Options, Registry, TokenAuthority};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::{RegistryAccess, RegistryOptions};
use crate::daemon;
use crate::error::{Error, io};

impl RegistryAccess {
    /// The registry's options, but for what it mirrors.
    pub(crate) fn options(&self) -> Options {
        let authority = self.token_realm.as_ref().map(|realm| TokenAuthority {
            realm: realm.clone(),
            service: self.token_service.clone().unwrap_or_default(),
            issuer: self.token_issuer.clone().unwrap_or_default(),
            key: self.token_key.clone().unwrap_or_default(),
        });
        Options {
            htpasswd: self.htpasswd.clone(),
            tokens: self.tokens,
            anonymous_pull: self.anonymous_pull,
            authority,
            mirror: None,
            tls: self.tls_cert.clone().zip(self.tls_key.clone()),
        }
    }
}

/// Listens where a registry is to be.
pub(crate) async fn listen(address: SocketAddr, option: &'static str) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, option, source })
}

/// A registry of its own, without an engine.
pub(crate) fn run(options: &RegistryOptions) -> Result<(), Error> {
    daemon::begin_log();
    private_directory(&options.data)?;
    let _lock = daemon::lock(&options.data)?;
    let failed = |source| Error::Registry { source };
    let store = ImageStore::open(options.data.join("image")).map_err(|error| failed(error.into()))?;
    let hosts = Hosts::new(&[], &options.insecure_registries).map_err(failed)?;
    let settings = Options { mirror: options.mirror.clone(), ..options.access.options() };
    let registry = Registry::new(Arc::new(store), &hosts, &settings).map_err(failed)?;
    if options.collect_garbage {
        let (links, freed) = registry.collect(Duration::ZERO).map_err(failed)?;
        say(&format!("removed {links} blobs that no manifest is made of, and freed {freed} bytes"));
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Runtime { source })?;
    runtime.block_on(async {
        let listener = listen(options.listen, "listen").await?;
        let address = listener.local_addr().map_err(|source| Error::Listen {
            address: options.listen,
            option: "listen",
            source,
        })?;
        let ending = |kind| signal(kind).map_err(|source| Error::Runtime { source });
        let mut terminate = ending(SignalKind::terminate())?;
        let mut interrupt = ending(SignalKind::interrupt())?;
        say(&format!("listening on {address}"));
        let shutdown = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        registry.serve(listener, shutdown).await;
        Ok(())
    })
}

fn private_directory(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(io("create", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io("change mode of", path))
}

#[allow(clippy::print_stdout, reason = "these lines are for the shell")]
fn say(line: &str) {
    use std::io::Write as _;
    println!("{line}");
    let _ = std::io::stdout().flush();
}
