//! Which of several nodes is best for a pod: one table of scores with the weights of the reference. Each gives every
//! node up to a hundred points. Nothing is changed.

use crate::ask::Ask;
use crate::neighbours::Liking;
use crate::node::NodeEntry;
use crate::picture::Picture;
use crate::spread::{SoftParts, SoftSpread};
use crate::topology::NodeIndex;

/// The most that a node can have of one score.
const MOST: i64 = 100;

/// How raw numbers become points.
enum Scale {
    /// They are points.
    Points,
    /// By the largest.
    Share,
    /// By the largest, and the fewer the better.
    ShareReversed,
    /// Between the smallest and the largest.
    Between,
    /// By the sum of both, and the fewer the better. Nodes without a number have no points.
    Crowd,
}

/// What is worked out before nodes are compared.
#[derive(Debug, Clone, Default)]
pub(crate) struct Preferences {
    liking: Liking,
    spread: SoftParts,
}

impl Preferences {
    pub(crate) fn new(picture: &mut Picture, ask: &Ask) -> Preferences {
        Preferences { liking: Liking::new(picture, ask), spread: SoftParts::new(picture, ask) }
    }
}

/// All that scores may read besides the node.
pub(crate) struct Contest<'a> {
    picture: &'a Picture,
    ask: &'a Ask,
    selection: usize,
    preferences: &'a Preferences,
    spread: SoftSpread,
    /// Images of the pod that are on nodes, with their numbers and on how much of all nodes they are.
    images: Vec<(u32, f64)>,
}

