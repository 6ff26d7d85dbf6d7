//! Pods.

use serde_json::{Value, json};

use super::{container, template};
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
        template::default_spec(spec);
        if spec.is_object() {
            container::default_value(spec, "enableServiceLinks", json!(true));
        }
    }
}

pub(super) fn prepare_create(pod: &mut Value) {
    pod["status"] = json!({ "phase": "Pending", "qosClass": quality(pod) });
}

/// The quality of service that a pod's requests and limits mean.
pub(crate) fn quality(pod: &Value) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for field in ["containers", "initContainers"] {
        for one in object::at(pod, &["spec", field]).as_array().into_iter().flatten() {
            let resources = &one["resources"];
            for resource in ["cpu", "memory"] {
                let set = |side: &str| {
                    let value = &resources[side][resource];
                    (!value.is_null() && value != "0" && *value != 0).then(|| value.clone())
                };
                let (limit, request) = (set("limits"), set("requests"));
                any |= limit.is_some() || request.is_some();
                guaranteed &= limit.is_some() && (request.is_none() || request == limit);
            }
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

pub(super) fn validate(pod: &Value, errors: &mut FieldErrors) {
    template::validate_spec(&pod["spec"], "spec", errors);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_follows_requests_and_limits() {
        let pod = |resources: Value| json!({ "spec": { "containers": [{ "resources": resources }] } });
        assert_eq!(quality(&pod(json!({}))), "BestEffort");
        assert_eq!(quality(&pod(json!({ "requests": { "cpu": "1" } }))), "Burstable");
        let both = json!({ "cpu": "1", "memory": "1Gi" });
        assert_eq!(quality(&pod(json!({ "limits": both, "requests": both }))), "Guaranteed");
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
