//! The garbage collector: objects whose owners are gone go too. It follows the metadata of all kinds, those that
//! definitions add while it runs too, and knows none of them by name but for events, which own nothing and are nobody's.

mod collect;
mod follow;
mod graph;

use std::sync::Arc;

use kube::Client;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch as flag;

use crate::definition::Definition;
use crate::error::Result;
use crate::garbage::graph::{Graph, Work};
use crate::informer::{Change, Informer};
use crate::kinds::Kind;
use crate::queue::Queue;

/// So many objects are looked at at the same time.
const WIDTH: usize = 32;
/// Kinds that are left out.
const IGNORED: &[&str] = &["Event"];

type Listener = Box<dyn Fn(&str) + Send + Sync>;
type KindsListener = Box<dyn Fn() + Send + Sync>;

/// A kind that is known, or was.
#[derive(Clone)]
struct Row {
    kind: Arc<Kind>,
    /// The uid of its definition; none of a kind that is built in.
    definition: Option<String>,
    served: bool,
}

/// What is known of all objects.
pub(crate) struct Objects {
    /// A kind keeps its place for ever, and finds it again when it comes back.
    rows: RwLock<Vec<Row>>,
    graph: Mutex<Graph>,
    queue: Arc<Queue<Work>>,
    /// Called with the namespace of each object that is gone.
    listeners: Mutex<Vec<Listener>>,
    /// Called when kinds have come, gone or changed.
    kinds_listeners: Mutex<Vec<KindsListener>>,
    /// How much has not been listed yet: kinds, and at first their definitions.
    missing: flag::Sender<usize>,
}

/// Something that has not been listed yet, as long as this lives.
struct Missing(Arc<Objects>);

impl Missing {
    fn new(objects: &Arc<Objects>) -> Missing {
        objects.missing.send_modify(|missing| *missing += 1);
        Missing(objects.clone())
    }
}

impl Drop for Missing {
    fn drop(&mut self) {
        self.0.missing.send_modify(|missing| *missing -= 1);
    }
}

/// The garbage collector.
pub(crate) struct Collector {
    client: Client,
    objects: Arc<Objects>,
    definitions: Arc<Informer<Definition>>,
    /// Says that definitions have changed.
    changed: flag::Receiver<()>,
    /// The definitions, until they have been read.
    unread: Option<Missing>,
}

impl Objects {
    /// `kinds` are those that are served now.
    pub(crate) fn new(kinds: Vec<Kind>) -> Arc<Objects> {
        let row = |kind| Row { kind: Arc::new(kind), definition: None, served: true };
        Arc::new(Objects {
            rows: RwLock::new(kinds.into_iter().map(row).collect()),
            graph: Mutex::default(),
            queue: Queue::new("garbage"),
            listeners: Mutex::default(),
            kinds_listeners: Mutex::default(),
            missing: flag::Sender::new(0),
        })
    }

    /// Has a function called with the namespace of each object that is gone.
    pub(crate) fn on_removal(&self, listener: impl Fn(&str) + Send + Sync + 'static) {
        self.listeners.lock().push(Box::new(listener));
    }

    /// Has a function called when kinds have come, gone or changed.
    pub(crate) fn on_kinds(&self, listener: impl Fn() + Send + Sync + 'static) {
        self.kinds_listeners.lock().push(Box::new(listener));
    }

    /// All kinds that are known, and those that are served no more: who asks for their objects is told so.
    pub(crate) fn kinds(&self) -> Vec<Arc<Kind>> {
        self.rows.read().iter().map(|row| row.kind.clone()).collect()
    }

    fn kind(&self, place: usize) -> Arc<Kind> {
        self.rows.read()[place].kind.clone()
    }

    /// The kind of a name, with its place.
    fn find(&self, group: &str, name: &str) -> Option<(usize, Row)> {
        let rows = self.rows.read();
        let is_meant = |row: &Row| row.kind.resource.kind == name && row.kind.resource.group == group;
        // Of two that had the name, that is meant which has it now.
        let meant = rows.iter().enumerate().filter(|(_, row)| is_meant(row));
        meant.max_by_key(|(_, row)| row.served).map(|(place, row)| (place, row.clone()))
    }

    /// Whether nothing but events is in a namespace, as far as the watches have told.
    pub(crate) fn is_empty(&self, namespace: &str) -> bool {
        self.graph.lock().is_empty(namespace)
    }

    /// Waits until all kinds have been listed.
    pub(crate) async fn wait_complete(&self) {
        // The sender lives as long as this does.
        let _ = self.missing.subscribe().wait_for(|missing| *missing == 0).await;
    }

    fn add(&self, work: Vec<Work>) {
        work.into_iter().for_each(|work| self.queue.add(work));
    }

    fn remove(&self, uid: &str) {
        let (node, work) = self.graph.lock().remove(uid);
        self.add(work);
        if let Some(node) = node {
            for listener in self.listeners.lock().iter() {
                listener(&node.namespace);
            }
        }
    }
}

impl Collector {
    /// Subscribes to the informer, which must not run yet.
    pub(crate) fn new(
        client: Client,
        objects: Arc<Objects>,
        definitions: Arc<Informer<Definition>>,
    ) -> Collector {
        let (sender, changed) = flag::channel(());
        let known = objects.clone();
        definitions.on_change(move |change| {
            let gone = match change {
                Change::Added(_) => None,
                Change::Updated { old, new } => Some(old).filter(|old| old.uid() != new.uid()),
                Change::Deleted(definition) => Some(definition),
            };
            if let Some(definition) = gone {
                // Owners may have come and gone with it before they were seen.
                let (group, kind) = definition.names();
                known.check_owned_by(group, kind);
            }
            sender.send_replace(());
        });
        let unread = Some(Missing::new(&objects));
        Collector { client, objects, definitions, changed, unread }
    }

    /// Follows all kinds and collects; returns only when it cannot go on.
    pub(crate) async fn run(mut self) -> Result<()> {
        let follower = follow::Follower::new(self.client.clone(), self.objects.clone());
        let definitions = self.definitions.clone();
        let following = follower.run(definitions, self.changed.clone(), self.unread.take());
        let collecting = async {
            // Before all kinds are known, owners only seem to be missing.
            self.objects.wait_complete().await;
            self.objects.queue.run(WIDTH, |work| self.work(work)).await
        };
        tokio::select! {
            result = collecting => result,
            result = following => result,
        }
    }
}
