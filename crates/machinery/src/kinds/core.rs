//! The small kinds of the core group and its neighbours.

use base64::Engine as _;
use serde_json::{Value, json};

use super::{carry_status, field::Field};
use crate::{FieldErrors, names, object};

/// Names the account that a token is for.
const SERVICE_ACCOUNT: &str = "kubernetes.io/service-account.name";
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

pub(super) fn validate_namespace(namespace: &Value, errors: &mut FieldErrors) {
    for finalizer in Field::root(namespace).at(&["spec", "finalizers"]).items() {
        finalizer.ruled(names::qualified, errors);
        if !finalizer.text().contains('/')
            && !matches!(finalizer.text(), "kubernetes" | "orphan" | "foregroundDeletion")
        {
            finalizer.invalid("name is neither a standard finalizer name nor is it fully qualified", errors);
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
        "kubernetes.io/dockerconfigjson" => need_json(secret, ".dockerconfigjson", errors),
        "kubernetes.io/dockercfg" => need_json(secret, ".dockercfg", errors),
        "kubernetes.io/tls" => {
            need("tls.crt", errors);
            need("tls.key", errors);
        }
        "kubernetes.io/ssh-auth" if object::text(secret, &["data", "ssh-privatekey"]).is_empty() => {
            errors.required("data[ssh-privatekey]", "");
        }
        "kubernetes.io/basic-auth" => {
            let (user, password) = (&secret["data"]["username"], &secret["data"]["password"]);
            if user.is_null() && password.is_null() {
                errors.required("data[username]", "");
                errors.required("data[password]", "");
            }
        }
        "kubernetes.io/service-account-token" => {
            let account = object::at(secret, &["metadata", "annotations", SERVICE_ACCOUNT]);
            if account.as_str().unwrap_or_default().is_empty() {
                errors.required(format!("metadata.annotations[{SERVICE_ACCOUNT}]"), "");
            }
        }
        _ => {}
    }
}

/// A key that must be there and hold JSON. What it holds is a secret and is not told.
fn need_json(secret: &Value, key: &str, errors: &mut FieldErrors) {
    let path = format!("data[{key}]");
    let Some(text) = secret["data"][key].as_str() else { return errors.required(path, "") };
    let plain = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
    let read: Result<serde_json::Map<String, Value>, _> = serde_json::from_slice(&plain);
    if let Err(wrong) = read {
        errors.invalid(path, "<secret contents redacted>", wrong.to_string());
    }
}

pub(super) fn validate_secret_update(secret: &Value, old: &Value, errors: &mut FieldErrors) {
    if secret["type"] != old["type"] {
        errors.invalid("type", secret["type"].clone(), "field is immutable");
    }
    validate_immutable(secret, old, &["data"], errors);
}
