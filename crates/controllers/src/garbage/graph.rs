//! Who depends on whom: every object's owners, and every owner's dependents, as the watches tell them. Pure; it
//! must not know how objects are read or deleted.

use std::collections::{HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// The group of an owner.
pub(super) fn owner_group(owner: &OwnerReference) -> &str {
    owner.api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

/// What the collector has to look at, by uid.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Work {
    /// Whether an object is still wanted.
    Check(String),
    /// The dependents of an object that goes without them.
    Orphan(String),
}

impl std::fmt::Display for Work {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Work::Check(uid) => write!(formatter, "check {uid}"),
            Work::Orphan(uid) => write!(formatter, "orphan {uid}"),
        }
    }
}

/// An object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// The place of its kind in the list of kinds.
    pub(super) kind: usize,
    /// Empty for an object of the whole cluster.
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) terminating: bool,
    /// It is not to go before those that depend on it.
    pub(super) foreground: bool,
    /// It is to go, and those that depend on it are to stay.
    pub(super) orphan: bool,
}

impl Node {
    pub(super) fn new(kind: usize, metadata: &ObjectMeta) -> Node {
        let has = |finalizer: &str| metadata.finalizers.iter().flatten().any(|one| one == finalizer);
        Node {
            kind,
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            owners: metadata.owner_references.clone().unwrap_or_default(),
            terminating: metadata.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }
    }

    /// Whether it waits for its dependents to go.
    pub(super) fn waits(&self) -> bool {
        self.terminating && self.foreground
    }
}

