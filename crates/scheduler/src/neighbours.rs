//! What the pods that are already placed mean for a new one: affinity, anti-affinity in both directions, and even
//! spreading over the parts of the cluster. Worked out once a pod, and only as far as somebody asks for it.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::{PodAffinityTerm, TopologySpreadConstraint};

use crate::matching;
use crate::model::Pod;
use crate::picture::{NodeEntry, Picture};

/// A part of the cluster: the key of a label of nodes, and its value.
type Domain = (String, String);

struct Spread {
    key: String,
    counts: HashMap<String, i64>,
    /// More than this may not be in one part, the new pod included.
    most: i64,
    itself: i64,
}

/// What the neighbourhood says about a pod.
#[derive(Default)]
pub(crate) struct Neighbours {
    /// For each term, where pods are that it wants; the key alone where it may be the first.
    wanted: Vec<(String, Option<HashSet<String>>)>,
    unwanted: HashSet<Domain>,
    unwelcome: HashSet<Domain>,
    spread: Vec<Spread>,
}

impl Neighbours {
    pub(crate) fn new(picture: &Picture, pod: &Pod) -> Neighbours {
        let mut result = Neighbours::default();
        let affinity = matching::required_affinity(pod);
        let anti_affinity = matching::required_anti_affinity(pod);
        let is_meant = |term: &PodAffinityTerm| {
            let labels = pod.metadata.labels.as_ref();
            matching::affinity_term(term, pod.namespace(), pod.namespace(), labels)
        };
        for term in affinity {
            result.wanted.push((term.topology_key.clone(), Some(domains(picture, pod, term))));
        }
        let nobody = result.wanted.iter().all(|(_, found)| found.as_ref().is_some_and(HashSet::is_empty));
        if nobody && affinity.iter().all(is_meant) {
            result.wanted.iter_mut().for_each(|(_, found)| *found = None);
        }
        for term in anti_affinity {
            let key = &term.topology_key;
            let found = domains(picture, pod, term);
            result.unwanted.extend(found.into_iter().map(|value| (key.clone(), value)));
        }
        for placed in picture.unsociable() {
            let Some(node) = picture.node(placed.node) else { continue };
            for term in &placed.anti_affinity {
                let labels = pod.metadata.labels.as_ref();
                if !matching::affinity_term(term, &placed.namespace, pod.namespace(), labels) {
                    continue;
                }
                if let Some(value) = node.labels.get(&term.topology_key) {
                    result.unwelcome.insert((term.topology_key.clone(), value.clone()));
                }
            }
        }
        let hard = pod.spec.topology_spread_constraints.iter();
        result.spread = hard
            .filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule")
            .map(|constraint| spread(picture, pod, constraint))
            .collect();
        result
    }

    /// Why a node is not right.
    pub(crate) fn refuse(&self, node: &NodeEntry) -> Option<&'static str> {
        for spread in &self.spread {
            let Some(value) = node.labels.get(&spread.key) else {
                return Some("node(s) didn't match pod topology spread constraints (missing required label)");
            };
            let count = spread.counts.get(value).copied().unwrap_or(0);
            if count + spread.itself > spread.most {
                return Some("node(s) didn't match pod topology spread constraints");
            }
        }
        let is_in = |domains: &HashSet<Domain>| {
            domains.iter().any(|(key, value)| node.labels.get(key) == Some(value))
        };
        if is_in(&self.unwelcome) {
            return Some("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        if is_in(&self.unwanted) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        let near = self.wanted.iter().all(|(key, found)| {
            let Some(value) = node.labels.get(key) else { return false };
            found.as_ref().is_none_or(|found| found.contains(value))
        });
        (!near).then_some("node(s) didn't match pod affinity rules")
    }
}

/// The values of a term's key where pods are that it means.
fn domains(picture: &Picture, pod: &Pod, term: &PodAffinityTerm) -> HashSet<String> {
    picture
        .placed()
        .filter(|placed| {
            matching::affinity_term(term, pod.namespace(), &placed.namespace, placed.labels.as_ref())
        })
        .filter_map(|placed| picture.node(placed.node)?.labels.get(&term.topology_key).cloned())
        .collect()
}

fn spread(picture: &Picture, pod: &Pod, constraint: &TopologySpreadConstraint) -> Spread {
    let key = &constraint.topology_key;
    let selector = constraint.label_selector.as_ref();
    let eligible = |node: &NodeEntry| {
        let terms = matching::required_node_terms(pod);
        pod.spec.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
            && terms.is_none_or(|terms| {
                terms.iter().any(|term| matching::node_term(term, &node.labels, &node.name))
            })
    };
    let mut counts: HashMap<String, i64> = picture
        .nodes()
        .filter(|(_, node)| eligible(node))
        .filter_map(|(_, node)| Some((node.labels.get(key)?.clone(), 0)))
        .collect();
    for placed in picture.placed() {
        let counted = !placed.terminating
            && placed.namespace == pod.namespace()
            && matching::labels(selector, placed.labels.as_ref());
        let domain = picture.node(placed.node).and_then(|node| node.labels.get(key));
        if let (true, Some(domain)) = (counted, domain)
            && let Some(count) = counts.get_mut(domain)
        {
            *count += 1;
        }
    }
    let few = constraint.min_domains.is_some_and(|least| (counts.len() as i64) < i64::from(least));
    let least = if few { 0 } else { counts.values().copied().min().unwrap_or(0) };
    Spread {
        key: key.clone(),
        counts,
        most: least + i64::from(constraint.max_skew),
        itself: i64::from(matching::labels(selector, pod.metadata.labels.as_ref())),
    }
}
