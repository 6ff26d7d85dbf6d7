//! Network namespaces made ahead. The kernel takes milliseconds for a new namespace's first packet rule, which leads
//! to the name server; with a few namespaces in store no start waits for that.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use dray_network::names::Prepared;
use dray_network::namespace;
use parking_lot::Mutex;

use crate::engine::private_directory;
use crate::error::{IoContext, Trying};
use crate::{Engine, Result, name_service};

/// Namespaces in store. Each costs the kernel some memory, and a burst of starts makes its own.
const READY: usize = 2;

/// A namespace without an interface but its loopback, pinned at a path.
struct Ready {
    path: PathBuf,
    sockets: Prepared,
}

pub(crate) struct NamespacePool {
    directory: PathBuf,
    ready: Mutex<Vec<Ready>>,
    /// Held by the one who fills; false once the pool is closed.
    filling: Mutex<bool>,
    next: AtomicU64,
}

impl NamespacePool {
    /// Opens the pool, empty; what a daemon before left is removed.
    pub(crate) fn open(directory: PathBuf) -> Result<Self> {
        private_directory(&directory)?;
        for entry in std::fs::read_dir(&directory).io("list", &directory)? {
            let path = entry.io("list", &directory)?.path();
            namespace::remove(&path).trying("remove a network namespace in store")?;
        }
        Ok(Self {
            directory,
            ready: Mutex::new(Vec::new()),
            filling: Mutex::new(true),
            next: AtomicU64::new(0),
        })
    }

    /// A new namespace, pinned at `path`, with sockets for its name server; without them when the host refuses the
    /// packet rule, so that the caller can say so.
    pub(crate) fn take(&self, path: &Path) -> Result<Option<Prepared>> {
        let ready = self.ready.lock().pop();
        if let Some(Ready { path: stored, sockets }) = ready {
            namespace::move_pin(&stored, path).trying("pin a network namespace")?;
            return Ok(Some(sockets));
        }
        namespace::create(path).trying("make a network namespace")?;
        Ok(Prepared::new(path, name_service::ADDRESS).ok())
    }

    fn fill(&self) -> Result<()> {
        let Some(open) = self.filling.try_lock() else { return Ok(()) };
        while *open && self.ready.lock().len() < READY {
            let path = self.directory.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
            namespace::create(&path).trying("make a network namespace")?;
            match Prepared::new(&path, name_service::ADDRESS) {
                Ok(sockets) => self.ready.lock().push(Ready { path, sockets }),
                Err(error) => {
                    let _ = namespace::remove(&path);
                    return Err(error).trying("prepare a name server");
                }
            }
        }
        Ok(())
    }

    /// Removes what is in store, for good.
    pub(crate) fn close(&self) {
        let mut open = self.filling.lock();
        *open = false;
        for Ready { path, .. } in self.ready.lock().drain(..) {
            let _ = namespace::remove(&path);
        }
    }
}

impl Engine {
    /// Fills the store in the background.
    pub(crate) fn fill_namespaces(&self) {
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = engine.inner.namespaces.fill() {
                tracing::debug!(error = %error.chain(), "cannot make network namespaces ahead");
            }
        });
    }
}
