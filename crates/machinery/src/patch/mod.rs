//! The patches: JSON patch (RFC 6902), merge patch (RFC 7386), and strategic merge.

mod strategic;

use serde_json::Value;

use crate::Status;

pub use strategic::strategic;

/// The most operations of one JSON patch.
const OPERATIONS_LIMIT: usize = 10_000;

/// Applies a JSON patch.
///
/// # Errors
/// 400 for a text that is no patch, 413 for too many operations, 422 for one that does not apply.
pub fn json(object: &Value, patch: &Value) -> Result<Value, Status> {
    if patch.as_array().is_some_and(|operations| operations.len() > OPERATIONS_LIMIT) {
        return Err(Status::too_large(OPERATIONS_LIMIT));
    }
    let operations: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    let mut patched = object.clone();
    json_patch::patch(&mut patched, &operations).map_err(|error| {
        Status::new(
            422,
            crate::Reason::Invalid,
            format!("the server rejected our request due to an error in our request: {error}"),
        )
    })?;
    Ok(patched)
}

/// Applies a merge patch.
pub fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = Value::Object(serde_json::Map::new());
    }
    let Some(fields) = object.as_object_mut() else { return };
    for (key, change) in changes {
        if change.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}
