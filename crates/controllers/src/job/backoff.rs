//! How long a Job waits before it makes a pod in a failed one's place: twice as long after each failure in a row.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::failure::containers;
use crate::model::Pod;

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);

/// The failures in a row of a Job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: u32,
    last: Option<Timestamp>,
}

impl Backoff {
    /// So many failures, of which the last was at a time.
    pub(super) fn new(failures: u32, last: Timestamp) -> Backoff {
        Backoff { failures, last: Some(last) }
    }

    /// What it becomes when pods have ended at these times: a success begins anew.
    pub(super) fn after(self, succeeded: &[Timestamp], failed: &[Timestamp]) -> Backoff {
        let success = succeeded.iter().max();
        let mut after = if success.is_some() { Backoff::default() } else { self };
        for at in failed.iter().filter(|at| success.is_none_or(|success| *at > success)) {
            after.failures = after.failures.saturating_add(1);
            after.last = after.last.max(Some(*at));
        }
        after
    }

    /// How long is left.
    pub(super) fn left(&self, now: Timestamp) -> Duration {
        let (Some(last), Some(doublings)) = (self.last, self.failures.checked_sub(1)) else {
            return Duration::ZERO;
        };
        let pause = FIRST.saturating_mul(1 << doublings.min(16)).min(LONGEST);
        let passed = now.duration_since(last).max(SignedDuration::ZERO).unsigned_abs();
        pause.saturating_sub(passed)
    }
}

/// When a pod ended, as well as can be told.
pub(super) fn ended_at(pod: &Pod, now: Timestamp) -> Timestamp {
    let mut last = None;
    for container in containers(pod) {
        let Some(ended) = container.state.terminated.as_ref().and_then(|ended| ended.finished_at.as_ref())
        else {
            continue;
        };
        last = last.max(Some(ended.0));
    }
    let not_ready = || {
        let condition = pod.condition("Ready").filter(|condition| condition.status == "False")?;
        condition.last_transition_time.as_ref().map(|time| time.0)
    };
    let deleted = || {
        let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
        let end = pod.metadata.deletion_timestamp.as_ref()?.0;
        end.checked_sub(grace).ok()
    };
    last.or_else(not_ready)
        .or_else(deleted)
        .or_else(|| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
        .unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn pauses_double_end_and_begin_anew_with_a_success() {
        for (failures, pause) in [(0, 0), (1, 10), (2, 20), (3, 40), (6, 320), (7, 600), (4000, 600)] {
            assert_eq!(
                Backoff::new(failures, at(100)).left(at(100)),
                Duration::from_secs(pause),
                "{failures}"
            );
        }
        assert_eq!(Backoff::new(2, at(100)).left(at(115)), Duration::from_secs(5));
        assert_eq!(Backoff::new(2, at(100)).left(at(121)), Duration::ZERO);
        let once = Backoff::default().after(&[], &[at(5)]);
        assert_eq!(once, Backoff::new(1, at(5)));
        assert_eq!(once.after(&[], &[at(9), at(7)]), Backoff::new(3, at(9)));
        assert_eq!(once.after(&[at(8)], &[at(9), at(7)]), Backoff::new(1, at(9)));
        assert_eq!(once.after(&[at(9)], &[at(7)]), Backoff::default());
    }

    #[test]
    fn the_end_of_a_pod_is_told_by_the_best_witness() {
        let time = |second: i64| at(second).to_string();
        let ended =
            |second| json!({ "state": { "terminated": { "exitCode": 1, "finishedAt": time(second) } } });
        let ready = json!([{ "type": "Ready", "status": "False", "lastTransitionTime": time(20) }]);
        for (metadata, status, expected) in [
            (json!({}), json!({ "containerStatuses": [ended(10), ended(12)], "conditions": ready }), 12),
            (json!({ "creationTimestamp": time(5) }), json!({ "conditions": ready }), 20),
            (json!({ "deletionTimestamp": time(40), "deletionGracePeriodSeconds": 30 }), json!({}), 10),
            (json!({ "creationTimestamp": time(5) }), json!({}), 5),
            (json!({}), json!({}), 99),
        ] {
            let pod: Pod = serde_json::from_value(json!({ "metadata": metadata, "status": status })).unwrap();
            assert_eq!(ended_at(&pod, at(99)), at(expected), "{metadata} {status}");
        }
    }
}
