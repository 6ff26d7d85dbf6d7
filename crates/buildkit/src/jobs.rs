//! Builds that run, and what their clients return to them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::grpc::{Code, Status};
use crate::proto::gateway::ReturnRequest;
use crate::record::Record;

/// How long a client that asks about a build waits for it: it asks for all at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// Builds that have just ended and are still known: their clients ask about them on several streams at once.
const RECENT: usize = 64;
/// The longest name of a build.
const LONGEST_NAME: usize = 256;

/// A build that runs.
pub(crate) struct Job {
    pub(crate) reference: String,
    /// The session of who asked for it.
    pub(crate) session: String,
    pub(crate) entitlements: Vec<String>,
    pub(crate) inline_cache: bool,
    pub(crate) record: Arc<Record>,
    /// Ends the build.
    pub(crate) cancel: CancellationToken,
    /// Where what the client makes of the build goes.
    returns: Mutex<Option<oneshot::Sender<ReturnRequest>>>,
}

impl Job {
    /// Takes what the client has made of the build; only the first counts.
    pub(crate) fn give_back(&self, request: ReturnRequest) {
        if let Some(sender) = self.returns.lock().take() {
            // The build may have been cancelled.
            let _ = sender.send(request);
        }
    }
}

/// The builds that run.
#[derive(Clone)]
pub(crate) struct Jobs {
    known: Arc<Mutex<Known>>,
    changed: Arc<watch::Sender<()>>,
}

#[derive(Default)]
struct Known {
    running: HashMap<String, Arc<Job>>,
    recent: VecDeque<Arc<Job>>,
}

/// A build, until this is dropped.
pub(crate) struct Running {
    pub(crate) job: Arc<Job>,
    jobs: Jobs,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.job.record.complete();
        let mut known = self.jobs.known.lock();
        if let Some(job) = known.running.remove(&self.job.reference) {
            known.recent.push_back(job);
            if known.recent.len() > RECENT {
                known.recent.pop_front();
            }
        }
    }
}

impl Jobs {
    pub(crate) fn new() -> Self {
        Self { known: Arc::default(), changed: Arc::new(watch::Sender::new(())) }
    }

    /// Begins a build.
    ///
    /// # Errors
    /// When one of this name runs.
    pub(crate) fn begin(
        &self,
        reference: &str,
        session: &str,
        entitlements: Vec<String>,
        inline_cache: bool,
    ) -> Result<(Running, oneshot::Receiver<ReturnRequest>), Status> {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        let is_proper = !reference.is_empty()
            && reference.len() <= LONGEST_NAME
            && !reference.starts_with('.')
            && reference.chars().all(plain);
        if !is_proper {
            return Err(Status::invalid(format!("{reference:?} cannot be the name of a build")));
        }
        let (sender, returned) = oneshot::channel();
        let job = Arc::new(Job {
            reference: reference.to_owned(),
            session: session.to_owned(),
            entitlements,
            inline_cache,
            record: Arc::new(Record::new()),
            cancel: CancellationToken::new(),
            returns: Mutex::new(Some(sender)),
        });
        {
            let mut known = self.known.lock();
            if known.running.contains_key(reference) {
                return Err(Status::new(Code::AlreadyExists, format!("job ID {reference} exists")));
            }
            known.running.insert(reference.to_owned(), Arc::clone(&job));
        }
        self.changed.send_replace(());
        Ok((Running { job, jobs: self.clone() }, returned))
    }

    /// A build that runs, or has just ended.
    pub(crate) fn get(&self, reference: &str) -> Option<Arc<Job>> {
        let known = self.known.lock();
        let recent = || known.recent.iter().rfind(|job| job.reference == reference);
        known.running.get(reference).or_else(recent).map(Arc::clone)
    }

    /// A build that runs, is about to, or has just ended.
    pub(crate) async fn find(&self, reference: &str) -> Result<Arc<Job>, Status> {
        let mut changed = self.changed.subscribe();
        let found = async {
            loop {
                if let Some(job) = self.get(reference) {
                    return Some(job);
                }
                changed.changed().await.ok()?;
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await.ok().flatten();
        found.ok_or_else(|| Status::new(Code::NotFound, format!("no such job {reference}")))
    }

    /// All that run.
    pub(crate) fn all(&self) -> Vec<Arc<Job>> {
        self.known.lock().running.values().map(Arc::clone).collect()
    }
}
