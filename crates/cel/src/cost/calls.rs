//! The worst cases of calls: those of the Kubernetes libraries by the function, the others by the overload.

use super::{
    AUTHORIZATION, LETTER, LIST, PATTERN_LETTER, Range,
    estimate::{Estimate, Estimator, Operand, Path, Step},
    selector,
};
use crate::{
    syntax::ast::{Literal, Node},
    types::Type,
};

/// The length that the reference counts for the pattern of any named format.
const FORMAT_PATTERN: f64 = 128.0;
/// The longest name of a format.
const LONGEST_FORMAT: u64 = 64;

fn costs(cost: Range) -> Option<Estimate> {
    Some(Estimate { cost, size: None })
}

fn sized(cost: Range, size: Range) -> Option<Estimate> {
    Some(Estimate { cost, size: Some(size) })
}

/// The size of an operand: as the expression shows it, as its declaration allows, or anything.
fn size(estimator: &Estimator<'_, '_>, operand: &Operand<'_>) -> Range {
    operand.size.or_else(|| estimator.declared_size(operand.path)).unwrap_or(Range::ANY)
}

/// The number that an operand is, if it stands in the expression.
fn literal(estimator: &Estimator<'_, '_>, operand: &Operand<'_>) -> Option<i64> {
    match estimator.checked.ast.node(operand.id?) {
        Node::Literal(Literal::Int(number)) => Some(*number),
        _ => None,
    }
}

/// The letters of an operand, looked at so many times.
fn letters(size: Range, times: f64) -> Range {
    size.scaled(times * LETTER)
}

/// A list that is made, of so many elements, each for so much.
fn allocated(size: Range, factor: f64) -> Option<Estimate> {
    sized(size.scaled(factor).plus(Range::exactly(1 + LIST)), size)
}

/// What the Kubernetes libraries and the extensions of lists and sets say of a call.
pub(super) fn estimate(
    estimator: &Estimator<'_, '_>,
    function: &str,
    overload: &str,
    target: Option<&Operand<'_>>,
    operands: &[Operand<'_>],
) -> Option<Estimate> {
    by_overload(estimator, overload, target, operands)
        .or_else(|| by_function(estimator, function, overload, target, operands))
}

fn by_overload(
    estimator: &Estimator<'_, '_>,
    overload: &str,
    target: Option<&Operand<'_>>,
    operands: &[Operand<'_>],
) -> Option<Estimate> {
    let number = |index: usize| operands.get(index).and_then(|operand| literal(estimator, operand));
    match (overload, target, operands) {
        (
            "list_sets_contains_list" | "list_sets_intersects_list" | "list_sets_equivalent_list",
            _,
            [one, two],
        ) => {
            let factor = if overload == "list_sets_equivalent_list" { 2.0 } else { 1.0 };
            costs(size(estimator, one).times(size(estimator, two)).scaled(factor).plus(Range::ONE))
        }
        ("list_slice", Some(list), [_, _]) => {
            let start = number(0).map_or(0, |start| start.max(0) as u64);
            let end = number(1).map_or(size(estimator, list).most, |end| end.max(0) as u64);
            allocated(Range::exactly(end.wrapping_sub(start)), 1.0)
        }
        ("lists_range", None, [_]) => {
            allocated(Range::exactly(number(0).map_or(u64::MAX, |count| count.max(0) as u64)), 1.0)
        }
        ("list_reverse", Some(list), _) => allocated(size(estimator, list), 1.0),
        ("list_flatten", Some(list), _) => allocated(size(estimator, list), 1.0),
        ("list_flatten_int", Some(list), _) => {
            let depth = number(0).map_or(u64::MAX, |depth| depth.max(0) as u64);
            allocated(size(estimator, list), depth as f64)
        }
        ("list_distinct", Some(list), _) => {
            let count = size(estimator, list);
            allocated(count.times(count), 2.0)
        }
        (sort, Some(list), operands)
            if sort.ends_with("_sort") || sort.ends_with("_sortByAssociatedKeys") =>
        {
            let keys = operands.first().unwrap_or(list);
            let long = sort.starts_with("list_string") || sort.starts_with("list_bytes");
            let count = size(estimator, keys);
            allocated(count.times(count), if long { 2.0 + LETTER } else { 2.0 })
        }
        _ => None,
    }
}

/// The elements of a list.
fn elements<'s>(estimator: &Estimator<'_, 's>, list: &Operand<'s>) -> Option<Operand<'s>> {
    let of = (*list.of.parameters().first()?).clone();
    let path = match list.path {
        Path::None => Path::None,
        path => estimator.step(path, Step::Element),
    };
    Some(Operand { id: None, path, of, size: None })
}

