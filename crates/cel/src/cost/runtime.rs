//! What a call has cost, by the values that it was given.

use super::{AUTHORIZATION, LETTER, LIST, PATTERN_LETTER, scaled, selector};
use crate::value::{Fault, Hidden, Opaque, Value, Work};

/// The size of a value as costs count it.
fn size(value: &Value<'_>) -> u64 {
    match value {
        Value::Optional(Some(value)) => size(value),
        value => value.size().unwrap_or(1),
    }
}

/// The cost of a call. The overload is known where only one could be meant.
pub(crate) fn call(
    function: &str,
    overload: Option<&'static str>,
    arguments: &[Value<'_>],
    result: &Value<'_>,
    work: &mut Work,
) -> Result<u64, Fault> {
    if let Some(cost) = overload.and_then(|overload| by_overload(overload, arguments, result)) {
        return Ok(cost);
    }
    if let Some(cost) = by_function(function, overload, arguments, result, work)? {
        return Ok(cost);
    }
    Ok(standard(overload.unwrap_or_default(), arguments))
}

fn at(arguments: &[Value<'_>], index: usize) -> u64 {
    arguments.get(index).map_or(1, size)
}

/// The letters of an argument, looked at so many times.
fn letters(arguments: &[Value<'_>], index: usize, times: f64) -> u64 {
    scaled(at(arguments, index), times * LETTER)
}

fn pattern(arguments: &[Value<'_>], pattern_length: u64) -> u64 {
    let text = scaled(at(arguments, 0).saturating_add(1), LETTER);
    text.saturating_mul(scaled(pattern_length, PATTERN_LETTER))
}

/// A list whose elements are compared with each other, and a list that is made of it.
fn self_compare(list: Option<&Value<'_>>) -> u64 {
    let Some(Value::List(list)) = list else { return 1 + LIST };
    let count = list.len() as u64;
    let long = list.get(0).is_some_and(|first| matches!(first, Ok(Value::String(_) | Value::Bytes(_))));
    let factor = if long { 2.0 + LETTER } else { 2.0 };
    allocated(count.saturating_mul(count), factor)
}

fn allocated(size: u64, factor: f64) -> u64 {
    let traversal = (size as f64 * factor).min(u64::MAX as f64) as u64;
    traversal.saturating_add(1 + LIST)
}

fn by_overload(overload: &str, arguments: &[Value<'_>], result: &Value<'_>) -> Option<u64> {
    let product = || at(arguments, 0).saturating_mul(at(arguments, 1));
    Some(match overload {
        "list_sets_contains_list" | "list_sets_intersects_list" => product().saturating_add(1),
        "list_sets_equivalent_list" => product().saturating_mul(2).saturating_add(1),
        "list_slice" | "lists_range" | "list_reverse" => allocated(size(result), 1.0),
        "list_flatten" => allocated(at(arguments, 0), 1.0),
        "list_flatten_int" => match arguments.get(1) {
            Some(Value::Int(depth)) => allocated(at(arguments, 0), *depth as f64),
            _ => allocated(at(arguments, 0), 1.0),
        },
        "list_distinct" => self_compare(arguments.first()),
        overload if overload.ends_with("_sort") => self_compare(arguments.first()),
        overload if overload.ends_with("_sortByAssociatedKeys") => self_compare(arguments.get(1)),
        _ => return None,
    })
}

fn by_function(
    function: &str,
    overload: Option<&'static str>,
    arguments: &[Value<'_>],
    result: &Value<'_>,
    work: &mut Work,
) -> Result<Option<u64>, Fault> {
    Ok(Some(match function {
        "check" => AUTHORIZATION,
        "serviceAccount" | "path" | "group" | "resource" | "subresource" | "namespace" | "name"
        | "allowed" | "reason" | "error" | "errored" => 1,
        "fieldSelector" | "labelSelector" => selector(at(arguments, 1)),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => {
            arguments.first().map_or(Ok(0), |value| traversal(value, work))?
        }
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" => {
            letters(arguments, 0, 1.0)
        }
        "replace" | "split" => letters(arguments, 0, 2.0),
        "join" => scaled(size(result), 2.0 * LETTER),
        "find" | "findAll" => pattern(arguments, at(arguments, 1)),
        "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
            letters(arguments, 0, 1.0)
        }
        "ip" if overload == Some("cidr_ip") => 1,
        "ip" => letters(arguments, 0, 1.0),
        "ip.isCanonical" => letters(arguments, 0, 2.0),
        "containsIP" | "containsCIDR" => {
            let own = at(arguments, 0);
            let mut cost = scaled(own + own, LETTER);
            if function == "containsCIDR" {
                cost += scaled(own, LETTER) + 1;
            }
            if matches!(overload, Some("cidr_contains_ip_string" | "cidr_contains_cidr_string")) {
                cost += letters(arguments, 1, 1.0);
            }
            cost
        }
        "validate" => match arguments {
            [Value::Hidden(Hidden(Opaque::Format(format))), text] => {
                pattern(std::slice::from_ref(text), format.pattern_length)
            }
            _ => return Ok(None),
        },
        "masked"
        | "prefixLength"
        | "family"
        | "isUnspecified"
        | "isLoopback"
        | "isLinkLocalMulticast"
        | "isLinkLocalUnicast"
        | "isGlobalUnicast"
        | "format.named"
        | "sign"
        | "asInteger"
        | "isInteger"
        | "asApproximateFloat"
        | "isGreaterThan"
        | "isLessThan"
        | "compareTo"
        | "add"
        | "sub"
        | "major"
        | "minor"
        | "patch"
        | "getScheme"
        | "getHostname"
        | "getHost"
        | "getPort"
        | "getEscapedPath"
        | "getQuery" => 1,
        "_==_" if matches!(arguments.first(), Some(Value::Hidden(_))) => 1,
        _ => return Ok(None),
    }))
}

/// What looking at everything inside of a value costs.
fn traversal(value: &Value<'_>, work: &mut Work) -> Result<u64, Fault> {
    work.spend(1)?;
    let mut cost: u64 = 0;
    match value {
        Value::String(text) => cost = (text.len() as f64 * LETTER) as u64,
        Value::Bytes(bytes) => cost = (bytes.len() as f64 * LETTER) as u64,
        Value::List(list) => {
            for element in list.iter() {
                cost = cost.saturating_add(traversal(&element?, work)?);
            }
        }
        Value::Map(map) => {
            for key in map.keys() {
                cost = cost.saturating_add(traversal(&key.value(), work)?);
                if let Some(value) = map.get(&key).transpose()? {
                    cost = cost.saturating_add(traversal(&value, work)?);
                }
            }
        }
        _ => cost = 1,
    }
    Ok(cost)
}

fn standard(overload: &str, arguments: &[Value<'_>]) -> u64 {
    match overload {
        "starts_with_string" | "ends_with_string" => letters(arguments, 1, 1.0),
        "string_to_bytes" | "bytes_to_string" | "strings_quote" | "string_format" => {
            letters(arguments, 0, 1.0)
        }
        "in_list" => at(arguments, 1),
        "equals" | "not_equals" => scaled(at(arguments, 0).min(at(arguments, 1)), LETTER),
        "add_string" | "add_bytes" => scaled(at(arguments, 0).saturating_add(at(arguments, 1)), LETTER),
        "matches_string" => pattern(arguments, at(arguments, 1)),
        "contains_string" => letters(arguments, 0, 1.0).saturating_mul(letters(arguments, 1, 1.0)),
        other if is_order(other) && (other.ends_with("_string") || other.ends_with("_bytes")) => {
            scaled(at(arguments, 0).min(at(arguments, 1)), LETTER)
        }
        _ => 1,
    }
}

fn is_order(overload: &str) -> bool {
    overload.starts_with("less_") || overload.starts_with("greater_")
}
