//! What nodes alone say to a pod: whether it selects them, tolerates their taints and prefers them. Answered once for
//! all pods that ask the same, and again only for nodes that have changed.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;

use crate::ask::Selection;
use crate::node::{NodeEntry, NodeFacts};
use crate::selector::tolerates;

/// Questions that are kept beyond the decision that asked them.
const KEPT: usize = 64;

/// Why a node comes not into question, whatever is on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    Cordoned,
    /// By the taint of this number.
    Tainted(usize),
    NotSelected,
}

/// What one node says.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Answer {
    version: u64,
    /// The first reason against it.
    pub(crate) unfit: Option<Unfit>,
    pub(crate) selected: bool,
    pub(crate) tolerated: bool,
    /// Taints that are not tolerated but only ask to be.
    pub(crate) soft_taints: i64,
    pub(crate) preference: i64,
}

impl Answer {
    pub(crate) fn new(selection: &Selection, node: &NodeFacts) -> Answer {
        let tolerances = &selection.tolerances;
        let hard = |taint: &Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
        let tainted = node.taints.iter().position(|taint| hard(taint) && !tolerates(tolerances, taint));
        let selected = selection.takes(&node.labels, &node.name);
        let cordoned = node.unschedulable && {
            // The taint that stands for it.
            !tolerances.iter().any(|one| one.takes("node.kubernetes.io/unschedulable", "", "NoSchedule"))
        };
        let unfit = match (cordoned, tainted) {
            (true, _) => Some(Unfit::Cordoned),
            (_, Some(taint)) => Some(Unfit::Tainted(taint)),
            _ => (!selected).then_some(Unfit::NotSelected),
        };
        let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        Answer {
            version: node.version,
            unfit,
            selected,
            tolerated: tainted.is_none(),
            soft_taints: soft.filter(|taint| !tolerates(tolerances, taint)).count() as i64,
            preference: selection.preference(&node.labels, &node.name),
        }
    }
}

#[derive(Debug)]
struct Answers {
    selection: Arc<Selection>,
    of_node: Vec<Answer>,
    /// The version of the newest node that has answered.
    version: u64,
    used: u64,
}

/// Where the answer is to a question that only one node is asked.
const SINGLE: usize = usize::MAX;

/// The answers to all questions that were asked lately.
#[derive(Debug, Default)]
pub(crate) struct Selections {
    /// Of this only the answer of the node that was asked last is worth something.
    single: Vec<Answer>,
    all: Vec<Answers>,
    index: HashMap<Arc<Selection>, usize>,
    now: u64,
}

impl Selections {
    pub(crate) fn get(&self, index: usize) -> &[Answer] {
        if index == SINGLE { &self.single } else { &self.all[index].of_node }
    }

    /// Asks one node, as the pods of a DaemonSet do, each another. The answer is not kept beyond the next question.
    pub(crate) fn find_single(&mut self, selection: &Selection, node: usize, facts: &NodeFacts) -> usize {
        if self.single.len() <= node {
            self.single.resize(node + 1, Answer::default());
        }
        self.single[node] = Answer::new(selection, facts);
        SINGLE
    }

    /// Where the answers to a question are, complete: it stays there until the next is asked. `version` is that of
    /// the newest node.
    pub(crate) fn find(
        &mut self,
        selection: &Arc<Selection>,
        nodes: &[Option<NodeEntry>],
        version: u64,
    ) -> usize {
        self.now += 1;
        let index = match self.index.get(selection) {
            Some(&index) => index,
            None => self.make(selection),
        };
        let answers = &mut self.all[index];
        answers.used = self.now;
        if answers.version != version {
            answers.of_node.resize(nodes.len(), Answer::default());
            for (answer, node) in answers.of_node.iter_mut().zip(nodes) {
                if let Some(node) = node
                    && node.facts.version != answer.version
                {
                    *answer = Answer::new(&answers.selection, &node.facts);
                }
            }
            answers.version = version;
        }
        index
    }

    fn make(&mut self, selection: &Arc<Selection>) -> usize {
        let answers =
            Answers { selection: selection.clone(), of_node: Vec::new(), version: 0, used: self.now };
        let oldest = self.all.iter().enumerate().min_by_key(|(_, answers)| answers.used);
        let index = match oldest {
            Some((index, oldest)) if self.all.len() >= KEPT => {
                self.index.remove(&oldest.selection);
                self.all[index] = answers;
                index
            }
            _ => {
                self.all.push(answers);
                self.all.len() - 1
            }
        };
        self.index.insert(selection.clone(), index);
        index
    }
}