fn by_function<'s>(
    estimator: &Estimator<'_, 's>,
    function: &str,
    overload: &str,
    target: Option<&Operand<'s>>,
    operands: &[Operand<'s>],
) -> Option<Estimate> {
    let size = |operand: &Operand<'s>| size(estimator, operand);
    let first = operands.first();
    match function {
        "check" => costs(Range::exactly(AUTHORIZATION)),
        "serviceAccount"
        | "path"
        | "group"
        | "resource"
        | "subresource"
        | "namespace"
        | "name"
        | "allowed"
        | "reason"
        | "error"
        | "errored"
        | "masked"
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
        | "getQuery" => costs(Range::ONE),
        "fieldSelector" | "labelSelector" => {
            let length = size(first?);
            costs(Range { least: selector(length.least), most: selector(length.most) })
        }
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => {
            let target = target?;
            let count = size(target);
            match elements(estimator, target) {
                Some(element) => {
                    let mut each = Range::ONE;
                    if matches!(element.of, Type::String | Type::Bytes) {
                        each = each.plus(letters(size(&element), 1.0));
                    }
                    costs(count.times(each))
                }
                None if function == "includes" => costs(count),
                None => costs(letters(count, 1.0)),
            }
        }
        "url" | "jsonpatch.escapeKey" => sized(letters(size(first?), 1.0), size(first?)),
        "lowerAscii" | "upperAscii" | "substring" | "trim" => {
            sized(letters(size(target?), 1.0), size(target?))
        }
        "replace" => {
            let [old, new, ..] = operands else { return None };
            let own = size(target?);
            sized(letters(own, 2.0), replaced(own, size(old), size(new)))
        }
        "split" => {
            let own = size(target?);
            let limit = operands.get(1).and_then(|limit| literal(estimator, limit));
            sized(letters(own, 2.0), Range::upto(limit.map_or(own.most, |limit| limit as u64)))
        }
        "join" => {
            let count = size(target?);
            let mut length =
                elements(estimator, target?).map_or(Range::NONE, |element| count.times(size(&element)));
            if let Some(separator) = first {
                let between =
                    Range { least: count.least.saturating_sub(1), most: count.most.saturating_sub(1) };
                length = length.plus(size(separator).times(between));
            }
            sized(letters(length, 1.0), length)
        }
        "find" | "findAll" => {
            let own = size(target?);
            let cost = letters(own.plus(Range::ONE), 1.0).times(size(first?).scaled(PATTERN_LETTER));
            sized(cost, Range::upto(own.most))
        }
        "ip" if overload == "cidr_ip" => costs(Range::ONE),
        "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
            costs(letters(size(first?), 1.0))
        }
        "ip.isCanonical" => costs(letters(size(first?), 2.0)),
        "containsIP" | "containsCIDR" => {
            let address = Range { least: 4, most: 16 };
            let mut cost = letters(address.plus(address), 1.0);
            if function == "containsCIDR" {
                cost = cost.plus(letters(address, 1.0)).plus(Range::ONE);
            }
            if matches!(overload, "cidr_contains_ip_string" | "cidr_contains_cidr_string") {
                cost = cost.plus(letters(size(first?), 1.0));
            }
            costs(cost)
        }
        "validate" => costs(letters(size(first?), 1.0).scaled(FORMAT_PATTERN * PATTERN_LETTER)),
        "_==_" => equality(operands),
        _ => None,
    }
}

/// Equality of what only functions look into.
fn equality(operands: &[Operand<'_>]) -> Option<Estimate> {
    let [one, two] = operands else { return None };
    let Type::Opaque(name) = one.of else { return None };
    if one.of != two.of {
        return None;
    }
    match name {
        "kubernetes.NamedFormat" => costs(letters(Range { least: 1, most: LONGEST_FORMAT }, 1.0)),
        "kubernetes.URL" => {
            let size = two.size.unwrap_or(Range::ONE);
            costs(letters(Range { least: 1, most: size.most }, 1.0))
        }
        _ => costs(Range::ONE),
    }
}

/// The size of a text in which something is replaced.
fn replaced(own: Range, old: Range, new: Range) -> Range {
    let (mut count, mut kept) = (Range::NONE, Range::NONE);
    if old.least == 0 {
        count.most = own.most.saturating_add(1);
        kept.most = own.most;
    } else if new.most <= old.least {
        kept.most = own.most;
    } else {
        count.most = (own.most as f64 / old.least as f64).ceil() as u64;
    }
    if old.most == 0 {
        count.least = own.least.saturating_add(1);
        kept.least = own.least;
    } else if old.most <= new.least {
        kept.least = own.least;
    } else {
        count.least = (own.least as f64 / old.most as f64).ceil() as u64;
    }
    count.times(new).plus(kept)
}

/// What the language itself says of a call.
pub(super) fn standard(overload: &str, target: Option<&Operand<'_>>, operands: &[Operand<'_>]) -> Estimate {
    let of = |operand: &Operand<'_>| operand.size.unwrap_or(Range::ANY);
    let estimate = match (overload, target, operands) {
        ("string_format", Some(target), _) => costs(letters(of(target), 1.0)),
        ("string_to_bytes", _, [text]) => {
            let size = of(text);
            sized(letters(size, 1.0), Range { least: size.least, most: size.most.saturating_mul(4) })
        }
        ("bytes_to_string", _, [bytes]) => {
            let size = of(bytes);
            sized(letters(size, 1.0), Range { least: size.least / 4, most: size.most })
        }
        ("strings_quote", _, [text]) => {
            let size = of(text);
            let quoted = Range {
                least: size.least.saturating_add(2),
                most: size.most.saturating_mul(2).saturating_add(2),
            };
            sized(letters(size, 1.0), quoted)
        }
        ("starts_with_string" | "ends_with_string", _, [part]) => costs(letters(of(part), 1.0)),
        ("in_list", _, [_, list]) => costs(of(list)),
        ("matches_string", Some(target), [pattern]) => {
            costs(letters(of(target).plus(Range::ONE), 1.0).times(of(pattern).scaled(PATTERN_LETTER)))
        }
        ("contains_string", Some(target), [part]) => {
            costs(letters(of(target), 1.0).times(letters(of(part), 1.0)))
        }
        (overload, _, [one, two]) if is_comparison(overload) => {
            let most = of(one).most.min(of(two).most);
            costs(letters(Range { least: u64::from(most > 0), most }, 1.0))
        }
        _ => None,
    };
    estimate.unwrap_or(Estimate { cost: Range::ONE, size: None })
}

fn is_comparison(overload: &str) -> bool {
    let is_order = overload.starts_with("less_") || overload.starts_with("greater_");
    matches!(overload, "equals" | "not_equals")
        || (is_order && (overload.ends_with("_string") || overload.ends_with("_bytes")))
}
