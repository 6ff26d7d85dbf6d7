//! What is told of a transfer while it goes on.

use dray_image::Digest;
use tokio::sync::mpsc;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A pull has begun: the tag or digest, and the repository within its registry.
    Pulling {
        /// The tag or digest.
        what: String,
        /// The repository.
        repository: String,
    },
    /// A layer has come a step further.
    Layer {
        /// The first twelve digits of its digest.
        id: String,
        /// The step.
        step: Step,
    },
    /// The digest of what was pulled.
    Digest(Digest),
}

/// How far a layer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is known that it is needed.
    Needed,
    /// It waits for its turn.
    Waiting,
    /// It is in the store already.
    Exists,
    /// So many bytes of so many have come.
    Downloading(u64, u64),
    /// The source broke off; it is asked again in so many seconds.
    Retrying(u64),
    /// All has come and is being checked.
    Verifying,
    /// It has come and is right.
    Downloaded,
    /// It is being unpacked, so many bytes of so many.
    Extracting(u64, u64),
    /// It is where images find it.
    Pulled,
    /// It is being made ready for the way.
    Preparing,
    /// So many bytes of so many have gone.
    Pushing(u64, u64),
    /// The registry has it now.
    Pushed,
    /// The registry had it.
    PushExists,
    /// The registry had it in this repository, and has it in another now.
    Mounted(String),
}

/// Where events go. Nobody needs to listen, but when whoever did has gone the transfer ends.
#[derive(Clone, Debug)]
pub struct Events {
    sender: Option<mpsc::Sender<Event>>,
}

impl Events {
    /// To a channel.
    #[must_use]
    pub fn to(sender: mpsc::Sender<Event>) -> Self {
        Self { sender: Some(sender) }
    }

    /// To nobody.
    #[must_use]
    pub fn ignored() -> Self {
        Self { sender: None }
    }

    pub(crate) async fn tell(&self, event: Event) {
        if let Some(sender) = &self.sender {
            let _ = sender.send(event).await;
        }
    }

    pub(crate) async fn layer(&self, id: &str, step: Step) {
        self.tell(Event::Layer { id: id.to_owned(), step }).await;
    }

    /// Tells of progress, unless the listener has not yet taken what was told before.
    pub(crate) fn progress(&self, id: &str, step: Step) {
        if let Some(sender) = &self.sender {
            let _ = sender.try_send(Event::Layer { id: id.to_owned(), step });
        }
    }

    /// Waits until nobody listens any more.
    pub(crate) async fn abandoned(&self) {
        match &self.sender {
            Some(sender) => sender.closed().await,
            None => std::future::pending().await,
        }
    }
}
