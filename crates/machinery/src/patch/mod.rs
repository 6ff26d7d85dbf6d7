//! The patches: JSON patch (RFC 6902), merge patch (RFC 7386), and strategic merge.

mod strategic;

use json_patch::PatchOperation;
use serde_json::Value;

use crate::Status;

pub use strategic::strategic;

/// The most operations of one JSON patch.
const OPERATIONS_LIMIT: usize = 10_000;
/// The most bytes that the copies of one JSON patch make: copies of copies double with every operation.
const COPIES_LIMIT: usize = 3 * 1024 * 1024;
/// The deepest that a JSON patch nests values; no text that is read goes deeper.
const DEPTH_LIMIT: usize = 128;

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
    let mut copied = 0_usize;
    for (index, operation) in operations.0.iter().enumerate() {
        check(&patched, operation, &mut copied)?;
        json_patch::patch(&mut patched, std::slice::from_ref(operation)).map_err(|mut error| {
            error.operation = index;
            Status::new(
                422,
                crate::Reason::Invalid,
                format!("the server rejected our request due to an error in our request: {error}"),
            )
        })?;
    }
    Ok(patched)
}

/// Refuses an operation that would make the object larger or deeper than requests may be.
fn check(object: &Value, operation: &PatchOperation, copied: &mut usize) -> Result<(), Status> {
    let (path, value) = match operation {
        PatchOperation::Add(add) => (&add.path, Some(&add.value)),
        PatchOperation::Replace(replace) => (&replace.path, Some(&replace.value)),
        PatchOperation::Move(moved) => (&moved.path, object.pointer(moved.from.as_str())),
        PatchOperation::Copy(copy) => (&copy.path, object.pointer(copy.from.as_str())),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(()),
    };
    // One that is not there is an error of the operation.
    let Some(value) = value else { return Ok(()) };
    if matches!(operation, PatchOperation::Copy(_)) {
        *copied += size(value);
        if *copied > COPIES_LIMIT {
            return Err(Status::too_large(COPIES_LIMIT));
        }
    }
    if path.count().saturating_add(depth(value)) > DEPTH_LIMIT {
        return Err(Status::too_large(DEPTH_LIMIT));
    }
    Ok(())
}

/// About the bytes of a value's text.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(size).sum::<usize>() + 2,
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| key.len() + 4 + size(value)).sum::<usize>() + 2
        }
        Value::String(text) => text.len() + 3,
        _ => 4,
    }
}

/// How many values lie in one another.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 1,
    }
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

#[cfg(test)]
mod tests {
    use super::{depth, json as apply};
    use serde_json::{Value, json};

    #[test]
    fn cve_2019_11253_copies_of_copies_are_bounded() {
        let object = json!({ "data": { "a": ["x"] } });
        let copies = |count| {
            let copy = json!({ "op": "copy", "from": "/data/a", "path": "/data/a/-" });
            Value::Array(vec![copy; count])
        };
        let few = apply(&object, &copies(3)).unwrap();
        assert_eq!(few["data"]["a"][3][1], json!(["x"]));
        assert_eq!(apply(&object, &copies(60)).unwrap_err().code, 413);
    }

    #[test]
    fn cve_2019_11253_patches_do_not_nest_without_end() {
        let nested = |depth| (0..depth).fold(json!("x"), |value, _| json!([value]));
        let object = json!({ "a": "x" });
        let add = |path: &str, depth| json!({ "op": "add", "path": path, "value": nested(depth) });
        let one = apply(&object, &json!([add("/a", 100)])).unwrap();
        assert_eq!(depth(&one), 102);
        let deeper = format!("/a{}", "/0".repeat(100));
        assert_eq!(apply(&one, &json!([add(&deeper, 100)])).unwrap_err().code, 413);
        // A value moved into its neighbour, again and again.
        let moves: Vec<Value> = (0..200)
            .flat_map(|_| {
                [
                    json!({ "op": "add", "path": "/b", "value": nested(20) }),
                    json!({ "op": "move", "from": "/a", "path": format!("/b{}", "/0".repeat(20)) }),
                    json!({ "op": "move", "from": "/b", "path": "/a" }),
                ]
            })
            .collect();
        assert_eq!(apply(&object, &Value::Array(moves)).unwrap_err().code, 413);
    }
}
