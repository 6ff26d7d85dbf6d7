//! Versions of groups that other servers serve (`APIService`,
//! <https://kubernetes.io/docs/concepts/extend-kubernetes/api-extension/apiserver-aggregation/>).
//!
//! One task follows the stored APIServices: it exchanges an immutable [`Directory`] of who serves what, keeps one for each
//! version that this server serves itself ([`automatic`]), and has one more task look at each server of others
//! ([`available`]). A request for a version of theirs is let through ([`remote`]) once everything has been asked that is
//! asked of any request. A server of others may be in this process too ([`crate::Extension`]): then a pipe leads there. It must
//! not know what those servers serve.

mod automatic;
mod available;
mod directory;
mod discovered;
mod remote;

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use dray_store::{Error, Event, EventKind, Store, Watcher};
use parking_lot::RwLock;
use serde_json::Value;
use tokio::task::JoinHandle;

pub(crate) use directory::{Directory, Group, Reader, Registered};
pub(crate) use discovered::Discovered;
pub(crate) use remote::Target;

use crate::{respond, server::Inner};

/// Where APIServices are stored.
const SERVICES: &str = "apiregistration.k8s.io/apiservices";
const GROUP: &str = "apiregistration.k8s.io";
const KIND: &str = "APIService";
/// The pause after an APIService of this server's own could not be kept.
const RETRY: Duration = Duration::from_secs(1);

/// Who serves what, as of now.
#[derive(Default)]
pub(crate) struct Aggregator {
    directory: RwLock<Arc<Directory>>,
    /// What the servers of others say that they have, by the name of the APIService.
    discovered: RwLock<BTreeMap<String, Arc<Discovered>>>,
}

impl Aggregator {
    /// What a store says.
    pub(crate) fn load(store: &Store, reader: Reader<'_>) -> Aggregator {
        let mut directory = Directory::default();
        for (name, entry) in store.snapshot().range(SERVICES, "", None) {
            directory.set(name, &read(name, entry.json()), reader);
        }
        Aggregator { directory: RwLock::new(Arc::new(directory)), discovered: RwLock::default() }
    }

    pub(crate) fn directory(&self) -> Arc<Directory> {
        self.directory.read().clone()
    }

    /// Who else serves a path.
    pub(crate) fn remote(&self, path: &str) -> Option<Arc<Registered>> {
        let path = path.trim_start_matches('/');
        let document = path.strip_prefix("openapi/v3/");
        let mut segments = document.unwrap_or(path).strip_prefix("apis/")?.split('/');
        let (group, version) = (segments.next()?, segments.next()?);
        let found = self.directory.read().remote(group, version)?.clone();
        let is_there = document.is_none() || self.discovered(&found.name)?.document.is_some();
        is_there.then_some(found)
    }

    /// What a server of others has said that it has.
    pub(crate) fn discovered(&self, name: &str) -> Option<Arc<Discovered>> {
        self.discovered.read().get(name).cloned()
    }

    /// The documents of OpenAPI that servers of others have, and where.
    pub(crate) fn documents(&self) -> Vec<(String, String)> {
        let directory = self.directory();
        let documents = directory.remotes().filter_map(|(registered, _)| {
            let place = self.discovered(&registered.name)?.document.clone()?;
            Some((format!("apis/{}/{}", registered.group, registered.version), place))
        });
        documents.collect()
    }

    fn apply(&self, events: &[Arc<Event>], reader: Reader<'_>) {
        let mut directory = Directory::clone(&self.directory.read());
        for event in events {
            if event.kind == EventKind::Deleted {
                directory.remove(&event.name);
            } else {
                directory.set(&event.name, &read(&event.name, event.entry.json()), reader);
            }
        }
        self.discovered.write().retain(|name, _| directory.get(name).is_some_and(|one| one.remote.is_some()));
        *self.directory.write() = Arc::new(directory);
    }
}

fn read(name: &str, json: &[u8]) -> Value {
    respond::parse(json).unwrap_or_else(|error| {
        tracing::warn!(name, %error, "an APIService cannot be read");
        Value::Null
    })
}

/// The tasks that look at the servers of others, by the name of the APIService, and what each was started for.
#[derive(Default)]
struct Keepers(BTreeMap<String, (Value, JoinHandle<()>)>);

impl Keepers {
    /// Has every server of others looked at, and nobody else.
    fn follow(&mut self, inner: &Arc<Inner>) {
        let directory = inner.aggregator.directory();
        let wanted: BTreeMap<&str, &Arc<Registered>> =
            directory.remotes().map(|(registered, _)| (registered.name.as_str(), registered)).collect();
        self.0.retain(|name, (spec, task)| {
            let stays = wanted.get(name.as_str()).is_some_and(|registered| registered.spec == *spec);
            if !stays {
                task.abort();
            }
            stays
        });
        for (name, registered) in wanted {
            if !self.0.contains_key(name) {
                let task = tokio::spawn(available::keep(Arc::downgrade(inner), registered.clone()));
                self.0.insert(name.to_owned(), (registered.spec.clone(), task));
            }
        }
    }
}

impl Drop for Keepers {
    fn drop(&mut self) {
        self.0.values().for_each(|(_, task)| task.abort());
    }
}

impl Inner {
    /// What APIServices are read with.
    fn reader(&self) -> Reader<'_> {
        Reader { identity: self.pki.front_proxy(), extensions: &self.config.extensions }
    }

    /// Follows the APIServices until the server shuts down.
    pub(crate) fn follow_services(self: &Arc<Self>) -> Result<(), Error> {
        let (_, watcher) = self.store.snapshot_and_watch(SERVICES, "")?;
        // What came between the first look and the watch.
        self.reload();
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

    fn reload(&self) {
        let again = Aggregator::load(&self.store, self.reader());
        *self.aggregator.directory.write() = again.directory.into_inner();
    }
}

async fn follow(inner: Weak<Inner>, mut watcher: Watcher) {
    let mut keepers = Keepers::default();
    let Some(mut definitions) = inner.upgrade().map(|inner| inner.custom.changes()) else { return };
    loop {
        let Some(alive) = inner.upgrade() else { return };
        keepers.follow(&alive);
        let mut kept = alive.keep_local().await;
        if kept.is_ok() {
            let failed =
                |source| crate::Error::Bootstrap { object: format!("the state of an {KIND}"), source };
            kept = alive.write_own().await.map_err(failed);
        }
        if let Err(error) = &kept {
            tracing::warn!(error = error as &dyn std::error::Error, "an APIService is not kept");
        }
        drop(alive);
        let pause = async {
            match kept {
                Ok(()) => std::future::pending().await,
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        };
        let seen = tokio::select! {
            events = watcher.next() => Some(events),
            changed = definitions.changed() => match changed {
                Ok(()) => None,
                Err(_) => return,
            },
            () = pause => None,
        };
        let Some(alive) = inner.upgrade() else { return };
        match seen {
            None => {}
            Some(Ok(events)) => alive.aggregator.apply(&events, alive.reader()),
            Some(Err(Error::Expired { .. })) => match alive.store.snapshot_and_watch(SERVICES, "") {
                // More has happened than is remembered: everything is looked at again.
                Ok((_, again)) => {
                    watcher = again;
                    alive.reload();
                }
                Err(error) => {
                    tracing::error!(%error, "APIServices are no longer followed");
                    return;
                }
            },
            Some(Err(_)) => return,
        }
    }
}
