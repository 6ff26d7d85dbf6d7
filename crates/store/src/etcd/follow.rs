//! The picture: read whole at the start, and then followed by one watch.

use std::{sync::Arc, time::Duration};

use super::{
    CALL, Core, PAUSE,
    client::Failure,
    messages::{
        CompactionRequest, CompactionResponse, DELETE, Event, RangeRequest, RangeResponse,
        WatchCreateRequest, WatchRequest, WatchResponse,
    },
};
use crate::{Draft, Entry, Error, EventKind, Snapshot, publication::Publication};

/// Keys that are read at once.
const PAGE: i64 = 500;
/// What is older than this is given up in etcd: as long as the reference keeps it.
const KEPT: Duration = Duration::from_secs(300);

/// Why the following ended.
enum Ended {
    /// The connection, or the member.
    Lost(Failure),
    /// What would come next has been given up: everything is to be read anew.
    TooOld,
}

impl Core {
    /// All keys at one revision.
    pub(super) async fn load(&self) -> Result<Snapshot, Error> {
        let (mut start, end) = self.range();
        let mut snapshot = Snapshot::default();
        let mut revision = 0;
        loop {
            let request = RangeRequest { key: start, range_end: end.clone(), limit: PAGE, revision };
            let page: RangeResponse = self.client.call("/etcdserverpb.KV/Range", &request, CALL).await?;
            if revision == 0 {
                revision = page.header.as_ref().map_or(0, |header| header.revision);
            }
            for kv in &page.kvs {
                let key = self.key(&kv.key).ok_or_else(|| Error::Damaged {
                    path: String::from_utf8_lossy(&kv.key).into_owned().into(),
                    what: "etcd has a key that no object has".into(),
                })?;
                snapshot.insert(&key, self.decode(&key, &kv.value)?.stamp(unsigned(kv.mod_revision)));
            }
            let Some(last) = page.kvs.last().filter(|_| page.more) else { break };
            start = [&last.key[..], &[0]].concat();
        }
        snapshot.set_revision(unsigned(revision));
        Ok(snapshot)
    }

    /// Shows a picture whose way from the one before is not known: who follows is told to list again.
    pub(super) fn show_anew(&self, snapshot: Snapshot) {
        let revision = snapshot.revision();
        self.shared.restart(snapshot);
        self.seen.send_replace(revision);
    }

    /// The first key and the first behind all keys.
    fn range(&self) -> (Vec<u8>, Vec<u8>) {
        (format!("{}/", self.prefix).into_bytes(), format!("{}0", self.prefix).into_bytes())
    }

    /// Follows from the picture on, until that ends.
    async fn watch(&self) -> Result<Ended, Error> {
        let (key, range_end) = self.range();
        let start_revision = self.seen.borrow().saturating_add(1) as i64;
        let create = WatchCreateRequest { key, range_end, start_revision, progress_notify: true };
        let question = WatchRequest { create: Some(create) };
        let conversation = self.client.converse::<WatchResponse>("/etcdserverpb.Watch/Watch", &question);
        let (_open, mut answers) = match conversation.await {
            Ok(conversation) => conversation,
            Err(failure) => return Ok(Ended::Lost(failure)),
        };
        loop {
            let answer = match answers.next().await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Ok(Ended::Lost(Failure::Unknown("the watch ended".into()))),
                Err(failure) => return Ok(Ended::Lost(failure)),
            };
            if answer.compact_revision != 0 {
                return Ok(Ended::TooOld);
            }
            if answer.canceled {
                return Ok(Ended::Lost(Failure::Unknown(answer.cancel_reason)));
            }
            self.take_in(&answer)?;
        }
    }

    fn take_in(&self, answer: &WatchResponse) -> Result<(), Error> {
        let current = self.shared.snapshot();
        let mut publication = Publication::new(&current);
        for Event { kind, kv } in &answer.events {
            let Some(kv) = kv else { continue };
            let revision = unsigned(kv.mod_revision);
            let Some(key) = self.key(&kv.key).filter(|_| revision > current.revision()) else { continue };
            let previous = publication.snapshot.get(key.resource(), key.name()).cloned();
            if *kind != DELETE {
                let kind = if previous.is_some() { EventKind::Modified } else { EventKind::Added };
                let entry = self.decode(&key, &kv.value)?.stamp(revision);
                publication.change(&key, kind, entry, previous);
            } else if let Some(last) = previous {
                publication.change(&key, EventKind::Deleted, last.restamp(revision), Some(last));
            }
        }
        // That a watch has been created says nothing about what it has sent; an answer without events does.
        let revision = answer.header.as_ref().map_or(0, |header| unsigned(header.revision));
        if answer.events.is_empty() && !answer.created && revision > current.revision() {
            publication.snapshot.set_revision(revision);
        }
        let revision = publication.snapshot.revision();
        if revision > current.revision() {
            publication.publish(&self.shared);
            self.seen.send_replace(revision);
        }
        Ok(())
    }

    /// Writes every value again as it is, sealed by the first provider.
    ///
    /// # Errors
    /// `Unavailable`, `SpaceExceeded`; then some of them are written.
    pub(super) async fn rewrite(&self) -> Result<(), Error> {
        let snapshot = self.shared.snapshot();
        for (key, entry) in snapshot.all() {
            if !self.encryption.is_about(&key) {
                continue;
            }
            match self.replace(&key, &Draft::of(entry), entry.revision()).await {
                // Whoever changed it meanwhile has written it by the first provider.
                Ok(_) | Err(Error::Conflict { .. } | Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The value under a key, from etcd itself.
    pub(super) fn found(
        &self,
        key: &crate::Key,
        range: Option<&RangeResponse>,
    ) -> Result<Option<Entry>, Error> {
        let Some(kv) = range.and_then(|range| range.kvs.first()) else { return Ok(None) };
        Ok(Some(self.decode(key, &kv.value)?.stamp(unsigned(kv.mod_revision))))
    }
}

/// etcd counts with signs, and never below zero.
pub(super) fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or_default()
}

/// Keeps the picture as etcd has it, for ever.
pub(super) async fn follow(core: Arc<Core>) {
    loop {
        match core.watch().await {
            Ok(Ended::Lost(failure)) => {
                tracing::warn!(%failure, "lost etcd; reads go on from what is known");
                core.client.leave().await;
            }
            Ok(Ended::TooOld) => match core.load().await {
                Ok(snapshot) => core.show_anew(snapshot),
                Err(error) => tracing::warn!(%error, "cannot read etcd anew"),
            },
            Err(error) => tracing::error!(%error, "etcd has what cannot be read"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Gives up the history that nobody may ask for any more. Every server does; the second finds it done.
pub(super) async fn compact(core: Arc<Core>) {
    let mut before = 0;
    loop {
        tokio::time::sleep(KEPT).await;
        if before > 0 {
            let request = CompactionRequest { revision: before };
            let done =
                core.client.call::<CompactionResponse>("/etcdserverpb.KV/Compact", &request, CALL).await;
            if let Err(failure) = done {
                tracing::debug!(%failure, "etcd did not compact");
            }
        }
        before = *core.seen.borrow() as i64;
    }
}
