//! The pod's status as the kubelet would write it.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateWaiting, ContainerStatus, HostIP, PodCondition,
    PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use serde_json::{Value, json};

use super::Worker;
use super::slot::{Role, Slot};
use crate::spec::build::Quality;

/// The conditions that are the node's to write.
pub(super) const OWN_CONDITIONS: &[&str] =
    &["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];

fn terminated(state: k8s_openapi::api::core::v1::ContainerStateTerminated) -> ContainerState {
    ContainerState { terminated: Some(state), ..ContainerState::default() }
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting { message, reason: Some(reason.to_owned()) }),
        ..ContainerState::default()
    }
}

impl Slot {
    fn status(&self, image: &str, default_reason: &str) -> ContainerStatus {
        let record = self.current.as_ref().map(|current| current.handle.record());
        let last = self.last.clone().map(terminated);
        let running = self.is_running();
        let (state, last) = match (&self.current, self.ended(), &self.waiting) {
            (Some(_), Some(ended), Some(why)) => {
                (waiting(why.reason, Some(why.message.clone())), Some(terminated(ended.clone())))
            }
            (Some(_), Some(ended), None) => (terminated(ended.clone()), last),
            (Some(_), None, _) if running => {
                let started = record.as_ref().and_then(|record| record.state.started).map(Time);
                let running = ContainerStateRunning { started_at: started };
                (ContainerState { running: Some(running), ..ContainerState::default() }, last)
            }
            (_, _, Some(why)) => (waiting(why.reason, Some(why.message.clone())), last),
            _ => (waiting(default_reason, None), last),
        };
        let finished = self.ended().is_some_and(|ended| ended.exit_code == 0) && self.waiting.is_none();
        let ready = match self.role {
            Role::Init => finished,
            Role::Sidecar | Role::Main => running && self.ready,
            Role::Ephemeral => false,
        };
        ContainerStatus {
            name: self.name.clone(),
            state: Some(state),
            last_state: Some(last.unwrap_or_default()),
            ready,
            restart_count: i32::try_from(self.restarts).unwrap_or(i32::MAX),
            image: image.to_owned(),
            image_id: record.as_ref().map(|record| record.image.to_string()).unwrap_or_default(),
            container_id: self.current.as_ref().map(super::slot::Instance::id),
            started: Some(running && self.started),
            ..ContainerStatus::default()
        }
    }
}

/// The status as a strategic merge patch. Conditions that others write stay; of the node's own nothing old does.
pub(super) fn patch(status: &PodStatus) -> Value {
    let mut body = serde_json::to_value(status).unwrap_or_default();
    let clear = |object: &mut Value| {
        for field in ["reason", "message"] {
            if object[field].is_null() {
                object[field] = Value::Null;
            }
        }
    };
    clear(&mut body);
    for condition in body["conditions"].as_array_mut().into_iter().flatten() {
        clear(condition);
    }
    for list in ["podIPs", "hostIPs"] {
        if let Some(addresses) = body[list].as_array_mut() {
            addresses.push(json!({ "$patch": "replace" }));
        }
    }
    body
}

