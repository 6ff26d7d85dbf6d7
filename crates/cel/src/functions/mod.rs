//! The functions of the language and of the Kubernetes libraries, as tables: an overload is its name in the reference
//! (costs go by it), its signature, and what it does.
//!
//! Functions know values and nothing of expressions. What decides which of its arguments are evaluated is no function but
//! part of the evaluator; the tables only declare it.

pub(crate) mod authorizer;
pub(crate) mod conversions;
mod format;
pub(crate) mod formats;
mod lists;
pub(crate) mod network;
mod operators;
mod optionals;
mod quantity;
pub(crate) mod regexes;
pub(crate) mod semver;
mod sets;
mod strings;
mod times;
pub(crate) mod url;

use std::{collections::HashMap, fmt, sync::LazyLock};

pub(crate) use format::check;
pub(crate) use lists::insert_in_place;

use crate::{
    types::{
        Type,
        signature::{Signature, signature},
    },
    value::{Fault, Hidden, Outcome, Value, Work, fault},
};

/// The longest text or list that a function may make, in bytes or elements.
pub(crate) const LARGEST_RESULT: usize = 16 * 1024 * 1024;

/// What functions may use of the evaluation that calls them.
pub(crate) struct Caller<'c> {
    pub(crate) work: &'c mut Work,
    /// What the evaluation may still cost: nothing larger is worth being made.
    pub(crate) remaining: u64,
    pub(crate) patterns: &'c mut regexes::Patterns,
}

/// What a function does.
pub(crate) type Call = for<'a> fn(&mut Caller<'_>, &[Value<'a>]) -> Outcome<'a>;

/// A row of a library's table: the name of the overload, its signature, what it does.
pub(crate) type Row = (&'static str, &'static str, Call);

/// Groups of functions that are on or off together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Library {
    Standard,
    Optionals,
    Strings,
    Lists,
    MoreLists,
    Includes,
    Regexes,
    Urls,
    Quantities,
    Networks,
    Formats,
    Authorizer,
    Selectors,
    Semver,
    Sets,
    TwoVariables,
    JsonPatch,
}

/// One way to call a function.
pub(crate) struct Overload {
    pub(crate) id: &'static str,
    pub(crate) library: Library,
    pub(crate) signature: Signature,
    pub(crate) call: Call,
}

impl fmt::Debug for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)
    }
}

impl Overload {
    /// Whether it takes values of these types.
    pub(crate) fn takes(&self, arguments: &[Value<'_>]) -> bool {
        arguments.len() == self.signature.parameters.len()
            && self.signature.parameters.iter().zip(arguments).all(|(wanted, value)| is_a(value, wanted))
    }
}

/// Whether a value is of a type, as far as one sees from the outside.
fn is_a(value: &Value<'_>, wanted: &Type) -> bool {
    match (wanted, value) {
        (Type::Dyn | Type::Parameter(_), _) => true,
        (Type::Opaque(name), Value::Hidden(Hidden(of))) => *name == of.name(),
        (Type::Object(_), Value::Map(_) | Value::Object(_)) => true,
        (Type::Map(_), Value::Map(_)) => true,
        (Type::List(of), Value::List(list)) => match &**of {
            Type::Dyn | Type::Parameter(_) | Type::List(_) | Type::Map(_) | Type::Optional(_) => true,
            of => list.get(0).is_none_or(|first| first.is_ok_and(|first| is_a(&first, of))),
        },
        (wanted, value) => std::mem::discriminant(wanted) == std::mem::discriminant(&value.kind()),
    }
}

static TABLE: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(|| {
    let libraries: [(Library, &[Row]); 22] = [
        (Library::Standard, operators::LOGIC),
        (Library::Standard, operators::ARITHMETIC),
        (Library::Standard, operators::ORDER),
        (Library::Standard, operators::CONTAINERS),
        (Library::Standard, conversions::CONVERSIONS),
        (Library::Standard, strings::STANDARD),
        (Library::Standard, times::TIMES),
        (Library::Optionals, optionals::OPTIONALS),
        (Library::Strings, strings::STRINGS),
        (Library::Strings, format::FORMAT),
        (Library::Lists, lists::KUBERNETES),
        (Library::Includes, lists::INCLUDES),
        (Library::MoreLists, lists::MORE),
        (Library::Regexes, regexes::REGEXES),
        (Library::Urls, url::URLS),
        (Library::Quantities, quantity::QUANTITIES),
        (Library::Networks, network::NETWORKS),
        (Library::Formats, formats::FORMATS),
        (Library::Authorizer, authorizer::AUTHORIZER),
        (Library::Selectors, authorizer::SELECTORS),
        (Library::Semver, semver::SEMVER),
        (Library::Sets, sets::SETS),
    ];
    let small: [(Library, &[Row]); 2] =
        [(Library::TwoVariables, lists::TWO_VARIABLES), (Library::JsonPatch, strings::JSON_PATCH)];
    let mut table: HashMap<&'static str, Vec<Overload>> = HashMap::new();
    for (library, rows) in libraries.into_iter().chain(small) {
        for (id, text, call) in rows {
            let signature = signature(text);
            let name: &'static str = function_name(text, &signature.function);
            table.entry(name).or_default().push(Overload { id, library, signature, call: *call });
        }
    }
    table
});

/// The name of the function as it stands in the text of its signature.
fn function_name(text: &'static str, name: &str) -> &'static str {
    text.find(name).map_or("", |at| &text[at..at + name.len()])
}

/// All overloads of a function, of every library.
pub(crate) fn overloads(function: &str) -> Option<(&'static str, &'static [Overload])> {
    TABLE.get_key_value(function).map(|(name, overloads)| (*name, overloads.as_slice()))
}

/// What the evaluator does itself has no function.
pub(crate) fn special<'a>(_: &mut Caller<'_>, _: &[Value<'a>]) -> Outcome<'a> {
    Err(Fault::NoSuchOverload)
}

/// The text of an argument.
pub(crate) fn text<'v>(arguments: &'v [Value<'_>], index: usize) -> Result<&'v str, Fault> {
    arguments.get(index).and_then(Value::as_str).ok_or(Fault::NoSuchOverload)
}

/// The whole number of an argument.
pub(crate) fn int(arguments: &[Value<'_>], index: usize) -> Result<i64, Fault> {
    match arguments.get(index) {
        Some(Value::Int(number)) => Ok(*number),
        _ => Err(Fault::NoSuchOverload),
    }
}

/// Refuses what would be larger than a result may be.
pub(crate) fn bounded(size: usize) -> Result<(), Fault> {
    if size > LARGEST_RESULT { fault("the result is too large") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_overloads_have_one_name_and_arity() {
        for (function, overloads) in TABLE.iter() {
            assert!(!function.is_empty());
            let mut ids: Vec<_> = overloads.iter().map(|overload| overload.id).collect();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), overloads.len(), "{function}");
        }
        assert!(overloads("_+_").is_some() && overloads("format.named").is_some());
        assert!(overloads("@in").is_some() && overloads("cel.@mapInsert").is_some());
    }
}
