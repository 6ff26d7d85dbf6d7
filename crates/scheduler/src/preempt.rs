//! Room for a pod that no node can take: whom to push away, on which node. What is supposed is supposed on copies; no
//! I/O, and no change of the picture.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::ask::{Ask, Occupant};
use crate::decide::{Refusal, Search, unavailable};
use crate::filters::{Prepared, Reason};
use crate::nominations::Nominations;
use crate::objects::Budget;
use crate::picture::Picture;
use crate::topology::NodeIndex;

/// At least so many nodes are compared, if there are as many; in a large cluster a tenth of them.
const COMPARED: usize = 100;

/// Budgets by namespace and name.
pub(crate) type Budgets = HashMap<String, BTreeMap<String, Budget>>;

/// Who is pushed away, and where.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) node: NodeIndex,
    /// The more important first.
    pub(crate) victims: Vec<Arc<Occupant>>,
}

/// What pushing pods away from one node would cost.
struct Candidate {
    node: NodeIndex,
    victims: Vec<Arc<Occupant>>,
    /// Of those so many against a budget.
    violations: usize,
}

/// The order of importance: the more important comes first.
fn importance(pod: &Occupant) -> (Reverse<i32>, bool, Option<&Time>) {
    (Reverse(pod.priority), pod.started.is_none(), pod.started.as_ref())
}

/// Finds room. `start` is where the search begins among the nodes that were refused.
///
/// # Errors
/// Why there is none, in the words of the reference.
pub(crate) fn plan(
    picture: &mut Picture,
    nominations: &Nominations,
    budgets: &Budgets,
    ask: &Ask,
    refusal: &Refusal,
    start: usize,
) -> Result<Plan, String> {
    eligible(picture, nominations, ask, refusal)?;
    let hopeless = |reasons: &BTreeMap<String, usize>| {
        let mut reasons = reasons.clone();
        let rest = refusal.nodes - refusal.resolvable.len();
        if rest > 0 {
            reasons.insert("Preemption is not helpful for scheduling".to_owned(), rest);
        }
        unavailable(refusal.nodes, None, &reasons)
    };
    let Ok(prepared) = Prepared::new(picture, ask) else { return Err(hopeless(&BTreeMap::new())) };
    let search = Search::new(picture, ask, &prepared, nominations);
    let nodes = &refusal.resolvable;
    let wanted = (picture.count() / 10).max(COMPARED);
    let mut candidates = Vec::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for step in 0..nodes.len() {
        let index = nodes[(start + step) % nodes.len()];
        match candidate(&search, budgets, index) {
            Ok(candidate) => {
                candidates.push(candidate);
                if candidates.len() >= wanted {
                    break;
                }
            }
            Err(why) => {
                for reason in why {
                    *reasons.entry(reason.to_string()).or_default() += 1;
                }
            }
        }
    }
    let Some(best) = best(candidates) else { return Err(hopeless(&reasons)) };
    Ok(Plan { node: best.node, victims: best.victims })
}

