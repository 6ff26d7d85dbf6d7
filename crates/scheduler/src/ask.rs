//! What a pod asks for, worked out once when it comes, so that a decision compares numbers and not texts. It must not
//! know what is where.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::config::Profile;
use crate::model::{Container, Pod};
use crate::resources::Resources;
use crate::selector::{Labels, NodeTerm, Selector, Tolerance, only_names};
use crate::terms::{Spread, Terms};

/// A port of a node that a pod takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    port: u16,
    protocol: String,
    /// Empty for all.
    address: String,
}

impl HostPort {
    /// The ports that a pod takes.
    fn of(pod: &Pod) -> Vec<HostPort> {
        let stays = |container: &&Container| container.restart_policy == "Always";
        let containers = pod.spec.containers.iter().chain(pod.spec.init_containers.iter().filter(stays));
        containers
            .flat_map(|container| &container.ports)
            .filter(|port| port.host_port != 0)
            .map(|port| HostPort {
                port: port.host_port,
                protocol: if port.protocol.is_empty() { "TCP".into() } else { port.protocol.clone() },
                address: if port.host_ip == "0.0.0.0" { String::new() } else { port.host_ip.clone() },
            })
            .collect()
    }

    pub(crate) fn conflicts(&self, other: &HostPort) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || self.address.is_empty() || other.address.is_empty())
    }
}

/// A pod as others see it once it has a node: what it takes there, and what it says about neighbours.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Occupant {
    pub(crate) uid: Arc<str>,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) labels: Labels,
    pub(crate) priority: i32,
    /// By which scheduler it was placed.
    pub(crate) scheduler: String,
    pub(crate) started: Option<Time>,
    pub(crate) terminating: bool,
    /// Whether it goes because it was pushed away.
    pub(crate) preempted: bool,
    pub(crate) requests: Resources,
    /// The same with something for those that ask for nothing, as nodes are compared by it.
    pub(crate) weight: Resources,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) terms: Terms,
    /// The names of its claims.
    pub(crate) claims: Vec<String>,
}

impl Occupant {
    pub(crate) fn new(pod: &Pod) -> Occupant {
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        Occupant {
            uid: pod.uid().into(),
            name: pod.name().to_owned(),
            namespace: pod.namespace().to_owned(),
            terms: Terms::new(pod, &labels),
            labels,
            priority: pod.spec.priority,
            scheduler: pod.spec.scheduler_name.clone(),
            started: pod.status.start_time.clone(),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            preempted: pod.has_condition("DisruptionTarget", "PreemptionByScheduler"),
            requests: Resources::of_pod(pod, false),
            weight: Resources::of_pod(pod, true),
            ports: HostPort::of(pod),
            claims: claims(pod),
        }
    }

    /// The same pod, pushed away.
    pub(crate) fn going(&self) -> Occupant {
        Occupant { terminating: true, preempted: true, ..self.clone() }
    }
}

/// The names of the claims that a pod uses, those that are made for it included.
fn claims(pod: &Pod) -> Vec<String> {
    let names = pod.spec.volumes.iter().filter_map(|volume| match &volume.persistent_volume_claim {
        Some(claim) => Some(claim.claim_name.clone()),
        None => volume.ephemeral.as_ref().map(|_| format!("{}-{}", pod.name(), volume.name)),
    });
    names.collect()
}

/// What a pod says about nodes alone. Pods of one template are equal in it, so that it is answered once for all.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Selection {
    selector: Vec<(String, String)>,
    /// One of these must take the node; none at all says nothing.
    required: Option<Vec<NodeTerm>>,
    preferred: Vec<(i64, NodeTerm)>,
    pub(crate) tolerances: Vec<Tolerance>,
}

impl Selection {
    fn new(pod: &Pod) -> Selection {
        let spec = &pod.spec;
        let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required = affinity
            .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
        let preferred = affinity
            .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
        let selector = spec.node_selector.iter();
        Selection {
            selector: selector.map(|(key, value)| (key.clone(), value.clone())).collect(),
            required: required.map(|one| one.node_selector_terms.iter().map(NodeTerm::new).collect()),
            preferred: preferred
                .into_iter()
                .flatten()
                .map(|term| (i64::from(term.weight), NodeTerm::new(&term.preference)))
                .collect(),
            tolerances: spec.tolerations.iter().filter_map(Tolerance::new).collect(),
        }
    }

