//! A priority level: seats for requests that are worked on, and queues for those that wait.
//!
//! A flow is dealt a hand of queues, always the same, and waits in the shortest of them: a flow that asks for much fills its
//! hand, and others meet it in few of theirs. Of the queues, the one that has had the least is served next.

use std::{collections::VecDeque, sync::Arc};

use dray_machinery::object;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;

/// How requests of a level wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Queuing {
    /// They are never held up.
    Exempt,
    /// They are refused when all seats are taken.
    Reject,
    /// They wait.
    Queues { count: usize, hand: usize, length: usize },
}

impl Queuing {
    pub(super) fn of(configuration: &Value) -> Queuing {
        let spec = &configuration["spec"];
        if spec["type"] == "Exempt" {
            return Queuing::Exempt;
        }
        let response = &spec["limited"]["limitResponse"];
        if object::text(response, &["type"]) != "Queue" {
            return Queuing::Reject;
        }
        let number = |field: &str, default: usize, most: usize| {
            let given = response["queuing"][field].as_u64().and_then(|number| usize::try_from(number).ok());
            given.unwrap_or(default).clamp(1, most)
        };
        let count = number("queues", 64, 10_000);
        Queuing::Queues {
            count,
            hand: number("handSize", 8, 10).min(count),
            length: number("queueLengthLimit", 50, 10_000),
        }
    }
}

struct Waiter {
    width: u32,
    seat: oneshot::Sender<Seat>,
}

#[derive(Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    /// How much it has been served, in seats, as far as it counts: those that were empty begin where the others are.
    served: u64,
}

#[derive(Default)]
struct State {
    limit: u32,
    taken: u32,
    queues: Vec<Queue>,
    /// What the queue that was served last had been served before.
    now: u64,
}

/// A level.
pub(super) struct Level {
    pub(super) uid: String,
    queuing: Queuing,
    state: Mutex<State>,
}

/// A place among the requests that are worked on. It is given back when dropped.
pub(super) struct Seat {
    level: Arc<Level>,
    width: u32,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.width > 0 {
            self.level.give_back(self.width);
        }
    }
}

/// What becomes of a request.
pub(super) enum Entry {
    /// It is worked on.
    Seated(Option<Seat>),
    /// It waits until it is given a seat.
    Waiting(oneshot::Receiver<Seat>),
    /// There is no room for it.
    Full,
}

impl Level {
    pub(super) fn new(uid: &str, queuing: Queuing) -> Arc<Level> {
        let count = if let Queuing::Queues { count, .. } = queuing { count } else { 0 };
        let mut state = State::default();
        state.queues.resize_with(count, Queue::default);
        Arc::new(Level { uid: uid.to_owned(), queuing, state: Mutex::new(state) })
    }

    pub(super) fn is_like(&self, uid: &str, queuing: &Queuing) -> bool {
        self.uid == uid && self.queuing == *queuing
    }

    pub(super) fn set_limit(self: &Arc<Self>, limit: u32) {
        self.state.lock().limit = limit;
        self.give_back(0);
    }

    #[cfg(test)]
    pub(super) fn limit(&self) -> u32 {
        self.state.lock().limit
    }

    /// Lets a request of a flow in, which takes so many seats.
    pub(super) fn enter(self: &Arc<Self>, flow: u64, width: u32) -> Entry {
        let (count, hand, length) = match self.queuing {
            Queuing::Exempt => return Entry::Seated(None),
            Queuing::Reject => (0, 0, 0),
            Queuing::Queues { count, hand, length } => (count, hand, length),
        };
        let mut state = self.state.lock();
        // No request is wider than the level.
        let width = width.clamp(1, state.limit.max(1));
        let nobody_waits = state.queues.iter().all(|queue| queue.waiters.is_empty());
        if nobody_waits && state.taken + width <= state.limit {
            state.taken += width;
            return Entry::Seated(Some(Seat { level: self.clone(), width }));
        }
        let dealt = deal(flow, count, hand);
        for index in &dealt {
            // Who has gone away takes no room.
            state.queues[*index].waiters.retain(|waiter| !waiter.seat.is_closed());
        }
        let Some(index) = dealt.into_iter().min_by_key(|index| state.queues[*index].waiters.len()) else {
            return Entry::Full;
        };
        let now = state.now;
        let queue = &mut state.queues[index];
        if queue.waiters.len() >= length {
            return Entry::Full;
        }
        if queue.waiters.is_empty() {
            queue.served = queue.served.max(now);
        }
        let (seat, given) = oneshot::channel();
        queue.waiters.push_back(Waiter { width, seat });
        drop(state);
        self.give_back(0);
        Entry::Waiting(given)
    }

    /// Takes seats back and gives them to those who wait.
    fn give_back(self: &Arc<Self>, mut freed: u32) {
        loop {
            let next = {
                let mut state = self.state.lock();
                state.taken -= freed;
                state.next()
            };
            freed = 0;
            if next.is_empty() {
                return;
            }
            for waiter in next {
                let seat = Seat { level: self.clone(), width: waiter.width };
                if let Err(mut seat) = waiter.seat.send(seat) {
                    // He has gone away: the seat is given to another, and not by its own end.
                    freed += seat.width;
                    seat.width = 0;
                }
            }
        }
    }
}

