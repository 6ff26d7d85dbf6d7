//! What `kubectl get` prints: the columns of each kind and their cells, as the reference's printers.

mod access;
mod cluster;
mod events;
mod extension;
mod network;
mod pods;
mod policy;
mod services;
mod storage;
mod workloads;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{object, time};

pub(super) use access::*;
pub(super) use cluster::*;
pub(super) use events::*;
pub(super) use extension::*;
pub(super) use network::*;
pub(super) use pods::*;
pub(super) use policy::*;
pub(super) use services::*;
pub(super) use storage::*;
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

/// A column of texts.
const fn text(name: &'static str, description: &'static str) -> Column {
    column(name, "string", description)
}

/// A column of numbers.
const fn count(name: &'static str, description: &'static str) -> Column {
    column(name, "integer", description)
}

const AGE_COLUMN: Column = column(
    "Age",
    "string",
    "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed \
     to be set in happens-before order across separate operations. Clients may not set this value. It is represented \
     in RFC3339 form and is in UTC.",
);

pub(super) const AGE: &[Column] = &[AGE_COLUMN];

/// The columns of kinds for which the reference has none of their own.
pub(super) const CREATED: &[Column] =
    &[column("Created At", "date", "When the server made the object, in UTC. Clients may not set it.")];

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

/// A value as the reference prints it: texts plain, `null` as another text.
fn shown(value: &Value, other: &str) -> String {
    match value {
        Value::Null => other.to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// A switch as the reference prints it.
fn switch(value: &Value) -> &'static str {
    match value.as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    }
}

/// Labels as the reference prints a map of them.
fn labels(value: &Value) -> Value {
    let text =
        value.as_object().map(|labels| crate::selector::LabelSelector::from_labels(labels).to_string());
    or(&text.unwrap_or_default(), "<none>")
}

/// A label selector as the reference prints it.
fn selector_text(value: &Value) -> Value {
    let selector = crate::selector::LabelSelector::from_value(value);
    or(&selector.map_or_else(|_| "<error>".to_owned(), |selector| selector.to_string()), "<none>")
}

/// Joins at most `limit` texts and says how many more there are.
fn shortened(texts: &[String], limit: usize) -> String {
    if texts.len() <= limit {
        return texts.join(",");
    }
    format!("{} + {} more...", texts[..limit].join(","), texts.len() - limit)
}

pub(super) fn name_and_created(object: &Value, _now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(object)), json!(object::meta(object, "creationTimestamp"))]
}

pub(super) fn name_and_age(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(object)), age(object, now)]
}
