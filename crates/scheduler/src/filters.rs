//! Which nodes can take a pod: one table of filters in the order of the reference, with its words. A filter reads the
//! picture and changes nothing.

use crate::ask::{Ask, Occupant};
use crate::devices::{DeviceNeeds, Lacking};
use crate::hints::wakes::{DEVICES, NAMESPACE, NODE, NODE_GONE, POD_GONE, POD_PLACED, STORAGE};
use crate::neighbours::{Neighbours, Unfriendly};
use crate::node::{NodeFacts, Usage};
use crate::picture::Picture;
use crate::selections::Unfit;
use crate::spread::{HardSpread, Uneven};
use crate::topology::NodeIndex;
use crate::volumes::{Misplaced, Needs};

/// A reason against a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reason<'a> {
    Text(&'static str),
    Taint { key: &'a str, value: &'a str },
    Insufficient(&'a str),
}

impl std::fmt::Display for Reason<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::Text(text) => to.write_str(text),
            Reason::Taint { key, value } => write!(to, "node(s) had untolerated taint {{{key}: {value}}}"),
            Reason::Insufficient(resource) => write!(to, "Insufficient {resource}"),
        }
    }
}

/// What a filter says of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passes,
    /// No, but it could if other pods went.
    Unschedulable,
    /// No, whatever pods are on it.
    Unresolvable,
}

/// What is worked out of a pod and the picture before nodes are looked at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Prepared {
    /// Where the nodes' answers are.
    pub(crate) selection: usize,
    pub(crate) spread: HardSpread,
    pub(crate) neighbours: Neighbours,
    pub(crate) volumes: Needs,
    pub(crate) devices: DeviceNeeds,
}

impl Prepared {
    /// # Errors
    /// What is wrong whichever node it is: the filter, and what it says.
    pub(crate) fn new(picture: &mut Picture, ask: &Ask) -> Result<Prepared, (usize, String)> {
        let selection = picture.begin(ask);
        Ok(Prepared {
            selection,
            volumes: picture.volumes.needs(ask).map_err(|why| (VOLUME_BINDING, why))?,
            devices: picture.devices.needs(ask).map_err(|why| (DYNAMIC_RESOURCES, why))?,
            spread: HardSpread::new(picture, ask, selection),
            neighbours: Neighbours::new(picture, ask),
        })
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
        self.spread.suppose(picture, pod, node, more);
        self.neighbours.suppose(picture, ask, pod, node, more);
        self.volumes.suppose(pod, more);
    }

    /// The filters that have something to say, by their number in [`FILTERS`].
    pub(crate) fn active(&self, ask: &Ask) -> Vec<usize> {
        let all = FILTERS.iter().enumerate();
        all.filter(|(_, filter)| (filter.applies)(ask, self)).map(|(number, _)| number).collect()
    }
}

/// A pod and all that filters may read besides the node.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a, 'p> {
    pub(crate) picture: &'a Picture,
    pub(crate) ask: &'a Ask,
    pub(crate) prepared: &'p Prepared,
}

/// A node, with what is on it or is supposed to be.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a, 'u> {
    pub(crate) index: NodeIndex,
    pub(crate) facts: &'a NodeFacts,
    pub(crate) usage: &'u Usage,
}

type Check = for<'a> fn(&Question<'a, '_>, Place<'a, '_>, &mut Vec<Reason<'a>>) -> Verdict;

/// A filter.
pub(crate) struct Filter {
    /// As the reference calls it.
    pub(crate) name: &'static str,
    /// Whether it can refuse a node at all.
    applies: fn(&Ask, &Prepared) -> bool,
    pub(crate) check: Check,
    /// The events after which it may say something else.
    pub(crate) wakes: u32,
    /// Whether it depends on one node only.
    pub(crate) local: bool,
    /// Whether it can be asked without anything being prepared.
    pub(crate) alone: bool,
}

