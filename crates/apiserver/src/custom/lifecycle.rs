//! What becomes of definitions: whose names are accepted is served, and what goes is cleaned up behind. One task follows the
//! stored definitions and writes their status; a definition is served before its status says so.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use dray_access::User;
use dray_machinery::{Kind, Status, apply, kinds, object, pick, schema};
use dray_store::{Entry, Error, Event, Key, Snapshot, Watcher};
use futures_util::TryStreamExt as _;
use http::HeaderMap;
use parking_lot::Mutex;
use serde_json::Value;

use super::{
    CLEANUP, Custom, DEFINITIONS, Definition, GROUP,
    definition::{fingerprint, is_true},
    names::{self, Taken},
};
use crate::{
    negotiate::{Accept, Encoding, Shape},
    query::Query,
    remove::Options,
    request::ResourceRequest,
    respond,
    server::Inner,
    write::{Change, draft, is_finished},
};

/// Who writes the status of definitions, and cleans up behind them.
const MANAGER: &str = "kube-apiserver";
/// How many objects of a definition that goes are deleted at once.
const TOGETHER: usize = 64;
/// The first and the longest pause after objects could not be deleted.
const RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Why a definition leaves nothing behind.
const NEVER: &str = "NeverEstablished";

/// The definitions that are being cleaned up behind, by their uid.
type Busy = Arc<Mutex<BTreeSet<String>>>;

impl Inner {
    /// Follows the definitions until the server shuts down.
    pub(crate) fn follow_definitions(self: &Arc<Self>) -> Result<(), Error> {
        let (_, watcher) = self.store.snapshot_and_watch(DEFINITIONS, "")?;
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
}

async fn follow(inner: Weak<Inner>, mut watcher: Watcher) {
    let busy = Busy::default();
    loop {
        let Some(alive) = inner.upgrade() else { return };
        // What is served may be there no more.
        let mut all = alive.custom.table().names();
        all.extend(alive.store.snapshot().range(DEFINITIONS, "", None).map(|(name, _)| name.to_string()));
        for name in all {
            alive.sync(&name, &busy).await;
        }
        drop(alive);
        loop {
            match watcher.next().await {
                Ok(events) => {
                    let Some(alive) = inner.upgrade() else { return };
                    for name in concerned(&alive, &events) {
                        alive.sync(&name, &busy).await;
                    }
                }
                Err(Error::Expired { .. }) => break,
                Err(_) => return,
            }
        }
        // More has happened than is remembered: everything is looked at again.
        let Some(alive) = inner.upgrade() else { return };
        match alive.store.snapshot_and_watch(DEFINITIONS, "") {
            Ok((_, again)) => watcher = again,
            Err(error) => {
                tracing::error!(%error, "definitions are no longer followed");
                return;
            }
        }
    }
}

/// What of a definition others of its group need to know.
fn claim(json: &[u8]) -> Value {
    pick::pick(json, &[&["spec", "group"], &["status", "acceptedNames"], &["status", "conditions"]])
}

/// The definitions that changes concern: those that changed, and those that wait for names which may be free now.
fn concerned(inner: &Inner, events: &[Arc<Event>]) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = events.iter().map(|event| event.name.to_string()).collect();
    let groups: BTreeSet<String> = events
        .iter()
        .map(|event| object::text(&claim(event.entry.json()), &["spec", "group"]).to_owned())
        .collect();
    for (name, entry) in inner.store.snapshot().range(DEFINITIONS, "", None) {
        let claim = claim(entry.json());
        if groups.contains(object::text(&claim, &["spec", "group"])) && !is_true(&claim, "NamesAccepted") {
            names.insert(name.to_string());
        }
    }
    names
}

fn row() -> Result<&'static Kind, Status> {
    kinds::find_kind(GROUP, "CustomResourceDefinition").ok_or_else(Status::no_such_resource)
}

impl Inner {
    /// Brings the table and a definition's status to where the definition says they are.
    async fn sync(self: &Arc<Self>, name: &str, busy: &Busy) {
        if let Err(error) = self.try_sync(name, busy).await {
            tracing::warn!(%name, %error, "a definition is not looked after");
        }
    }

