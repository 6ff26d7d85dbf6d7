//! Where a pod goes: which nodes can take it, and which of them is best. No I/O, and no change of the picture.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;

use crate::matching;
use crate::model::Pod;
use crate::neighbours::Neighbours;
use crate::picture::{HostPort, NodeEntry, NodeIndex, Picture, weight};
use crate::resources::Resources;

/// Below so many nodes all are looked at; above, the search ends when enough have been found.
const ENOUGH: usize = 100;

/// Why no node can take a pod: so many nodes for each reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    nodes: usize,
    reasons: BTreeMap<String, usize>,
}

impl Refusal {
    /// In the words of the reference.
    pub(crate) fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut reasons: Vec<String> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        format!("0/{} nodes are available: {}.", self.nodes, reasons.join(", "))
    }
}

/// A pod about to be placed, with what is worked out of it once.
struct Candidate<'a> {
    pod: &'a Pod,
    requests: Resources,
    weight: Resources,
    ports: Vec<HostPort>,
    neighbours: Neighbours,
}

/// Chooses a node. `start` is where the search begins: it moves on, so that in a large cluster all nodes are used.
pub(crate) fn decide(picture: &Picture, pod: &Pod, start: &mut usize) -> Result<NodeIndex, Refusal> {
    let requests = Resources::of_pod(pod);
    let candidate = Candidate {
        pod,
        weight: weight(&requests),
        requests,
        ports: HostPort::of(pod),
        neighbours: Neighbours::new(picture, pod),
    };
    let mut refusal = Refusal::default();
    let mut feasible = Vec::new();
    let slots = picture.slots();
    let wanted = wanted(slots);
    for step in 0..slots {
        let index = (*start + step) % slots;
        let Some(node) = picture.node(index).filter(|node| node.known) else { continue };
        refusal.nodes += 1;
        let reasons = candidate.refuse(node);
        if reasons.is_empty() {
            feasible.push(index);
            if feasible.len() >= wanted {
                *start = (index + 1) % slots;
                break;
            }
        }
        for reason in reasons {
            *refusal.reasons.entry(reason).or_default() += 1;
        }
    }
    match feasible[..] {
        [] => Err(refusal),
        [only] => Ok(only),
        _ => Ok(candidate.best(picture, &feasible)),
    }
}

/// How many nodes that can take a pod are enough to choose from.
fn wanted(nodes: usize) -> usize {
    if nodes <= ENOUGH {
        return nodes.max(1);
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(ENOUGH)
}

/// The taint that stands for `kubectl cordon`.
fn cordoned() -> Taint {
    Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        value: None,
        time_added: None,
    }
}

