//! Regular expressions in the syntax of RE2, which differs from that of the `regex` crate in a few places.

use std::{collections::HashMap, sync::Arc};

use regex::{Regex, RegexBuilder};

use super::{Caller, Row, int, text};
use crate::value::{Fault, Outcome, Value, fault};

pub(super) const REGEXES: &[Row] = &[
    ("string_find_string", "string.find(string) -> string", find),
    ("string_find_all_string", "string.findAll(string) -> list(string)", find_all),
    ("string_find_all_string_int", "string.findAll(string, int) -> list(string)", find_all),
];

/// The largest program that a pattern may become, in bytes.
const LARGEST: usize = 4 * 1024 * 1024;
/// The deepest nesting of a pattern.
const DEEPEST: u32 = 100;
/// How many patterns an evaluation remembers.
const MOST_REMEMBERED: usize = 64;

/// Compiled patterns: those that are known before evaluation, and those that were met.
#[derive(Debug, Default, Clone)]
pub(crate) struct Patterns(HashMap<Arc<str>, Regex>);

impl Patterns {
    /// Compiles a pattern that is known.
    pub(crate) fn know(&mut self, pattern: &Arc<str>) -> Result<(), String> {
        let compiled = compile(pattern)?;
        self.0.insert(pattern.clone(), compiled);
        Ok(())
    }

    fn get(&mut self, pattern: &str) -> Result<Regex, Fault> {
        if let Some(found) = self.0.get(pattern) {
            return Ok(found.clone());
        }
        let compiled =
            compile(pattern).map_err(|why| Fault::Failed(format!("Illegal regex: {why}").into()))?;
        if self.0.len() >= MOST_REMEMBERED {
            self.0.clear();
        }
        self.0.insert(pattern.into(), compiled.clone());
        Ok(compiled)
    }
}

/// A regular expression in the syntax of RE2, for whoever holds texts to the patterns of a schema.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles a pattern, whose size and depth are bounded.
    ///
    /// # Errors
    /// What is wrong with it, in RE2's words where it has the same.
    pub fn new(pattern: &str) -> Result<Pattern, String> {
        compile(pattern).map(Pattern)
    }

    /// Whether it is found in a text, in time linear in its length.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

/// Compiles a pattern.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    let translated = translate(pattern)?;
    RegexBuilder::new(&translated)
        .size_limit(LARGEST)
        .dfa_size_limit(LARGEST)
        .nest_limit(DEEPEST)
        .build()
        .map_err(|error| format!("error parsing regexp: {}", reason(pattern, &error.to_string())))
}

/// What is wrong with a pattern, in RE2's words where it has the same.
fn reason(pattern: &str, error: &str) -> String {
    let line = error.lines().last().unwrap_or(error);
    let line = line.strip_prefix("error: ").unwrap_or(line);
    match line {
        "unopened group" => format!("unexpected ): `{pattern}`"),
        "unclosed group" => format!("missing closing ): `{pattern}`"),
        other => other.to_owned(),
    }
}

/// A pattern of RE2 as the crate writes it: classes of ASCII, no operators between classes, quoted text.
fn translate(pattern: &str) -> Result<String, String> {
    let mut written = String::with_capacity(pattern.len());
    let mut letters = pattern.chars().peekable();
    let mut in_class = false;
    let mut class_begins = false;
    let mut repeated: Option<char> = None;
    while let Some(letter) = letters.next() {
        let begins = std::mem::take(&mut class_begins);
        let before = repeated.take();
        let repeats = !in_class
            && (matches!(letter, '*' | '+' | '?') || (letter == '{' && is_repetition(letters.clone())));
        if repeats {
            if let Some(before) = before {
                return Err(format!(
                    "error parsing regexp: invalid nested repetition operator: `{before}{letter}`"
                ));
            }
            repeated = Some(letter);
            written.push(letter);
            while letter == '{'
                && let Some(inner) = letters.next()
            {
                written.push(inner);
                if inner == '}' {
                    break;
                }
            }
            if letters.peek() == Some(&'?') {
                letters.next();
                written.push('?');
            }
            continue;
        }
        match letter {
            '\\' => {
                let Some(escaped) = letters.next() else {
                    return Err(
                        "error parsing regexp: trailing backslash at end of expression: ``".to_owned()
                    );
                };
                match escaped {
                    'd' => written.push_str(if in_class { "0-9" } else { "[0-9]" }),
                    'D' => written.push_str("[^0-9]"),
                    'w' => written.push_str(if in_class { "0-9A-Za-z_" } else { "[0-9A-Za-z_]" }),
                    'W' => written.push_str("[^0-9A-Za-z_]"),
                    's' => written.push_str(if in_class { "\\t\\n\\f\\r " } else { "[\\t\\n\\f\\r ]" }),
                    'S' => written.push_str("[^\\t\\n\\f\\r ]"),
                    'b' if !in_class => written.push_str("(?-u:\\b)"),
                    'Q' if !in_class => quote(&mut letters, &mut written),
                    'C' => return Err("error parsing regexp: invalid escape sequence: `\\C`".to_owned()),
                    '<' | '>' => written.push(escaped),
                    escaped => {
                        written.push('\\');
                        written.push(escaped);
                        let braced = matches!(escaped, 'p' | 'P' | 'x') && letters.peek() == Some(&'{');
                        while braced && let Some(inner) = letters.next() {
                            written.push(inner);
                            if inner == '}' {
                                break;
                            }
                        }
                    }
                }
            }
            '[' if in_class && letters.peek() != Some(&':') => written.push_str("\\["),
            '[' if !in_class => {
                in_class = true;
                class_begins = true;
                written.push('[');
                if letters.peek() == Some(&'^') {
                    letters.next();
                    written.push('^');
                }
            }
            '[' => {
                // A named class, `[:alpha:]`, as far as its end.
                written.push('[');
                for inner in letters.by_ref() {
                    written.push(inner);
                    if inner == ']' {
                        break;
                    }
                }
            }
            ']' if in_class && begins => written.push_str("\\]"),
            ']' if in_class => {
                in_class = false;
                written.push(']');
            }
            '&' | '~' if in_class => {
                written.push('\\');
                written.push(letter);
            }
            '-' if begins => written.push_str("\\-"),
            '-' if in_class && letters.peek() == Some(&'-') => {
                letters.next();
                written.push_str("-\\-");
            }
            '{' if !in_class => written.push_str("\\{"),
            '(' if !in_class && letters.peek() == Some(&'?') => {
                letters.next();
                written.push_str("(?");
            }
            letter => written.push(letter),
        }
    }
    Ok(written)
}