    async fn try_sync(self: &Arc<Self>, name: &str, busy: &Busy) -> Result<(), Status> {
        let snapshot = self.store.snapshot();
        let Some(entry) = snapshot.get(DEFINITIONS, name).cloned() else {
            self.withdraw(name);
            return Ok(());
        };
        let old = respond::parse(entry.json())?;
        let mut new = old.clone();
        names::accept(&mut new, &taken(&snapshot, name, object::text(&old, &["spec", "group"])));
        self.establish(name, &mut new);
        names::approve(&mut new);
        if object::is_terminating(&new) && object::has_finalizer(&new, CLEANUP) {
            let uid = object::meta(&new, "uid").to_owned();
            let words = "CustomResource deletion is in progress";
            if is_true(&new, "Established") {
                names::set_condition(&mut new, "Terminating", "True", "InstanceDeletionInProgress", words);
            }
            if busy.lock().insert(uid.clone()) {
                let (inner, busy, name) = (Arc::downgrade(self), busy.clone(), name.to_owned());
                let mut shutdown = self.shutdown.subscribe();
                tokio::spawn(async move {
                    tokio::select! {
                        () = clean_up(inner, &name, &uid) => {}
                        _ = shutdown.wait_for(|down| *down) => {}
                    }
                    busy.lock().remove(&uid);
                });
            }
        }
        self.write_status(name, &entry, &old, new).await
    }

    /// Serves a definition whose names are accepted, and notes that.
    fn establish(&self, name: &str, definition: &mut Value) {
        let established = is_true(definition, "Established");
        if !established && !is_true(definition, "NamesAccepted") {
            let words = "not all names are accepted";
            names::set_condition(definition, "Established", "False", "NotAccepted", words);
            // One of the same name may have been served that is gone.
            self.withdraw(name);
            return;
        }
        match self.serve(name, definition) {
            Ok(()) if established => {}
            Ok(()) => {
                let words = "the initial names have been accepted";
                names::set_condition(definition, "Established", "True", "InitialNamesAccepted", words);
            }
            Err(why) => {
                tracing::warn!(%name, why, "a definition cannot be served");
                if !established {
                    names::set_condition(definition, "Established", "False", "NotServed", &why);
                }
            }
        }
    }

    /// Serves a definition no more.
    fn withdraw(&self, name: &str) {
        if self.custom.table().definition(name).is_some() {
            self.custom.exchange(name, None);
        }
    }

    /// Serves a definition as it is now.
    fn serve(&self, name: &str, definition: &Value) -> Result<(), String> {
        let table = self.custom.table();
        let same = table.definition(name).filter(|known| known.fingerprint == fingerprint(definition));
        if same.is_some_and(|same| same.terminating == object::is_terminating(definition)) {
            return Ok(());
        }
        let mut read = Definition::read(definition, self.store.snapshot().revision())?;
        if let Some(same) = same {
            read.succeed(same);
        }
        self.custom.exchange(name, Some(Arc::new(read)));
        Ok(())
    }

    /// Writes a status that has changed. Where another change came first, its event brings us back.
    async fn write_status(
        &self,
        name: &str,
        entry: &Entry,
        old: &Value,
        mut new: Value,
    ) -> Result<(), Status> {
        if new == *old {
            return Ok(());
        }
        track(old, &mut new)?;
        let draft = draft(row()?, &new)?;
        match self.store.update(Key::new(DEFINITIONS, name), draft, entry.revision()).await {
            Ok(_) | Err(Error::Conflict { .. } | Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(Status::internal(error)),
        }
    }
}

/// Remembers who wrote a status.
fn track(old: &Value, new: &mut Value) -> Result<(), Status> {
    let kind = row()?;
    let version = kind.api_version();
    let manager = apply::Manager { name: MANAGER, api_version: &version, subresource: "status" };
    apply::track_update(Some(old), new, schema::find(kind.schema), manager);
    Ok(())
}

/// The names that others of a group have.
fn taken(snapshot: &Snapshot, name: &str, group: &str) -> Taken {
    let mut taken = Taken::built_in(group);
    for (other, entry) in snapshot.range(DEFINITIONS, "", None).filter(|(other, _)| ***other != *name) {
        // The name of a definition ends with its group.
        if other.ends_with(group) {
            let claim = claim(entry.json());
            if object::text(&claim, &["spec", "group"]) == group {
                taken.add(&claim["status"]["acceptedNames"]);
            }
        }
    }
    taken
}

/// Deletes all objects of a definition that is to go, waits until they are gone, and lets it go.
async fn clean_up(inner: Weak<Inner>, name: &str, uid: &str) {
    let mut pause = RETRY;
    loop {
        let Some(alive) = inner.upgrade() else { return };
        let definition = alive.custom.table().definition(name).cloned();
        let outcome = match &definition {
            Some(definition) => alive.delete_instances(definition).await,
            None => Ok(None),
        };
        let (failure, watcher) = match outcome {
            Ok(Some(watcher)) => (None, Some(watcher)),
            Ok(None) => {
                let told = match definition {
                    Some(_) => ("InstanceDeletionCompleted", "removed all instances"),
                    None => (NEVER, "resource was never established"),
                };
                match alive.release_definition(name, uid, told).await {
                    Ok(()) => return,
                    Err(status) => (Some(status), None),
                }
            }
            Err(status) => {
                let words = format!("could not issue all deletes: {status}");
                let _ = alive.note(name, uid, "InstanceDeletionFailed", &words).await;
                (Some(status), None)
            }
        };
        drop(alive);
        if let Some(mut watcher) = watcher {
            // Somebody's finalizers are still to go.
            if watcher.next().await.is_err() {
                return;
            }
            pause = RETRY;
            continue;
        }
        if let Some(status) = failure {
            tracing::warn!(%name, %status, "the objects of a definition cannot be deleted");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_RETRY);
    }
}

impl Inner {
    /// Deletes the objects of a definition. Where some wait for finalizers, what follows them is returned.
    async fn delete_instances(&self, definition: &Arc<Definition>) -> Result<Option<Watcher>, Status> {
        let custom = Custom::stored(definition);
        let kind = custom.kind;
        let (snapshot, watcher) =
            self.store.snapshot_and_watch(&kind.storage(), "").map_err(Status::internal)?;
        let going =
            |json: &[u8]| object::is_terminating(&pick::pick(json, &[&["metadata", "deletionTimestamp"]]));
        let names: Vec<String> = snapshot
            .range(&kind.storage(), "", None)
            .filter(|(_, entry)| !going(entry.json()))
            .map(|(stored, _)| stored.to_string())
            .collect();
        drop(snapshot);
        let custom = &custom;
        futures_util::stream::iter(names.into_iter().map(Ok))
            .try_for_each_concurrent(
                TOGETHER,
                |stored| async move { self.delete_instance(custom, &stored).await },
            )
            .await?;
        let left = self.store.snapshot().count(&kind.storage());
        Ok((left > 0).then_some(watcher))
    }

