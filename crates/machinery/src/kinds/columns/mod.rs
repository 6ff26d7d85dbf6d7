//! What `kubectl get` prints: the columns of each kind and their cells, as the reference's printers.

mod cluster;
mod events;
mod pods;
mod services;
mod workloads;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{object, time};

pub(super) use cluster::*;
pub(super) use events::*;
pub(super) use pods::*;
pub(super) use services::*;
pub(super) use workloads::*;

/// A column after the name.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// OpenAPI type of the cells.
    pub kind: &'static str,
    /// What it means.
    pub description: &'static str,
    /// 0 when always shown, 1 only in wide output.
    pub priority: u8,
}

const fn column(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column { name, kind, description, priority: 0 }
}

const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", description, priority: 1 }
}

const AGE_COLUMN: Column = column(
    "Age",
    "string",
    "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed \
     to be set in happens-before order across separate operations. Clients may not set this value. It is represented \
     in RFC3339 form and is in UTC.",
);

pub(super) const AGE: &[Column] = &[AGE_COLUMN];

fn age_of(text: &str, now: Timestamp) -> String {
    time::parse(text).map_or_else(|| "<unknown>".into(), |from| time::age(from, now))
}

fn age(object: &Value, now: Timestamp) -> Value {
    json!(age_of(object::meta(object, "creationTimestamp"), now))
}

fn or(text: &str, other: &str) -> Value {
    json!(if text.is_empty() { other } else { text })
}

fn items<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    object::at(object, path).as_array().map_or(&[], Vec::as_slice)
}

fn number(object: &Value, path: &[&str]) -> i64 {
    object::at(object, path).as_i64().unwrap_or(0)
}

pub(super) fn name_and_age(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(object)), age(object, now)]
}
