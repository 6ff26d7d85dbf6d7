//! What provides volumes: classes, drivers, and what they say of nodes.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Subresource,
    field::{Field, IMMUTABLE},
    fill::{default_text, default_value},
    volume,
};
use crate::{FieldErrors, names, object};

const MOST_PARAMETERS: usize = 512;
const MOST_PARAMETER_BYTES: usize = 256 * 1024;
const MOST_METADATA_BYTES: usize = 256 * 1024;
const LONGEST_MESSAGE: usize = 1024;
const LONGEST_NODE_ID: usize = 256;

pub(super) fn default_class(class: &mut Value) {
    default_text(class, "reclaimPolicy", "Delete");
    default_text(class, "volumeBindingMode", "Immediate");
}

pub(super) fn default_driver(driver: &mut Value) {
    let Some(spec) = driver.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    default_value(spec, "attachRequired", json!(true));
    for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        default_value(spec, field, json!(false));
    }
    default_text(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if spec["volumeLifecycleModes"].as_array().is_none_or(Vec::is_empty) {
        spec["volumeLifecycleModes"] = json!(["Persistent"]);
    }
}

fn provisioner(field: &Field<'_>, errors: &mut FieldErrors) {
    if field.is_empty() {
        return field.required("", errors);
    }
    for wrong in names::qualified(&field.text().to_lowercase()) {
        field.invalid(wrong, errors);
    }
}

/// The bytes of all keys and values of a map of texts.
fn size(map: &Field<'_>) -> usize {
    map.entries().map(|(key, value)| key.len() + value.text().len()).sum()
}

fn parameters(map: &Field<'_>, needed: bool, errors: &mut FieldErrors) {
    if map.count() > MOST_PARAMETERS {
        return errors.too_long(map.path(), MOST_PARAMETERS);
    }
    if map.entries().any(|(key, _)| key.is_empty()) {
        errors.invalid(map.path(), "", "field can not be empty.");
    }
    if size(map) > MOST_PARAMETER_BYTES {
        errors.too_long(map.path(), MOST_PARAMETER_BYTES);
    }
    if needed && map.is_empty() {
        map.required("must contain at least one key/value pair", errors);
    }
}

pub(super) fn validate_class(class: &Value, errors: &mut FieldErrors) {
    let root = Field::root(class);
    provisioner(&root.get("provisioner"), errors);
    parameters(&root.get("parameters"), false, errors);
    root.get("reclaimPolicy").one_of(&["Delete", "Retain"], errors);
    root.get("volumeBindingMode").needs_one_of(&["Immediate", "WaitForFirstConsumer"], errors);
    let mut seen: Vec<&Value> = Vec::new();
    for term in root.get("allowedTopologies").items() {
        let expressions = term.get("matchLabelExpressions");
        let mut keys = BTreeSet::new();
        for expression in expressions.items() {
            let (key, values) = (expression.get("key"), expression.get("values"));
            key.ruled(names::qualified, errors);
            if !keys.insert(key.text()) {
                errors.duplicate(key.path(), key.text());
            }
            values.needed(errors);
            values.unique("", errors);
        }
        if seen.contains(&expressions.value()) {
            errors.duplicate(expressions.path(), "");
        }
        seen.push(expressions.value());
    }
}

fn fixed(object: &Value, old: &Value, fields: &[&str], errors: &mut FieldErrors) {
    for field in fields {
        if object[*field] != old[*field] {
            errors.forbidden(*field, format!("updates to {field} are forbidden."));
        }
    }
}

pub(super) fn validate_class_update(class: &Value, old: &Value, errors: &mut FieldErrors) {
    fixed(class, old, &["parameters", "provisioner", "reclaimPolicy"], errors);
    Field::root(class).all_unchanged(&Field::root(old), &["volumeBindingMode"], errors);
}

pub(super) fn validate_attributes_class(class: &Value, errors: &mut FieldErrors) {
    let root = Field::root(class);
    provisioner(&root.get("driverName"), errors);
    parameters(&root.get("parameters"), true, errors);
}

pub(super) fn validate_attributes_class_update(class: &Value, old: &Value, errors: &mut FieldErrors) {
    fixed(class, old, &["driverName", "parameters"], errors);
}

pub(super) fn validate_attachment(attachment: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(attachment).get("spec");
    spec.get("attacher").needs_name(names::driver, errors);
    let source = spec.get("source");
    let (inline, name) = (source.get("inlineVolumeSpec"), source.get("persistentVolumeName"));
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (inline.is_set(), name.is_set()) {
        (false, false) => source.required(ONE, errors),
        (true, true) => source.forbidden(ONE, errors),
        (false, true) if name.is_empty() => {
            name.required("must specify non empty persistentVolumeName", errors)
        }
        (false, true) => name.ruled(names::subdomain, errors),
        (true, false) => volume::validate_inline(&inline, errors),
    }
    spec.get("nodeName").ruled(names::subdomain, errors);
}

