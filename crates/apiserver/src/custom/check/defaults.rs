//! What a schema fills in is right by the schema itself.

use dray_cel::{cost, rules::Validator};
use dray_machinery::FieldErrors;
use serde_json::Value;

use super::{
    super::structural::{Structural, child, embedded, prune, values},
    MINOR, tell,
};

/// Says what is wrong with what a schema fills in.
pub(super) fn check(schema: &Value, path: &str, errors: &mut FieldErrors) {
    walk(schema, path, false, errors);
}

fn walk(schema: &Value, path: &str, in_meta: bool, errors: &mut FieldErrors) {
    let embedded = schema["x-kubernetes-embedded-resource"] == true;
    let default = &schema["default"];
    if !default.is_null() {
        let mut found = FieldErrors::default();
        one(schema, default, in_meta, &mut found);
        errors.append(found.within(&child(path, "default")));
    }
    // Below keys of maps nothing is filled in that a whole object would lack.
    if schema["items"].is_object() {
        walk(&schema["items"], &child(path, "items"), in_meta, errors);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let in_meta = in_meta || (embedded && prune::META.contains(&name.as_str()));
        walk(property, &format!("{}[{name}]", child(path, "properties")), in_meta, errors);
    }
}

fn one(schema: &Value, default: &Value, in_meta: bool, errors: &mut FieldErrors) {
    let structural = Structural::read(schema);
    if !in_meta {
        let mut pruned = default.clone();
        if !prune::prune(&mut pruned, &structural, structural.embedded).is_empty() {
            errors.invalid("", default.clone(), "must not have unknown fields");
        }
        if let Err(why) = embedded::coerce(&mut pruned, &structural, structural.embedded) {
            errors.invalid("", default.clone(), why);
            return;
        }
        embedded::validate(default, &structural, false, "", errors);
    }
    if errors.is_empty() {
        values::validate(default, None, &structural, "", errors);
        values::unique(default, &structural, "", errors);
    }
    if errors.is_empty()
        && let Some(validator) = Validator::new(schema, structural.embedded, MINOR)
    {
        let mut budget = i64::try_from(cost::PER_OBJECT).unwrap_or(i64::MAX);
        for violation in validator.validate(default, None, &mut budget).violations {
            tell(violation, errors);
        }
    }
}