/// What all conditions are made of.
struct Verdicts {
    initialized: (bool, Option<&'static str>, Option<String>),
    containers: (bool, Option<&'static str>, Option<String>),
    ready: (bool, Option<&'static str>, Option<String>),
}

impl Worker {
    /// The phase that follows from what the containers do.
    fn phase(&self) -> &'static str {
        if self.verdict.is_some() && self.slots.iter().all(|slot| !slot.is_running()) {
            return "Failed";
        }
        let policy = self.restart_policy();
        let is_sure = |slot: &&Slot| slot.role == Role::Main;
        if !self.initialized {
            let failed = self.slots.iter().any(|slot| {
                slot.role == Role::Init
                    && policy == "Never"
                    && slot.ended().is_some_and(|ended| ended.exit_code != 0)
            });
            return if failed { "Failed" } else { "Pending" };
        }
        let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
        for slot in self.slots.iter().filter(is_sure) {
            match (slot.is_running(), slot.ended()) {
                (true, _) => running += 1,
                (false, Some(ended)) => {
                    stopped += 1;
                    succeeded += usize::from(ended.exit_code == 0);
                }
                (false, None) if slot.last.is_some() => stopped += 1,
                (false, None) => waiting += 1,
            }
        }
        if waiting > 0 {
            return if self.was_running { "Running" } else { "Pending" };
        }
        if running > 0 {
            return "Running";
        }
        let over = self.terminating || policy == "Never" || (policy == "OnFailure" && stopped == succeeded);
        match (over, stopped == succeeded) {
            (false, _) => "Running",
            (true, true) => "Succeeded",
            (true, false) => "Failed",
        }
    }

    fn verdicts(&self, phase: &str) -> Verdicts {
        let incomplete: Vec<&str> = self
            .slots
            .iter()
            .filter(|slot| match slot.role {
                Role::Init => !self.initialized && slot.ended().is_none_or(|ended| ended.exit_code != 0),
                Role::Sidecar => !slot.started && !self.initialized,
                Role::Main | Role::Ephemeral => false,
            })
            .map(|slot| slot.name.as_str())
            .collect();
        let unready: Vec<&str> = self
            .slots
            .iter()
            .filter(|slot| match slot.role {
                Role::Init | Role::Ephemeral => false,
                Role::Sidecar | Role::Main => !(slot.is_running() && slot.ready),
            })
            .map(|slot| slot.name.as_str())
            .collect();
        let initialized = match phase {
            "Succeeded" => (true, Some("PodCompleted"), None),
            _ if incomplete.is_empty() => (true, None, None),
            _ => (
                false,
                Some("ContainersNotInitialized"),
                Some(format!("containers with incomplete status: [{}]", incomplete.join(" "))),
            ),
        };
        let containers = match phase {
            "Succeeded" => (false, Some("PodCompleted"), None),
            "Failed" => (false, Some("PodFailed"), None),
            _ if unready.is_empty() => (true, None, None),
            _ => (
                false,
                Some("ContainersNotReady"),
                Some(format!("containers with unready status: [{}]", unready.join(" "))),
            ),
        };
        let ready = if containers.0 { self.gates() } else { containers.clone() };
        Verdicts { initialized, containers, ready }
    }

    /// Whether those outside who were asked find the pod ready.
    fn gates(&self) -> (bool, Option<&'static str>, Option<String>) {
        let conditions = self.pod.status.as_ref().and_then(|status| status.conditions.as_deref());
        let spec = self.pod.spec.as_ref();
        let mut complaints = Vec::new();
        for gate in spec.into_iter().flat_map(|spec| spec.readiness_gates.iter().flatten()) {
            let kind = &gate.condition_type;
            let found = conditions.into_iter().flatten().find(|condition| condition.type_ == *kind);
            match found {
                None => complaints
                    .push(format!("corresponding condition of pod readiness gate {kind:?} does not exist.")),
                Some(condition) if condition.status != "True" => complaints.push(format!(
                    "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => {}
            }
        }
        if complaints.is_empty() {
            return (true, None, None);
        }
        (false, Some("ReadinessGatesNotReady"), Some(complaints.join(", ")))
    }

    /// The whole status.
    pub(super) fn status(&self) -> PodStatus {
        let phase = self.phase();
        let verdicts = self.verdicts(phase);
        let known = self
            .sent
            .as_ref()
            .and_then(|status| status.conditions.clone())
            .or_else(|| self.pod.status.as_ref().and_then(|status| status.conditions.clone()))
            .unwrap_or_default();
        let now = Time(jiff::Timestamp::now());
        let generation = self.pod.metadata.generation;
        let condition =
            |kind: &str, (holds, reason, message): (bool, Option<&'static str>, Option<String>)| {
                let status = if holds { "True" } else { "False" };
                let before = known
                    .iter()
                    .find(|condition| condition.type_ == kind && condition.status == status)
                    .and_then(|condition| condition.last_transition_time.clone());
                PodCondition {
                    last_transition_time: Some(before.unwrap_or_else(|| now.clone())),
                    observed_generation: generation,
                    message,
                    reason: reason.map(str::to_owned),
                    status: status.to_owned(),
                    type_: kind.to_owned(),
                    ..PodCondition::default()
                }
            };
        let conditions = vec![
            condition("PodReadyToStartContainers", (self.sandbox.is_some(), None, None)),
            condition("Initialized", verdicts.initialized),
            condition("Ready", verdicts.ready),
            condition("ContainersReady", verdicts.containers),
            condition("PodScheduled", (true, None, None)),
        ];
        let statuses = |roles: &[Role], reason: &str| -> Vec<ContainerStatus> {
            self.slots
                .iter()
                .filter(|slot| roles.contains(&slot.role))
                .map(|slot| {
                    let image = self.container(slot).and_then(|container| container.image.as_deref());
                    slot.status(image.unwrap_or_default(), reason)
                })
                .collect()
        };
        let has_init = self.slots.iter().any(|slot| matches!(slot.role, Role::Init | Role::Sidecar));
        let main_reason = if has_init && !self.initialized { "PodInitializing" } else { "ContainerCreating" };
        // Of a pod that was never taken in there is nothing to tell.
        let is_something = self.verdict.is_none() || self.slots.iter().any(|slot| slot.current.is_some());
        let init = statuses(&[Role::Init, Role::Sidecar], "PodInitializing");
        let address = Some(self.addresses.pod.clone()).filter(|address| !address.is_empty());
        let host = self.context.config.node_address.to_string();
        PodStatus {
            phase: Some(phase.to_owned()),
            conditions: Some(conditions),
            reason: self.verdict.as_ref().map(|verdict| verdict.reason.to_string()),
            message: self.verdict.as_ref().map(|verdict| verdict.message.clone()),
            host_ip: Some(host.clone()),
            host_ips: Some(vec![HostIP { ip: host }]),
            pod_ips: address.clone().map(|ip| vec![PodIP { ip }]),
            pod_ip: address,
            start_time: Some(self.start_time.clone()),
            init_container_statuses: (has_init && is_something).then_some(init),
            container_statuses: is_something.then(|| statuses(&[Role::Main], main_reason)),
            ephemeral_container_statuses: (!self.ephemeral.is_empty())
                .then(|| statuses(&[Role::Ephemeral], "ContainerCreating")),
            qos_class: Some(Quality::of(&self.pod).as_str().to_owned()),
            observed_generation: generation,
            ..PodStatus::default()
        }
    }
}
