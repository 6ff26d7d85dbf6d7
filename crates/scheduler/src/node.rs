//! A node as decisions see it: what is true of it, and the sums of what is on it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;

use crate::ask::{HostPort, Occupant};
use crate::resources::Resources;
use crate::selector::Labels;

/// What a Node object says.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct NodeFacts {
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    pub(crate) allocatable: Resources,
    pub(crate) allowed_pods: i64,
    /// Sizes in bytes by the numbers of images, in their order.
    pub(crate) images: Vec<(u32, i64)>,
    /// Another after every change.
    pub(crate) version: u64,
}

/// The sums of what is on a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Usage {
    pub(crate) requested: Resources,
    /// The same with something for pods that ask for nothing.
    pub(crate) weight: Resources,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) pods: Vec<Arc<Occupant>>,
}

/// A node and what is on it.
#[derive(Debug, Default)]
pub(crate) struct NodeEntry {
    pub(crate) facts: Arc<NodeFacts>,
    /// Whether there is a Node object; pods may be known before it, and after.
    pub(crate) known: bool,
    pub(crate) usage: Usage,
}

impl NodeEntry {
    pub(crate) fn name(&self) -> &str {
        &self.facts.name
    }
}

impl Usage {
    pub(crate) fn add(&mut self, pod: Arc<Occupant>) {
        self.requested.add(&pod.requests);
        self.weight.add(&pod.weight);
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.push(pod);
    }

    pub(crate) fn remove(&mut self, pod: &Occupant) {
        let Some(at) = self.pods.iter().position(|other| other.uid == pod.uid) else { return };
        self.pods.swap_remove(at);
        self.requested.subtract(&pod.requests);
        self.weight.subtract(&pod.weight);
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|other| other == port) {
                self.ports.swap_remove(at);
            }
        }
    }
}
