//! Where a pod goes: which nodes can take it, and which of them is best. No I/O.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::ask::{Ask, Occupant};
use crate::filters::{FILTERS, NODE_AFFINITY, Place, Prepared, Question, Reason, Verdict};
use crate::node::Usage;
use crate::nominations::Nominations;
use crate::picture::Picture;
use crate::scores::{Contest, Preferences};
use crate::topology::NodeIndex;

/// Below so many nodes all are looked at; above, the search ends when enough have been found.
const ENOUGH: usize = 100;

/// Why no node can take a pod: so many nodes for each reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// How many nodes there are.
    pub(crate) nodes: usize,
    /// What is wrong whichever node it is.
    general: Option<String>,
    reasons: BTreeMap<String, usize>,
    /// Nodes that could take it if others went.
    pub(crate) resolvable: Vec<NodeIndex>,
    /// The filters that refused, a bit each.
    pub(crate) by: u32,
}

impl Refusal {
    /// In the words of the reference.
    pub(crate) fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        unavailable(self.nodes, self.general.as_deref(), &self.reasons)
    }
}

/// How many nodes are not available, and why.
pub(crate) fn unavailable(nodes: usize, general: Option<&str>, reasons: &BTreeMap<String, usize>) -> String {
    let mut said: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    said.sort();
    let said = said.join(", ");
    let text = match general {
        Some(general) => general,
        None => &said,
    };
    if text.is_empty() {
        return format!("0/{nodes} nodes are available:");
    }
    format!("0/{nodes} nodes are available: {text}.")
}

/// How many nodes there are for each reason. Most nodes have the same as the one before.
#[derive(Default)]
struct Tally<'a> {
    last: Option<(Reason<'a>, usize)>,
    all: HashMap<Reason<'a>, usize>,
}

impl<'a> Tally<'a> {
    fn add(&mut self, reason: Reason<'a>) {
        match &mut self.last {
            Some((last, count)) if *last == reason => *count += 1,
            _ => self.settle(Some((reason, 1))),
        }
    }

    fn settle(&mut self, next: Option<(Reason<'a>, usize)>) {
        if let Some((reason, count)) = std::mem::replace(&mut self.last, next) {
            *self.all.entry(reason).or_default() += count;
        }
    }

    fn finish(mut self) -> BTreeMap<String, usize> {
        self.settle(None);
        self.all.into_iter().map(|(reason, count)| (reason.to_string(), count)).collect()
    }
}

/// A pod about to be placed: what decisions about it share.
pub(crate) struct Search<'a> {
    pub(crate) picture: &'a Picture,
    pub(crate) ask: &'a Ask,
    pub(crate) prepared: &'a Prepared,
    active: Vec<usize>,
    /// Those who come before it, by node.
    before: HashMap<NodeIndex, Vec<Arc<Occupant>>>,
}

