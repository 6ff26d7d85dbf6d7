//! The watches of the garbage collector: one for each kind that is served, begun and ended as definitions come and go.
//! It must not know what becomes of the objects.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt as _;
use kube::api::ApiResource;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Client};
use tokio::sync::watch as flag;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::graph::Node;
use super::{IGNORED, Missing, Objects, Row};
use crate::definition::Definition;
use crate::error::{Error, Result};
use crate::informer::Informer;
use crate::kinds::{Kind, Tied};

/// A watch under way.
struct Watch {
    handle: AbortHandle,
    resource: ApiResource,
}

/// All watches.
pub(super) struct Follower {
    client: Client,
    objects: Arc<Objects>,
    tasks: JoinSet<Result<()>>,
    /// By the place of the kind.
    watches: HashMap<usize, Watch>,
}

/// What has become of a kind that a definition added.
enum End {
    /// The definition is gone, and no object outlives it.
    Gone,
    /// Nothing of it is served; objects may be there all the same.
    Hidden,
}

fn is_followed(kind: &Kind) -> bool {
    kind.collectable && !IGNORED.contains(&kind.resource.kind.as_str())
}

/// Which task has ended, and how.
fn outcome(ended: std::result::Result<(Id, Result<()>), JoinError>) -> (Id, Result<()>) {
    match ended {
        Ok(ended) => ended,
        Err(error) => {
            let id = error.id();
            match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => (id, Ok(())),
            }
        }
    }
}

impl Follower {
    pub(super) fn new(client: Client, objects: Arc<Objects>) -> Follower {
        Follower { client, objects, tasks: JoinSet::new(), watches: HashMap::new() }
    }

    /// Follows the kinds that are known and those of definitions; returns only when it cannot go on. `unread` is kept until
    /// the definitions have been read once.
    pub(super) async fn run(
        mut self,
        definitions: Arc<Informer<Definition>>,
        mut changed: flag::Receiver<()>,
        unread: Option<Missing>,
    ) -> Result<()> {
        definitions.wait_complete().await;
        self.keep_up(&definitions.list_all()).await?;
        let known = self.objects.kinds();
        for (place, kind) in known.into_iter().enumerate() {
            if !self.watches.contains_key(&place) && self.objects.rows.read()[place].served {
                self.begin(place, &kind, true);
            }
        }
        drop(unread);
        loop {
            tokio::select! {
                _ = changed.changed() => self.keep_up(&definitions.list_all()).await?,
                Some(ended) = self.tasks.join_next_with_id() => outcome(ended).1?,
            }
        }
    }

    /// Brings the watches to where the definitions say they are.
    async fn keep_up(&mut self, definitions: &[Arc<Definition>]) -> Result<()> {
        let mut news = self.end_others(definitions).await?;
        for definition in definitions {
            let Some(kind) = definition.kind() else { continue };
            let kind = Arc::new(kind);
            let place = self.place(&kind, definition.uid());
            if self.watches.get(&place).is_some_and(|watch| watch.resource == kind.resource) {
                continue;
            }
            // One that follows it in another version ends first.
            self.stop(place).await?;
            self.begin(place, &kind, false);
            // As long as it was not served nobody could say whether its objects were there.
            self.objects.check_owned_by(&kind.resource.group, &kind.resource.kind);
            news = true;
        }
        if news {
            self.objects.kinds_listeners.lock().iter().for_each(|listener| listener());
        }
        Ok(())
    }

    /// Ends the watches of kinds that no definition adds any more; tells whether there were any.
    async fn end_others(&mut self, definitions: &[Arc<Definition>]) -> Result<bool> {
        let by_uid: HashMap<&str, &Arc<Definition>> =
            definitions.iter().map(|definition| (definition.uid(), definition)).collect();
        let ended: Vec<(usize, End)> = {
            let rows = self.objects.rows.read();
            let rows = rows.iter().enumerate().filter(|(_, row)| row.served);
            rows.filter_map(|(place, row)| {
                let end = match by_uid.get(row.definition.as_deref()?) {
                    None => End::Gone,
                    Some(definition) if definition.kind().is_none() => End::Hidden,
                    Some(_) => return None,
                };
                Some((place, end))
            })
            .collect()
        };
        let any = !ended.is_empty();
        for (place, end) in ended {
            self.stop(place).await?;
            self.objects.end(place, end);
        }
        Ok(any)
    }

