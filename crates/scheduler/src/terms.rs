//! What a pod says about its neighbours, worked out once: near whom it wants to be, from whom away, and over what it
//! wants to be spread. It must not know who the neighbours are.

use k8s_openapi::api::core::v1::{PodAffinityTerm, TopologySpreadConstraint, WeightedPodAffinityTerm};

use crate::model::Pod;
use crate::selector::{Labels, Selector};

/// Pods that a term of affinity means, and the key of the label that says what is near.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Term {
    pub(crate) namespaces: Vec<String>,
    pub(crate) namespace_selector: Option<Selector>,
    pub(crate) selector: Selector,
    pub(crate) key: String,
}

impl Term {
    fn new(term: &PodAffinityTerm, namespace: &str, labels: &Labels) -> Term {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.to_owned());
        }
        namespaces.sort_unstable();
        namespaces.dedup();
        let mut selector = Selector::new(term.label_selector.as_ref());
        selector.narrow(term.match_label_keys.as_deref().unwrap_or_default(), labels, true);
        selector.narrow(term.mismatch_label_keys.as_deref().unwrap_or_default(), labels, false);
        let namespace_selector = term.namespace_selector.as_ref();
        Term {
            namespaces,
            namespace_selector: namespace_selector.map(|one| Selector::new(Some(one))),
            selector,
            key: term.topology_key.clone(),
        }
    }

    /// Whether it means pods of a namespace that has these labels.
    pub(crate) fn is_in(&self, namespace: &str, namespace_labels: Option<&Labels>) -> bool {
        self.namespaces.iter().any(|one| one == namespace)
            || self.namespace_selector.as_ref().is_some_and(|selector| match namespace_labels {
                Some(labels) => selector.takes(labels),
                None => selector.is_empty(),
            })
    }

    /// Whether it means a pod.
    pub(crate) fn means(&self, namespace: &str, namespace_labels: Option<&Labels>, labels: &Labels) -> bool {
        self.selector.takes(labels) && self.is_in(namespace, namespace_labels)
    }
}

/// What a pod says about its neighbours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Near whom it has to be.
    pub(crate) near: Vec<Term>,
    /// From whom it has to be away.
    pub(crate) away: Vec<Term>,
    /// Near whom it would like to be, and how much; from whom away, where that is negative.
    pub(crate) preferred: Vec<(i64, Term)>,
}

impl Terms {
    pub(crate) fn new(pod: &Pod, labels: &Labels) -> Terms {
        let Some(affinity) = &pod.spec.affinity else { return Terms::default() };
        let term = |term: &PodAffinityTerm| Term::new(term, pod.namespace(), labels);
        let weighted = |one: &WeightedPodAffinityTerm, sign: i64| {
            (sign * i64::from(one.weight), term(&one.pod_affinity_term))
        };
        let mut terms = Terms::default();
        if let Some(near) = &affinity.pod_affinity {
            terms.near =
                near.required_during_scheduling_ignored_during_execution.iter().flatten().map(term).collect();
            let preferred = near.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            terms.preferred.extend(preferred.map(|one| weighted(one, 1)));
        }
        if let Some(away) = &affinity.pod_anti_affinity {
            terms.away =
                away.required_during_scheduling_ignored_during_execution.iter().flatten().map(term).collect();
            let preferred = away.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            terms.preferred.extend(preferred.map(|one| weighted(one, -1)));
        }
        terms
    }
}

/// Over what pods are to be spread, and how evenly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spread {
    pub(crate) key: String,
    pub(crate) selector: Selector,
    pub(crate) max_skew: i64,
    /// With fewer parts than this the emptiest counts as empty.
    pub(crate) min_domains: usize,
    /// Whether only nodes count that the pod selects.
    pub(crate) honour_affinity: bool,
    /// Whether only nodes count whose taints the pod tolerates.
    pub(crate) honour_taints: bool,
}

impl Spread {
    fn new(constraint: &TopologySpreadConstraint, labels: &Labels) -> Spread {
        let mut selector = Selector::new(constraint.label_selector.as_ref());
        selector.narrow(constraint.match_label_keys.as_deref().unwrap_or_default(), labels, true);
        Spread {
            key: constraint.topology_key.clone(),
            selector,
            max_skew: i64::from(constraint.max_skew),
            min_domains: usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1),
            honour_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honour_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    /// The constraints of a pod: those that must hold, or those that are only wished for.
    pub(crate) fn of_pod(pod: &Pod, labels: &Labels, must: bool) -> Vec<Spread> {
        let constraints = pod.spec.topology_spread_constraints.iter();
        let chosen = constraints.filter(|one| (one.when_unsatisfiable == "DoNotSchedule") == must);
        chosen.map(|constraint| Spread::new(constraint, labels)).collect()
    }

    /// How pods are spread that say nothing about it: over nodes, and over zones.
    pub(crate) fn defaults(selector: &Selector) -> Vec<Spread> {
        let spread = |(key, max_skew): &(&str, i64)| Spread {
            key: (*key).to_owned(),
            selector: selector.clone(),
            max_skew: *max_skew,
            min_domains: 1,
            honour_affinity: true,
            honour_taints: false,
        };
        [(HOSTNAME, 3), ("topology.kubernetes.io/zone", 5)].iter().map(spread).collect()
    }
}

/// The label by which every node is a part of its own.
pub(crate) const HOSTNAME: &str = "kubernetes.io/hostname";
