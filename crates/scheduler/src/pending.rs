//! The pods that have no node yet, in the order in which they are tried: first by priority, then by when they came or
//! were last refused. It must not know nodes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::ask::{Ask, Group};

/// The pause after the first refusal; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// To be tried as soon as it is its turn.
    Ready,
    /// To be tried from then on, or as soon as nothing else is to be done; not before then after a `failure`.
    Later { at: Instant, failure: bool },
    /// To be tried when something has changed, but not before then if others are waiting.
    Parked(Instant),
    /// Being given to a node, or being made room for.
    Busy,
}

#[derive(Debug)]
struct Waiting {
    ask: Arc<Ask>,
    place: Place,
    order: u64,
    attempts: u32,
    /// The filters that refused it, a bit each.
    by: u32,
    /// What was last said about it.
    said: Option<String>,
    /// Whether it has changed while it was busy.
    changed: bool,
}

/// First by priority, then by when they came.
type Turn = (i32, Reverse<u64>, Arc<str>);

/// Pods without a node, by uid.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pods: HashMap<Arc<str>, Waiting>,
    /// May hold pods that are not ready any more.
    ready: BinaryHeap<Turn>,
    timers: BTreeMap<(Instant, u64), Arc<str>>,
    /// Uids of pods that are not to have a node yet.
    gated: HashSet<String>,
    /// Uids of pods that belong to a group, by its namespace and name.
    groups: HashMap<(String, String), HashSet<Arc<str>>>,
    /// Uids of pods that were refused and wait for a change.
    parked: HashSet<Arc<str>>,
    count: u64,
}

impl Pending {
    /// Takes a pod in, or its newer form, which is tried again at once if it asks for something else.
    pub(crate) fn apply(&mut self, ask: Ask) {
        let uid = ask.occupant.uid.clone();
        self.gated.remove(&*uid);
        let ask = Arc::new(ask);
        if let Some(waiting) = self.pods.get_mut(&uid) {
            let (old, new) = (&waiting.ask.pod.metadata, &ask.pod.metadata);
            let changed = old.generation != new.generation || old.labels != new.labels;
            waiting.ask = ask;
            match waiting.place {
                Place::Busy => waiting.changed |= changed,
                Place::Parked(_) | Place::Later { .. } if changed => self.make_ready(&uid),
                _ => {}
            }
            return;
        }
        self.count += 1;
        let waiting = Waiting {
            ask,
            place: Place::Ready,
            order: self.count,
            attempts: 0,
            by: 0,
            said: None,
            changed: false,
        };
        if let Some(group) = &waiting.ask.group {
            let key = (group.namespace.clone(), group.name.clone());
            self.groups.entry(key).or_default().insert(uid.clone());
        }
        self.pods.insert(uid.clone(), waiting);
        self.make_ready(&uid);
    }

    pub(crate) fn remove(&mut self, uid: &str) {
        let removed = self.pods.remove(uid);
        if let Some(group) = removed.and_then(|waiting| waiting.ask.group.clone()) {
            let key = (group.namespace, group.name);
            if let Some(members) = self.groups.get_mut(&key) {
                members.remove(uid);
                if members.is_empty() {
                    self.groups.remove(&key);
                }
            }
        }
        self.gated.remove(uid);
        self.parked.remove(uid);
    }

    /// Notes that a pod is not to have a node yet; tells whether that is new.
    pub(crate) fn gate(&mut self, uid: &str) -> bool {
        if self.pods.contains_key(uid) {
            self.remove(uid);
        }
        self.gated.insert(uid.to_owned())
    }

    pub(crate) fn uids(&self) -> Vec<String> {
        self.pods.keys().map(|uid| uid.to_string()).chain(self.gated.iter().cloned()).collect()
    }

    /// The next pod to be tried. It is busy until something else is said of it.
    pub(crate) fn next(&mut self) -> Option<Arc<Ask>> {
        while let Some((_, Reverse(order), uid)) = self.ready.pop() {
            if let Some(waiting) = self.pods.get_mut(&uid)
                && waiting.place == Place::Ready
                && waiting.order == order
            {
                waiting.place = Place::Busy;
                return Some(waiting.ask.clone());
            }
        }
        self.next_of_later()
    }

