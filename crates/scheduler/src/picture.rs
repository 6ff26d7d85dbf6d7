//! The nodes and what is placed on them, kept up to date change by change: deciding where a pod goes reads
//! nothing else.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::{PodAffinityTerm, Taint};

use crate::matching::{self, Labels};
use crate::model::{Node, Pod};
use crate::quantity::units;
use crate::resources::Resources;

/// What a pod without requests counts as when nodes are compared, as in the reference.
const DEFAULT_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Where a node is in [`Picture::nodes`].
pub(crate) type NodeIndex = usize;

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
    pub(crate) fn of(pod: &Pod) -> Vec<HostPort> {
        let containers =
            pod.spec.containers.iter().chain(
                pod.spec.init_containers.iter().filter(|container| container.restart_policy == "Always"),
            );
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

/// A node and the sums of what is on it.
#[derive(Debug, Default)]
pub(crate) struct NodeEntry {
    pub(crate) name: String,
    /// Whether there is a Node object; pods may be known before it, and after.
    pub(crate) known: bool,
    pub(crate) labels: Labels,
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    pub(crate) allocatable: Resources,
    pub(crate) allowed_pods: i64,
    /// Sizes in bytes by name.
    pub(crate) images: HashMap<String, i64>,
    pub(crate) requested: Resources,
    /// The same with defaults for pods that ask for nothing.
    pub(crate) weight: Resources,
    pub(crate) pods: i64,
    pub(crate) ports: Vec<HostPort>,
    /// How many pods of each owner.
    pub(crate) owners: HashMap<String, u32>,
}

/// A pod that has a node.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) node: NodeIndex,
    pub(crate) namespace: String,
    pub(crate) labels: Option<Labels>,
    pub(crate) terminating: bool,
    pub(crate) anti_affinity: Vec<PodAffinityTerm>,
    owner: String,
    requests: Resources,
    ports: Vec<HostPort>,
}

/// All nodes and placed pods.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    nodes: Vec<Option<NodeEntry>>,
    free: Vec<NodeIndex>,
    index: HashMap<String, NodeIndex>,
    placed: HashMap<String, Placed>,
    /// Uids of placed pods that want to be away from others.
    unsociable: HashSet<String>,
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

    /// The length of the list of nodes, with gaps.
    pub(crate) fn slots(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn placed(&self) -> impl Iterator<Item = &Placed> {
        self.placed.values()
    }

    /// The placed pods that want to be away from others.
    pub(crate) fn unsociable(&self) -> impl Iterator<Item = &Placed> {
        self.unsociable.iter().filter_map(|uid| self.placed.get(uid))
    }

    pub(crate) fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    /// Takes a node over; tells whether pods that found no node may find one now.
    pub(crate) fn apply_node(&mut self, node: &Node) -> bool {
        let name = node.metadata.name.clone().unwrap_or_default();
        let index = self.slot(&name);
        let Some(entry) = self.nodes[index].as_mut() else { return false };
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let allocatable = Resources::new(Some(&node.status.allocatable));
        let allowed_pods = node.status.allocatable.get("pods").map_or(0, |quantity| units(&quantity.0));
        entry.images.clear();
        for image in &node.status.images {
            entry.images.extend(image.names.iter().map(|name| (name.clone(), image.size_bytes)));
        }
        let same = entry.known
            && entry.labels == labels
            && entry.taints == node.spec.taints
            && entry.unschedulable == node.spec.unschedulable
            && entry.allocatable == allocatable
            && entry.allowed_pods == allowed_pods;
        entry.known = true;
        entry.labels = labels;
        entry.taints.clone_from(&node.spec.taints);
        entry.unschedulable = node.spec.unschedulable;
        entry.allocatable = allocatable;
        entry.allowed_pods = allowed_pods;
        !same
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        let Some(&index) = self.index.get(name) else { return };
        if let Some(entry) = self.nodes[index].as_mut() {
            entry.known = false;
        }
        self.tidy(index);
    }

    /// The names of the nodes that exist.
    pub(crate) fn node_names(&self) -> Vec<String> {
        self.nodes().map(|(_, node)| node.name.clone()).collect()
    }

    /// The uids of placed pods.
    pub(crate) fn placed_uids(&self) -> Vec<String> {
        self.placed.keys().cloned().collect()
    }

    /// Counts a pod on a node. Counting it again changes nothing but what is new of it.
    pub(crate) fn place(&mut self, pod: &Pod, node: &str) {
        self.remove(pod.uid());
        let index = self.slot(node);
        let placed = Placed {
            node: index,
            namespace: pod.namespace().to_owned(),
            labels: pod.metadata.labels.clone(),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            anti_affinity: matching::required_anti_affinity(pod).to_vec(),
            owner: pod.owner().to_owned(),
            requests: Resources::of_pod(pod),
            ports: HostPort::of(pod),
        };
        if let Some(entry) = self.nodes[index].as_mut() {
            entry.requested.add(&placed.requests);
            entry.weight.add(&weight(&placed.requests));
            entry.pods += 1;
            entry.ports.extend(placed.ports.iter().cloned());
            if !placed.owner.is_empty() {
                *entry.owners.entry(placed.owner.clone()).or_default() += 1;
            }
        }
        if !placed.anti_affinity.is_empty() {
            self.unsociable.insert(pod.uid().to_owned());
        }
        self.placed.insert(pod.uid().to_owned(), placed);
    }

    /// Counts a pod no more; tells whether it had been counted.
    pub(crate) fn remove(&mut self, uid: &str) -> bool {
        let Some(placed) = self.placed.remove(uid) else { return false };
        self.unsociable.remove(uid);
        if let Some(entry) = self.nodes[placed.node].as_mut() {
            entry.requested.subtract(&placed.requests);
            entry.weight.subtract(&weight(&placed.requests));
            entry.pods -= 1;
            for port in &placed.ports {
                if let Some(at) = entry.ports.iter().position(|other| other == port) {
                    entry.ports.swap_remove(at);
                }
            }
            if let Some(count) = entry.owners.get_mut(&placed.owner) {
                *count -= 1;
                if *count == 0 {
                    entry.owners.remove(&placed.owner);
                }
            }
        }
        self.tidy(placed.node);
        true
    }

    fn slot(&mut self, name: &str) -> NodeIndex {
        if let Some(&index) = self.index.get(name) {
            return index;
        }
        let entry = NodeEntry { name: name.to_owned(), ..NodeEntry::default() };
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
            && entry.pods == 0
        {
            self.index.remove(&entry.name);
            self.nodes[index] = None;
            self.free.push(index);
        }
    }
}

