//! The parameters of a policy: objects that a binding names or selects.

use dray_machinery::{kinds, object, selector::LabelSelector};
use serde_json::Value;

use super::Admission;
use crate::respond;

/// The objects that a policy is evaluated with; a null for each time that it is without.
pub(super) fn of(
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
    let custom = || {
        let row = admission.inner.custom.table().find_kind(group, name);
        row.filter(|row| row.version == version)
    };
    let kind = kinds::find_version(group, version, name)
        .or_else(custom)
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
    let read = |json: &[u8]| respond::parse_as(kind, json).map_err(|status| status.to_string());
    let name = object::text(reference, &["name"]);
    let found: Vec<Value> = if name.is_empty() {
        let selector = LabelSelector::from_value(&reference["selector"])?;
        let all = admission.snapshot.range(&kind.storage(), &prefix, None);
        let all: Result<Vec<Value>, String> = all.map(|(_, entry)| read(entry.json())).collect();
        all?.into_iter().filter(|object| selector.matches_object(object)).collect()
    } else {
        let entry = admission.snapshot.get(&kind.storage(), &format!("{prefix}{name}"));
        entry.map(|entry| read(entry.json())).transpose()?.into_iter().collect()
    };
    if found.is_empty() && reference["parameterNotFoundAction"] == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(found)
}
