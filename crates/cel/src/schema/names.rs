//! Names of fields in expressions: `a-b` is written `a__dash__b`, and `namespace` is written `__namespace__`.

use crate::syntax::is_reserved;

const ESCAPES: [(&str, &str); 4] =
    [("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__")];

/// The name of a field in expressions, if it can have one.
pub fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    if is_reserved(name) {
        return Some(format!("__{name}__"));
    }
    let mut escaped = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(letter) = rest.chars().next() {
        if let Some((plain, written)) = ESCAPES.iter().find(|(plain, _)| rest.starts_with(plain)) {
            escaped.push_str(written);
            rest = &rest[plain.len()..];
        } else if letter.is_ascii_alphanumeric() || letter == '_' {
            escaped.push(letter);
            rest = &rest[1..];
        } else {
            return None;
        }
    }
    Some(escaped)
}

/// The name that was escaped, if it was done by the rules.
pub fn unescape(escaped: &str) -> Option<String> {
    let inner = escaped.strip_prefix("__").and_then(|inner| inner.strip_suffix("__"));
    if let Some(inner) = inner.filter(|inner| is_reserved(inner)) {
        return Some(inner.to_owned());
    }
    let mut name = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(letter) = rest.chars().next() {
        if let Some((plain, written)) = ESCAPES.iter().find(|(_, written)| rest.starts_with(written)) {
            name.push_str(plain);
            rest = &rest[written.len()..];
        } else if looks_escaped(rest) {
            return None;
        } else {
            name.push(letter);
            rest = &rest[letter.len_utf8()..];
        }
    }
    Some(name)
}

/// Whether a text begins with a word between two pairs of underscores.
fn looks_escaped(text: &str) -> bool {
    let Some(inner) = text.strip_prefix("__") else { return false };
    let word = inner.find('_').unwrap_or(0);
    word > 0 && inner[word..].starts_with("__")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names() {
        for (name, escaped) in [
            ("a", Some("a")),
            ("a_b", Some("a_b")),
            ("a__b", Some("a__underscores__b")),
            ("a.b-c/d", Some("a__dot__b__dash__c__slash__d")),
            ("namespace", Some("__namespace__")),
            ("if", Some("__if__")),
            ("namespaces", Some("namespaces")),
            ("___", Some("__underscores___")),
            ("", None),
            ("1a", None),
            ("a$", None),
            ("\u{e9}", None),
        ] {
            assert_eq!(escape(name).as_deref(), escaped, "{name}");
        }
        assert_eq!(unescape("__nothing__"), None);
    }

    proptest! {
        #[test]
        fn what_is_escaped_comes_back(name in "[a-z_./-][a-z0-9_./-]{0,12}") {
            if let Some(escaped) = escape(&name) {
                prop_assert_eq!(unescape(&escaped), Some(name));
            }
        }
    }
}