    /// The place of a kind that is served; it gets one where it has none.
    fn place(&self, kind: &Arc<Kind>, definition: &str) -> usize {
        let mut rows = self.objects.rows.write();
        let is_same = |row: &Row| {
            let (known, new) = (&row.kind.resource, &kind.resource);
            known.group == new.group && known.plural == new.plural
        };
        let row = Row { kind: kind.clone(), definition: Some(definition.to_owned()), served: true };
        match rows.iter().position(is_same) {
            Some(place) => {
                rows[place] = row;
                place
            }
            None => {
                rows.push(row);
                rows.len() - 1
            }
        }
    }

    fn begin(&mut self, place: usize, kind: &Arc<Kind>, patient: bool) {
        if !is_followed(kind) {
            return;
        }
        let missing = Missing::new(&self.objects);
        let following =
            self.objects.clone().follow(self.client.clone(), place, kind.clone(), patient, missing);
        let handle = self.tasks.spawn(following);
        self.watches.insert(place, Watch { handle, resource: kind.resource.clone() });
    }

    /// Ends a watch, and waits until it can tell no more.
    async fn stop(&mut self, place: usize) -> Result<()> {
        let Some(watch) = self.watches.remove(&place) else { return Ok(()) };
        watch.handle.abort();
        while let Some(ended) = self.tasks.join_next_with_id().await {
            let (id, result) = outcome(ended);
            if id == watch.handle.id() {
                break;
            }
            result?;
        }
        Ok(())
    }
}

impl Objects {
    /// A kind is served no more.
    fn end(&self, place: usize, end: End) {
        self.rows.write()[place].served = false;
        let objects = self.graph.lock().of_kind(place);
        for uid in objects {
            match end {
                End::Gone => self.remove(&uid),
                End::Hidden => drop(self.graph.lock().forget(&uid)),
            }
        }
    }

    /// Has all looked at that name an owner of a kind.
    pub(super) fn check_owned_by(&self, group: &str, kind: &str) {
        let work = self.graph.lock().owned_by(group, kind);
        self.add(work);
    }

    /// Follows a kind. `missing` is kept until it has been listed, or, where nobody is patient, until that has failed once:
    /// one kind whose objects cannot be read is not to keep all others waiting.
    async fn follow(
        self: Arc<Self>,
        client: Client,
        place: usize,
        kind: Arc<Kind>,
        patient: bool,
        missing: Missing,
    ) -> Result<()> {
        let mut missing = Some(missing);
        let api = Api::<Tied>::all_with(client, &kind.resource);
        let config = watcher::Config::default().streaming_lists();
        let mut events = watch(api, config).default_backoff().boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(object) | Event::InitApply(object)) => {
                    let uid = object.metadata.uid.clone().unwrap_or_default();
                    let work = self.graph.lock().apply(&uid, Node::new(place, &object.metadata));
                    self.add(work);
                }
                Ok(Event::Delete(object)) => self.remove(object.metadata.uid.as_deref().unwrap_or_default()),
                Ok(Event::Init) => self.graph.lock().begin_list(place),
                Ok(Event::InitDone) => {
                    let gone = self.graph.lock().end_list(place);
                    gone.iter().for_each(|uid| self.remove(uid));
                    missing = None;
                }
                Err(error) => {
                    // The stream tries again by itself, with growing pauses.
                    tracing::warn!(kind = kind.resource.kind, %error, "watching failed");
                    if !patient {
                        missing = None;
                    }
                }
            }
        }
        drop(missing);
        Err(Error::WatchEnded { kind: kind.resource.kind.clone() })
    }
}
