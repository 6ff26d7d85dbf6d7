//! What the pods of the node, and the node itself, use at one time.

use std::collections::BTreeMap;
use std::time::Duration;

use dray_engine::{InterfaceCounters, Status};
use futures_util::future::join_all;
use jiff::Timestamp;

use crate::context::Context;
use crate::identity::Belonging;
use crate::machine;

/// What a container has used and uses.
#[derive(Clone, Debug)]
pub(crate) struct ContainerUsage {
    pub(crate) name: String,
    pub(crate) started: Option<Timestamp>,
    /// When it was looked at.
    pub(crate) read: Timestamp,
    /// Processor time since it started.
    pub(crate) cpu: Duration,
    pub(crate) memory: MemoryUsage,
    pub(crate) processes: u64,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryUsage {
    pub(crate) used: u64,
    /// Without what can be given back at once.
    pub(crate) working_set: u64,
    pub(crate) anonymous: u64,
    pub(crate) limit: Option<u64>,
    pub(crate) swap: u64,
    pub(crate) faults: u64,
    pub(crate) major_faults: u64,
}

impl MemoryUsage {
    fn add(&mut self, other: &MemoryUsage) {
        self.used += other.used;
        self.working_set += other.working_set;
        self.anonymous += other.anonymous;
        self.swap += other.swap;
        self.faults += other.faults;
        self.major_faults += other.major_faults;
    }
}

/// What a pod uses.
#[derive(Clone, Debug)]
pub(crate) struct PodUsage {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) containers: Vec<ContainerUsage>,
    pub(crate) interfaces: Vec<InterfaceCounters>,
}

impl PodUsage {
    pub(crate) fn cpu(&self) -> Duration {
        self.containers.iter().map(|container| container.cpu).sum()
    }

    pub(crate) fn memory(&self) -> MemoryUsage {
        let mut sum = MemoryUsage::default();
        self.containers.iter().for_each(|container| sum.add(&container.memory));
        sum
    }

    pub(crate) fn read(&self) -> Timestamp {
        self.containers.iter().map(|container| container.read).max().unwrap_or_else(Timestamp::now)
    }

    pub(crate) fn started(&self) -> Option<Timestamp> {
        self.containers.iter().filter_map(|container| container.started).min()
    }
}

/// What the machine uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeUsage {
    pub(crate) read: Timestamp,
    /// Processor time since it started, idle time left out.
    pub(crate) cpu: Duration,
    pub(crate) memory: MemoryUsage,
    /// Memory in bytes that is there for the asking.
    pub(crate) available: u64,
}

/// Looks at all pods with a running container, in the order of their names.
pub(crate) async fn pods(context: &Context) -> Vec<PodUsage> {
    let records = context.engine.containers();
    let running = records.iter().filter(|record| record.state.status == Status::Running);
    let looks = running.filter_map(|record| {
        let belonging = Belonging::of(record)?;
        let handle = context.engine.container(record.id.as_str()).ok()?;
        let engine = &context.engine;
        Some(async move {
            let usage = engine.usage(&handle).await.ok()??;
            let memory = &usage.statistics.memory;
            let detail = |name: &str| usage.statistics.memory_details.get(name).copied().unwrap_or(0);
            let container = ContainerUsage {
                name: belonging.container.to_owned(),
                started: record.state.started,
                read: usage.read,
                cpu: usage.statistics.cpu.usage,
                memory: MemoryUsage {
                    used: memory.usage,
                    working_set: memory.usage.saturating_sub(memory.inactive_file),
                    anonymous: memory.anonymous,
                    limit: memory.limit,
                    swap: memory.swap,
                    faults: detail("pgfault"),
                    major_faults: detail("pgmajfault"),
                },
                processes: usage.statistics.pids.current,
            };
            Some((belonging, container, usage.interfaces))
        })
    });
    let mut pods: BTreeMap<(&str, &str, &str), PodUsage> = BTreeMap::new();
    for (belonging, container, interfaces) in join_all(looks).await.into_iter().flatten() {
        let pod =
            pods.entry((belonging.namespace, belonging.pod, belonging.uid)).or_insert_with(|| PodUsage {
                namespace: belonging.namespace.to_owned(),
                name: belonging.pod.to_owned(),
                uid: belonging.uid.to_owned(),
                containers: Vec::new(),
                interfaces,
            });
        pod.containers.push(container);
    }
    for pod in pods.values_mut() {
        pod.containers.sort_by(|one, other| one.name.cmp(&other.name));
    }
    pods.into_values().collect()
}

/// Looks at the machine.
pub(crate) fn node(context: &Context) -> NodeUsage {
    let total = u64::try_from(context.memory).unwrap_or(0);
    let available = u64::try_from(machine::memory_available()).unwrap_or(0).min(total);
    let used = total - available;
    let memory = MemoryUsage { used, working_set: used, ..MemoryUsage::default() };
    NodeUsage { read: Timestamp::now(), cpu: machine::busy(), memory, available }
}