/// All objects.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<String, Node>,
    /// By the owner's uid, whether or not the owner is known.
    dependents: HashMap<String, HashSet<String>>,
    /// By kind, what a list under way has not yet brought again.
    unlisted: HashMap<usize, HashSet<String>>,
    /// So many objects of each namespace.
    in_namespace: HashMap<String, usize>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The known dependents of an owner, with their uids.
    pub(super) fn dependents(&self, owner: &str) -> Vec<(String, Node)> {
        let uids = self.dependents.get(owner).into_iter().flatten();
        uids.filter_map(|uid| Some((uid.clone(), self.nodes.get(uid)?.clone()))).collect()
    }

    pub(super) fn has_dependents(&self, owner: &str) -> bool {
        self.dependents.get(owner).is_some_and(|all| !all.is_empty())
    }

    /// The uids of all objects of a kind.
    pub(super) fn of_kind(&self, kind: usize) -> Vec<String> {
        self.nodes.iter().filter(|(_, node)| node.kind == kind).map(|(uid, _)| uid.clone()).collect()
    }

    /// What has to be looked at when a kind has gone: all who name an owner of it.
    pub(super) fn owned_by(&self, group: &str, kind: &str) -> Vec<Work> {
        let is_owner = |owner: &OwnerReference| owner.kind == kind && owner_group(owner) == group;
        let owned = self.nodes.iter().filter(|(_, node)| node.owners.iter().any(is_owner));
        owned.map(|(uid, _)| Work::Check(uid.clone())).collect()
    }

    /// Whether nothing that is watched is in a namespace.
    pub(super) fn is_empty(&self, namespace: &str) -> bool {
        !self.in_namespace.contains_key(namespace)
    }

    /// An object was made or changed; tells what to look at.
    pub(super) fn apply(&mut self, uid: &str, node: Node) -> Vec<Work> {
        let mut work = Vec::new();
        if let Some(unlisted) = self.unlisted.get_mut(&node.kind) {
            unlisted.remove(uid);
        }
        let old = self.nodes.get(uid);
        if old == Some(&node) {
            return work;
        }
        let began = |is: fn(&Node) -> bool| is(&node) && !old.is_some_and(is);
        if began(|node| node.terminating && node.orphan) {
            work.push(Work::Orphan(uid.to_owned()));
        }
        if began(Node::waits) {
            work.push(Work::Check(uid.to_owned()));
            let dependents = self.dependents.get(uid).into_iter().flatten();
            work.extend(dependents.cloned().map(Work::Check));
        }
        let before = old.map(|old| old.owners.clone()).unwrap_or_default();
        // An owner may be gone, or wait for its dependents, from before.
        let needs_owner = |owner: &OwnerReference| self.nodes.get(&owner.uid).is_none_or(Node::waits);
        if node.owners != before && node.owners.iter().any(needs_owner) {
            work.push(Work::Check(uid.to_owned()));
        }
        for owner in &before {
            let now = node.owners.iter().find(|other| other.uid == owner.uid);
            let let_go = now.is_none_or(|now| now.block_owner_deletion != owner.block_owner_deletion);
            if let_go && self.nodes.get(&owner.uid).is_some_and(Node::waits) {
                work.push(Work::Check(owner.uid.clone()));
            }
            if now.is_none() {
                self.unlink(&owner.uid, uid);
            }
        }
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.to_owned());
        }
        let namespace = node.namespace.clone();
        if self.nodes.insert(uid.to_owned(), node).is_none() && !namespace.is_empty() {
            *self.in_namespace.entry(namespace).or_default() += 1;
        }
        work
    }

    /// An object is gone; tells what to look at.
    pub(super) fn remove(&mut self, uid: &str) -> (Option<Node>, Vec<Work>) {
        let mut work = Vec::new();
        let Some(node) = self.forget(uid) else { return (None, work) };
        for owner in &node.owners {
            if self.nodes.get(&owner.uid).is_some_and(Node::waits) {
                work.push(Work::Check(owner.uid.clone()));
            }
        }
        work.extend(self.dependents.get(uid).into_iter().flatten().cloned().map(Work::Check));
        (Some(node), work)
    }

    /// Nobody can say any more whether an object is there.
    pub(super) fn forget(&mut self, uid: &str) -> Option<Node> {
        let node = self.nodes.remove(uid)?;
        if let Some(count) = self.in_namespace.get_mut(&node.namespace) {
            *count -= 1;
            if *count == 0 {
                self.in_namespace.remove(&node.namespace);
            }
        }
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
        }
        Some(node)
    }

    /// A list of a kind begins.
    pub(super) fn begin_list(&mut self, kind: usize) {
        let known = self.of_kind(kind).into_iter().collect();
        self.unlisted.insert(kind, known);
    }

    /// A list of a kind is complete: gives the uids of what it did not bring.
    pub(super) fn end_list(&mut self, kind: usize) -> Vec<String> {
        self.unlisted.remove(&kind).unwrap_or_default().into_iter().collect()
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(owners: &[&str]) -> Node {
        Node {
            kind: 0,
            namespace: "default".to_owned(),
            name: "x".to_owned(),
            owners: owners
                .iter()
                .map(|uid| OwnerReference {
                    uid: (*uid).to_owned(),
                    block_owner_deletion: Some(true),
                    ..OwnerReference::default()
                })
                .collect(),
            terminating: false,
            foreground: false,
            orphan: false,
        }
    }

    fn check(uids: &[&str]) -> Vec<Work> {
        uids.iter().map(|uid| Work::Check((*uid).to_owned())).collect()
    }

    #[test]
    fn dependents_of_what_goes_are_looked_at() {
        let mut graph = Graph::default();
        assert_eq!(graph.apply("owner", node(&[])), []);
        assert_eq!(graph.apply("child", node(&["owner"])), []);
        assert_eq!(graph.apply("child", node(&["owner"])), []);
        assert_eq!(graph.remove("owner").1, check(&["child"]));
        assert!(!graph.is_empty("default"));
        graph.remove("child");
        assert!(graph.is_empty("default") && graph.dependents.is_empty());
    }

    #[test]
    fn dependents_of_a_kind_that_goes_are_found() {
        let mut graph = Graph::default();
        let mut child = node(&["owner"]);
        child.owners[0].api_version = "example.com/v1".to_owned();
        child.owners[0].kind = "Widget".to_owned();
        graph.apply("owner", node(&[]));
        graph.apply("child", child);
        assert_eq!(graph.owned_by("example.com", "Widget"), check(&["child"]));
        assert!(graph.owned_by("", "Widget").is_empty() && graph.owned_by("example.com", "Pod").is_empty());
        assert_eq!(graph.of_kind(0).len(), 2);
        graph.forget("owner");
        assert!(graph.get("owner").is_none() && graph.has_dependents("owner"));
    }

    #[test]
    fn a_dependent_of_nobody_known_is_looked_at() {
        let mut graph = Graph::default();
        assert_eq!(graph.apply("child", node(&["owner"])), check(&["child"]));
        graph.apply("owner", node(&[]));
        assert_eq!(graph.dependents("owner").len(), 1);
    }

    #[test]
    fn what_waits_is_looked_at_when_its_dependents_go() {
        let mut graph = Graph::default();
        graph.apply("owner", node(&[]));
        graph.apply("child", node(&["owner"]));
        let waiting = Node { terminating: true, foreground: true, ..node(&[]) };
        assert_eq!(graph.apply("owner", waiting), check(&["owner", "child"]));
        let mut unblocked = node(&["owner"]);
        unblocked.owners[0].block_owner_deletion = None;
        assert_eq!(graph.apply("child", unblocked), check(&["child", "owner"]));
        assert_eq!(graph.remove("child").1, check(&["owner"]));
    }

    #[test]
    fn what_a_list_does_not_bring_is_gone() {
        let mut graph = Graph::default();
        graph.apply("a", node(&[]));
        graph.apply("b", node(&[]));
        graph.begin_list(0);
        graph.apply("a", node(&[]));
        assert_eq!(graph.end_list(0), ["b"]);
    }
}
