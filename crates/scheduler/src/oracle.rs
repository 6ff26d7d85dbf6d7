//! A slow scheduler that is obviously right: it reads the objects as they are, keeps nothing, and looks at everything
//! again for each node. Random clusters are decided by both.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    NodeSelectorTerm, PodAffinityTerm, Taint, Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::model::{Node, Pod};
use crate::resources::Resources;
use crate::selector::Labels;

/// A cluster.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    /// Pods and their nodes.
    pub(crate) placed: Vec<(Pod, String)>,
    pub(crate) namespaces: BTreeMap<String, Labels>,
}

/// What is decided: the best nodes, or what is said.
#[derive(Debug, PartialEq)]
pub(crate) enum Decision {
    Best(BTreeSet<String>),
    Refused(String),
}

const HOSTNAME: &str = "kubernetes.io/hostname";
const MISSING: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap()
}

fn labels(pod: &Pod) -> Labels {
    pod.metadata.labels.clone().unwrap_or_default()
}

fn label<'a>(node: &'a Node, key: &str) -> Option<&'a String> {
    node.metadata.labels.as_ref()?.get(key)
}

fn selects(selector: Option<&LabelSelector>, labels: &Labels) -> bool {
    let Some(selector) = selector else { return false };
    selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().flatten().all(|one| {
            let values = one.values.clone().unwrap_or_default();
            let value = labels.get(&one.key);
            match one.operator.as_str() {
                "In" => value.is_some_and(|value| values.contains(value)),
                "NotIn" => value.is_none_or(|value| !values.contains(value)),
                "Exists" => value.is_some(),
                _ => value.is_none(),
            }
        })
}

fn same_values(keys: Option<&Vec<String>>, pod: &Labels, other: &Labels, same: bool) -> bool {
    let keys = keys.into_iter().flatten().filter(|key| pod.contains_key(*key));
    keys.into_iter().all(|key| (pod.get(key) == other.get(key)) == same)
}

impl World {
    /// Whether a term of a pod means another.
    fn means(&self, term: &PodAffinityTerm, owner: &Pod, other: &Pod) -> bool {
        let listed = term.namespaces.clone().unwrap_or_default();
        let there = match &term.namespace_selector {
            None if listed.is_empty() => owner.namespace() == other.namespace(),
            None => listed.iter().any(|one| one == other.namespace()),
            Some(selector) => {
                listed.iter().any(|one| one == other.namespace())
                    || selects(Some(selector), &self.namespaces[other.namespace()])
            }
        };
        let (own, others) = (labels(owner), labels(other));
        there
            && selects(term.label_selector.as_ref(), &others)
            && same_values(term.match_label_keys.as_ref(), &own, &others, true)
            && same_values(term.mismatch_label_keys.as_ref(), &own, &others, false)
    }

