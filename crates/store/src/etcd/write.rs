//! Writes: one transaction each, which compares the key's last revision.

use std::time::Duration;

use super::{
    CALL, Core,
    follow::unsigned,
    messages::{
        Compare, DeleteRangeRequest, MOD_REVISION, PutRequest, RangeRequest, Request, RequestOp, TxnRequest,
        TxnResponse,
    },
    unavailable,
};
use crate::{Draft, Entry, Error, Key, writer::Operation};

/// How long the picture may take to have what etcd has taken.
const SEEN: Duration = Duration::from_secs(10);
/// Deletes of whatever is there, which somebody else changes again and again.
const ATTEMPTS: usize = 16;

/// What a transaction came to.
enum Outcome {
    /// `was` is what it read before.
    Done { revision: u64, was: Option<Entry> },
    /// The key has another value, or none.
    Other(Option<Entry>),
}

impl Core {
    pub(super) async fn write(&self, key: &Key, operation: Operation) -> Result<Entry, Error> {
        match operation {
            Operation::Create { draft } => match self.put(key, &draft, 0).await? {
                Outcome::Done { revision, .. } => self.shown(draft.stamp(revision)).await,
                Outcome::Other(_) => Err(Error::Exists { key: key.to_string() }),
            },
            Operation::Update { draft, expected } => self.replace(key, &draft, expected).await,
            Operation::Delete { expected, last: _ } => self.delete(key, expected).await,
        }
    }

    /// Replaces the value at a revision.
    pub(super) async fn replace(&self, key: &Key, draft: &Draft, expected: u64) -> Result<Entry, Error> {
        // No value has revision 0: that would be a create.
        let outcome = if expected == 0 {
            Outcome::Other(self.shared.snapshot().get(key.resource(), key.name()).cloned())
        } else {
            self.put(key, draft, expected).await?
        };
        match outcome {
            Outcome::Done { revision, .. } => self.shown(draft.stamp(revision)).await,
            Outcome::Other(current) => Err(differs(key, current, expected)),
        }
    }

    /// All servers see a delete with the value that was deleted.
    async fn delete(&self, key: &Key, expected: Option<u64>) -> Result<Entry, Error> {
        let mut current = self.shared.snapshot().get(key.resource(), key.name()).map(Entry::revision);
        for _ in 0..ATTEMPTS {
            // No value has revision 0: that would be found where nothing is.
            let compared = expected.or(current).unwrap_or_default().max(1);
            let delete = Request::Delete(DeleteRangeRequest { key: self.etcd_key(key) });
            match self.transact(key, compared, vec![self.read(key), delete]).await? {
                Outcome::Done { revision, was: Some(was) } => return self.shown(was.restamp(revision)).await,
                Outcome::Done { .. } | Outcome::Other(None) => {
                    return Err(Error::NotFound { key: key.to_string() });
                }
                Outcome::Other(Some(found)) => match expected {
                    Some(expected) => return Err(differs(key, Some(found), expected)),
                    None => current = Some(found.revision()),
                },
            }
        }
        Err(unavailable(format!("{key} changes too fast to be deleted")))
    }

    fn read(&self, key: &Key) -> Request {
        let key = self.etcd_key(key);
        Request::Range(RangeRequest { key, range_end: Vec::new(), limit: 1, revision: 0 })
    }

    async fn put(&self, key: &Key, draft: &Draft, expected: u64) -> Result<Outcome, Error> {
        let value = self.encode(key, draft)?;
        let put = Request::Put(PutRequest { key: self.etcd_key(key), value });
        self.transact(key, expected, vec![put]).await
    }

    async fn transact(&self, key: &Key, expected: u64, then: Vec<Request>) -> Result<Outcome, Error> {
        let compare = Compare {
            target: MOD_REVISION,
            key: self.etcd_key(key),
            mod_revision: Some(i64::try_from(expected).unwrap_or(i64::MAX)),
        };
        let operations = |requests: Vec<Request>| {
            requests.into_iter().map(|request| RequestOp { request: Some(request) }).collect()
        };
        let request = TxnRequest {
            compare: vec![compare],
            success: operations(then),
            failure: operations(vec![self.read(key)]),
        };
        let answer: TxnResponse = self.client.call("/etcdserverpb.KV/Txn", &request, CALL).await?;
        let range = answer.responses.first().and_then(|response| response.range.as_ref());
        let found = self.found(key, range)?;
        if answer.succeeded {
            let revision = answer.header.as_ref().map_or(0, |header| unsigned(header.revision));
            return Ok(Outcome::Done { revision, was: found });
        }
        // Who is told of another value looks at this server's picture next.
        if let Some(found) = &found {
            self.wait_for(found.revision()).await?;
        }
        Ok(Outcome::Other(found))
    }

    /// Waits until readers here see a write.
    async fn shown(&self, entry: Entry) -> Result<Entry, Error> {
        self.wait_for(entry.revision()).await?;
        Ok(entry)
    }

    async fn wait_for(&self, revision: u64) -> Result<(), Error> {
        let mut seen = self.seen.subscribe();
        let waited = tokio::time::timeout(SEEN, seen.wait_for(|seen| *seen >= revision)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => Err(unavailable(format!("revision {revision} is in etcd and was not seen here"))),
        }
    }
}

fn differs(key: &Key, current: Option<Entry>, expected: u64) -> Error {
    match current {
        Some(current) => Error::Conflict { key: key.to_string(), expected, current },
        None => Error::NotFound { key: key.to_string() },
    }
}
