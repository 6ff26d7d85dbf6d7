//! Pods for which others have been pushed away: until they have their node, those that are less urgent leave them their
//! room. It must not know how a node was found.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ask::{Ask, Occupant};
use crate::picture::Picture;
use crate::topology::NodeIndex;

/// Pods and the nodes that are kept for them, by uid.
#[derive(Debug, Default)]
pub(crate) struct Nominations {
    all: HashMap<Arc<str>, (String, Arc<Occupant>)>,
}

impl Nominations {
    /// The node that is kept for a pod.
    pub(crate) fn node(&self, uid: &str) -> Option<&str> {
        self.all.get(uid).map(|(node, _)| node.as_str())
    }

    /// Keeps a node for a pod.
    pub(crate) fn set(&mut self, pod: Arc<Occupant>, node: &str) {
        self.all.insert(pod.uid.clone(), (node.to_owned(), pod));
    }

    /// Keeps a pod no room any more; tells whether it had been.
    pub(crate) fn remove(&mut self, uid: &str) -> bool {
        self.all.remove(uid).is_some()
    }

    /// The pods of less than a priority for which a node is kept.
    pub(crate) fn less_urgent(&self, node: &str, priority: i32) -> Vec<Arc<Occupant>> {
        let all = self.all.values().filter(|(kept, pod)| kept == node && pod.priority < priority);
        all.map(|(_, pod)| pod.clone()).collect()
    }

    /// Who comes before a pod on each node.
    pub(crate) fn before(&self, picture: &Picture, ask: &Ask) -> HashMap<NodeIndex, Vec<Arc<Occupant>>> {
        let mut before: HashMap<NodeIndex, Vec<Arc<Occupant>>> = HashMap::new();
        for (node, pod) in self.all.values() {
            let counts =
                pod.priority >= ask.priority() && *pod.uid != *ask.uid() && !picture.is_placed(&pod.uid);
            if let (true, Some(index)) = (counts, picture.find_node(node)) {
                before.entry(index).or_default().push(pod.clone());
            }
        }
        before
    }
}