impl<'a> Search<'a> {
    pub(crate) fn new(
        picture: &'a Picture,
        ask: &'a Ask,
        prepared: &'a Prepared,
        nominations: &Nominations,
    ) -> Search<'a> {
        let before = nominations.before(picture, ask);
        Search { picture, ask, prepared, active: prepared.active(ask), before }
    }

    /// The first filter that refuses a node. Those who come before the pod are supposed to be there, and then not to be.
    fn refuse(&self, index: NodeIndex, reasons: &mut Vec<Reason<'a>>) -> Option<(usize, Verdict)> {
        let node = self.picture.node(index)?;
        if !self.before.is_empty() && self.before.contains_key(&index) {
            return self.refuse_supposing(index, self.prepared, &node.usage, reasons);
        }
        let question = Question { picture: self.picture, ask: self.ask, prepared: self.prepared };
        let place = Place { index, facts: &node.facts, usage: &node.usage };
        question.check(&self.active, place, reasons)
    }

    /// The same, with other pods on the node than there are.
    pub(crate) fn refuse_supposing(
        &self,
        index: NodeIndex,
        prepared: &Prepared,
        usage: &Usage,
        reasons: &mut Vec<Reason<'a>>,
    ) -> Option<(usize, Verdict)> {
        let node = self.picture.node(index)?;
        let check = |prepared: &Prepared, usage: &Usage, reasons: &mut Vec<Reason<'a>>| {
            let question = Question { picture: self.picture, ask: self.ask, prepared };
            let place = Place { index, facts: &node.facts, usage };
            question.check(&prepared.active(self.ask), place, reasons)
        };
        if let Some(before) = self.before.get(&index) {
            let (mut prepared, mut usage) = (prepared.clone(), usage.clone());
            for pod in before {
                prepared.suppose(self.picture, self.ask, pod, index, true);
                usage.add(pod.clone());
            }
            if let Some(refused) = check(&prepared, &usage, reasons) {
                return Some(refused);
            }
        }
        check(prepared, usage, reasons)
    }

    /// The nodes that can take the pod, or enough of them.
    fn feasible(&self, start: &mut usize, nominated: Option<&str>) -> Result<Vec<NodeIndex>, Refusal> {
        let mut reasons = Vec::new();
        // What was kept for it is best.
        let kept = nominated.and_then(|name| self.picture.find_node(name));
        if let Some(kept) = kept.filter(|kept| self.picture.known_node(*kept).is_some())
            && self.is_asked_for(kept)
            && self.refuse(kept, &mut reasons).is_none()
        {
            return Ok(vec![kept]);
        }
        reasons.clear();
        let slots = self.picture.slots();
        let wanted = wanted(self.picture.count());
        let mut feasible = Vec::with_capacity(wanted.min(slots));
        let mut counts = Tally::default();
        let mut refusal = Refusal { nodes: self.picture.count(), ..Refusal::default() };
        let only = self.ask.only.as_ref().map(|names| {
            let found = names.iter().filter_map(|name| self.picture.find_node(name));
            found.filter(|index| self.picture.known_node(*index).is_some()).collect::<Vec<_>>()
        });
        let steps = only.as_ref().map_or(slots, Vec::len);
        let begin = if only.is_some() { 0 } else { *start };
        for step in 0..steps {
            let index = match &only {
                Some(only) => only[step],
                None => (begin + step) % slots,
            };
            if self.picture.known_node(index).is_none() {
                continue;
            }
            match self.refuse(index, &mut reasons) {
                None => {
                    feasible.push(index);
                    if feasible.len() >= wanted {
                        if only.is_none() {
                            *start = (index + 1) % slots;
                        }
                        break;
                    }
                }
                Some((filter, verdict)) => {
                    refusal.by |= 1 << filter;
                    if verdict == Verdict::Unschedulable {
                        refusal.resolvable.push(index);
                    }
                    reasons.drain(..).for_each(|reason| counts.add(reason));
                }
            }
        }
        if !feasible.is_empty() {
            return Ok(feasible);
        }
        if refusal.nodes == 0 {
            // A node is what it waits for, which the first filter is told of.
            refusal.by = 1;
        }
        refusal.reasons = counts.finish();
        let passed_by = refusal.nodes - only.as_ref().map_or(refusal.nodes, Vec::len);
        if passed_by > 0 {
            refusal.by |= 1 << NODE_AFFINITY;
            let name = FILTERS[NODE_AFFINITY].name;
            refusal.reasons.insert(format!("node(s) didn't satisfy plugin(s) [{name}]"), passed_by);
        }
        Err(refusal)
    }

    fn is_asked_for(&self, index: NodeIndex) -> bool {
        let Some(only) = &self.ask.only else { return true };
        self.picture.node(index).is_some_and(|node| only.iter().any(|name| name == node.name()))
    }
}

