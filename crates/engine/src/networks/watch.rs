//! Putting our packet rules back when somebody else took them, as the reload of a host's firewall does.

use std::os::fd::AsFd;
use std::sync::Weak;
use std::time::Duration;

use dray_network::nftables::Watch;

use crate::engine::Inner;
use crate::error::Trying;
use crate::{Engine, Error, Result};

/// Between two looks, so that somebody who goes on and on does not keep us busy.
const PAUSE: Duration = Duration::from_millis(20);

impl Engine {
    /// Watches the packet rules for as long as the engine is there.
    pub(crate) fn watch_rules(&self) -> Result<()> {
        let watch = Watch::open().trying("watch the packet rules")?;
        let file = watch.as_fd().try_clone_to_owned().map_err(|source| Error::Io {
            action: "watch",
            path: "the packet rules".into(),
            source,
        })?;
        let readable = crate::readiness::watch(file).map_err(|source| Error::Io {
            action: "watch",
            path: "the packet rules".into(),
            source,
        })?;
        let engine = std::sync::Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            while let Ok(mut guard) = readable.readable().await {
                // First, so that what comes while we read wakes us again.
                guard.clear_ready();
                if !restore(&engine, &watch) {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Ok(())
    }
}

/// Whether the engine is still there.
fn restore(engine: &Weak<Inner>, watch: &Watch) -> bool {
    let Some(inner) = engine.upgrade() else { return false };
    match inner.networks.firewall.lock().restore_changed(watch) {
        Ok(true) => tracing::info!("put the packet rules back, which somebody else had changed"),
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "cannot put the packet rules back"),
    }
    true
}
