//! Pods, and the templates that pods are made from.

mod container;
mod environment;
mod probes;
mod resources;
pub(super) mod scheduling;
mod security;
mod spec;
mod update;
pub(super) mod volumes;

use serde_json::{Value, json};

use super::{Subresource, field::Field, fill::default_value};
use crate::{FieldErrors, object};

pub(super) const FIELDS: &[(&str, &[&str])] = &[
    ("spec.nodeName", &["spec", "nodeName"]),
    ("spec.restartPolicy", &["spec", "restartPolicy"]),
    ("spec.schedulerName", &["spec", "schedulerName"]),
    ("spec.serviceAccountName", &["spec", "serviceAccountName"]),
    ("spec.hostNetwork", &["spec", "hostNetwork"]),
    ("status.phase", &["status", "phase"]),
    ("status.podIP", &["status", "podIP"]),
    ("status.nominatedNodeName", &["status", "nominatedNodeName"]),
];

pub(super) fn defaults(pod: &mut Value) {
    if let Some(spec) = pod.get_mut("spec") {
        spec::defaults(spec);
        default_value(spec, "enableServiceLinks", json!(true));
    }
}

pub(super) fn prepare_create(pod: &mut Value) {
    let mut status = json!({ "phase": "Pending", "qosClass": resources::quality(pod) });
    if object::at(pod, &["spec", "schedulingGates"]).as_array().is_some_and(|gates| !gates.is_empty()) {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
    pod["status"] = status;
}

pub(super) fn validate(pod: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(pod).get("spec");
    spec::validate(&spec, object::name(pod), errors);
}

pub(super) fn validate_create(pod: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(pod).get("spec");
    if !spec.get("ephemeralContainers").is_empty() {
        spec.get("ephemeralContainers").forbidden("cannot be set on create", errors);
    }
    if !spec.get("schedulingGates").is_empty() && !spec.get("nodeName").is_empty() {
        spec.get("nodeName").forbidden("cannot be set until all schedulingGates have been cleared", errors);
    }
}

pub(super) fn validate_update(pod: &Value, old: &Value, errors: &mut FieldErrors) {
    update::validate(pod, old, errors);
}

pub(super) fn validate_part(part: Subresource, pod: &Value, old: &Value, errors: &mut FieldErrors) {
    match part {
        Subresource::EphemeralContainers => update::validate_ephemeral(pod, old, errors),
        Subresource::Resize => update::validate_resize(pod, old, errors),
        Subresource::Status => update::validate_status(pod, errors),
        _ => {}
    }
}

pub(super) fn default_template(template: &mut Value) {
    if let Some(spec) = template.get_mut("spec") {
        spec::defaults(spec);
    }
}

fn template_metadata(template: &Field<'_>, errors: &mut FieldErrors) {
    for map in ["labels", "annotations"] {
        let path = format!("{}.{map}", template.path());
        let field = Field::new(template.at(&["metadata", map]).value(), path);
        if map == "labels" {
            field.labels(errors);
        } else {
            crate::metadata::annotations(field.value(), field.path(), errors);
        }
    }
}

/// Checks a template of pods.
pub(super) fn validate_template(template: &Field<'_>, errors: &mut FieldErrors) {
    template_metadata(template, errors);
    let spec = template.get("spec");
    spec::validate(&spec, "", errors);
    if !spec.get("ephemeralContainers").is_empty() {
        spec.get("ephemeralContainers").forbidden("ephemeral containers not allowed in pod template", errors);
    }
}

/// Checks a template whose pods get volumes that it does not name: as the reference does, not what is in them.
pub(super) fn validate_template_of_set(template: &Field<'_>, errors: &mut FieldErrors) {
    template_metadata(template, errors);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_follows_requests_and_limits() {
        let quality = |resources: Value| {
            resources::quality(&json!({ "spec": { "containers": [{ "resources": resources }] } }))
        };
        assert_eq!(quality(json!({})), "BestEffort");
        assert_eq!(quality(json!({ "requests": { "cpu": "1" } })), "Burstable");
        let both = json!({ "cpu": "1", "memory": "1Gi" });
        assert_eq!(quality(json!({ "limits": both, "requests": both })), "Guaranteed");
    }

    #[test]
    fn says_what_is_wrong() {
        let mut pod = json!({ "spec": { "containers": [{ "name": "A", "image": "x" }, { "name": "b" }],
            "restartPolicy": "Sometimes" } });
        defaults(&mut pod);
        let mut errors = FieldErrors::default();
        validate(&pod, &mut errors);
        let fields: Vec<&str> = errors.as_slice().iter().map(crate::FieldError::field).collect();
        assert_eq!(fields, ["spec.containers[0].name", "spec.containers[1].image", "spec.restartPolicy"]);
    }
}
