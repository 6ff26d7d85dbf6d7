//! What the pods that are already placed mean for a new one: affinity, and anti-affinity in both directions. Worked out
//! once a decision, by parts of the cluster.

use crate::ask::{Ask, Occupant};
use crate::counters::{Matcher, Scope};
use crate::picture::Picture;
use crate::standing::Meaning;
use crate::terms::Term;
use crate::topology::{NOWHERE, NodeIndex};

/// What a pod that must be near others counts for those that come, as the reference has it.
const HARD_AFFINITY_WEIGHT: i64 = 1;

/// Numbers by part of the cluster.
#[derive(Debug, Clone)]
struct Parts {
    topology: usize,
    counts: Vec<i64>,
}

impl Parts {
    fn new(picture: &mut Picture, key: &str) -> Parts {
        let topology = picture.find_topology(key);
        Parts { topology, counts: vec![0; picture.topologies().get(topology).domains()] }
    }

    /// The numbers of a key, which may be there already.
    fn find<'a>(all: &'a mut Vec<Parts>, picture: &mut Picture, key: &str) -> &'a mut Parts {
        let topology = picture.find_topology(key);
        let at = match all.iter().position(|parts| parts.topology == topology) {
            Some(at) => at,
            None => {
                all.push(Parts::new(picture, key));
                all.len() - 1
            }
        };
        &mut all[at]
    }

    /// The number where a node is; nothing if it is in no part.
    fn count(&self, picture: &Picture, node: NodeIndex) -> Option<i64> {
        let domain = picture.topologies().get(self.topology).domain(node);
        (domain != NOWHERE).then(|| self.counts.get(domain as usize).copied().unwrap_or(0))
    }

    fn add(&mut self, picture: &Picture, node: NodeIndex, amount: i64) {
        let domain = picture.topologies().get(self.topology).domain(node);
        if let Some(count) = self.counts.get_mut(domain as usize) {
            *count += amount;
        }
    }

    fn add_all(&mut self, picture: &Picture, counter: usize, weight: i64) {
        let pods = picture.counters().get(counter);
        if pods.total() == 0 {
            return;
        }
        for node in 0..picture.slots() {
            let count = pods.count(node);
            if count > 0 {
                self.add(picture, node, weight * i64::from(count));
            }
        }
    }
}

fn scope(picture: &Picture, term: &Term) -> Scope {
    Scope { namespaces: picture.namespaces_of(term), selector: term.selector.clone() }
}

/// Why a node is not right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfriendly {
    NotNear,
    NotAway,
    Unwelcome,
}

/// What the neighbourhood says about a pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Neighbours {
    /// By key, the pods that all of its terms mean.
    near: Vec<Parts>,
    near_matcher: Option<Matcher>,
    /// Whether it is itself what it wants to be near.
    means_itself: bool,
    /// By term.
    away: Vec<(Matcher, Parts)>,
    /// By key, pods that want no such neighbour.
    unwelcome: Vec<Parts>,
}

impl Neighbours {
    pub(crate) fn new(picture: &mut Picture, ask: &Ask) -> Neighbours {
        let mut result = Neighbours::default();
        let pod = &*ask.occupant;
        let terms = &pod.terms;
        if !terms.near.is_empty() {
            let all = terms.near.iter().map(|term| scope(picture, term)).collect();
            let matcher = Matcher { all, living: false };
            let counter = picture.find_counter(matcher.clone());
            for term in &terms.near {
                Parts::find(&mut result.near, picture, &term.key);
            }
            for parts in &mut result.near {
                parts.add_all(picture, counter, 1);
            }
            result.means_itself = matcher.takes(pod);
            result.near_matcher = Some(matcher);
        }
        for term in &terms.away {
            let matcher = Matcher { all: vec![scope(picture, term)], living: false };
            let counter = picture.find_counter(matcher.clone());
            let mut parts = Parts::new(picture, &term.key);
            parts.add_all(picture, counter, 1);
            result.away.push((matcher, parts));
        }
        let standing = std::mem::take(&mut picture.standing);
        let labels = picture.namespaces.get(&pod.namespace).cloned();
        for (meaning, key, nodes) in standing.about(pod, labels.as_ref()) {
            if meaning == Meaning::Away {
                let parts = Parts::find(&mut result.unwelcome, picture, key);
                for (node, count) in nodes {
                    parts.add(picture, *node, i64::from(*count));
                }
            }
        }
        picture.standing = standing;
        result
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.near.is_empty() && self.away.is_empty() && self.unwelcome.is_empty()
    }

