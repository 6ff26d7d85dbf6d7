//! The cells of volumes, of claims, and of what provides them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE_COLUMN, Column, age, column, count, items, shown, text, wide};
use crate::object;

pub(in crate::kinds) const PERSISTENT_VOLUME: &[Column] = &[
    text("Capacity", "The persistent volume's resources and capacity."),
    text("Access Modes", "All ways in which the volume can be mounted."),
    text("Reclaim Policy", "What happens to a persistent volume when released from its claim."),
    text("Status", "Whether a volume is available, bound to a claim, or released by a claim."),
    text("Claim", "The claim that the volume is bound to."),
    text("StorageClass", "StorageClass of the pv"),
    text("VolumeAttributesClass", "VolumeAttributesClass of the pv"),
    text("Reason", "Why the volume is in this state."),
    AGE_COLUMN,
    wide("VolumeMode", "Whether the volume has a file system or is a raw block device."),
];

pub(in crate::kinds) const PERSISTENT_VOLUME_CLAIM: &[Column] = &[
    text("Status", "The current phase of the claim."),
    text("Volume", "The volume that backs this claim."),
    text("Capacity", "The actual resources of the underlying volume."),
    text("Access Modes", "The access modes that the volume backing the claim has."),
    text("StorageClass", "StorageClass of the pvc"),
    text("VolumeAttributesClass", "VolumeAttributesClass of the pvc"),
    AGE_COLUMN,
    wide("VolumeMode", "The type of volume that is required by the claim."),
];

pub(in crate::kinds) const STORAGE_CLASS: &[Column] = &[
    text("Provisioner", "The type of the provisioner."),
    text("ReclaimPolicy", "The reclaim policy of volumes that are made for this class."),
    text("VolumeBindingMode", "When claims are provisioned and bound."),
    text("AllowVolumeExpansion", "Whether the storage class allows volumes to grow."),
    AGE_COLUMN,
];

pub(in crate::kinds) const VOLUME_ATTRIBUTES_CLASS: &[Column] =
    &[text("DriverName", "Name of the CSI driver."), AGE_COLUMN];

pub(in crate::kinds) const VOLUME_ATTACHMENT: &[Column] = &[
    text("Attacher", "The name of the volume driver that must handle this request."),
    text("PV", "The name of the persistent volume to attach."),
    text("Node", "The node that the volume should be attached to."),
    column("Attached", "boolean", "Whether the volume is successfully attached."),
    AGE_COLUMN,
];

pub(in crate::kinds) const CSI_NODE: &[Column] =
    &[count("Drivers", "Drivers indicates the number of CSI drivers registered on the node"), AGE_COLUMN];

pub(in crate::kinds) const CSI_DRIVER: &[Column] = &[
    column("AttachRequired", "boolean", "Whether the driver requires an attach operation."),
    column("PodInfoOnMount", "boolean", "Whether the driver requires information about the pod on mount."),
    column(
        "StorageCapacity",
        "boolean",
        "Whether the scheduler considers the capacity that the driver reports.",
    ),
    text("TokenRequests", "The service account tokens that the driver needs."),
    column("RequiresRepublish", "boolean", "Whether the driver wants to be called again periodically."),
    text("Modes", "What kinds of volumes the driver supports."),
    AGE_COLUMN,
];

pub(in crate::kinds) const CSI_STORAGE_CAPACITY: &[Column] = &[
    text("StorageClassName", "The StorageClass that the reported capacity applies to."),
    text("Capacity", "The available capacity, in bytes."),
];

/// "RWO,ROX", each once and in the reference's order.
fn access_modes(object: &Value, path: &[&str]) -> String {
    let modes = items(object, path);
    let known = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let found: Vec<&str> = known
        .iter()
        .filter(|(mode, _)| modes.iter().any(|one| one == mode))
        .map(|(_, short)| *short)
        .collect();
    found.join(",")
}

fn phase(object: &Value) -> Value {
    if object::is_terminating(object) {
        return json!("Terminating");
    }
    json!(object::text(object, &["status", "phase"]))
}