struct Score {
    /// As the reference calls it.
    name: &'static str,
    weight: i64,
    scale: Scale,
    /// Whether nodes can differ in it.
    applies: fn(&Contest<'_>) -> bool,
    score: fn(&Contest<'_>, NodeIndex, &NodeEntry) -> Option<i64>,
}

/// All scores.
static SCORES: [Score; 7] = [
    Score {
        name: "TaintToleration",
        weight: 3,
        scale: Scale::ShareReversed,
        applies: |_| true,
        score: soft_taints,
    },
    Score {
        name: "NodeAffinity",
        weight: 2,
        scale: Scale::Share,
        applies: |contest| contest.ask.selection.has_preference(),
        score: preference,
    },
    Score {
        name: "PodTopologySpread",
        weight: 2,
        scale: Scale::Crowd,
        applies: |contest| !contest.preferences.spread.is_empty(),
        score: |contest, index, node| contest.spread.crowd(contest.picture, index, node),
    },
    Score {
        name: "InterPodAffinity",
        weight: 2,
        scale: Scale::Between,
        applies: |contest| !contest.preferences.liking.is_empty(),
        score: |contest, index, _| Some(contest.preferences.liking.of(contest.picture, index)),
    },
    Score { name: "NodeResourcesFit", weight: 1, scale: Scale::Points, applies: |_| true, score: free_share },
    Score {
        name: "NodeResourcesBalancedAllocation",
        weight: 1,
        scale: Scale::Points,
        applies: |contest| {
            let wanted = &contest.ask.occupant.requests;
            wanted.cpu != 0 || wanted.memory != 0
        },
        score: balance,
    },
    Score {
        name: "ImageLocality",
        weight: 1,
        scale: Scale::Points,
        applies: |contest| !contest.images.is_empty(),
        score: has_images,
    },
];

/// The number of a score.
pub(crate) fn number(name: &str) -> Option<usize> {
    SCORES.iter().position(|score| score.name == name)
}

/// The weights of all scores, as the reference has them.
pub(crate) fn weights() -> Vec<i64> {
    SCORES.iter().map(|score| score.weight).collect()
}

impl<'a> Contest<'a> {
    pub(crate) fn new(
        picture: &'a Picture,
        ask: &'a Ask,
        selection: usize,
        preferences: &'a Preferences,
        feasible: &[NodeIndex],
    ) -> Contest<'a> {
        let all = picture.count().max(1) as f64;
        let images = ask.images.iter().filter_map(|name| picture.images.find(name));
        Contest {
            picture,
            ask,
            selection,
            preferences,
            spread: SoftSpread::new(picture, &preferences.spread, selection, feasible),
            images: images.map(|(number, nodes)| (number, f64::from(nodes) / all)).collect(),
        }
    }

    /// The points of each node.
    pub(crate) fn points(&self, feasible: &[NodeIndex]) -> Vec<i64> {
        let mut totals = vec![0; feasible.len()];
        let mut raw: Vec<Option<i64>> = Vec::with_capacity(feasible.len());
        for (score, weight) in SCORES.iter().zip(&self.ask.profile.weights) {
            if *weight == 0 || !(score.applies)(self) {
                continue;
            }
            raw.clear();
            raw.extend(
                feasible
                    .iter()
                    .map(|&index| self.picture.node(index).and_then(|node| (score.score)(self, index, node))),
            );
            score.scale.apply(&raw, *weight, &mut totals);
        }
        totals
    }

    /// The best node; of equal ones the first.
    pub(crate) fn best(&self, feasible: &[NodeIndex]) -> Option<NodeIndex> {
        let points = self.points(feasible);
        let mut best: Option<(i64, NodeIndex)> = None;
        for (&index, points) in feasible.iter().zip(points) {
            if best.is_none_or(|(most, _)| points > most) {
                best = Some((points, index));
            }
        }
        best.map(|(_, index)| index)
    }
}

impl Scale {
    fn apply(&self, raw: &[Option<i64>], weight: i64, totals: &mut [i64]) {
        let numbers = || raw.iter().flatten().copied();
        let (least, most) = (numbers().min().unwrap_or(0), numbers().max().unwrap_or(0));
        for (total, number) in totals.iter_mut().zip(raw) {
            let Some(number) = *number else { continue };
            let points = match self {
                Scale::Points => number,
                Scale::Share if most == 0 => 0,
                Scale::Share => MOST * number / most,
                Scale::ShareReversed if most == 0 => MOST,
                Scale::ShareReversed => MOST - MOST * number / most,
                Scale::Between if most == least => 0,
                Scale::Between => (MOST as f64 * ((number - least) as f64 / (most - least) as f64)) as i64,
                Scale::Crowd if most == 0 => MOST,
                Scale::Crowd => MOST * (most + least - number) / most,
            };
            *total += weight * points;
        }
    }
}

fn soft_taints(contest: &Contest<'_>, index: NodeIndex, _: &NodeEntry) -> Option<i64> {
    Some(contest.picture.selections().get(contest.selection)[index].soft_taints)
}

fn preference(contest: &Contest<'_>, index: NodeIndex, _: &NodeEntry) -> Option<i64> {
    Some(contest.picture.selections().get(contest.selection)[index].preference)
}

/// How much of the node stays free; of a profile that packs, how much is used.
fn free_share(contest: &Contest<'_>, _: NodeIndex, node: &NodeEntry) -> Option<i64> {
    let own = &contest.ask.occupant.weight;
    let (have, taken) = (&node.facts.allocatable, &node.usage.weight);
    let (mut sum, mut resources) = (0, 0);
    for (have, taken) in [(have.cpu, taken.cpu + own.cpu), (have.memory, taken.memory + own.memory)] {
        if have > 0 {
            resources += 1;
            let counts = if contest.ask.profile.packs { taken.min(have) } else { (have - taken).max(0) };
            sum += (i128::from(counts) * i128::from(MOST) / i128::from(have)) as i64;
        }
    }
    Some(if resources == 0 { 0 } else { sum / resources })
}

/// How evenly the node's resources would be used.
fn balance(contest: &Contest<'_>, _: NodeIndex, node: &NodeEntry) -> Option<i64> {
    let own = &contest.ask.occupant.requests;
    let (have, taken) = (&node.facts.allocatable, &node.usage.requested);
    let used = |have: i64, taken: i64| (taken as f64 / have as f64).min(1.0);
    let deviation = if have.cpu > 0 && have.memory > 0 {
        (used(have.cpu, taken.cpu + own.cpu) - used(have.memory, taken.memory + own.memory)).abs() / 2.0
    } else {
        0.0
    };
    Some(((1.0 - deviation) * MOST as f64) as i64)
}

/// How much of the pod's images is there: nothing below 23 MiB, all from 1,000 MiB a container.
fn has_images(contest: &Contest<'_>, _: NodeIndex, node: &NodeEntry) -> Option<i64> {
    const MEBIBYTE: i64 = 1024 * 1024;
    let images = &node.facts.images;
    let sizes = contest.images.iter().filter_map(|(number, share)| {
        let at = images.binary_search_by_key(number, |(number, _)| *number).ok()?;
        // Few nodes that have it are not to be overrun.
        Some((images[at].1 as f64 * share) as i64)
    });
    let (least, most) = (23 * MEBIBYTE, 1000 * MEBIBYTE * contest.ask.images.len().max(1) as i64);
    let size = sizes.fold(0_i64, i64::saturating_add).clamp(least, most);
    Some(MOST * (size - least) / (most - least))
}
