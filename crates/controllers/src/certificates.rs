//! Requests for certificates that are of no more use are deleted: those that were answered a while ago, and those that
//! nobody answered.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{DeleteParams, PartialObjectMeta, Preconditions};
use kube::{Api, Client};

use crate::error::{Error, Result};
use crate::informer::{Change, Informer};
use crate::key::ObjectKey;
use crate::owner;
use crate::queue::{Again, Queue};

/// How long one is kept that was answered (the reference's `approvedExpiration` and `deniedExpiration`).
const ANSWERED: SignedDuration = SignedDuration::from_hours(1);
/// How long one is kept that nobody has answered (`pendingExpiration`).
const PENDING: SignedDuration = SignedDuration::from_hours(24);
/// So many requests are looked at at the same time.
const WIDTH: usize = 2;

/// The controller of old requests.
pub(crate) struct Cleaner {
    client: Client,
    requests: Arc<Informer<CertificateSigningRequest>>,
    queue: Arc<Queue<ObjectKey>>,
}

impl Cleaner {
    /// Subscribes to the informer, which must not run yet.
    pub(crate) fn new(client: Client, requests: Arc<Informer<CertificateSigningRequest>>) -> Cleaner {
        let queue = Queue::new("certificate requests");
        requests.on_change({
            let queue = queue.clone();
            move |change| {
                if !matches!(change, Change::Deleted(_)) {
                    queue.add(ObjectKey::of(&**change.object()));
                }
            }
        });
        Cleaner { client, requests, queue }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.requests.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let Some(request) = self.requests.get(&key).filter(|request| !owner::is_terminating(&**request))
        else {
            return Ok(None);
        };
        let left = left(&request, Timestamp::now());
        if !left.is_zero() {
            return Ok(Some(left));
        }
        let preconditions = Preconditions { uid: request.metadata.uid.clone(), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api = Api::<PartialObjectMeta<CertificateSigningRequest>>::all(self.client.clone());
        let deleted = api.delete(&key.name, &parameters).await;
        match deleted.map_err(Error::request("delete", "CertificateSigningRequest", key)) {
            Err(error) if error.is_not_found() => Ok(None),
            other => other.map(|_| None),
        }
    }
}

/// How long a request is still kept.
fn left(request: &CertificateSigningRequest, now: Timestamp) -> Duration {
    let conditions = request.status.as_ref().and_then(|status| status.conditions.as_ref());
    let answers = conditions.into_iter().flatten().filter_map(|condition| {
        let at = condition.last_update_time.as_ref().or(condition.last_transition_time.as_ref())?;
        at.0.checked_add(ANSWERED).ok()
    });
    let made = request.metadata.creation_timestamp.as_ref().map_or(now, |made| made.0);
    let end = answers.min().or_else(|| made.checked_add(PENDING).ok()).unwrap_or(now);
    end.duration_since(now).max(SignedDuration::ZERO).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn requests_are_kept_for_a_while() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let condition =
            |kind: &str, at: &str| json!([{ "type": kind, "status": "True", "lastUpdateTime": at }]);
        for (made, conditions, hours) in [
            ("2026-01-01T23:00:00Z", json!([]), 23.0),
            ("2026-01-01T00:00:00Z", json!([]), 0.0),
            ("2026-01-01T00:00:00Z", condition("Approved", "2026-01-01T23:30:00Z"), 0.5),
            ("2026-01-01T00:00:00Z", condition("Denied", "2026-01-01T22:00:00Z"), 0.0),
        ] {
            let request: Value = json!({
                "metadata": { "creationTimestamp": made }, "status": { "conditions": conditions },
                "spec": { "signerName": "x", "request": "" },
            });
            let request = serde_json::from_value(request).unwrap();
            assert_eq!(left(&request, now).as_secs_f64(), hours * 3600.0);
        }
    }
}
