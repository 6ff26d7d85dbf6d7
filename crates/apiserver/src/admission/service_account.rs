//! ServiceAccount: every pod is somebody, and its programs find the token by which they are.

use dray_machinery::{Status, names, object};
use serde_json::{Value, json};

use super::{Admission, Operation};
use crate::{request::ResourceRequest, server::Inner};

/// Where programs look for their token.
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access-";
/// How long a token in a pod holds, in seconds.
const SECONDS: i64 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";
const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

fn is_mirror(pod: &Value) -> bool {
    object::meta_map(pod, "annotations").is_some_and(|all| all.contains_key(MIRROR))
}

pub(super) fn admit(admission: &Admission<'_>, pod: &mut Value) -> Result<(), Status> {
    if !admission.creates("", "pods") || is_mirror(pod) || !pod["spec"].is_object() {
        return Ok(());
    }
    let named = object::text(pod, &["spec", "serviceAccountName"]);
    let name = if named.is_empty() { "default".to_owned() } else { named.to_owned() };
    let spec = &mut pod["spec"];
    (spec["serviceAccountName"], spec["serviceAccount"]) = (json!(name), json!(name));
    let namespace = &admission.request().namespace;
    let Some(account) = admission.stored("core/serviceaccounts", &format!("{namespace}/{name}"))? else {
        return Err(admission.forbidden(format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        )));
    };
    let secrets = account["imagePullSecrets"].as_array().filter(|all| !all.is_empty());
    if let Some(secrets) = secrets
        && spec["imagePullSecrets"].as_array().is_none_or(Vec::is_empty)
    {
        spec["imagePullSecrets"] = json!(secrets);
    }
    let wanted = spec["automountServiceAccountToken"].as_bool();
    if wanted.or(account["automountServiceAccountToken"].as_bool()).unwrap_or(true) {
        mount_token(spec);
    }
    Ok(())
}

/// Mounts a volume with the token into every container that has nothing at its place.
fn mount_token(spec: &mut Value) {
    let existing = spec["volumes"].as_array().into_iter().flatten().find_map(|volume| {
        volume["name"].as_str().filter(|name| name.starts_with(VOLUME)).map(str::to_owned)
    });
    let volume = existing.clone().unwrap_or_else(|| names::generate(VOLUME));
    let mut mounted = false;
    for containers in ["initContainers", "containers"] {
        for container in object::items_mut(spec, containers) {
            let has = |mounts: &Vec<Value>| mounts.iter().any(|mount| mount["mountPath"] == MOUNT);
            if container["volumeMounts"].as_array().is_some_and(has) || !container.is_object() {
                continue;
            }
            let mount = json!({ "name": volume, "readOnly": true, "mountPath": MOUNT });
            match container["volumeMounts"].as_array_mut() {
                Some(mounts) => mounts.push(mount),
                None => container["volumeMounts"] = json!([mount]),
            }
            mounted = true;
        }
    }
    if !mounted || existing.is_some() {
        return;
    }
    let volume = json!({ "name": volume, "projected": { "defaultMode": 0o644, "sources": [
        { "serviceAccountToken": { "expirationSeconds": SECONDS, "path": "token" } },
        { "configMap": {
            "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }],
        } },
        { "downwardAPI": { "items": [{
            "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
        }] } },
    ] } });
    match spec["volumes"].as_array_mut() {
        Some(volumes) => volumes.push(volume),
        None => spec["volumes"] = json!([volume]),
    }
}

pub(super) fn check(admission: &Admission<'_>, pod: &Value) -> Result<(), Status> {
    if admission.operation != Operation::Create || !admission.is("", "pods") {
        return Ok(());
    }
    let spec = &pod["spec"];
    if is_mirror(pod) {
        let refers = |field: &str| {
            spec["volumes"].as_array().into_iter().flatten().any(|volume| volume[field].is_object())
        };
        for (field, what) in [
            ("secret", "secrets"),
            ("configMap", "configmaps"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
        ] {
            if refers(field) {
                return Err(admission.forbidden(format!("a mirror pod may not reference {what}")));
            }
        }
        if !object::text(spec, &["serviceAccountName"]).is_empty() {
            return Err(admission.forbidden("a mirror pod may not reference service accounts"));
        }
        return Ok(());
    }
    let name = object::text(spec, &["serviceAccountName"]);
    let key = format!("{}/{name}", admission.request().namespace);
    let Some(account) = admission.stored("core/serviceaccounts", &key)? else { return Ok(()) };
    if account["metadata"]["annotations"][MOUNTABLE] != "true" {
        return Ok(());
    }
    let allowed =
        |secret: &str| account["secrets"].as_array().into_iter().flatten().any(|one| one["name"] == secret);
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let secret = object::text(volume, &["secret", "secretName"]);
        if !secret.is_empty() && !allowed(secret) {
            return Err(admission.forbidden(format!(
                "volume with secret.secretName={secret:?} is not allowed because service account {name} does not \
                 reference that secret"
            )));
        }
    }
    Ok(())
}

/// For how long the service account `default`, which a controller makes, is waited for.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

impl Inner {
    /// Waits until the service account that a new pod of a new namespace is to be is there.
    pub(crate) async fn await_account(&self, request: &ResourceRequest, object: &Value) {
        let is_pod =
            request.kind.group.is_empty() && request.kind.plural == "pods" && request.subresource.is_none();
        if !is_pod || !matches!(object::text(object, &["spec", "serviceAccountName"]), "" | "default") {
            return;
        }
        let name = format!("{}/default", request.namespace);
        let is_there = || self.store.snapshot().get("core/serviceaccounts", &name).is_some();
        let is_hopeless = || self.store.snapshot().get("core/namespaces", &request.namespace).is_none();
        if is_there() || is_hopeless() {
            return;
        }
        let Ok((_, mut watcher)) = self.store.snapshot_and_watch("core/serviceaccounts", &name) else {
            return;
        };
        let made = async { while !is_there() && watcher.next().await.is_ok() {} };
        let _ = tokio::time::timeout(PATIENCE, made).await;
    }
}
