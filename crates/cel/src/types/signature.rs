//! Signatures of functions as the tables write them: `list(A).indexOf(A) -> int`.
//!
//! Types are written as messages show them; one capital letter is a parameter.

use std::sync::Arc;

use super::Type;

/// One way to call a function.
#[derive(Debug)]
pub(crate) struct Signature {
    pub(crate) function: String,
    /// Whether it is called on its first parameter.
    pub(crate) method: bool,
    pub(crate) parameters: Vec<Type>,
    pub(crate) result: Type,
    /// How many of the first letters stand for types.
    pub(crate) open: u32,
}

/// The names of the types that only functions look into.
const OPAQUE: [&str; 11] = [
    "kubernetes.URL",
    "kubernetes.Quantity",
    "kubernetes.Semver",
    "kubernetes.NamedFormat",
    "kubernetes.authorization.Authorizer",
    "kubernetes.authorization.PathCheck",
    "kubernetes.authorization.GroupCheck",
    "kubernetes.authorization.ResourceCheck",
    "kubernetes.authorization.Decision",
    "net.IP",
    "net.CIDR",
];

/// Reads a signature of a table.
///
/// # Panics
/// Where a table is wrong, which a test shows.
pub(crate) fn signature(text: &'static str) -> Signature {
    let (call, result) = text.rsplit_once(" -> ").expect("a signature has a result");
    let open = call.strip_suffix(')').expect("a signature has parameters");
    // The parenthesis of the call is the last one at the outermost level.
    let mut depth = 0;
    let mut begin = None;
    for (index, letter) in open.char_indices().rev() {
        match letter {
            ')' => depth += 1,
            '(' if depth == 0 => {
                begin = Some(index);
                break;
            }
            '(' => depth -= 1,
            _ => {}
        }
    }
    let begin = begin.expect("a signature has parameters");
    let (name, arguments) = (&open[..begin], &open[begin + 1..]);
    let target = if is_namespaced(name) { None } else { name.rsplit_once('.') };
    let (function, target) = match target {
        Some((target, function)) if !target.is_empty() => (function, Some(target)),
        _ => (name, None),
    };
    let mut parameters: Vec<Type> = target.iter().map(|text| parse(text)).collect();
    parameters.extend(split(arguments).into_iter().map(parse));
    let letters = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.');
    let open =
        letters.filter(|word| is_letter(word)).map(|word| u32::from(word.as_bytes()[0] - b'A') + 1).max();
    Signature {
        function: function.to_owned(),
        method: target.is_some(),
        parameters,
        result: parse(result),
        open: open.unwrap_or(0),
    }
}

/// Functions whose names have a dot, which no type stands before.
fn is_namespaced(name: &str) -> bool {
    const NAMESPACES: [&str; 9] =
        ["optional.", "sets.", "lists.", "ip.", "format.", "jsonpatch.", "strings.", "cel.", "math."];
    NAMESPACES.iter().any(|namespace| name.starts_with(namespace)) || name.starts_with('_')
}

fn is_letter(word: &str) -> bool {
    matches!(word.as_bytes(), [b'A'..=b'H'])
}

/// Parameters, split at the commas of the outermost level.
fn split(text: &str) -> Vec<&str> {
    let (mut found, mut depth, mut begin) = (Vec::new(), 0, 0);
    for (index, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                found.push(text[begin..index].trim());
                begin = index + 1;
            }
            _ => {}
        }
    }
    if !text[begin..].trim().is_empty() {
        found.push(text[begin..].trim());
    }
    found
}

fn parse(text: &str) -> Type {
    if is_letter(text) {
        return Type::Parameter(u32::from(text.as_bytes()[0] - b'A'));
    }
    if let Some((outer, inner)) = text.split_once('(') {
        let of = split(&inner[..inner.len() - 1]);
        return match outer {
            "list" => Type::list(parse(of[0])),
            "map" => Type::map(parse(of[0]), parse(of[1])),
            "optional" => Type::optional(parse(of[0])),
            _ => Type::Type(Some(Arc::new(parse(of[0])))),
        };
    }
    match text {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        "type" => Type::Type(None),
        other => {
            Type::Opaque(OPAQUE.iter().find(|name| **name == other).expect("a signature's type is known"))
        }
    }
}

/// The opaque type of a name, if there is one.
pub(crate) fn opaque(name: &str) -> Option<Type> {
    OPAQUE.iter().find(|known| **known == name).map(|known| Type::Opaque(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures() {
        for (text, function, method, parameters, result, open) in [
            ("_+_(int, int) -> int", "_+_", false, "int, int", "int", 0),
            ("list(A).indexOf(A) -> int", "indexOf", true, "list(_var0), _var0", "int", 1),
            ("_[_](map(A, B), A) -> B", "_[_]", false, "map(_var0, _var1), _var0", "_var1", 2),
            ("optional.none() -> optional(A)", "optional.none", false, "", "optional_type(_var0)", 1),
            ("optional(A).value() -> A", "value", true, "optional_type(_var0)", "_var0", 1),
            ("net.CIDR.ip() -> net.IP", "ip", true, "net.CIDR", "net.IP", 0),
            ("ip(string) -> net.IP", "ip", false, "string", "net.IP", 0),
            ("type(A) -> type(A)", "type", false, "_var0", "type(_var0)", 1),
            ("map(A, list(B)).f(bool) -> dyn", "f", true, "map(_var0, list(_var1)), bool", "dyn", 2),
        ] {
            let found = signature(text);
            let shown: Vec<String> = found.parameters.iter().map(ToString::to_string).collect();
            assert_eq!(found.function, function, "{text}");
            assert_eq!((found.method, found.open), (method, open), "{text}");
            assert_eq!(shown.join(", "), parameters, "{text}");
            assert_eq!(found.result.to_string(), result, "{text}");
        }
    }
}
