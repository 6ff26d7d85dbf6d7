//! The nodes and what is placed on them, kept up to date change by change: deciding where a pod goes reads
//! nothing else.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ask::{Ask, Group, Occupant};
use crate::counters::{Counters, Matcher, Scope};
use crate::devices::Devices;
use crate::model::Node;
use crate::node::{NodeEntry, NodeFacts};
use crate::quantity::units;
use crate::resources::Resources;
use crate::selections::Selections;
use crate::selector::{Labels, Selector};
use crate::standing::Standing;
use crate::terms::Term;
use crate::topology::{NodeIndex, Topologies};
use crate::volumes::Volumes;
use crate::workloads::Workloads;

/// What a node's change may mean for pods that found no node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NodeChange {
    pub(crate) new: bool,
    pub(crate) allocatable: bool,
    pub(crate) labels: bool,
    pub(crate) taints: bool,
}

/// All nodes and placed pods.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    nodes: Vec<Option<NodeEntry>>,
    free: Vec<NodeIndex>,
    index: HashMap<String, NodeIndex>,
    known: usize,
    version: u64,
    placed: HashMap<Arc<str>, (NodeIndex, Arc<Occupant>)>,
    pub(crate) namespaces: HashMap<String, Labels>,
    pub(crate) workloads: Workloads,
    pub(crate) standing: Standing,
    pub(crate) images: Images,
    pub(crate) volumes: Volumes,
    pub(crate) devices: Devices,
    counters: Counters,
    topologies: Topologies,
    selections: Selections,
}

/// The images that are on nodes, by number.
#[derive(Debug, Default)]
pub(crate) struct Images {
    numbers: HashMap<String, u32>,
    /// On how many nodes each is.
    nodes: Vec<u32>,
}

impl Images {
    /// The number of an image that is on a node, and on how many it is.
    pub(crate) fn find(&self, name: &str) -> Option<(u32, u32)> {
        let number = *self.numbers.get(name)?;
        let nodes = *self.nodes.get(number as usize)?;
        (nodes > 0).then_some((number, nodes))
    }

    fn number(&mut self, name: &str) -> Option<u32> {
        if let Some(&number) = self.numbers.get(name) {
            return Some(number);
        }
        let number = u32::try_from(self.nodes.len()).ok()?;
        self.numbers.insert(name.to_owned(), number);
        self.nodes.push(0);
        Some(number)
    }
}

