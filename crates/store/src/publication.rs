//! What changes become for readers: events, and the picture after them.

use std::{collections::HashMap, sync::Arc};

use crate::{Entry, Event, EventKind, Key, Snapshot, store::Shared};

/// Changes that readers do not see yet.
pub(crate) struct Publication {
    /// The picture after the changes.
    pub(crate) snapshot: Snapshot,
    events: HashMap<Arc<str>, Vec<Event>>,
}

impl Publication {
    /// Begins behind a picture.
    pub(crate) fn new(current: &Snapshot) -> Publication {
        Publication { snapshot: current.clone(), events: HashMap::new() }
    }

    /// Takes in that a key has another value, or none: `entry` is the value or, of a delete, what its event shows.
    pub(crate) fn change(&mut self, key: &Key, kind: EventKind, entry: Entry, previous: Option<Entry>) {
        self.snapshot.set_revision(entry.revision());
        self.snapshot.set(key, (kind != EventKind::Deleted).then(|| entry.clone()));
        self.events.entry(key.resource().clone()).or_default().push(Event {
            kind,
            name: key.name().clone(),
            entry,
            previous,
        });
    }

    /// Events first, then the snapshot, then the wake-ups: who reads a snapshot at a revision finds the
    /// events up to it, and who is woken finds its events.
    pub(crate) fn publish(self, shared: &Shared) {
        let revision = self.snapshot.revision();
        let mut histories = Vec::with_capacity(self.events.len());
        for (resource, events) in self.events {
            let history = shared.history(&resource);
            history.push(events);
            histories.push(history);
        }
        shared.set_snapshot(Arc::new(self.snapshot));
        for history in histories {
            history.announce(revision);
        }
    }
}
