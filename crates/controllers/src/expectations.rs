//! What a controller has asked for and not yet seen: while something is outstanding it makes and deletes
//! nothing more, so that a slow watch never leads to too many.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// After this long it is not waited for any more (the reference's `ExpectationsTimeout`).
pub(crate) const TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Expectation {
    creations: usize,
    /// Uids.
    deletions: HashSet<String>,
    since: Instant,
}

/// Expectations by the uid of the object that controls.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    all: Mutex<HashMap<String, Expectation>>,
}

impl Expectations {
    /// Whether all that was asked for has been seen, or will not be waited for.
    pub(crate) fn are_met(&self, owner: &str) -> bool {
        self.all.lock().get(owner).is_none_or(|expected| {
            (expected.creations == 0 && expected.deletions.is_empty()) || expected.since.elapsed() > TIMEOUT
        })
    }

    /// Adds to what is asked for; what was not seen in all its time is given up.
    pub(crate) fn expect(&self, owner: &str, creations: usize, deletions: HashSet<String>) {
        let mut all = self.all.lock();
        let new = || Expectation { creations: 0, deletions: HashSet::new(), since: Instant::now() };
        let expected = all.entry(owner.to_owned()).or_insert_with(new);
        if expected.since.elapsed() > TIMEOUT {
            *expected = new();
        }
        expected.since = Instant::now();
        expected.creations += creations;
        expected.deletions.extend(deletions);
    }

    /// Creations that were seen, or will not happen.
    pub(crate) fn created(&self, owner: &str, count: usize) {
        if let Some(expected) = self.all.lock().get_mut(owner) {
            expected.creations = expected.creations.saturating_sub(count);
        }
    }

    /// A deletion that was seen, or will not happen.
    pub(crate) fn deleted(&self, owner: &str, uid: &str) {
        if let Some(expected) = self.all.lock().get_mut(owner) {
            expected.deletions.remove(uid);
        }
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, owner: &str) {
        self.all.lock().remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_met_when_all_has_been_seen() {
        let expectations = Expectations::default();
        assert!(expectations.are_met("a"));
        expectations.expect("a", 2, HashSet::from(["x".to_owned()]));
        expectations.created("a", 1);
        expectations.deleted("a", "x");
        assert!(!expectations.are_met("a"));
        expectations.created("a", 5);
        assert!(expectations.are_met("a"));
        expectations.expect("a", 1, HashSet::new());
        expectations.expect("a", 0, HashSet::from(["y".to_owned()]));
        expectations.deleted("a", "y");
        assert!(!expectations.are_met("a"));
        expectations.forget("a");
        assert!(expectations.are_met("a"));
    }
}
