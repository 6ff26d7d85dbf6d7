//! The one thread that writes: many requests become one batch, one sync, then the answers.
//!
//! After a failed commit its writers are told so at once, and readers see nothing of it. A later write lets the backend
//! take back what may be left of it, and then goes on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    Backend, Change, Done, Draft, Entry, Error, EventKind, Key, Snapshot, publication::Publication,
    snapshot::cost, store::Shared,
};

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

pub(crate) enum Message {
    Write(Request),
    /// Write everything anew.
    Rewrite(Done),
}

const BATCH_REQUESTS: usize = 1024;
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// The first and the longest pause between two attempts to go on after a failed commit.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(crate) fn run(backend: Box<dyn Backend>, shared: Arc<Shared>, mut messages: mpsc::Receiver<Message>) {
    let mut writer = Writer { backend, shared, failure: None };
    while let Some(first) = messages.blocking_recv() {
        writer.try_to_go_on();
        let mut batch = Batch::new(&writer.shared.snapshot(), writer.shared.limits.bytes);
        let mut rewrite = None;
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Write(request) => batch.apply(request),
                Message::Rewrite(done) => rewrite = Some(done),
            }
            if batch.answers.len() >= BATCH_REQUESTS || batch.bytes >= BATCH_BYTES || rewrite.is_some() {
                break;
            }
            next = messages.try_recv().ok();
        }
        writer.finish(batch);
        if let Some(done) = rewrite {
            writer.rewrite(done);
        }
    }
}

struct Writer {
    backend: Box<dyn Backend>,
    shared: Arc<Shared>,
    failure: Option<Failure>,
}

/// What keeps the writer from writing.
struct Failure {
    error: Error,
    try_at: Instant,
    pause: Duration,
}

impl Writer {
    fn finish(&mut self, batch: Batch) {
        let Batch { publication, changes, answers, .. } = batch;
        if changes.is_empty() {
            return answer(answers);
        }
        if let Some(failure) = &self.failure {
            return fail(answers, &failure.error);
        }
        match self.backend.commit(&publication.snapshot, &changes) {
            Ok(()) => {
                publication.publish(&self.shared);
                answer(answers);
            }
            Err(error) => {
                let error = error.or_full();
                tracing::error!(error = &error as &dyn std::error::Error, "the store cannot commit");
                fail(answers, &error);
                self.failure = Some(Failure { error, try_at: Instant::now(), pause: PAUSE });
            }
        }
    }

    fn rewrite(&mut self, done: Done) {
        match &self.failure {
            Some(failure) => done(Err(failure.error.clone())),
            None => self.backend.rewrite(&self.shared.snapshot(), done),
        }
    }

    /// After a failed commit, tries whether commits are taken again, not too often.
    fn try_to_go_on(&mut self) {
        let Some(failure) = &mut self.failure else { return };
        if failure.try_at > Instant::now() {
            return;
        }
        if let Err(error) = self.backend.recover() {
            tracing::warn!(error = &error as &dyn std::error::Error, "the store cannot go on yet");
            failure.try_at = Instant::now() + failure.pause;
            failure.pause = (failure.pause * 2).min(LONGEST_PAUSE);
            return;
        }
        tracing::info!("the store takes writes again");
        self.failure = None;
    }
}

type Answer = (oneshot::Sender<Result<Entry, Error>>, Result<Entry, Error>);

struct Batch {
    publication: Publication,
    changes: Vec<Change>,
    answers: Vec<Answer>,
    bytes: usize,
    limit: u64,
}

impl Batch {
    fn new(current: &Snapshot, limit: u64) -> Batch {
        Batch {
            publication: Publication::new(current),
            changes: Vec::new(),
            answers: Vec::new(),
            bytes: 0,
            limit,
        }
    }

    fn apply(&mut self, request: Request) {
        let result = self.change(&request.key, &request.operation);
        self.answers.push((request.answer, result));
    }

    fn change(&mut self, key: &Key, operation: &Operation) -> Result<Entry, Error> {
        let snapshot = &self.publication.snapshot;
        let current = snapshot.get(key.resource(), key.name()).cloned();
        let revision = snapshot.revision() + 1;
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
        let kept = (kind != EventKind::Deleted).then(|| entry.clone());
        if let Some(entry) = &kept {
            let before = previous.as_ref().map_or(0, |entry| cost(key, entry));
            let growth = cost(key, entry).saturating_sub(before);
            if growth > 0 && snapshot.bytes() + growth > self.limit {
                return Err(Error::SpaceExceeded { limit: self.limit });
            }
        }
        self.bytes += entry.json().len();
        self.changes.push(Change { key: key.clone(), entry: kept });
        self.publication.change(key, kind, entry.clone(), previous);
        Ok(entry)
    }
}

fn answer(answers: Vec<Answer>) {
    for (answer, result) in answers {
        let _ = answer.send(result);
    }
}

fn fail(answers: Vec<Answer>, error: &Error) {
    for (answer, result) in answers {
        let _ = answer.send(result.and_then(|_| Err(error.clone())));
    }
}
