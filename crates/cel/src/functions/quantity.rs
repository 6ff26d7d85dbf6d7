//! Quantities of resources, `1.5Gi`: those of the API itself.

use std::cmp::Ordering;

use dray_machinery::quantity::Quantity;

use super::{Caller, Row, text};
use crate::value::{Fault, Hidden, Opaque, Outcome, Value, fault, no_such_overload};

pub(super) const QUANTITIES: &[Row] = &[
    ("string_to_quantity", "quantity(string) -> kubernetes.Quantity", quantity),
    ("is_quantity_string", "isQuantity(string) -> bool", is_quantity),
    ("quantity_sign", "sign(kubernetes.Quantity) -> int", sign),
    (
        "quantity_is_greater_than",
        "kubernetes.Quantity.isGreaterThan(kubernetes.Quantity) -> bool",
        |_, arguments| compared(arguments, |order| Value::Bool(order.is_gt())),
    ),
    (
        "quantity_is_less_than",
        "kubernetes.Quantity.isLessThan(kubernetes.Quantity) -> bool",
        |_, arguments| compared(arguments, |order| Value::Bool(order.is_lt())),
    ),
    ("quantity_compare_to", "kubernetes.Quantity.compareTo(kubernetes.Quantity) -> int", |_, arguments| {
        compared(arguments, |order| Value::Int(order as i64))
    }),
    ("quantity_get_float", "kubernetes.Quantity.asApproximateFloat() -> double", as_float),
    ("quantity_get_int", "kubernetes.Quantity.asInteger() -> int", as_integer),
    ("quantity_is_integer", "kubernetes.Quantity.isInteger() -> bool", is_integer),
    ("quantity_add", "kubernetes.Quantity.add(kubernetes.Quantity) -> kubernetes.Quantity", add),
    ("quantity_add_int", "kubernetes.Quantity.add(int) -> kubernetes.Quantity", add),
    ("quantity_sub", "kubernetes.Quantity.sub(kubernetes.Quantity) -> kubernetes.Quantity", subtract),
    ("quantity_sub_int", "kubernetes.Quantity.sub(int) -> kubernetes.Quantity", subtract),
];

fn hidden<'a>(quantity: Quantity) -> Value<'a> {
    Value::hidden(Opaque::Quantity(quantity))
}

fn quantity<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match text(arguments, 0)?.parse::<Quantity>() {
        Ok(quantity) => Ok(hidden(quantity)),
        Err(error) => fault(error.to_string()),
    }
}

fn is_quantity<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(text(arguments, 0)?.parse::<Quantity>().is_ok()))
}

/// The quantity of an argument, which may be a whole number.
fn of(arguments: &[Value<'_>], index: usize) -> Result<Quantity, Fault> {
    match arguments.get(index) {
        Some(Value::Hidden(Hidden(Opaque::Quantity(quantity)))) => Ok(*quantity),
        Some(Value::Int(number)) => Ok(Quantity::from_units(*number)),
        _ => no_such_overload(),
    }
}

fn sign<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Int(of(arguments, 0)?.cmp(&Quantity::from_units(0)) as i64))
}

fn compared<'a>(arguments: &[Value<'a>], result: fn(Ordering) -> Value<'static>) -> Outcome<'a> {
    Ok(result(of(arguments, 0)?.cmp(&of(arguments, 1)?)))
}

fn as_float<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Double(of(arguments, 0)?.approximate()))
}

fn as_integer<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match of(arguments, 0)?.whole_units() {
        Some(units) => Ok(Value::Int(units)),
        None => fault("cannot convert value to integer"),
    }
}

fn is_integer<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(of(arguments, 0)?.whole_units().is_some()))
}

fn add<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(hidden(of(arguments, 0)?.plus(of(arguments, 1)?)))
}

fn subtract<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(hidden(of(arguments, 0)?.minus(of(arguments, 1)?)))
}
