//! Operators: logic, arithmetic without overflow, order, and what is in a list or a map.

use std::cmp::Ordering;

use super::{Caller, Row, bounded, special};
use crate::value::{Fault, Key, Map, Outcome, Timestamp, Value, fault, no_such_overload, ordered, time};

pub(super) const LOGIC: &[Row] = &[
    ("conditional", "_?_:_(bool, A, A) -> A", special),
    ("logical_and", "_&&_(bool, bool) -> bool", special),
    ("logical_or", "_||_(bool, bool) -> bool", special),
    ("logical_not", "!_(bool) -> bool", not),
    ("not_strictly_false", "@not_strictly_false(bool) -> bool", special),
    ("equals", "_==_(A, A) -> bool", special),
    ("not_equals", "_!=_(A, A) -> bool", special),
];

pub(super) const ARITHMETIC: &[Row] = &[
    ("add_bytes", "_+_(bytes, bytes) -> bytes", add),
    ("add_double", "_+_(double, double) -> double", add),
    ("add_duration_duration", "_+_(duration, duration) -> duration", add),
    ("add_duration_timestamp", "_+_(duration, timestamp) -> timestamp", add),
    ("add_timestamp_duration", "_+_(timestamp, duration) -> timestamp", add),
    ("add_int64", "_+_(int, int) -> int", add),
    ("add_list", "_+_(list(A), list(A)) -> list(A)", add),
    ("add_string", "_+_(string, string) -> string", add),
    ("add_uint64", "_+_(uint, uint) -> uint", add),
    ("divide_double", "_/_(double, double) -> double", divide),
    ("divide_int64", "_/_(int, int) -> int", divide),
    ("divide_uint64", "_/_(uint, uint) -> uint", divide),
    ("modulo_int64", "_%_(int, int) -> int", modulo),
    ("modulo_uint64", "_%_(uint, uint) -> uint", modulo),
    ("multiply_double", "_*_(double, double) -> double", multiply),
    ("multiply_int64", "_*_(int, int) -> int", multiply),
    ("multiply_uint64", "_*_(uint, uint) -> uint", multiply),
    ("negate_double", "-_(double) -> double", negate),
    ("negate_int64", "-_(int) -> int", negate),
    ("subtract_double", "_-_(double, double) -> double", subtract),
    ("subtract_duration_duration", "_-_(duration, duration) -> duration", subtract),
    ("subtract_int64", "_-_(int, int) -> int", subtract),
    ("subtract_timestamp_duration", "_-_(timestamp, duration) -> timestamp", subtract),
    ("subtract_timestamp_timestamp", "_-_(timestamp, timestamp) -> duration", subtract),
    ("subtract_uint64", "_-_(uint, uint) -> uint", subtract),
];

/// The rows of one comparison.
macro_rules! comparison {
    ($call:ident, $operator:literal, $name:literal) => {
        [
            (concat!($name, "_bool"), concat!($operator, "(bool, bool) -> bool"), $call),
            (concat!($name, "_int64"), concat!($operator, "(int, int) -> bool"), $call),
            (concat!($name, "_int64_double"), concat!($operator, "(int, double) -> bool"), $call),
            (concat!($name, "_int64_uint64"), concat!($operator, "(int, uint) -> bool"), $call),
            (concat!($name, "_uint64"), concat!($operator, "(uint, uint) -> bool"), $call),
            (concat!($name, "_uint64_double"), concat!($operator, "(uint, double) -> bool"), $call),
            (concat!($name, "_uint64_int64"), concat!($operator, "(uint, int) -> bool"), $call),
            (concat!($name, "_double"), concat!($operator, "(double, double) -> bool"), $call),
            (concat!($name, "_double_int64"), concat!($operator, "(double, int) -> bool"), $call),
            (concat!($name, "_double_uint64"), concat!($operator, "(double, uint) -> bool"), $call),
            (concat!($name, "_string"), concat!($operator, "(string, string) -> bool"), $call),
            (concat!($name, "_bytes"), concat!($operator, "(bytes, bytes) -> bool"), $call),
            (concat!($name, "_timestamp"), concat!($operator, "(timestamp, timestamp) -> bool"), $call),
            (concat!($name, "_duration"), concat!($operator, "(duration, duration) -> bool"), $call),
        ]
    };
}

const LESS: [Row; 14] = comparison!(less, "_<_", "less");
const LESS_EQUALS: [Row; 14] = comparison!(less_equals, "_<=_", "less_equals");
const GREATER: [Row; 14] = comparison!(greater, "_>_", "greater");
const GREATER_EQUALS: [Row; 14] = comparison!(greater_equals, "_>=_", "greater_equals");

pub(super) const ORDER: &[Row] = [LESS, LESS_EQUALS, GREATER, GREATER_EQUALS].as_flattened();

pub(super) const CONTAINERS: &[Row] = &[
    ("index_list", "_[_](list(A), int) -> A", special),
    ("index_map", "_[_](map(A, B), A) -> B", special),
    ("in_list", "@in(A, list(A)) -> bool", is_in),
    ("in_map", "@in(A, map(A, B)) -> bool", is_in),
    ("size_bytes", "size(bytes) -> int", size),
    ("bytes_size", "bytes.size() -> int", size),
    ("size_list", "size(list(A)) -> int", size),
    ("list_size", "list(A).size() -> int", size),
    ("size_map", "size(map(A, B)) -> int", size),
    ("map_size", "map(A, B).size() -> int", size),
    ("size_string", "size(string) -> int", size),
    ("string_size", "string.size() -> int", size),
];

