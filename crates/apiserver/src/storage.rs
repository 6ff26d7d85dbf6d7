//! How the store is opened. What is stored, and how it is read, does not depend on it.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

pub use dray_store::EtcdConfig;
use dray_store::{Encryption, Error, Limits, Store};
use rustix::fs::inotify;
use tokio::{io::unix::AsyncFd, sync::watch};

/// The store, where it is not as it is by default.
#[derive(Debug, Clone, Default)]
pub struct StoreConfig {
    /// The bytes of all keys and values together that are not exceeded; none means 2 GiB.
    pub quota_bytes: Option<u64>,
    /// A file of kind `EncryptionConfiguration` that says how values lie on the disk.
    pub encryption: Option<PathBuf>,
    /// The etcd that servers share; none means files of this server's own.
    pub etcd: Option<EtcdConfig>,
}

impl StoreConfig {
    /// Opens or makes the store in a directory.
    pub(crate) fn open(&self, directory: &Path) -> Result<(Store, Encryption), Error> {
        let mut limits = Limits::default();
        limits.bytes = self.quota_bytes.unwrap_or(limits.bytes);
        let encryption = self.encryption.as_deref().map(Encryption::read).transpose()?.unwrap_or_default();
        let store = match &self.etcd {
            None => Store::open_sealed(directory, limits, encryption.clone())?,
            Some(etcd) => Store::in_etcd(etcd, limits, encryption.clone())?,
        };
        Ok((store, encryption))
    }
}

/// Follows the file that says how values lie on the disk: after every change of it all of them are written anew, so that a key
/// that it no longer names is needed no more.
pub(crate) async fn follow(
    path: PathBuf,
    encryption: Encryption,
    store: Store,
    mut down: watch::Receiver<bool>,
) {
    let followed = async {
        let watch = match watch_directory(&path) {
            Ok(watch) => watch,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "changes of the file will not be seen");
                return;
            }
        };
        let mut known = tokio::fs::read(&path).await.ok();
        loop {
            let Ok(mut ready) = watch.readable().await else { return };
            let mut buffer = [0_u8; 4096];
            while rustix::io::read(watch.get_ref(), &mut buffer).is_ok_and(|length| length > 0) {}
            ready.clear_ready();
            drop(ready);
            let content = tokio::fs::read(&path).await.ok();
            if content.is_none() || content == known {
                continue;
            }
            let changed = async {
                encryption.reload(&path)?;
                store.rewrite().await
            };
            match changed.await {
                Ok(()) => {
                    tracing::info!(path = %path.display(), "all values were written anew by the first provider");
                    known = content;
                }
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the new encryption configuration is not in force everywhere"
                ),
            }
        }
    };
    tokio::select! {
        () = followed => {}
        _ = down.wait_for(|down| *down) => {}
    }
}

/// The directory, because files are exchanged by renaming another over them.
#[allow(
    deprecated,
    reason = "the successor is unsafe because a type might change its descriptor; OwnedFd does not"
)]
fn watch_directory(path: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    let events =
        inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&watch, directory, events)?;
    AsyncFd::new(watch)
}
