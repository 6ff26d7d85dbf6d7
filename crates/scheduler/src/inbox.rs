//! One kind's watch as a stream of changes.

use std::pin::Pin;

use futures_util::{FutureExt as _, Stream, StreamExt as _};
use kube::runtime::watcher::{self, Event};

use crate::error::{Error, Result};

/// A change of one kind's objects.
pub(crate) enum Change<K> {
    Apply(K),
    Delete(K),
    /// A whole list begins: what it does not bring is gone.
    ListBegins,
    ListEnds,
}

/// One kind's watch.
pub(crate) struct Inbox<K> {
    kind: &'static str,
    events: Pin<Box<dyn Stream<Item = watcher::Result<Event<K>>> + Send>>,
}

impl<K> Inbox<K> {
    pub(crate) fn new(
        kind: &'static str,
        events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    ) -> Inbox<K> {
        Inbox { kind, events: Box::pin(events) }
    }

    /// The next change.
    pub(crate) async fn receive(&mut self) -> Result<Change<K>> {
        loop {
            let event = self.events.next().await.ok_or(Error::WatchEnded { kind: self.kind })?;
            if let Some(change) = self.read(event) {
                return Ok(change);
            }
        }
    }

    /// The next change, if it has arrived.
    pub(crate) fn receive_waiting(&mut self) -> Result<Option<Change<K>>> {
        while let Some(event) = self.events.next().now_or_never() {
            let event = event.ok_or(Error::WatchEnded { kind: self.kind })?;
            if let Some(change) = self.read(event) {
                return Ok(Some(change));
            }
        }
        Ok(None)
    }

    fn read(&self, event: watcher::Result<Event<K>>) -> Option<Change<K>> {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => Some(Change::Apply(object)),
            Ok(Event::Delete(object)) => Some(Change::Delete(object)),
            Ok(Event::Init) => Some(Change::ListBegins),
            Ok(Event::InitDone) => Some(Change::ListEnds),
            // The stream tries again by itself, with growing pauses.
            Err(error) => {
                tracing::warn!(kind = self.kind, %error, "watching failed");
                None
            }
        }
    }
}
