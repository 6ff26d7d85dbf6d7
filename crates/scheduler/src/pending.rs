//! The pods that have no node yet, in the order in which they are tried. It must not know nodes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::Pod;

/// The pause after the first refusal; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// To be tried as soon as it is its turn.
    Ready,
    /// To be tried from then on.
    Later(Instant),
    /// To be tried when something has changed, but not before then.
    Parked(Instant),
    /// Being given to a node.
    Binding,
}

#[derive(Debug)]
struct Waiting {
    pod: Arc<Pod>,
    place: Place,
    order: u64,
    attempts: u32,
    /// What was last said about it.
    said: Option<String>,
}

/// First by priority, then by when they came.
type Turn = (i32, Reverse<u64>, String);

/// Pods without a node, by uid.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pods: HashMap<String, Waiting>,
    /// May hold pods that are not ready any more.
    ready: BinaryHeap<Turn>,
    timers: BTreeMap<(Instant, u64), String>,
    /// Uids of pods that are not to have a node yet.
    gated: HashSet<String>,
    count: u64,
}

impl Pending {
    /// Takes a pod in, or its newer form, which is tried again at once if it asks for something else.
    pub(crate) fn apply(&mut self, pod: Pod) {
        let uid = pod.uid().to_owned();
        self.gated.remove(&uid);
        let pod = Arc::new(pod);
        if let Some(waiting) = self.pods.get_mut(&uid) {
            let changed = waiting.pod.metadata.generation != pod.metadata.generation
                || waiting.pod.metadata.labels != pod.metadata.labels;
            waiting.pod = pod;
            if changed && matches!(waiting.place, Place::Parked(_) | Place::Later(_)) {
                self.make_ready(&uid);
            }
            return;
        }
        self.count += 1;
        let waiting = Waiting { pod, place: Place::Ready, order: self.count, attempts: 0, said: None };
        self.pods.insert(uid.clone(), waiting);
        self.make_ready(&uid);
    }

    pub(crate) fn remove(&mut self, uid: &str) {
        self.pods.remove(uid);
        self.gated.remove(uid);
    }

    /// Notes that a pod is not to have a node yet; tells whether that is new.
    pub(crate) fn gate(&mut self, uid: &str) -> bool {
        self.gated.insert(uid.to_owned())
    }

    pub(crate) fn uids(&self) -> Vec<String> {
        self.pods.keys().chain(&self.gated).cloned().collect()
    }

    /// The next pod to be tried. It is being bound until something else is said of it.
    pub(crate) fn next(&mut self) -> Option<Arc<Pod>> {
        while let Some((_, Reverse(order), uid)) = self.ready.pop() {
            if let Some(waiting) = self.pods.get_mut(&uid)
                && waiting.place == Place::Ready
                && waiting.order == order
            {
                waiting.place = Place::Binding;
                return Some(waiting.pod.clone());
            }
        }
        None
    }

    /// No node takes a pod: it waits for a change. Tells whether that was not said before.
    pub(crate) fn park(&mut self, uid: &str, message: &str, now: Instant) -> bool {
        let Some(waiting) = self.pods.get_mut(uid) else { return false };
        waiting.attempts += 1;
        waiting.place = Place::Parked(now + pause(waiting.attempts));
        let new = waiting.said.as_deref() != Some(message);
        waiting.said = Some(message.to_owned());
        new
    }

    /// Giving a pod to a node failed: it is tried again after a while.
    pub(crate) fn retry(&mut self, uid: &str, now: Instant) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        waiting.attempts += 1;
        let at = now + pause(waiting.attempts);
        self.set_timer(uid, at);
    }

    /// Something has changed: pods that found no node are tried again. Those that `chosen` does not take stay.
    pub(crate) fn wake(&mut self, now: Instant, chosen: impl Fn(&Pod) -> bool) {
        let parked = self.pods.iter().filter_map(|(uid, waiting)| match waiting.place {
            Place::Parked(at) if chosen(&waiting.pod) => Some((uid.clone(), at)),
            _ => None,
        });
        for (uid, at) in parked.collect::<Vec<_>>() {
            if at <= now {
                self.make_ready(&uid);
            } else {
                self.set_timer(&uid, at);
            }
        }
    }

    /// When the next pod is ready by time alone.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Makes those ready whose time has come.
    pub(crate) fn tick(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry() {
            let at = entry.key().0;
            if at > now {
                return;
            }
            let uid = entry.remove();
            if self.pods.get(&uid).is_some_and(|waiting| waiting.place == Place::Later(at)) {
                self.make_ready(&uid);
            }
        }
    }

    fn make_ready(&mut self, uid: &str) {
        if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.place = Place::Ready;
            self.ready.push((waiting.pod.spec.priority, Reverse(waiting.order), uid.to_owned()));
        }
    }

    fn set_timer(&mut self, uid: &str, at: Instant) {
        if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.place = Place::Later(at);
            self.count += 1;
            self.timers.insert((at, self.count), uid.to_owned());
        }
    }
}

fn pause(attempts: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, priority: i32) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": name, "uid": name }, "spec": { "priority": priority },
        }))
        .unwrap()
    }

    fn names(pending: &mut Pending) -> Vec<String> {
        std::iter::from_fn(|| pending.next()).map(|pod| pod.name().to_owned()).collect()
    }

    #[test]
    fn the_more_urgent_and_the_older_come_first() {
        let mut pending = Pending::default();
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5), ("gone", 9)] {
            pending.apply(pod(name, priority));
        }
        pending.remove("gone");
        assert_eq!(names(&mut pending), ["b", "d", "a", "c"]);
    }

    #[test]
    fn refused_pods_wait_for_a_change_and_for_their_pause() {
        let mut pending = Pending::default();
        let now = Instant::now();
        pending.apply(pod("a", 0));
        assert_eq!(names(&mut pending), ["a"]);
        assert!(pending.park("a", "full", now));
        assert!(!pending.park("a", "full", now));
        pending.tick(now + LONGEST_PAUSE);
        assert!(names(&mut pending).is_empty());
        pending.wake(now, |_| true);
        assert!(names(&mut pending).is_empty());
        assert_eq!(pending.next_timer(), Some(now + 2 * FIRST_PAUSE));
        pending.tick(now + 2 * FIRST_PAUSE);
        assert_eq!(names(&mut pending), ["a"]);
        pending.park("a", "full", now);
        pending.wake(now + LONGEST_PAUSE, |_| false);
        assert!(names(&mut pending).is_empty());
        pending.wake(now + LONGEST_PAUSE, |_| true);
        assert_eq!(names(&mut pending), ["a"]);
    }

    #[test]
    fn a_pod_that_asks_for_something_else_is_tried_at_once() {
        let mut pending = Pending::default();
        pending.apply(pod("a", 0));
        pending.next();
        pending.park("a", "full", Instant::now());
        pending.apply(pod("a", 0));
        assert!(pending.next().is_none());
        let mut changed = pod("a", 0);
        changed.metadata.generation = Some(2);
        pending.apply(changed);
        assert!(pending.next().is_some());
    }
}
