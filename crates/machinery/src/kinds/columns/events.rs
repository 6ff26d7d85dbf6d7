//! The cells of events.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, age_of, column, wide};
use crate::object;

/// The first column of events is not their name: [`event`] leaves it out.
pub(in crate::kinds) const EVENT: &[Column] = &[
    column("Last Seen", "string", "The time at which the most recent occurrence of this event was recorded."),
    column("Type", "string", "Type of this event (Normal, Warning), new types could be added in the future"),
    column(
        "Reason",
        "string",
        "This should be a short, machine understandable string that gives the reason for the transition into the object's current status.",
    ),
    column("Object", "string", "The object that this event is about."),
    wide(
        "Subobject",
        "If referring to a piece of an object instead of an entire object, this string should contain a valid JSON/Go field access statement.",
    ),
    wide("Source", "The component reporting this event. Should be a short machine understandable string."),
    column("Message", "string", "A human-readable description of the status of this operation."),
    wide(
        "First Seen",
        "The time at which the event was first recorded. (Time of server receipt is in TypeMeta.)",
    ),
    wide("Count", "The number of times this event has occurred."),
    Column {
        name: "Name",
        kind: "string",
        description: "Name must be unique within a namespace.",
        priority: 1,
    },
];

pub(in crate::kinds) fn event_v1(event: &Value, now: Timestamp) -> Vec<Value> {
    let mut stored = event.clone();
    crate::kinds::events::to_core(&mut stored);
    self::event(&stored, now)
}

pub(in crate::kinds) fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    // An event of which the server knows no count happened once.
    let count = match event.get("series").filter(|series| series.is_object()) {
        Some(series) => series["count"].as_i64().unwrap_or(0),
        None => event["count"].as_i64().filter(|count| *count != 0).unwrap_or(1),
    };
    let when = |fields: &[&[&str]]| {
        let found = fields.iter().map(|path| object::text(event, path)).find(|text| !text.is_empty());
        age_of(found.unwrap_or_default(), now)
    };
    let first = when(&[&["firstTimestamp"], &["eventTime"]]);
    let last =
        when(&[&["series", "lastObservedTime"], &["lastTimestamp"], &["firstTimestamp"], &["eventTime"]]);
    let involved = &event["involvedObject"];
    let target = match involved["name"].as_str() {
        Some(name) if !name.is_empty() => {
            format!("{}/{name}", object::text(involved, &["kind"]).to_lowercase())
        }
        _ => object::text(involved, &["kind"]).to_lowercase(),
    };
    let either = |old: &[&str], new: &str| match object::text(event, old) {
        "" => object::text(event, &[new]).to_owned(),
        text => text.to_owned(),
    };
    let mut source = either(&["source", "component"], "reportingComponent");
    let instance = either(&["source", "host"], "reportingInstance");
    if !instance.is_empty() {
        source = format!("{source}, {instance}");
    }
    vec![
        json!(last),
        json!(object::text(event, &["type"])),
        json!(object::text(event, &["reason"])),
        json!(target),
        json!(object::text(involved, &["fieldPath"])),
        json!(source),
        json!(object::text(event, &["message"]).trim()),
        json!(first),
        json!(count),
        json!(object::name(event)),
    ]
}