impl Candidate<'_> {
    /// Why a node cannot take the pod; nothing if it can. Like the reference it stops at the first kind of reason.
    fn refuse(&self, node: &NodeEntry) -> Vec<String> {
        let spec = &self.pod.spec;
        if node.unschedulable && !matching::tolerates(&spec.tolerations, &cordoned()) {
            return vec!["node(s) were unschedulable".to_owned()];
        }
        let taint = node.taints.iter().find(|taint| {
            matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
                && !matching::tolerates(&spec.tolerations, taint)
        });
        if let Some(taint) = taint {
            let value = taint.value.as_deref().unwrap_or_default();
            return vec![format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)];
        }
        if !self.selects(node) {
            return vec!["node(s) didn't match Pod's node affinity/selector".to_owned()];
        }
        if self.ports.iter().any(|port| node.ports.iter().any(|taken| taken.conflicts(port))) {
            return vec!["node(s) didn't have free ports for the requested pod ports".to_owned()];
        }
        let missing = self.missing(node);
        if !missing.is_empty() {
            return missing;
        }
        self.neighbours.refuse(node).map(str::to_owned).into_iter().collect()
    }

    fn selects(&self, node: &NodeEntry) -> bool {
        let selector = &self.pod.spec.node_selector;
        selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
            && matching::required_node_terms(self.pod).is_none_or(|terms| {
                terms.iter().any(|term| matching::node_term(term, &node.labels, &node.name))
            })
    }

    /// What of the resources there is not enough of.
    fn missing(&self, node: &NodeEntry) -> Vec<String> {
        let mut missing = Vec::new();
        if node.pods >= node.allowed_pods {
            missing.push("Too many pods".to_owned());
        }
        let free = |wanted: i64, have: i64, taken: i64| wanted == 0 || wanted <= have - taken;
        let (wanted, have, taken) = (&self.requests, &node.allocatable, &node.requested);
        if !free(wanted.cpu, have.cpu, taken.cpu) {
            missing.push("Insufficient cpu".to_owned());
        }
        if !free(wanted.memory, have.memory, taken.memory) {
            missing.push("Insufficient memory".to_owned());
        }
        if !free(wanted.ephemeral, have.ephemeral, taken.ephemeral) {
            missing.push("Insufficient ephemeral-storage".to_owned());
        }
        for (name, amount) in &wanted.extended {
            let of = |resources: &Resources| resources.extended.get(name).copied().unwrap_or(0);
            if !free(*amount, of(have), of(taken)) {
                missing.push(format!("Insufficient {name}"));
            }
        }
        missing
    }

    /// The best of several nodes; of equal ones the first.
    fn best(&self, picture: &Picture, feasible: &[NodeIndex]) -> NodeIndex {
        let nodes: Vec<(NodeIndex, &NodeEntry)> =
            feasible.iter().filter_map(|&index| Some((index, picture.node(index)?))).collect();
        let owner = self.pod.owner();
        let siblings = |node: &NodeEntry| node.owners.get(owner).copied().unwrap_or(0);
        let most_siblings = nodes.iter().map(|(_, node)| siblings(node)).max().unwrap_or(0);
        let most_preferred = nodes.iter().map(|(_, node)| self.preference(node)).max().unwrap_or(0);
        let most_taints = nodes.iter().map(|(_, node)| self.soft_taints(node)).max().unwrap_or(0);
        let part = |value: i64, most: i64| if most == 0 { 0 } else { 100 * value / most };
        let score = |node: &NodeEntry| {
            let spread = 100 - part(siblings(node).into(), most_siblings.into());
            let preferred = part(self.preference(node), most_preferred);
            let taints = 100 - part(self.soft_taints(node), most_taints);
            // The weights are those of the reference.
            self.free_share(node)
                + self.balance(node)
                + 2 * spread
                + 2 * preferred
                + 3 * taints
                + self.has_images(node)
        };
        let mut best = (i64::MIN, feasible[0]);
        for (index, node) in nodes {
            let score = score(node);
            if score > best.0 {
                best = (score, index);
            }
        }
        best.1
    }

    /// How much of the node stays free, of 100.
    fn free_share(&self, node: &NodeEntry) -> i64 {
        let share = |have: i64, taken: i64| if have <= 0 { 0 } else { (have - taken).max(0) * 100 / have };
        let cpu = share(node.allocatable.cpu, node.weight.cpu + self.weight.cpu);
        let memory = share(node.allocatable.memory, node.weight.memory + self.weight.memory);
        (cpu + memory) / 2
    }

    /// How evenly the node's resources would be used, of 100.
    fn balance(&self, node: &NodeEntry) -> i64 {
        let used = |have: i64, taken: i64| {
            if have <= 0 { 1.0 } else { (taken as f64 / have as f64).min(1.0) }
        };
        let cpu = used(node.allocatable.cpu, node.weight.cpu + self.weight.cpu);
        let memory = used(node.allocatable.memory, node.weight.memory + self.weight.memory);
        ((1.0 - (cpu - memory).abs() / 2.0) * 100.0) as i64
    }

    fn preference(&self, node: &NodeEntry) -> i64 {
        let affinity = self.pod.spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let terms = affinity
            .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
        terms
            .into_iter()
            .flatten()
            .filter(|term| matching::node_term(&term.preference, &node.labels, &node.name))
            .map(|term| i64::from(term.weight))
            .sum()
    }

    fn soft_taints(&self, node: &NodeEntry) -> i64 {
        let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        soft.filter(|taint| !matching::tolerates(&self.pod.spec.tolerations, taint)).count() as i64
    }

    /// How much of the pod's images is there, of 100: nothing below 23 MiB, all from 1,000 MiB a container.
    fn has_images(&self, node: &NodeEntry) -> i64 {
        const MEBIBYTE: i64 = 1024 * 1024;
        let containers = &self.pod.spec.containers;
        let size: i64 = containers
            .iter()
            .map(|container| {
                let image = container.image.as_str();
                let tagged = image.rsplit('/').next().is_some_and(|last| last.contains(':'));
                let latest = (!tagged).then(|| format!("{image}:latest"));
                let found = node.images.get(image).or_else(|| node.images.get(latest.as_deref()?));
                found.copied().unwrap_or(0)
            })
            .sum();
        let (least, most) = (23 * MEBIBYTE, 1000 * MEBIBYTE * containers.len().max(1) as i64);
        100 * (size.clamp(least, most) - least) / (most - least)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::Node;

    fn node(name: &str, spec: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name, "zone": &name[..1] } },
            "spec": spec,
            "status": { "allocatable": { "cpu": "4", "memory": "8Gi", "pods": "3" } },
        }))
        .unwrap()
    }

    fn pod(uid: &str, spec: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": uid, "uid": uid, "namespace": "default", "labels": { "app": "web" },
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "s", "uid": "s",
                    "controller": true }] },
            "spec": spec,
        }))
        .unwrap()
    }

    fn picture(nodes: &[Node]) -> Picture {
        let mut picture = Picture::default();
        for node in nodes {
            picture.apply_node(node);
        }
        picture
    }

    /// The name of the node that is chosen, or what is said.
    fn chosen(picture: &Picture, spec: Value) -> String {
        match decide(picture, &pod("new", spec), &mut 0) {
            Ok(index) => picture.node(index).unwrap().name.clone(),
            Err(refusal) => refusal.message(),
        }
    }

    fn cpu(amount: &str) -> Value {
        json!({ "containers": [{ "resources": { "requests": { "cpu": amount } } }] })
    }

    #[test]
    fn refusals_are_told_as_in_the_reference() {
        assert_eq!(chosen(&Picture::default(), cpu("1")), "no nodes available to schedule pods");
        let tainted = json!({ "taints": [{ "key": "k", "value": "v", "effect": "NoSchedule" }] });
        let picture = picture(&[
            node("a1", json!({})),
            node("a2", json!({})),
            node("b1", json!({ "unschedulable": true })),
            node("b2", tainted),
        ]);
        assert_eq!(
            chosen(&picture, cpu("5")),
            "0/4 nodes are available: 1 node(s) had untolerated taint {k: v}, 1 node(s) were unschedulable, \
             2 Insufficient cpu."
        );
        let selecting = json!({ "containers": [], "nodeSelector": { "zone": "b" },
            "tolerations": [{ "key": "node.kubernetes.io/unschedulable", "operator": "Exists" }] });
        assert_eq!(chosen(&picture, selecting), "b1");
    }

    #[test]
    fn full_nodes_and_taken_ports_are_passed_by() {
        let mut picture = picture(&[node("a1", json!({})), node("a2", json!({}))]);
        let port = json!({ "containers": [{ "ports": [{ "hostPort": 80, "protocol": "TCP" }] }] });
        picture.place(&pod("x", port.clone()), "a1");
        assert_eq!(chosen(&picture, port.clone()), "a2");
        picture.place(&pod("y", port.clone()), "a2");
        assert_eq!(
            chosen(&picture, port),
            "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports."
        );
        for uid in ["1", "2"] {
            picture.place(&pod(uid, json!({ "containers": [{}] })), "a1");
        }
        assert_eq!(
            chosen(
                &picture,
                json!({ "containers": [{}], "nodeSelector": { "kubernetes.io/hostname": "a1" } })
            ),
            "0/2 nodes are available: 1 Too many pods, 1 node(s) didn't match Pod's node affinity/selector."
        );
    }

    #[test]
    fn pods_of_one_owner_spread_and_preferences_count() {
        let mut picture = picture(&[node("a1", json!({})), node("b1", json!({}))]);
        picture.place(&pod("x", cpu("1")), "a1");
        assert_eq!(chosen(&picture, cpu("1")), "b1");
        let preferring = json!({ "containers": [{}], "affinity": { "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{ "weight": 100, "preference": {
                "matchExpressions": [{ "key": "zone", "operator": "In", "values": ["b"] }] } }] } } });
        picture.place(&pod("y", cpu("100m")), "b1");
        assert_eq!(chosen(&picture, preferring), "b1");
    }

    #[test]
    fn a_large_cluster_is_not_searched_to_the_end() {
        assert_eq!(wanted(1), 1);
        assert_eq!(wanted(100), 100);
        assert_eq!(wanted(1000), 420);
        assert_eq!(wanted(5000), 500);
    }

    #[test]
    fn neighbours_are_sought_and_avoided() {
        let mut picture = picture(&[node("a1", json!({})), node("a2", json!({})), node("b1", json!({}))]);
        let term =
            |key: &str| json!([{ "topologyKey": key, "labelSelector": { "matchLabels": { "app": "web" } } }]);
        let away = |key: &str| {
            json!({ "containers": [{}], "affinity": { "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": term(key) } } })
        };
        let near = |key: &str| {
            json!({ "containers": [{}], "affinity": { "podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": term(key) } } })
        };
        // The first of those that want to be near each other has to begin somewhere.
        assert_eq!(chosen(&picture, near("zone")), "a1");
        picture.place(&pod("x", away("zone")), "a1");
        assert_eq!(chosen(&picture, away("zone")), "b1");
        // One that is there wants no such neighbour, though the new one asks for nothing.
        assert_eq!(chosen(&picture, json!({ "containers": [{}] })), "b1");
        assert_eq!(
            chosen(&picture, near("zone")),
            "0/3 nodes are available: 1 node(s) didn't match pod affinity rules, 2 node(s) didn't satisfy existing \
             pods anti-affinity rules."
        );
        picture.remove("x");
        picture.place(&pod("z", json!({ "containers": [{}] })), "b1");
        assert_eq!(chosen(&picture, near("zone")), "b1");
        let even = json!({ "containers": [{}], "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": { "matchLabels": { "app": "web" } } }] });
        assert_ne!(chosen(&picture, even), "b1");
    }
}
