//! The public face: reads from the snapshot, writes through the writer, watches.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Backend, Draft, Embedded, Encryption, Entry, Error, Key, Snapshot, Watcher,
    history::History,
    writer::{self, Message, Operation, Request},
};

/// Bounds on what the store keeps.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Events kept for each resource.
    pub history_events: usize,
    /// Bytes of values kept in the events of each resource.
    pub history_bytes: usize,
    /// Writes that may wait for the writer.
    pub queue: usize,
    /// The bytes of all live keys and values together. What would make them more is refused; deletes, and values that
    /// are no larger than those they replace, are always taken.
    pub bytes: u64,
    /// Bytes of commits that the embedded store keeps beside its last picture, if all values together are not more.
    pub log_bytes: u64,
}

/// As much as the reference's etcd holds unless it is told otherwise.
const BYTES: u64 = 2 * 1024 * 1024 * 1024;
const LOG_BYTES: u64 = 64 * 1024 * 1024;

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            history_events: 10_000,
            history_bytes: 16 * 1024 * 1024,
            queue: 1024,
            bytes: BYTES,
            log_bytes: LOG_BYTES,
        }
    }
}

pub(crate) struct Shared {
    snapshot: RwLock<Arc<Snapshot>>,
    histories: RwLock<HashMap<Arc<str>, Arc<History>>>,
    /// The revision from which on all events are known.
    recovered: AtomicU64,
    pub(crate) limits: Limits,
}

impl Shared {
    pub(crate) fn new(snapshot: Snapshot, limits: Limits) -> Shared {
        Shared {
            recovered: AtomicU64::new(snapshot.revision()),
            snapshot: RwLock::new(Arc::new(snapshot)),
            histories: RwLock::default(),
            limits,
        }
    }

    /// Shows a picture whose way from the one before is not known.
    pub(crate) fn restart(&self, snapshot: Snapshot) {
        let revision = snapshot.revision();
        // No history is made meanwhile that would go back to before.
        let histories = self.histories.write();
        self.recovered.store(revision, Ordering::SeqCst);
        for history in histories.values() {
            history.forget(revision);
        }
        self.set_snapshot(Arc::new(snapshot));
        for history in histories.values() {
            history.announce(revision);
        }
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.read().clone()
    }

    pub(crate) fn set_snapshot(&self, snapshot: Arc<Snapshot>) {
        *self.snapshot.write() = snapshot;
    }

    pub(crate) fn history(&self, resource: &str) -> Arc<History> {
        if let Some(history) = self.histories.read().get(resource) {
            return history.clone();
        }
        let mut histories = self.histories.write();
        histories
            .entry(resource.into())
            .or_insert_with(|| Arc::new(History::new(self.recovered.load(Ordering::SeqCst), self.limits)))
            .clone()
    }
}

/// The store. Cheap to clone; the writer ends, and the directory is free again, when the last is dropped
/// or after [`Store::close`].
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Message>,
    writer: Arc<Mutex<Option<thread::JoinHandle<()>>>>,
}

impl Store {
    /// Opens or makes the embedded store in `path`.
    ///
    /// # Errors
    /// `Locked`, `Format`, `Damaged`, `Io`.
    pub fn open(path: &Path, limits: Limits) -> Result<Store, Error> {
        Store::open_sealed(path, limits, Encryption::default())
    }

    /// Opens or makes the embedded store in `path`, whose values lie on the disk as `encryption` says. Where some lie there in
    /// another way, all are written anew, beside what else is done.
    ///
    /// # Errors
    /// Those of [`Store::open`], and `Sealed`.
    pub fn open_sealed(path: &Path, limits: Limits, encryption: Encryption) -> Result<Store, Error> {
        Store::with_backend(Box::new(Embedded::open(path, limits.log_bytes, encryption)?), limits)
    }

