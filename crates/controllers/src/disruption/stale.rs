//! Pods that were said to go and did not: after a while it is said no more.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::error::{Error, Result};
use crate::informer::{Change, Informer};
use crate::key::ObjectKey;
use crate::model::Pod;
use crate::queue::{Again, Queue};

const TARGET: &str = "DisruptionTarget";
/// What a node's agent says of a pod that it ends may take any time to come true.
const BY_NODE: &str = "TerminationByKubelet";
/// How long it may take to come true (the reference's `stalePodDisruptionTimeout`).
const PATIENCE: SignedDuration = SignedDuration::from_secs(120);
/// So many pods are looked at at the same time.
const WIDTH: usize = 4;

/// The controller of such pods.
pub(crate) struct Stale {
    client: Client,
    pods: Arc<Informer<Pod>>,
    queue: Arc<Queue<ObjectKey>>,
}

impl Stale {
    /// Subscribes to the informer, which must not run yet.
    pub(crate) fn new(client: Client, pods: Arc<Informer<Pod>>) -> Stale {
        let queue = Queue::new("stale disruptions");
        pods.on_change({
            let queue = queue.clone();
            move |change| {
                let pod = change.object();
                if matches!(change, Change::Deleted(_)) {
                    return;
                }
                if let Some(left) = left(pod, Timestamp::now()) {
                    queue.add_after(ObjectKey::of(&**pod), left);
                }
            }
        });
        Stale { client, pods, queue }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.pods.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let Some(pod) = self.pods.get(&key) else { return Ok(None) };
        let now = Timestamp::now();
        match left(&pod, now) {
            Some(left) if left.is_zero() => {}
            other => return Ok(other),
        }
        let condition = json!({
            "type": TARGET, "status": "False", "reason": null, "message": null, "lastTransitionTime": Time(now),
        });
        let patch =
            json!({ "metadata": { "uid": pod.metadata.uid }, "status": { "conditions": [condition] } });
        let api = Api::<PartialObjectMeta<Pod>>::namespaced(self.client.clone(), &key.namespace);
        let written = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        match written.map_err(Error::request("write the status of", "Pod", key)) {
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(None),
            other => other.map(|_| None),
        }
    }
}

/// How long it may still take a pod to go, if it is said to.
fn left(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let condition = pod.condition(TARGET)?;
    if condition.status != "True" || condition.reason.as_deref() == Some(BY_NODE) || !pod.is_active() {
        return None;
    }
    let since = condition.last_transition_time.as_ref().map_or(now, |time| time.0);
    let left = PATIENCE.saturating_sub(now.duration_since(since));
    Some(left.max(SignedDuration::ZERO).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_does_not_come_true_is_waited_for_a_while() {
        let now: Timestamp = "2026-01-01T00:01:30Z".parse().unwrap();
        let check = |condition: Value, phase: &str, expected: Option<u64>| {
            let pod: Pod =
                serde_json::from_value(json!({ "status": { "phase": phase, "conditions": [condition] } }))
                    .unwrap();
            assert_eq!(left(&pod, now), expected.map(Duration::from_secs));
        };
        let said = |status: &str, reason: &str, at: &str| json!({ "type": TARGET, "status": status, "reason": reason, "lastTransitionTime": at });
        check(said("True", "EvictionByEvictionAPI", "2026-01-01T00:00:00Z"), "Running", Some(30));
        check(said("True", "EvictionByEvictionAPI", "2025-01-01T00:00:00Z"), "Running", Some(0));
        check(said("True", "EvictionByEvictionAPI", "2026-01-01T00:00:00Z"), "Failed", None);
        check(said("True", BY_NODE, "2026-01-01T00:00:00Z"), "Running", None);
        check(said("False", "", "2026-01-01T00:00:00Z"), "Running", None);
    }
}
