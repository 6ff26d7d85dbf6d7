//! What the cluster adds to new objects and what it refuses, kind by kind: the one place of this crate that
//! knows kinds by name.

use dray_machinery::{Cause, Status, object};
use serde_json::{Value, json};

use crate::{request::ResourceRequest, server::Inner};

/// Namespaces that cannot be deleted.
pub(crate) const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

/// For how long a pod stays on a node that is not ready or not reachable, in seconds.
const TOLERATION_SECONDS: u64 = 300;

impl Inner {
    pub(crate) fn admit_create(
        &self,
        request: &ResourceRequest,
        name: &str,
        object: &mut Value,
    ) -> Result<(), Status> {
        if request.kind.namespaced {
            self.check_namespace(request, name)?;
        }
        if request.kind.kind == "Pod" {
            admit_pod(name, object)?;
        }
        Ok(())
    }

    /// Nothing is made in a namespace that is not there or on its way out.
    fn check_namespace(&self, request: &ResourceRequest, name: &str) -> Result<(), Status> {
        let snapshot = self.store.snapshot();
        let Some(entry) = snapshot.get("core/namespaces", &request.namespace) else {
            return Err(Status::not_found("", "namespaces", &request.namespace));
        };
        let namespace = crate::respond::parse(entry.json())?;
        if !object::is_terminating(&namespace) {
            return Ok(());
        }
        let mut status = Status::forbidden(
            request.kind.group,
            request.kind.plural,
            name,
            format!(
                "unable to create new content in namespace {} because it is being terminated",
                request.namespace
            ),
        );
        status.causes.push(Cause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {} is being terminated", request.namespace),
            field: "metadata.namespace".into(),
        });
        Err(status)
    }
}

fn admit_pod(name: &str, pod: &mut Value) -> Result<(), Status> {
    let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else { return Ok(()) };
    if object::text(spec, &["serviceAccountName"]).is_empty() {
        spec["serviceAccountName"] = json!("default");
        spec["serviceAccount"] = json!("default");
    }
    let class = object::text(spec, &["priorityClassName"]);
    let priority = match class {
        "" => 0,
        "system-cluster-critical" => 2_000_000_000,
        "system-node-critical" => 2_000_001_000,
        other => {
            return Err(Status::forbidden(
                "",
                "pods",
                name,
                format!("no PriorityClass with name {other} was found"),
            ));
        }
    };
    if spec["priority"].as_i64().is_some_and(|given| given != priority) {
        return Err(Status::forbidden(
            "",
            "pods",
            name,
            format!(
                "the integer value of priority ({}) must not be provided in pod spec; priority admission controller \
                 computed {priority} from the given PriorityClass name",
                spec["priority"]
            ),
        ));
    }
    spec["priority"] = json!(priority);
    if spec["preemptionPolicy"].is_null() {
        spec["preemptionPolicy"] = json!("PreemptLowerPriority");
    }
    add_tolerations(spec);
    Ok(())
}

fn add_tolerations(spec: &mut Value) {
    if spec["tolerations"].is_null() {
        spec["tolerations"] = json!([]);
    }
    let Some(tolerations) = spec["tolerations"].as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations.iter().any(|toleration| {
            let text = |field: &str| toleration[field].as_str().unwrap_or_default();
            (text("key") == key || text("key").is_empty()) && matches!(text("effect"), "NoExecute" | "")
        });
        if !tolerated {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
}
