//! NamespaceLifecycle: nothing is made in a namespace that is not there or on its way out, and some stay for ever.

use dray_machinery::{Cause, Status, object};
use serde_json::Value;

use super::{Admission, Operation};

/// Namespaces that cannot be deleted.
pub(crate) const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub(super) fn admit(admission: &Admission<'_>, _object: &mut Value) -> Result<(), Status> {
    let request = admission.request();
    if admission.operation != Operation::Create || !request.kind.namespaced {
        return Ok(());
    }
    let Some(namespace) = admission.stored("core/namespaces", &request.namespace)? else {
        return Err(Status::not_found("", "namespaces", &request.namespace));
    };
    if !object::is_terminating(&namespace) {
        return Ok(());
    }
    let mut status = admission.forbidden(format!(
        "unable to create new content in namespace {} because it is being terminated",
        request.namespace
    ));
    status.causes.push(Cause {
        reason: "NamespaceTerminating".into(),
        message: format!("namespace {} is being terminated", request.namespace),
        field: "metadata.namespace".into(),
    });
    Err(status)
}
