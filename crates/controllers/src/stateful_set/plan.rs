//! What is to be done next for a StatefulSet: which pods are made, and which deleted. It must not know how.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::model::Pod;
use crate::replica_set::available_in;
use crate::revisions::OF_POD;

/// How pods of an older template are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    /// When somebody deletes them.
    OnDelete,
    /// From the last to the first, but those below `partition`; so many may be missing at a time.
    Rolling { partition: i32, unavailable: usize },
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) start: i32,
    pub(super) replicas: i32,
    /// One after another.
    pub(super) ordered: bool,
    /// Seconds that a pod has to be ready to be available.
    pub(super) wait: i32,
    pub(super) strategy: Strategy,
    /// The names of the revision that was whole last, and of the newest one.
    pub(super) current: &'a str,
    pub(super) update: &'a str,
}

/// A step.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Makes the pod of this number, of this revision.
    Create {
        ordinal: i32,
        revision: String,
    },
    Delete(Arc<Pod>),
}

/// The steps that can be done now, and when to look again.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) again: Option<Duration>,
}

/// The number in a pod's name, where it is one of the set's.
pub(super) fn ordinal(name: &str, pod: &Pod) -> Option<i32> {
    let number = pod.metadata.name.as_deref()?.strip_prefix(name)?.strip_prefix('-')?;
    let is_plain = number == "0" || !number.starts_with(['0', '+', '-']);
    number.parse().ok().filter(|_| is_plain)
}

/// The revision that a pod was made of.
pub(super) fn revision(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(OF_POD)).map_or("", String::as_str)
}

fn is_up(pod: &Pod) -> bool {
    pod.status.phase == "Running" && pod.is_ready()
}

fn is_healthy(pod: &Pod) -> bool {
    is_up(pod) && !pod.is_terminating()
}

/// Which revision a new pod is made of.
fn revision_of_new<'a>(wanted: &Wanted<'a>, ordinal: i32, pods: &[Arc<Pod>]) -> &'a str {
    let of_current = match wanted.strategy {
        Strategy::Rolling { partition, .. } => wanted.start.saturating_add(partition),
        Strategy::OnDelete => {
            let current = pods.iter().filter(|pod| !pod.is_terminating() && revision(pod) == wanted.current);
            wanted.start.saturating_add(i32::try_from(current.count()).unwrap_or(i32::MAX))
        }
    };
    if ordinal < of_current { wanted.current } else { wanted.update }
}

/// What to do next.
pub(super) fn plan(wanted: &Wanted<'_>, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let end = wanted.start.saturating_add(wanted.replicas);
    let mut numbered: Vec<(i32, &Arc<Pod>)> =
        pods.iter().filter_map(|pod| Some((ordinal(wanted.name, pod)?, pod))).collect();
    numbered.sort_by_key(|(number, _)| *number);
    let of = |number| numbered.iter().find(|(other, _)| *other == number).map(|(_, pod)| *pod);
    for number in wanted.start..end {
        let is_done = match of(number) {
            None => {
                let revision = revision_of_new(wanted, number, pods).to_owned();
                plan.steps.push(Step::Create { ordinal: number, revision });
                false
            }
            Some(pod) if pod.is_terminating() => false,
            Some(pod) if pod.is_finished() => {
                plan.steps.push(Step::Delete(pod.clone()));
                false
            }
            Some(pod) => is_up(pod) && plan.is_available(pod, wanted.wait, now),
        };
        if wanted.ordered && !is_done {
            return plan;
        }
    }
    let first_unhealthy = numbered.iter().find(|(_, pod)| !is_healthy(pod)).map(|(number, _)| *number);
    let condemned = numbered.iter().rev().filter(|(number, _)| !(wanted.start..end).contains(number));
    for (number, pod) in condemned {
        if !pod.is_terminating() {
            let may_go = is_up(pod) && plan.is_available(pod, wanted.wait, now);
            if wanted.ordered && !may_go && first_unhealthy != Some(*number) {
                return plan;
            }
            plan.steps.push(Step::Delete((*pod).clone()));
        }
        if wanted.ordered {
            return plan;
        }
    }
    let Strategy::Rolling { partition, unavailable } = wanted.strategy else { return plan };
    let mut missing = 0;
    for number in (wanted.start.saturating_add(partition)..end).rev() {
        if missing >= unavailable {
            break;
        }
        match of(number) {
            Some(pod) if revision(pod) != wanted.update && !pod.is_terminating() => {
                plan.steps.push(Step::Delete(pod.clone()));
                missing += 1;
            }
            Some(pod) if is_healthy(pod) && plan.is_available(pod, wanted.wait, now) => {}
            _ => missing += 1,
        }
    }
    plan
}

