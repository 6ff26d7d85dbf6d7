//! The status of policies: what is found out about their expressions when they have changed. One task follows the stored
//! policies; that their types are looked at keeps no request waiting.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
};

use dray_machinery::{Status, apply, kinds, object, schema};
use dray_store::{Error, Key, Watcher};
use serde_json::json;
use tokio::task::spawn_blocking;

use super::{GROUP, types};
use crate::{respond, server::Inner, write::draft};

const POLICIES: &str = "admissionregistration.k8s.io/validatingadmissionpolicies";
/// Who writes the status, as the reference calls him.
const MANAGER: &str = "validatingadmissionpolicy-status-controller";

impl Inner {
    /// Follows the policies until the server shuts down.
    pub(crate) fn follow_policies(self: &Arc<Self>) -> Result<(), Error> {
        let (_, watcher) = self.store.snapshot_and_watch(POLICIES, "")?;
        let mut shutdown = self.shutdown.subscribe();
        let inner = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::select! {
                () = follow(inner, watcher) => {}
                _ = shutdown.wait_for(|down| *down) => {}
            }
        });
        Ok(())
    }

    /// Looks at the types of a policy that has changed since that was done.
    async fn check_types(&self, name: &str) -> Result<(), Status> {
        let snapshot = self.store.snapshot();
        let Some(entry) = snapshot.get(POLICIES, name).cloned() else { return Ok(()) };
        let old = respond::parse(entry.json())?;
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        if generation <= old["status"]["observedGeneration"].as_i64().unwrap_or(0) {
            return Ok(());
        }
        let (table, policy) = (self.custom.table(), old.clone());
        let warnings =
            spawn_blocking(move || types::warnings(&policy, &types::Types::new(&table, &snapshot)));
        let warnings = warnings.await.map_err(Status::internal)?;
        let mut new = old.clone();
        let status = object::child(&mut new, "status");
        status.insert("observedGeneration".into(), json!(generation));
        let checked = if warnings.is_empty() { json!({}) } else { json!({ "expressionWarnings": warnings }) };
        status.insert("typeChecking".into(), checked);
        let kind =
            kinds::find_kind(GROUP, "ValidatingAdmissionPolicy").ok_or_else(Status::no_such_resource)?;
        let version = kind.api_version();
        let manager = apply::Manager { name: MANAGER, api_version: &version, subresource: "status" };
        apply::track_update(Some(&old), &mut new, schema::find(kind.schema), manager);
        // Where another change came first, its event brings us back.
        match self.store.update(Key::new(POLICIES, name), draft(kind, &new)?, entry.revision()).await {
            Ok(_) | Err(Error::Conflict { .. } | Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(Status::internal(error)),
        }
    }
}

fn all(inner: &Inner) -> BTreeSet<String> {
    inner.store.snapshot().range(POLICIES, "", None).map(|(name, _)| name.to_string()).collect()
}

async fn follow(inner: Weak<Inner>, mut watcher: Watcher) {
    let Some(alive) = inner.upgrade() else { return };
    let mut names = all(&alive);
    drop(alive);
    loop {
        let Some(alive) = inner.upgrade() else { return };
        for name in &names {
            if let Err(status) = alive.check_types(name).await {
                tracing::warn!(%name, %status, "the types of a policy are not looked at");
            }
        }
        drop(alive);
        let next = watcher.next().await;
        let Some(alive) = inner.upgrade() else { return };
        names = match next {
            Ok(events) => events.iter().map(|event| event.name.to_string()).collect(),
            // More has happened than is remembered: everything is looked at again.
            Err(Error::Expired { .. }) => match alive.store.snapshot_and_watch(POLICIES, "") {
                Ok((_, again)) => {
                    watcher = again;
                    all(&alive)
                }
                Err(error) => {
                    tracing::error!(%error, "policies are no longer followed");
                    return;
                }
            },
            Err(_) => return,
        };
    }
}
