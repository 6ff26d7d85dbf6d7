//! Tokens by which nodes join: when their time is over, they are deleted.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, PartialObjectMeta, Preconditions};
use kube::{Api, Client};

use crate::error::{Error, Result};
use crate::informer::{Change, Informer};
use crate::key::ObjectKey;
use crate::owner;
use crate::queue::{Again, Queue};

/// The namespace of such tokens, and the type of their Secrets.
pub(crate) const NAMESPACE: &str = "kube-system";
pub(crate) const TYPE: &str = "bootstrap.kubernetes.io/token";
const EXPIRATION: &str = "expiration";
/// So many Secrets are looked at at the same time.
const WIDTH: usize = 2;

/// The controller of tokens whose time is over.
pub(crate) struct Cleaner {
    client: Client,
    /// Only those of bootstrap tokens.
    secrets: Arc<Informer<Secret>>,
    queue: Arc<Queue<ObjectKey>>,
}

impl Cleaner {
    /// Subscribes to the informer, which must not run yet.
    pub(crate) fn new(client: Client, secrets: Arc<Informer<Secret>>) -> Cleaner {
        let queue = Queue::new("bootstrap tokens");
        secrets.on_change({
            let queue = queue.clone();
            move |change| {
                if !matches!(change, Change::Deleted(_)) {
                    queue.add(ObjectKey::of(&**change.object()));
                }
            }
        });
        Cleaner { client, secrets, queue }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.secrets.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let Some(secret) = self.secrets.get(&key) else { return Ok(None) };
        if owner::is_terminating(&*secret) {
            return Ok(None);
        }
        match left(&secret, Timestamp::now()) {
            Some(left) if left.is_zero() => {}
            other => return Ok(other),
        }
        let metadata = &secret.metadata;
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: metadata.uid.clone(),
                resource_version: metadata.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        let api = Api::<PartialObjectMeta<Secret>>::namespaced(self.client.clone(), &key.namespace);
        let deleted = api.delete(&key.name, &parameters).await;
        match deleted.map_err(Error::request("delete", "Secret", key)) {
            // One that was changed is looked at again.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(None),
            other => other.map(|_| None),
        }
    }
}

/// How long a token still holds; for ever where nothing is said. What is no time is over.
fn left(secret: &Secret, now: Timestamp) -> Option<Duration> {
    let text = secret.data.as_ref()?.get(EXPIRATION)?;
    let end = std::str::from_utf8(&text.0).ok().and_then(|text| text.trim().parse::<Timestamp>().ok());
    let left = end.map_or(SignedDuration::ZERO, |end| end.duration_since(now));
    Some(left.max(SignedDuration::ZERO).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn what_has_an_end_ends() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (text, expected) in [
            (None, None),
            (Some("2026-01-01T00:00:30Z"), Some(30)),
            (Some("2026-01-01T01:00:30+01:00"), Some(30)),
            (Some("2025-01-01T00:00:00Z"), Some(0)),
            (Some("soon"), Some(0)),
        ] {
            let data = text.map(|text| (EXPIRATION.to_owned(), ByteString(text.into())));
            let secret = Secret { data: Some(data.into_iter().collect()), ..Secret::default() };
            assert_eq!(left(&secret, now), expected.map(Duration::from_secs), "{text:?}");
        }
    }
}
