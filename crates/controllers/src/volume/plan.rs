//! What is to be done about a claim and about a volume, from what is known of both. It writes nothing.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt as _;

use super::{
    BOUND, BY_CONTROLLER, PROVISIONED_BY, SELECTED_NODE, annotation, claim_uid, is_for, matching,
    volume_name, volume_phase,
};
use crate::events::Severity;
use crate::owner;

/// Something to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) severity: Severity,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Note {
    pub(super) fn normal(reason: &'static str, message: impl Into<String>) -> Note {
        Note { severity: Severity::Normal, reason, message: message.into() }
    }

    pub(super) fn warning(reason: &'static str, message: impl Into<String>) -> Note {
        Note { severity: Severity::Warning, reason, message: message.into() }
    }
}

/// What is to be done about a claim.
#[derive(Debug, Clone)]
pub(super) enum ClaimStep {
    /// The two belong together: what is not yet written of it is written.
    Bind(Arc<PersistentVolume>),
    /// Nothing is there for it yet, and it may be told why.
    Wait(Option<Note>),
    /// No volume fits and nobody was waited for: a default class, a provisioner or at least a pod is needed.
    Provide,
    /// What it had is gone.
    Lost(Note),
}

/// What is known beside a claim.
pub(super) struct Known<'a> {
    /// The volume that it names, if it names one that is there.
    pub(super) named: Option<Arc<PersistentVolume>>,
    /// All volumes; asked for only where the claim names none.
    pub(super) volumes: &'a (dyn Fn() -> Vec<Arc<PersistentVolume>> + Sync),
    /// Whether its class waits for the first pod.
    pub(super) waits: bool,
}

pub(super) fn claim_step(claim: &PersistentVolumeClaim, known: &Known<'_>) -> ClaimStep {
    let name = volume_name(claim);
    if annotation(claim, BOUND).is_some() {
        return bound_claim(claim, name, known);
    }
    if name.is_empty() {
        return match matching::best(claim, &(known.volumes)(), known.waits) {
            Ok(Some(volume)) => ClaimStep::Bind(volume.clone()),
            Ok(None) => ClaimStep::Provide,
            Err(wrong) => ClaimStep::Wait(Some(Note::warning("FailedBinding", wrong))),
        };
    }
    let Some(volume) = known.named.clone() else { return ClaimStep::Wait(None) };
    if is_for(&volume, claim) {
        return ClaimStep::Bind(volume);
    }
    if volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some()) {
        let message = format!("volume {name:?} already bound to a different claim.");
        return ClaimStep::Wait(Some(Note::warning("FailedBinding", message)));
    }
    match matching::refuse(&volume, claim) {
        None => ClaimStep::Bind(volume),
        Some(why) => {
            let message = format!("Cannot bind to requested volume {name:?}: {why}");
            ClaimStep::Wait(Some(Note::warning("VolumeMismatch", message)))
        }
    }
}

