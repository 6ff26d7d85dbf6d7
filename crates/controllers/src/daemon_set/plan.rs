//! What is to be done next for a DaemonSet: on which nodes pods are made, and which pods are deleted. It must not know how.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::nodes::Fit;
use crate::model::Pod;
use crate::replica_set::available_in;
use crate::revisions::OF_POD;

/// How pods of an older template are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    /// When somebody deletes them.
    OnDelete,
    /// On so many nodes at a time the old one goes before the new one comes.
    Unavailable(usize),
    /// On so many nodes at a time the new one comes before the old one goes.
    Surge(usize),
}

/// A node and the set's pods on it, oldest first.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) node: String,
    pub(super) fit: Fit,
    pub(super) pods: Vec<Arc<Pod>>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// The short name of the newest template.
    pub(super) hash: &'a str,
    /// Seconds that a pod has to be ready to be available.
    pub(super) wait: i32,
    pub(super) strategy: Strategy,
}

impl Wanted<'_> {
    pub(super) fn is_new(&self, pod: &Pod) -> bool {
        pod.metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(OF_POD))
            .is_some_and(|hash| hash == self.hash)
    }

    /// Whether a pod has been ready long enough; else how long it still takes, if that is time alone.
    pub(super) fn is_available(&self, pod: &Pod, now: Timestamp) -> (bool, Option<Duration>) {
        if !pod.is_ready() || pod.is_terminating() {
            return (false, None);
        }
        let left = available_in(pod, self.wait, now);
        (left.is_none(), left)
    }
}

/// The nodes that get a pod and the pods that go now, and when to look again.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    pub(super) again: Option<Duration>,
}

/// What to do next.
pub(super) fn plan(wanted: &Wanted<'_>, places: &[Place], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for place in places {
        plan.keep(wanted, place);
    }
    match wanted.strategy {
        Strategy::OnDelete => {}
        Strategy::Unavailable(most) => plan.replace(wanted, places, most, now),
        Strategy::Surge(most) => plan.surge(wanted, places, most, now),
    }
    plan
}

/// The newest and an older pod of a node that are there to stay.
fn pair<'a>(wanted: &Wanted<'_>, place: &'a Place) -> (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>) {
    let alive = || place.pods.iter().filter(|pod| pod.is_active());
    (alive().find(|pod| wanted.is_new(pod)), alive().find(|pod| !wanted.is_new(pod)))
}

impl Plan {
    /// One pod on each node that is to have one, and none elsewhere.
    fn keep(&mut self, wanted: &Wanted<'_>, place: &Place) {
        let alive: Vec<_> = place.pods.iter().filter(|pod| !pod.is_terminating()).collect();
        match place.fit {
            Fit::Never => self.delete.extend(alive.into_iter().cloned()),
            Fit::Runs if place.pods.is_empty() => self.create.push(place.node.clone()),
            Fit::Runs | Fit::Stays => {
                let (failed, running): (Vec<_>, Vec<_>) =
                    alive.into_iter().partition(|pod| pod.is_finished());
                self.delete.extend(failed.into_iter().cloned());
                let surges = matches!(wanted.strategy, Strategy::Surge(_));
                let mut kept = [false; 2];
                for pod in running {
                    // While new ones come before old ones go, a node has one of each.
                    let of = usize::from(surges && wanted.is_new(pod));
                    if std::mem::replace(&mut kept[of], true) {
                        self.delete.push(pod.clone());
                    }
                }
            }
        }
    }

    fn is_available(&mut self, wanted: &Wanted<'_>, pod: &Pod, now: Timestamp) -> bool {
        let (is_available, left) = wanted.is_available(pod, now);
        self.again = [self.again, left].into_iter().flatten().min();
        is_available
    }

    fn replace(&mut self, wanted: &Wanted<'_>, places: &[Place], most: usize, now: Timestamp) {
        let (mut unavailable, mut candidates) = (0, Vec::new());
        for place in places.iter().filter(|place| place.fit == Fit::Runs) {
            match pair(wanted, place) {
                (Some(new), _) => unavailable += usize::from(!self.is_available(wanted, new, now)),
                (None, Some(old)) if self.is_available(wanted, old, now) => candidates.push(old.clone()),
                (None, Some(old)) => {
                    // It is missed already.
                    unavailable += 1;
                    self.delete.push(old.clone());
                }
                (None, None) => unavailable += 1,
            }
        }
        candidates.truncate(most.saturating_sub(unavailable));
        self.delete.extend(candidates);
    }

