//! Lists: the Kubernetes library, cel-go's extension in its third version, and what comprehensions gather into.

use std::{cmp::Ordering, collections::BTreeMap};

use super::{Caller, Row, bounded, int, operators::add};
use crate::value::{
    Entries, Fault, Key, List, Map, Outcome, Value, Work, compare, equal, fault, no_such_overload,
};

/// Kubernetes names an overload by its type, twice where it gives that type.
macro_rules! kubernetes {
    ($call:ident, $function:literal, $name:literal, $type:literal, $long:literal, $result:literal) => {
        (concat!("list_", $long, $name), concat!("list(", $type, ").", $function, "() -> ", $result), $call)
    };
}

pub(super) const KUBERNETES: &[Row] = &[
    kubernetes!(is_sorted, "isSorted", "_is_sorted_bool", "int", "int", "bool"),
    kubernetes!(is_sorted, "isSorted", "_is_sorted_bool", "uint", "uint", "bool"),
    kubernetes!(is_sorted, "isSorted", "_is_sorted_bool", "double", "double", "bool"),
    kubernetes!(is_sorted, "isSorted", "_is_sorted_bool", "bool", "bool", "bool"),
    kubernetes!(is_sorted, "isSorted", "_is_sorted_bool", "duration", "duration", "bool"),
    kubernetes!(is_sorted, "isSorted", "_is_sorted_bool", "timestamp", "timestamp", "bool"),
    kubernetes!(is_sorted, "isSorted", "_is_sorted_bool", "string", "string", "bool"),
    kubernetes!(is_sorted, "isSorted", "_is_sorted_bool", "bytes", "bytes", "bool"),
    kubernetes!(sum_int, "sum", "_sum_int", "int", "int", "int"),
    kubernetes!(sum_uint, "sum", "_sum_uint", "uint", "uint", "uint"),
    kubernetes!(sum_double, "sum", "_sum_double", "double", "double", "double"),
    kubernetes!(sum_duration, "sum", "_sum_duration", "duration", "duration", "duration"),
    kubernetes!(max, "max", "_max_int", "int", "int", "int"),
    kubernetes!(max, "max", "_max_uint", "uint", "uint", "uint"),
    kubernetes!(max, "max", "_max_double", "double", "double", "double"),
    kubernetes!(max, "max", "_max_bool", "bool", "bool", "bool"),
    kubernetes!(max, "max", "_max_duration", "duration", "duration", "duration"),
    kubernetes!(max, "max", "_max_timestamp", "timestamp", "timestamp", "timestamp"),
    kubernetes!(max, "max", "_max_string", "string", "string", "string"),
    kubernetes!(max, "max", "_max_bytes", "bytes", "bytes", "bytes"),
    kubernetes!(min, "min", "_min_int", "int", "int", "int"),
    kubernetes!(min, "min", "_min_uint", "uint", "uint", "uint"),
    kubernetes!(min, "min", "_min_double", "double", "double", "double"),
    kubernetes!(min, "min", "_min_bool", "bool", "bool", "bool"),
    kubernetes!(min, "min", "_min_duration", "duration", "duration", "duration"),
    kubernetes!(min, "min", "_min_timestamp", "timestamp", "timestamp", "timestamp"),
    kubernetes!(min, "min", "_min_string", "string", "string", "string"),
    kubernetes!(min, "min", "_min_bytes", "bytes", "bytes", "bytes"),
    ("list_a_index_of_int", "list(A).indexOf(A) -> int", index_of),
    ("list_a_last_index_of_int", "list(A).lastIndexOf(A) -> int", last_index_of),
];

pub(super) const INCLUDES: &[Row] = &[("list_includes_dyn_dyn", "dyn.includes(dyn) -> bool", includes)];

/// The two functions that sort, for one type.
macro_rules! sorting {
    ($type:literal, $long:literal) => {
        [
            (
                concat!("list_", $long, "_sort"),
                concat!("list(", $type, ").sort() -> list(", $type, ")"),
                sort,
            ),
            (
                concat!("list_", $long, "_sortByAssociatedKeys"),
                concat!("list(A).@sortByAssociatedKeys(list(", $type, ")) -> list(A)"),
                sort_by_keys,
            ),
        ]
    };
}

const SORTING: [[Row; 2]; 8] = [
    sorting!("int", "int"),
    sorting!("uint", "uint"),
    sorting!("double", "double"),
    sorting!("bool", "bool"),
    sorting!("duration", "google.protobuf.Duration"),
    sorting!("timestamp", "google.protobuf.Timestamp"),
    sorting!("string", "string"),
    sorting!("bytes", "bytes"),
];

