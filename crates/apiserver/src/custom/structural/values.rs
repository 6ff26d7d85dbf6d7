//! What is wrong with a value by its schema, in the words of the reference's validator (kube-openapi).

use std::cmp::Ordering;

use dray_machinery::FieldErrors;
use serde_json::{Number, Value, json};

use super::{Entries, Keyed, Structural, Type, child};

/// Holds an object to its schema. What is wrong in a part that is as it was before (`old`) is left alone.
pub(crate) fn validate(
    value: &Value,
    old: Option<&Value>,
    schema: &Structural,
    path: &str,
    errors: &mut FieldErrors,
) {
    errors.append(walk(value, old, schema, path).errors);
}

/// What was found, and how many rules held: of several alternatives none of which fits, the one that comes nearest is told of.
#[derive(Default)]
struct Found {
    errors: FieldErrors,
    held: usize,
}

impl Found {
    fn add(&mut self, other: Found) {
        self.errors.append(other.errors);
        self.held += other.held;
    }

    fn is_right(&self) -> bool {
        self.errors.is_empty()
    }

    fn invalid(&mut self, path: &str, value: impl Into<Value>, what: &str) {
        self.errors.invalid(path, value, format!("{path} in body {what}"));
    }

    /// What is wrong with a whole, for which the reference names no path.
    fn whole(&mut self, what: String) {
        self.errors.invalid("<nil>", "", what);
    }
}

/// The type of a value, as it is told.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The largest number that JSON carries without loss.
const WHOLE: f64 = 9_007_199_254_740_991.0;

/// Whether a number is whole, however it is written.
fn is_whole(number: &Number) -> bool {
    number.is_i64() || number.as_f64().is_some_and(|number| number.fract() == 0.0 && number.abs() <= WHOLE)
}

fn has_type(value: &Value, kind: Type) -> bool {
    match (kind, value) {
        (Type::Object, Value::Object(_))
        | (Type::Array, Value::Array(_))
        | (Type::String, Value::String(_))
        | (Type::Boolean, Value::Bool(_))
        | (Type::Number, Value::Number(_)) => true,
        (Type::Integer, Value::Number(number)) => is_whole(number),
        _ => false,
    }
}

fn walk(value: &Value, old: Option<&Value>, schema: &Structural, path: &str) -> Found {
    let mut found = Found::default();
    if old == Some(value) {
        return found;
    }
    check_type(value, schema, path, &mut found);
    if !schema.limits.choices.is_empty() {
        check_choice(value, &schema.limits.choices, path, &mut found);
    }
    if value.is_null() {
        return found;
    }
    match value {
        Value::String(text) => check_text(text, schema, path, &mut found),
        Value::Number(number) => check_number(number, schema, path, &mut found),
        Value::Array(items) => check_items(items, old, schema, path, &mut found),
        Value::Object(fields) => check_fields(fields, old, schema, path, &mut found),
        _ => {}
    }
    check_junctors(value, old, schema, path, &mut found);
    found
}

fn check_type(value: &Value, schema: &Structural, path: &str, found: &mut Found) {
    if value.is_null() && schema.nullable {
        return;
    }
    let (wanted, fits) = match schema.kind {
        _ if schema.int_or_string => {
            ("integer,string", has_type(value, Type::Integer) || has_type(value, Type::String))
        }
        Some(kind) => (kind.as_str(), has_type(value, kind)),
        None => return,
    };
    if fits {
        found.held += 1;
        return;
    }
    let got = type_of(value);
    found.errors.type_invalid(path, got, format!("{path} in body must be of type {wanted}: {got:?}"));
}

/// Whether two values are the same; numbers may be written in several ways.
fn equal(one: &Value, two: &Value) -> bool {
    match (one, two) {
        (Value::Number(one), Value::Number(two)) => compare(one, two) == Ordering::Equal,
        _ => one == two,
    }
}

fn check_choice(value: &Value, choices: &[Value], path: &str, found: &mut Found) {
    if choices.iter().any(|choice| equal(choice, value)) {
        found.held += 1;
        return;
    }
    let texts: Vec<String> = choices
        .iter()
        .map(|choice| choice.as_str().map_or_else(|| choice.to_string(), str::to_owned))
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    found.errors.not_supported(path, value.clone(), &texts);
}

