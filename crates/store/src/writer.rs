//! The one thread that writes: many requests become one batch, one sync, then the answers.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::{mpsc, oneshot};

use crate::{Backend, Change, Draft, Entry, Error, Event, EventKind, Key, Snapshot, store::Shared};

pub(crate) enum Operation {
    Create { draft: Draft },
    Update { draft: Draft, expected: u64 },
    Delete { expected: Option<u64>, last: Option<Draft> },
}

pub(crate) struct Request {
    pub(crate) key: Key,
    pub(crate) operation: Operation,
    pub(crate) answer: oneshot::Sender<Result<Entry, Error>>,
}

const BATCH_REQUESTS: usize = 1024;
const BATCH_BYTES: usize = 8 * 1024 * 1024;

pub(crate) fn run(mut backend: Box<dyn Backend>, shared: Arc<Shared>, mut requests: mpsc::Receiver<Request>) {
    let mut poisoned = false;
    while let Some(first) = requests.blocking_recv() {
        let mut batch = Batch::new(shared.snapshot());
        let mut next = Some(first);
        while let Some(request) = next {
            batch.apply(request);
            if batch.answers.len() >= BATCH_REQUESTS || batch.bytes >= BATCH_BYTES {
                break;
            }
            next = requests.try_recv().ok();
        }
        if !batch.changes.is_empty() {
            let outcome = if poisoned {
                Err(Error::Poisoned)
            } else {
                backend.commit(batch.snapshot.revision(), &batch.changes)
            };
            if let Err(error) = outcome {
                // After a failed sync nobody knows what the disk holds: promise nothing any more.
                tracing::error!(%error, "the store cannot commit");
                poisoned = true;
                batch.fail(&error);
                continue;
            }
            batch.publish(&shared);
        }
        for (answer, result) in batch.answers {
            let _ = answer.send(result);
        }
    }
}

type Answer = (oneshot::Sender<Result<Entry, Error>>, Result<Entry, Error>);

struct Batch {
    snapshot: Snapshot,
    changes: Vec<Change>,
    events: HashMap<Arc<str>, Vec<Event>>,
    answers: Vec<Answer>,
    bytes: usize,
}

impl Batch {
    fn new(current: Arc<Snapshot>) -> Batch {
        Batch {
            snapshot: (*current).clone(),
            changes: Vec::new(),
            events: HashMap::new(),
            answers: Vec::new(),
            bytes: 0,
        }
    }

    fn apply(&mut self, request: Request) {
        let result = self.change(&request.key, &request.operation);
        self.answers.push((request.answer, result));
    }

    fn change(&mut self, key: &Key, operation: &Operation) -> Result<Entry, Error> {
        let current = self.snapshot.get(key.resource(), key.name()).cloned();
        let revision = self.snapshot.revision() + 1;
        let check = |current: Option<Entry>, expected: Option<u64>| match (current, expected) {
            (None, _) => Err(Error::NotFound { key: key.to_string() }),
            (Some(current), Some(expected)) if current.revision() != expected => {
                Err(Error::Conflict { key: key.to_string(), expected, current })
            }
            (Some(current), _) => Ok(current),
        };
        let (kind, entry, previous) = match operation {
            Operation::Create { .. } if current.is_some() => {
                return Err(Error::Exists { key: key.to_string() });
            }
            Operation::Create { draft } => (EventKind::Added, draft.stamp(revision), None),
            Operation::Update { draft, expected } => {
                (EventKind::Modified, draft.stamp(revision), Some(check(current, Some(*expected))?))
            }
            Operation::Delete { expected, last } => {
                let current = check(current, *expected)?;
                let entry =
                    last.as_ref().map_or_else(|| current.restamp(revision), |draft| draft.stamp(revision));
                (EventKind::Deleted, entry, Some(current))
            }
        };
        self.snapshot.set_revision(revision);
        self.bytes += entry.json().len();
        let kept = (kind != EventKind::Deleted).then(|| entry.clone());
        match &kept {
            Some(entry) => self.snapshot.insert(key, entry.clone()),
            None => self.snapshot.remove(key),
        }
        self.changes.push(Change { key: key.clone(), entry: kept });
        self.events.entry(key.resource().clone()).or_default().push(Event {
            kind,
            name: key.name().clone(),
            entry: entry.clone(),
            previous,
        });
        Ok(entry)
    }

    fn fail(self, error: &Error) {
        for (answer, result) in self.answers {
            let _ = answer.send(result.and_then(|_| Err(error.clone())));
        }
    }

    /// Events first, then the snapshot, then the wake-ups: who reads a snapshot at a revision finds the
    /// events up to it, and who is woken finds its events.
    fn publish(&mut self, shared: &Shared) {
        let revision = self.snapshot.revision();
        let mut histories = Vec::with_capacity(self.events.len());
        for (resource, events) in self.events.drain() {
            let history = shared.history(&resource);
            history.push(events);
            histories.push(history);
        }
        shared.set_snapshot(Arc::new(self.snapshot.clone()));
        for history in histories {
            history.announce(revision);
        }
    }
}
