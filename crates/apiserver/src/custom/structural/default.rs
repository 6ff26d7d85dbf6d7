//! What a schema fills in, and nulls that stand for nothing.

use serde_json::Value;

use super::{Entries, Structural};

/// Takes away the nulls of fields that cannot be null and have nothing to be filled in with.
pub(crate) fn drop_nulls(value: &mut Value, schema: &Structural) {
    match value {
        Value::Object(fields) => fields.retain(|name, value| match schema.field(name) {
            Some(inner) if value.is_null() => inner.nullable || inner.default.is_some(),
            Some(inner) => {
                drop_nulls(value, inner);
                true
            }
            None => true,
        }),
        Value::Array(items) => {
            if let Some(inner) = &schema.items {
                items.iter_mut().for_each(|item| drop_nulls(item, inner));
            }
        }
        _ => {}
    }
}

/// Fills in what is missing, or null where it cannot be null.
pub(crate) fn fill(value: &mut Value, schema: &Structural) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in &schema.properties {
                let Some(default) = &inner.default else { continue };
                if fields.get(name).is_none_or(|value| lacks(value, inner)) {
                    fields.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in fields.iter_mut() {
                let entries = match &schema.entries {
                    Some(Entries::Of(of)) => Some(&**of),
                    _ => None,
                };
                if let Some(inner) = schema.properties.get(name) {
                    fill(value, inner);
                } else if let Some(of) = entries {
                    fill_place(value, of);
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = &schema.items {
                items.iter_mut().for_each(|item| fill_place(item, inner));
            }
        }
        _ => {}
    }
}

/// Whether a null stands for a value that is missing.
fn lacks(value: &Value, schema: &Structural) -> bool {
    value.is_null() && !schema.nullable
}

fn fill_place(value: &mut Value, schema: &Structural) {
    if lacks(value, schema)
        && let Some(default) = &schema.default
    {
        value.clone_from(default);
    }
    fill(value, schema);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_fill_what_is_missing_and_what_is_null() {
        let schema = Structural::read(&json!({ "type": "object", "properties": {
            "a": { "type": "string", "default": "x" },
            "b": { "type": "string", "nullable": true, "default": "y" },
            "c": { "type": "string" },
            "d": { "type": "string", "nullable": true },
            "e": { "type": "object", "default": {}, "properties": { "f": { "type": "integer", "default": 1 } } },
            "g": { "type": "object", "properties": { "h": { "type": "integer", "default": 1 } } },
            "m": { "type": "object", "additionalProperties": { "type": "integer", "default": 7 } },
            "l": { "type": "array", "items": { "type": "object", "properties": { "i": { "default": [1] } } } },
        } }));
        let mut object = json!({ "a": null, "b": null, "c": null, "d": null, "m": { "k": null }, "l": [{}] });
        drop_nulls(&mut object, &schema);
        fill(&mut object, &schema);
        assert_eq!(
            object,
            json!({ "a": "x", "b": null, "d": null, "e": { "f": 1 }, "m": { "k": 7 }, "l": [{ "i": [1] }] })
        );
    }
}
