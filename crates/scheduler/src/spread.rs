//! Even spreading over the parts of the cluster: what must hold, as a filter, and what is wished for, as a score.

use crate::ask::{Ask, Occupant};
use crate::counters::{Matcher, Scope};
use crate::node::NodeEntry;
use crate::picture::Picture;
use crate::selections::Answer;
use crate::terms::{HOSTNAME, Spread};
use crate::topology::{NOWHERE, NodeIndex};

/// The pods that a constraint counts.
fn matcher(ask: &Ask, spread: &Spread) -> Matcher {
    let scope = Scope { namespaces: vec![ask.namespace().to_owned()], selector: spread.selector.clone() };
    Matcher { all: vec![scope], living: true }
}

fn includes(spread: &Spread, answer: &Answer) -> bool {
    (!spread.honour_affinity || answer.selected) && (!spread.honour_taints || answer.tolerated)
}

/// One constraint that must hold.
#[derive(Debug, Clone)]
struct Constraint {
    topology: usize,
    counter: usize,
    max_skew: i64,
    min_domains: usize,
    itself: i64,
    /// By part; nothing where no node counts.
    counts: Vec<Option<i64>>,
    least: i64,
}

impl Constraint {
    fn set_least(&mut self) {
        let counts = self.counts.iter().flatten();
        let domains = counts.clone().count();
        let least = counts.min().copied().unwrap_or(0);
        self.least = if domains < self.min_domains { 0 } else { least };
    }
}

/// Why a node is not right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Uneven {
    NoLabel,
    TooMany,
}

/// The constraints of a pod that must hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct HardSpread {
    constraints: Vec<Constraint>,
}

