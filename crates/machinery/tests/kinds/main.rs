//! What the kinds default and refuse, as data: an object in YAML, a change to it, and what is wrong then.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod access;
mod apps;
mod batch;
mod cluster;
mod columns;
mod core;
mod extension;
mod network;
mod pod_parts;
mod pods;
mod policy;
mod storage;
mod table;

use dray_machinery::{FieldErrors, Kind, Subresource, kinds, metadata, patch, schema};
use serde_json::{Value, json};

/// A kind of which one object is known to be right.
struct Case {
    kind: &'static Kind,
    base: Value,
}

/// A change of an object, and what is then wrong: "path: words", where "…" at the end leaves out the rest.
type Wrong<'a> = (&'a str, &'a [&'a str]);

fn yaml(text: &str) -> Value {
    serde_yaml_ng::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The case of a kind, as "apps/v1 Deployment".
#[track_caller]
fn case(name: &str, base: &str) -> Case {
    let (version, kind) = name.split_once(' ').unwrap();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = kinds::find_version(group, version, kind).unwrap();
    let case = Case { kind, base: yaml(base) };
    case.expect(&case.made("{}"), &[], "the base");
    case
}

impl Case {
    /// The object as a client sends it, after a change.
    fn sent(&self, change: &str) -> Value {
        let mut object = json!({ "apiVersion": self.kind.api_version(), "kind": self.kind.kind });
        let name = if self.kind.name_rule.check("test").is_empty() { "test" } else { "10.0.0.1" };
        object["metadata"] = json!({ "name": name });
        if self.kind.namespaced {
            object["metadata"]["namespace"] = json!("default");
        }
        patch::merge(&mut object, &self.base);
        patch::merge(&mut object, &yaml(change));
        let unknown = schema::conform(&mut object, schema::find(self.kind.schema).unwrap()).unwrap();
        assert!(unknown.is_empty(), "unknown fields: {unknown:?}");
        object
    }

    /// The object as the server makes it.
    fn made(&self, change: &str) -> Value {
        let mut object = self.sent(change);
        metadata::prepare_create(&mut object, self.kind);
        (self.kind.prepare_create)(&mut object);
        (self.kind.defaults)(&mut object);
        object
    }

    #[track_caller]
    fn expect(&self, object: &Value, expected: &[&str], about: &str) {
        let mut errors = FieldErrors::default();
        metadata::validate(object, self.kind, &mut errors);
        (self.kind.validate)(object, &mut errors);
        (self.kind.validate_create)(object, &mut errors);
        compare(&errors, expected, about);
    }

    /// What is wrong with new objects.
    #[track_caller]
    fn refuses(&self, cases: &[Wrong<'_>]) {
        for (change, expected) in cases {
            self.expect(&self.made(change), expected, change);
        }
    }

    /// What is wrong with changes of an object that is there.
    #[track_caller]
    fn refuses_updates(&self, cases: &[Wrong<'_>]) {
        let old = self.made("{}");
        for (change, expected) in cases {
            let mut new = old.clone();
            patch::merge(&mut new, &yaml(change));
            (self.kind.prepare_update)(&mut new, &old);
            (self.kind.defaults)(&mut new);
            let mut errors = FieldErrors::default();
            (self.kind.validate)(&new, &mut errors);
            (self.kind.validate_update)(&new, &old, &mut errors);
            compare(&errors, expected, change);
        }
    }

    /// What is wrong with changes through a subresource of an object that was changed so before.
    #[track_caller]
    fn refuses_parts(&self, part: Subresource, before: &str, cases: &[Wrong<'_>]) {
        let mut old = self.made("{}");
        patch::merge(&mut old, &yaml(before));
        for (change, expected) in cases {
            let mut new = old.clone();
            patch::merge(&mut new, &yaml(change));
            let mut errors = FieldErrors::default();
            (self.kind.validate_part)(part, &new, &old, &mut errors);
            compare(&errors, expected, change);
        }
    }

    /// What the server fills in: all that is expected is there.
    #[track_caller]
    fn defaults(&self, change: &str, expected: &str) {
        let object = self.made(change);
        let mut merged = object.clone();
        patch::merge(&mut merged, &yaml(expected));
        assert_eq!(object, merged, "{change}");
        // What was filled in once is not filled in otherwise later.
        let mut again = object.clone();
        (self.kind.defaults)(&mut again);
        assert_eq!(again, object);
    }

    /// What `kubectl get` shows, name included.
    #[track_caller]
    fn shows(&self, change: &str, expected: Value) {
        let mut object = self.made("{}");
        patch::merge(&mut object, &yaml(change));
        let made: jiff::Timestamp =
            object["metadata"]["creationTimestamp"].as_str().unwrap().parse().unwrap();
        let cells = (self.kind.cells)(&object, made + std::time::Duration::from_secs(100));
        assert_eq!(Value::Array(cells), expected, "{change}");
    }
}

/// The reasons by which clients tell what is wrong, and the words that each begins with.
const REASONS: &[(&str, &str)] = &[
    ("FieldValueRequired", "Required value"),
    ("FieldValueInvalid", "Invalid value"),
    ("FieldValueNotSupported", "Unsupported value"),
    ("FieldValueDuplicate", "Duplicate value"),
    ("FieldValueForbidden", "Forbidden"),
    ("FieldValueTooLong", "Too long"),
    ("FieldValueTooMany", "Too many"),
    ("FieldValueNotFound", "Not found"),
];

#[track_caller]
fn compare(errors: &FieldErrors, expected: &[&str], about: &str) {
    let causes: Vec<_> = errors.as_slice().iter().map(dray_machinery::FieldError::cause).collect();
    let found: Vec<String> =
        causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
    let fits = found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, expected)| match expected.strip_suffix('…') {
            Some(begin) => found.starts_with(begin),
            None => found == expected,
        });
    assert!(fits, "{about}\n found: {found:#?}\n expected: {expected:#?}");
    for cause in causes {
        let words = REASONS.iter().find(|(reason, _)| *reason == cause.reason).unwrap().1;
        assert!(cause.message.starts_with(words), "{cause:?}");
    }
}
