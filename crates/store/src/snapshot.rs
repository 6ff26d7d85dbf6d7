//! What is stored at one revision: an immutable picture that any number of readers share.

use std::{ops::Bound, sync::Arc};

use imbl::{HashMap, OrdMap};

use crate::{Entry, Key};

/// All values at one revision.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    revision: u64,
    resources: HashMap<Arc<str>, OrdMap<Arc<str>, Entry>>,
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

    pub(crate) fn set_revision(&mut self, revision: u64) {
        self.revision = revision;
    }

    pub(crate) fn insert(&mut self, key: &Key, entry: Entry) {
        self.resources.entry(key.resource().clone()).or_default().insert(key.name().clone(), entry);
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        if let Some(objects) = self.resources.get_mut(&**key.resource()) {
            objects.remove(&**key.name());
        }
    }
}
