//! Field selectors: "metadata.name=web,spec.nodeName!=".

use std::fmt;

/// A set of equalities and inequalities, all of which must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// Reads the text of a query.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<FieldSelector, String> {
        let mut terms = Vec::new();
        for part in split(text) {
            if part.is_empty() {
                continue;
            }
            let (field, equal, value) = if let Some((field, value)) = part.split_once("!=") {
                (field, false, value)
            } else if let Some((field, value)) = part.split_once("==") {
                (field, true, value)
            } else if let Some((field, value)) = part.split_once('=') {
                (field, true, value)
            } else {
                return Err(format!("invalid selector: '{text}'; can't understand '{part}'"));
            };
            terms.push((field.to_owned(), equal, unescape(value)));
        }
        Ok(FieldSelector { terms })
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The fields it asks about.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().map(|(field, _, _)| field.as_str())
    }

    /// The value that a field must have, where there is only one.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|(name, equal, _)| *equal && name == field).map(|(_, _, value)| value.as_str())
    }

    /// Whether an object, given by its fields, is selected.
    pub fn matches(&self, value: impl Fn(&str) -> String) -> bool {
        self.terms.iter().all(|(field, equal, wanted)| (value(field) == *wanted) == *equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (field, equal, value)) in self.terms.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{field}{}{value}", if *equal { "=" } else { "!=" })?;
        }
        Ok(())
    }
}

/// Splits at commas that no backslash precedes.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        plain.push(if letter == '\\' { letters.next().unwrap_or('\\') } else { letter });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects() {
        let selector = FieldSelector::parse("metadata.name=web,spec.nodeName!=n\\,1").unwrap();
        assert_eq!(selector.required("metadata.name"), Some("web"));
        assert_eq!(selector.required("spec.nodeName"), None);
        let value = |field: &str| if field == "metadata.name" { "web".into() } else { "n,1".to_owned() };
        assert!(!selector.matches(value));
        assert!(FieldSelector::parse("a").is_err());
        assert!(FieldSelector::parse("").unwrap().is_everything());
    }
}
