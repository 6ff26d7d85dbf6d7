//! The store as one would write it without a disk, without threads and without memory to spare, and operations on both.

use std::collections::BTreeMap;

use dray_store::{Error, EventKind, Limits, Store, Watcher};
use proptest::prelude::*;

use super::{PODS, draft, key, text};

/// The events that the stores under test keep of a resource.
pub const EVENTS: usize = 12;

pub fn limits() -> Limits {
    Limits { history_events: EVENTS, ..Limits::default() }
}

#[derive(Debug, Clone)]
pub enum Step {
    Create {
        name: u8,
        text: u8,
    },
    Update {
        name: u8,
        text: u8,
        stale: bool,
    },
    Delete {
        name: u8,
        expected: Option<bool>,
        last: Option<u8>,
    },
    /// Follow a prefix from the revision of the event so many events ago.
    Watch {
        prefix: bool,
        back: u8,
    },
    /// Take what a watcher has.
    Drain {
        watcher: u8,
    },
    Reopen,
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = 0..6_u8;
    let step = prop_oneof![
        4 => (name.clone(), any::<u8>()).prop_map(|(name, text)| Step::Create { name, text }),
        5 => (name.clone(), any::<u8>(), prop::bool::weighted(0.2))
            .prop_map(|(name, text, stale)| Step::Update { name, text, stale }),
        3 => (name, prop::option::of(prop::bool::weighted(0.3)), prop::option::of(any::<u8>()))
            .prop_map(|(name, expected, last)| Step::Delete { name, expected, last }),
        3 => (any::<bool>(), 0..2 * EVENTS as u8).prop_map(|(prefix, back)| Step::Watch { prefix, back }),
        4 => any::<u8>().prop_map(|watcher| Step::Drain { watcher }),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..80)
}