/// What a pod counts as when nodes are compared.
pub(crate) fn weight(requests: &Resources) -> Resources {
    Resources {
        cpu: if requests.cpu == 0 { DEFAULT_CPU } else { requests.cpu },
        memory: if requests.memory == 0 { DEFAULT_MEMORY } else { requests.memory },
        ..Resources::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, port: u16) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": uid, "uid": uid, "namespace": "default" },
            "spec": { "containers": [{
                "resources": { "requests": { "cpu": "1", "example.com/gpu": "2" } },
                "ports": [{ "hostPort": port }] }] },
        }))
        .unwrap()
    }

    #[test]
    fn sums_come_and_go_with_pods() {
        let mut picture = Picture::default();
        picture.place(&pod("a", 80), "one");
        picture.place(&pod("a", 80), "one");
        picture.place(&pod("b", 0), "one");
        let entry = picture.node(0).unwrap();
        assert_eq!((entry.requested.cpu, entry.pods, entry.ports.len()), (2000, 2, 1));
        assert_eq!(entry.requested.extended["example.com/gpu"], 4);
        assert_eq!(picture.nodes().count(), 0);
        picture.place(&pod("b", 0), "two");
        assert_eq!(picture.node(0).unwrap().requested.cpu, 1000);
        assert!(picture.remove("a") && !picture.remove("a"));
        assert!(picture.node(0).is_none(), "nothing is left to know of it");
    }

    #[test]
    fn a_node_that_goes_is_remembered_while_it_has_pods() {
        let mut picture = Picture::default();
        let node: Node = serde_json::from_value(json!({ "metadata": { "name": "one" } })).unwrap();
        assert!(picture.apply_node(&node));
        assert!(!picture.apply_node(&node));
        picture.place(&pod("a", 80), "one");
        picture.remove_node("one");
        assert_eq!(picture.nodes().count(), 0);
        assert!(picture.apply_node(&node));
        assert_eq!(picture.nodes().next().unwrap().1.pods, 1);
    }
}