const SHAPING: [[Row; 2]; 3] = [
    [
        ("list_slice", "list(A).slice(int, int) -> list(A)", slice),
        ("list_flatten", "list(list(A)).flatten() -> list(A)", flatten),
    ],
    [
        ("list_flatten_int", "list(dyn).flatten(int) -> list(dyn)", flatten),
        ("lists_range", "lists.range(int) -> list(int)", range),
    ],
    [
        ("list_reverse", "list(A).reverse() -> list(A)", reverse),
        ("list_distinct", "list(A).distinct() -> list(A)", distinct),
    ],
];

const ALL: [[Row; 2]; 11] = {
    let mut all = [SHAPING[0]; 11];
    let mut index = 0;
    while index < 11 {
        all[index] = if index < 3 { SHAPING[index] } else { SORTING[index - 3] };
        index += 1;
    }
    all
};

pub(super) const MORE: &[Row] = ALL.as_flattened();

pub(super) const TWO_VARIABLES: &[Row] = &[
    ("@mapInsert_map_key_value", "cel.@mapInsert(map(A, B), A, B) -> map(A, B)", insert),
    ("@mapInsert_map_map", "cel.@mapInsert(map(A, B), map(A, B)) -> map(A, B)", insert),
];

fn list<'v, 'a>(arguments: &'v [Value<'a>]) -> Result<&'v List<'a>, Fault> {
    match arguments.first() {
        Some(Value::List(list)) => Ok(list),
        _ => no_such_overload(),
    }
}

fn elements<'a>(caller: &mut Caller<'_>, list: &List<'a>) -> Result<Vec<Value<'a>>, Fault> {
    caller.work.spend(list.len())?;
    list.iter().collect()
}

fn is_sorted<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let elements = elements(caller, list(arguments)?)?;
    for pair in elements.windows(2) {
        if compare(&pair[0], &pair[1])? == Some(Ordering::Greater) {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>], zero: Value<'a>) -> Outcome<'a> {
    let elements = elements(caller, list(arguments)?)?;
    elements.into_iter().try_fold(zero, |sum, element| add(caller, &[sum, element]))
}

fn sum_int<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    sum(caller, arguments, Value::Int(0))
}

fn sum_uint<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    sum(caller, arguments, Value::Uint(0))
}

fn sum_double<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    sum(caller, arguments, Value::Double(0.0))
}

fn sum_duration<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    sum(caller, arguments, Value::Duration(0))
}

fn extreme<'a>(
    caller: &mut Caller<'_>,
    arguments: &[Value<'a>],
    name: &str,
    wanted: Ordering,
) -> Outcome<'a> {
    let mut elements = elements(caller, list(arguments)?)?.into_iter();
    let Some(mut found) = elements.next() else { return fault(format!("{name} called on empty list")) };
    for element in elements {
        if compare(&element, &found)? == Some(wanted) {
            found = element;
        }
    }
    Ok(found)
}

fn max<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    extreme(caller, arguments, "max", Ordering::Greater)
}

fn min<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    extreme(caller, arguments, "min", Ordering::Less)
}

fn place<'a>(
    list: &List<'a>,
    wanted: &Value<'a>,
    mut indices: impl Iterator<Item = usize>,
    work: &mut Work,
) -> Outcome<'a> {
    let found = indices.find_map(|index| match list.get(index)? {
        Ok(element) => match equal(&element, wanted, work) {
            Ok(true) => Some(Ok(index as i64)),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        },
        Err(error) => Some(Err(error)),
    });
    Ok(Value::Int(found.transpose()?.unwrap_or(-1)))
}

fn index_of<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::List(list), wanted] => place(list, wanted, 0..list.len(), caller.work),
        _ => no_such_overload(),
    }
}

fn last_index_of<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::List(list), wanted] => place(list, wanted, (0..list.len()).rev(), caller.work),
        _ => no_such_overload(),
    }
}

fn includes<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::List(list), wanted] => list.contains(wanted, caller.work).map(Value::Bool),
        [one, wanted] => equal(one, wanted, caller.work).map(Value::Bool),
        _ => no_such_overload(),
    }
}

fn slice<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let (list, start, end) = (list(arguments)?, int(arguments, 1)?, int(arguments, 2)?);
    let refused = |why: String| fault(format!("cannot slice({start}, {end}), {why}"));
    if start < 0 || end < 0 {
        return refused("negative indexes not supported".to_owned());
    }
    if start > end {
        return refused("start index must be less than or equal to end index".to_owned());
    }
    if (list.len() as u64) < end as u64 {
        return refused(format!("list is length {}", list.len()));
    }
    caller.work.spend((end - start) as usize)?;
    let found: Result<Vec<_>, _> = (start..end).filter_map(|index| list.get(index as usize)).collect();
    found.map(Value::list)
}

