//! Which objects a controller has to look at: each once, however often it changed, never twice at the same
//! time, and after a failure again with growing pauses.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Display;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::{Error, Result};

/// The pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

struct State<T> {
    ready: VecDeque<T>,
    /// What is in `ready`, or has been added while it was being worked on.
    waiting: HashSet<T>,
    running: HashSet<T>,
    failures: HashMap<T, u32>,
    /// What is to be added later, by when; the number keeps equal times apart.
    timers: BTreeMap<(Instant, u64), T>,
    deadlines: HashMap<T, (Instant, u64)>,
    count: u64,
}

/// A queue of things to look at. One [`Queue::run`] serves it.
pub(crate) struct Queue<T> {
    name: &'static str,
    state: Mutex<State<T>>,
    wake: Notify,
}

/// When a thing that was looked at wants to be looked at again.
pub(crate) type Again = Option<Duration>;

impl<T: Clone + Eq + Hash + Display> Queue<T> {
    pub(crate) fn new(name: &'static str) -> Arc<Queue<T>> {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            running: HashSet::new(),
            failures: HashMap::new(),
            timers: BTreeMap::new(),
            deadlines: HashMap::new(),
            count: 0,
        };
        Arc::new(Queue { name, state: Mutex::new(state), wake: Notify::new() })
    }

    /// Has a thing looked at soon.
    pub(crate) fn add(&self, item: T) {
        if self.state.lock().add(item) {
            self.wake.notify_one();
        }
    }

    /// Has a thing looked at after a while, if nothing has it looked at before; of two times the earlier counts.
    pub(crate) fn add_after(&self, item: T, after: Duration) {
        if after.is_zero() {
            return self.add(item);
        }
        self.state.lock().add_at(item, Instant::now() + after);
        self.wake.notify_one();
    }

    /// Looks at what is added, at `width` things at the same time at most. Never returns.
    pub(crate) async fn run<W, F>(&self, width: usize, work: W) -> Result<()>
    where
        W: Fn(T) -> F,
        F: Future<Output = Result<Again>>,
    {
        let mut running = FuturesUnordered::new();
        loop {
            let item = tokio::select! {
                biased;
                Some((item, result)) = running.next(), if !running.is_empty() => {
                    self.finish(item, result);
                    continue;
                }
                item = self.next(), if running.len() < width => item,
            };
            let future = work(item.clone());
            running.push(async move { (item, future.await) });
        }
    }

    async fn next(&self) -> T {
        loop {
            let deadline = {
                let mut state = self.state.lock();
                state.move_due(Instant::now());
                if let Some(item) = state.take() {
                    return item;
                }
                state.timers.first_key_value().map(|((at, _), _)| *at)
            };
            match deadline {
                Some(at) => {
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => self.wake.notified().await,
            }
        }
    }

    fn finish(&self, item: T, result: Result<Again>) {
        let mut state = self.state.lock();
        state.running.remove(&item);
        if state.waiting.contains(&item) {
            state.ready.push_back(item.clone());
        }
        match result {
            Ok(again) => {
                state.failures.remove(&item);
                if let Some(after) = again {
                    state.add_at(item, Instant::now() + after);
                }
            }
            Err(error) => {
                let failures = state.failures.entry(item.clone()).or_default();
                *failures = failures.saturating_add(1);
                let pause = pause(*failures);
                if error.is_conflict() || matches!(error, Error::Stale { .. }) {
                    tracing::debug!(queue = self.name, %item, error = &error as &dyn std::error::Error, "again");
                } else {
                    tracing::warn!(queue = self.name, %item, error = &error as &dyn std::error::Error, "failed");
                }
                state.add_at(item, Instant::now() + pause);
            }
        }
    }
}

fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(20)).min(LONGEST_PAUSE)
}

impl<T: Clone + Eq + Hash> State<T> {
    /// Whether there is something new to take.
    fn add(&mut self, item: T) -> bool {
        if !self.waiting.insert(item.clone()) || self.running.contains(&item) {
            return false;
        }
        self.ready.push_back(item);
        true
    }

    fn add_at(&mut self, item: T, at: Instant) {
        if let Some(before) = self.deadlines.get(&item).copied() {
            if before.0 <= at {
                return;
            }
            self.timers.remove(&before);
        }
        self.count += 1;
        self.deadlines.insert(item.clone(), (at, self.count));
        self.timers.insert((at, self.count), item);
    }

    fn move_due(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let item = entry.remove();
            self.deadlines.remove(&item);
            self.add(item);
        }
    }

    fn take(&mut self) -> Option<T> {
        let item = self.ready.pop_front()?;
        self.waiting.remove(&item);
        self.running.insert(item.clone());
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_waits_once_and_is_not_taken_twice_at_a_time() {
        let queue = Queue::new("test");
        queue.add(1);
        queue.add(1);
        let mut state = queue.state.lock();
        assert_eq!(state.take(), Some(1));
        assert_eq!(state.take(), None);
        assert!(!state.add(1));
        assert_eq!(state.take(), None);
        drop(state);
        queue.finish(1, Ok(None));
        assert_eq!(queue.state.lock().take(), Some(1));
    }

    #[test]
    fn of_two_times_the_earlier_counts() {
        let queue = Queue::new("test");
        let mut state = queue.state.lock();
        let now = Instant::now();
        let second = Duration::from_secs(1);
        state.add_at(1, now + 2 * second);
        state.add_at(1, now + second);
        state.add_at(1, now + 3 * second);
        assert_eq!(state.timers.len(), 1);
        state.move_due(now + second);
        assert_eq!(state.take(), Some(1));
        assert!(state.timers.is_empty() && state.deadlines.is_empty());
    }

    #[test]
    fn pauses_grow_and_end() {
        assert_eq!(pause(1), FIRST_PAUSE);
        assert_eq!(pause(3), FIRST_PAUSE * 4);
        assert_eq!(pause(60), LONGEST_PAUSE);
    }
}