    fn node(&self, name_: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| name(node) == name_)
    }

    fn on<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Pod> {
        self.placed.iter().filter(|(_, place)| place == name(node)).map(|(pod, _)| pod)
    }

    /// Pods in the part of the cluster where a node is.
    fn near<'a>(&'a self, node: &Node, key: &'a str) -> impl Iterator<Item = &'a Pod> {
        let value = label(node, key).cloned();
        let there = self.placed.iter().filter(move |(_, place)| {
            value.is_some() && self.node(place).and_then(|node| label(node, key)) == value.as_ref()
        });
        there.map(|(pod, _)| pod)
    }

    fn counts(&self, constraint: &TopologySpreadConstraint, pod: &Pod, other: &Pod) -> bool {
        other.metadata.deletion_timestamp.is_none()
            && other.namespace() == pod.namespace()
            && selects(constraint.label_selector.as_ref(), &labels(other))
            && same_values(constraint.match_label_keys.as_ref(), &labels(pod), &labels(other), true)
    }

    fn refusals(&self, pod: &Pod, node: &Node) -> Vec<String> {
        let spec = &pod.spec;
        let say = |text: &str| vec![text.to_owned()];
        let cordon = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        if node.spec.unschedulable && !tolerated(&spec.tolerations, &cordon) {
            return say("node(s) were unschedulable");
        }
        if let Some(taint) = untolerated(pod, node) {
            let value = taint.value.as_deref().unwrap_or_default();
            return vec![format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)];
        }
        if !selected(pod, node) {
            return say("node(s) didn't match Pod's node affinity/selector");
        }
        let ports = |pod: &Pod| -> BTreeSet<u16> {
            pod.spec.containers.iter().flat_map(|one| one.ports.iter().map(|port| port.host_port)).collect()
        };
        if self.on(node).any(|other| !ports(other).is_disjoint(&ports(pod))) {
            return say("node(s) didn't have free ports for the requested pod ports");
        }
        let missing = self.missing(pod, node);
        if !missing.is_empty() {
            return missing;
        }
        if let Some(text) = self.uneven(pod, node) {
            return say(text);
        }
        self.unfriendly(pod, node).map(say).unwrap_or_default()
    }

    fn missing(&self, pod: &Pod, node: &Node) -> Vec<String> {
        let have = Resources::new(Some(&node.status.allocatable));
        let mut taken = Resources::default();
        self.on(node).for_each(|other| taken.add(&Resources::of_pod(other, false)));
        let wanted = Resources::of_pod(pod, false);
        let mut missing = Vec::new();
        if self.on(node).count() >= node.status.allocatable["pods"].0.parse().unwrap() {
            missing.push("Too many pods".to_owned());
        }
        if wanted.cpu > 0 && taken.cpu + wanted.cpu > have.cpu {
            missing.push("Insufficient cpu".to_owned());
        }
        if wanted.memory > 0 && taken.memory + wanted.memory > have.memory {
            missing.push("Insufficient memory".to_owned());
        }
        missing
    }

    fn uneven(&self, pod: &Pod, node: &Node) -> Option<&'static str> {
        let all = pod.spec.topology_spread_constraints.iter();
        let hard: Vec<_> = all.filter(|one| one.when_unsatisfiable == "DoNotSchedule").collect();
        for constraint in &hard {
            let key = constraint.topology_key.as_str();
            let Some(value) = label(node, key) else { return Some(MISSING) };
            let mut counts: BTreeMap<&String, i64> = BTreeMap::new();
            for other in &self.nodes {
                let labelled = hard.iter().all(|one| label(other, &one.topology_key).is_some());
                if labelled && included(constraint, pod, other) {
                    let here = self.on(other).filter(|one| self.counts(constraint, pod, one)).count();
                    *counts.entry(label(other, key).unwrap()).or_default() += here as i64;
                }
            }
            let few = (counts.len() as i32) < constraint.min_domains.unwrap_or(1);
            let least = if few { 0 } else { counts.values().min().copied().unwrap_or(0) };
            let itself = selects(constraint.label_selector.as_ref(), &labels(pod));
            let skew = counts.get(value).copied().unwrap_or(0) + i64::from(itself) - least;
            if skew > i64::from(constraint.max_skew) {
                return Some("node(s) didn't match pod topology spread constraints");
            }
        }
        None
    }

    fn unfriendly(&self, pod: &Pod, node: &Node) -> Option<&'static str> {
        let near = required(pod, true);
        let all = |other: &Pod| near.iter().all(|term| self.means(term, pod, other));
        let has_labels = near.iter().all(|term| label(node, &term.topology_key).is_some());
        let found = near.iter().all(|term| self.near(node, &term.topology_key).any(all));
        let anywhere = near.iter().any(|term| {
            let mut placed = self.placed.iter();
            placed.any(|(other, place)| {
                all(other) && self.node(place).is_some_and(|node| label(node, &term.topology_key).is_some())
            })
        });
        if !has_labels || !(found || (!anywhere && all(pod))) {
            return Some("node(s) didn't match pod affinity rules");
        }
        let away = required(pod, false);
        let unwanted = |term: &PodAffinityTerm| {
            self.near(node, &term.topology_key).any(|other| self.means(term, pod, other))
        };
        if away.iter().any(unwanted) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        let unwelcome = self.placed.iter().any(|(other, place)| {
            required(other, false).iter().any(|term| {
                let there = self.node(place).and_then(|node| label(node, &term.topology_key));
                self.means(term, other, pod) && there.is_some() && there == label(node, &term.topology_key)
            })
        });
        unwelcome.then_some("node(s) didn't satisfy existing pods anti-affinity rules")
    }

    /// The points of each node of those that can take a pod.
    fn points(&self, pod: &Pod, feasible: &[&Node]) -> Vec<i64> {
        let raw = |score: &dyn Fn(&Node) -> i64| feasible.iter().map(|node| score(node)).collect::<Vec<_>>();
        let mut totals = vec![0; feasible.len()];
        let mut add = |weight: i64, points: Vec<i64>| {
            totals.iter_mut().zip(points).for_each(|(total, points)| *total += weight * points);
        };
        let taints = raw(&|node| {
            let soft = node.spec.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
            soft.filter(|taint| !tolerated(&pod.spec.tolerations, taint)).count() as i64
        });
        let most = taints.iter().max().copied().unwrap_or(0);
        add(3, taints.iter().map(|count| if most == 0 { 100 } else { 100 - 100 * count / most }).collect());
        let preferred = raw(&|node| preference(pod, node));
        let most = preferred.iter().max().copied().unwrap_or(0);
        add(2, preferred.iter().map(|count| if most == 0 { 0 } else { 100 * count / most }).collect());
        add(2, self.evenness(pod, feasible));
        let liked = raw(&|node| self.liking(pod, node));
        let (least, most) =
            (liked.iter().min().copied().unwrap_or(0), liked.iter().max().copied().unwrap_or(0));
        let part = |value: i64| (100.0 * ((value - least) as f64 / (most - least) as f64)) as i64;
        add(2, liked.iter().map(|value| if most == least { 0 } else { part(*value) }).collect());
        add(1, raw(&|node| self.free(pod, node)));
        add(1, raw(&|node| self.balance(pod, node)));
        totals
    }

    fn evenness(&self, pod: &Pod, feasible: &[&Node]) -> Vec<i64> {
        let all = pod.spec.topology_spread_constraints.iter();
        let soft: Vec<_> = all.filter(|one| one.when_unsatisfiable == "ScheduleAnyway").collect();
        if soft.is_empty() {
            return vec![0; feasible.len()];
        }
        let labelled = |node: &Node| soft.iter().all(|one| label(node, &one.topology_key).is_some());
        let compared: Vec<&&Node> = feasible.iter().filter(|node| labelled(node)).collect();
        let crowd = |node: &Node| -> i64 {
            let mut crowd = 0.0;
            for constraint in &soft {
                let key = constraint.topology_key.as_str();
                let value = label(node, key);
                let values: BTreeSet<_> = compared.iter().map(|node| label(node, key)).collect();
                let size = if key == HOSTNAME { compared.len() } else { values.len() };
                let counted = self.nodes.iter().filter(|other| {
                    if key == HOSTNAME {
                        name(other) == name(node)
                    } else {
                        labelled(other) && included(constraint, pod, other) && label(other, key) == value
                    }
                });
                let pods = counted.flat_map(|other| self.on(other));
                let count = pods.filter(|other| self.counts(constraint, pod, other)).count();
                crowd += count as f64 * ((size + 2) as f64).ln() + f64::from(constraint.max_skew - 1);
            }
            crowd.round() as i64
        };
        let crowds: Vec<i64> = compared.iter().map(|node| crowd(node)).collect();
        let (least, most) =
            (crowds.iter().min().copied().unwrap_or(0), crowds.iter().max().copied().unwrap_or(0));
        let points = |node: &&Node| match (labelled(node), most) {
            (false, _) => 0,
            (true, 0) => 100,
            (true, most) => 100 * (most + least - crowd(node)) / most,
        };
        feasible.iter().map(points).collect()
    }

    fn liking(&self, pod: &Pod, node: &Node) -> i64 {
        let mut sum = 0;
        for (other, place) in &self.placed {
            let Some(there) = self.node(place) else { continue };
            let near = |key: &str| label(there, key).is_some() && label(there, key) == label(node, key);
            for (weight, term) in preferred(pod) {
                if near(&term.topology_key) && self.means(&term, pod, other) {
                    sum += weight;
                }
            }
            let required = required(other, true).into_iter().map(|term| (1, term));
            for (weight, term) in preferred(other).into_iter().chain(required) {
                if near(&term.topology_key) && self.means(&term, other, pod) {
                    sum += weight;
                }
            }
        }
        sum
    }

    fn sums(&self, pod: &Pod, node: &Node, defaults: bool) -> [(i64, i64); 2] {
        let have = Resources::new(Some(&node.status.allocatable));
        let mut taken = Resources::of_pod(pod, defaults);
        self.on(node).for_each(|other| taken.add(&Resources::of_pod(other, defaults)));
        [(have.cpu, taken.cpu), (have.memory, taken.memory)]
    }

    fn free(&self, pod: &Pod, node: &Node) -> i64 {
        let free = |(have, taken): (i64, i64)| (have - taken).max(0) * 100 / have;
        self.sums(pod, node, true).map(free).iter().sum::<i64>() / 2
    }

    fn balance(&self, pod: &Pod, node: &Node) -> i64 {
        let wanted = Resources::of_pod(pod, false);
        if wanted.cpu == 0 && wanted.memory == 0 {
            return 0;
        }
        let [cpu, memory] =
            self.sums(pod, node, false).map(|(have, taken)| (taken as f64 / have as f64).min(1.0));
        ((1.0 - (cpu - memory).abs() / 2.0) * 100.0) as i64
    }

    /// Whether a node takes a pod.
    pub(crate) fn takes(&self, pod: &Pod, node: &str) -> bool {
        self.node(node).is_some_and(|node| self.refusals(pod, node).is_empty())
    }

    /// The same cluster without some of the pods.
    pub(crate) fn without(&self, gone: impl Fn(&Pod, &str) -> bool) -> World {
        let mut world = self.clone();
        world.placed.retain(|(pod, node)| !gone(pod, node));
        world
    }

    /// The nodes that are best for a pod, or why there is none.
    pub(crate) fn decide(&self, pod: &Pod) -> Decision {
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let mut feasible = Vec::new();
        for node in &self.nodes {
            let refused = self.refusals(pod, node);
            if refused.is_empty() {
                feasible.push(node);
            }
            for reason in refused {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        if feasible.is_empty() {
            let mut said: Vec<String> =
                reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            said.sort();
            return Decision::Refused(format!(
                "0/{} nodes are available: {}.",
                self.nodes.len(),
                said.join(", ")
            ));
        }
        let points = self.points(pod, &feasible);
        let most = points.iter().max().copied().unwrap();
        let best = feasible.iter().zip(&points).filter(|(_, points)| **points == most);
        Decision::Best(best.map(|(node, _)| name(node).to_owned()).collect())
    }
}

fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|one| {
        let is = |own: &Option<String>, other: &str| own.as_deref().is_none_or(|own| own == other);
        is(&one.effect, &taint.effect)
            && is(&one.key, &taint.key)
            && (one.operator.as_deref() == Some("Exists") || one.value == taint.value)
    })
}