    /// Whether a node is one of those that the pod selects.
    pub(crate) fn takes(&self, labels: &Labels, name: &str) -> bool {
        self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.required.as_ref().is_none_or(|terms| terms.iter().any(|term| term.takes(labels, name)))
    }

    /// How much a node is preferred.
    pub(crate) fn preference(&self, labels: &Labels, name: &str) -> i64 {
        let taken = self.preferred.iter().filter(|(_, term)| term.takes(labels, name));
        taken.map(|(weight, _)| weight).sum()
    }

    pub(crate) fn has_preference(&self) -> bool {
        !self.preferred.is_empty()
    }
}

/// A pod that is to have a node.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) pod: Arc<Pod>,
    pub(crate) occupant: Arc<Occupant>,
    pub(crate) selection: Arc<Selection>,
    /// The only nodes that come into question, by name; nothing for all.
    pub(crate) only: Option<Vec<String>>,
    pub(crate) spread: Vec<Spread>,
    /// Over what it would like to be spread; nothing if it says nothing about spreading.
    pub(crate) soft_spread: Option<Vec<Spread>>,
    /// The images of its containers, with a tag.
    pub(crate) images: Vec<String>,
    /// Whether others may be pushed away for it.
    pub(crate) preempts: bool,
    /// The pods with which it is placed together, or not at all.
    pub(crate) group: Option<Group>,
    /// By whose preferences nodes are compared.
    pub(crate) profile: Arc<Profile>,
}

/// Pods of which at least so many are placed together, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) least: usize,
}

impl Group {
    /// The label by which pods say that they belong to a group.
    pub(crate) const NAME: &str = "pod-group.scheduling.sigs.k8s.io/name";
    /// The label that says how many have to be placed together.
    const LEAST: &str = "pod-group.scheduling.sigs.k8s.io/min-available";

    fn new(pod: &Pod, labels: &Labels) -> Option<Group> {
        let name = labels.get(Group::NAME).filter(|name| !name.is_empty())?;
        let least = labels.get(Group::LEAST)?.parse().ok().filter(|least| *least > 1)?;
        Some(Group { namespace: pod.namespace().to_owned(), name: name.clone(), least })
    }
}

impl Ask {
    pub(crate) fn new(pod: Pod, profile: Arc<Profile>) -> Ask {
        let occupant = Occupant::new(&pod);
        let selection = Selection::new(&pod);
        let spreads = !pod.spec.topology_spread_constraints.is_empty();
        let containers = pod.spec.init_containers.iter().chain(&pod.spec.containers);
        let volumes = pod.spec.volumes.iter().filter_map(|volume| Some(&volume.image.as_ref()?.reference));
        let images = containers.map(|container| &container.image).chain(volumes);
        Ask {
            only: selection.required.as_deref().and_then(only_names),
            spread: Spread::of_pod(&pod, &occupant.labels, true),
            soft_spread: spreads.then(|| Spread::of_pod(&pod, &occupant.labels, false)),
            images: images.map(|image| tagged(image)).collect(),
            preempts: pod.spec.preemption_policy != "Never",
            group: Group::new(&pod, &occupant.labels),
            profile,
            occupant: Arc::new(occupant),
            selection: Arc::new(selection),
            pod: Arc::new(pod),
        }
    }

    pub(crate) fn uid(&self) -> &str {
        &self.occupant.uid
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.occupant.namespace
    }

    pub(crate) fn priority(&self) -> i32 {
        self.occupant.priority
    }

    /// The names of its claims, and whether each is made for it alone.
    pub(crate) fn claims(&self) -> impl Iterator<Item = (&String, bool)> {
        let volumes = self.pod.spec.volumes.iter();
        let made = volumes.filter_map(|volume| match &volume.persistent_volume_claim {
            Some(_) => Some(false),
            None => volume.ephemeral.as_ref().map(|_| true),
        });
        self.occupant.claims.iter().zip(made)
    }

    /// Over what it is spread if it says nothing about that.
    pub(crate) fn default_spread(&self, selector: &Selector) -> Vec<Spread> {
        if selector.is_empty() { Vec::new() } else { Spread::defaults(selector) }
    }
}

/// The name of an image as nodes tell it.
fn tagged(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or_default();
    if last.contains(':') { image.to_owned() } else { format!("{image}:latest") }
}
