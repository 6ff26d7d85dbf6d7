//! Histories: what many clients at once asked and were answered, and whether one store could have answered so.
//!
//! Every write that succeeds has a revision, so that there is only one order to check: each answer must be right in it, and
//! the order must agree with the clock where one call ended before another began.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use dray_store::{Entry, Error, Event, EventKind, Store};

use super::{draft, key};

#[derive(Debug, Clone)]
pub enum Call {
    Create,
    Update { expected: u64 },
    Delete { expected: Option<u64> },
    Get,
}

#[derive(Debug, Clone)]
pub enum Answer {
    /// The write has this revision.
    Written(u64),
    /// A read, or a conflict: the key's revision, none when it is not there.
    Saw(Option<u64>),
    /// Something is there.
    SawAny,
    /// Done or not: nobody knows.
    Unknown,
}

#[derive(Debug, Clone)]
pub struct Record {
    pub call: Call,
    pub name: String,
    pub answer: Answer,
    invoked: u64,
    returned: u64,
}

/// Notes calls of many clients; its clock ticks at every beginning and end.
#[derive(Default)]
pub struct Recorder {
    clock: AtomicU64,
    records: Mutex<Vec<Record>>,
}

impl Recorder {
    /// When a call begins.
    pub fn begin(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    pub fn write(&self, invoked: u64, call: Call, name: &str, result: &Result<Entry, Error>) {
        let answer = match result {
            Ok(entry) => Answer::Written(entry.revision()),
            Err(Error::Exists { .. }) => Answer::SawAny,
            Err(Error::NotFound { .. }) => Answer::Saw(None),
            Err(Error::Conflict { current, .. }) => Answer::Saw(Some(current.revision())),
            Err(_) => Answer::Unknown,
        };
        self.note(invoked, call, name, answer);
    }

    pub fn read(&self, invoked: u64, name: &str, entry: Option<&Entry>) {
        self.note(invoked, Call::Get, name, Answer::Saw(entry.map(Entry::revision)));
    }

    fn note(&self, invoked: u64, call: Call, name: &str, answer: Answer) {
        let returned = self.clock.fetch_add(1, Ordering::SeqCst);
        self.records.lock().unwrap().push(Record { call, name: name.to_owned(), answer, invoked, returned });
    }

    /// Checks everything that was noted. `events` is what a watcher of everything saw from the beginning. Reads of another
    /// server's picture may lag: `fresh` says whether they must not.
    pub fn check(&self, events: &[Event], fresh: bool) {
        let records = self.records.lock().unwrap();
        let versions = versions(events);
        check_writes(&records, events);
        for record in records.iter() {
            let (oldest, newest) = window(record, &records, fresh);
            let holds = |state: Option<u64>| match record.answer {
                Answer::Saw(saw) => state == saw,
                Answer::SawAny => state.is_some(),
                Answer::Written(_) | Answer::Unknown => true,
            };
            let empty = BTreeMap::new();
            let versions = versions.get(&record.name).unwrap_or(&empty);
            let at_first = versions.range(..=oldest).next_back().and_then(|(_, state)| *state);
            let later = versions.range(oldest + 1..=newest.max(oldest + 1)).map(|(_, state)| *state);
            assert!(
                std::iter::once(at_first).chain(later).any(holds),
                "no moment between revisions {oldest} and {newest} explains {record:?}"
            );
        }
    }
}

/// For each key what it was from which revision on.
fn versions(events: &[Event]) -> BTreeMap<String, BTreeMap<u64, Option<u64>>> {
    let mut versions = BTreeMap::<_, BTreeMap<_, _>>::new();
    for event in events {
        let revision = event.entry.revision();
        let state = (event.kind != EventKind::Deleted).then_some(revision);
        versions.entry(event.name.to_string()).or_default().insert(revision, state);
    }
    versions
}

/// Every write that succeeded is an event with its revision, every event is a write that succeeded or may have, each was
/// allowed where it stands, and none stands before a write that had ended when it began.
fn check_writes(records: &[Record], events: &[Event]) {
    let mut written = BTreeMap::new();
    for record in records {
        if let Answer::Written(revision) = record.answer {
            assert!(written.insert(revision, record).is_none(), "revision {revision} was given twice");
        }
    }
    let mut state = BTreeMap::<String, u64>::new();
    let mut last = 0;
    let mut latest_begin = 0;
    for event in events {
        let revision = event.entry.revision();
        assert!(revision > last, "{revision} comes after {last}");
        last = revision;
        let before = state.remove(&*event.name);
        assert_eq!(event.previous.as_ref().map(Entry::revision), before, "before {revision}");
        if event.kind != EventKind::Deleted {
            state.insert(event.name.to_string(), revision);
        }
        let Some(record) = written.remove(&revision) else {
            let may =
                |record: &&Record| matches!(record.answer, Answer::Unknown) && record.name == *event.name;
            assert!(records.iter().any(|record| may(&record)), "nobody wrote revision {revision}");
            continue;
        };
        assert_eq!(record.name, *event.name);
        let allowed = match record.call {
            Call::Create => before.is_none(),
            Call::Update { expected } => before == Some(expected),
            Call::Delete { expected } => before.is_some() && (expected.is_none() || expected == before),
            Call::Get => false,
        };
        assert!(allowed, "{record:?} was not allowed over {before:?}");
        assert!(record.returned > latest_begin, "{record:?} ended before an earlier write began");
        latest_begin = latest_begin.max(record.invoked);
    }
    assert!(written.is_empty(), "acknowledged and lost: {written:?}");
}

/// The revisions between which a call looked.
fn window(record: &Record, records: &[Record], fresh: bool) -> (u64, u64) {
    let revisions = |when: &dyn Fn(&Record) -> bool| {
        let written = records.iter().filter(|other| when(other));
        written
            .filter_map(
                |other| if let Answer::Written(revision) = other.answer { Some(revision) } else { None },
            )
            .max()
    };
    let fresh = fresh || !matches!(record.call, Call::Get);
    let oldest = if fresh { revisions(&|other| other.returned < record.invoked).unwrap_or(0) } else { 0 };
    // Writes that nobody has an answer to may come at any time.
    let unknown = records.iter().any(|other| matches!(other.answer, Answer::Unknown));
    let newest = revisions(&|other| unknown || other.invoked < record.returned).unwrap_or(0);
    (oldest, if unknown { u64::MAX - 1 } else { newest })
}

/// One client's life: writes and reads of a few keys, with what it last saw of them as its conditions.
pub async fn live(store: &Store, recorder: &Recorder, client: u64, calls: u64) {
    // A sequence of numbers that is the same in every run (Knuth's MMIX generator).
    let mut state = client.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for number in 0..calls {
        let name = format!("a/{}", random(5));
        let seen = store.get(&key(&name)).map_or(1, |entry| entry.revision());
        let begun = recorder.begin();
        match random(5) {
            0 | 1 => {
                let result = store.create(key(&name), draft(&format!("{client}-{number}"))).await;
                recorder.write(begun, Call::Create, &name, &result);
            }
            2 => {
                let result = store.update(key(&name), draft(&format!("{client}-{number}")), seen).await;
                recorder.write(begun, Call::Update { expected: seen }, &name, &result);
            }
            3 => {
                let expected = (random(2) == 0).then_some(seen);
                let result = store.delete(key(&name), expected, None).await;
                recorder.write(begun, Call::Delete { expected }, &name, &result);
            }
            _ => recorder.read(begun, &name, store.get(&key(&name)).as_ref()),
        }
    }
}