/// Passes text that is quoted, as far as `\E`.
fn quote(letters: &mut std::iter::Peekable<std::str::Chars<'_>>, written: &mut String) {
    while let Some(letter) = letters.next() {
        if letter == '\\' && letters.peek() == Some(&'E') {
            letters.next();
            return;
        }
        written.push_str(&regex::escape(letter.encode_utf8(&mut [0; 4])));
    }
}

/// Whether what follows a brace makes it a repetition: `2}`, `2,}` or `2,3}`.
fn is_repetition(letters: std::iter::Peekable<std::str::Chars<'_>>) -> bool {
    let inner: String = letters.take_while(|letter| *letter != '}').take(12).collect();
    let (least, most) = inner.split_once(',').unwrap_or((&inner, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    !least.is_empty() && is_number(least) && is_number(most)
}

pub(super) fn matches<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let pattern = caller.patterns.get(text(arguments, 1)?)?;
    Ok(Value::Bool(pattern.is_match(text(arguments, 0)?)))
}

fn find<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let pattern = caller.patterns.get(text(arguments, 1)?)?;
    let found = pattern.find(text(arguments, 0)?).map_or("", |found| found.as_str());
    Ok(Value::text(found))
}

fn find_all<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let pattern = caller.patterns.get(text(arguments, 1)?)?;
    let limit = if arguments.len() > 2 { int(arguments, 2)? } else { -1 };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let text = text(arguments, 0)?;
    caller.work.spend(text.len())?;
    if text.len() > super::LARGEST_RESULT {
        return fault("the result is too large");
    }
    let found = pattern.find_iter(text).take(limit).map(|found| Value::text(found.as_str()));
    Ok(Value::list(found.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_re2() {
        for (pattern, text, matches) in [
            (r"^\d+$", "12", true),
            (r"^\d+$", "\u{663}", false),
            (r"^[\w-]+$", "a-b_1", true),
            (r"^\w+$", "\u{e9}", false),
            (r"^[[a]+$", "[a[", true),
            (r"^[a&&b]+$", "&&", true),
            (r"^[]a]+$", "]a", true),
            (r"^[^]a]+$", "b", true),
            (r"^a{,2}$", "a{,2}", true),
            (r"^a{1,2}$", "aa", true),
            (r"^{}$", "{}", true),
            (r"^\Qa.b\E+$", "a.bb", true),
            (r"^[[:alpha:]]+$", "ab", true),
            (r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "a-b", true),
            (r"\bfoo\b", "a foo b", true),
            (r"^\p{L}+$", "\u{e9}a", true),
            (r"(?i)^AB$", "ab", true),
            (r"^[^\s]+$", "a b", false),
            (r"^[+--]+$", "+,-", true),
            (r"^[--/]+$", "-./", true),
            (r"^[a-]+$", "a-", true),
        ] {
            let compiled = compile(pattern).unwrap_or_else(|why| panic!("{pattern}: {why}"));
            assert_eq!(compiled.is_match(text), matches, "{pattern} on {text}");
        }
        for pattern in ["(", "[", "a**", "a+?{2}", r"\C", "\\", "(?=a)", "((((a{1000}){1000}){1000}){1000})"]
        {
            assert!(compile(pattern).is_err(), "{pattern}");
        }
    }
}
