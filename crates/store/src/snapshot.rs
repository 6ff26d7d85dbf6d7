//! What is stored at one revision: an immutable picture that any number of readers share.

use std::{ops::Bound, sync::Arc};

use imbl::{HashMap, OrdMap};

use crate::{Entry, Key};

/// All values at one revision.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    revision: u64,
    bytes: u64,
    resources: HashMap<Arc<str>, OrdMap<Arc<str>, Entry>>,
}

/// What a value counts for against the bound on the store's size.
pub(crate) fn cost(key: &Key, entry: &Entry) -> u64 {
    (key.resource().len() + key.name().len() + entry.json().len()) as u64
}

impl Snapshot {
    /// The revision of the picture: that of the last commit in it.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The value under a key.
    pub fn get(&self, resource: &str, name: &str) -> Option<&Entry> {
        self.resources.get(resource)?.get(name)
    }

    /// The values of a resource whose names begin with `prefix` and come after `after` (when given), in
    /// the order of their names.
    pub fn range<'a>(
        &'a self,
        resource: &str,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Entry)> + 'a {
        let start: Bound<&str> = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.resources
            .get(resource)
            .map(|objects| objects.range::<_, str>((start, Bound::Unbounded)))
            .into_iter()
            .flatten()
            .take_while(move |(name, _)| name.starts_with(prefix))
    }

    /// How many values a resource has.
    pub fn count(&self, resource: &str) -> usize {
        self.resources.get(resource).map_or(0, OrdMap::len)
    }

    /// The bytes of all keys and values together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All values, by resource and name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Key, &Entry)> {
        let mut resources: Vec<_> = self.resources.iter().collect();
        resources.sort_unstable_by_key(|(resource, _)| *resource);
        resources.into_iter().flat_map(|(resource, objects)| {
            objects.iter().map(|(name, entry)| (Key::new(resource.clone(), name.clone()), entry))
        })
    }

    pub(crate) fn set(&mut self, key: &Key, entry: Option<Entry>) {
        match entry {
            Some(entry) => self.insert(key, entry),
            None => self.remove(key),
        }
    }

    pub(crate) fn set_revision(&mut self, revision: u64) {
        self.revision = revision;
    }

    pub(crate) fn insert(&mut self, key: &Key, entry: Entry) {
        self.bytes += cost(key, &entry);
        let objects = self.resources.entry(key.resource().clone()).or_default();
        if let Some(before) = objects.insert(key.name().clone(), entry) {
            self.bytes -= cost(key, &before);
        }
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        let objects = self.resources.get_mut(&**key.resource());
        if let Some(before) = objects.and_then(|objects| objects.remove(&**key.name())) {
            self.bytes -= cost(key, &before);
        }
    }
}
