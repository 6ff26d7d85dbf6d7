//! Laying a configuration over an object without remembering whose it is, as policies do.

use serde_json::Value;

use super::merge;
use crate::schema::{ListKind, Schema};

/// Merges a configuration into an object.
///
/// # Errors
/// Where it has values that count as a whole: what is left out of them would be lost.
pub fn lay_over(live: &mut Value, applied: &Value, schema: Option<&'static Schema>) -> Result<(), String> {
    let mut whole = Vec::new();
    find_whole(applied, schema, "", &mut whole);
    if !whole.is_empty() {
        let places = whole.join(", ");
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {places}"
        ));
    }
    merge(live, applied, schema);
    Ok(())
}

fn find_whole(value: &Value, schema: Option<&'static Schema>, path: &str, found: &mut Vec<String>) {
    let Some(schema) = schema else { return };
    match value {
        Value::Object(fields) => {
            if schema.is_atomic() {
                found.push(path.to_owned());
            }
            for (name, value) in fields {
                find_whole(value, schema.field(name), &format!("{path}.{name}"), found);
            }
        }
        Value::Array(items) => {
            if schema.list() == ListKind::Atomic {
                found.push(path.to_owned());
            }
            for (index, item) in items.iter().enumerate() {
                find_whole(item, schema.items(), &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::find;
    use serde_json::json;

    fn lay(live: &Value, applied: &Value) -> Result<Value, String> {
        let mut live = live.clone();
        lay_over(&mut live, applied, find("io.k8s.api.core.v1.Pod")).map(|()| live)
    }

    #[test]
    fn configurations_are_laid_over_by_keys() {
        let pod = json!({ "spec": { "containers": [{ "name": "a", "image": "x" }, { "name": "b" }] } });
        let image = json!({ "spec": { "containers": [{ "name": "a", "image": "y" }] } });
        let expected = json!({ "spec": { "containers": [{ "name": "a", "image": "y" }, { "name": "b" }] } });
        assert_eq!(lay(&pod, &image), Ok(expected));
        let labels = json!({ "metadata": { "labels": { "a": "b" } } });
        assert_eq!(lay(&json!({}), &labels), Ok(labels.clone()));
    }

    #[test]
    fn what_counts_as_a_whole_is_not_laid_over() {
        let command = json!({ "spec": { "containers": [{ "name": "a", "command": ["x"] }], "nodeSelector": { "a": "b" } } });
        let told = "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: \
                    .spec.containers[0].command, .spec.nodeSelector";
        assert_eq!(lay(&json!({}), &command), Err(told.to_owned()));
    }
}