/// All filters, in the order of the reference. Like it a node is refused by the first that does.
pub(crate) static FILTERS: [Filter; 12] = [
    Filter { name: "NodeUnschedulable", check: cordoned, wakes: NODE, ..BASE },
    Filter { name: "TaintToleration", check: tainted, wakes: NODE, ..BASE },
    Filter { name: "NodeAffinity", check: selected, wakes: NODE, ..BASE },
    Filter {
        name: "NodePorts",
        applies: |ask, _| !ask.occupant.ports.is_empty(),
        check: ports,
        alone: true,
        ..BASE
    },
    Filter { name: "NodeResourcesFit", check: resources, alone: true, ..BASE },
    Filter {
        name: "VolumeRestrictions",
        applies: |_, prepared| prepared.volumes.conflicts(),
        check: shared,
        wakes: POD_GONE | STORAGE,
        local: false,
        ..BASE
    },
    Filter {
        name: "NodeVolumeLimits",
        applies: |_, prepared| prepared.volumes.attaches(),
        check: attached,
        wakes: NODE | POD_GONE | STORAGE,
        ..BASE
    },
    Filter {
        name: "VolumeBinding",
        applies: |_, prepared| !prepared.volumes.is_empty(),
        check: volumes,
        wakes: NODE | STORAGE,
        ..BASE
    },
    Filter {
        name: "VolumeZone",
        applies: |_, prepared| !prepared.volumes.is_empty(),
        check: zone,
        wakes: NODE | STORAGE,
        ..BASE
    },
    Filter {
        name: "PodTopologySpread",
        applies: |_, prepared| !prepared.spread.is_empty(),
        check: spread,
        wakes: NODE | NODE_GONE | POD_PLACED | POD_GONE,
        local: false,
        ..BASE
    },
    Filter {
        name: "InterPodAffinity",
        applies: |_, prepared| !prepared.neighbours.is_empty(),
        check: neighbours,
        wakes: NODE | POD_PLACED | POD_GONE | NAMESPACE,
        local: false,
        ..BASE
    },
    Filter {
        name: "DynamicResources",
        applies: |_, prepared| !prepared.devices.is_empty(),
        check: devices,
        wakes: NODE | DEVICES,
        ..BASE
    },
];

/// What most filters are like.
const BASE: Filter = Filter {
    name: "",
    applies: |_, _| true,
    check: |_, _, _| Verdict::Passes,
    wakes: NODE | POD_GONE,
    local: true,
    alone: false,
};

/// The number of the filter that looks at nodes' labels.
pub(crate) const NODE_AFFINITY: usize = 2;
/// The number of the filter that looks at claims.
pub(crate) const VOLUME_BINDING: usize = 7;
/// The number of the filter that looks at devices.
pub(crate) const DYNAMIC_RESOURCES: usize = 11;

impl<'a> Question<'a, '_> {
    /// The first of the `active` filters that refuses a node, and what it says.
    pub(crate) fn check(
        &self,
        active: &[usize],
        place: Place<'a, '_>,
        reasons: &mut Vec<Reason<'a>>,
    ) -> Option<(usize, Verdict)> {
        for &number in active {
            match (FILTERS[number].check)(self, place, reasons) {
                Verdict::Passes => {}
                refused => return Some((number, refused)),
            }
        }
        None
    }

    fn unfit(&self, index: NodeIndex) -> Option<Unfit> {
        self.picture.selections().get(self.prepared.selection).get(index)?.unfit
    }
}

fn cordoned<'a>(question: &Question<'a, '_>, place: Place<'a, '_>, reasons: &mut Vec<Reason<'a>>) -> Verdict {
    if question.unfit(place.index) != Some(Unfit::Cordoned) {
        return Verdict::Passes;
    }
    reasons.push(Reason::Text("node(s) were unschedulable"));
    Verdict::Unresolvable
}

fn tainted<'a>(question: &Question<'a, '_>, place: Place<'a, '_>, reasons: &mut Vec<Reason<'a>>) -> Verdict {
    let Some(Unfit::Tainted(number)) = question.unfit(place.index) else { return Verdict::Passes };
    let taint = place.facts.taints.get(number);
    let value = taint.and_then(|taint| taint.value.as_deref()).unwrap_or_default();
    reasons.push(Reason::Taint { key: taint.map_or("", |taint| &taint.key), value });
    Verdict::Unresolvable
}

fn selected<'a>(question: &Question<'a, '_>, place: Place<'a, '_>, reasons: &mut Vec<Reason<'a>>) -> Verdict {
    if question.unfit(place.index) != Some(Unfit::NotSelected) {
        return Verdict::Passes;
    }
    reasons.push(Reason::Text("node(s) didn't match Pod's node affinity/selector"));
    Verdict::Unresolvable
}

fn ports<'a>(question: &Question<'a, '_>, place: Place<'a, '_>, reasons: &mut Vec<Reason<'a>>) -> Verdict {
    let mut wanted = question.ask.occupant.ports.iter();
    if !wanted.any(|port| place.usage.ports.iter().any(|taken| taken.conflicts(port))) {
        return Verdict::Passes;
    }
    reasons.push(Reason::Text("node(s) didn't have free ports for the requested pod ports"));
    Verdict::Unschedulable
}

