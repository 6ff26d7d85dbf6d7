//! Pods as controllers need them: of each pod only what some controller reads is decoded and kept. Containers
//! and volumes but those with claims, which are most of a pod, stay out of memory.

use std::collections::BTreeMap;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Affinity, PodCondition, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

/// Metadata without what is left out of memory anyway: reading who manages which field costs more than all else.
pub(crate) fn lean_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Lean {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        generation: Option<i64>,
        creation_timestamp: Option<Time>,
        deletion_timestamp: Option<Time>,
        deletion_grace_period_seconds: Option<i64>,
        labels: Option<BTreeMap<String, String>>,
        annotations: Option<BTreeMap<String, String>>,
        owner_references: Option<Vec<OwnerReference>>,
        finalizers: Option<Vec<String>>,
    }
    let lean = Lean::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: lean.name,
        namespace: lean.namespace,
        uid: lean.uid,
        resource_version: lean.resource_version,
        generation: lean.generation,
        creation_timestamp: lean.creation_timestamp,
        deletion_timestamp: lean.deletion_timestamp,
        deletion_grace_period_seconds: lean.deletion_grace_period_seconds,
        labels: lean.labels,
        annotations: lean.annotations,
        owner_references: lean.owner_references,
        finalizers: lean.finalizers,
        ..ObjectMeta::default()
    })
}

/// A pod.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Pod {
    #[serde(deserialize_with = "lean_metadata")]
    pub(crate) metadata: ObjectMeta,
    pub(crate) spec: PodSpec,
    pub(crate) status: PodStatus,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodSpec {
    pub(crate) node_name: String,
    pub(crate) hostname: String,
    pub(crate) subdomain: String,
    pub(crate) containers: Vec<Container>,
    pub(crate) init_containers: Vec<Container>,
    pub(crate) tolerations: Vec<Toleration>,
    /// Those of claims.
    #[serde(deserialize_with = "of_claims")]
    pub(crate) volumes: Vec<Volume>,
    /// The node that it is made for by its affinity, as a DaemonSet's is; empty for others.
    #[serde(rename = "affinity", deserialize_with = "node_of_affinity", skip_serializing)]
    pub(crate) meant_for: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) persistent_volume_claim: Option<ClaimSource>,
    /// Whether its claim is made for the pod.
    #[serde(deserialize_with = "is_there")]
    pub(crate) ephemeral: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ClaimSource {
    pub(crate) claim_name: String,
}

fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::<IgnoredAny>::deserialize(deserializer)?.is_some())
}

fn node_of_affinity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let affinity = Option::<Affinity>::deserialize(deserializer)?;
    let required = affinity
        .and_then(|affinity| affinity.node_affinity)
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution);
    let fields = required.into_iter().flat_map(|terms| terms.node_selector_terms);
    let name = fields.flat_map(|term| term.match_fields.unwrap_or_default()).find_map(|field| {
        let is_name = field.key == "metadata.name" && field.operator == "In";
        field.values.filter(|_| is_name)?.into_iter().next()
    });
    Ok(name.unwrap_or_default())
}

fn of_claims<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Volume>, D::Error> {
    let mut volumes = Option::<Vec<Volume>>::deserialize(deserializer)?.unwrap_or_default();
    volumes.retain(|volume| volume.ephemeral || volume.persistent_volume_claim.is_some());
    Ok(volumes)
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Container {
    /// "Always" for an init container that goes on running.
    pub(crate) restart_policy: String,
    pub(crate) ports: Vec<ContainerPort>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerPort {
    pub(crate) name: String,
    pub(crate) container_port: i32,
    pub(crate) protocol: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodStatus {
    pub(crate) phase: String,
    pub(crate) reason: String,
    pub(crate) conditions: Vec<PodCondition>,
    #[serde(rename = "podIP")]
    pub(crate) pod_ip: String,
    #[serde(rename = "podIPs")]
    pub(crate) pod_ips: Vec<PodAddress>,
    pub(crate) container_statuses: Vec<ContainerStatus>,
    pub(crate) init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodAddress {
    pub(crate) ip: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerStatus {
    pub(crate) name: String,
    pub(crate) restart_count: i32,
    pub(crate) state: ContainerState,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerState {
    /// How it ended, if it has.
    pub(crate) terminated: Option<ContainerEnd>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerEnd {
    pub(crate) exit_code: i32,
    pub(crate) finished_at: Option<Time>,
}

impl k8s_openapi::Resource for Pod {
    const API_VERSION: &'static str = "v1";
    const GROUP: &'static str = "";
    const KIND: &'static str = "Pod";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "pods";
    type Scope = NamespaceResourceScope;
}

impl k8s_openapi::Metadata for Pod {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Pod {
    pub(crate) fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Whether it has ended, well or not.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether it runs or is going to.
    pub(crate) fn is_active(&self) -> bool {
        !self.is_finished() && !self.is_terminating()
    }

    /// Whether something wants to know of it before it goes.
    pub(crate) fn has_finalizer(&self, finalizer: &str) -> bool {
        self.metadata.finalizers.iter().flatten().any(|other| other == finalizer)
    }

    /// What an annotation says.
    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }

    pub(crate) fn condition(&self, kind: &str) -> Option<&PodCondition> {
        self.status.conditions.iter().find(|condition| condition.type_ == kind)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.condition("Ready").is_some_and(|condition| condition.status == "True")
    }

    /// The names of the claims that it uses.
    pub(crate) fn claims(&self) -> impl Iterator<Item = String> {
        self.spec.volumes.iter().map(|volume| match &volume.persistent_volume_claim {
            Some(source) => source.claim_name.clone(),
            None => format!("{}-{}", self.metadata.name.as_deref().unwrap_or_default(), volume.name),
        })
    }

    /// Since when it is ready.
    pub(crate) fn ready_since(&self) -> Option<&Time> {
        let condition = self.condition("Ready").filter(|condition| condition.status == "True")?;
        condition.last_transition_time.as_ref()
    }

    /// Its addresses.
    pub(crate) fn addresses(&self) -> Vec<&str> {
        if self.status.pod_ips.is_empty() && !self.status.pod_ip.is_empty() {
            return vec![&self.status.pod_ip];
        }
        self.status.pod_ips.iter().map(|address| address.ip.as_str()).collect()
    }
}
