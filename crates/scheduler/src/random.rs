//! Random clusters, decided by the scheduler and by the oracle.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::ask::{Ask, Occupant};
use crate::decide::{Refusal, decide};
use crate::model::{Node, Pod};
use crate::nominations::Nominations;
use crate::oracle::{Decision, World};
use crate::picture::Picture;
use crate::preempt::{Budgets, plan};

/// What is chosen at random, byte by byte; at the end always the first.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn up_to(&mut self, most: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % (most + 1)
    }

    /// True once in so many times.
    fn rarely(&mut self, times: usize) -> bool {
        self.up_to(times - 1) + 1 == times
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.up_to(all.len() - 1)].clone()
    }

    fn many<T>(&mut self, most: usize, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.up_to(most)).map(|_| one(self)).collect()
    }

    fn node(&mut self, name: &str) -> Node {
        let mut labels = json!({});
        if !self.rarely(8) {
            labels["kubernetes.io/hostname"] = name.into();
        }
        if !self.rarely(6) {
            labels["zone"] = self.of(&["a", "b", "c"]).into();
        }
        if self.rarely(2) {
            labels["disk"] = self.of(&["ssd", "hdd"]).into();
        }
        let taints = self.many(2, |choices| {
            json!({ "key": choices.of(&["k", "l"]), "value": choices.of(&["v", "w"]),
                "effect": choices.of(&["PreferNoSchedule", "NoSchedule", "PreferNoSchedule", "NoExecute"]) })
        });
        let status = json!({ "allocatable": {
            "cpu": self.of(&["4", "2", "8"]), "memory": self.of(&["8Gi", "4Gi"]), "pods": self.of(&["8", "3"]) } });
        serde_json::from_value(json!({
            "metadata": { "name": name, "labels": labels },
            "spec": { "unschedulable": self.rarely(10), "taints": taints },
            "status": status,
        }))
        .unwrap()
    }

    fn selector(&mut self) -> Value {
        match self.up_to(4) {
            0 | 1 => json!({ "matchLabels": { "app": self.of(&["x", "y"]) } }),
            2 => json!({ "matchExpressions": [{ "key": "app", "operator": "NotIn", "values": ["y"] }] }),
            3 => json!({ "matchExpressions": [{ "key": "v", "operator": "Exists" }] }),
            _ => json!({ "matchLabels": { "v": "1" } }),
        }
    }

    fn term(&mut self) -> Value {
        let mut term = json!({
            "topologyKey": self.of(&["zone", "kubernetes.io/hostname"]), "labelSelector": self.selector(),
        });
        match self.up_to(5) {
            0 => term["namespaces"] = json!(["other"]),
            1 => term["namespaceSelector"] = json!({ "matchLabels": { "team": "red" } }),
            2 => term["namespaceSelector"] = json!({}),
            _ => {}
        }
        match self.up_to(5) {
            0 => term["matchLabelKeys"] = json!(["v"]),
            1 => term["mismatchLabelKeys"] = json!(["v"]),
            _ => {}
        }
        term
    }

    fn node_term(&mut self) -> Value {
        let expression = match self.up_to(3) {
            0 => json!({ "key": "zone", "operator": "In", "values": [self.of(&["a", "b"])] }),
            1 => json!({ "key": "disk", "operator": "NotIn", "values": ["hdd"] }),
            2 => json!({ "key": "disk", "operator": "Exists" }),
            _ => json!({ "key": "zone", "operator": "In", "values": ["a", "b", "c"] }),
        };
        json!({ "matchExpressions": [expression] })
    }

    fn affinity(&mut self) -> Value {
        let mut affinity = json!({});
        if self.rarely(3) {
            affinity["nodeAffinity"] = json!({
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [self.node_term(), self.node_term()] } });
        }
        if self.rarely(3) {
            affinity["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] = self
                .many(
                    2,
                    |choices| json!({ "weight": 1 + choices.up_to(9), "preference": choices.node_term() }),
                )
                .into();
        }
        for kind in ["podAffinity", "podAntiAffinity"] {
            if self.rarely(3) {
                let weighted = self.many(
                    2,
                    |choices| json!({ "weight": 1 + choices.up_to(9), "podAffinityTerm": choices.term() }),
                );
                affinity[kind] = json!({ "preferredDuringSchedulingIgnoredDuringExecution": weighted });
            }
            if self.rarely(4) {
                affinity[kind]["requiredDuringSchedulingIgnoredDuringExecution"] =
                    (0..=self.up_to(1)).map(|_| self.term()).collect();
            }
        }
        affinity
    }

    fn spread(&mut self) -> Value {
        let mut spread = json!({
            "maxSkew": 1 + self.up_to(1), "topologyKey": self.of(&["zone", "kubernetes.io/hostname", "disk"]),
            "whenUnsatisfiable": self.of(&["DoNotSchedule", "ScheduleAnyway"]), "labelSelector": self.selector(),
        });
        if self.rarely(4) {
            spread["nodeAffinityPolicy"] = "Ignore".into();
        }
        if self.rarely(4) {
            spread["nodeTaintsPolicy"] = "Honor".into();
        }
        if self.rarely(4) {
            spread["matchLabelKeys"] = json!(["v"]);
        }
        if self.rarely(3) && spread["whenUnsatisfiable"] == "DoNotSchedule" {
            spread["minDomains"] = self.up_to(3).max(1).into();
        }
        spread
    }

    fn pod(&mut self, uid: &str) -> Pod {
        let mut spec = json!({ "priority": self.up_to(3) });
        let requests =
            json!({ "cpu": self.of(&["500m", "1", "0", "2"]), "memory": self.of(&["1Gi", "0", "2Gi"]) });
        let asks = self.of(&[json!({ "requests": requests }), json!({})]);
        let port = if self.rarely(8) { json!([{ "hostPort": 80, "protocol": "TCP" }]) } else { json!([]) };
        spec["containers"] = json!([{ "name": "c", "resources": asks, "ports": port }]);
        if self.rarely(6) {
            spec["nodeSelector"] = json!({ "zone": self.of(&["a", "b"]) });
        }
        spec["tolerations"] = self
            .many(2, |choices| match choices.up_to(2) {
                0 => json!({ "operator": "Exists" }),
                1 => json!({ "key": "k", "operator": "Equal", "value": "v" }),
                _ => json!({ "key": "l", "operator": "Exists", "effect": "NoSchedule" }),
            })
            .into();
        if self.rarely(2) {
            spec["affinity"] = self.affinity();
        }
        if self.rarely(2) {
            spec["topologySpreadConstraints"] = self.many(2, Self::spread).into();
        }
        let mut metadata = json!({
            "name": uid, "uid": uid, "namespace": self.of(&["default", "other"]),
            "labels": { "app": self.of(&["x", "y"]) },
        });
        if self.rarely(2) {
            metadata["labels"]["v"] = self.of(&["1", "2"]).into();
        }
        if self.rarely(8) {
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
    }
}

