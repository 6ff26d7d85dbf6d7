//! Claims and the volumes that they get: which volume a claim is bound to, what becomes of volumes whose claim is gone,
//! volumes that are directories of a node, and claims that are made for pods. Nothing here knows how a volume gets
//! into a container.

pub(crate) mod binder;
pub(crate) mod ephemeral;
pub(crate) mod expand;
pub(crate) mod local_path;
mod matching;
mod plan;
mod writes;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde_json::{Value, json};

use dray_machinery::quantity::Quantity;

use crate::error::{Error, Result};
use crate::key::ObjectKey;

/// That a claim has got its volume.
const BOUND: &str = "pv.kubernetes.io/bind-completed";
/// That it was this controller who chose.
const BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Who made a volume for a claim.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Who is to make a volume for a claim, in both of its names.
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const OLDER_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The node on which the scheduler wants to use a claim.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The class of a claim or a volume, before there was a field for it.
const OLDER_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const IS_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
const WAS_DEFAULT: &str = "storageclass.beta.kubernetes.io/is-default-class";
const STORAGE: &str = "storage";

fn annotation<'a, K: Resource>(object: &'a K, name: &str) -> Option<&'a str> {
    object.meta().annotations.as_ref()?.get(name).map(String::as_str)
}

/// The class of a claim; none where nothing was said, and "" where it is to have none.
fn claim_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(claim, OLDER_CLASS).or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref())
}

fn volume_class(volume: &PersistentVolume) -> &str {
    let field = || volume.spec.as_ref()?.storage_class_name.as_deref();
    annotation(volume, OLDER_CLASS).or_else(field).unwrap_or_default()
}

fn is_default(class: &StorageClass) -> bool {
    [IS_DEFAULT, WAS_DEFAULT].iter().any(|name| annotation(class, name) == Some("true"))
}

fn waits_for_pod(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

fn bytes(text: Option<&Text>) -> Quantity {
    text.and_then(|text| text.0.parse().ok()).unwrap_or(Quantity::from_units(0))
}

/// How much a claim asks for.
fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    bytes(requests.and_then(|requests| requests.get(STORAGE)))
}

/// How much a volume holds.
fn capacity(volume: &PersistentVolume) -> Quantity {
    bytes(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get(STORAGE)))
}

fn volume_phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The name of the volume that a claim wants or has.
fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

/// The claim that a volume is for.
fn claim_key(volume: &PersistentVolume) -> Option<ObjectKey> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Some(ObjectKey::new(text(&reference.namespace), text(&reference.name)))
}

/// The uid of the claim that a volume is for; empty where only a name is told.
fn claim_uid(volume: &PersistentVolume) -> &str {
    let uid = || volume.spec.as_ref()?.claim_ref.as_ref()?.uid.as_deref();
    uid().unwrap_or_default()
}

/// Whether a volume is for a claim, be it only by name.
fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let uid = claim_uid(volume);
    claim_key(volume) == Some(ObjectKey::of(claim)) && (uid.is_empty() || Some(uid) == claim.uid().as_deref())
}

/// Access to the claims of a namespace, of whose answers only the metadata is read.
fn claims(client: &Client, namespace: &str) -> Api<PartialObjectMeta<PersistentVolumeClaim>> {
    Api::namespaced(client.clone(), namespace)
}

fn volumes(client: &Client) -> Api<PartialObjectMeta<PersistentVolume>> {
    Api::all(client.clone())
}

/// A change that is only made to the version that was seen.
fn seen<K: Resource>(object: &K, mut change: Value) -> Value {
    let metadata = object.meta();
    change["metadata"]["uid"] = json!(metadata.uid);
    change["metadata"]["resourceVersion"] = json!(metadata.resource_version);
    change
}

/// Changes a claim, if it still is as it was seen.
async fn change_claim(client: &Client, claim: &PersistentVolumeClaim, change: Value) -> Result<()> {
    let key = ObjectKey::of(claim);
    let written = claims(client, &key.namespace)
        .patch(&key.name, &PatchParams::default(), &Patch::Merge(seen(claim, change)))
        .await;
    written.map(drop).map_err(Error::request("change", "PersistentVolumeClaim", key))
}

/// Writes into a claim's status.
async fn write_claim_status(client: &Client, claim: &PersistentVolumeClaim, status: Value) -> Result<()> {
    let key = ObjectKey::of(claim);
    let patch = Patch::Merge(json!({ "metadata": { "uid": claim.metadata.uid }, "status": status }));
    let written =
        claims(client, &key.namespace).patch_status(&key.name, &PatchParams::default(), &patch).await;
    written.map(drop).map_err(Error::request("write the status of", "PersistentVolumeClaim", key))
}

/// Changes a volume, if it still is as it was seen.
async fn change_volume(client: &Client, volume: &PersistentVolume, change: Value) -> Result<()> {
    let key = ObjectKey::of(volume);
    let patch = Patch::Merge(seen(volume, change));
    let written = volumes(client).patch(&key.name, &PatchParams::default(), &patch).await;
    written.map(drop).map_err(Error::request("change", "PersistentVolume", key))
}
