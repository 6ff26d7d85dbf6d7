//! Pods of DaemonSets that fail are replaced, but the more often one fails on a node, the later.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The pause after the first failure; it doubles with each further one.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, Clone, Copy)]
struct Failed {
    at: Instant,
    pause: Duration,
}

/// The failures of pods, by the uid of the set and the node.
#[derive(Debug, Default)]
pub(super) struct Backoff(Mutex<HashMap<(String, String), Failed>>);

impl Backoff {
    /// How long a failed pod is still kept; none when it may be replaced now, which is noted.
    pub(super) fn left(&self, set: &str, node: &str, now: Instant) -> Option<Duration> {
        let mut all = self.0.lock();
        // Who has not failed for long is as if he never had.
        all.retain(|_, failed| now.duration_since(failed.at) <= 2 * LONGEST);
        let key = (set.to_owned(), node.to_owned());
        let pause = match all.get(&key) {
            None => FIRST,
            Some(failed) => {
                let left = failed.pause.saturating_sub(now.duration_since(failed.at));
                if !left.is_zero() {
                    return Some(left);
                }
                (failed.pause * 2).min(LONGEST)
            }
        };
        all.insert(key, Failed { at: now, pause });
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_end_and_are_forgotten() {
        let backoff = Backoff::default();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let left = |seconds| backoff.left("set", "node", at(seconds)).map(|left| left.as_secs());
        assert_eq!(left(0), None);
        assert_eq!(left(0), Some(1));
        assert_eq!(backoff.left("set", "other", at(0)), None);
        assert_eq!(left(1), None);
        assert_eq!(left(2), Some(1));
        assert_eq!(left(3), None);
        assert_eq!(left(4), Some(3));
        // After half an hour without failures the first pause counts again.
        assert_eq!(left(3 + 1801), None);
        assert_eq!(left(3 + 1801), Some(1));
    }
}