impl Plan {
    /// Whether a ready pod has been so long enough; notes when it will have been.
    fn is_available(&mut self, pod: &Pod, wait: i32, now: Timestamp) -> bool {
        let Some(left) = available_in(pod, wait, now) else { return true };
        self.again = Some(self.again.map_or(left, |again| again.min(left)));
        false
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A pod as a word: number, revision and state (`+` ready, `.` starting, `x` ended, `-` terminating).
    fn pod(word: &str) -> Arc<Pod> {
        let (number, rest) = word.split_at(1);
        let (revision, state) = rest.split_at(1);
        let phase = match state {
            "+" | "-" => "Running",
            "x" => "Failed",
            _ => "Pending",
        };
        let ready = if state == "+" { "True" } else { "False" };
        let pod = json!({
            "metadata": {
                "name": format!("web-{number}"), "labels": { OF_POD: revision },
                "deletionTimestamp": (state == "-").then_some("2026-01-01T00:00:00Z"),
            },
            "status": { "phase": phase, "conditions": [
                { "type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z" }] },
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn steps(wanted: &Wanted<'_>, words: &str) -> String {
        let pods: Vec<_> = words.split_whitespace().map(pod).collect();
        let steps = plan(wanted, &pods, "2026-01-01T00:00:05Z".parse().unwrap()).steps;
        let word = |step: &Step| match step {
            Step::Create { ordinal, revision } => format!("+{ordinal}{revision}"),
            Step::Delete(pod) => pod.metadata.name.as_deref().unwrap().replace("web-", "-"),
        };
        steps.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    const ORDERED: Wanted<'_> = Wanted {
        name: "web",
        start: 0,
        replicas: 3,
        ordered: true,
        wait: 0,
        strategy: Strategy::Rolling { partition: 0, unavailable: 1 },
        current: "a",
        update: "a",
    };

    #[test]
    fn one_after_another_and_back() {
        for (pods, expected) in [
            ("", "+0a"),
            ("0a.", ""),
            ("0a+", "+1a"),
            ("0a+ 1a+", "+2a"),
            ("0a+ 1a+ 2a+", ""),
            ("0a+ 1a- 2a+", ""),
            ("0a+ 1ax 2a+", "-1"),
            ("0a+ 2a+", "+1a"),
            ("0a+ 1a+ 2a+ 3a+ 4a+", "-4"),
            ("0a+ 1a+ 2a+ 3a+ 4a-", ""),
            ("0a+ 1a+ 2a+ 3a. 4a+", "-4"),
            ("0a+ 1a+ 2a+ 3a. 4a.", ""),
            ("0a+ 1a+ 2a+ 3a.", "-3"),
            ("0a+ 1a. 2a+ 3a+", ""),
        ] {
            assert_eq!(steps(&ORDERED, pods), expected, "{pods}");
        }
    }

    #[test]
    fn all_at_once() {
        let wanted = Wanted { ordered: false, ..ORDERED };
        for (pods, expected) in [("", "+0a +1a +2a"), ("0a. 1ax", "-1 +2a"), ("0a. 1a. 2a. 3a. 4a+", "-4 -3")]
        {
            assert_eq!(steps(&wanted, pods), expected, "{pods}");
        }
    }

    #[test]
    fn the_last_is_replaced_first() {
        let rolling = Wanted { update: "b", ..ORDERED };
        for (pods, expected) in [
            ("0a+ 1a+ 2a+", "-2"),
            ("0a+ 1a+ 2a-", ""),
            ("0a+ 1a+", "+2b"),
            ("0a+ 1a+ 2b.", ""),
            ("0a+ 1a+ 2b+", "-1"),
            ("0b+ 1b+ 2b+", ""),
        ] {
            assert_eq!(steps(&rolling, pods), expected, "{pods}");
        }
        let part = Wanted { strategy: Strategy::Rolling { partition: 2, unavailable: 1 }, ..rolling.clone() };
        assert_eq!(steps(&part, "0a+ 1a+ 2a+"), "-2");
        assert_eq!(steps(&part, "0a+ 1a+ 2b+"), "");
        assert_eq!(steps(&part, "0a+"), "+1a");
        let two = Wanted { strategy: Strategy::Rolling { partition: 0, unavailable: 2 }, ..rolling.clone() };
        assert_eq!(steps(&two, "0a+ 1a+ 2a+"), "-2 -1");
        let by_hand = Wanted { strategy: Strategy::OnDelete, ..rolling };
        assert_eq!(steps(&by_hand, "0a+ 1a+ 2a+"), "");
        assert_eq!(steps(&by_hand, "0a+ 1a+"), "+2b");
    }

    #[test]
    fn a_pod_that_is_ready_has_to_stay_so() {
        let slow = Wanted { wait: 10, ..ORDERED };
        assert_eq!(steps(&slow, "0a+"), "");
        let again = plan(&slow, &[pod("0a+")], "2026-01-01T00:00:05Z".parse().unwrap()).again.unwrap();
        assert_eq!(again.as_secs(), 5);
    }

    #[test]
    fn names_that_are_not_the_sets_have_no_number() {
        let named = |name: &str| {
            let pod = Pod {
                metadata: kube::api::ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
                ..Pod::default()
            };
            ordinal("web", &pod)
        };
        assert_eq!(named("web-12"), Some(12));
        for other in
            ["web", "web-", "web-x", "web-01", "web-+1", "web--1", "other-1", "web-1-2", "web-99999999999"]
        {
            assert_eq!(named(other), None, "{other}");
        }
    }
}
