//! Persistent volumes and claims for them.

use serde_json::{Value, json};

use super::{
    Subresource,
    field::Field,
    fill::{default_text, default_value},
    pod::{scheduling, volumes},
};
use crate::{FieldErrors, names, object, quantity::Quantity};

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// What is not a source of a persistent volume.
const NOT_SOURCES: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

pub(super) fn prepare_pending(object: &mut Value) {
    object["status"] = json!({ "phase": "Pending" });
}

fn default_phase(object: &mut Value) {
    if object["status"].is_null() {
        object["status"] = json!({});
    }
    default_text(&mut object["status"], "phase", "Pending");
}

pub(super) fn default_volume(volume: &mut Value) {
    default_phase(volume);
    let Some(spec) = volume.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
    default_value(spec, "volumeMode", json!("Filesystem"));
    volumes::default_source(spec);
}

pub(super) fn default_claim(claim: &mut Value) {
    default_phase(claim);
    let Some(spec) = claim.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    default_value(spec, "volumeMode", json!("Filesystem"));
    default_value(spec, "resources", json!({}));
    // Two names of one field, of which the newer can name other namespaces.
    let (old, new) = (spec["dataSource"].clone(), spec["dataSourceRef"].clone());
    if old.is_object() && new.is_null() {
        spec["dataSourceRef"] = old;
    } else if old.is_null() && new.is_object() && object::text(&new, &["namespace"]).is_empty() {
        spec["dataSource"] = new;
        object::remove(&mut spec["dataSource"], "namespace");
    }
}

fn access_modes(modes: &Field<'_>, errors: &mut FieldErrors) {
    let mut known = Vec::new();
    for mode in modes.texts() {
        if ACCESS_MODES.contains(&mode) {
            known.push(mode);
        } else {
            errors.not_supported(modes.path(), mode, ACCESS_MODES);
        }
    }
    if known.contains(&"ReadWriteOncePod") && known.iter().any(|mode| *mode != "ReadWriteOncePod") {
        modes.forbidden("may not use ReadWriteOncePod with other access modes", errors);
    }
}

fn positive(field: &Field<'_>, errors: &mut FieldErrors) {
    if field.quantity().is_some_and(|quantity| quantity <= Quantity::from_units(0)) {
        field.invalid("must be greater than zero", errors);
    }
}

pub(super) fn validate_volume(volume: &Value, errors: &mut FieldErrors) {
    validate_volume_spec(&Field::root(volume).get("spec"), object::name(volume), errors);
}

fn validate_volume_spec(spec: &Field<'_>, name: &str, errors: &mut FieldErrors) {
    spec.get("accessModes").needed(errors);
    access_modes(&spec.get("accessModes"), errors);
    let capacity = spec.get("capacity");
    capacity.needed(errors);
    if !capacity.get("storage").is_set() || capacity.count() > 1 {
        let shown = if capacity.is_set() { capacity.value().clone() } else { json!({}) };
        errors.not_supported(capacity.path(), shown, &["storage"]);
    }
    for (_, amount) in capacity.entries() {
        positive(&amount, errors);
    }
    let policy = spec.get("persistentVolumeReclaimPolicy");
    policy.one_of(&["Delete", "Recycle", "Retain"], errors);
    let nodes = spec.get("nodeAffinity");
    if nodes.is_set() {
        node_affinity(&nodes, errors);
    }
    validate_source(spec, name, errors);
    let path = spec.at(&["hostPath", "path"]);
    if policy.text() == "Recycle"
        && !path.is_empty()
        && path.text().split('/').all(|part| matches!(part, "" | "."))
    {
        policy.forbidden("may not be 'recycle' for a hostPath mount of '/'", errors);
    }
    spec.get("storageClassName").named(names::subdomain, errors);
    spec.get("volumeMode").one_of(VOLUME_MODES, errors);
    let class = spec.get("volumeAttributesClassName");
    if class.is_set() {
        if class.is_empty() {
            class.required("an empty string is disallowed", errors);
        } else {
            class.ruled(names::subdomain, errors);
        }
        if !spec.get("csi").is_set() {
            spec.get("csi").required("has to be specified when using volumeAttributesClassName", errors);
        }
    }
}

fn node_affinity(nodes: &Field<'_>, errors: &mut FieldErrors) {
    let required = nodes.get("required");
    if required.is_set() {
        scheduling::node_selector(&required, errors);
    } else {
        required.required("must specify required node constraints", errors);
    }
}