fn check_text(text: &str, schema: &Structural, path: &str, found: &mut Found) {
    let limits = &schema.limits;
    let length = || text.chars().count() as u64;
    if let Some(most) = limits.max_length.filter(|most| length() > *most) {
        found.errors.too_long(path, usize::try_from(most).unwrap_or(usize::MAX));
    }
    if let Some(least) = limits.min_length.filter(|least| length() < *least) {
        found.invalid(path, text, &format!("should be at least {least} chars long"));
    }
    if let Some(pattern) = limits.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
        found.invalid(path, text, &format!("should match '{}'", pattern.text()));
    }
    if let Some(format) = limits.format.filter(|format| !format.fits(text)) {
        let detail = format!("{path} in body must be of type {}: {text:?}", format.name());
        found.errors.type_invalid(path, text, detail);
    }
    found.held += usize::from(found.is_right());
}

fn compare(one: &Number, two: &Number) -> Ordering {
    if let (Some(one), Some(two)) = (one.as_i128(), two.as_i128()) {
        return one.cmp(&two);
    }
    one.as_f64().zip(two.as_f64()).and_then(|(one, two)| one.partial_cmp(&two)).unwrap_or(Ordering::Equal)
}

fn is_multiple(number: &Number, of: &Number) -> bool {
    match (number.as_i64(), of.as_i64()) {
        (_, Some(0)) => false,
        (Some(number), Some(of)) => number.checked_rem(of).is_none_or(|rest| rest == 0),
        _ => {
            let ratio = number.as_f64().unwrap_or(0.0) / of.as_f64().unwrap_or(1.0);
            // What is too large to be told is not held against anybody.
            !ratio.is_finite() || (ratio - ratio.round()).abs() < 1e-9
        }
    }
}

/// A limit as it is told beside whole numbers: without a fraction that is none.
fn told(limit: &Number) -> String {
    match limit.as_f64() {
        Some(number) if is_whole(limit) && number.fract() == 0.0 => format!("{number:.0}"),
        _ => limit.to_string(),
    }
}

fn check_number(number: &Number, schema: &Structural, path: &str, found: &mut Found) {
    let limits = &schema.limits;
    if let (Some(format), Some(whole)) = (limits.format, number.as_i64())
        && schema.kind == Some(Type::Integer)
        && !format.holds(whole)
    {
        found.whole(format!("Checked value must be of type integer with format {} in {path}", format.name()));
    }
    if let Some(of) = limits.multiple_of.as_ref().filter(|of| !is_multiple(number, of)) {
        found.invalid(path, number.clone(), &format!("should be a multiple of {}", told(of)));
    }
    let sides = [
        (&limits.maximum, limits.exclusive_maximum, Ordering::Greater, "less than"),
        (&limits.minimum, limits.exclusive_minimum, Ordering::Less, "greater than"),
    ];
    for (limit, exclusive, beyond, words) in sides {
        let Some(limit) = limit else { continue };
        let order = compare(number, limit);
        if order == beyond || (exclusive && order == Ordering::Equal) {
            let or_equal = if exclusive { "" } else { " or equal to" };
            found.invalid(path, number.clone(), &format!("should be {words}{or_equal} {}", told(limit)));
        }
    }
    found.held += usize::from(found.is_right());
}

fn check_count(size: usize, most: Option<u64>, least: Option<u64>, of: &str, path: &str, found: &mut Found) {
    if let Some(most) = most.filter(|most| size as u64 > *most) {
        found.errors.too_many(path, size, usize::try_from(most).unwrap_or(usize::MAX));
    }
    if let Some(least) = least.filter(|least| (size as u64) < *least) {
        found.invalid(path, size, &format!("should have at least {least} {of}"));
    }
}

/// The item of before that has the same keys.
fn counterpart<'a>(item: &Value, keys: &[String], old: Option<&'a Value>) -> Option<&'a Value> {
    old?.as_array()?.iter().find(|before| keys.iter().all(|key| before.get(key) == item.get(key)))
}

fn check_items(items: &[Value], old: Option<&Value>, schema: &Structural, path: &str, found: &mut Found) {
    let limits = &schema.limits;
    check_count(items.len(), limits.max_items, limits.min_items, "items", path, found);
    found.held += usize::from(found.is_right());
    let Some(inner) = &schema.items else { return };
    for (index, item) in items.iter().enumerate() {
        let before = match &schema.keyed {
            Keyed::By(keys) => counterpart(item, keys, old),
            _ => None,
        };
        found.add(walk(item, before, inner, &format!("{path}[{index}]")));
    }
}

