//! OwnerReferencesPermissionEnforcement: who sets the owner of an object can have it deleted, so he must be allowed to
//! delete it himself; and who makes an object hold up its owner's end must be allowed to hold it up.

use dray_access::{Attributes, MASTERS};
use dray_machinery::{Status, kinds, object};
use serde_json::Value;

use super::{Admission, Operation};

pub(super) fn check(admission: &Admission<'_>, new: &Value) -> Result<(), Status> {
    if admission.operation == Operation::Delete || admission.user().is_in(MASTERS) {
        return Ok(());
    }
    let request = admission.request();
    let (before, after) =
        (object::meta_list(admission.old, "ownerReferences"), object::meta_list(new, "ownerReferences"));
    let is_update = admission.operation == Operation::Update;
    if is_update && before != after {
        let asked = Attributes {
            verb: "delete",
            group: request.kind.group,
            resource: request.kind.plural,
            namespace: &request.namespace,
            name: admission.name,
            ..Attributes::default()
        };
        if !admission.may(&asked)? {
            let why =
                "cannot set an ownerRef on a resource you can't delete: User is not allowed to delete it";
            return Err(admission.forbidden(why));
        }
    }
    let blocks = |owner: &Value| owner["blockOwnerDeletion"] == true;
    let uid = |owner: &Value| owner["uid"].clone();
    let newly = after
        .iter()
        .filter(|owner| blocks(owner) && !before.iter().any(|old| blocks(old) && uid(old) == uid(owner)));
    for owner in newly {
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        let (group, _) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
        let custom = || admission.inner.custom.table().find_kind(group, text("kind"));
        let Some(kind) = kinds::find_kind(group, text("kind")).or_else(custom) else { continue };
        let asked = Attributes {
            verb: "update",
            group,
            resource: kind.plural,
            subresource: "finalizers",
            namespace: if kind.namespaced { &request.namespace } else { "" },
            name: text("name"),
            ..Attributes::default()
        };
        if !admission.may(&asked)? {
            let why = "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on";
            return Err(admission.forbidden(why));
        }
    }
    Ok(())
}
