//! Pod specifications, wherever they are: in pods and in the templates of workloads.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::container::{self, Context, Role, default_text, default_value};
use crate::{FieldErrors, names, object};

pub(super) fn default_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        for container in object::items_mut(spec, field) {
            container::defaults(container);
            if let Some(resources) = container.get_mut("resources") {
                container::canonical_resources(resources);
            }
        }
    }
    default_text(spec, "restartPolicy", "Always");
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "schedulerName", "default-scheduler");
    default_value(spec, "terminationGracePeriodSeconds", json!(30));
    default_value(spec, "securityContext", json!({}));
    // Two names of one field: the older one follows.
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        spec["serviceAccount"] = account;
    } else if let Some(account) = spec.get("serviceAccount").cloned() {
        spec["serviceAccountName"] = account;
    }
    if spec["hostNetwork"] == true {
        for field in ["containers", "initContainers"] {
            for container in object::items_mut(spec, field) {
                for port in object::items_mut(container, "ports") {
                    if port["hostPort"].as_i64().unwrap_or(0) == 0 {
                        port["hostPort"] = port["containerPort"].clone();
                    }
                }
            }
        }
    }
    for volume in object::items_mut(spec, "volumes") {
        default_volume(volume);
    }
}

fn default_volume(volume: &mut Value) {
    let Some(fields) = volume.as_object_mut() else { return };
    if !fields.iter().any(|(key, value)| key != "name" && !value.is_null()) {
        fields.insert("emptyDir".into(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = fields.get_mut(source).filter(|source| source.is_object()) {
            default_value(source, "defaultMode", json!(0o644));
        }
    }
    if let Some(path) = fields.get_mut("hostPath").filter(|path| path.is_object()) {
        default_value(path, "type", json!(""));
    }
    let items = |source: Option<&mut Value>| {
        for item in source
            .and_then(|source| source.get_mut("items"))
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(reference) = item.get_mut("fieldRef").filter(|reference| reference.is_object()) {
                default_text(reference, "apiVersion", "v1");
            }
        }
    };
    items(fields.get_mut("downwardAPI"));
    let projected = fields.get_mut("projected").and_then(|projected| projected.get_mut("sources"));
    for source in projected.and_then(Value::as_array_mut).into_iter().flatten() {
        items(source.get_mut("downwardAPI"));
        if let Some(token) = source.get_mut("serviceAccountToken").filter(|token| token.is_object()) {
            default_value(token, "expirationSeconds", json!(3600));
        }
    }
}

const VOLUME_SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "secret",
    "configMap",
    "downwardAPI",
    "projected",
    "persistentVolumeClaim",
    "nfs",
    "csi",
    "ephemeral",
    "image",
    "iscsi",
    "fc",
    "rbd",
    "cephfs",
    "cinder",
    "glusterfs",
    "gitRepo",
    "azureDisk",
    "azureFile",
    "awsElasticBlockStore",
    "gcePersistentDisk",
    "flexVolume",
    "flocker",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

pub(super) fn validate_spec(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let mut volumes = HashSet::new();
    for (index, volume) in spec["volumes"].as_array().into_iter().flatten().enumerate() {
        let path = format!("{path}.volumes[{index}]");
        let name = object::text(volume, &["name"]);
        if name.is_empty() {
            errors.required(format!("{path}.name"), "");
        } else {
            for wrong in names::label(name) {
                errors.invalid(format!("{path}.name"), name, wrong);
            }
            if !volumes.insert(name) {
                errors.duplicate(format!("{path}.name"), name);
            }
        }
        validate_volume(volume, &path, errors);
    }
    let mut context = Context { volumes: &volumes, names: HashSet::new() };
    let containers = spec["containers"].as_array().map_or(&[][..], Vec::as_slice);
    if containers.is_empty() {
        errors.required(format!("{path}.containers"), "");
    }
    for (index, one) in containers.iter().enumerate() {
        container::validate(one, &format!("{path}.containers[{index}]"), Role::Main, &mut context, errors);
    }
    for (index, one) in spec["initContainers"].as_array().into_iter().flatten().enumerate() {
        container::validate(
            one,
            &format!("{path}.initContainers[{index}]"),
            Role::Init,
            &mut context,
            errors,
        );
    }
    one_of(spec, path, "restartPolicy", &["Always", "OnFailure", "Never"], true, errors);
    one_of(
        spec,
        path,
        "dnsPolicy",
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        true,
        errors,
    );
    if spec["dnsPolicy"] == "None"
        && object::at(spec, &["dnsConfig", "nameservers"]).as_array().is_none_or(Vec::is_empty)
    {
        errors.required(
            format!("{path}.dnsConfig.nameservers"),
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        );
    }
    one_of(spec, path, "preemptionPolicy", &["Never", "PreemptLowerPriority"], false, errors);
    if let Some(seconds) = spec["terminationGracePeriodSeconds"].as_i64().filter(|seconds| *seconds < 0) {
        errors.invalid(
            format!("{path}.terminationGracePeriodSeconds"),
            seconds,
            "must be greater than or equal to 0",
        );
    }
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64().filter(|seconds| *seconds < 1) {
        errors.invalid(
            format!("{path}.activeDeadlineSeconds"),
            seconds,
            "must be between 1 and 2147483647, inclusive",
        );
    }
    let mut named = |field: &str, rule: fn(&str) -> Vec<String>| {
        let text = object::text(spec, &[field]);
        if !text.is_empty() {
            for wrong in rule(text) {
                errors.invalid(format!("{path}.{field}"), text, wrong);
            }
        }
    };
    named("nodeName", names::subdomain);
    named("serviceAccountName", names::subdomain);
    named("hostname", names::label);
    named("subdomain", names::label);
    crate::metadata::labels(&spec["nodeSelector"], &format!("{path}.nodeSelector"), errors);
    tolerations(spec, path, errors);
}

fn one_of(
    spec: &Value,
    path: &str,
    field: &str,
    supported: &[&str],
    required: bool,
    errors: &mut FieldErrors,
) {
    let text = object::text(spec, &[field]);
    if text.is_empty() {
        if required {
            errors.required(format!("{path}.{field}"), "");
        }
    } else if !supported.contains(&text) {
        errors.not_supported(format!("{path}.{field}"), text, supported);
    }
}

fn tolerations(spec: &Value, path: &str, errors: &mut FieldErrors) {
    for (index, toleration) in spec["tolerations"].as_array().into_iter().flatten().enumerate() {
        let path = format!("{path}.tolerations[{index}]");
        let key = object::text(toleration, &["key"]);
        if !key.is_empty() {
            for wrong in names::qualified(key) {
                errors.invalid(format!("{path}.key"), key, wrong);
            }
        }
        let operator = object::text(toleration, &["operator"]);
        if key.is_empty() && operator != "Exists" {
            errors.invalid(
                format!("{path}.operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if !matches!(operator, "" | "Equal" | "Exists" | "Gt" | "Lt") {
            errors.not_supported(format!("{path}.operator"), operator, &["Equal", "Exists"]);
        }
        if operator == "Exists" && !object::text(toleration, &["value"]).is_empty() {
            errors.invalid(
                format!("{path}.operator"),
                toleration["value"].clone(),
                "value must be empty when `operator` is 'Exists'",
            );
        }
        let effect = object::text(toleration, &["effect"]);
        if !matches!(effect, "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
            errors.not_supported(
                format!("{path}.effect"),
                effect,
                &["NoExecute", "NoSchedule", "PreferNoSchedule"],
            );
        }
    }
}

fn validate_volume(volume: &Value, path: &str, errors: &mut FieldErrors) {
    let sources: Vec<&&str> = VOLUME_SOURCES.iter().filter(|source| !volume[**source].is_null()).collect();
    match sources.as_slice() {
        [] => errors.required(path, "must specify a volume type"),
        [_] => {}
        [_, others @ ..] => {
            for other in others {
                errors.forbidden(format!("{path}.{other}"), "may not specify more than 1 volume type");
            }
        }
    }
    let mut need = |parts: &[&str]| {
        if volume[parts[0]].is_object() && object::text(volume, parts).is_empty() {
            errors.required(format!("{path}.{}", parts.join(".")), "");
        }
    };
    need(&["hostPath", "path"]);
    need(&["secret", "secretName"]);
    need(&["configMap", "name"]);
    need(&["persistentVolumeClaim", "claimName"]);
    for source in ["secret", "configMap"] {
        for (index, item) in
            object::at(volume, &[source, "items"]).as_array().into_iter().flatten().enumerate()
        {
            let path = format!("{path}.{source}.items[{index}]");
            if object::text(item, &["key"]).is_empty() {
                errors.required(format!("{path}.key"), "");
            }
            let place = object::text(item, &["path"]);
            if place.is_empty() {
                errors.required(format!("{path}.path"), "");
            } else if place.starts_with('/') {
                errors.invalid(format!("{path}.path"), place, "must be a relative path");
            } else if place.split('/').any(|part| part == "..") {
                errors.invalid(format!("{path}.path"), place, "must not contain '..'");
            }
        }
        let mode = object::at(volume, &[source, "defaultMode"]);
        if mode.as_i64().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
            errors.invalid(
                format!("{path}.{source}.defaultMode"),
                mode.clone(),
                "must be a number between 0 and 0777 (octal), both inclusive",
            );
        }
    }
}