fn bound_claim(claim: &PersistentVolumeClaim, name: &str, known: &Known<'_>) -> ClaimStep {
    let lost = |message: &str| ClaimStep::Lost(Note::warning("ClaimLost", message));
    if name.is_empty() {
        return lost("Bound claim has lost reference to PersistentVolume. Data on the volume is lost!");
    }
    let Some(volume) = known.named.clone() else {
        return lost("Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    let is_free = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none());
    if is_free || claim_uid(&volume) == owner::uid(claim) {
        return ClaimStep::Bind(volume);
    }
    let message = "Two claims are bound to the same volume, this one is bound incorrectly";
    ClaimStep::Lost(Note::warning("ClaimMisbound", message))
}

/// What is to be done about a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum VolumeStep {
    /// It has this phase.
    Phase(&'static str),
    /// Its claim has no volume yet: that one is to be looked at.
    AskClaim,
    /// It cannot be what its claim asks for.
    Mismatch,
    /// Its claim is gone: it is released, and then reclaimed.
    Reclaim,
    /// Its claim has another volume: it is free again.
    Unbind,
}

/// `claim` is the one of the name that the volume tells, if there is one.
pub(super) fn volume_step(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> VolumeStep {
    if volume.spec.as_ref().is_none_or(|spec| spec.claim_ref.is_none()) || claim_uid(volume).is_empty() {
        // One that is kept for a claim is available until the claim comes.
        return VolumeStep::Phase("Available");
    }
    let Some(claim) = claim.filter(|claim| owner::uid(*claim) == claim_uid(volume)) else {
        return VolumeStep::Reclaim;
    };
    let has = volume_name(claim);
    if has.is_empty() {
        return if matching::same_form(volume, claim) { VolumeStep::AskClaim } else { VolumeStep::Mismatch };
    }
    if volume.metadata.name.as_deref() == Some(has) {
        return VolumeStep::Phase("Bound");
    }
    // What was made for a claim that needs it no more is of no use to others.
    if annotation(volume, PROVISIONED_BY).is_some() && policy(volume) == "Delete" {
        return VolumeStep::Reclaim;
    }
    VolumeStep::Unbind
}

/// What becomes of a volume without its claim.
pub(super) fn policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}

/// Whether its claim is known to be gone.
pub(super) fn is_released(volume: &PersistentVolume) -> bool {
    matches!(volume_phase(volume), "Released" | "Failed")
}

/// Why reclaiming a volume fails, if this controller is who should do it.
pub(super) fn cannot_reclaim(volume: &PersistentVolume) -> Option<Note> {
    let made_by = annotation(volume, PROVISIONED_BY).unwrap_or_default();
    match policy(volume) {
        "Retain" => None,
        "Delete" if !made_by.is_empty() && !made_by.starts_with("kubernetes.io/") => None,
        "Delete" => Some(Note::warning(
            "VolumeFailedDelete",
            format!(
                "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
                volume.name_any()
            ),
        )),
        "Recycle" => Some(Note::warning("VolumeFailedRecycle", "No recycler plugin found for the volume!")),
        _ => Some(Note::warning(
            "VolumeUnknownReclaimPolicy",
            "Volume has unrecognized PersistentVolumeReclaimPolicy",
        )),
    }
}

/// Whether a claim is not even looked at by a provisioner: the scheduler has not chosen a node for its first pod.
pub(super) fn waits_for_scheduler(claim: &PersistentVolumeClaim, waits: bool) -> bool {
    waits && annotation(claim, SELECTED_NODE).is_none()
}

/// Whether this controller bound a volume, so that it may be given to others.
pub(super) fn was_chosen(volume: &PersistentVolume) -> bool {
    annotation(volume, BY_CONTROLLER).is_some()
}

/// Claims and volumes for the tests of what is decided about them.
#[cfg(test)]
pub(super) mod examples {
    use serde_json::{Value, json};

    use super::*;

    fn merged(base: Value, change: Value) -> Value {
        let (Value::Object(mut base), Value::Object(change)) = (base, change) else { unreachable!() };
        base.extend(change);
        Value::Object(base)
    }

    /// A volume of four gibibytes that is free.
    pub(crate) fn volume(name: &str, spec: Value) -> Arc<PersistentVolume> {
        let base = json!({
            "capacity": { "storage": "4Gi" }, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": { "path": "/x" },
        });
        let volume = json!({ "metadata": { "name": name, "uid": name, "labels": { "disk": name } },
            "spec": merged(base, spec), "status": { "phase": "Available" } });
        serde_json::from_value(volume).unwrap()
    }

    /// A claim of a gibibyte without a class.
    pub(crate) fn claim(name: &str, spec: Value) -> PersistentVolumeClaim {
        let base = json!({
            "accessModes": ["ReadWriteOnce"], "storageClassName": "",
            "resources": { "requests": { "storage": "1Gi" } },
        });
        let claim = json!({ "metadata": { "name": name, "namespace": "default", "uid": "1" },
            "spec": merged(base, spec) });
        serde_json::from_value(claim).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::examples::{claim, volume};
    use super::*;

    fn of(uid: &str) -> Value {
        json!({ "claimRef": { "namespace": "default", "name": "data", "uid": uid } })
    }

    #[test]
    fn a_claim_gets_what_it_names_or_is_told_why_not() {
        let check = |spec: Value, bound: bool, volumes: &[Arc<PersistentVolume>], expected: &str| {
            let mut claim = claim("data", spec);
            if bound {
                claim.metadata.annotations = Some([(BOUND.to_owned(), "yes".to_owned())].into());
            }
            let named = volumes.iter().find(|volume| volume.name_any() == volume_name(&claim)).cloned();
            let known = Known { named, volumes: &|| volumes.to_vec(), waits: false };
            let found = match claim_step(&claim, &known) {
                ClaimStep::Bind(volume) => format!("bind {}", volume.name_any()),
                ClaimStep::Wait(note) => format!("wait {}", note.map_or("", |note| note.reason)),
                ClaimStep::Provide => "provide".to_owned(),
                ClaimStep::Lost(note) => note.reason.to_owned(),
            };
            assert_eq!(found, expected);
        };
        let named = || json!({ "volumeName": "v" });
        check(json!({}), false, &[], "provide");
        check(named(), false, &[], "wait ");
        check(named(), false, &[volume("v", json!({}))], "bind v");
        check(named(), false, &[volume("v", json!({ "storageClassName": "x" }))], "wait VolumeMismatch");
        check(named(), false, &[volume("v", of("2"))], "wait FailedBinding");
        check(named(), false, &[volume("v", of("1"))], "bind v");
        check(json!({}), true, &[], "ClaimLost");
        check(named(), true, &[], "ClaimLost");
        check(named(), true, &[volume("v", of("2"))], "ClaimMisbound");
        check(named(), true, &[volume("v", json!({}))], "bind v");
    }

    #[test]
    fn a_volume_follows_its_claim() {
        let with = |volume: &Arc<PersistentVolume>, annotations: &[&str]| {
            let mut volume = (**volume).clone();
            let annotations = annotations.iter().map(|name| ((*name).to_owned(), "x".to_owned()));
            volume.metadata.annotations = Some(annotations.collect());
            volume
        };
        let check = |volume: &PersistentVolume, claim: Option<Value>, expected: VolumeStep| {
            let claim = claim.map(|spec| examples::claim("data", spec));
            assert_eq!(volume_step(volume, claim.as_ref()), expected);
        };
        check(&volume("v", json!({})), None, VolumeStep::Phase("Available"));
        check(&volume("v", of("")), Some(json!({})), VolumeStep::Phase("Available"));
        check(&volume("v", of("1")), None, VolumeStep::Reclaim);
        check(&volume("v", of("2")), Some(json!({})), VolumeStep::Reclaim);
        check(&volume("v", of("1")), Some(json!({})), VolumeStep::AskClaim);
        check(&volume("v", of("1")), Some(json!({ "volumeMode": "Block" })), VolumeStep::Mismatch);
        check(&volume("v", of("1")), Some(json!({ "volumeName": "v" })), VolumeStep::Phase("Bound"));
        let elsewhere = || Some(json!({ "volumeName": "w" }));
        check(&volume("v", of("1")), elsewhere(), VolumeStep::Unbind);
        let mut spec = of("1");
        spec["persistentVolumeReclaimPolicy"] = json!("Delete");
        check(&with(&volume("v", spec), &[PROVISIONED_BY]), elsewhere(), VolumeStep::Reclaim);
    }
}
