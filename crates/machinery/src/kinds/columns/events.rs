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
    let count = event["series"]["count"].as_i64().or(event["count"].as_i64()).unwrap_or(1);
    let when = |fields: &[&[&str]]| {
        let found = fields.iter().map(|path| object::text(event, path)).find(|text| !text.is_empty());
        age_of(found.unwrap_or_default(), now)
    };
    let first = when(&[&["firstTimestamp"], &["eventTime"]]);
    let mut last =
        when(&[&["series", "lastObservedTime"], &["lastTimestamp"], &["firstTimestamp"], &["eventTime"]]);
    if count > 1 && last != first {
        last = format!("{last} (x{count} over {first})");
    }
    let involved = &event["involvedObject"];
    let target = match involved["name"].as_str() {
        Some(name) if !name.is_empty() => {
            format!("{}/{name}", object::text(involved, &["kind"]).to_lowercase())
        }
        _ => object::text(involved, &["kind"]).to_lowercase(),
    };
    let component = match object::text(event, &["source", "component"]) {
        "" => object::text(event, &["reportingComponent"]),
        component => component,
    };
    let source = match object::text(event, &["source", "host"]) {
        "" => component.to_owned(),
        host => format!("{component}, {host}"),
    };
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
