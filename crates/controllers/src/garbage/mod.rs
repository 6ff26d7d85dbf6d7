//! The garbage collector: objects whose owners are gone go too. It follows the metadata of all kinds, and knows none
//! of them by name but for events, which own nothing and are nobody's.

mod collect;
mod graph;

use std::sync::Arc;

use futures_util::StreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::watch as flag;
use tokio::task::JoinSet;

use crate::error::{Error, Result};
use crate::garbage::graph::{Graph, Node, Work};
use crate::kinds::{Kind, Tied};
use crate::queue::Queue;

/// So many objects are looked at at the same time.
const WIDTH: usize = 32;
/// Kinds that are left out.
const IGNORED: &[&str] = &["Event"];

type Listener = Box<dyn Fn(&str) + Send + Sync>;

/// What is known of all objects.
pub(crate) struct Objects {
    kinds: Arc<Vec<Kind>>,
    graph: Mutex<Graph>,
    queue: Arc<Queue<Work>>,
    /// Called with the namespace of each object that is gone.
    listeners: Mutex<Vec<Listener>>,
    /// How many kinds have not been listed yet.
    missing: flag::Sender<usize>,
}

/// The garbage collector.
pub(crate) struct Collector {
    client: Client,
    objects: Arc<Objects>,
}

impl Objects {
    pub(crate) fn new(kinds: Arc<Vec<Kind>>) -> Arc<Objects> {
        let missing = kinds.iter().filter(|kind| is_followed(kind)).count();
        Arc::new(Objects {
            kinds,
            graph: Mutex::default(),
            queue: Queue::new("garbage"),
            listeners: Mutex::default(),
            missing: flag::Sender::new(missing),
        })
    }

    /// Has a function called with the namespace of each object that is gone.
    pub(crate) fn on_removal(&self, listener: impl Fn(&str) + Send + Sync + 'static) {
        self.listeners.lock().push(Box::new(listener));
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

    async fn follow(self: Arc<Self>, client: Client, index: usize) -> Result<()> {
        let kind = &self.kinds[index];
        let api = Api::<Tied>::all_with(client, &kind.resource);
        let config = watcher::Config::default().streaming_lists();
        let mut events = watch(api, config).default_backoff().boxed();
        let mut listed = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(object) | Event::InitApply(object)) => {
                    let uid = object.metadata.uid.clone().unwrap_or_default();
                    let work = self.graph.lock().apply(&uid, Node::new(index, &object.metadata));
                    self.add(work);
                }
                Ok(Event::Delete(object)) => self.remove(object.metadata.uid.as_deref().unwrap_or_default()),
                Ok(Event::Init) => self.graph.lock().begin_list(index),
                Ok(Event::InitDone) => {
                    let gone = self.graph.lock().end_list(index);
                    gone.iter().for_each(|uid| self.remove(uid));
                    if !listed {
                        listed = true;
                        self.missing.send_modify(|missing| *missing -= 1);
                    }
                }
                // The stream tries again by itself, with growing pauses.
                Err(error) => tracing::warn!(kind = kind.resource.kind, %error, "watching failed"),
            }
        }
        Err(Error::WatchEnded { kind: kind.resource.kind.clone() })
    }
}

fn is_followed(kind: &Kind) -> bool {
    kind.collectable && !IGNORED.contains(&kind.resource.kind.as_str())
}

impl Collector {
    pub(crate) fn new(client: Client, objects: Arc<Objects>) -> Collector {
        Collector { client, objects }
    }

    /// Follows all kinds and collects; returns only when it cannot go on.
    pub(crate) async fn run(self) -> Result<()> {
        let mut watches = JoinSet::new();
        for (index, kind) in self.objects.kinds.iter().enumerate() {
            if is_followed(kind) {
                watches.spawn(self.objects.clone().follow(self.client.clone(), index));
            }
        }
        let collecting = async {
            // Before all kinds are known, owners only seem to be missing.
            self.objects.wait_complete().await;
            self.objects.queue.run(WIDTH, |work| self.work(work)).await
        };
        tokio::select! {
            result = collecting => result,
            Some(ended) = watches.join_next() => match ended {
                Ok(result) => result,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => Ok(()),
                },
            },
        }
    }
}
