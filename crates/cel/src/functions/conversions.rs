//! Conversions between types, each exact or a fault.

use super::{Caller, Row, text};
use crate::value::{
    Hidden, Opaque, Outcome, Timestamp, Value, fault, no_such_overload,
    numbers::go_double,
    time::{parse_duration, parse_timestamp, write_duration},
};

pub(super) const CONVERSIONS: &[Row] = &[
    ("type", "type(A) -> type(A)", type_of),
    ("to_dyn", "dyn(A) -> dyn", same),
    ("bool_to_bool", "bool(bool) -> bool", same),
    ("string_to_bool", "bool(string) -> bool", string_to_bool),
    ("bytes_to_bytes", "bytes(bytes) -> bytes", same),
    ("string_to_bytes", "bytes(string) -> bytes", string_to_bytes),
    ("double_to_double", "double(double) -> double", same),
    ("int64_to_double", "double(int) -> double", to_double),
    ("string_to_double", "double(string) -> double", to_double),
    ("uint64_to_double", "double(uint) -> double", to_double),
    ("duration_to_duration", "duration(duration) -> duration", same),
    ("string_to_duration", "duration(string) -> duration", to_duration),
    ("int64_to_int64", "int(int) -> int", same),
    ("double_to_int64", "int(double) -> int", to_int),
    ("duration_to_int64", "int(duration) -> int", to_int),
    ("string_to_int64", "int(string) -> int", to_int),
    ("timestamp_to_int64", "int(timestamp) -> int", to_int),
    ("uint64_to_int64", "int(uint) -> int", to_int),
    ("string_to_string", "string(string) -> string", same),
    ("bool_to_string", "string(bool) -> string", to_string),
    ("bytes_to_string", "string(bytes) -> string", to_string),
    ("double_to_string", "string(double) -> string", to_string),
    ("duration_to_string", "string(duration) -> string", to_string),
    ("int64_to_string", "string(int) -> string", to_string),
    ("timestamp_to_string", "string(timestamp) -> string", to_string),
    ("uint64_to_string", "string(uint) -> string", to_string),
    ("timestamp_to_timestamp", "timestamp(timestamp) -> timestamp", same),
    ("int64_to_timestamp", "timestamp(int) -> timestamp", to_timestamp),
    ("string_to_timestamp", "timestamp(string) -> timestamp", to_timestamp),
    ("uint64_to_uint64", "uint(uint) -> uint", same),
    ("double_to_uint64", "uint(double) -> uint", to_uint),
    ("int64_to_uint64", "uint(int) -> uint", to_uint),
    ("string_to_uint64", "uint(string) -> uint", to_uint),
];

/// The functions that convert: with a constant, they are evaluated once and for all.
pub(crate) fn is_conversion(function: &str) -> bool {
    const NAMES: [&str; 10] =
        ["bool", "bytes", "double", "dyn", "duration", "int", "string", "timestamp", "type", "uint"];
    NAMES.contains(&function)
}

fn same<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    arguments.first().cloned().map_or_else(no_such_overload, Ok)
}

fn type_of<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    arguments.first().map_or_else(no_such_overload, |value| Ok(Value::Type(value.kind())))
}

fn unfit<'a>(text: &str, wanted: &str) -> Outcome<'a> {
    fault(format!("type conversion error from 'string' to '{wanted}': cannot parse {text:?}"))
}

fn out_of_range<'a>() -> Outcome<'a> {
    fault("range error: the number does not fit")
}

fn string_to_bool<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match text(arguments, 0)? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
        other => unfit(other, "bool"),
    }
}

fn string_to_bytes<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bytes(text(arguments, 0)?.as_bytes().into()))
}

fn to_double<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::Int(number)] => Ok(Value::Double(*number as f64)),
        [Value::Uint(number)] => Ok(Value::Double(*number as f64)),
        [Value::String(text)] => match text.parse::<f64>() {
            Ok(number) => Ok(Value::Double(number)),
            Err(_) => unfit(text, "double"),
        },
        _ => no_such_overload(),
    }
}

fn to_duration<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let text = text(arguments, 0)?;
    parse_duration(text)
        .map_or_else(|| unfit(text, "google.protobuf.Duration"), |nanos| Ok(Value::Duration(nanos)))
}

fn to_timestamp<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::Int(seconds)] => Timestamp::new(i128::from(*seconds), 0).map(Value::Timestamp),
        [Value::String(text)] => match parse_timestamp(text) {
            Some(time) => Ok(Value::Timestamp(time)),
            None => unfit(text, "google.protobuf.Timestamp"),
        },
        _ => no_such_overload(),
    }
}

fn to_int<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::Uint(number)] => {
            i64::try_from(*number).map_or_else(|_| out_of_range(), |number| Ok(Value::Int(number)))
        }
        // The bounds themselves are excluded: doubles that far out are not exact.
        [Value::Double(number)] if *number > i64::MIN as f64 && *number < i64::MAX as f64 => {
            Ok(Value::Int(*number as i64))
        }
        [Value::Double(_)] => out_of_range(),
        [Value::Duration(nanos)] => Ok(Value::Int(*nanos)),
        [Value::Timestamp(time)] => Ok(Value::Int(time.seconds())),
        [Value::String(text)] => match text.parse::<i64>() {
            Ok(number) => Ok(Value::Int(number)),
            Err(_) => unfit(text, "int"),
        },
        _ => no_such_overload(),
    }
}

fn to_uint<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::Int(number)] => {
            u64::try_from(*number).map_or_else(|_| out_of_range(), |number| Ok(Value::Uint(number)))
        }
        [Value::Double(number)] if *number >= 0.0 && *number < u64::MAX as f64 => {
            Ok(Value::Uint(*number as u64))
        }
        [Value::Double(_)] => out_of_range(),
        [Value::String(text)] => match text.parse::<u64>() {
            Ok(number) if !text.starts_with('+') => Ok(Value::Uint(number)),
            _ => unfit(text, "uint"),
        },
        _ => no_such_overload(),
    }
}

pub(super) fn to_string<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let [value] = arguments else { return no_such_overload() };
    match value {
        Value::String(_) => Ok(value.clone()),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Value::text(text)),
            Err(_) => fault("invalid UTF-8 in bytes, cannot convert to string"),
        },
        other => written(other).map_or_else(no_such_overload, |text| Ok(Value::text(text))),
    }
}

/// How a value is written that is not text itself.
pub(super) fn written(value: &Value<'_>) -> Option<String> {
    Some(match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Uint(number) => number.to_string(),
        Value::Double(number) => go_double(*number),
        Value::Duration(nanos) => write_duration(*nanos),
        Value::Timestamp(time) => time.to_string(),
        Value::Type(of) => of.name().to_owned(),
        Value::Hidden(Hidden(Opaque::Address(address))) => address.to_string(),
        Value::Hidden(Hidden(Opaque::Network(network))) => network.to_string(),
        _ => return None,
    })
}