/// The class of a volume or claim, which was an annotation once.
fn class(object: &Value) -> Value {
    let annotation =
        object::at(object, &["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]);
    json!(annotation.as_str().unwrap_or_else(|| object::text(object, &["spec", "storageClassName"])))
}

pub(in crate::kinds) fn persistent_volume(volume: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &volume["spec"];
    let claim = &spec["claimRef"];
    let claimed = claim
        .is_object()
        .then(|| format!("{}/{}", object::text(claim, &["namespace"]), object::text(claim, &["name"])));
    vec![
        json!(object::name(volume)),
        json!(shown(object::at(spec, &["capacity", "storage"]), "0")),
        json!(access_modes(volume, &["spec", "accessModes"])),
        json!(object::text(spec, &["persistentVolumeReclaimPolicy"])),
        phase(volume),
        json!(claimed.unwrap_or_default()),
        class(volume),
        json!(shown(&spec["volumeAttributesClassName"], "<unset>")),
        json!(object::text(volume, &["status", "reason"])),
        age(volume, now),
        json!(shown(&spec["volumeMode"], "<unset>")),
    ]
}

pub(in crate::kinds) fn persistent_volume_claim(claim: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &claim["spec"];
    let volume = object::text(spec, &["volumeName"]);
    let (capacity, modes) = if volume.is_empty() {
        (String::new(), String::new())
    } else {
        (
            shown(object::at(claim, &["status", "capacity", "storage"]), "0"),
            access_modes(claim, &["status", "accessModes"]),
        )
    };
    vec![
        json!(object::name(claim)),
        phase(claim),
        json!(volume),
        json!(capacity),
        json!(modes),
        class(claim),
        json!(shown(&spec["volumeAttributesClassName"], "<unset>")),
        age(claim, now),
        json!(shown(&spec["volumeMode"], "<unset>")),
    ]
}

fn name_of_class(object: &Value, annotations: &[&str]) -> Value {
    let is_default = annotations
        .iter()
        .any(|annotation| *object::at(object, &["metadata", "annotations", annotation]) == "true");
    json!(format!("{}{}", object::name(object), if is_default { " (default)" } else { "" }))
}

pub(in crate::kinds) fn storage_class(class: &Value, now: Timestamp) -> Vec<Value> {
    let name = name_of_class(
        class,
        &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"],
    );
    vec![
        name,
        json!(object::text(class, &["provisioner"])),
        json!(shown(&class["reclaimPolicy"], "Delete")),
        json!(shown(&class["volumeBindingMode"], "Immediate")),
        json!(class["allowVolumeExpansion"] == true),
        age(class, now),
    ]
}

pub(in crate::kinds) fn volume_attributes_class(class: &Value, now: Timestamp) -> Vec<Value> {
    let name = name_of_class(class, &["volumeattributesclass.alpha.kubernetes.io/is-default-class"]);
    vec![name, json!(object::text(class, &["driverName"])), age(class, now)]
}

pub(in crate::kinds) fn volume_attachment(attachment: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &attachment["spec"];
    vec![
        json!(object::name(attachment)),
        json!(object::text(spec, &["attacher"])),
        json!(object::text(spec, &["source", "persistentVolumeName"])),
        json!(object::text(spec, &["nodeName"])),
        json!(*object::at(attachment, &["status", "attached"]) == true),
        age(attachment, now),
    ]
}

pub(in crate::kinds) fn csi_node(node: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(node)), json!(items(node, &["spec", "drivers"]).len()), age(node, now)]
}

pub(in crate::kinds) fn csi_driver(driver: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &driver["spec"];
    let or_true = |field: &str| json!(spec[field].as_bool().unwrap_or(true));
    let list = |field: &str, inner: &str, none: &str| {
        let texts: Vec<&str> = items(spec, &[field])
            .iter()
            .map(|item| if inner.is_empty() { item } else { &item[inner] }.as_str().unwrap_or_default())
            .collect();
        if texts.is_empty() { none.to_owned() } else { texts.join(",") }
    };
    vec![
        json!(object::name(driver)),
        or_true("attachRequired"),
        json!(spec["podInfoOnMount"] == true),
        json!(spec["storageCapacity"] == true),
        json!(list("tokenRequests", "audience", "<unset>")),
        json!(spec["requiresRepublish"] == true),
        json!(list("volumeLifecycleModes", "", "<none>")),
        age(driver, now),
    ]
}

pub(in crate::kinds) fn csi_storage_capacity(capacity: &Value, _now: Timestamp) -> Vec<Value> {
    vec![
        json!(object::name(capacity)),
        json!(object::text(capacity, &["storageClassName"])),
        json!(shown(&capacity["capacity"], "<unset>")),
    ]
}
