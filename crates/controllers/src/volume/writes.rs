//! What is written of claims and volumes. A claim and its volume name each other, which takes two writes: each rests on
//! the version that was seen, so that two claims never get one volume, and whoever looks next goes on from where it
//! ended.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use super::{
    BOUND, BY_CONTROLLER, annotation, change_claim, change_volume, claim_phase, claim_uid, is_for, plan,
    volume_name, volume_phase, volumes, write_claim_status,
};
use crate::error::{Error, Result};
use crate::key::ObjectKey;
use crate::owner;

/// How a volume names a claim.
pub(super) fn reference(claim: &PersistentVolumeClaim) -> Value {
    let metadata = &claim.metadata;
    json!({
        "kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": metadata.namespace,
        "name": metadata.name, "uid": metadata.uid, "resourceVersion": metadata.resource_version,
    })
}

/// Makes a claim and a volume each other's.
pub(super) async fn bind(
    client: &Client,
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
) -> Result<()> {
    let (ours, known) = (is_for(volume, claim), claim_uid(volume) == owner::uid(claim));
    if !ours || !known {
        let mut change = json!({ "spec": { "claimRef": reference(claim) } });
        if !ours {
            change["metadata"]["annotations"] = json!({ BY_CONTROLLER: "yes" });
        }
        change_volume(client, volume, change).await?;
    }
    write_phase(client, volume, "Bound", "").await?;
    let name = volume.name_any();
    let chosen = volume_name(claim) != name;
    if chosen || annotation(claim, BOUND).is_none() {
        let mut change = json!({ "metadata": { "annotations": { BOUND: "yes" } } });
        if chosen {
            change["spec"] = json!({ "volumeName": name });
            change["metadata"]["annotations"][BY_CONTROLLER] = json!("yes");
        }
        change_claim(client, claim, change).await?;
    }
    let spec = volume.spec.as_ref();
    let modes = spec.and_then(|spec| spec.access_modes.as_ref());
    let mut status = json!({});
    if claim.status.as_ref().and_then(|status| status.access_modes.as_ref()) != modes {
        status["accessModes"] = json!(modes);
    }
    // Of a claim that has been bound before, whoever lets it grow says how much it holds.
    if claim_phase(claim) != "Bound" {
        status["phase"] = json!("Bound");
        status["capacity"] = json!(spec.and_then(|spec| spec.capacity.as_ref()));
    }
    if status == json!({}) {
        return Ok(());
    }
    write_claim_status(client, claim, status).await
}

/// Writes that a claim has no volume; whether it was another phase before.
pub(super) async fn write_without_volume(
    client: &Client,
    claim: &PersistentVolumeClaim,
    phase: &str,
) -> Result<bool> {
    let status = claim.status.as_ref();
    let empty = status.is_none_or(|status| status.access_modes.is_none() && status.capacity.is_none());
    let changed = claim_phase(claim) != phase;
    if changed || !empty {
        let status = json!({ "phase": phase, "accessModes": null, "capacity": null });
        write_claim_status(client, claim, status).await?;
    }
    Ok(changed)
}

/// Writes a volume's phase; whether it was another before.
pub(super) async fn write_phase(
    client: &Client,
    volume: &PersistentVolume,
    phase: &str,
    message: &str,
) -> Result<bool> {
    if volume_phase(volume) == phase {
        return Ok(false);
    }
    let message = (!message.is_empty()).then_some(message);
    let patch = Patch::Merge(json!({
        "metadata": { "uid": volume.metadata.uid },
        "status": {
            "phase": phase, "message": message, "lastPhaseTransitionTime": Time(Timestamp::now()),
        },
    }));
    let key = ObjectKey::of(volume);
    let written = volumes(client).patch_status(&key.name, &PatchParams::default(), &patch).await;
    written.map_err(Error::request("write the status of", "PersistentVolume", key))?;
    Ok(true)
}

/// Gives a volume back, or keeps it for the claim that it was kept for by others.
pub(super) async fn unbind(client: &Client, volume: &PersistentVolume) -> Result<()> {
    let change = if plan::was_chosen(volume) {
        json!({ "metadata": { "annotations": { BY_CONTROLLER: null } }, "spec": { "claimRef": null } })
    } else {
        json!({ "spec": { "claimRef": { "uid": null, "resourceVersion": null } } })
    };
    change_volume(client, volume, change).await?;
    write_phase(client, volume, "Available", "").await.map(drop)
}
