//! Whether a definition's schemas say what schemas may say: the words of OpenAPI that are taken ([`words`]), the rules of
//! structural schemas ([`structure`]), what is filled in ([`defaults`]), and rules in the expression language.
//!
//! The other rules of definitions are beside their row in the kinds table. It knows no request and no store.

mod defaults;
mod structure;
mod words;

use dray_cel::rules::{self, Reason, Violation};
use dray_machinery::{FieldErrors, Kind, object};
use serde_json::Value;

use super::structural::child;

/// The minor version of the API whose expressions are taken.
pub(crate) const MINOR: u32 = 36;
/// The most fields of a kind that selectors may ask about.
const SELECTABLE_LIMIT: usize = 8;

/// Says what is wrong with the schemas of an object that is a definition; of a definition that was there before (`old`)
/// only with those that have changed.
pub(crate) fn validate(kind: &Kind, definition: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    if !super::is_definition(kind) {
        return;
    }
    let versions = |definition: &Value| -> Vec<Value> {
        object::at(definition, &["spec", "versions"]).as_array().cloned().unwrap_or_default()
    };
    let (now, before) = (versions(definition), old.map(versions).unwrap_or_default());
    // Where all versions have the same, the reference keeps it once for all and names it there.
    let shared = |field: &str| now.iter().all(|version| version[field] == now[0][field]);
    for (index, version) in now.iter().enumerate() {
        let at = |field: &str, together: &str| {
            if shared(field) { format!("spec.{together}") } else { format!("spec.versions[{index}].{field}") }
        };
        let known = before.iter().find(|known| known["name"] == version["name"]);
        let unchanged = |field: &str| known.is_some_and(|known| known[field] == version[field]);
        let first = |field: &str| index == 0 || !shared(field);
        let schema = &version["schema"]["openAPIV3Schema"];
        let says_more = !unchanged("schema") || !unchanged("subresources");
        if schema.is_object() && says_more && (first("schema") || first("subresources")) {
            let path = child(&at("schema", "validation"), "openAPIV3Schema");
            let status = object::at(version, &["subresources", "status"]).is_object();
            self::schema(schema, &path, status, errors);
        }
        let asks_more = !unchanged("selectableFields") || !unchanged("schema");
        if asks_more && (first("selectableFields") || first("schema")) {
            selectable(version, &at("selectableFields", "selectableFields"), errors);
        }
    }
}

/// Says what is wrong with one schema.
fn schema(schema: &Value, path: &str, status: bool, errors: &mut FieldErrors) {
    let mut found = FieldErrors::default();
    if status {
        words::root(schema, path, &mut found);
    }
    if schema["nullable"] == true {
        found.forbidden(child(path, "nullable"), "nullable cannot be true at the root");
    }
    words::check(schema, path, &mut found);
    structure::check(schema, path, &mut found);
    // What follows reads the schema as what it says that it is.
    if found.is_empty() {
        defaults::check(schema, path, &mut found);
        for violation in rules::check(schema, path, MINOR) {
            tell(violation, &mut found);
        }
    }
    errors.append(found);
}

/// Adds what a rule found.
pub(crate) fn tell(violation: Violation, errors: &mut FieldErrors) {
    let Violation { path, reason, value, message } = violation;
    match reason {
        Reason::Required => errors.required(path, message),
        Reason::Forbidden => errors.forbidden(path, message),
        Reason::Duplicate => errors.duplicate(path, value.unwrap_or_default()),
        Reason::NotSupported => errors.unsupported(path, value.unwrap_or_default(), message),
        Reason::Invalid => match value {
            Some(value) => errors.invalid(path, value, message),
            None => errors.invalid_without_value(path, message),
        },
        Reason::Internal => errors.invalid_without_value(path, message),
    }
}

/// Says what is wrong with the fields that selectors may ask about.
fn selectable(version: &Value, path: &str, errors: &mut FieldErrors) {
    let fields = version["selectableFields"].as_array().map_or(&[][..], Vec::as_slice);
    if fields.len() > SELECTABLE_LIMIT {
        errors.too_many(path, fields.len(), SELECTABLE_LIMIT);
    }
    let schema = &version["schema"]["openAPIV3Schema"];
    let mut seen: Vec<&str> = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let asked = object::text(field, &["jsonPath"]);
        let path = format!("{path}[{index}].jsonPath");
        if asked.is_empty() {
            errors.required(path, "");
            continue;
        }
        if seen.contains(&asked) {
            errors.duplicate(path.clone(), asked);
        }
        seen.push(asked);
        match leaf(schema, asked) {
            Err(why) => errors.invalid(path, asked, format!("is an invalid path: {why}")),
            Ok(_) if asked == ".metadata" || asked.starts_with(".metadata.") => {
                errors.invalid(path, asked, "must not point to fields in metadata");
            }
            Ok(leaf) if !matches!(object::text(leaf, &["type"]), "string" | "boolean" | "integer") => {
                let words = "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                             formats are allowed.";
                errors.invalid(path, asked, words);
            }
            Ok(_) => {}
        }
    }
}

/// The part of a schema that a path of names leads to.
fn leaf<'a>(schema: &'a Value, path: &str) -> Result<&'a Value, String> {
    rules::field_path(path, schema)?;
    let names = path.trim_start_matches('.').split('.');
    names
        .into_iter()
        .try_fold(schema, |schema, name| schema["properties"].get(name))
        .ok_or_else(|| "does not refer to a valid field".to_owned())
}