impl Picture {
    /// The nodes that exist.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (NodeIndex, &NodeEntry)> {
        let all = self.nodes.iter().enumerate();
        all.filter_map(|(index, node)| Some((index, node.as_ref().filter(|node| node.known)?)))
    }

    pub(crate) fn node(&self, index: NodeIndex) -> Option<&NodeEntry> {
        self.nodes.get(index)?.as_ref()
    }

    /// A node that exists.
    pub(crate) fn known_node(&self, index: NodeIndex) -> Option<&NodeEntry> {
        self.node(index).filter(|node| node.known)
    }

    pub(crate) fn find_node(&self, name: &str) -> Option<NodeIndex> {
        self.index.get(name).copied()
    }

    /// The length of the list of nodes, with gaps.
    pub(crate) fn slots(&self) -> usize {
        self.nodes.len()
    }

    /// How many nodes exist.
    pub(crate) fn count(&self) -> usize {
        self.known
    }

    pub(crate) fn placed(&self, uid: &str) -> Option<(NodeIndex, &Arc<Occupant>)> {
        self.placed.get(uid).map(|(node, pod)| (*node, pod))
    }

    pub(crate) fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    pub(crate) fn topologies(&self) -> &Topologies {
        &self.topologies
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn selections(&self) -> &Selections {
        &self.selections
    }

    /// Begins a decision; the numbers that the functions `find_...` gave for the last are worth nothing any more.
    /// Gives where the nodes' answers to the pod are.
    pub(crate) fn begin(&mut self, ask: &Ask) -> usize {
        self.counters.begin();
        self.topologies.tidy(self.known);
        if let (Some([name]), true) = (ask.only.as_deref(), ask.spread.is_empty())
            && let Some(index) = self.find_node(name)
            && let Some(node) = &self.nodes[index]
        {
            return self.selections.find_single(&ask.selection, index, &node.facts);
        }
        self.selections.find(&ask.selection, &self.nodes, self.version)
    }

    pub(crate) fn find_counter(&mut self, matcher: Matcher) -> usize {
        self.counters.find(matcher, self.placed.values().map(|(node, pod)| (*node, &**pod)))
    }

    /// How many pods of a group have a node.
    pub(crate) fn count_group(&mut self, group: &Group) -> usize {
        let name = (Group::NAME.to_owned(), group.name.clone());
        let selector = Selector::of(std::iter::once((&name.0, &name.1)));
        let scope = Scope { namespaces: vec![group.namespace.clone()], selector };
        let counter = self.find_counter(Matcher { all: vec![scope], living: true });
        usize::try_from(self.counters.get(counter).total()).unwrap_or(usize::MAX)
    }

    pub(crate) fn find_topology(&mut self, key: &str) -> usize {
        let nodes = self.nodes.iter().enumerate();
        let known = nodes.filter_map(|(index, node)| Some((index, node.as_ref().filter(|node| node.known)?)));
        self.topologies.find(key, known.map(|(index, node)| (index, &node.facts.labels)))
    }

    /// The namespaces in which a term means pods, in order.
    pub(crate) fn namespaces_of(&self, term: &Term) -> Vec<String> {
        let mut names = term.namespaces.clone();
        if term.namespace_selector.is_some() {
            let selected = self.namespaces.iter().filter(|(name, labels)| term.is_in(name, Some(labels)));
            names.extend(selected.map(|(name, _)| name.clone()));
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Takes a node over; tells what pods that found no node may make of it.
    pub(crate) fn apply_node(&mut self, node: &Node) -> NodeChange {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let index = self.slot(name);
        let images = self.read_images(node);
        let mut facts = NodeFacts {
            name: name.to_owned(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: node.spec.taints.clone(),
            unschedulable: node.spec.unschedulable,
            allocatable: Resources::new(Some(&node.status.allocatable)),
            allowed_pods: node.status.allocatable.get("pods").map_or(0, |quantity| units(&quantity.0)),
            images,
            version: 0,
        };
        let Some(entry) = self.nodes[index].as_mut() else { return NodeChange::default() };
        let old = entry.facts.clone();
        let change = NodeChange {
            new: !entry.known,
            allocatable: old.allocatable != facts.allocatable || old.allowed_pods != facts.allowed_pods,
            labels: old.labels != facts.labels,
            taints: old.taints != facts.taints || old.unschedulable != facts.unschedulable,
        };
        facts.version = old.version;
        if !change.new && facts == *old {
            return change;
        }
        if change.new {
            self.known += 1;
            entry.known = true;
        }
        self.version += 1;
        facts.version = self.version;
        for (number, _) in &facts.images {
            self.images.nodes[*number as usize] += 1;
        }
        for (number, _) in &old.images {
            self.images.nodes[*number as usize] -= 1;
        }
        self.topologies.set(index, Some(&facts.labels));
        entry.facts = Arc::new(facts);
        change
    }

    fn read_images(&mut self, node: &Node) -> Vec<(u32, i64)> {
        let mut images = Vec::new();
        for image in &node.status.images {
            for name in &image.names {
                images.extend(self.images.number(name).map(|number| (number, image.size_bytes)));
            }
        }
        images.sort_unstable();
        images.dedup_by_key(|(number, _)| *number);
        images
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        let Some(&index) = self.index.get(name) else { return };
        let Some(entry) = self.nodes[index].as_mut().filter(|entry| entry.known) else { return };
        entry.known = false;
        self.known -= 1;
        for (number, _) in &entry.facts.images {
            self.images.nodes[*number as usize] -= 1;
        }
        // It keeps its name: it may have pods.
        entry.facts = Arc::new(NodeFacts { name: name.to_owned(), ..NodeFacts::default() });
        self.version += 1;
        self.topologies.set(index, None);
        self.tidy(index);
    }

    /// The names of the nodes that exist.
    pub(crate) fn node_names(&self) -> Vec<String> {
        self.nodes().map(|(_, node)| node.name().to_owned()).collect()
    }

    /// The uids of placed pods.
    pub(crate) fn placed_uids(&self) -> Vec<Arc<str>> {
        self.placed.keys().cloned().collect()
    }

    /// Counts a pod on a node. Counting it again changes nothing but what is new of it. Tells what was counted before.
    pub(crate) fn place(&mut self, pod: Arc<Occupant>, node: &str) -> Option<Arc<Occupant>> {
        let index = self.slot(node);
        if let Some((at, old)) = self.placed.get(&pod.uid)
            && *at == index
            && **old == *pod
        {
            return Some(old.clone());
        }
        // The node is not to be forgotten in between.
        if let Some(entry) = self.nodes[index].as_mut() {
            entry.usage.add(pod.clone());
        }
        let old = self.remove_where(&pod.uid, Some(index));
        self.counters.change(&pod, index, true);
        self.standing.change(&pod, index, true);
        self.volumes.change(&pod, true);
        self.placed.insert(pod.uid.clone(), (index, pod));
        old
    }

    /// Counts a pod no more; gives what had been counted.
    pub(crate) fn remove(&mut self, uid: &str) -> Option<Arc<Occupant>> {
        self.remove_where(uid, None)
    }

    fn remove_where(&mut self, uid: &str, stays: Option<NodeIndex>) -> Option<Arc<Occupant>> {
        let (index, pod) = self.placed.remove(uid)?;
        self.counters.change(&pod, index, false);
        self.standing.change(&pod, index, false);
        self.volumes.change(&pod, false);
        if let Some(entry) = self.nodes[index].as_mut() {
            entry.usage.remove(&pod);
        }
        if stays != Some(index) {
            self.tidy(index);
        }
        Some(pod)
    }

    fn slot(&mut self, name: &str) -> NodeIndex {
        if let Some(&index) = self.index.get(name) {
            return index;
        }
        let facts = NodeFacts { name: name.to_owned(), ..NodeFacts::default() };
        let entry = NodeEntry { facts: Arc::new(facts), ..NodeEntry::default() };
        let index = match self.free.pop() {
            Some(index) => {
                self.nodes[index] = Some(entry);
                index
            }
            None => {
                self.nodes.push(Some(entry));
                self.nodes.len() - 1
            }
        };
        self.index.insert(name.to_owned(), index);
        index
    }

    /// Forgets a node that does not exist and has no pods.
    fn tidy(&mut self, index: NodeIndex) {
        if let Some(entry) = &self.nodes[index]
            && !entry.known
            && entry.usage.pods.is_empty()
        {
            self.index.remove(entry.name());
            self.nodes[index] = None;
            self.free.push(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, port: u16) -> Arc<Occupant> {
        let pod = serde_json::from_value(json!({
            "metadata": { "name": uid, "uid": uid, "namespace": "default" },
            "spec": { "containers": [{
                "resources": { "requests": { "cpu": "1", "example.com/gpu": "2" } },
                "ports": [{ "hostPort": port }] }] },
        }));
        Arc::new(Occupant::new(&pod.unwrap()))
    }

    #[test]
    fn sums_come_and_go_with_pods() {
        let mut picture = Picture::default();
        picture.place(pod("a", 80), "one");
        picture.place(pod("a", 80), "one");
        picture.place(pod("b", 0), "one");
        let usage = &picture.node(0).unwrap().usage;
        assert_eq!((usage.requested.cpu, usage.pods.len(), usage.ports.len()), (2000, 2, 1));
        assert_eq!(usage.requested.extended["example.com/gpu"], 4);
        assert_eq!(picture.nodes().count(), 0);
        picture.place(pod("b", 0), "two");
        assert_eq!(picture.node(0).unwrap().usage.requested.cpu, 1000);
        // What is new of a pod is counted instead of what was.
        picture.place(pod("a", 0), "one");
        assert_eq!(picture.node(0).unwrap().usage.ports.len(), 0);
        assert!(picture.remove("a").is_some() && picture.remove("a").is_none());
        assert!(picture.node(0).is_none(), "nothing is left to know of it");
    }

    #[test]
    fn a_node_that_goes_is_remembered_while_it_has_pods() {
        let mut picture = Picture::default();
        let node: Node = serde_json::from_value(json!({ "metadata": { "name": "one" } })).unwrap();
        assert!(picture.apply_node(&node).new);
        assert_eq!(picture.apply_node(&node), NodeChange::default());
        picture.place(pod("a", 80), "one");
        picture.remove_node("one");
        assert_eq!((picture.nodes().count(), picture.count()), (0, 0));
        assert!(picture.apply_node(&node).new);
        assert_eq!(picture.nodes().next().unwrap().1.usage.pods.len(), 1);
    }
}