fn untolerated<'a>(pod: &Pod, node: &'a Node) -> Option<&'a Taint> {
    node.spec
        .taints
        .iter()
        .find(|taint| taint.effect != "PreferNoSchedule" && !tolerated(&pod.spec.tolerations, taint))
}

fn term_takes(term: &NodeSelectorTerm, node: &Node) -> bool {
    term.match_expressions.iter().flatten().all(|one| {
        let values = one.values.clone().unwrap_or_default();
        let value = label(node, &one.key);
        match one.operator.as_str() {
            "In" => value.is_some_and(|value| values.contains(value)),
            "NotIn" => value.is_none_or(|value| !values.contains(value)),
            _ => value.is_some(),
        }
    })
}

fn selected(pod: &Pod, node: &Node) -> bool {
    let affinity = pod.spec.affinity.as_ref().and_then(|all| all.node_affinity.as_ref());
    let required = affinity.and_then(|all| all.required_during_scheduling_ignored_during_execution.as_ref());
    pod.spec.node_selector.iter().all(|(key, value)| label(node, key) == Some(value))
        && required.is_none_or(|all| all.node_selector_terms.iter().any(|term| term_takes(term, node)))
}

fn preference(pod: &Pod, node: &Node) -> i64 {
    let affinity = pod.spec.affinity.as_ref().and_then(|all| all.node_affinity.as_ref());
    let preferred =
        affinity.and_then(|all| all.preferred_during_scheduling_ignored_during_execution.as_ref());
    let taken = preferred.into_iter().flatten().filter(|term| term_takes(&term.preference, node));
    taken.map(|term| i64::from(term.weight)).sum()
}

