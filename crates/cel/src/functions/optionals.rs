//! Values that may be absent.

use super::{Caller, Row, special};
use crate::value::{Outcome, Value, fault, no_such_overload};

pub(super) const OPTIONALS: &[Row] = &[
    ("optional_of", "optional.of(A) -> optional(A)", of),
    ("optional_ofNonZeroValue", "optional.ofNonZeroValue(A) -> optional(A)", of_non_zero),
    ("optional_none", "optional.none() -> optional(A)", none),
    ("optional_value", "optional(A).value() -> A", value),
    ("optional_hasValue", "optional(A).hasValue() -> bool", has_value),
    ("optional_or_optional", "optional(A).or(optional(A)) -> optional(A)", special),
    ("optional_orValue_value", "optional(A).orValue(A) -> A", special),
    ("select_optional_field", "_?._(dyn, string) -> optional(A)", special),
    ("list_optindex_optional_int", "_[?_](list(A), int) -> optional(A)", special),
    ("optional_list_optindex_optional_int", "_[?_](optional(list(A)), int) -> optional(A)", special),
    ("map_optindex_optional_value", "_[?_](map(A, B), A) -> optional(B)", special),
    ("optional_map_optindex_optional_value", "_[?_](optional(map(A, B)), A) -> optional(B)", special),
    ("optional_list_index_int", "_[_](optional(list(A)), int) -> optional(A)", special),
    ("optional_map_index_value", "_[_](optional(map(A, B)), A) -> optional(B)", special),
    ("list_last", "list(A).last() -> optional(A)", last),
    ("list_first", "list(A).first() -> optional(A)", first),
    ("optional_unwrap", "optional.unwrap(list(optional(A))) -> list(A)", unwrap),
    ("optional_unwrapOpt", "list(optional(A)).unwrapOpt() -> list(A)", unwrap),
];

fn of<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    arguments.first().map_or_else(no_such_overload, |value| Ok(Value::some(value.clone())))
}

fn of_non_zero<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [value] if value.is_zero() => Ok(Value::NONE),
        [value] => Ok(Value::some(value.clone())),
        _ => no_such_overload(),
    }
}

fn none<'a>(_: &mut Caller<'_>, _: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::NONE)
}

fn value<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::Optional(Some(value))] => Ok((**value).clone()),
        [Value::Optional(None)] => fault("optional.none() dereference"),
        _ => no_such_overload(),
    }
}

fn has_value<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
        _ => no_such_overload(),
    }
}

fn first<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::List(list)] => Ok(list.get(0).transpose()?.map_or(Value::NONE, Value::some)),
        _ => no_such_overload(),
    }
}

fn last<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::List(list)] => {
            let last = list.len().checked_sub(1).and_then(|last| list.get(last));
            Ok(last.transpose()?.map_or(Value::NONE, Value::some))
        }
        _ => no_such_overload(),
    }
}

fn unwrap<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let [Value::List(list)] = arguments else { return no_such_overload() };
    caller.work.spend(list.len())?;
    let mut found = Vec::new();
    for element in list.iter() {
        match element? {
            Value::Optional(Some(value)) => found.push((*value).clone()),
            Value::Optional(None) => {}
            _ => return fault("value is not optional"),
        }
    }
    Ok(Value::list(found))
}