fn flatten<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let depth = if arguments.len() > 1 { int(arguments, 1)? } else { 1 };
    if depth < 0 {
        return fault("level must be non-negative");
    }
    let mut found = Vec::new();
    flatten_into(list(arguments)?, depth, &mut found, caller.work)?;
    Ok(Value::list(found))
}

fn flatten_into<'a>(
    list: &List<'a>,
    depth: i64,
    into: &mut Vec<Value<'a>>,
    work: &mut Work,
) -> Result<(), Fault> {
    work.spend(list.len())?;
    for element in list.iter() {
        match element? {
            Value::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, into, work)?,
            element => into.push(element),
        }
    }
    Ok(())
}

fn range<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let count = int(arguments, 0)?.max(0);
    // What would cost too much is not made in the first place.
    if count as u64 > caller.remaining {
        return Err(Fault::CostExceeded);
    }
    bounded(count as usize)?;
    Ok(Value::list((0..count).map(Value::Int).collect()))
}

fn reverse<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let mut elements = elements(caller, list(arguments)?)?;
    elements.reverse();
    Ok(Value::list(elements))
}

fn distinct<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let mut found: Vec<Value<'a>> = Vec::new();
    'elements: for element in elements(caller, list(arguments)?)? {
        for other in &found {
            if equal(other, &element, caller.work)? {
                continue 'elements;
            }
        }
        found.push(element);
    }
    Ok(Value::list(found))
}

fn sort<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let elements = elements(caller, list(arguments)?)?;
    sorted(elements.clone(), elements)
}

fn sort_by_keys<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let [Value::List(list), Value::List(keys)] = arguments else { return no_such_overload() };
    let (elements, keys) = (elements(caller, list)?, elements(caller, keys)?);
    if elements.len() != keys.len() {
        return fault(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} \
             elements respectively",
            elements.len(),
            keys.len()
        ));
    }
    sorted(elements, keys)
}

fn sorted<'a>(elements: Vec<Value<'a>>, keys: Vec<Value<'a>>) -> Outcome<'a> {
    let Some(first) = keys.first() else { return Ok(Value::list(elements)) };
    if compare(first, first).is_err() {
        return fault("list elements must be comparable");
    }
    let kind = std::mem::discriminant(first);
    if keys.iter().any(|key| std::mem::discriminant(key) != kind) {
        return fault("list elements must have the same type");
    }
    let mut pairs: Vec<_> = keys.iter().zip(elements).collect();
    // What is no number has no order, and stays where it is among its equals.
    let total = |key: &Value<'_>| if let Value::Double(number) = key { number.is_nan() } else { false };
    pairs.sort_by(|(one, _), (two, _)| {
        total(one).cmp(&total(two)).then_with(|| compare(one, two).ok().flatten().unwrap_or(Ordering::Equal))
    });
    Ok(Value::list(pairs.into_iter().map(|(_, element)| element).collect()))
}

fn add_entry<'a>(
    into: &mut BTreeMap<Key<'a>, Value<'a>>,
    key: Key<'a>,
    value: Value<'a>,
) -> Result<(), Fault> {
    match into.entry(key) {
        std::collections::btree_map::Entry::Vacant(place) => {
            place.insert(value);
            Ok(())
        }
        std::collections::btree_map::Entry::Occupied(place) => {
            fault(format!("insert failed: key {} already exists", place.key()))
        }
    }
}

fn insert<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match arguments {
        [Value::Map(Map::Owned(entries)), new @ ..] => {
            caller.work.spend(entries.0.len())?;
            insert_in_place(entries.clone(), new, caller.work)
        }
        _ => no_such_overload(),
    }
}

/// Adds entries to a map that nobody else holds, without a copy of it.
pub(crate) fn insert_in_place<'a>(entries: Entries<'a>, new: &[Value<'a>], work: &mut Work) -> Outcome<'a> {
    let mut shared = entries.0;
    work.spend(1)?;
    let map = std::sync::Arc::make_mut(&mut shared);
    match new {
        [key, value] => add_entry(map, Key::new(key)?, value.clone())?,
        [Value::Map(more)] => {
            work.spend(more.len())?;
            for key in more.keys() {
                if let Some(value) = more.get(&key).transpose()? {
                    add_entry(map, key, value)?;
                }
            }
        }
        _ => return no_such_overload(),
    }
    Ok(Value::Map(Map::Owned(Entries(shared))))
}