fn check_fields(
    fields: &serde_json::Map<String, Value>,
    old: Option<&Value>,
    schema: &Structural,
    path: &str,
    found: &mut Found,
) {
    let limits = &schema.limits;
    check_count(fields.len(), limits.max_properties, limits.min_properties, "properties", path, found);
    for name in limits.required.iter().filter(|name| !fields.contains_key(*name)) {
        found.errors.required(child(path, name), "");
    }
    found.held += usize::from(found.is_right());
    for (name, value) in fields {
        if let Some(inner) = schema.field(name) {
            found.add(walk(value, old.and_then(|old| old.get(name)), inner, &child(path, name)));
        }
    }
}

/// Of what was found of several alternatives, that which comes nearest; nothing where one of them fits.
fn nearest(tried: Vec<Found>) -> (usize, Option<Found>) {
    let right = tried.iter().filter(|one| one.is_right()).count();
    if right > 0 {
        return (right, None);
    }
    // Of those that come as near as each other the first.
    let best = tried.into_iter().reduce(|best, next| if next.held > best.held { next } else { best });
    (0, best)
}

fn check_junctors(value: &Value, old: Option<&Value>, schema: &Structural, path: &str, found: &mut Found) {
    let limits = &schema.limits;
    let tried =
        |all: &[Structural]| -> Vec<Found> { all.iter().map(|one| walk(value, None, one, path)).collect() };
    if !limits.any_of.is_empty() {
        match nearest(tried(&limits.any_of)) {
            (0, best) => {
                found.whole(format!("{path:?} must validate at least one schema (anyOf)"));
                best.into_iter().for_each(|best| found.add(best));
            }
            _ => found.held += 1,
        }
    }
    if !limits.one_of.is_empty() {
        let say = |detail: &str| format!("{path:?} must validate one and only one schema (oneOf). {detail}");
        match nearest(tried(&limits.one_of)) {
            (0, best) => {
                found.whole(say("Found none valid"));
                best.into_iter().for_each(|best| found.add(best));
            }
            (1, _) => found.held += 1,
            (many, _) => found.whole(say(&format!("Found {many} valid alternatives"))),
        }
    }
    if !limits.all_of.is_empty() {
        let mut right = 0;
        for one in &limits.all_of {
            let result = walk(value, old, one, path);
            right += usize::from(result.is_right());
            found.add(result);
        }
        if right < limits.all_of.len() {
            let none = if right == 0 { ". None validated" } else { "" };
            found.whole(format!("{path:?} must validate all the schemas (allOf){none}"));
        }
    }
    if limits.not.as_ref().is_some_and(|not| walk(value, None, not, path).is_right()) {
        found.whole(format!("{path:?} must not validate the schema (not)"));
    }
}

/// Says which items of lists that are sets or maps are there twice.
pub(crate) fn unique(value: &Value, schema: &Structural, path: &str, errors: &mut FieldErrors) {
    match value {
        Value::Array(items) => {
            // Texts are found faster than values are compared, and one that is larger than it looks costs no more.
            let mut seen = std::collections::HashSet::new();
            for (index, item) in items.iter().enumerate() {
                let key = match &schema.keyed {
                    Keyed::No => break,
                    Keyed::Set => item.clone(),
                    Keyed::By(keys) => keys.iter().map(|key| (key.clone(), item[key].clone())).collect(),
                };
                if !seen.insert(key.to_string()) {
                    errors.duplicate(format!("{path}[{index}]"), key);
                }
            }
            let Some(inner) = &schema.items else { return };
            for (index, item) in items.iter().enumerate() {
                unique(item, inner, &format!("{path}[{index}]"), errors);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = match (schema.properties.contains_key(name), &schema.entries) {
                    (false, Some(Entries::Of(_))) => format!("{path}[{name}]"),
                    _ => child(path, name),
                };
                if let Some(inner) = schema.field(name) {
                    unique(value, inner, &path, errors);
                }
            }
        }
        _ => {}
    }
}

/// Says what is wrong with what a scale reads and writes: the number at a path, at most as large as it may be.
pub(crate) fn replicas(object: &Value, path: &str, errors: &mut FieldErrors) {
    let segments: Vec<&str> = path.trim_start_matches('.').split('.').collect();
    let value = dray_machinery::object::at(object, &segments);
    if value.is_null() {
        return;
    }
    match value.as_i64() {
        None => {
            let got = type_of(value);
            errors.invalid(
                path,
                json!(0),
                format!("{path} accessor error: the value is of the type {got}, expected int64"),
            );
        }
        Some(number) if number < 0 => {
            errors.invalid(path, number, "should be a non-negative integer");
        }
        Some(number) if i32::try_from(number).is_err() => {
            errors.invalid(path, number, format!("should be less than or equal to {}", i32::MAX));
        }
        Some(_) => {}
    }
}
