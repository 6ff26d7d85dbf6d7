//! The arithmetic of budgets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;

use crate::deployment::arithmetic::scaled;
use crate::model::Pod;

/// A pod whose eviction was allowed is to be on its way out after this long (the reference's `DeletionTimeout`).
const DELETION: SignedDuration = SignedDuration::from_secs(120);

/// How many pods there should be, and how many of them healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) pods: i32,
    pub(super) healthy: i32,
}

/// Whether it matters how many pods the owners of the pods ask for.
pub(super) fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.as_ref();
    spec.is_some_and(|spec| {
        spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
    })
}

impl Expected {
    /// `scale` is how many pods the owners ask for.
    pub(super) fn new(budget: &PodDisruptionBudget, pods: usize, scale: i32) -> Expected {
        let Some(spec) = &budget.spec else { return Expected { pods: 0, healthy: 0 } };
        if let Some(most) = &spec.max_unavailable {
            let healthy = scale.saturating_sub(scaled(Some(most), scale, true)).max(0);
            return Expected { pods: scale, healthy };
        }
        match &spec.min_available {
            Some(IntOrString::Int(least)) => {
                Expected { pods: i32::try_from(pods).unwrap_or(i32::MAX), healthy: *least }
            }
            share @ Some(IntOrString::String(_)) => {
                Expected { pods: scale, healthy: scaled(share.as_ref(), scale, true) }
            }
            None => Expected { pods: 0, healthy: 0 },
        }
    }
}

/// What was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) expected: Expected,
    pub(super) healthy: i32,
    /// Pods that are about to go, by name.
    pub(super) disrupted: BTreeMap<String, Time>,
    /// Pods that were, and are there all the same.
    pub(super) kept: Vec<String>,
    /// When the next of them will have been waited for long enough.
    pub(super) again: Option<Duration>,
}

impl Count {
    pub(super) fn allowed(&self) -> i32 {
        let spare = self.healthy.saturating_sub(self.expected.healthy);
        // What is not there yet is not spare.
        if self.expected.pods <= 0 { 0 } else { spare.max(0) }
    }
}

pub(super) fn count(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    expected: Expected,
    now: Timestamp,
) -> Count {
    let going = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());
    let mut counted =
        Count { expected, healthy: 0, disrupted: BTreeMap::new(), kept: Vec::new(), again: None };
    for pod in pods.iter().filter(|pod| !pod.is_terminating()) {
        let name = pod.name_any();
        let at = going.and_then(|going| going.get(&name));
        let left = at.map(|at| DELETION - now.duration_since(at.0));
        match (at, left) {
            (Some(at), Some(left)) if left.is_positive() => {
                let left = left.unsigned_abs();
                counted.again = Some(counted.again.map_or(left, |again| again.min(left)));
                counted.disrupted.insert(name, at.clone());
                continue;
            }
            (Some(_), _) => counted.kept.push(name),
            _ => {}
        }
        counted.healthy += i32::from(pod.is_ready());
    }
    counted
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn budget(spec: Value, disrupted: Value) -> PodDisruptionBudget {
        let status = json!({
            "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0,
            "disruptedPods": disrupted,
        });
        serde_json::from_value(json!({ "metadata": {}, "spec": spec, "status": status })).unwrap()
    }

    #[test]
    fn shares_are_of_what_the_owners_ask_for() {
        for (spec, pods, scale, expected) in [
            (json!({ "minAvailable": 2 }), 5, 0, (5, 2)),
            (json!({ "minAvailable": "50%" }), 5, 7, (7, 4)),
            (json!({ "maxUnavailable": 1 }), 5, 7, (7, 6)),
            (json!({ "maxUnavailable": "30%" }), 5, 7, (7, 4)),
            (json!({ "maxUnavailable": 9 }), 5, 7, (7, 0)),
            (json!({ "maxUnavailable": 0 }), 5, 7, (7, 7)),
            (json!({}), 5, 7, (0, 0)),
        ] {
            let found = Expected::new(&budget(spec.clone(), json!({})), pods, scale);
            assert_eq!((found.pods, found.healthy), expected, "{spec}");
        }
    }

    #[test]
    fn who_is_about_to_go_does_not_count_until_it_is_given_up() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let pod = |name: &str, ready: &str, going: bool| -> Arc<Pod> {
            let mut pod = json!({ "metadata": { "name": name },
                "status": { "conditions": [{ "type": "Ready", "status": ready }] } });
            if going {
                pod["metadata"]["deletionTimestamp"] = json!(Time(now));
            }
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let disrupted = json!({
            "soon": "2026-01-01T00:09:00Z", "stays": "2026-01-01T00:05:00Z", "gone": "2026-01-01T00:09:30Z",
            "goes": "2026-01-01T00:09:30Z",
        });
        let pods = [
            pod("well", "True", false),
            pod("ill", "False", false),
            pod("soon", "True", false),
            pod("stays", "True", false),
            pod("goes", "True", true),
        ];
        let expected = Expected { pods: 5, healthy: 1 };
        let counted = count(&budget(json!({}), disrupted), &pods, expected, now);
        assert_eq!((counted.healthy, counted.allowed()), (2, 1));
        assert_eq!(counted.disrupted.keys().collect::<Vec<_>>(), ["soon"]);
        assert_eq!(counted.kept, ["stays"]);
        assert_eq!(counted.again, Some(Duration::from_secs(60)));
        let none = Count { expected: Expected { pods: 0, healthy: 0 }, ..counted };
        assert_eq!(none.allowed(), 0);
    }
}
