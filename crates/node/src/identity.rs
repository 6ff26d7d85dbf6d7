//! How a pod's containers are named and labelled in the engine: by these names `docker ps` shows them, and by these
//! labels the agent finds them again after a restart.

use std::collections::BTreeMap;

use dray_engine::ContainerRecord;
use k8s_openapi::api::core::v1::Pod;

pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
const ATTEMPT: &str = "io.kubernetes.container.attempt";
pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
pub(crate) const MESSAGE_FILE: &str = "io.kubernetes.container.terminationMessageFile";

/// Which pod is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PodIdentity {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl PodIdentity {
    pub(crate) fn of(pod: &Pod) -> Self {
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        }
    }

    /// The kubelet's way to write a pod in a sentence.
    pub(crate) fn full_name(&self) -> String {
        format!("{}_{}({})", self.name, self.namespace, self.uid)
    }

    /// A container's name in the engine, as dockershim made them.
    pub(crate) fn container_name(&self, container: &str, attempt: u32) -> String {
        format!("k8s_{container}_{}_{}_{}_{attempt}", self.name, self.namespace, self.uid)
    }

    pub(crate) fn labels(&self, container: &str, attempt: u32) -> BTreeMap<String, String> {
        let pairs = [
            (POD_NAME, self.name.clone()),
            (POD_NAMESPACE, self.namespace.clone()),
            (POD_UID, self.uid.clone()),
            (CONTAINER_NAME, container.to_owned()),
            (ATTEMPT, attempt.to_string()),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// What a container of the engine says about the pod it belongs to.
pub(crate) struct Belonging<'a> {
    pub(crate) uid: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) pod: &'a str,
    pub(crate) container: &'a str,
    pub(crate) attempt: u32,
}

impl<'a> Belonging<'a> {
    /// None for containers that are no pod's. Labels alone do not make one: anyone may set them through the Docker
    /// API, but only the agent puts a container into a pod's sandbox.
    pub(crate) fn of(record: &'a ContainerRecord) -> Option<Self> {
        let labels = &record.spec.labels;
        let uid = labels.get(POD_UID)?;
        let dray_engine::NetworkMode::Sandbox(sandbox) = &record.spec.network else { return None };
        if sandbox != uid {
            return None;
        }
        Some(Self {
            uid,
            namespace: labels.get(POD_NAMESPACE)?,
            pod: labels.get(POD_NAME)?,
            container: labels.get(CONTAINER_NAME)?,
            attempt: labels.get(ATTEMPT)?.parse().ok()?,
        })
    }
}
