//! Which changes of the cluster are worth trying a pod again that found no node: for each filter that refused it, the
//! events that can make it say something else. What is on a node alone is asked again at once, for that node.

use crate::ask::{Ask, Occupant};
use crate::filters::{FILTERS, Place, Prepared, Question, Verdict};
use crate::node::NodeEntry;
use crate::objects::Kind;
use crate::picture::{NodeChange, Picture};
use crate::selections::Answer;
use crate::terms::Term;
use crate::topology::NodeIndex;

/// Something that has changed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event<'a> {
    /// A node came, or is other than it was.
    Node {
        index: NodeIndex,
        change: NodeChange,
    },
    NodeGone,
    /// A pod has a node, or other labels than it had.
    PodPlaced(&'a Occupant),
    /// A pod went from its node, or needs less of it.
    PodGone {
        index: NodeIndex,
        pod: &'a Occupant,
    },
    /// Room that was kept for a pod is not any more.
    NominationGone,
    /// An object of another kind is other than it was.
    Other(Kind),
}

/// The kinds of events, a bit each, as filters name them.
pub(crate) mod wakes {
    /// A node came or changed.
    pub(crate) const NODE: u32 = 1;
    /// A node went.
    pub(crate) const NODE_GONE: u32 = 1 << 1;
    /// A pod came to a node.
    pub(crate) const POD_PLACED: u32 = 1 << 2;
    /// A pod left a node.
    pub(crate) const POD_GONE: u32 = 1 << 3;
    /// A namespace changed.
    pub(crate) const NAMESPACE: u32 = 1 << 4;
    /// A claim, a volume, a class, or what drivers can do changed.
    pub(crate) const STORAGE: u32 = 1 << 5;
    /// A device, a class of them, or a claim changed.
    pub(crate) const DEVICES: u32 = 1 << 6;
}

/// Stands for filters where a pod waits for nothing that an event could tell.
pub(crate) const NOTHING: u32 = 1 << 31;

/// Whether a pod that filters refused, a bit each in `by`, is worth another try.
pub(crate) fn worth(picture: &Picture, ask: &Ask, by: u32, event: Event<'_>) -> bool {
    if by == 0 {
        return true;
    }
    let kind = match event {
        Event::Node { .. } => wakes::NODE,
        Event::NodeGone => wakes::NODE_GONE,
        Event::PodPlaced(_) => wakes::POD_PLACED,
        Event::PodGone { .. } => wakes::POD_GONE,
        Event::NominationGone => return true,
        Event::Other(Kind::Namespace) => wakes::NAMESPACE,
        Event::Other(Kind::Claim | Kind::Volume | Kind::Class | Kind::NodeDrivers) => wakes::STORAGE,
        Event::Other(Kind::DeviceClaim | Kind::DeviceClass | Kind::DeviceSlice) => wakes::DEVICES,
        Event::Other(_) => return false,
    };
    let refused = FILTERS.iter().enumerate().filter(|(number, _)| by & (1 << number) != 0);
    let mut awake = refused.filter(|(_, filter)| filter.wakes & kind != 0).map(|(_, filter)| filter);
    match event {
        Event::Node { index, change } => {
            // A node that is new, or that would be taken, for all that it says itself.
            picture.known_node(index).is_some_and(|node| {
                let changed = change.new || change.allocatable || change.labels || change.taints;
                changed && awake.any(|filter| !filter.local || alone(picture, ask, index, node))
            })
        }
        Event::PodGone { index, pod } => {
            let mut local = None;
            awake.any(|filter| {
                if filter.local {
                    let known = picture.known_node(index);
                    *local.get_or_insert_with(|| known.is_some_and(|node| alone(picture, ask, index, node)))
                } else {
                    concerns(picture, ask, pod)
                }
            })
        }
        Event::PodPlaced(pod) => awake.next().is_some() && concerns(picture, ask, pod),
        _ => awake.next().is_some(),
    }
}

/// Whether a node takes a pod as far as it depends on nothing but the node.
fn alone(picture: &Picture, ask: &Ask, index: NodeIndex, node: &NodeEntry) -> bool {
    let facts = &node.facts;
    if Answer::new(&ask.selection, facts).unfit.is_some() {
        return false;
    }
    let prepared = Prepared::default();
    let question = Question { picture, ask, prepared: &prepared };
    let place = Place { index, facts, usage: &node.usage };
    let mut asked = FILTERS.iter().filter(|filter| filter.local && filter.alone);
    let mut reasons = Vec::new();
    asked.all(|filter| (filter.check)(&question, place, &mut reasons) == Verdict::Passes)
}

/// Whether a pod's coming or going means something to another's neighbourhood.
fn concerns(picture: &Picture, ask: &Ask, pod: &Occupant) -> bool {
    let labels = picture.namespaces.get(&pod.namespace);
    let mut own = ask.occupant.terms.near.iter().chain(&ask.occupant.terms.away);
    let means = |term: &Term| term.means(&pod.namespace, labels, &pod.labels);
    own.any(means)
        || (pod.namespace == ask.namespace()
            && pod.claims.iter().any(|name| ask.occupant.claims.contains(name)))
        || !pod.terms.away.is_empty()
        || (pod.namespace == ask.occupant.namespace
            && ask.spread.iter().any(|spread| spread.selector.takes(&pod.labels)))
}