impl State {
    /// Those who are given seats now.
    fn next(&mut self) -> Vec<Waiter> {
        let mut next = Vec::new();
        loop {
            let waiting = self.queues.iter_mut().filter(|queue| !queue.waiters.is_empty());
            let Some(queue) = waiting.min_by_key(|queue| queue.served) else { return next };
            let fits = |waiter: &mut Waiter| self.taken + waiter.width.min(self.limit) <= self.limit;
            let Some(waiter) = queue.waiters.pop_front_if(fits) else { return next };
            self.now = queue.served;
            queue.served += u64::from(waiter.width);
            self.taken += waiter.width;
            next.push(waiter);
        }
    }
}

/// The hand of a flow: so many of the queues, each once.
fn deal(mut flow: u64, count: usize, hand: usize) -> Vec<usize> {
    let mut dealt: Vec<usize> = Vec::with_capacity(hand);
    for taken in 0..hand.min(count) {
        let left = (count - taken) as u64;
        let mut card = (flow % left) as usize;
        flow /= left;
        // The card is one of those that are left: those before it that are gone are passed over.
        let mut gone = dealt.clone();
        gone.sort_unstable();
        for other in gone {
            if other <= card {
                card += 1;
            }
        }
        dealt.push(card);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn level(limit: u32, count: usize, hand: usize, length: usize) -> Arc<Level> {
        let level = Level::new("u", Queuing::Queues { count, hand, length });
        level.set_limit(limit);
        level
    }

    fn seated(entry: Entry) -> Seat {
        match entry {
            Entry::Seated(Some(seat)) => seat,
            _ => panic!("no seat"),
        }
    }

    fn waiting(entry: Entry) -> oneshot::Receiver<Seat> {
        match entry {
            Entry::Waiting(given) => given,
            _ => panic!("it does not wait"),
        }
    }

    #[test]
    fn hands_are_dealt_without_repetition() {
        for (count, hand) in [(1, 1), (8, 3), (64, 6), (128, 6), (10, 10)] {
            for flow in [0, 1, 7, 12_345, u64::MAX] {
                let dealt = deal(flow, count, hand);
                let different: BTreeSet<_> = dealt.iter().collect();
                assert_eq!((dealt.len(), different.len()), (hand, hand));
                assert!(dealt.iter().all(|card| *card < count));
            }
        }
        // All hands of two of four come up.
        let hands: BTreeSet<Vec<usize>> = (0..12).map(|flow| deal(flow, 4, 2)).collect();
        assert_eq!(hands.len(), 12);
    }

    #[test]
    fn who_finds_no_seat_waits_for_one() {
        let level = level(2, 4, 2, 1);
        let (one, two) = (seated(level.enter(1, 1)), seated(level.enter(1, 1)));
        let mut third = waiting(level.enter(1, 1));
        assert!(third.try_recv().is_err());
        drop(one);
        let third = third.try_recv().unwrap();
        // A wide one needs all seats.
        let mut wide = waiting(level.enter(2, 9));
        drop(two);
        assert!(wide.try_recv().is_err());
        drop(third);
        drop(wide.try_recv().unwrap());
        seated(level.enter(1, 2));
    }

    #[test]
    fn full_queues_refuse_and_those_who_left_make_room() {
        let level = level(1, 2, 2, 1);
        let _seat = seated(level.enter(1, 1));
        let (first, _second) = (waiting(level.enter(1, 1)), waiting(level.enter(1, 1)));
        assert!(matches!(level.enter(1, 1), Entry::Full));
        drop(first);
        waiting(level.enter(1, 1));
    }

    #[test]
    fn a_greedy_flow_does_not_hold_up_another() {
        let level = level(1, 2, 1, 50);
        let (greedy, modest) = (0, 1);
        let seat = seated(level.enter(greedy, 1));
        let crowd: Vec<_> = (0..20).map(|_| waiting(level.enter(greedy, 1))).collect();
        let mut late = waiting(level.enter(modest, 1));
        drop(seat);
        let mut crowd = crowd.into_iter();
        // One of the crowd may be before it, and then it is its turn.
        let first = crowd.next().unwrap().try_recv();
        drop(first);
        assert!(late.try_recv().is_ok());
    }

    #[test]
    fn seats_of_those_who_left_are_given_on() {
        let level = level(1, 1, 1, 50);
        let seat = seated(level.enter(0, 1));
        for _ in 0..30 {
            drop(waiting(level.enter(0, 1)));
        }
        let mut last = waiting(level.enter(0, 1));
        drop(seat);
        assert!(last.try_recv().is_ok());
    }

    #[test]
    fn some_are_never_held_up_and_some_never_wait() {
        let exempt = Level::new("u", Queuing::Exempt);
        assert!(matches!(exempt.enter(0, 1), Entry::Seated(None)));
        let reject = Level::new("u", Queuing::Reject);
        reject.set_limit(1);
        let seat = seated(reject.enter(0, 1));
        assert!(matches!(reject.enter(0, 1), Entry::Full));
        drop(seat);
        seated(reject.enter(0, 1));
    }
}
