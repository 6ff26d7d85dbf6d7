//! What a ReplicaSet's status says.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::{Replicas, Replicated};
use crate::error::{Error, Result};
use crate::key::ObjectKey;
use crate::labels::contains;
use crate::model::Pod;
use crate::queue::Again;

impl<K: Replicated> Replicas<K> {
    /// Writes the status if it is not what it should be; tells when a pod becomes available by time alone.
    pub(super) async fn update_status(
        &self,
        set: &K,
        pods: &[Arc<Pod>],
        active: &[Arc<Pod>],
        failure: Option<&Error>,
    ) -> Result<Again> {
        let now = Timestamp::now();
        let (status, again) = status(set, pods, active, failure, now);
        if set.status().as_ref() == Some(&status) {
            return Ok(again);
        }
        let counted = |count: Option<i32>| count.filter(|count| *count != 0);
        // A field that is left out of a patch would stay as it was.
        let mut patch = json!({ "metadata": { "uid": set.meta().uid }, "status": {
            "replicas": status.replicas,
            "fullyLabeledReplicas": counted(status.fully_labeled_replicas),
            "readyReplicas": counted(status.ready_replicas),
            "availableReplicas": counted(status.available_replicas),
            "observedGeneration": status.observed_generation,
            "conditions": status.conditions,
        } });
        if K::TELLS_TERMINATING {
            patch["status"]["terminatingReplicas"] = json!(status.terminating_replicas);
        }
        match self.api(set).patch_status(&set.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await
        {
            Ok(_) => Ok(again),
            Err(kube::Error::Api(gone)) if gone.code == 404 => Ok(None),
            Err(error) => {
                Err(Error::request("write the status of", K::kind(&()).into_owned(), ObjectKey::of(set))(
                    error,
                ))
            }
        }
    }
}

fn status<K: Replicated>(
    set: &K,
    pods: &[Arc<Pod>],
    active: &[Arc<Pod>],
    failure: Option<&Error>,
    now: Timestamp,
) -> (ReplicaSetStatus, Again) {
    let labels = set.template().and_then(|template| template.metadata.as_ref());
    let labels = labels.and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    let wait = set.min_ready_seconds().max(0);
    let (mut labeled, mut ready, mut available) = (0, 0, 0);
    let mut again: Again = None;
    for pod in active {
        labeled += i32::from(contains(pod.metadata.labels.as_ref(), &labels));
        if !pod.is_ready() {
            continue;
        }
        ready += 1;
        match available_in(pod, wait, now) {
            None => available += 1,
            Some(left) => again = Some(again.map_or(left, |again| again.min(left))),
        }
    }
    let terminating = pods.iter().filter(|pod| pod.is_terminating() && !pod.is_finished()).count();
    let count = |count: i32| (count != 0).then_some(count);
    let before = set.status().unwrap_or_default();
    let status = ReplicaSetStatus {
        replicas: i32::try_from(active.len()).unwrap_or(i32::MAX),
        fully_labeled_replicas: count(labeled),
        ready_replicas: count(ready),
        available_replicas: count(available),
        terminating_replicas: i32::try_from(terminating).ok().filter(|_| K::TELLS_TERMINATING),
        observed_generation: set.meta().generation,
        conditions: conditions(set, before.conditions, active.len(), failure, now),
    };
    (status, again)
}

/// How long until a ready pod is available; nothing when it is.
pub(crate) fn available_in(pod: &Pod, wait: i32, now: Timestamp) -> Option<Duration> {
    if wait == 0 {
        return None;
    }
    let since = pod.ready_since()?.0;
    let left = SignedDuration::from_secs(wait.into()) - now.duration_since(since);
    // Times in the API have no fractions: half a second more is needed at the most.
    left.is_positive().then(|| left.unsigned_abs() + Duration::from_millis(1))
}

fn conditions<K: Replicated>(
    set: &K,
    before: Option<Vec<ReplicaSetCondition>>,
    active: usize,
    failure: Option<&Error>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = before.unwrap_or_default();
    let known = conditions.iter().any(|condition| condition.type_ == "ReplicaFailure");
    match failure {
        Some(error) if !known => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some(if active < set.replicas() { "FailedCreate" } else { "FailedDelete" }.to_owned()),
            message: Some(error.message()),
            last_transition_time: Some(Time(now)),
        }),
        Some(_) => {}
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
    }
    (!conditions.is_empty()).then_some(conditions)
}