fn name_of(number: u8) -> String {
    format!("{}/{number}", if number.is_multiple_of(2) { "a" } else { "b" })
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Happened {
    revision: u64,
    kind: EventKind,
    name: String,
    text: String,
    previous: Option<String>,
}

struct Following {
    watcher: Watcher,
    prefix: &'static str,
    position: u64,
}

#[derive(Default)]
struct Model {
    values: BTreeMap<String, (u64, String)>,
    log: Vec<Happened>,
    /// The revision at which the store was opened: what came before is not known to watchers.
    opened: u64,
    following: Vec<Following>,
}

/// What a store is opened by; it is closed before it is opened again.
pub trait Opener {
    fn open(&self) -> Store;
    /// Whether deletes show the value that the one who deletes names.
    fn shows_last(&self) -> bool {
        true
    }
}

/// Does the steps with a store and with the model, and compares what comes of each.
pub async fn check(opener: &impl Opener, steps: &[Step]) {
    let mut store = opener.open();
    let mut model = Model { opened: store.snapshot().revision(), ..Model::default() };
    for step in steps {
        if matches!(step, Step::Reopen) {
            model.following.clear();
            tokio::task::block_in_place(|| store.close());
            store = opener.open();
            model.opened = model.revision();
        } else {
            model.step(&store, step, opener.shows_last()).await;
        }
        model.compare(&store);
    }
    tokio::task::block_in_place(|| store.close());
}

impl Model {
    fn revision(&self) -> u64 {
        self.log.last().map_or(self.opened, |event| event.revision)
    }

    /// The revision up to which the history forgot.
    fn forgotten(&self) -> u64 {
        let known = self.log.iter().filter(|event| event.revision > self.opened);
        known.rev().nth(EVENTS).map_or(self.opened, |event| event.revision)
    }

    fn happened(&mut self, revision: u64, kind: EventKind, name: &str, text: String) {
        assert!(revision > self.revision(), "revision {revision} does not come after {}", self.revision());
        let previous = self.values.remove(name).map(|(_, text)| text);
        if kind != EventKind::Deleted {
            self.values.insert(name.to_owned(), (revision, text.clone()));
        }
        self.log.push(Happened { revision, kind, name: name.to_owned(), text, previous });
    }

    async fn step(&mut self, store: &Store, step: &Step, shows_last: bool) {
        match step {
            Step::Create { name, text: new } => {
                let name = name_of(*name);
                let result = store.create(key(&name), draft(&new.to_string())).await;
                match self.values.get(&name) {
                    Some(_) => assert!(matches!(result, Err(Error::Exists { .. })), "{result:?}"),
                    None => {
                        let entry = result.unwrap();
                        self.happened(entry.revision(), EventKind::Added, &name, text(&entry));
                        assert_eq!(text(&entry), new.to_string());
                    }
                }
            }
            Step::Update { name, text: new, stale } => {
                let name = name_of(*name);
                let current = self.values.get(&name).cloned();
                let expected = current.as_ref().map_or(1, |(revision, _)| revision - u64::from(*stale));
                let result = store.update(key(&name), draft(&new.to_string()), expected).await;
                match current {
                    None => assert!(matches!(result, Err(Error::NotFound { .. })), "{result:?}"),
                    Some((revision, _)) if *stale => {
                        let Err(Error::Conflict { current, .. }) = result else { panic!("{result:?}") };
                        assert_eq!(current.revision(), revision);
                    }
                    Some(_) => {
                        let entry = result.unwrap();
                        self.happened(entry.revision(), EventKind::Modified, &name, text(&entry));
                        assert_eq!(text(&entry), new.to_string());
                    }
                }
            }
            Step::Delete { name, expected, last } => {
                let name = name_of(*name);
                let current = self.values.get(&name).cloned();
                let revision = current.as_ref().map_or(1, |(revision, _)| *revision);
                let given = expected.map(|stale| revision - u64::from(stale));
                let last = last.as_ref().map(u8::to_string);
                let result = store.delete(key(&name), given, last.as_deref().map(draft)).await;
                match current {
                    None => assert!(matches!(result, Err(Error::NotFound { .. })), "{result:?}"),
                    Some(_) if *expected == Some(true) => {
                        assert!(matches!(result, Err(Error::Conflict { .. })), "{result:?}");
                    }
                    Some((_, before)) => {
                        let entry = result.unwrap();
                        let shown = last.filter(|_| shows_last).unwrap_or(before);
                        assert_eq!(text(&entry), shown);
                        self.happened(entry.revision(), EventKind::Deleted, &name, shown);
                    }
                }
            }
            Step::Watch { prefix, back } => {
                let prefix = if *prefix { "a/" } else { "" };
                let ago = self.log.iter().rev().nth(usize::from(*back));
                let position = ago.map_or(self.opened, |event| event.revision);
                let followed = store.watch(PODS, prefix, position);
                if position < self.forgotten() {
                    assert!(matches!(followed, Err(Error::Expired { .. })));
                } else {
                    self.following.push(Following { watcher: followed.unwrap(), prefix, position });
                }
            }
            Step::Drain { watcher } => {
                if !self.following.is_empty() {
                    let index = usize::from(*watcher) % self.following.len();
                    self.drain(index);
                }
            }
            Step::Reopen => unreachable!("the store is opened by who owns it"),
        }
    }

    /// A watcher gives every event of its prefix after its position, in order, or says that it cannot.
    fn drain(&mut self, index: usize) {
        let forgotten = self.forgotten();
        let newest = self.revision();
        let following = &mut self.following[index];
        if following.position < forgotten {
            assert!(matches!(following.watcher.pending(), Err(Error::Expired { .. })));
            self.following.swap_remove(index);
            return;
        }
        let mut seen = Vec::new();
        loop {
            let events = following.watcher.pending().unwrap();
            if events.is_empty() {
                break;
            }
            seen.extend(events.iter().map(|event| Happened {
                revision: event.entry.revision(),
                kind: event.kind,
                name: event.name.to_string(),
                text: text(&event.entry),
                previous: event.previous.as_ref().map(text),
            }));
        }
        let after = following.position;
        let expected = self
            .log
            .iter()
            .filter(|event| event.revision > after && event.name.starts_with(following.prefix));
        assert_eq!(seen, expected.cloned().collect::<Vec<_>>());
        following.position = newest;
    }

    fn compare(&self, store: &Store) {
        let snapshot = store.snapshot();
        assert_eq!(snapshot.revision(), self.revision());
        let stored = snapshot.range(PODS, "", None);
        let stored: Vec<_> =
            stored.map(|(name, entry)| (name.to_string(), (entry.revision(), text(entry)))).collect();
        let expected: Vec<_> =
            self.values.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        assert_eq!(stored, expected);
        let bytes = snapshot
            .range(PODS, "", None)
            .map(|(name, entry)| (PODS.len() + name.len() + entry.json().len()) as u64)
            .sum::<u64>();
        assert_eq!(snapshot.bytes(), bytes);
    }
}