fn validate_source(spec: &Field<'_>, name: &str, errors: &mut FieldErrors) {
    let sources = [volumes::SHARED, &[("local", &["path"][..])]].concat();
    volumes::one_source(
        spec,
        &sources,
        |kind, source, errors| match kind {
            "local" => {
                source.get("path").stays_inside(errors);
                if !spec.at(&["nodeAffinity", "required"]).is_set() {
                    spec.get("nodeAffinity").required("Local volume requires node affinity", errors);
                }
            }
            "csi" => {
                source.get("volumeHandle").needed(errors);
                for secret in
                    ["controllerPublish", "controllerExpand", "nodePublish", "nodeExpand", "nodeStage"]
                {
                    let secret = source.get(&format!("{secret}SecretRef"));
                    if secret.is_set() {
                        secret.get("name").needs_name(names::subdomain, errors);
                        secret.get("namespace").needs_name(names::label, errors);
                    }
                }
            }
            "cinder" | "storageos" => {
                let secret = source.get("secretRef");
                if secret.is_set() {
                    secret.get("namespace").needed(errors);
                }
            }
            "iscsi" => {
                let portal = source.get("targetPortal");
                if source.get("initiatorName").is_set() && name.len() + 1 + portal.text().len() > 64 {
                    errors.invalid(
                        format!("{}.targetportal", source.path()),
                        portal.text(),
                        "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if \
                         iscsi.initiatorName is specified.",
                    );
                }
            }
            _ => {}
        },
        errors,
    );
}

/// A volume within an attachment has a driver, and nothing that binds it.
pub(super) fn validate_inline(spec: &Field<'_>, errors: &mut FieldErrors) {
    const INLINE: &str = "may not be specified in the context of inline volumes";
    for field in ["claimRef", "capacity", "nodeAffinity", "storageClassName"] {
        if !spec.get(field).is_empty() {
            spec.get(field).forbidden(INLINE, errors);
        }
    }
    if !spec.get("csi").is_set() {
        spec.get("csi").required("has to be specified in the context of inline volumes", errors);
    }
    spec.get("accessModes").needed(errors);
    access_modes(&spec.get("accessModes"), errors);
    validate_source(spec, "", errors);
}

pub(super) fn validate_volume_update(volume: &Value, old: &Value, errors: &mut FieldErrors) {
    let source = |volume: &Value| {
        let mut source = volume["spec"].clone();
        for field in NOT_SOURCES {
            object::remove(&mut source, field);
        }
        source
    };
    let (mut new, was) = (source(volume), source(old));
    if was["csi"].is_object() && new["csi"].is_object() && was["csi"]["controllerExpandSecretRef"].is_null() {
        object::remove(&mut new["csi"], "controllerExpandSecretRef");
    }
    if new != was {
        errors.forbidden(
            "spec.persistentvolumesource",
            "spec.persistentvolumesource is immutable after creation",
        );
    }
    let (spec, was) = (&volume["spec"], &old["spec"]);
    Field::new(&spec["volumeMode"], "volumeMode").unchanged(&Field::root(&was["volumeMode"]), errors);
    if was["nodeAffinity"].is_object() {
        Field::new(&spec["nodeAffinity"], "nodeAffinity")
            .unchanged(&Field::root(&was["nodeAffinity"]), errors);
    }
    if was["volumeAttributesClassName"].is_string() && spec["volumeAttributesClassName"].is_null() {
        errors.forbidden("spec.volumeAttributesClassName", "update from non-nil value to nil is forbidden");
    }
}

pub(super) fn validate_claim(claim: &Value, errors: &mut FieldErrors) {
    validate_claim_spec(&Field::root(claim).get("spec"), errors);
}

/// A claim that is made together with what uses it: it has labels, annotations and nothing else of its own.
pub(super) fn validate_claim_template(template: &Field<'_>, errors: &mut FieldErrors) {
    let metadata = template.get("metadata");
    metadata.get("labels").labels(errors);
    for (key, _) in metadata.entries() {
        let field = metadata.get(key);
        if !matches!(key, "labels" | "annotations") && !field.is_empty() {
            field.forbidden("cannot be set", errors);
        }
    }
    validate_claim_spec(&template.get("spec"), errors);
}

