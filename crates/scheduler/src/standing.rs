//! What the pods that have a node say about their neighbours: each different term once, with how many pods of each
//! node say it. A pod that comes asks each term whether it is meant.

use std::collections::HashMap;

use crate::ask::Occupant;
use crate::selector::Labels;
use crate::terms::Term;
use crate::topology::NodeIndex;

/// How a term is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Meaning {
    /// Those that it means must not come.
    Away,
    /// It had to be near those that it means.
    Near,
    /// It would like to be near those that it means, so much.
    Preferred(i64),
}

/// Terms of pods that have a node.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    all: HashMap<(Meaning, Term), HashMap<NodeIndex, u32>>,
}

impl Standing {
    /// The terms that mean a pod, and how often each node has them.
    pub(crate) fn about<'a>(
        &'a self,
        pod: &'a Occupant,
        namespace_labels: Option<&'a Labels>,
    ) -> impl Iterator<Item = (Meaning, &'a str, &'a HashMap<NodeIndex, u32>)> {
        let meant = self
            .all
            .iter()
            .filter(move |((_, term), _)| term.means(&pod.namespace, namespace_labels, &pod.labels));
        meant.map(|((meaning, term), nodes)| (*meaning, term.key.as_str(), nodes))
    }

    /// Notes that a pod has come to a node, or has left it.
    pub(crate) fn change(&mut self, pod: &Occupant, node: NodeIndex, more: bool) {
        let away = pod.terms.away.iter().map(|term| (Meaning::Away, term));
        let near = pod.terms.near.iter().map(|term| (Meaning::Near, term));
        let preferred = pod.terms.preferred.iter().map(|(weight, term)| (Meaning::Preferred(*weight), term));
        for (meaning, term) in away.chain(near).chain(preferred) {
            let key = (meaning, term.clone());
            if more {
                *self.all.entry(key).or_default().entry(node).or_default() += 1;
                continue;
            }
            let Some(nodes) = self.all.get_mut(&key) else { continue };
            if let Some(count) = nodes.get_mut(&node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&node);
                }
            }
            if nodes.is_empty() {
                self.all.remove(&key);
            }
        }
    }
}
