//! That no kind is missing, and that rows are whole.

use std::collections::BTreeSet;

use dray_machinery::{Subresource, kinds, schema};

/// What is read and written through subresources only.
const OF_SUBRESOURCES: &[&str] = &[
    "io.k8s.api.authentication.v1.TokenRequest",
    "io.k8s.api.autoscaling.v1.Scale",
    "io.k8s.api.core.v1.Binding",
    "io.k8s.api.policy.v1.Eviction",
];

#[test]
fn every_stable_kind_has_a_row() {
    let definitions = schema::definitions();
    let mut known = 0;
    for (name, definition) in definitions.as_object().unwrap() {
        let properties = &definition["properties"];
        let metadata = properties["metadata"]["$ref"].as_str().unwrap_or_default();
        let is_kind = properties["apiVersion"].is_object() && properties["kind"].is_object();
        if !is_kind || !metadata.ends_with("ObjectMeta") || OF_SUBRESOURCES.contains(&name.as_str()) {
            continue;
        }
        known += 1;
        assert!(kinds::all().iter().any(|kind| kind.schema == name), "{name} has no row");
    }
    assert_eq!(known, kinds::all().len());
    assert!(known > 60, "the schemas are not those of a whole release");
}

#[test]
fn rows_are_whole_and_their_own() {
    let mut seen = BTreeSet::new();
    for kind in kinds::all() {
        assert!(seen.insert((kind.group, kind.version, kind.plural)), "{} is there twice", kind.plural);
        assert_eq!(kind.singular, kind.kind.to_lowercase());
        assert!(kind.schema.ends_with(&format!(".{}.{}", kind.version, kind.kind)), "{}", kind.schema);
        let cells = (kind.cells)(&serde_json::json!({}), jiff::Timestamp::UNIX_EPOCH);
        // Events alone do not begin with their name.
        let name = usize::from(kind.kind != "Event");
        assert_eq!(cells.len(), kind.columns.len() + name, "{}", kind.kind);
        let has_status = schema::find(kind.schema).and_then(|schema| schema.field("status")).is_some();
        let served = kind.has(Subresource::Status) || kind.question || kind.read_only;
        assert!(!has_status || served, "{} has a status that nobody can write", kind.kind);
    }
}

#[test]
fn no_rule_falls_over_an_empty_object() {
    for kind in kinds::all() {
        for text in
            ["{}", "{spec: {}}", "{spec: null, metadata: null, status: null}", "{spec: [], webhooks: 1}"]
        {
            let mut object = super::yaml(text);
            let old = object.clone();
            (kind.prepare_create)(&mut object);
            (kind.defaults)(&mut object);
            (kind.prepare_update)(&mut object, &old);
            let mut errors = dray_machinery::FieldErrors::default();
            (kind.validate)(&object, &mut errors);
            (kind.validate_create)(&object, &mut errors);
            (kind.validate_update)(&object, &old, &mut errors);
            for part in kind.subresources {
                (kind.validate_part)(*part, &object, &old, &mut errors);
            }
        }
    }
}