pub(super) fn validate_attachment_update(attachment: &Value, old: &Value, errors: &mut FieldErrors) {
    Field::root(attachment).all_unchanged(&Field::root(old), &["spec"], errors);
}

pub(super) fn validate_attachment_part(
    part: Subresource,
    attachment: &Value,
    _old: &Value,
    errors: &mut FieldErrors,
) {
    if part != Subresource::Status {
        return;
    }
    let status = Field::root(attachment).get("status");
    let metadata = status.get("attachmentMetadata");
    if size(&metadata) > MOST_METADATA_BYTES {
        errors.too_long(metadata.path(), MOST_METADATA_BYTES);
    }
    for error in ["attachError", "detachError"] {
        status.get(error).get("message").longest(LONGEST_MESSAGE, errors);
        let code = status.get(error).get("errorCode");
        code.between(0, i64::from(i32::MAX), errors);
    }
}

pub(super) fn validate_node(node: &Value, errors: &mut FieldErrors) {
    let mut names_seen = BTreeSet::new();
    for driver in Field::root(node).at(&["spec", "drivers"]).items() {
        let (name, id) = (driver.get("name"), driver.get("nodeID"));
        name.needs_name(names::driver, errors);
        id.needed(errors);
        if id.text().len() > LONGEST_NODE_ID {
            id.invalid(format!("must be {LONGEST_NODE_ID} characters or less"), errors);
        }
        driver.at(&["allocatable", "count"]).not_negative(errors);
        if !names_seen.insert(name.text()) {
            name.duplicate(errors);
        }
        let mut keys = BTreeSet::new();
        for key in driver.get("topologyKeys").texts() {
            if key.is_empty() {
                driver.required("", errors);
            }
            if !keys.insert(key) {
                errors.duplicate(driver.path(), key);
            }
            for wrong in names::qualified(key) {
                errors.invalid(driver.path(), key, wrong);
            }
        }
    }
}

pub(super) fn validate_node_update(node: &Value, old: &Value, errors: &mut FieldErrors) {
    let known = object::at(old, &["spec", "drivers"]).as_array().map_or(&[][..], Vec::as_slice);
    for driver in Field::root(node).at(&["spec", "drivers"]).items() {
        let before = known.iter().find(|old| old["name"] == driver.value()["name"]);
        let plain = |driver: &Value| {
            let mut driver = driver.clone();
            object::remove(&mut driver, "allocatable");
            driver
        };
        if before.is_some_and(|before| plain(before) != plain(driver.value())) {
            errors.invalid("spec.drivers", driver.value().clone(), IMMUTABLE);
        }
    }
}

pub(super) fn validate_driver(driver: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(driver).get("spec");
    let attach = spec.get("attachRequired");
    Field::new(attach.value(), "spec.attachedRequired").needed(errors);
    spec.get("fsGroupPolicy").one_of(&["File", "None", "ReadWriteOnceWithFSType"], errors);
    let mut audiences = BTreeSet::new();
    for token in spec.get("tokenRequests").items() {
        let audience = token.get("audience");
        if !audiences.insert(audience.text()) {
            audience.duplicate(errors);
            continue;
        }
        let seconds = token.get("expirationSeconds");
        match seconds.number() {
            Some(number) if number < 600 => {
                seconds.invalid("may not specify a duration less than 10 minutes", errors);
            }
            Some(number) if number > 1 << 32 => {
                seconds.invalid("may not specify a duration larger than 2^32 seconds", errors);
            }
            _ => {}
        }
    }
    let modes = spec.get("volumeLifecycleModes");
    for mode in modes.texts() {
        if !matches!(mode, "Persistent" | "Ephemeral") {
            errors.not_supported(modes.path(), mode, &["Persistent", "Ephemeral"]);
        }
    }
    let period = spec.get("nodeAllocatableUpdatePeriodSeconds");
    if period.number().is_some_and(|seconds| seconds < 10) {
        period.invalid("must be greater than or equal to 10 seconds", errors);
    }
}

pub(super) fn validate_driver_update(driver: &Value, old: &Value, errors: &mut FieldErrors) {
    let (spec, was) = (Field::root(driver).get("spec"), Field::root(old).get("spec"));
    Field::new(spec.get("attachRequired").value(), "spec.attachedRequired")
        .unchanged(&was.get("attachRequired"), errors);
    spec.all_unchanged(&was, &["volumeLifecycleModes"], errors);
}

pub(super) fn validate_capacity(capacity: &Value, errors: &mut FieldErrors) {
    let root = Field::root(capacity);
    root.get("nodeTopology").selector(errors);
    root.get("storageClassName").ruled(names::subdomain, errors);
    root.get("capacity").quantity_not_negative(errors);
}

pub(super) fn validate_capacity_update(capacity: &Value, old: &Value, errors: &mut FieldErrors) {
    Field::root(capacity).all_unchanged(&Field::root(old), &["nodeTopology", "storageClassName"], errors);
}
