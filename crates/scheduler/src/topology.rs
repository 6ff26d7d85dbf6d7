//! The parts of the cluster: for the key of a label, in which part each node is, as numbers. It must not know pods.

use std::collections::HashMap;

use crate::selector::Labels;

/// Where a node is in the picture.
pub(crate) type NodeIndex = usize;
/// A node that is in no part of the cluster: it has no such label.
pub(crate) const NOWHERE: u32 = u32::MAX;
/// Keys that are kept beyond the decision that asked for them.
const KEYS: usize = 256;

/// The parts of the cluster by one key.
#[derive(Debug)]
pub(crate) struct Topology {
    key: String,
    values: HashMap<String, u32>,
    of_node: Vec<u32>,
}

impl Topology {
    /// The part in which a node is, or [`NOWHERE`].
    pub(crate) fn domain(&self, node: NodeIndex) -> u32 {
        self.of_node.get(node).copied().unwrap_or(NOWHERE)
    }

    /// More than any number of a part.
    pub(crate) fn domains(&self) -> usize {
        self.values.len()
    }

    fn set(&mut self, node: NodeIndex, value: Option<&String>) {
        if self.of_node.len() <= node {
            self.of_node.resize(node + 1, NOWHERE);
        }
        self.of_node[node] = match value {
            Some(value) => match self.values.get(value) {
                Some(domain) => *domain,
                None => {
                    let domain = u32::try_from(self.values.len()).unwrap_or(NOWHERE);
                    self.values.insert(value.clone(), domain);
                    domain
                }
            },
            None => NOWHERE,
        };
    }
}

/// The parts of the cluster by every key that was asked for.
#[derive(Debug, Default)]
pub(crate) struct Topologies {
    all: Vec<Topology>,
    index: HashMap<String, usize>,
}

impl Topologies {
    pub(crate) fn get(&self, index: usize) -> &Topology {
        &self.all[index]
    }

    /// Where the parts by a key are if somebody asked for them.
    pub(crate) fn known(&self, key: &str) -> Option<usize> {
        self.index.get(key).copied()
    }

    /// Whether parts are those by a key.
    pub(crate) fn is(&self, index: usize, key: &str) -> bool {
        self.all[index].key == key
    }

    /// Where the parts by a key are; they are made when nobody asked for them before.
    pub(crate) fn find<'a>(
        &mut self,
        key: &str,
        nodes: impl Iterator<Item = (NodeIndex, &'a Labels)>,
    ) -> usize {
        if let Some(&index) = self.index.get(key) {
            return index;
        }
        let mut topology = Topology { key: key.to_owned(), values: HashMap::new(), of_node: Vec::new() };
        for (node, labels) in nodes {
            topology.set(node, labels.get(key));
        }
        self.all.push(topology);
        self.index.insert(key.to_owned(), self.all.len() - 1);
        self.all.len() - 1
    }

    /// Notes the labels of a node; nothing if there is no such node.
    pub(crate) fn set(&mut self, node: NodeIndex, labels: Option<&Labels>) {
        for topology in &mut self.all {
            topology.set(node, labels.and_then(|labels| labels.get(&topology.key)));
        }
    }

    /// Forgets what has grown out of use. Numbers of parts are worth nothing afterwards.
    pub(crate) fn tidy(&mut self, nodes: usize) {
        let worn = self.all.iter().any(|topology| topology.values.len() > 2 * nodes + 64);
        if worn || self.all.len() > KEYS {
            self.all.clear();
            self.index.clear();
        }
    }
}