    pub(crate) fn refuse(&self, picture: &Picture, node: NodeIndex) -> Option<Unfriendly> {
        let mut alone = false;
        for parts in &self.near {
            match parts.count(picture, node) {
                None => return Some(Unfriendly::NotNear),
                Some(count) => alone |= count <= 0,
            }
        }
        if alone {
            // The first of those that want to be near each other has to begin somewhere.
            let nobody = self.near.iter().all(|parts| parts.counts.iter().all(|count| *count <= 0));
            if !(nobody && self.means_itself) {
                return Some(Unfriendly::NotNear);
            }
        }
        let has = |parts: &Parts| parts.count(picture, node).is_some_and(|count| count > 0);
        if self.away.iter().any(|(_, parts)| has(parts)) {
            return Some(Unfriendly::NotAway);
        }
        self.unwelcome.iter().any(has).then_some(Unfriendly::Unwelcome)
    }

    /// Supposes that a pod came to a node, or left it.
    pub(crate) fn suppose(
        &mut self,
        picture: &Picture,
        ask: &Ask,
        pod: &Occupant,
        node: NodeIndex,
        more: bool,
    ) {
        let amount = if more { 1 } else { -1 };
        if self.near_matcher.as_ref().is_some_and(|matcher| matcher.takes(pod)) {
            self.near.iter_mut().for_each(|parts| parts.add(picture, node, amount));
        }
        for (matcher, parts) in &mut self.away {
            if matcher.takes(pod) {
                parts.add(picture, node, amount);
            }
        }
        let labels = picture.namespaces.get(ask.namespace());
        for term in &pod.terms.away {
            if !term.means(ask.namespace(), labels, &ask.occupant.labels) {
                continue;
            }
            let same = |parts: &&mut Parts| picture.topologies().is(parts.topology, &term.key);
            // One that nobody has yet said is only said by pods that are supposed to come.
            match self.unwelcome.iter_mut().find(same) {
                Some(parts) => parts.add(picture, node, amount),
                None => {
                    let Some(topology) = picture.topologies().known(&term.key) else { continue };
                    let counts = vec![0; picture.topologies().get(topology).domains()];
                    let mut parts = Parts { topology, counts };
                    parts.add(picture, node, amount);
                    self.unwelcome.push(parts);
                }
            }
        }
    }
}

/// How much a pod likes the neighbours of each part of the cluster, and they it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Liking {
    parts: Vec<Parts>,
}

impl Liking {
    pub(crate) fn new(picture: &mut Picture, ask: &Ask) -> Liking {
        let mut all = Vec::new();
        let pod = &*ask.occupant;
        for (weight, term) in &pod.terms.preferred {
            let matcher = Matcher { all: vec![scope(picture, term)], living: false };
            let counter = picture.find_counter(matcher);
            if picture.counters().get(counter).total() > 0 {
                Parts::find(&mut all, picture, &term.key).add_all(picture, counter, *weight);
            }
        }
        let standing = std::mem::take(&mut picture.standing);
        let labels = picture.namespaces.get(&pod.namespace).cloned();
        for (meaning, key, nodes) in standing.about(pod, labels.as_ref()) {
            let weight = match meaning {
                Meaning::Away => continue,
                Meaning::Near => HARD_AFFINITY_WEIGHT,
                Meaning::Preferred(weight) => weight,
            };
            let parts = Parts::find(&mut all, picture, key);
            for (node, count) in nodes {
                parts.add(picture, *node, weight * i64::from(*count));
            }
        }
        picture.standing = standing;
        Liking { parts: all }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(crate) fn of(&self, picture: &Picture, node: NodeIndex) -> i64 {
        self.parts.iter().filter_map(|parts| parts.count(picture, node)).sum()
    }
}