    /// All pods of a group that are not busy, in their order, and with them one that is about to be tried.
    pub(crate) fn take_group(&mut self, group: &Group, first: &Arc<Ask>) -> Vec<Arc<Ask>> {
        let key = (group.namespace.clone(), group.name.clone());
        let mut members: Vec<(Reverse<i32>, u64, Arc<Ask>)> = Vec::new();
        for uid in self.groups.get(&key).into_iter().flatten() {
            let Some(waiting) = self.pods.get_mut(uid) else { continue };
            if waiting.place == Place::Busy && **uid != *first.uid() {
                continue;
            }
            waiting.place = Place::Busy;
            self.parked.remove(uid);
            members.push((Reverse(waiting.ask.priority()), waiting.order, waiting.ask.clone()));
        }
        members.sort_by_key(|(priority, order, _)| (*priority, *order));
        members.into_iter().map(|(_, _, ask)| ask).collect()
    }

    /// With nothing else to do nobody has to wait who only waits so that others have their turn.
    fn next_of_later(&mut self) -> Option<Arc<Ask>> {
        let mut found = None;
        let mut worn = Vec::new();
        for ((at, number), uid) in &self.timers {
            match self.pods.get(uid).map(|waiting| waiting.place) {
                Some(Place::Later { at: due, failure }) if due == *at => {
                    if !failure {
                        found = Some(uid.clone());
                        worn.push((*at, *number));
                        break;
                    }
                }
                _ => worn.push((*at, *number)),
            }
        }
        for key in worn {
            self.timers.remove(&key);
        }
        let waiting = self.pods.get_mut(&found?)?;
        waiting.place = Place::Busy;
        Some(waiting.ask.clone())
    }

    /// Filters refused a pod, a bit each in `by`: it waits for a change. Tells whether that was not said before.
    pub(crate) fn park(&mut self, uid: &str, by: u32, message: &str, now: Instant) -> bool {
        let Some((key, _)) = self.pods.get_key_value(uid) else { return false };
        let key = key.clone();
        self.count += 1;
        let Some(waiting) = self.pods.get_mut(uid) else { return false };
        waiting.attempts += 1;
        waiting.order = self.count;
        waiting.by = by;
        let new = waiting.said.as_deref() != Some(message);
        waiting.said = Some(message.to_owned());
        if std::mem::take(&mut waiting.changed) {
            self.make_ready(&key);
        } else {
            waiting.place = Place::Parked(now + pause(waiting.attempts));
            self.parked.insert(key);
        }
        new
    }

