//! The environment of containers, and references to the pod's own fields.

use crate::{FieldErrors, kinds::field::Field, names, quantity::Quantity};

const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const ONE_SOURCE: &str = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
`fileKeyRef`";
const TOO_MANY: &str = "may not have more than one field specified at a time";

pub(super) fn validate(container: &Field<'_>, volumes: &[&str], errors: &mut FieldErrors) {
    for variable in container.get("env").items() {
        variable.get("name").needs_name(names::env_name, errors);
        let from = variable.get("valueFrom");
        if from.is_set() {
            let given = !variable.get("value").is_empty();
            source(&from, given, volumes, errors);
        }
    }
    for from in container.get("envFrom").items() {
        from.get("prefix").named(names::env_name, errors);
        let present: Vec<Field<'_>> =
            ["configMapRef", "secretRef"].iter().map(|name| from.get(name)).filter(Field::is_set).collect();
        for reference in &present {
            reference.get("name").needs_name(names::subdomain, errors);
        }
        match present.len() {
            0 => errors.invalid(from.path(), "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(from.path(), "", TOO_MANY),
        }
    }
}

fn source(from: &Field<'_>, given: bool, volumes: &[&str], errors: &mut FieldErrors) {
    let mut present = 0;
    for name in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        let reference = from.get(name);
        if !reference.is_set() {
            continue;
        }
        present += 1;
        match name {
            "fieldRef" => field_reference(&reference, FIELDS, errors),
            "resourceFieldRef" => resource_reference(&reference, false, errors),
            "fileKeyRef" => {
                let volume = reference.get("volumeName");
                volume.needed(errors);
                if !volume.is_empty() && !volumes.contains(&volume.text()) {
                    volume.not_found(errors);
                }
                reference.get("path").needed(errors);
                reference.get("path").relative(errors);
                reference.get("key").needs_name(names::env_name, errors);
            }
            _ => {
                reference.get("name").needs_name(names::subdomain, errors);
                reference.get("key").needs_name(names::config_key, errors);
            }
        }
    }
    if present == 0 {
        errors.invalid(from.path(), "", ONE_SOURCE);
    } else if given {
        errors.invalid(from.path(), "", "may not be specified when `value` is not empty");
    }
    if present > 1 {
        errors.invalid(from.path(), "", TOO_MANY);
    }
}

/// A reference to a field of the pod, among those that are known.
pub(super) fn field_reference(reference: &Field<'_>, known: &[&str], errors: &mut FieldErrors) {
    let (version, path) = (reference.get("apiVersion"), reference.get("fieldPath"));
    version.needed(errors);
    if path.is_empty() {
        return path.required("", errors);
    }
    let Some((base, key)) = path.text().strip_suffix("']").and_then(|rest| rest.split_once("['")) else {
        return path.one_of(known, errors);
    };
    match base {
        "metadata.annotations" => {
            for wrong in names::qualified(&key.to_lowercase()) {
                errors.invalid(path.path(), key, wrong);
            }
        }
        "metadata.labels" => {
            for wrong in names::qualified(key) {
                errors.invalid(path.path(), key, wrong);
            }
        }
        _ => errors.invalid(path.path(), base, "does not support subscript"),
    }
}

/// A reference to what a container asks for or may use.
pub(super) fn resource_reference(reference: &Field<'_>, of_volume: bool, errors: &mut FieldErrors) {
    let (container, resource, divisor) =
        (reference.get("containerName"), reference.get("resource"), reference.get("divisor"));
    if of_volume && container.is_empty() {
        container.required("", errors);
    } else if resource.is_empty() {
        resource.required("", errors);
    } else {
        let pages = ["limits.hugepages-", "requests.hugepages-"];
        if !pages.iter().any(|prefix| resource.text().starts_with(prefix)) {
            resource.one_of(RESOURCES, errors);
        }
    }
    let Some(share) = divisor.quantity().filter(|share| *share != Quantity::from_units(0)) else { return };
    let text = share.to_string();
    let (known, shown): (&[&str], &str) = if resource.text().ends_with("cpu") {
        (&["1", "1m"], "only divisor's values 1m and 1 are supported with the cpu resource")
    } else {
        (
            &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"],
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory \
             resource",
        )
    };
    if !known.contains(&text.as_str()) {
        errors.invalid(divisor.path(), resource.text(), shown);
    }
}
