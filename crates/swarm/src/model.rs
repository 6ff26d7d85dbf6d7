//! What a swarm holds, as it stands on disk and, but for secrets' data, on the wire.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// An id: 25 digits of base 36, as swarms have them.
pub(crate) fn new_id() -> String {
    const DIGITS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut random = rand::rng();
    (0..25).map(|_| char::from(DIGITS[random.random_range(0..DIGITS.len())])).collect()
}

/// What every object has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Object {
    pub(crate) id: String,
    pub(crate) index: u64,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
    pub(crate) spec: Value,
}

impl Object {
    pub(crate) fn new(index: u64, spec: Value) -> Self {
        let now = Timestamp::now();
        Self { id: new_id(), index, created: now, updated: now, spec }
    }

    pub(crate) fn change(&mut self, index: u64, spec: Value) {
        self.index = index;
        self.updated = Timestamp::now();
        self.spec = spec;
    }

    pub(crate) fn name(&self) -> &str {
        self.spec["Name"].as_str().unwrap_or_default()
    }

    /// The common part of the wire's form.
    pub(crate) fn document(&self) -> Value {
        json!({
            "ID": self.id,
            "Version": { "Index": self.index },
            "CreatedAt": self.created.to_string(),
            "UpdatedAt": self.updated.to_string(),
            "Spec": self.spec,
        })
    }
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Service {
    pub(crate) object: Object,
    pub(crate) previous: Option<Value>,
}

/// How far a task has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TaskState {
    New,
    /// Its image is on its way.
    Preparing,
    Running,
    Complete,
    Failed,
    Rejected,
    Shutdown,
}

impl TaskState {
    pub(crate) fn is_over(self) -> bool {
        !matches!(self, Self::New | Self::Preparing | Self::Running)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Shutdown => "shutdown",
        }
    }
}

/// One container's worth of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Task {
    /// `spec` is the service's task template as it was.
    pub(crate) object: Object,
    pub(crate) service: String,
    pub(crate) slot: u64,
    pub(crate) state: TaskState,
    /// Whether it is to run; otherwise it is to end.
    pub(crate) wanted: bool,
    pub(crate) since: Timestamp,
    pub(crate) error: String,
    pub(crate) container: Option<String>,
    pub(crate) exit_code: Option<u8>,
}

/// A swarm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cluster {
    pub(crate) object: Object,
    pub(crate) node: Object,
    pub(crate) hostname: String,
    pub(crate) address: String,
    pub(crate) index: u64,
    pub(crate) worker_token: String,
    pub(crate) manager_token: String,
    pub(crate) unlock_key: String,
    pub(crate) pools: Vec<String>,
    pub(crate) subnet_size: u64,
    pub(crate) data_path_port: u64,
    pub(crate) services: BTreeMap<String, Service>,
    pub(crate) tasks: BTreeMap<String, Task>,
    pub(crate) secrets: BTreeMap<String, Object>,
    pub(crate) configs: BTreeMap<String, Object>,
}

impl Cluster {
    /// The index of the next change.
    pub(crate) fn next(&mut self) -> u64 {
        self.index += 1;
        self.index
    }

    pub(crate) fn service(&self, name: &str) -> Option<&Service> {
        find(self.services.values(), name, |service| &service.object)
    }
}

/// The object with this id, name, or unique prefix of an id.
pub(crate) fn find<'a, T>(
    all: impl Iterator<Item = &'a T> + Clone,
    name: &str,
    object: impl Fn(&T) -> &Object,
) -> Option<&'a T> {
    let exact = all.clone().find(|one| object(one).id == name || object(one).name() == name);
    exact.or_else(|| {
        let mut matching = all.filter(|one| !name.is_empty() && object(one).id.starts_with(name));
        let first = matching.next()?;
        matching.next().is_none().then_some(first)
    })
}

/// A token by which others would join.
pub(crate) fn new_token(cluster: &str) -> String {
    format!("SWMTKN-1-{}{}-{}", cluster, new_id(), new_id())
}
