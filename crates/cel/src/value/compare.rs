//! Equality and order. Numbers are compared across their types; other types are never equal.
//!
//! Values can be graphs that share their parts, so that what is small in memory is large to walk: `Work` bounds it.

use std::cmp::Ordering;

use super::{Fault, Hidden, Opaque, Outcome, Value, fault, no_such_overload, numbers::compare_with_double};

/// How many parts of values an evaluation may look at for each unit that it may cost: equality costs a tenth for each
/// element of the outermost list.
const PER_UNIT: u64 = 10;
/// How many it may look at in any case, and at most.
const BOUNDS: (u64, u64) = (100_000, 10_000_000);

/// What is left of an evaluation's work on the inside of values.
#[derive(Debug)]
pub(crate) struct Work {
    left: u64,
}

impl Default for Work {
    fn default() -> Self {
        Work { left: BOUNDS.1 }
    }
}

impl Work {
    /// That of an evaluation that may cost so much.
    pub(crate) fn within(limit: u64) -> Work {
        Work { left: limit.saturating_mul(PER_UNIT).clamp(BOUNDS.0, BOUNDS.1) }
    }

    /// Takes so many steps off.
    pub(crate) fn spend(&mut self, steps: usize) -> Result<(), Fault> {
        match self.left.checked_sub(steps as u64) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => fault("the values are too large to look into"),
        }
    }
}

/// Whether two values are equal.
pub(crate) fn equal<'a>(one: &Value<'a>, two: &Value<'a>, work: &mut Work) -> Result<bool, Fault> {
    work.spend(1)?;
    Ok(match (one, two) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(one), Value::Bool(two)) => one == two,
        (Value::String(one), Value::String(two)) => **one == **two,
        (Value::Bytes(one), Value::Bytes(two)) => one == two,
        (Value::Duration(one), Value::Duration(two)) => one == two,
        (Value::Timestamp(one), Value::Timestamp(two)) => one == two,
        (Value::List(one), Value::List(two)) => one.equals(two, work)?,
        (Value::Map(one), Value::Map(two)) => one.equals(two, work)?,
        (Value::Type(one), Value::Type(two)) => one.name() == two.name(),
        (Value::Optional(one), Value::Optional(two)) => match (one, two) {
            (None, None) => true,
            (Some(one), Some(two)) => equal(one, two, work)?,
            _ => false,
        },
        (Value::Object(one), Value::Object(two)) => {
            one.of.name == two.of.name && one.fields.len() == two.fields.len() && {
                for (name, value) in &one.fields {
                    let Some((_, other)) = two.fields.iter().find(|(other, _)| other == name) else {
                        return Ok(false);
                    };
                    if !equal(value, other, work)? {
                        return Ok(false);
                    }
                }
                true
            }
        }
        (Value::Hidden(Hidden(one)), Value::Hidden(Hidden(two))) => hidden(one, two),
        (one, two) => numbers(one, two) == Some(Some(Ordering::Equal)),
    })
}

fn hidden(one: &Opaque, two: &Opaque) -> bool {
    match (one, two) {
        (Opaque::Url(one), Opaque::Url(two)) => one == two,
        (Opaque::Quantity(one), Opaque::Quantity(two)) => one == two,
        (Opaque::Semver(one), Opaque::Semver(two)) => one.cmp_precedence(two) == Ordering::Equal,
        (Opaque::Format(one), Opaque::Format(two)) => std::ptr::eq(*one, *two),
        (Opaque::Address(one), Opaque::Address(two)) => one == two,
        (Opaque::Network(one), Opaque::Network(two)) => one == two,
        (Opaque::PathCheck(one), Opaque::PathCheck(two)) => one == two,
        (Opaque::GroupCheck(one), Opaque::GroupCheck(two)) => one == two,
        (Opaque::ResourceCheck(one), Opaque::ResourceCheck(two)) => one == two,
        (Opaque::Decision(one), Opaque::Decision(two)) => one == two,
        (Opaque::Authorizer(one), Opaque::Authorizer(two)) => one == two,
        _ => false,
    }
}

/// How two numbers compare: nothing for what is no number, and then for what has no order.
fn numbers(one: &Value<'_>, two: &Value<'_>) -> Option<Option<Ordering>> {
    let whole = |value: &Value<'_>| match value {
        Value::Int(number) => Some(i128::from(*number)),
        Value::Uint(number) => Some(i128::from(*number)),
        _ => None,
    };
    Some(match (one, two) {
        (Value::Double(one), Value::Double(two)) => one.partial_cmp(two),
        (Value::Double(one), two) => compare_with_double(whole(two)?, *one).map(Ordering::reverse),
        (one, Value::Double(two)) => compare_with_double(whole(one)?, *two),
        (one, two) => Some(whole(one)?.cmp(&whole(two)?)),
    })
}

/// How two values of an ordered type compare; nothing where one is not a number.
pub(crate) fn compare(one: &Value<'_>, two: &Value<'_>) -> Result<Option<Ordering>, Fault> {
    Ok(match (one, two) {
        (Value::Bool(one), Value::Bool(two)) => Some(one.cmp(two)),
        (Value::String(one), Value::String(two)) => Some((**one).cmp(two)),
        (Value::Bytes(one), Value::Bytes(two)) => Some(one.cmp(two)),
        (Value::Duration(one), Value::Duration(two)) => Some(one.cmp(two)),
        (Value::Timestamp(one), Value::Timestamp(two)) => Some(one.cmp(two)),
        (one, two) => match numbers(one, two) {
            Some(order) => order,
            None => return no_such_overload(),
        },
    })
}

/// `one < two` and its like: false where there is no order.
pub(crate) fn ordered<'a>(one: &Value<'a>, two: &Value<'a>, wanted: fn(Ordering) -> bool) -> Outcome<'a> {
    Ok(Value::Bool(compare(one, two)?.is_some_and(wanted)))
}
