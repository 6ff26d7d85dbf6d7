//! The parameters of a policy: objects that a binding names or selects.

use dray_machinery::{Status, kinds, object, selector::LabelSelector};
use dray_store::Entry;
use serde_json::Value;

use super::Admission;
use crate::respond;

/// The objects that a policy is evaluated with; a null for each time that it is without.
pub(super) async fn of(
    admission: &Admission<'_>,
    policy: &Value,
    binding: &Value,
    namespace: &str,
) -> Result<Vec<Value>, String> {
    let (wanted, reference) = (&policy["spec"]["paramKind"], &binding["spec"]["paramRef"]);
    if !wanted.is_object() || !reference.is_object() {
        return Ok(vec![Value::Null]);
    }
    let (version, name) = (object::text(wanted, &["apiVersion"]), object::text(wanted, &["kind"]));
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let built_in = kinds::find_version(group, version, name);
    let custom = match built_in {
        Some(_) => None,
        None => admission.inner.custom.table().find_version(group, version, name),
    };
    let kind = built_in
        .or(custom.as_ref().map(|custom| custom.kind))
        .ok_or_else(|| format!("paramKind kind `{group}/{version}, Kind={name}` not known"))?;
    let given = object::text(reference, &["namespace"]);
    let namespace = match (kind.namespaced, given, namespace) {
        (false, "", _) => "",
        (false, ..) => {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
        }
        (true, "", "") => {
            let why =
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
            return Err(why.to_owned());
        }
        (true, "", namespace) => namespace,
        (true, given, _) => given,
    };
    let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
    let name = object::text(reference, &["name"]);
    let snapshot = &admission.snapshot;
    let entries: Vec<Entry> = if name.is_empty() {
        snapshot.range(&kind.storage(), &prefix, None).map(|(_, entry)| entry.clone()).collect()
    } else {
        snapshot.get(&kind.storage(), &format!("{prefix}{name}")).cloned().into_iter().collect()
    };
    let told = |status: Status| status.to_string();
    let entries = admission.inner.entries(custom.as_ref(), entries).await.map_err(told)?;
    let found: Result<Vec<Value>, Status> =
        entries.iter().map(|entry| respond::parse_as(kind, entry.json())).collect();
    let mut found = found.map_err(told)?;
    if name.is_empty() {
        let selector = LabelSelector::from_value(&reference["selector"])?;
        found.retain(|object| selector.matches_object(object));
    }
    if found.is_empty() && reference["parameterNotFoundAction"] == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(found)
}