    /// A store over any backend.
    ///
    /// # Errors
    /// Those of the backend's load.
    pub fn with_backend(mut backend: Box<dyn Backend>, limits: Limits) -> Result<Store, Error> {
        let mut snapshot = Snapshot::default();
        let loaded = backend.load(&mut |key, entry| snapshot.set(&key, entry))?;
        snapshot.set_revision(loaded.revision);
        let shared = Arc::new(Shared::new(snapshot, limits));
        let (requests, receiver) = mpsc::channel(limits.queue);
        let writer = thread::Builder::new()
            .name("store-writer".into())
            .spawn({
                let shared = shared.clone();
                move || writer::run(backend, shared, receiver)
            })
            .map_err(|_| Error::Closed)?;
        if loaded.rewrite {
            let done = |outcome: Result<(), Error>| match outcome {
                Ok(()) => tracing::info!("all values were written anew by the first provider"),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot write all values anew");
                }
            };
            // Nobody else has the queue yet.
            let _ = requests.try_send(Message::Rewrite(Box::new(done)));
        }
        Ok(Store::of(shared, requests, writer))
    }

    /// The handle of what a thread writes.
    pub(crate) fn of(
        shared: Arc<Shared>,
        requests: mpsc::Sender<Message>,
        writer: thread::JoinHandle<()>,
    ) -> Store {
        Store { shared, requests, writer: Arc::new(Mutex::new(Some(writer))) }
    }

    /// Whether the store still takes writes.
    pub fn is_open(&self) -> bool {
        !self.requests.is_closed()
    }

    /// The newest picture.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot()
    }

    /// The value under a key in the newest picture.
    pub fn get(&self, key: &Key) -> Option<Entry> {
        self.snapshot().get(key.resource(), key.name()).cloned()
    }

    /// Stores a value under a free key. Durable when it returns.
    ///
    /// # Errors
    /// `Exists`, `SpaceExceeded`, `Full`, `Commit`, `Closed`. After `Full` and `Commit` the value is not there.
    pub async fn create(&self, key: Key, draft: Draft) -> Result<Entry, Error> {
        self.write(key, Operation::Create { draft }).await
    }

    /// Replaces the value that is at revision `expected`. Durable when it returns.
    ///
    /// # Errors
    /// `NotFound`, `Conflict`, and those of [`Store::create`].
    pub async fn update(&self, key: Key, draft: Draft, expected: u64) -> Result<Entry, Error> {
        self.write(key, Operation::Update { draft, expected }).await
    }

    /// Deletes a value, if it is at revision `expected` where one is given. `last` is what the delete
    /// event shows instead of the value as stored. Returns the last value at the revision of the delete.
    ///
    /// # Errors
    /// `NotFound`, `Conflict`, `Full`, `Commit`, `Closed`.
    pub async fn delete(&self, key: Key, expected: Option<u64>, last: Option<Draft>) -> Result<Entry, Error> {
        self.write(key, Operation::Delete { expected, last }).await
    }

    /// Follows the changes after a revision of the names of `resource` that begin with `prefix`.
    ///
    /// # Errors
    /// `Expired`.
    pub fn watch(&self, resource: &str, prefix: &str, after: u64) -> Result<Watcher, Error> {
        self.shared.history(resource).follow(prefix, after)
    }

    /// The newest picture and a watcher that goes on from it.
    ///
    /// # Errors
    /// `Expired` when the history is so short that it was overrun in between.
    pub fn snapshot_and_watch(
        &self,
        resource: &str,
        prefix: &str,
    ) -> Result<(Arc<Snapshot>, Watcher), Error> {
        // The history must exist before the picture is taken, or a change in between would be lost.
        let history = self.shared.history(resource);
        let snapshot = self.snapshot();
        let watcher = history.follow(prefix, snapshot.revision())?;
        Ok((snapshot, watcher))
    }

    /// Writes everything that is stored anew and gives up the files before: room that deleted values take comes back, and
    /// every value is sealed by the first provider. Other writes and reads go on meanwhile.
    ///
    /// # Errors
    /// What the disk said; then everything is as it was.
    pub async fn rewrite(&self) -> Result<(), Error> {
        let (answer, result) = oneshot::channel();
        let done = Box::new(move |outcome| drop(answer.send(outcome)));
        self.requests.send(Message::Rewrite(done)).await.map_err(|_| Error::Closed)?;
        result.await.map_err(|_| Error::Closed)?
    }

    async fn write(&self, key: Key, operation: Operation) -> Result<Entry, Error> {
        let (answer, result) = oneshot::channel();
        let request = Message::Write(Request { key, operation, answer });
        self.requests.send(request).await.map_err(|_| Error::Closed)?;
        result.await.map_err(|_| Error::Closed)?
    }

    /// Gives up this handle; when it is the last one, waits until the writer has ended. Blocks.
    pub fn close(self) {
        let Store { requests, writer, shared: _ } = self;
        drop(requests);
        if let Some(writer) = Arc::into_inner(writer).and_then(|writer| writer.into_inner()) {
            let _ = writer.join();
        }
    }
}
