//! The small kinds of the core group and its neighbours.

use base64::Engine as _;
use serde_json::{Value, json};

use super::carry_status;
use crate::{FieldErrors, names, object};

/// All values of a ConfigMap or Secret together may not be longer, in bytes.
const DATA_LIMIT: usize = 1024 * 1024;

pub(super) fn default_namespace(namespace: &mut Value) {
    let name = object::name(namespace).to_owned();
    if !name.is_empty() {
        let metadata = object::meta_mut(namespace);
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if labels.is_object() {
            labels["kubernetes.io/metadata.name"] = json!(name);
        }
    }
}

pub(super) fn prepare_namespace(namespace: &mut Value) {
    namespace["status"] = json!({ "phase": "Active" });
    let spec = object::child(namespace, "spec");
    let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(finalizers) = finalizers.as_array_mut()
        && !finalizers.iter().any(|finalizer| finalizer == "kubernetes")
    {
        finalizers.push(json!("kubernetes"));
    }
}

pub(super) fn prepare_namespace_update(namespace: &mut Value, old: &Value) {
    carry_status(namespace, old);
    object::copy_field(old, namespace, "spec");
}

pub(super) fn validate_node(node: &Value, errors: &mut FieldErrors) {
    for (index, taint) in object::at(node, &["spec", "taints"]).as_array().into_iter().flatten().enumerate() {
        let key = taint["key"].as_str().unwrap_or_default();
        for wrong in names::qualified(key) {
            errors.invalid(format!("spec.taints[{index}].key"), key, wrong);
        }
        let effect = taint["effect"].as_str().unwrap_or_default();
        if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
            if effect.is_empty() {
                errors.required(format!("spec.taints[{index}].effect"), "");
            } else {
                errors.not_supported(
                    format!("spec.taints[{index}].effect"),
                    effect,
                    &["NoExecute", "NoSchedule", "PreferNoSchedule"],
                );
            }
        }
    }
}

fn validate_keys(object: &Value, fields: &[&str], errors: &mut FieldErrors) {
    let mut total = 0;
    for field in fields {
        for (key, value) in object[*field].as_object().into_iter().flatten() {
            for wrong in names::config_key(key) {
                errors.invalid(format!("{field}[{key}]"), key.as_str(), wrong);
            }
            let text = value.as_str().unwrap_or_default();
            total += text.len();
            if *field != "data" || fields.len() == 1 {
                if base64::engine::general_purpose::STANDARD.decode(text).is_err() {
                    errors.invalid(format!("{field}[{key}]"), text, "must be base64");
                }
                total -= text.len() / 4;
            }
        }
    }
    if total > DATA_LIMIT {
        errors.too_long("", DATA_LIMIT);
    }
}

pub(super) fn validate_config_map(object: &Value, errors: &mut FieldErrors) {
    validate_keys(object, &["data", "binaryData"], errors);
    for key in object["data"].as_object().into_iter().flatten().map(|(key, _)| key) {
        if object["binaryData"].get(key).is_some() {
            errors.invalid(format!("data[{key}]"), key.as_str(), "duplicate of key present in binaryData");
        }
    }
}

fn validate_immutable(object: &Value, old: &Value, fields: &[&str], errors: &mut FieldErrors) {
    if old["immutable"] != true {
        return;
    }
    if object["immutable"] != true {
        errors.forbidden("immutable", "field is immutable when `immutable` is set");
    }
    for field in fields {
        if object[*field] != old[*field] {
            errors.forbidden(*field, "field is immutable when `immutable` is set");
        }
    }
}

pub(super) fn validate_config_map_update(object: &Value, old: &Value, errors: &mut FieldErrors) {
    validate_immutable(object, old, &["data", "binaryData"], errors);
}

pub(super) fn default_secret(secret: &mut Value) {
    if object::text(secret, &["type"]).is_empty() {
        secret["type"] = json!("Opaque");
    }
}

pub(super) fn fold_string_data(secret: &mut Value) {
    let Some(texts) = secret.as_object_mut().and_then(|fields| fields.remove("stringData")) else { return };
    let data = object::child(secret, "data");
    for (key, text) in texts.as_object().into_iter().flatten() {
        let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
        data.insert(key.clone(), json!(encoded));
    }
}

