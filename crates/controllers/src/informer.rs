//! One watch and one copy of each kind's objects, shared by all controllers. It must not know what the
//! controllers do with a change: they hand in functions that note which of their own objects to look at.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Resource, ResourceExt as _};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio::sync::watch as flag;

use crate::error::{Error, Result};
use crate::key::ObjectKey;
use crate::owner;

/// What an informer can keep.
pub(crate) trait Object:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

/// What happened to an object.
pub(crate) enum Change<'a, K> {
    Added(&'a Arc<K>),
    Updated { old: &'a Arc<K>, new: &'a Arc<K> },
    Deleted(&'a Arc<K>),
}

impl<'a, K> Change<'a, K> {
    /// The newest form.
    pub(crate) fn object(&self) -> &'a Arc<K> {
        match self {
            Change::Added(object) | Change::Updated { new: object, .. } | Change::Deleted(object) => object,
        }
    }

    /// The form before.
    pub(crate) fn old(&self) -> Option<&'a Arc<K>> {
        match self {
            Change::Updated { old, .. } => Some(old),
            _ => None,
        }
    }
}

type Handler<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;

struct Objects<K> {
    by_namespace: HashMap<String, BTreeMap<String, Arc<K>>>,
    /// By the uid of the controlling owner; under "" those that have none.
    by_owner: HashMap<String, BTreeSet<ObjectKey>>,
}

/// The objects of one kind as the watch tells them.
pub(crate) struct Informer<K> {
    objects: RwLock<Objects<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    complete: flag::Sender<bool>,
}

/// A watch that says nothing is given up and begun again after this long.
const WATCH_TIMEOUT: Duration = Duration::from_secs(290);

impl<K: Object> Informer<K> {
    pub(crate) fn new() -> Arc<Informer<K>> {
        Arc::new(Informer {
            objects: RwLock::new(Objects { by_namespace: HashMap::new(), by_owner: HashMap::new() }),
            handlers: RwLock::default(),
            complete: flag::Sender::new(false),
        })
    }

    /// Has a function called with each change, in their order, after the change can be read. It must be quick.
    pub(crate) fn on_change(&self, handler: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        self.handlers.write().push(Box::new(handler));
    }

    /// Waits until a whole list has arrived.
    pub(crate) async fn wait_complete(&self) {
        // The sender lives as long as this does.
        let _ = self.complete.subscribe().wait_for(|complete| *complete).await;
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.objects.read().by_namespace.get(&key.namespace)?.get(&key.name).cloned()
    }

    /// The objects of a namespace, by name.
    pub(crate) fn list(&self, namespace: &str) -> Vec<Arc<K>> {
        let objects = self.objects.read();
        objects.by_namespace.get(namespace).into_iter().flat_map(|all| all.values().cloned()).collect()
    }

    /// All objects.
    pub(crate) fn list_all(&self) -> Vec<Arc<K>> {
        self.objects.read().by_namespace.values().flat_map(|all| all.values().cloned()).collect()
    }

    /// The objects that are controlled by the owner of a uid, by namespace and name.
    pub(crate) fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.owned(uid, None)
    }

    /// The objects of a namespace that nothing controls.
    pub(crate) fn orphans(&self, namespace: &str) -> Vec<Arc<K>> {
        self.owned("", Some(namespace))
    }

    fn owned(&self, uid: &str, namespace: Option<&str>) -> Vec<Arc<K>> {
        let objects = self.objects.read();
        let keys = objects.by_owner.get(uid).into_iter().flatten();
        keys.filter(|key| namespace.is_none_or(|namespace| key.namespace == namespace))
            .filter_map(|key| objects.by_namespace.get(&key.namespace)?.get(&key.name).cloned())
            .collect()
    }

    fn insert(&self, mut object: K) {
        object.meta_mut().managed_fields = None;
        let object = Arc::new(object);
        let key = ObjectKey::of(&*object);
        let old = {
            let mut objects = self.objects.write();
            let all = objects.by_namespace.entry(key.namespace.clone()).or_default();
            let old = all.insert(key.name.clone(), object.clone());
            let owner = owner::controller_uid(&*object).to_owned();
            if let Some(old) = &old {
                let before = owner::controller_uid(&**old);
                if before != owner {
                    forget_owner(&mut objects, before, &key);
                }
            }
            objects.by_owner.entry(owner).or_default().insert(key);
            old
        };
        match &old {
            // A list repeats what is known.
            Some(old) if old.resource_version() == object.resource_version() => {}
            Some(old) => self.tell(&Change::Updated { old, new: &object }),
            None => self.tell(&Change::Added(&object)),
        }
    }

    fn remove(&self, key: &ObjectKey, last: Option<K>) {
        let removed = {
            let mut objects = self.objects.write();
            let Some(all) = objects.by_namespace.get_mut(&key.namespace) else { return };
            let Some(removed) = all.remove(&key.name) else { return };
            if all.is_empty() {
                objects.by_namespace.remove(&key.namespace);
            }
            forget_owner(&mut objects, owner::controller_uid(&*removed), key);
            removed
        };
        self.tell(&Change::Deleted(&last.map_or(removed, Arc::new)));
    }

    fn tell(&self, change: &Change<'_, K>) {
        for handler in self.handlers.read().iter() {
            handler(change);
        }
    }

    /// Follows the watch; returns only when it has ended for good.
    pub(crate) async fn run(self: Arc<Self>, api: Api<K>, fields: Option<String>) -> Result<()> {
        let mut config = watcher::Config::default().streaming_lists().timeout(WATCH_TIMEOUT.as_secs() as u32);
        config.field_selector = fields;
        let kind = K::kind(&()).into_owned();
        let mut events = pin!(watch(api, config).default_backoff());
        // The names that a list under way has brought.
        let mut listed = HashSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(object)) => self.insert(object),
                Ok(Event::Delete(object)) => self.remove(&ObjectKey::of(&object), Some(object)),
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => {
                    listed.insert(ObjectKey::of(&object));
                    self.insert(object);
                }
                Ok(Event::InitDone) => {
                    let known = self.list_all();
                    let gone = known.iter().map(|object| ObjectKey::of(&**object));
                    for key in gone.filter(|key| !listed.contains(key)) {
                        self.remove(&key, None);
                    }
                    listed = HashSet::new();
                    self.complete.send_replace(true);
                }
                // The stream tries again by itself, with growing pauses.
                Err(error) => tracing::warn!(kind, %error, "watching failed"),
            }
        }
        Err(Error::WatchEnded { kind })
    }
}

fn forget_owner<K>(objects: &mut Objects<K>, uid: &str, key: &ObjectKey) {
    if let Some(keys) = objects.by_owner.get_mut(uid) {
        keys.remove(key);
        if keys.is_empty() {
            objects.by_owner.remove(uid);
        }
    }
}