fn resources<'a>(
    question: &Question<'a, '_>,
    place: Place<'a, '_>,
    reasons: &mut Vec<Reason<'a>>,
) -> Verdict {
    let (wanted, have, taken) =
        (&question.ask.occupant.requests, &place.facts.allocatable, &place.usage.requested);
    let mut verdict = Verdict::Passes;
    if place.usage.pods.len() as i64 >= place.facts.allowed_pods {
        reasons.push(Reason::Text("Too many pods"));
        verdict = Verdict::Unschedulable;
    }
    let mut check = |name: &'a str, wanted: i64, have: i64, taken: i64| {
        if wanted > 0 && wanted > have - taken {
            reasons.push(Reason::Insufficient(name));
            // It is more than the whole node has.
            if wanted > have {
                verdict = Verdict::Unresolvable;
            } else if verdict == Verdict::Passes {
                verdict = Verdict::Unschedulable;
            }
        }
    };
    check("cpu", wanted.cpu, have.cpu, taken.cpu);
    check("memory", wanted.memory, have.memory, taken.memory);
    check("ephemeral-storage", wanted.ephemeral, have.ephemeral, taken.ephemeral);
    for (name, amount) in &wanted.extended {
        let of = |all: &crate::resources::Resources| all.extended.get(name).copied().unwrap_or(0);
        check(name, *amount, of(have), of(taken));
    }
    verdict
}

fn spread<'a>(question: &Question<'a, '_>, place: Place<'a, '_>, reasons: &mut Vec<Reason<'a>>) -> Verdict {
    let (text, verdict) = match question.prepared.spread.refuse(question.picture, place.index) {
        None => return Verdict::Passes,
        Some(Uneven::NoLabel) => (
            "node(s) didn't match pod topology spread constraints (missing required label)",
            Verdict::Unresolvable,
        ),
        Some(Uneven::TooMany) => {
            ("node(s) didn't match pod topology spread constraints", Verdict::Unschedulable)
        }
    };
    reasons.push(Reason::Text(text));
    verdict
}

fn neighbours<'a>(
    question: &Question<'a, '_>,
    place: Place<'a, '_>,
    reasons: &mut Vec<Reason<'a>>,
) -> Verdict {
    let (text, verdict) = match question.prepared.neighbours.refuse(question.picture, place.index) {
        None => return Verdict::Passes,
        Some(Unfriendly::NotNear) => ("node(s) didn't match pod affinity rules", Verdict::Unresolvable),
        Some(Unfriendly::NotAway) => ("node(s) didn't match pod anti-affinity rules", Verdict::Unschedulable),
        Some(Unfriendly::Unwelcome) => {
            ("node(s) didn't satisfy existing pods anti-affinity rules", Verdict::Unschedulable)
        }
    };
    reasons.push(Reason::Text(text));
    verdict
}

fn shared<'a>(question: &Question<'a, '_>, _: Place<'a, '_>, reasons: &mut Vec<Reason<'a>>) -> Verdict {
    if !question.prepared.volumes.conflicts() {
        return Verdict::Passes;
    }
    let text = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
    reasons.push(Reason::Text(text));
    Verdict::Unschedulable
}

fn attached<'a>(question: &Question<'a, '_>, place: Place<'a, '_>, reasons: &mut Vec<Reason<'a>>) -> Verdict {
    let volumes = &question.picture.volumes;
    if !volumes.exceeds(&question.prepared.volumes, place.facts, place.usage) {
        return Verdict::Passes;
    }
    reasons.push(Reason::Text("node(s) exceed max volume count"));
    Verdict::Unschedulable
}

fn volumes<'a>(question: &Question<'a, '_>, place: Place<'a, '_>, reasons: &mut Vec<Reason<'a>>) -> Verdict {
    let text = match question.picture.volumes.refuse(&question.prepared.volumes, place.facts) {
        None => return Verdict::Passes,
        Some(Misplaced::NoVolume) => {
            "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
        }
        Some(Misplaced::Elsewhere) => "node(s) didn't match PersistentVolume's node affinity",
        Some(Misplaced::NothingToBind) => "node(s) didn't find available persistent volumes to bind",
    };
    reasons.push(Reason::Text(text));
    Verdict::Unresolvable
}

fn zone<'a>(question: &Question<'a, '_>, place: Place<'a, '_>, reasons: &mut Vec<Reason<'a>>) -> Verdict {
    if !question.picture.volumes.is_in_other_zone(&question.prepared.volumes, place.facts) {
        return Verdict::Passes;
    }
    reasons.push(Reason::Text("node(s) had no available volume zone"));
    Verdict::Unresolvable
}

fn devices<'a>(question: &Question<'a, '_>, place: Place<'a, '_>, reasons: &mut Vec<Reason<'a>>) -> Verdict {
    let text = match question.picture.devices.refuse(&question.prepared.devices, place.facts) {
        None => return Verdict::Passes,
        Some(Lacking::Elsewhere) => "resourceclaim not available on the node",
        Some(Lacking::NotEnough) => "cannot allocate all claims",
    };
    reasons.push(Reason::Text(text));
    Verdict::Unresolvable
}