fn not<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::Bool(value)] => Ok(Value::Bool(!value)),
        _ => no_such_overload(),
    }
}

fn overflow<T>() -> Result<T, Fault> {
    fault("integer overflow")
}

fn unsigned_overflow<T>() -> Result<T, Fault> {
    fault("unsigned integer overflow")
}

fn checked<'a>(number: Option<i64>) -> Outcome<'a> {
    number.map_or_else(overflow, |number| Ok(Value::Int(number)))
}

fn checked_unsigned<'a>(number: Option<u64>) -> Outcome<'a> {
    number.map_or_else(unsigned_overflow, |number| Ok(Value::Uint(number)))
}

/// A point in time so many nanoseconds later.
fn later<'a>(from: Timestamp, nanos: i128) -> Outcome<'a> {
    from.later(nanos).map(Value::Timestamp)
}

pub(super) fn add<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::Int(one), Value::Int(two)] => checked(one.checked_add(*two)),
        [Value::Uint(one), Value::Uint(two)] => checked_unsigned(one.checked_add(*two)),
        [Value::Double(one), Value::Double(two)] => Ok(Value::Double(one + two)),
        [Value::String(one), Value::String(two)] => {
            bounded(one.len() + two.len())?;
            Ok(Value::text([&**one, &**two].concat()))
        }
        [Value::Bytes(one), Value::Bytes(two)] => {
            bounded(one.len() + two.len())?;
            Ok(Value::Bytes([&**one, &**two].concat().into()))
        }
        [Value::List(one), Value::List(two)] => {
            bounded(one.len() + two.len())?;
            one.add(two, caller.work)
        }
        [Value::Duration(one), Value::Duration(two)] => {
            time::duration(i128::from(*one) + i128::from(*two)).map(Value::Duration)
        }
        [Value::Timestamp(time), Value::Duration(nanos)]
        | [Value::Duration(nanos), Value::Timestamp(time)] => later(*time, i128::from(*nanos)),
        _ => no_such_overload(),
    }
}

fn subtract<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::Int(one), Value::Int(two)] => checked(one.checked_sub(*two)),
        [Value::Uint(one), Value::Uint(two)] => checked_unsigned(one.checked_sub(*two)),
        [Value::Double(one), Value::Double(two)] => Ok(Value::Double(one - two)),
        [Value::Duration(one), Value::Duration(two)] => {
            time::duration(i128::from(*one) - i128::from(*two)).map(Value::Duration)
        }
        [Value::Timestamp(time), Value::Duration(nanos)] => later(*time, -i128::from(*nanos)),
        [Value::Timestamp(one), Value::Timestamp(two)] => {
            time::duration(one.as_nanoseconds() - two.as_nanoseconds()).map(Value::Duration)
        }
        _ => no_such_overload(),
    }
}

fn multiply<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::Int(one), Value::Int(two)] => checked(one.checked_mul(*two)),
        [Value::Uint(one), Value::Uint(two)] => checked_unsigned(one.checked_mul(*two)),
        [Value::Double(one), Value::Double(two)] => Ok(Value::Double(one * two)),
        _ => no_such_overload(),
    }
}

fn divide<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => fault("division by zero"),
        [Value::Int(one), Value::Int(two)] => checked(one.checked_div(*two)),
        [Value::Uint(one), Value::Uint(two)] => Ok(Value::Uint(one / two)),
        [Value::Double(one), Value::Double(two)] => Ok(Value::Double(one / two)),
        _ => no_such_overload(),
    }
}

fn modulo<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => fault("modulus by zero"),
        [Value::Int(one), Value::Int(two)] => checked(one.checked_rem(*two)),
        [Value::Uint(one), Value::Uint(two)] => Ok(Value::Uint(one % two)),
        _ => no_such_overload(),
    }
}

fn negate<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::Int(number)] => checked(number.checked_neg()),
        [Value::Double(number)] => Ok(Value::Double(-number)),
        _ => no_such_overload(),
    }
}

fn compared<'a>(arguments: &[Value<'a>], wanted: fn(Ordering) -> bool) -> Outcome<'a> {
    match arguments {
        [one, two] => ordered(one, two, wanted),
        _ => no_such_overload(),
    }
}

fn less<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    compared(arguments, Ordering::is_lt)
}

fn less_equals<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    compared(arguments, Ordering::is_le)
}

fn greater<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    compared(arguments, Ordering::is_gt)
}

fn greater_equals<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    compared(arguments, Ordering::is_ge)
}

fn is_in<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [wanted, Value::List(list)] => list.contains(wanted, caller.work).map(Value::Bool),
        [wanted, Value::Map(map)] => Ok(Value::Bool(has_key(map, wanted))),
        _ => no_such_overload(),
    }
}

fn has_key<'a>(map: &Map<'a>, wanted: &Value<'a>) -> bool {
    Key::lookup(wanted).is_some_and(|key| map.get(&key).is_some())
}

fn size<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments.first().and_then(Value::size) {
        Some(size) => Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX))),
        None => no_such_overload(),
    }
}
