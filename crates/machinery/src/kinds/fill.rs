//! Filling in what a client may leave out.

use serde_json::{Value, json};

/// Sets a text where there is none.
pub(super) fn default_text(value: &mut Value, field: &str, text: &str) {
    if value.is_object() && value[field].as_str().is_none_or(str::is_empty) {
        value[field] = json!(text);
    }
}

/// Sets a value where there is none.
pub(super) fn default_value(value: &mut Value, field: &str, default: Value) {
    if value.is_object() && value[field].is_null() {
        value[field] = default;
    }
}

/// A structure, made where there is none. `value` must be one itself.
pub(super) fn default_object<'a>(value: &'a mut Value, field: &str) -> &'a mut Value {
    crate::object::child(value, field);
    &mut value[field]
}
