//! DefaultStorageClass, StorageObjectInUseProtection and PersistentVolumeClaimResize: claims get the default class,
//! volumes and claims stay while they are in use, and claims grow only where their class lets them.

use dray_machinery::{Status, object, quantity::Quantity};
use serde_json::{Value, json};

use super::{Admission, Operation};

const IS_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
const WAS_DEFAULT: &str = "storageclass.beta.kubernetes.io/is-default-class";
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const CLASSES: &str = "storage.k8s.io/storageclasses";

pub(super) fn set_class(admission: &Admission<'_>, claim: &mut Value) -> Result<(), Status> {
    if !admission.creates("", "persistentvolumeclaims") || !claim["spec"].is_object() {
        return Ok(());
    }
    let annotated = claim["metadata"]["annotations"][CLASS].is_string();
    // An empty class is a choice, too.
    if annotated || claim["spec"]["storageClassName"].is_string() {
        return Ok(());
    }
    let classes = admission.all(CLASSES, "")?;
    let defaults = classes.iter().filter(|class| {
        let annotations = &class["metadata"]["annotations"];
        annotations[IS_DEFAULT] == "true" || annotations[WAS_DEFAULT] == "true"
    });
    // Of several, the newest; of those of one second, the first by name.
    let chosen = defaults.max_by(|a, b| {
        let made = |class: &Value| object::meta(class, "creationTimestamp").to_owned();
        made(a).cmp(&made(b)).then_with(|| object::name(b).cmp(object::name(a)))
    });
    if let Some(class) = chosen {
        claim["spec"]["storageClassName"] = json!(object::name(class));
    }
    Ok(())
}

pub(super) fn protect(admission: &Admission<'_>, object: &mut Value) -> Result<(), Status> {
    let finalizer = if admission.creates("", "persistentvolumes") {
        "kubernetes.io/pv-protection"
    } else if admission.creates("", "persistentvolumeclaims") {
        "kubernetes.io/pvc-protection"
    } else {
        return Ok(());
    };
    if !object::has_finalizer(object, finalizer) {
        let mut all = object::meta_list(object, "finalizers").to_vec();
        all.push(json!(finalizer));
        object::meta_mut(object).insert("finalizers".to_owned(), json!(all));
    }
    Ok(())
}

pub(super) fn check_resize(admission: &Admission<'_>, claim: &Value) -> Result<(), Status> {
    if admission.operation != Operation::Update || !admission.is("", "persistentvolumeclaims") {
        return Ok(());
    }
    let size = |claim: &Value| -> Option<Quantity> {
        object::text(claim, &["spec", "resources", "requests", "storage"]).parse().ok()
    };
    let (Some(before), Some(after)) = (size(admission.old), size(claim)) else { return Ok(()) };
    if after <= before {
        return Ok(());
    }
    if object::text(admission.old, &["status", "phase"]) != "Bound" {
        return Err(admission.forbidden("Only bound persistent volume claims can be expanded"));
    }
    let class = object::text(claim, &["spec", "storageClassName"]);
    let grows = admission.stored(CLASSES, class)?.is_some_and(|class| class["allowVolumeExpansion"] == true);
    if grows {
        return Ok(());
    }
    Err(admission.forbidden(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    ))
}