/// Chooses a node. `start` is where the search begins: it moves on, so that in a large cluster all nodes are used.
pub(crate) fn decide(
    picture: &mut Picture,
    nominations: &Nominations,
    ask: &Ask,
    start: &mut usize,
) -> Result<NodeIndex, Refusal> {
    let prepared = match Prepared::new(picture, ask) {
        Ok(prepared) => prepared,
        Err((filter, why)) => {
            let nodes = picture.count();
            return Err(Refusal { nodes, general: Some(why), by: 1 << filter, ..Refusal::default() });
        }
    };
    // With one node in question there is nothing to compare.
    let single = matches!(ask.only.as_deref(), Some([_]));
    let preferences = if single { Preferences::default() } else { Preferences::new(picture, ask) };
    let search = Search::new(picture, ask, &prepared, nominations);
    let feasible = search.feasible(start, nominations.node(ask.uid()))?;
    if let [only] = feasible[..] {
        return Ok(only);
    }
    let contest = Contest::new(picture, ask, prepared.selection, &preferences, &feasible);
    // There is one: several were found.
    contest.best(&feasible).ok_or_else(Refusal::default)
}

/// How many nodes that can take a pod are enough to choose from.
fn wanted(nodes: usize) -> usize {
    if nodes <= ENOUGH {
        return nodes.max(1);
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(ENOUGH)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Node, Pod};

    fn node(name: &str, spec: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name, "zone": &name[..1] } },
            "spec": spec,
            "status": { "allocatable": { "cpu": "4", "memory": "8Gi", "pods": "3" } },
        }))
        .unwrap()
    }

    fn ask(uid: &str, spec: Value) -> Ask {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": uid, "uid": uid, "namespace": "default", "labels": { "app": "web" } },
            "spec": spec,
        }))
        .unwrap();
        Ask::new(pod, Arc::default())
    }

    fn picture(nodes: &[Node]) -> Picture {
        let mut picture = Picture::default();
        for node in nodes {
            picture.apply_node(node);
        }
        picture
    }

    fn place(picture: &mut Picture, uid: &str, spec: Value, node: &str) {
        picture.place(ask(uid, spec).occupant, node);
    }

    /// The name of the node that is chosen, or what is said.
    fn chosen(picture: &mut Picture, spec: Value) -> String {
        match decide(picture, &Nominations::default(), &ask("new", spec), &mut 0) {
            Ok(index) => picture.node(index).unwrap().name().to_owned(),
            Err(refusal) => refusal.message(),
        }
    }

    fn cpu(amount: &str) -> Value {
        json!({ "containers": [{ "resources": { "requests": { "cpu": amount } } }] })
    }

    #[test]
    fn refusals_are_told_as_in_the_reference() {
        assert_eq!(chosen(&mut Picture::default(), cpu("1")), "no nodes available to schedule pods");
        let tainted = json!({ "taints": [{ "key": "k", "value": "v", "effect": "NoSchedule" }] });
        let mut picture = picture(&[
            node("a1", json!({})),
            node("a2", json!({})),
            node("b1", json!({ "unschedulable": true })),
            node("b2", tainted),
        ]);
        assert_eq!(
            chosen(&mut picture, cpu("5")),
            "0/4 nodes are available: 1 node(s) had untolerated taint {k: v}, 1 node(s) were unschedulable, \
             2 Insufficient cpu."
        );
        let selecting = json!({ "containers": [], "nodeSelector": { "zone": "b" },
            "tolerations": [{ "key": "node.kubernetes.io/unschedulable", "operator": "Exists" }] });
        assert_eq!(chosen(&mut picture, selecting), "b1");
        let named = json!({ "containers": [{}], "affinity": { "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [{ "matchFields": [
                { "key": "metadata.name", "operator": "In", "values": ["b2"] }] }] } } } });
        assert_eq!(
            chosen(&mut picture, named),
            "0/4 nodes are available: 1 node(s) had untolerated taint {k: v}, 3 node(s) didn't satisfy plugin(s) \
             [NodeAffinity]."
        );
    }

    #[test]
    fn full_nodes_and_taken_ports_are_passed_by() {
        let mut picture = picture(&[node("a1", json!({})), node("a2", json!({}))]);
        let port = json!({ "containers": [{ "ports": [{ "hostPort": 80, "protocol": "TCP" }] }] });
        place(&mut picture, "x", port.clone(), "a1");
        assert_eq!(chosen(&mut picture, port.clone()), "a2");
        place(&mut picture, "y", port.clone(), "a2");
        assert_eq!(
            chosen(&mut picture, port),
            "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports."
        );
        for uid in ["1", "2"] {
            place(&mut picture, uid, json!({ "containers": [{}] }), "a1");
        }
        assert_eq!(
            chosen(
                &mut picture,
                json!({ "containers": [{}], "nodeSelector": { "kubernetes.io/hostname": "a1" } })
            ),
            "0/2 nodes are available: 1 Too many pods, 1 node(s) didn't match Pod's node affinity/selector."
        );
    }

    #[test]
    fn pods_of_one_service_spread_and_preferences_count() {
        let mut picture = picture(&[node("a1", json!({})), node("b1", json!({}))]);
        let labels = [("app".to_owned(), "web".to_owned())].into();
        place(&mut picture, "x", cpu("100m"), "a1");
        place(&mut picture, "other", cpu("1"), "b1");
        let taken = picture.remove("other").unwrap();
        let other = Occupant { labels: crate::selector::Labels::new(), ..(*taken).clone() };
        picture.place(Arc::new(other), "b1");
        assert_eq!(chosen(&mut picture, cpu("1")), "a1");
        picture.workloads.apply_service("default", "web", labels);
        assert_eq!(chosen(&mut picture, cpu("1")), "b1");
        let preferring = json!({ "containers": [{}], "affinity": { "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{ "weight": 100, "preference": {
                "matchExpressions": [{ "key": "zone", "operator": "In", "values": ["a"] }] } }] } } });
        picture.workloads.remove_service("default", "web");
        place(&mut picture, "y", cpu("2"), "a1");
        assert_eq!(chosen(&mut picture, preferring), "a1");
    }

    #[test]
    fn a_large_cluster_is_not_searched_to_the_end() {
        assert_eq!(wanted(1), 1);
        assert_eq!(wanted(100), 100);
        assert_eq!(wanted(1000), 420);
        assert_eq!(wanted(5000), 500);
    }

    #[test]
    fn room_that_is_kept_is_not_given_to_the_less_urgent() {
        let mut picture = picture(&[node("a1", json!({}))]);
        let urgent = ask("urgent", json!({ "priority": 10, "containers": cpu("3")["containers"] }));
        let mut nominations = Nominations::default();
        nominations.set(urgent.occupant.clone(), "a1");
        let mut decided = |uid: &str, priority: i32| {
            let ask = ask(uid, json!({ "priority": priority, "containers": cpu("2")["containers"] }));
            decide(&mut picture, &nominations, &ask, &mut 0).is_ok()
        };
        assert!(!decided("x", 0) && !decided("x", 10) && decided("x", 11));
        assert!(decide(&mut picture, &nominations, &urgent, &mut 0).is_ok());
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
        assert_eq!(chosen(&mut picture, near("zone")), "a1");
        place(&mut picture, "x", away("zone"), "a1");
        assert_eq!(chosen(&mut picture, away("zone")), "b1");
        // One that is there wants no such neighbour, though the new one asks for nothing.
        assert_eq!(chosen(&mut picture, json!({ "containers": [{}] })), "b1");
        assert_eq!(
            chosen(&mut picture, near("zone")),
            "0/3 nodes are available: 1 node(s) didn't match pod affinity rules, 2 node(s) didn't satisfy existing \
             pods anti-affinity rules."
        );
        picture.remove("x");
        place(&mut picture, "z", json!({ "containers": [{}] }), "b1");
        assert_eq!(chosen(&mut picture, near("zone")), "b1");
        let even = json!({ "containers": [{}], "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": { "matchLabels": { "app": "web" } } }] });
        assert_ne!(chosen(&mut picture, even), "b1");
    }
}