    /// Deletes one object of a definition, by its stored name.
    async fn delete_instance(&self, custom: &Custom, stored: &str) -> Result<(), Status> {
        let (namespace, name) = stored.split_once('/').unwrap_or(("", stored));
        let request = ResourceRequest {
            kind: custom.kind,
            custom: Some(custom.clone()),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: None,
            below: String::new(),
            query: Query::default(),
        };
        let user = User::component("system:apiserver");
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        let accept = Accept { shape: Shape::Full, encoding: Encoding::Json };
        let change = Change::new(&request, &user, &headers, &body, accept, MANAGER.to_owned());
        match self.delete_with(&change, &Options::default()).await {
            Ok(_) => Ok(()),
            Err(status) if status.code == 404 => Ok(()),
            Err(status) => Err(status),
        }
    }

    /// Notes how far a definition's end has come.
    async fn note(&self, name: &str, uid: &str, reason: &str, message: &str) -> Result<(), Status> {
        let Some(entry) = self.store.get(&Key::new(DEFINITIONS, name)) else { return Ok(()) };
        let old = respond::parse(entry.json())?;
        if object::meta(&old, "uid") != uid {
            return Ok(());
        }
        let mut new = old.clone();
        names::set_condition(&mut new, "Terminating", "True", reason, message);
        self.write_status(name, &entry, &old, new).await
    }

    /// Lets a definition go whose objects are gone.
    async fn release_definition(
        &self,
        name: &str,
        uid: &str,
        (reason, message): (&str, &str),
    ) -> Result<(), Status> {
        let (kind, key) = (row()?, Key::new(DEFINITIONS, name));
        loop {
            let Some(entry) = self.store.get(&key) else { return Ok(()) };
            let old = respond::parse(entry.json())?;
            if object::meta(&old, "uid") != uid || !object::has_finalizer(&old, CLEANUP) {
                return Ok(());
            }
            if reason == NEVER && is_true(&old, "Established") {
                return Err(Status::internal("it is established and cannot be served"));
            }
            let mut new = old.clone();
            names::set_condition(&mut new, "Terminating", "False", reason, message);
            if let Some(finalizers) = new["metadata"]["finalizers"].as_array_mut() {
                finalizers.retain(|finalizer| finalizer != CLEANUP);
            }
            if object::meta_list(&new, "finalizers").is_empty() {
                object::meta_mut(&mut new).remove("finalizers");
            }
            track(&old, &mut new)?;
            let draft = draft(kind, &new)?;
            let written = if is_finished(kind, &new) {
                self.store.delete(key.clone(), Some(entry.revision()), Some(draft)).await
            } else {
                self.store.update(key.clone(), draft, entry.revision()).await
            };
            match written {
                Ok(_) | Err(Error::NotFound { .. }) => return Ok(()),
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(Status::internal(error)),
            }
        }
    }
}
