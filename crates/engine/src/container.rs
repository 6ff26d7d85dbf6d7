//! A container in memory: its record, who may change it, and who waits for it.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};

use crate::record::{ContainerRecord, Status};
use crate::shim_client::AttachOptions;
use crate::{Id, Result};

/// What waiters look at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// How often the process has ended since the daemon started.
    pub(crate) exits: u64,
    pub(crate) status: Status,
    pub(crate) removed: bool,
    pub(crate) exit_code: u8,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitCondition {
    /// That it does not run.
    NotRunning,
    /// That it ends once more.
    NextExit,
    /// That it is removed.
    Removed,
}

/// How a wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitResult {
    /// The exit code.
    pub exit_code: u8,
}

/// A client that joined before the process was there.
pub(crate) struct PendingAttach {
    pub(crate) options: AttachOptions,
    pub(crate) answer: oneshot::Sender<Result<UnixStream>>,
}

/// A container of the engine, shared by all who work on it.
pub struct ContainerHandle {
    pub(crate) id: Id,
    record: Mutex<Arc<ContainerRecord>>,
    /// Held while the container is started, stopped or removed: one at a time.
    pub(crate) operation: tokio::sync::Mutex<()>,
    pub(crate) observed: watch::Sender<Observed>,
    /// Whether its directory is there; held while that is written to or removed.
    pub(crate) on_disk: Mutex<bool>,
    pub(crate) pending_attaches: Mutex<Vec<PendingAttach>>,
    /// Counts the starts, so that a late restart can tell that it is no longer wanted.
    pub(crate) generation: std::sync::atomic::AtomicU64,
}

impl ContainerHandle {
    pub(crate) fn new(record: ContainerRecord) -> Arc<Self> {
        let observed = Observed {
            status: record.state.status,
            exit_code: record.state.exit_code,
            ..Observed::default()
        };
        Arc::new(Self {
            id: record.id.clone(),
            record: Mutex::new(Arc::new(record)),
            operation: tokio::sync::Mutex::new(()),
            observed: watch::channel(observed).0,
            on_disk: Mutex::new(true),
            pending_attaches: Mutex::new(Vec::new()),
            generation: std::sync::atomic::AtomicU64::new(0),
        })
    }

    /// The record as it is now.
    #[must_use]
    pub fn record(&self) -> Arc<ContainerRecord> {
        Arc::clone(&self.record.lock())
    }

    /// Changes the record in memory and tells the waiters.
    pub(crate) fn update(&self, change: impl FnOnce(&mut ContainerRecord)) -> Arc<ContainerRecord> {
        let updated = {
            let mut record = self.record.lock();
            change(Arc::make_mut(&mut record));
            Arc::clone(&record)
        };
        self.observed.send_modify(|observed| {
            observed.status = updated.state.status;
            observed.exit_code = updated.state.exit_code;
        });
        updated
    }

    /// Whether it has been removed.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.observed.borrow().removed
    }

    pub(crate) fn is_running(&self) -> bool {
        self.record().state.status == Status::Running
    }

    /// Waits until `condition` holds.
    pub async fn wait(&self, condition: WaitCondition) -> WaitResult {
        let mut receiver = self.observed.subscribe();
        let exits = receiver.borrow().exits;
        let holds = |observed: &Observed| match condition {
            WaitCondition::NotRunning => {
                // One that is to be started again has ended all the same.
                observed.removed
                    || observed.exits > exits
                    || !matches!(observed.status, Status::Running | Status::Restarting)
            }
            WaitCondition::NextExit => observed.removed || observed.exits > exits,
            WaitCondition::Removed => observed.removed,
        };
        match receiver.wait_for(holds).await {
            Ok(observed) => WaitResult { exit_code: observed.exit_code },
            // The sender lives in `self`, so this does not happen.
            Err(_) => WaitResult { exit_code: 0 },
        }
    }
}
