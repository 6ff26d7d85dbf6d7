//! The end of everything an engine has on its host: containers, sandboxes, links, rules and mounts. What is on disk stays.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use crate::error::Trying;
use crate::{Engine, Error, Result, Status};

/// What every beginning passes: what has passed is waited for when everything is to end, and nothing passes after that.
#[derive(Default)]
pub(crate) struct Gate(Arc<RwLock<bool>>);

impl Gate {
    /// Passes. The guard is held until what was begun is written down.
    ///
    /// # Errors
    /// [`Error::Conflict`] once everything is being ended.
    pub(crate) async fn pass(&self) -> Result<OwnedRwLockReadGuard<bool>> {
        let closed = Arc::clone(&self.0).read_owned().await;
        if *closed {
            return Err(Error::conflict("everything is being stopped, and nothing is started any more"));
        }
        Ok(closed)
    }

    async fn close(&self) {
        *self.0.write().await = true;
    }
}

impl Engine {
    /// Whether nothing runs or waits to run: no container, no sandbox.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let at_rest = |status| matches!(status, Status::Exited | Status::Created);
        self.containers().iter().all(|record| at_rest(record.state.status)) && self.sandboxes().is_empty()
    }

    /// Stops all containers, each with its own timeout, and takes sandboxes, bridges, packet rules and mounts away. Images,
    /// volumes and the records of containers and networks stay: an engine opened later goes on with them. This one starts
    /// nothing any more.
    ///
    /// What fails is logged and passed over, so that the rest goes as well.
    pub async fn stop_everything(&self) {
        self.inner.gate.close().await;
        let running: Vec<_> = {
            let containers = self.inner.containers.read();
            containers.by_id.values().map(Arc::clone).collect()
        };
        let stopped = running.iter().map(|container| async move {
            if !matches!(container.record().state.status, Status::Exited | Status::Created)
                && let Err(error) = self.stop(container, None, None).await
                && !matches!(error, Error::NotModified { .. })
            {
                let name = container.record().name.clone();
                tracing::warn!(container = name, error = %error.chain(), "cannot stop a container");
            }
        });
        join_all(stopped).await;
        for sandbox in self.sandboxes() {
            if let Err(error) = self.remove_sandbox(&sandbox.name).await {
                tracing::warn!(sandbox = sandbox.name, error = %error.chain(), "cannot remove a sandbox");
            }
        }
        let taken = self.blocking(|engine| engine.inner.networks.take_away()).await;
        if let Err(error) = taken {
            tracing::warn!(error = %error.chain(), "cannot take the networks away");
        }
        // What a volume's options name is the host's own, and must not look like a part of the data directory.
        if let Err(error) = self.blocking(|engine| engine.inner.volumes.unmount_all()).await {
            tracing::warn!(error = %error.chain(), "cannot unmount a volume");
        }
    }
}

impl crate::networks::Networks {
    /// Deletes the bridges and the packet rules; the records stay.
    fn take_away(&self) -> Result<()> {
        for record in
            self.list().iter().filter(|record| !record.bridge.is_empty() && record.is_own_interface())
        {
            let deleted = self.netlink.lock().delete_link(&record.bridge);
            deleted.trying(format!("delete the bridge {}", record.bridge))?;
        }
        self.remove_rules()
    }
}
