//! The values and types of the specification's tests, and how both sides are written to be compared.

use std::sync::Arc;

use dray_cel::{List, Type, Value};

use crate::textproto::{Field, Message};

fn first(message: &Message) -> Option<(&str, &Field)> {
    message.0.first().map(|(name, field)| (name.as_str(), field))
}

fn word(field: &Field) -> &str {
    match field {
        Field::Text(_, text) => text,
        Field::Word(word) => word,
        Field::Message(_) => "",
    }
}

fn double(word: &str) -> f64 {
    match word.to_ascii_lowercase().trim_end_matches("inity") {
        "inf" => f64::INFINITY,
        "-inf" => f64::NEG_INFINITY,
        "nan" => f64::NAN,
        other => other.parse().expect("the value is well formed"),
    }
}

fn write_double(number: f64) -> String {
    if number.is_nan() { "NaN".to_owned() } else { format!("{number:?}") }
}

/// An expected value as text; nothing where JSON has no such value.
pub(crate) fn shown(message: &Message) -> Option<String> {
    let (name, field) = first(message)?;
    Some(match (name, field) {
        ("null_value", _) => "null".to_owned(),
        ("bool_value" | "int64_value", field) => word(field).to_owned(),
        ("uint64_value", field) => format!("{}u", word(field)),
        ("double_value", field) => write_double(double(word(field))),
        ("string_value", Field::Text(_, text)) => format!("{text:?}"),
        ("bytes_value", Field::Text(bytes, _)) => format!("b{bytes:?}"),
        ("type_value", field) => format!("type {}", word(field)),
        ("list_value", Field::Message(list)) => {
            let elements: Option<Vec<String>> = list.messages("values").map(shown).collect();
            format!("[{}]", elements?.join(", "))
        }
        ("map_value", Field::Message(map)) => {
            let mut entries = Vec::new();
            for entry in map.messages("entries") {
                entries.push(format!(
                    "{}: {}",
                    shown(entry.message("key")?)?,
                    shown(entry.message("value")?)?
                ));
            }
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        ("object_value", Field::Message(any)) => {
            let (name, Field::Message(of)) = first(any)? else { return None };
            let number = |name: &str| {
                of.text(name).map_or(0, |text| text.parse::<i128>().expect("the value is well formed"))
            };
            let (seconds, nanos) = (number("seconds"), number("nanos"));
            match name.rsplit('.').next() {
                Some("Duration") => format!("{}ns", seconds * 1_000_000_000 + nanos),
                Some("Timestamp") => dray_cel::Timestamp::new(seconds, nanos).ok()?.to_string(),
                _ => return None,
            }
        }
        _ => return None,
    })
}

/// A value of ours as text.
pub(crate) fn show(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Uint(number) => format!("{number}u"),
        Value::Double(number) => write_double(*number),
        Value::String(text) => format!("{:?}", &**text),
        Value::Bytes(bytes) => format!("b{bytes:?}"),
        Value::Duration(nanos) => format!("{nanos}ns"),
        Value::Timestamp(time) => time.to_string(),
        Value::Type(of) => format!("type {}", type_name(of)),
        Value::List(list) => {
            let elements: Vec<String> =
                list.iter().map(|element| show(&element.expect("the value is well formed"))).collect();
            format!("[{}]", elements.join(", "))
        }
        Value::Map(map) => {
            let entries = map.entries().map(|(key, value)| {
                format!("{}: {}", show(&key), show(&value.expect("the value is well formed")))
            });
            let mut entries: Vec<String> = entries.collect();
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        other => format!("{other:?}"),
    }
}

fn type_name(of: &Type) -> String {
    match of {
        Type::Null => "null_type".to_owned(),
        Type::Duration => "google.protobuf.Duration".to_owned(),
        Type::Timestamp => "google.protobuf.Timestamp".to_owned(),
        other => other.to_string().split('(').next().unwrap_or_default().to_owned(),
    }
}

/// A value to bind.
pub(crate) fn value(message: &Message) -> Option<Value<'static>> {
    let (name, field) = first(message)?;
    Some(match (name, field) {
        ("null_value", _) => Value::Null,
        ("bool_value", field) => Value::Bool(word(field) == "true"),
        ("int64_value", field) => Value::Int(word(field).parse().expect("the value is well formed")),
        ("uint64_value", field) => Value::Uint(word(field).parse().expect("the value is well formed")),
        ("double_value", field) => Value::Double(double(word(field))),
        ("string_value", field) => Value::String(dray_cel::Text::Shared(word(field).into())),
        ("bytes_value", Field::Text(bytes, _)) => Value::Bytes(bytes.as_slice().into()),
        ("list_value", Field::Message(list)) => {
            let elements: Option<Vec<_>> = list.messages("values").map(value).collect();
            Value::List(List::Owned(Arc::new(elements?)))
        }
        ("map_value", Field::Message(map)) => {
            let entries = map.messages("entries");
            let entries: Option<Vec<_>> = entries
                .map(|entry| Some((value(entry.message("key")?)?, value(entry.message("value")?)?)))
                .collect();
            Value::map_of(entries?).ok()?
        }
        _ => return None,
    })
}

/// A declared type; nothing where it is a message's.
pub(crate) fn declared(message: &Message) -> Option<Type> {
    let (name, field) = first(message)?;
    Some(match (name, field) {
        ("primitive", field) => match word(field) {
            "BOOL" => Type::Bool,
            "INT64" => Type::Int,
            "UINT64" => Type::Uint,
            "DOUBLE" => Type::Double,
            "STRING" => Type::String,
            "BYTES" => Type::Bytes,
            _ => return None,
        },
        ("dyn", _) => Type::Dyn,
        ("null", _) => Type::Null,
        ("well_known", field) => match word(field) {
            "TIMESTAMP" => Type::Timestamp,
            "DURATION" => Type::Duration,
            _ => return None,
        },
        ("list_type", Field::Message(of)) => Type::list(declared(of.message("elem_type")?)?),
        ("map_type", Field::Message(of)) => {
            Type::map(declared(of.message("key_type")?)?, declared(of.message("value_type")?)?)
        }
        ("type", Field::Message(of)) => Type::Type(declared(of).map(Arc::new)),
        ("abstract_type", Field::Message(of)) if of.text("name") == Some("optional_type") => {
            Type::optional(declared(of.message("parameter_types")?)?)
        }
        _ => return None,
    })
}

/// A deduced type as text.
pub(crate) fn deduced(message: &Message) -> Option<String> {
    declared(message).map(|of| of.to_string())
}
