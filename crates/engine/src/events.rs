//! What happened: a bounded history and a stream for everyone who listens.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::broadcast;

/// Events kept for listeners who ask for the past, as many as Docker keeps.
const HISTORY: usize = 256;
/// Events a slow listener may be behind before it loses the oldest.
const BACKLOG: usize = 1024;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A network.
    Network,
    /// A volume.
    Volume,
}

impl EventKind {
    /// Docker's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// What it is about.
    pub kind: EventKind,
    /// What happened: `create`, `start`, `die`, …
    pub action: String,
    /// Whom it happened to: an id or a name.
    pub actor: String,
    /// More, by name.
    pub attributes: BTreeMap<String, String>,
    /// When.
    pub time: Timestamp,
}

/// Which of the past to begin with.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventFilter {
    /// Nothing before.
    pub since: Option<Timestamp>,
    /// Nothing after.
    pub until: Option<Timestamp>,
}

pub(crate) struct Events {
    history: Mutex<VecDeque<Arc<Event>>>,
    sender: broadcast::Sender<Arc<Event>>,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self { history: Mutex::new(VecDeque::with_capacity(HISTORY)), sender: broadcast::channel(BACKLOG).0 }
    }

    pub(crate) fn publish(
        &self,
        kind: EventKind,
        action: impl Into<String>,
        actor: impl Into<String>,
        attributes: BTreeMap<String, String>,
    ) {
        let event = Arc::new(Event {
            kind,
            action: action.into(),
            actor: actor.into(),
            attributes,
            time: Timestamp::now(),
        });
        let mut history = self.history.lock();
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(Arc::clone(&event));
        // Sent under the lock, so that a new listener sees every event exactly once. Nobody listening is no error.
        let _ = self.sender.send(event);
    }

    /// The events of the past that fit, and a receiver for all that follow.
    pub(crate) fn subscribe(
        &self,
        filter: EventFilter,
    ) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let history = self.history.lock();
        let past = match (filter.since, filter.until) {
            (None, None) => Vec::new(),
            (since, until) => history
                .iter()
                .filter(|event| {
                    since.is_none_or(|t| event.time >= t) && until.is_none_or(|t| event.time <= t)
                })
                .cloned()
                .collect(),
        };
        (past, self.sender.subscribe())
    }
}
