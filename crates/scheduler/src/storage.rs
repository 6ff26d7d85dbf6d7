//! Claims, volumes, classes and drivers as the API has them, read into what the scheduler keeps of them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::VolumeNodeAffinity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use serde::{Deserialize, Serialize};

use crate::model::{Requests, resource};
use crate::objects::{Fact, object};
use crate::quantity::units;
use crate::resources::Quantities;
use crate::selector::{NodeTerm, Selector};
use crate::volumes::{Claim, Class, Volume};

/// Says that a claim and its volume know each other.
const BOUND: &str = "pv.kubernetes.io/bind-completed";
/// Says for which node a volume is to be made.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// An older way to name a class.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

object!(PersistentVolumeClaim, "", "v1", "persistentvolumeclaims", NamespaceResourceScope, {
    spec: ClaimSpec, status: Phase
});
object!(PersistentVolume, "", "v1", "persistentvolumes", ClusterResourceScope, { spec: VolumeSpec, status: Phase });
object!(StorageClass, "storage.k8s.io", "storage.k8s.io/v1", "storageclasses", ClusterResourceScope, {
    provisioner: String, volume_binding_mode: String, allowed_topologies: Vec<Topology>
});
object!(CSINode, "storage.k8s.io", "storage.k8s.io/v1", "csinodes", ClusterResourceScope, { spec: Drivers });

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ClaimSpec {
    volume_name: String,
    storage_class_name: Option<String>,
    access_modes: Vec<String>,
    volume_mode: String,
    resources: Requests,
    selector: Option<LabelSelector>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Phase {
    phase: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct VolumeSpec {
    capacity: Quantities,
    access_modes: Vec<String>,
    volume_mode: String,
    storage_class_name: String,
    node_affinity: Option<VolumeNodeAffinity>,
    claim_ref: Option<ClaimReference>,
    csi: Option<Csi>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct ClaimReference {
    namespace: String,
    name: String,
    uid: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Csi {
    driver: String,
    volume_handle: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Topology {
    match_label_expressions: Vec<Expression>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Expression {
    key: String,
    values: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Drivers {
    drivers: Vec<Driver>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Driver {
    name: String,
    allocatable: Allocatable,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Allocatable {
    count: Option<i64>,
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a String> {
    metadata.annotations.as_ref()?.get(key)
}

fn size(quantities: Option<&Quantities>) -> i64 {
    quantities.and_then(|all| all.get("storage")).map_or(0, |quantity| units(&quantity.0))
}

pub(crate) fn claim(object: PersistentVolumeClaim) -> Fact {
    let (metadata, spec) = (object.metadata, object.spec);
    let owners = metadata.owner_references.iter().flatten();
    let class = annotation(&metadata, CLASS).cloned().or(spec.storage_class_name);
    Fact::Claim(Box::new(Claim {
        owner: owners.filter(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone()).next(),
        deleted: metadata.deletion_timestamp.is_some(),
        lost: object.status.phase == "Lost",
        bound: annotation(&metadata, BOUND).is_some(),
        volume: spec.volume_name,
        class: class.unwrap_or_default(),
        node: annotation(&metadata, SELECTED_NODE).cloned(),
        size: size(spec.resources.requests.as_ref()),
        modes: spec.access_modes,
        block: spec.volume_mode == "Block",
        selector: spec.selector.as_ref().map(|selector| Selector::new(Some(selector))),
        uid: metadata.uid.unwrap_or_default(),
        version: metadata.resource_version.unwrap_or_default(),
    }))
}

pub(crate) fn volume(object: PersistentVolume) -> Fact {
    let (metadata, spec) = (object.metadata, object.spec);
    let required = spec.node_affinity.and_then(|affinity| affinity.required);
    let class = annotation(&metadata, CLASS).cloned().unwrap_or(spec.storage_class_name);
    Fact::Volume(Box::new(Volume {
        nodes: required.map(|selector| selector.node_selector_terms.iter().map(NodeTerm::new).collect()),
        claim: spec.claim_ref.map(|claim| ((claim.namespace, claim.name), claim.uid)),
        class,
        size: size(Some(&spec.capacity)),
        modes: spec.access_modes,
        block: spec.volume_mode == "Block",
        available: object.status.phase == "Available" && metadata.deletion_timestamp.is_none(),
        driver: spec.csi.map(|csi| (csi.driver, csi.volume_handle)),
        version: metadata.resource_version.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
    }))
}

pub(crate) fn class(object: StorageClass) -> Fact {
    let read = |topology: Topology| {
        let expressions = topology.match_label_expressions.into_iter();
        expressions.map(|one| (one.key, one.values)).collect()
    };
    Fact::Class(Class {
        provisioner: object.provisioner,
        waits: object.volume_binding_mode == "WaitForFirstConsumer",
        topologies: object.allowed_topologies.into_iter().map(read).collect(),
    })
}

pub(crate) fn limits(object: CSINode) -> Fact {
    let drivers = object.spec.drivers.into_iter();
    Fact::Limits(
        drivers
            .filter_map(|driver| Some((driver.name, driver.allocatable.count?)))
            .collect::<BTreeMap<_, _>>(),
    )
}
