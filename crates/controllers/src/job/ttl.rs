//! Jobs that are not to be kept for long after their end: they are deleted when their time has come.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};

use super::finished;
use crate::error::{Error, Result};
use crate::informer::{Change, Informer};
use crate::key::ObjectKey;
use crate::owner;
use crate::queue::{Again, Queue};

/// So many Jobs are looked at at the same time.
const WIDTH: usize = 8;

/// Deletes Jobs that have ended long enough ago.
pub(crate) struct Expiry {
    client: Client,
    jobs: Arc<Informer<Job>>,
    queue: Arc<Queue<ObjectKey>>,
}

impl Expiry {
    /// Subscribes to the informer, which must not run yet.
    pub(crate) fn new(client: Client, jobs: Arc<Informer<Job>>) -> Expiry {
        let queue = Queue::new("ended jobs");
        jobs.on_change({
            let queue = queue.clone();
            move |change| {
                let job = change.object();
                if !matches!(change, Change::Deleted(_)) && left(job, Timestamp::now()).is_some() {
                    queue.add(ObjectKey::of(&**job));
                }
            }
        });
        Expiry { client, jobs, queue }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.jobs.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let known = self.jobs.get(&key).and_then(|job| left(&job, Timestamp::now()));
        match known {
            Some(left) if left.is_zero() => {}
            other => return Ok(other),
        }
        // It may have been given more time meanwhile.
        let api = Api::<Job>::namespaced(self.client.clone(), &key.namespace);
        let fresh = api.get_opt(&key.name).await.map_err(Error::request("read", "Job", &key))?;
        let Some(job) = fresh else { return Ok(None) };
        match left(&job, Timestamp::now()) {
            Some(left) if left.is_zero() => {}
            other => return Ok(other),
        }
        let preconditions =
            Preconditions { uid: job.metadata.uid.clone(), resource_version: job.metadata.resource_version };
        let parameters = DeleteParams::foreground().preconditions(preconditions);
        match api.delete(&key.name, &parameters).await {
            Ok(_) => Ok(None),
            Err(kube::Error::Api(gone)) if gone.code == 404 => Ok(None),
            Err(error) => Err(Error::request("delete", "Job", &key)(error)),
        }
    }
}

/// How long a Job is still to be kept, if it has ended and not for ever.
fn left(job: &Job, now: Timestamp) -> Option<Duration> {
    if owner::is_terminating(job) {
        return None;
    }
    let kept = SignedDuration::from_secs(job.spec.as_ref()?.ttl_seconds_after_finished?.into());
    let ended = finished(job)?.last_transition_time.as_ref()?.0;
    let left = kept.saturating_sub(now.duration_since(ended));
    Some(left.max(SignedDuration::ZERO).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_what_has_ended_expires() {
        let ended =
            json!([{ "type": "Failed", "status": "True", "lastTransitionTime": "1970-01-01T00:01:40Z" }]);
        let job = |metadata: Value, ttl: Value, conditions: &Value| -> Job {
            serde_json::from_value(json!({
                "metadata": metadata, "spec": { "template": {}, "ttlSecondsAfterFinished": ttl },
                "status": { "conditions": conditions },
            }))
            .unwrap()
        };
        let now = Timestamp::from_second(107).unwrap();
        let going = json!({ "deletionTimestamp": "1970-01-01T00:01:40Z" });
        for (metadata, ttl, conditions, seconds) in [
            (json!({}), json!(10), &ended, Some(3)),
            (json!({}), json!(0), &ended, Some(0)),
            (json!({}), Value::Null, &ended, None),
            (json!({}), json!(10), &json!([]), None),
            (going, json!(10), &ended, None),
        ] {
            let left = left(&job(metadata, ttl, conditions), now);
            assert_eq!(left, seconds.map(Duration::from_secs));
        }
    }
}