fn included(constraint: &TopologySpreadConstraint, pod: &Pod, node: &Node) -> bool {
    let honours_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    let honours_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    (!honours_affinity || selected(pod, node)) && (!honours_taints || untolerated(pod, node).is_none())
}

fn required(pod: &Pod, near: bool) -> Vec<PodAffinityTerm> {
    let Some(affinity) = &pod.spec.affinity else { return Vec::new() };
    let terms = if near {
        affinity
            .pod_affinity
            .as_ref()
            .and_then(|all| all.required_during_scheduling_ignored_during_execution.clone())
    } else {
        affinity
            .pod_anti_affinity
            .as_ref()
            .and_then(|all| all.required_during_scheduling_ignored_during_execution.clone())
    };
    terms.unwrap_or_default()
}

fn preferred(pod: &Pod) -> Vec<(i64, PodAffinityTerm)> {
    let Some(affinity) = &pod.spec.affinity else { return Vec::new() };
    let near = affinity.pod_affinity.as_ref();
    let near = near.and_then(|all| all.preferred_during_scheduling_ignored_during_execution.clone());
    let away = affinity.pod_anti_affinity.as_ref();
    let away = away.and_then(|all| all.preferred_during_scheduling_ignored_during_execution.clone());
    let signed = |terms: Option<Vec<WeightedPodAffinityTerm>>, sign: i64| {
        let terms = terms.unwrap_or_default().into_iter();
        terms.map(move |one| (sign * i64::from(one.weight), one.pod_affinity_term)).collect::<Vec<_>>()
    };
    signed(near, 1).into_iter().chain(signed(away, -1)).collect()
}
