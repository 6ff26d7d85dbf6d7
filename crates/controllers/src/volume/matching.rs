//! Which of the volumes that there are a claim gets: the smallest that is large enough, and one that is kept for the
//! claim before all others.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt as _;

use super::{capacity, claim_class, is_for, requested, volume_class, volume_phase};
use crate::labels::Selector;
use crate::owner;

fn claim_modes(claim: &PersistentVolumeClaim) -> &[String] {
    claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default()
}

fn volume_modes(volume: &PersistentVolume) -> &[String] {
    volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default()
}

/// Whether a volume can be used in all the ways that a claim asks for.
fn allows(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_modes(claim).iter().all(|mode| volume_modes(volume).contains(mode))
}

/// Whether both are directories, or both devices.
pub(super) fn same_form(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let form = |mode: Option<&String>| mode.map_or("Filesystem", String::as_str).to_owned();
    let of_volume = form(volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref()));
    of_volume == form(claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref()))
}

fn same_attributes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    of_volume.unwrap_or_default() == of_claim.unwrap_or_default()
}

/// Why a claim cannot have the volume that it names.
pub(super) fn refuse(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    if owner::is_terminating(volume) {
        return Some(format!("the volume is marked for deletion {:?}", volume.name_any()));
    }
    let reasons = [
        (capacity(volume) < requested(claim), "requested PV is too small"),
        (volume_class(volume) != claim_class(claim).unwrap_or_default(), "storageClassName does not match"),
        (!same_form(volume, claim), "incompatible volumeMode"),
        (!allows(volume, claim), "incompatible accessMode"),
        (!same_attributes(volume, claim), "volumeAttributesClassName does not match"),
    ];
    reasons.into_iter().find(|(holds, _)| *holds).map(|(_, reason)| reason.to_owned())
}

/// The volume for a claim that names none. Where the claim waits for a pod, only one that is kept for it.
///
/// # Errors
/// What is wrong with the claim's selector.
pub(super) fn best<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [Arc<PersistentVolume>],
    waits: bool,
) -> Result<Option<&'a Arc<PersistentVolume>>, String> {
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.map(Selector::new).transpose()?;
    let fits = |volume: &&Arc<PersistentVolume>| {
        let is_free = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none());
        (is_free || is_for(volume, claim))
            && !owner::is_terminating(&***volume)
            && capacity(volume) >= requested(claim)
            && same_form(volume, claim)
            && allows(volume, claim)
            && same_attributes(volume, claim)
    };
    let fitting: Vec<_> = volumes.iter().filter(fits).collect();
    if let Some(kept) = fitting.iter().find(|volume| is_for(volume, claim)) {
        return Ok(Some(kept));
    }
    if waits {
        return Ok(None);
    }
    let class = claim_class(claim).unwrap_or_default();
    let free = fitting.into_iter().filter(|volume| {
        volume_phase(volume) == "Available"
            && volume_class(volume) == class
            && selector.as_ref().is_none_or(|selector| selector.matches(volume.metadata.labels.as_ref()))
    });
    // One that can do no more than is asked for comes first.
    Ok(free.min_by_key(|volume| (volume_modes(volume).len(), capacity(volume), volume.name_any())))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::volume::plan::examples::{claim, volume};

    #[test]
    fn the_smallest_that_fits_is_chosen() {
        let volumes = [
            volume("large", json!({ "capacity": { "storage": "10Gi" } })),
            volume("small", json!({ "capacity": { "storage": "1Gi" } })),
            volume("shared", json!({ "accessModes": ["ReadWriteOnce", "ReadWriteMany"] })),
            volume("device", json!({ "volumeMode": "Block" })),
            volume("fast", json!({ "storageClassName": "fast" })),
            volume("taken", json!({ "claimRef": { "namespace": "default", "name": "other" } })),
        ];
        let check = |change: Value, waits: bool, expected: Option<&str>| {
            let claim = claim("data", change.clone());
            let found = best(&claim, &volumes, waits).unwrap().map(|volume| volume.name_any());
            assert_eq!(found.as_deref(), expected, "{change}");
        };
        let sized = |size: &str| json!({ "resources": { "requests": { "storage": size } } });
        check(sized("1Gi"), false, Some("small"));
        check(sized("1Gi"), true, None);
        check(sized("2Gi"), false, Some("large"));
        check(sized("20Gi"), false, None);
        check(json!({ "accessModes": ["ReadWriteMany"] }), false, Some("shared"));
        check(json!({ "accessModes": ["ReadOnlyMany"] }), false, None);
        check(json!({ "volumeMode": "Block" }), false, Some("device"));
        check(json!({ "storageClassName": "fast" }), false, Some("fast"));
        check(json!({ "storageClassName": "slow" }), false, None);
        check(json!({ "selector": { "matchLabels": { "disk": "large" } } }), false, Some("large"));
        check(json!({ "selector": { "matchLabels": { "disk": "none" } } }), false, None);
    }

    #[test]
    fn what_is_kept_for_a_claim_is_its_even_while_it_waits() {
        let kept = json!({ "claimRef": { "namespace": "default", "name": "data" },
            "capacity": { "storage": "9Gi" }, "storageClassName": "other" });
        let other = json!({ "claimRef": { "namespace": "default", "name": "data", "uid": "another" } });
        let volumes = [volume("small", json!({})), volume("was", other), volume("kept", kept)];
        let claim = claim("data", json!({}));
        for waits in [false, true] {
            assert_eq!(best(&claim, &volumes, waits).unwrap().unwrap().name_any(), "kept");
        }
    }

    #[test]
    fn why_a_volume_is_refused() {
        for (change, expected) in [
            (json!({}), None),
            (json!({ "capacity": { "storage": "1Mi" } }), Some("requested PV is too small")),
            (json!({ "storageClassName": "x" }), Some("storageClassName does not match")),
            (json!({ "volumeMode": "Block" }), Some("incompatible volumeMode")),
            (json!({ "accessModes": ["ReadOnlyMany"] }), Some("incompatible accessMode")),
        ] {
            let refused = refuse(&volume("v", change), &claim("data", json!({})));
            assert_eq!(refused.as_deref(), expected);
        }
    }
}
