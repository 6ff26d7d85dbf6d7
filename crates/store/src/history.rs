//! The recent past of each resource, and those who follow it.
//!
//! Followers hold a position, not a queue: the writer never waits for them and keeps nothing for them; one
//! who falls behind what the history holds is told to list again.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{Entry, Error, store::Limits};

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It came into being.
    Added,
    /// It got another value.
    Modified,
    /// It is gone.
    Deleted,
}

/// One change, shared by all who follow the resource.
#[derive(Debug, Clone)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key's name within the resource.
    pub name: Arc<str>,
    /// The value after the change; of a delete the last value, at the revision of the delete.
    pub entry: Entry,
    /// The value before the change.
    pub previous: Option<Entry>,
}

impl Event {
    fn cost(&self) -> usize {
        // Every value is counted once: as `entry` of the event that brought it.
        128 + self.name.len() + self.entry.json().len()
    }
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// The newest revision whose event is no longer held.
    dropped: u64,
}

/// The recent events of one resource.
#[derive(Debug)]
pub(crate) struct History {
    ring: Mutex<Ring>,
    latest: watch::Sender<u64>,
    limits: Limits,
}

impl History {
    pub(crate) fn new(revision: u64, limits: Limits) -> History {
        History {
            ring: Mutex::new(Ring { events: VecDeque::new(), bytes: 0, dropped: revision }),
            latest: watch::Sender::new(revision),
            limits,
        }
    }

    pub(crate) fn push(&self, events: Vec<Event>) {
        let mut ring = self.ring.lock();
        for event in events {
            ring.bytes += event.cost();
            ring.events.push_back(Arc::new(event));
        }
        while ring.events.len() > self.limits.history_events || ring.bytes > self.limits.history_bytes {
            let Some(event) = ring.events.pop_front() else { break };
            ring.bytes -= event.cost();
            ring.dropped = event.entry.revision();
        }
    }

    /// Forgets everything: who follows is told to list again.
    pub(crate) fn forget(&self, revision: u64) {
        let mut ring = self.ring.lock();
        ring.events.clear();
        (ring.bytes, ring.dropped) = (0, revision);
    }

    pub(crate) fn announce(&self, revision: u64) {
        self.latest.send_replace(revision);
    }

    pub(crate) fn follow(self: &Arc<Self>, prefix: &str, after: u64) -> Result<Watcher, Error> {
        let oldest = self.ring.lock().dropped;
        if after < oldest {
            return Err(Error::Expired { requested: after, oldest });
        }
        Ok(Watcher {
            receiver: self.latest.subscribe(),
            history: self.clone(),
            prefix: prefix.into(),
            position: after,
        })
    }
}

/// Follows the changes of one resource below a prefix of its names.
#[derive(Debug)]
pub struct Watcher {
    history: Arc<History>,
    receiver: watch::Receiver<u64>,
    prefix: Box<str>,
    position: u64,
}

/// The most events that one call hands out.
const BATCH: usize = 256;

impl Watcher {
    /// Waits for changes and returns some of them, in order. Dropping the future loses nothing.
    ///
    /// # Errors
    /// `Expired` when the history no longer reaches back to this watcher's position; `Closed` when the
    /// store is gone.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, Error> {
        loop {
            self.receiver.borrow_and_update();
            let events = self.pending()?;
            if !events.is_empty() {
                return Ok(events);
            }
            self.receiver.changed().await.map_err(|_| Error::Closed)?;
        }
    }

    /// Whether there are changes that this watcher has not seen, or that it can no longer see.
    pub fn has_pending(&self) -> bool {
        let ring = self.history.ring.lock();
        let newest = ring.events.back().map_or(ring.dropped, |event| event.entry.revision());
        newest > self.position
    }

    /// The changes that are there already; empty when this watcher has seen all.
    ///
    /// # Errors
    /// `Expired` as for [`Watcher::next`].
    pub fn pending(&mut self) -> Result<Vec<Arc<Event>>, Error> {
        let ring = self.history.ring.lock();
        if self.position < ring.dropped {
            return Err(Error::Expired { requested: self.position, oldest: ring.dropped });
        }
        let position = self.position;
        let start = ring.events.partition_point(|event| event.entry.revision() <= position);
        let mut found = Vec::new();
        for event in ring.events.range(start..) {
            self.position = event.entry.revision();
            if event.name.starts_with(&*self.prefix) {
                found.push(event.clone());
                if found.len() == BATCH {
                    break;
                }
            }
        }
        Ok(found)
    }
}
