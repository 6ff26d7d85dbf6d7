//! The definitions that are served now. Whoever looks takes the whole table and keeps it while he looks; a change makes
//! another table.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dray_machinery::{Kind, kinds};
use dray_store::Store;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::{Custom, DEFINITIONS, Definition, definition::is_true};

/// The definitions that are served, by name.
#[derive(Debug, Default, Clone)]
pub(crate) struct Table {
    definitions: BTreeMap<String, Arc<Definition>>,
}

/// The table of now.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    current: RwLock<Arc<Table>>,
    /// Tells that the table is another.
    changed: watch::Sender<()>,
}

/// How versions follow each other: released ones first, then beta and alpha, in each the highest number first; what is no
/// such name comes last, by the alphabet.
pub(crate) fn by_priority(one: &str, two: &str) -> Ordering {
    fn parts(name: &str) -> Option<(u8, u32, u32)> {
        let rest = name.strip_prefix('v')?;
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let (major, rest) = (rest[..digits].parse().ok()?, &rest[digits..]);
        if rest.is_empty() {
            return Some((2, major, 0));
        }
        let stage = |word: &str, rank: u8| Some((rank, major, rest.strip_prefix(word)?.parse().ok()?));
        stage("beta", 1).or_else(|| stage("alpha", 0))
    }
    match (parts(one), parts(two)) {
        (Some(one), Some(two)) => two.cmp(&one),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => one.cmp(two),
    }
}

impl Registry {
    /// The table with the definitions that a store says are served.
    pub(crate) fn load(store: &Store) -> Registry {
        let mut table = Table::default();
        for (name, entry) in store.snapshot().range(DEFINITIONS, "", None) {
            let definition = crate::respond::parse(entry.json()).map_err(|status| status.to_string());
            let read = definition.and_then(|definition| {
                let served = is_true(&definition, "Established");
                served.then(|| Definition::read(&definition, entry.revision())).transpose()
            });
            match read {
                Ok(Some(definition)) => {
                    table.definitions.insert(name.to_string(), Arc::new(definition));
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%name, error, "a definition cannot be served"),
            }
        }
        Registry { current: RwLock::new(Arc::new(table)), ..Registry::default() }
    }

    /// The table.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.current.read().clone()
    }

    /// What is told when the table is another.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Serves a definition in place of the one of its name, or no more.
    pub(crate) fn exchange(&self, name: &str, definition: Option<Arc<Definition>>) {
        let mut current = self.current.write();
        let mut table = Table::clone(&current);
        let before = match &definition {
            Some(definition) => table.definitions.insert(name.to_owned(), definition.clone()),
            None => table.definitions.remove(name),
        };
        *current = Arc::new(table);
        drop(current);
        self.changed.send_replace(());
        let goes_on = |before: &Definition| definition.as_ref().is_some_and(|now| now.succeeds(before));
        if let Some(before) = before.filter(|before| !goes_on(before)) {
            before.close();
        }
    }
}

impl Table {
    /// The names of the definitions.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.definitions.keys().cloned().collect()
    }

    /// A definition, by its name.
    pub(crate) fn definition(&self, name: &str) -> Option<&Arc<Definition>> {
        self.definitions.get(name)
    }

    /// The version of a kind that a path names.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Custom> {
        Custom::find(self.definitions.get(&format!("{plural}.{group}"))?, version)
    }

    /// The row of a kind.
    pub(crate) fn find_kind(&self, group: &str, kind: &str) -> Option<&'static Kind> {
        let rows = self.definitions.values().map(|definition| definition.stored().kind);
        rows.into_iter().find(|row| row.kind == kind && row.group == group)
    }

    /// A version of a kind, if it is served.
    pub(crate) fn find_version(&self, group: &str, version: &str, kind: &str) -> Option<Custom> {
        let named = |definition: &&Arc<Definition>| {
            let row = definition.stored().kind;
            row.kind == kind && row.group == group
        };
        Custom::find(self.definitions.values().find(named)?, version)
    }

    /// All versions that are served: group by group, in each the versions by their priority.
    pub(crate) fn all(&self) -> Vec<Custom> {
        let mut all: Vec<Custom> = self
            .definitions
            .values()
            .flat_map(|definition| {
                let served = definition.versions.iter().filter(|version| version.served);
                served.filter_map(|version| Custom::find(definition, version.kind.version))
            })
            .collect();
        all.sort_by(|one, two| {
            let (one, two) = (one.kind, two.kind);
            let versions = by_priority(one.version, two.version);
            one.group.cmp(two.group).then(versions).then(one.plural.cmp(two.plural))
        });
        all
    }

    /// The rows of all kinds: the built-in ones, then those of definitions.
    pub(crate) fn rows(&self) -> Vec<&'static Kind> {
        let custom = self.all().into_iter().map(|custom| custom.kind);
        // What is built in is never shadowed.
        let free = custom.filter(|kind| kinds::find(kind.group, kind.version, kind.plural).is_none());
        kinds::all().iter().chain(free).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::by_priority;

    #[test]
    fn versions_follow_each_other() {
        let mut names = ["v1alpha1", "foo10", "v10", "v3beta1", "v2", "foo1", "v11beta2", "v11alpha2", "v1"];
        names.sort_by(|one, two| by_priority(one, two));
        assert_eq!(
            names,
            ["v10", "v2", "v1", "v11beta2", "v3beta1", "v11alpha2", "v1alpha1", "foo1", "foo10"]
        );
    }
}