/// A cluster that both know.
#[derive(Default)]
struct Both {
    world: World,
    picture: Picture,
}

impl Both {
    fn apply_node(&mut self, node: Node) {
        self.world.nodes.retain(|other| other.metadata.name != node.metadata.name);
        self.picture.apply_node(&node);
        self.world.nodes.push(node);
    }

    fn place(&mut self, pod: Pod, node: &str) {
        self.remove(pod.uid());
        self.picture.place(Arc::new(Occupant::new(&pod)), node);
        self.world.placed.push((pod, node.to_owned()));
    }

    fn remove(&mut self, uid: &str) {
        self.world.placed.retain(|(pod, _)| pod.uid() != uid);
        self.picture.remove(uid);
    }

    fn check(&mut self, pod: Pod) -> Result<(), TestCaseError> {
        let expected = self.world.decide(&pod);
        let ask = Ask::new(pod, Arc::default());
        match decide(&mut self.picture, &Nominations::default(), &ask, &mut 0) {
            Ok(index) => {
                let name = self.picture.node(index).unwrap().name();
                let right = matches!(&expected, Decision::Best(best) if best.contains(name));
                prop_assert!(right, "{name} was chosen instead of {expected:?}");
            }
            Err(refusal) => {
                prop_assert_eq!(Decision::Refused(refusal.message()), expected);
                self.check_plan(&ask, &refusal)?;
            }
        }
        Ok(())
    }

    /// Whether those who are to be pushed away are those that have to be, and nobody is where that helps nothing.
    fn check_plan(&mut self, ask: &Ask, refusal: &Refusal) -> Result<(), TestCaseError> {
        if !ask.occupant.terms.near.is_empty() {
            // Who goes may be the one near whom it wants to be, and who stays, too.
            return Ok(());
        }
        let (nominations, budgets) = (Nominations::default(), Budgets::new());
        let pod = &ask.pod;
        let weaker = |other: &Pod| other.spec.priority < pod.spec.priority;
        let plan = plan(&mut self.picture, &nominations, &budgets, ask, refusal, 0);
        let Ok(plan) = plan else {
            for node in &self.world.nodes {
                let name = node.metadata.name.as_deref().unwrap();
                let emptied = self.world.without(|other, at| at == name && weaker(other));
                prop_assert!(!emptied.takes(pod, name), "{name} could have been emptied");
            }
            return Ok(());
        };
        let name = self.picture.node(plan.node).unwrap().name();
        let goes = |other: &Pod| plan.victims.iter().any(|victim| *victim.uid == *other.uid());
        prop_assert!(!plan.victims.is_empty());
        prop_assert!(
            self.world.placed.iter().all(|(other, at)| !goes(other) || (at == name && weaker(other)))
        );
        prop_assert!(self.world.without(|other, _| goes(other)).takes(pod, name));
        for stays in &plan.victims {
            let others = self.world.without(|other, _| goes(other) && *other.uid() != *stays.uid);
            prop_assert!(!others.takes(pod, name), "{} could have stayed on {name}", stays.name);
        }
        Ok(())
    }
}

fn check(bytes: &[u8]) -> Result<(), TestCaseError> {
    let choices = &mut Choices(bytes.iter());
    let mut both = Both::default();
    for (name, team) in [("default", "red"), ("other", "blue")] {
        let labels = [("team".to_owned(), team.to_owned())];
        both.world.namespaces.insert(name.to_owned(), labels.clone().into());
        both.picture.namespaces.insert(name.to_owned(), labels.into());
    }
    let names: Vec<String> = (0..=choices.up_to(5)).map(|number| format!("n{number}")).collect();
    for name in &names {
        let node = choices.node(name);
        both.apply_node(node);
    }
    for round in 0..3 {
        for number in 0..choices.up_to(6) {
            let pod = choices.pod(&format!("p{round}-{number}"));
            let node = choices.of(&names);
            both.place(pod, &node);
        }
        let asked = choices.pod("asked");
        both.check(asked.clone())?;
        // What was worked out for the first answer is used for the second, after changes.
        if choices.rarely(2) {
            let name = choices.of(&names);
            let node = choices.node(&name);
            both.apply_node(node);
        }
        if choices.rarely(2) {
            both.remove(&format!("p{round}-{}", choices.up_to(5)));
        }
        both.check(asked)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn decisions_are_those_of_a_slow_and_obviously_right_scheduler(
        bytes in proptest::collection::vec(any::<u8>(), 0..700),
    ) {
        check(&bytes)?;
    }
}
