//! How many pods of a kind are on each node, for the kinds that were asked for: counted once, and then kept with each
//! pod that comes or goes. Pods of one template ask for the same kinds. It must not know what a number is good for.

use std::collections::HashMap;

use crate::ask::Occupant;
use crate::selector::Selector;
use crate::topology::NodeIndex;

/// Kinds that are kept beyond the decision that asked for them.
const KEPT: usize = 128;

/// The namespaces in which pods are meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    /// In order.
    pub(crate) namespaces: Vec<String>,
    pub(crate) selector: Selector,
}

impl Scope {
    fn takes(&self, pod: &Occupant) -> bool {
        self.namespaces.binary_search(&pod.namespace).is_ok() && self.selector.takes(&pod.labels)
    }
}

/// A kind of pods.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Matcher {
    /// All of these have to take a pod.
    pub(crate) all: Vec<Scope>,
    /// Whether pods that are about to end do not count.
    pub(crate) living: bool,
}

impl Matcher {
    pub(crate) fn takes(&self, pod: &Occupant) -> bool {
        !(self.living && pod.terminating) && self.all.iter().all(|scope| scope.takes(pod))
    }
}

#[derive(Debug)]
pub(crate) struct Counter {
    matcher: Matcher,
    counts: Vec<u32>,
    total: u64,
    used: u64,
}

impl Counter {
    pub(crate) fn matcher(&self) -> &Matcher {
        &self.matcher
    }

    pub(crate) fn count(&self, node: NodeIndex) -> u32 {
        self.counts.get(node).copied().unwrap_or(0)
    }

    /// How many there are in all.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    fn change(&mut self, node: NodeIndex, more: bool) {
        if self.counts.len() <= node {
            self.counts.resize(node + 1, 0);
        }
        if more {
            self.counts[node] += 1;
            self.total += 1;
        } else {
            self.counts[node] = self.counts[node].saturating_sub(1);
            self.total = self.total.saturating_sub(1);
        }
    }
}

/// The numbers of all kinds that were asked for.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    all: Vec<Counter>,
    index: HashMap<Matcher, usize>,
    /// The decision for which kinds are asked.
    now: u64,
}

impl Counters {
    pub(crate) fn get(&self, index: usize) -> &Counter {
        &self.all[index]
    }

    /// Begins a decision: what was found for the last one may be forgotten.
    pub(crate) fn begin(&mut self) {
        self.now += 1;
        if self.all.len() > 2 * KEPT {
            self.all.clear();
            self.index.clear();
        }
    }

    /// Where the numbers of a kind are. It stays there until the next decision begins.
    pub(crate) fn find<'a>(
        &mut self,
        matcher: Matcher,
        pods: impl Iterator<Item = (NodeIndex, &'a Occupant)>,
    ) -> usize {
        if let Some(&index) = self.index.get(&matcher) {
            self.all[index].used = self.now;
            return index;
        }
        let mut counter = Counter { matcher, counts: Vec::new(), total: 0, used: self.now };
        for (node, pod) in pods {
            if counter.matcher.takes(pod) {
                counter.change(node, true);
            }
        }
        let oldest = self.all.iter().enumerate().min_by_key(|(_, counter)| counter.used);
        let index = match oldest {
            Some((index, oldest)) if self.all.len() >= KEPT && oldest.used < self.now => {
                self.index.remove(&oldest.matcher);
                index
            }
            _ => self.all.len(),
        };
        self.index.insert(counter.matcher.clone(), index);
        if index == self.all.len() {
            self.all.push(counter);
        } else {
            self.all[index] = counter;
        }
        index
    }

    /// Notes that a pod has come to a node, or has left it.
    pub(crate) fn change(&mut self, pod: &Occupant, node: NodeIndex, more: bool) {
        for counter in &mut self.all {
            if counter.matcher.takes(pod) {
                counter.change(node, more);
            }
        }
    }
}
