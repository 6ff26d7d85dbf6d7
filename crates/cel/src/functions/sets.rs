//! Lists as sets, by the equality of the language.

use super::{Caller, Row};
use crate::value::{Fault, List, Outcome, Value, Work, no_such_overload};

pub(super) const SETS: &[Row] = &[
    ("list_sets_contains_list", "sets.contains(list(A), list(A)) -> bool", contains),
    ("list_sets_equivalent_list", "sets.equivalent(list(A), list(A)) -> bool", equivalent),
    ("list_sets_intersects_list", "sets.intersects(list(A), list(A)) -> bool", intersects),
];

fn has_all<'a>(list: &List<'a>, wanted: &List<'a>, work: &mut Work) -> Result<bool, Fault> {
    for element in wanted.iter() {
        if !list.contains(&element?, work)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn contains<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::List(list), Value::List(wanted)] => has_all(list, wanted, caller.work).map(Value::Bool),
        _ => no_such_overload(),
    }
}

fn equivalent<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::List(one), Value::List(two)] => {
            let same = has_all(one, two, caller.work)? && has_all(two, one, caller.work)?;
            Ok(Value::Bool(same))
        }
        _ => no_such_overload(),
    }
}

fn intersects<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let [Value::List(one), Value::List(two)] = arguments else { return no_such_overload() };
    for element in one.iter() {
        if two.contains(&element?, caller.work)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}