/// Whether a pod may push others away at all, now.
fn eligible(
    picture: &Picture,
    nominations: &Nominations,
    ask: &Ask,
    refusal: &Refusal,
) -> Result<(), String> {
    if !ask.preempts {
        return Err("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    let kept = nominations.node(ask.uid()).and_then(|node| picture.find_node(node));
    let Some(kept) = kept.filter(|kept| refusal.resolvable.contains(kept)) else { return Ok(()) };
    let pods = picture.node(kept).into_iter().flat_map(|node| &node.usage.pods);
    let goes = |pod: &Arc<Occupant>| pod.terminating && pod.preempted && pod.priority < ask.priority();
    if pods.into_iter().any(goes) {
        return Err("not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    Ok(())
}

/// Who would have to go from a node. Those who can stay, the more important first, stay.
fn candidate<'a>(
    search: &Search<'a>,
    budgets: &Budgets,
    index: NodeIndex,
) -> Result<Candidate, Vec<Reason<'a>>> {
    const NOBODY: Reason<'static> = Reason::Text("No preemption victims found for incoming pod");
    let (picture, ask) = (search.picture, search.ask);
    let Some(node) = picture.node(index) else { return Err(vec![NOBODY]) };
    let mut weaker: Vec<Arc<Occupant>> =
        node.usage.pods.iter().filter(|pod| pod.priority < ask.priority()).cloned().collect();
    if weaker.is_empty() {
        return Err(vec![NOBODY]);
    }
    weaker.sort_by(|a, b| importance(a).cmp(&importance(b)));
    let (mut prepared, mut usage) = (search.prepared.clone(), node.usage.clone());
    for pod in &weaker {
        prepared.suppose(picture, ask, pod, index, false);
        usage.remove(pod);
    }
    let mut reasons = Vec::new();
    if search.refuse_supposing(index, &prepared, &usage, &mut reasons).is_some() {
        return Err(reasons);
    }
    let (protected, free): (Vec<_>, Vec<_>) = split(&weaker, budgets);
    let mut victims = Vec::new();
    let mut violations = 0;
    for (pod, is_protected) in
        protected.into_iter().map(|pod| (pod, true)).chain(free.into_iter().map(|pod| (pod, false)))
    {
        prepared.suppose(picture, ask, &pod, index, true);
        usage.add(pod.clone());
        if search.refuse_supposing(index, &prepared, &usage, &mut reasons).is_some() {
            prepared.suppose(picture, ask, &pod, index, false);
            usage.remove(&pod);
            violations += usize::from(is_protected);
            victims.push(pod);
        }
    }
    victims.sort_by(|a, b| importance(a).cmp(&importance(b)));
    Ok(Candidate { node: index, victims, violations })
}

/// Those whose going a budget does not allow, and the others, each in their order.
fn split(pods: &[Arc<Occupant>], budgets: &Budgets) -> (Vec<Arc<Occupant>>, Vec<Arc<Occupant>>) {
    let mut left: HashMap<(&str, &str), i64> = HashMap::new();
    pods.iter().cloned().partition(|pod| {
        let mut violates = false;
        for (name, budget) in budgets.get(&pod.namespace).into_iter().flatten() {
            let covers = !pod.labels.is_empty()
                && !budget.selector.is_empty()
                && budget.selector.takes(&pod.labels)
                && !budget.leaving.contains(&pod.name);
            if !covers {
                continue;
            }
            let key = budgets.get_key_value(&pod.namespace).map_or("", |(namespace, _)| namespace);
            let left = left.entry((key, name)).or_insert(budget.allowed);
            *left -= 1;
            violates |= *left < 0;
        }
        violates
    })
}

/// The node on which the least is lost: the fewest against budgets, then the least important, then by the sum of their
/// priorities, then the fewest, then those who have not run for long.
fn best(candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().min_by(|a, b| {
        let key = |candidate: &Candidate| {
            let highest = candidate.victims.first().map_or(i32::MIN, |pod| pod.priority);
            let sum: i64 =
                candidate.victims.iter().map(|pod| i64::from(pod.priority) + i64::from(i32::MAX) + 1).sum();
            (candidate.violations, highest, sum, candidate.victims.len())
        };
        let started = |candidate: &Candidate| {
            let highest = candidate.victims.first().map_or(i32::MIN, |pod| pod.priority);
            let important = candidate.victims.iter().filter(|pod| pod.priority == highest);
            // Who has not begun counts as just begun.
            let begun =
                important.map(|pod| pod.started.clone()).min_by_key(|time| (time.is_none(), time.clone()));
            begun.flatten().map(|time| (false, Some(time))).unwrap_or((true, None))
        };
        key(a).cmp(&key(b)).then_with(|| started(b).cmp(&started(a)))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::decide::decide;
    use crate::model::{Node, Pod};
    use crate::selector::Selector;

    /// Pods as uid, node, priority, processors, and the second in which they began.
    type Placed<'a> = (&'a str, &'a str, i32, i64, u8);

    fn ask(uid: &str, priority: i32, cpu: i64, more: &Value) -> Ask {
        let mut spec = json!({
            "priority": priority,
            "containers": [{ "resources": { "requests": { "cpu": cpu.to_string() } } }],
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": uid, "uid": uid, "namespace": "default", "labels": { "app": &uid[..1] } },
            "spec": spec,
        }))
        .unwrap();
        Ask::new(pod, Arc::default())
    }

    fn picture(nodes: &[&str], pods: &[Placed<'_>]) -> Picture {
        let mut picture = Picture::default();
        for name in nodes {
            let node: Node = serde_json::from_value(json!({
                "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
                "status": { "allocatable": { "cpu": "4", "memory": "8Gi", "pods": "10" } },
            }))
            .unwrap();
            picture.apply_node(&node);
        }
        for (uid, node, priority, cpu, second) in pods {
            let started = format!("2026-01-01T00:00:{second:02}Z").parse().map(Time).ok();
            let occupant = ask(uid, *priority, *cpu, &json!({})).occupant;
            picture.place(Arc::new(Occupant { started, ..(*occupant).clone() }), node);
        }
        picture
    }

    fn budget(app: &str, allowed: i64) -> Budgets {
        let labels = [("app".to_owned(), app.to_owned())];
        let budget = Budget {
            selector: Selector::of(labels.iter().map(|(key, value)| (key, value))),
            allowed,
            leaving: Vec::new(),
        };
        Budgets::from([("default".to_owned(), BTreeMap::from([("budget".to_owned(), budget)]))])
    }

    /// The node and who goes, or what is said.
    fn planned(picture: &mut Picture, budgets: &Budgets, ask: &Ask) -> String {
        let nominations = Nominations::default();
        let refusal = decide(picture, &nominations, ask, &mut 0).unwrap_err();
        match plan(picture, &nominations, budgets, ask, &refusal, 0) {
            Ok(plan) => {
                let names: Vec<&str> = plan.victims.iter().map(|pod| pod.name.as_str()).collect();
                format!("{}: {}", picture.node(plan.node).unwrap().name(), names.join(" "))
            }
            Err(why) => why,
        }
    }

    fn check(nodes: &[&str], pods: &[Placed<'_>], budgets: &Budgets, cpu: i64, expected: &str) {
        let mut picture = picture(nodes, pods);
        assert_eq!(planned(&mut picture, budgets, &ask("new", 10, cpu, &json!({}))), expected);
    }

    #[test]
    fn the_fewest_and_least_important_go() {
        let none = Budgets::new();
        // The more important stay where there is room for them.
        check(&["n1"], &[("a", "n1", 5, 1, 0), ("b", "n1", 1, 3, 0)], &none, 3, "n1: b");
        check(&["n1"], &[("a", "n1", 5, 2, 0), ("b", "n1", 1, 2, 0)], &none, 4, "n1: a b");
        // The lowest highest priority, then the smaller sum, then those who began last.
        check(&["n1", "n2"], &[("a", "n1", 5, 4, 0), ("b", "n2", 1, 4, 0)], &none, 4, "n2: b");
        let pods = [("a", "n1", 5, 2, 0), ("b", "n1", 3, 2, 0), ("c", "n2", 5, 2, 0), ("d", "n2", 2, 2, 0)];
        check(&["n1", "n2"], &pods, &none, 4, "n2: c d");
        check(&["n1", "n2"], &[("a", "n1", 5, 4, 1), ("b", "n2", 5, 4, 2)], &none, 4, "n2: b");
    }

    #[test]
    fn budgets_are_honoured_where_that_can_be() {
        let pods = [("a", "n1", 1, 4, 0), ("b", "n2", 2, 4, 0)];
        check(&["n1", "n2"], &pods, &budget("a", 1), 4, "n1: a");
        check(&["n1", "n2"], &pods, &budget("a", 0), 4, "n2: b");
        check(&["n1"], &pods[..1], &budget("a", 0), 4, "n1: a");
        // Of two pods the one that is not protected goes, though it is more important.
        let pods = [("a", "n1", 1, 2, 0), ("b", "n1", 2, 2, 0)];
        check(&["n1"], &pods, &budget("a", 0), 2, "n1: b");
    }

    #[test]
    fn what_cannot_be_helped_is_told_as_in_the_reference() {
        let none = Budgets::new();
        check(
            &["n1", "n2"],
            &[("a", "n1", 20, 4, 0), ("b", "n2", 10, 4, 0)],
            &none,
            4,
            "0/2 nodes are available: 2 No preemption victims found for incoming pod.",
        );
        check(
            &["n1", "n2"],
            &[("a", "n1", 1, 4, 0)],
            &none,
            5,
            "0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
        );
        check(
            &["n1"],
            &[("a", "n1", 20, 2, 0), ("b", "n1", 1, 2, 0)],
            &none,
            4,
            "0/1 nodes are available: 1 Insufficient cpu.",
        );
        let mut picture = picture(&["n1"], &[("a", "n1", 1, 4, 0)]);
        let never = ask("new", 10, 4, &json!({ "preemptionPolicy": "Never" }));
        assert_eq!(planned(&mut picture, &none, &never), "not eligible due to preemptionPolicy=Never.");
    }

    #[test]
    fn while_those_go_for_whom_a_pod_waits_nobody_else_does() {
        let mut picture = picture(&["n1", "n2"], &[("a", "n1", 1, 4, 0), ("b", "n2", 1, 4, 0)]);
        let new = ask("new", 10, 4, &json!({}));
        let mut nominations = Nominations::default();
        nominations.set(new.occupant.clone(), "n1");
        let refusal = decide(&mut picture, &nominations, &new, &mut 0).unwrap_err();
        assert!(plan(&mut picture, &nominations, &Budgets::new(), &new, &refusal, 0).is_ok());
        let going = picture.placed("a").unwrap().1.going();
        picture.place(Arc::new(going), "n1");
        let refusal = decide(&mut picture, &nominations, &new, &mut 0).unwrap_err();
        let why = plan(&mut picture, &nominations, &Budgets::new(), &new, &refusal, 0).unwrap_err();
        assert_eq!(why, "not eligible due to a terminating pod on the nominated node.");
    }

    #[test]
    fn neighbours_that_are_in_the_way_go_too() {
        let mut picture = picture(&["n1"], &[("a", "n1", 1, 1, 0), ("b", "n1", 1, 1, 0)]);
        let away = json!({ "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { "app": "a" } } }] } } });
        let new = ask("new", 10, 1, &away);
        assert_eq!(planned(&mut picture, &Budgets::new(), &new), "n1: a");
    }
}