impl HardSpread {
    pub(crate) fn new(picture: &mut Picture, ask: &Ask, selection: usize) -> HardSpread {
        let found: Vec<(usize, usize)> = ask
            .spread
            .iter()
            .map(|spread| (picture.find_topology(&spread.key), picture.find_counter(matcher(ask, spread))))
            .collect();
        let picture = &*picture;
        let answers = picture.selections().get(selection);
        let constraints = ask.spread.iter().zip(&found).map(|(spread, &(topology, counter))| {
            let (parts, pods) = (picture.topologies().get(topology), picture.counters().get(counter));
            let mut counts = vec![None; parts.domains()];
            for (node, _) in picture.nodes() {
                let has_all =
                    found.iter().all(|(other, _)| picture.topologies().get(*other).domain(node) != NOWHERE);
                if has_all && includes(spread, &answers[node]) {
                    let count: &mut Option<i64> = &mut counts[parts.domain(node) as usize];
                    *count = Some(count.unwrap_or(0) + i64::from(pods.count(node)));
                }
            }
            let mut constraint = Constraint {
                topology,
                counter,
                max_skew: spread.max_skew,
                min_domains: spread.min_domains,
                itself: i64::from(spread.selector.takes(&ask.occupant.labels)),
                counts,
                least: 0,
            };
            constraint.set_least();
            constraint
        });
        HardSpread { constraints: constraints.collect() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.constraints.is_empty()
    }

    pub(crate) fn refuse(&self, picture: &Picture, node: NodeIndex) -> Option<Uneven> {
        for constraint in &self.constraints {
            let domain = picture.topologies().get(constraint.topology).domain(node);
            if domain == NOWHERE {
                return Some(Uneven::NoLabel);
            }
            let count = constraint.counts.get(domain as usize).copied().flatten().unwrap_or(0);
            if count + constraint.itself - constraint.least > constraint.max_skew {
                return Some(Uneven::TooMany);
            }
        }
        None
    }

    /// Supposes that a pod came to a node, or left it.
    pub(crate) fn suppose(&mut self, picture: &Picture, pod: &Occupant, node: NodeIndex, more: bool) {
        for constraint in &mut self.constraints {
            let domain = picture.topologies().get(constraint.topology).domain(node);
            if domain == NOWHERE || !picture.counters().get(constraint.counter).matcher().takes(pod) {
                continue;
            }
            // Where no node counts, nothing is counted.
            if let Some(Some(count)) = constraint.counts.get_mut(domain as usize) {
                *count += if more { 1 } else { -1 };
                constraint.set_least();
            }
        }
    }
}

struct Wish {
    topology: usize,
    counter: usize,
    max_skew: i64,
    /// How much each pod weighs: the more, the more parts there are.
    weight: f64,
    /// By part; empty where each node is a part of its own.
    counts: Vec<i64>,
}

/// The constraints that are wished for, as far as nodes are compared by them.
pub(crate) struct SoftSpread {
    wishes: Vec<Wish>,
    /// Whether nodes count that lack one of the labels.
    lenient: bool,
}

/// Where the numbers of the constraints that are wished for are.
#[derive(Debug, Clone, Default)]
pub(crate) struct SoftParts {
    spread: Vec<(Spread, usize, usize)>,
    lenient: bool,
}

impl SoftParts {
    pub(crate) fn new(picture: &mut Picture, ask: &Ask) -> SoftParts {
        let (spread, lenient) = match &ask.soft_spread {
            Some(spread) => (spread.clone(), false),
            None => (ask.default_spread(&picture.workloads.siblings(ask)), true),
        };
        let spread = spread.into_iter().filter(|spread| !spread.selector.is_empty()).map(|spread| {
            let (topology, counter) =
                (picture.find_topology(&spread.key), picture.find_counter(matcher(ask, &spread)));
            (spread, topology, counter)
        });
        SoftParts { spread: spread.collect(), lenient }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.spread.is_empty()
    }
}

impl SoftSpread {
    /// Compares by the nodes that can take a pod.
    pub(crate) fn new(
        picture: &Picture,
        parts: &SoftParts,
        selection: usize,
        feasible: &[NodeIndex],
    ) -> Self {
        let domain = |topology: usize, node: NodeIndex| picture.topologies().get(topology).domain(node);
        let has_all = |node: NodeIndex| {
            parts.lenient || parts.spread.iter().all(|(_, topology, _)| domain(*topology, node) != NOWHERE)
        };
        let compared = feasible.iter().filter(|node| has_all(**node)).count();
        let answers = picture.selections().get(selection);
        let wishes = parts.spread.iter().map(|(spread, topology, counter)| {
            let (mut counts, mut size) = (Vec::new(), compared);
            if spread.key != HOSTNAME {
                // Parts without a node that can take the pod do not count.
                let mut seen = vec![false; picture.topologies().get(*topology).domains()];
                let mut nowhere = false;
                for node in feasible.iter().filter(|node| has_all(**node)) {
                    match seen.get_mut(domain(*topology, *node) as usize) {
                        Some(seen) => *seen = true,
                        None => nowhere = true,
                    }
                }
                size = seen.iter().filter(|seen| **seen).count() + usize::from(nowhere);
                counts = vec![0; seen.len()];
                let pods = picture.counters().get(*counter);
                let counted = picture.nodes().filter(|(node, _)| {
                    pods.count(*node) > 0 && has_all(*node) && includes(spread, &answers[*node])
                });
                for (node, _) in counted {
                    let part = domain(*topology, node) as usize;
                    if seen.get(part) == Some(&true) {
                        counts[part] += i64::from(pods.count(node));
                    }
                }
            }
            Wish {
                topology: *topology,
                counter: *counter,
                max_skew: spread.max_skew,
                weight: ((size + 2) as f64).ln(),
                counts,
            }
        });
        SoftSpread { wishes: wishes.collect(), lenient: parts.lenient }
    }

    /// How crowded it is where a node is; nothing for one that is not compared.
    pub(crate) fn crowd(&self, picture: &Picture, index: NodeIndex, _: &NodeEntry) -> Option<i64> {
        let mut crowd = 0.0;
        for wish in &self.wishes {
            let domain = picture.topologies().get(wish.topology).domain(index);
            if domain == NOWHERE {
                if self.lenient {
                    continue;
                }
                return None;
            }
            let count = match wish.counts.get(domain as usize) {
                Some(count) => *count,
                None => i64::from(picture.counters().get(wish.counter).count(index)),
            };
            crowd += count as f64 * wish.weight + (wish.max_skew - 1) as f64;
        }
        Some(crowd.round() as i64)
    }
}