    fn surge(&mut self, wanted: &Wanted<'_>, places: &[Place], most: usize, now: Timestamp) {
        let (mut surging, mut candidates) = (0, Vec::new());
        for place in places.iter().filter(|place| place.fit == Fit::Runs) {
            match pair(wanted, place) {
                (_, None) => {}
                (None, Some(old)) if self.is_available(wanted, old, now) => {
                    candidates.push(place.node.clone())
                }
                (None, Some(_)) => self.create.push(place.node.clone()),
                (Some(new), Some(old)) if self.is_available(wanted, new, now) => {
                    self.delete.push(old.clone())
                }
                (Some(_), Some(_)) => surging += 1,
            }
        }
        candidates.truncate(most.saturating_sub(surging));
        self.create.extend(candidates);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A node as a word: whether a pod runs (`!`), stays (`?`) or must not be there (`/`), and its pods: new (`N`) or old
    /// (`O`), each ready (`+`), starting (`.`), failed (`x`) or terminating (`-`).
    fn place((number, word): (usize, &str)) -> Place {
        let mut letters = word.chars();
        let fit = match letters.next().unwrap() {
            '!' => Fit::Runs,
            '?' => Fit::Stays,
            _ => Fit::Never,
        };
        let mut pods = Vec::new();
        while let (Some(age), Some(state)) = (letters.next(), letters.next()) {
            let ready = if state == '+' { "True" } else { "False" };
            let pod = json!({
                "metadata": {
                    "name": format!("{number}{}", pods.len()),
                    "labels": { OF_POD: if age == 'N' { "new" } else { "old" } },
                    "deletionTimestamp": (state == '-').then_some("2026-01-01T00:00:00Z"),
                },
                "status": {
                    "phase": if state == 'x' { "Failed" } else { "Running" },
                    "conditions": [
                        { "type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z" }],
                },
            });
            pods.push(Arc::new(serde_json::from_value(pod).unwrap()));
        }
        Place { node: number.to_string(), fit, pods }
    }

    fn check(strategy: Strategy, words: &str, expected: &str) {
        let places: Vec<_> = words.split_whitespace().enumerate().map(place).collect();
        let wanted = Wanted { hash: "new", wait: 0, strategy };
        let plan = plan(&wanted, &places, "2026-01-01T00:01:00Z".parse().unwrap());
        let created = plan.create.iter().map(|node| format!("+{node}"));
        let deleted = plan.delete.iter().map(|pod| format!("-{}", pod.metadata.name.as_deref().unwrap()));
        assert_eq!(created.chain(deleted).collect::<Vec<_>>().join(" "), expected, "{words}");
    }

    #[test]
    fn each_node_has_one() {
        for (words, expected) in
            [("! ! / ?", "+0 +1"), ("!N+ !N- !Nx", "-20"), ("/N+ ?N+ ?", "-00"), ("!N+N+", "-01")]
        {
            check(Strategy::OnDelete, words, expected);
        }
    }

    #[test]
    fn old_ones_go_as_far_as_some_may_be_missing() {
        for (words, expected) in [
            ("!O+ !O+ !O+", "-00"),
            ("!O- !O+ !O+", ""),
            ("!N. !O+ !O+", ""),
            ("!N+ !O+ !O+", "-10"),
            ("!O+ !O. !O+", "-10"),
            ("!N+ !N+ !N+", ""),
        ] {
            check(Strategy::Unavailable(1), words, expected);
        }
        check(Strategy::Unavailable(2), "!O+ !O+ !O+", "-00 -10");
    }

    #[test]
    fn new_ones_come_first_where_that_is_asked_for() {
        for (words, expected) in [
            ("!O+ !O+", "+0"),
            ("!O+N. !O+", ""),
            ("!O+N+ !O+", "+1 -00"),
            ("!O. !O+", "+0 +1"),
            ("!N+ !N+", ""),
        ] {
            check(Strategy::Surge(1), words, expected);
        }
    }
}