pub(super) fn fold_string_data_update(secret: &mut Value, old: &Value) {
    fold_string_data(secret);
    if object::text(secret, &["type"]).is_empty() {
        object::copy_field(old, secret, "type");
    }
}

pub(super) fn validate_secret(secret: &Value, errors: &mut FieldErrors) {
    validate_keys(secret, &["data"], errors);
    let need = |key: &str, errors: &mut FieldErrors| {
        if secret["data"].get(key).is_none() {
            errors.required(format!("data[{key}]"), "");
        }
    };
    match object::text(secret, &["type"]) {
        "kubernetes.io/dockerconfigjson" => need(".dockerconfigjson", errors),
        "kubernetes.io/dockercfg" => need(".dockercfg", errors),
        "kubernetes.io/tls" => {
            need("tls.crt", errors);
            need("tls.key", errors);
        }
        "kubernetes.io/ssh-auth" => need("ssh-privatekey", errors),
        "kubernetes.io/service-account-token" => {
            let account =
                object::at(secret, &["metadata", "annotations", "kubernetes.io/service-account.name"]);
            if account.as_str().unwrap_or_default().is_empty() {
                errors.required("metadata.annotations[kubernetes.io/service-account.name]", "");
            }
        }
        _ => {}
    }
}

pub(super) fn validate_secret_update(secret: &Value, old: &Value, errors: &mut FieldErrors) {
    if secret["type"] != old["type"] {
        errors.invalid("type", secret["type"].clone(), "field is immutable");
    }
    validate_immutable(secret, old, &["data"], errors);
}

pub(super) fn validate_lease(lease: &Value, errors: &mut FieldErrors) {
    let spec = &lease["spec"];
    if spec["leaseDurationSeconds"].as_i64().is_some_and(|seconds| seconds <= 0) {
        errors.invalid(
            "spec.leaseDurationSeconds",
            spec["leaseDurationSeconds"].clone(),
            "must be greater than 0",
        );
    }
    if spec["leaseTransitions"].as_i64().is_some_and(|count| count < 0) {
        errors.invalid(
            "spec.leaseTransitions",
            spec["leaseTransitions"].clone(),
            "must be greater than or equal to 0",
        );
    }
}

pub(super) fn default_endpoints(endpoints: &mut Value) {
    for subset in object::items_mut(endpoints, "subsets") {
        for port in object::items_mut(subset, "ports") {
            super::container::default_text(port, "protocol", "TCP");
        }
    }
}

pub(super) fn default_endpoint_slice(slice: &mut Value) {
    for port in object::items_mut(slice, "ports") {
        super::container::default_text(port, "protocol", "TCP");
        if port["name"].is_null() {
            port["name"] = json!("");
        }
    }
}

pub(super) fn validate_endpoint_slice(slice: &Value, errors: &mut FieldErrors) {
    let kind = object::text(slice, &["addressType"]);
    if kind.is_empty() {
        errors.required("addressType", "");
    } else if !matches!(kind, "IPv4" | "IPv6" | "FQDN") {
        errors.not_supported("addressType", kind, &["FQDN", "IPv4", "IPv6"]);
    }
    let endpoints = slice["endpoints"].as_array().map_or(&[][..], Vec::as_slice);
    if endpoints.len() > 1000 {
        errors.too_many("endpoints", endpoints.len(), 1000);
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let addresses = endpoint["addresses"].as_array().map_or(&[][..], Vec::as_slice);
        if addresses.is_empty() {
            errors.required(format!("endpoints[{index}].addresses"), "must contain at least 1 item");
        }
        for (place, address) in addresses.iter().enumerate() {
            let text = address.as_str().unwrap_or_default();
            let fine = match kind {
                "IPv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
                "IPv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
                _ => true,
            };
            if !fine {
                errors.invalid(
                    format!("endpoints[{index}].addresses[{place}]"),
                    text,
                    format!("must be an {kind} address"),
                );
            }
        }
    }
}

pub(super) fn validate_endpoint_slice_update(slice: &Value, old: &Value, errors: &mut FieldErrors) {
    if slice["addressType"] != old["addressType"] {
        errors.invalid("addressType", slice["addressType"].clone(), "field is immutable");
    }
}