fn validate_claim_spec(spec: &Field<'_>, errors: &mut FieldErrors) {
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        modes.required("at least 1 access mode is required", errors);
    }
    spec.get("selector").selector(errors);
    access_modes(&modes, errors);
    let storage = spec.at(&["resources", "requests", "storage"]);
    let storage = Field::new(storage.value(), format!("{}.resources[storage]", spec.path()));
    storage.needed(errors);
    positive(&storage, errors);
    spec.get("storageClassName").named(names::subdomain, errors);
    spec.get("volumeMode").one_of(VOLUME_MODES, errors);
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    for source in [&source, &reference] {
        if source.is_set() {
            data_source(source, errors);
        }
    }
    if source.is_set() && reference.is_set() {
        let differs =
            ["apiGroup", "kind", "name"].iter().any(|name| source.value()[*name] != reference.value()[*name]);
        if !reference.get("namespace").is_empty() {
            errors.invalid(
                spec.path(),
                source.path(),
                "may not be specified when dataSourceRef.namespace is specified",
            );
        } else if differs {
            errors.invalid(spec.path(), source.path(), "must match dataSourceRef");
        }
    }
    spec.get("volumeAttributesClassName").named(names::subdomain, errors);
}

fn data_source(source: &Field<'_>, errors: &mut FieldErrors) {
    source.get("name").needed(errors);
    source.get("kind").needed(errors);
    let group = source.get("apiGroup");
    if group.is_empty() && source.get("kind").text() != "PersistentVolumeClaim" {
        errors.invalid(
            source.path(),
            source.get("kind").text(),
            "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
        );
    }
    group.named(names::subdomain, errors);
    source.get("namespace").named(names::label, errors);
}

pub(super) fn validate_claim_update(claim: &Value, old: &Value, errors: &mut FieldErrors) {
    let (spec, was) = (&claim["spec"], &old["spec"]);
    let (mut new, mut before) = (spec.clone(), was.clone());
    // The volume is given once.
    if object::text(was, &["volumeName"]).is_empty() {
        object::copy_field(spec, &mut before, "volumeName");
    }
    // So is the class, where there was none.
    if was["storageClassName"].is_null() {
        object::copy_field(spec, &mut before, "storageClassName");
    }
    let bound = *object::at(claim, &["status", "phase"]) == "Bound";
    if bound && object::at(&new, &["resources", "requests"]).is_object() {
        let size = object::at(was, &["resources", "requests", "storage"]);
        new["resources"]["requests"]["storage"] = size.clone();
    }
    object::copy_field(was, &mut new, "volumeAttributesClassName");
    if new != before {
        errors.forbidden(
            "spec",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    }
    let size = |path: &[&str], object: &Value| super::field::quantity(object::at(object, path));
    let requested = ["spec", "resources", "requests", "storage"];
    let smaller = size(&requested, claim).zip(size(&requested, old)).is_some_and(|(new, old)| new < old);
    let have = size(&["status", "capacity", "storage"], old).unwrap_or(Quantity::from_units(0));
    if smaller && size(&requested, claim).is_some_and(|new| new <= have) {
        errors.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity");
    }
    Field::new(&spec["volumeMode"], "volumeMode").unchanged(&Field::root(&was["volumeMode"]), errors);
    let annotation = |object: &Value| object::at(object, &["metadata", "annotations", BETA_CLASS]).clone();
    if annotation(claim) != annotation(old) {
        let path = format!("metadata.annotations[{BETA_CLASS}]");
        errors.invalid(path, annotation(claim), super::field::IMMUTABLE);
    }
    if was["volumeAttributesClassName"].is_string() {
        let text = match &spec["volumeAttributesClassName"] {
            Value::Null => "update from non-nil value to nil is forbidden",
            Value::String(text) if text.is_empty() => {
                "update from non-nil value to an empty string is forbidden"
            }
            _ => return,
        };
        errors.forbidden("spec.volumeAttributesClassName", text);
    }
}

pub(super) fn validate_claim_part(part: Subresource, claim: &Value, _old: &Value, errors: &mut FieldErrors) {
    if part != Subresource::Status {
        return;
    }
    let status = Field::root(claim).get("status");
    for name in ["capacity", "allocatedResources"] {
        for (_, amount) in status.get(name).entries() {
            amount.quantity_not_negative(errors);
        }
    }
    for condition in status.get("conditions").items() {
        condition.get("type").needed(errors);
        condition.get("status").needed(errors);
    }
}