    /// A pod that was said to be waiting has become busy: room is made for it.
    pub(crate) fn busy(&mut self, uid: &str) {
        self.parked.remove(uid);
        if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.place = Place::Busy;
        }
    }

    /// Something was tried for a pod: it is tried again after a while, at the earliest after a `failure`.
    pub(crate) fn retry(&mut self, uid: &str, now: Instant, failure: bool) {
        let Some((key, waiting)) = self.pods.get_key_value(uid) else { return };
        let (key, attempts) = (key.clone(), waiting.attempts + u32::from(failure));
        if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.attempts = attempts;
        }
        self.set_timer(&key, now + pause(attempts), failure);
    }

    /// Something has changed: pods that found no node are tried again. Those that `chosen` does not take stay.
    pub(crate) fn wake(&mut self, now: Instant, chosen: impl Fn(&Ask, u32) -> bool) {
        let parked = self.parked.iter().filter_map(|uid| match self.pods.get(uid) {
            Some(Waiting { place: Place::Parked(at), ask, by, .. }) if chosen(ask, *by) => {
                Some((uid.clone(), *at))
            }
            _ => None,
        });
        for (uid, at) in parked.collect::<Vec<_>>() {
            if at <= now {
                self.make_ready(&uid);
            } else {
                self.set_timer(&uid, at, false);
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
            let due = |place: Place| matches!(place, Place::Later { at: due, .. } if due == at);
            if self.pods.get(&uid).is_some_and(|waiting| due(waiting.place)) {
                self.make_ready(&uid);
            }
        }
    }

    fn make_ready(&mut self, uid: &Arc<str>) {
        self.parked.remove(uid);
        if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.place = Place::Ready;
            self.ready.push((waiting.ask.priority(), Reverse(waiting.order), uid.clone()));
        }
    }

    fn set_timer(&mut self, uid: &Arc<str>, at: Instant, failure: bool) {
        self.parked.remove(uid);
        if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.place = Place::Later { at, failure };
            self.count += 1;
            self.timers.insert((at, self.count), uid.clone());
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

    fn pod(name: &str, priority: i32, generation: i64) -> Ask {
        let pod = serde_json::from_value(json!({
            "metadata": { "name": name, "uid": name, "generation": generation }, "spec": { "priority": priority },
        }));
        Ask::new(pod.unwrap(), Arc::default())
    }

    fn names(pending: &mut Pending) -> Vec<String> {
        std::iter::from_fn(|| pending.next()).map(|ask| ask.uid().to_owned()).collect()
    }

    #[test]
    fn the_more_urgent_and_the_older_come_first() {
        let mut pending = Pending::default();
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5), ("gone", 9)] {
            pending.apply(pod(name, priority, 1));
        }
        pending.remove("gone");
        assert_eq!(names(&mut pending), ["b", "d", "a", "c"]);
        // Who was refused is tried again after those who were not.
        pending.park("a", 1, "full", Instant::now());
        pending.apply(pod("e", 0, 1));
        pending.wake(Instant::now() + LONGEST_PAUSE, |_, _| true);
        assert_eq!(names(&mut pending), ["a", "e"]);
        pending.park("e", 1, "full", Instant::now());
        pending.park("a", 1, "full", Instant::now());
        pending.wake(Instant::now() + LONGEST_PAUSE, |_, _| true);
        assert_eq!(names(&mut pending), ["e", "a"]);
    }

    #[test]
    fn refused_pods_wait_for_a_change_that_means_something_to_them() {
        let mut pending = Pending::default();
        let now = Instant::now();
        pending.apply(pod("a", 0, 1));
        assert_eq!(names(&mut pending), ["a"]);
        assert!(pending.park("a", 4, "full", now));
        pending.tick(now + LONGEST_PAUSE);
        assert!(names(&mut pending).is_empty());
        pending.wake(now, |_, by| by == 3);
        assert!(names(&mut pending).is_empty());
        pending.wake(now, |_, by| by == 4);
        // Nobody else waits: neither need it.
        assert_eq!(names(&mut pending), ["a"]);
        assert!(!pending.park("a", 4, "full", now));
        pending.wake(now, |_, _| true);
        pending.apply(pod("b", 0, 1));
        assert_eq!(names(&mut pending), ["b", "a"]);
    }

    #[test]
    fn what_failed_is_not_tried_before_its_time() {
        let mut pending = Pending::default();
        let now = Instant::now();
        pending.apply(pod("a", 0, 1));
        assert_eq!(names(&mut pending), ["a"]);
        pending.retry("a", now, true);
        assert!(names(&mut pending).is_empty());
        assert_eq!(pending.next_timer(), Some(now + FIRST_PAUSE));
        pending.tick(now + FIRST_PAUSE);
        assert_eq!(names(&mut pending), ["a"]);
        for expected in [2, 4, 8, 10, 10] {
            pending.retry("a", now, true);
            assert_eq!(pending.next_timer(), Some(now + Duration::from_secs(expected)));
            pending.tick(now + LONGEST_PAUSE);
            assert_eq!(names(&mut pending), ["a"]);
        }
    }

    #[test]
    fn a_pod_that_asks_for_something_else_is_tried_at_once() {
        let mut pending = Pending::default();
        pending.apply(pod("a", 0, 1));
        pending.next();
        pending.park("a", 1, "full", Instant::now());
        pending.apply(pod("a", 0, 1));
        assert!(pending.next().is_none());
        pending.apply(pod("a", 0, 2));
        assert!(pending.next().is_some());
        // It may have changed while it was being decided on.
        pending.apply(pod("a", 0, 3));
        pending.park("a", 1, "full", Instant::now());
        assert!(pending.next().is_some());
    }
}
