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
    let prepared = Prepared::new(picture, ask);
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
    let Some(best) = best(candidates) else {
        let hopeless = refusal.nodes - nodes.len();
        if hopeless > 0 {
            reasons.insert("Preemption is not helpful for scheduling".to_owned(), hopeless);
        }
        return Err(unavailable(refusal.nodes, None, &reasons));
    };
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
