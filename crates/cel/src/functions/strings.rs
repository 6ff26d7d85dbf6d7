//! Text: what the language itself knows, and cel-go's extension in its second version. Places count code points.

use super::{Caller, Row, bounded, int, regexes, text};
use crate::value::{Fault, Outcome, Value, fault, no_such_overload};

pub(super) const STANDARD: &[Row] = &[
    ("contains_string", "string.contains(string) -> bool", contains),
    ("ends_with_string", "string.endsWith(string) -> bool", ends_with),
    ("starts_with_string", "string.startsWith(string) -> bool", starts_with),
    ("matches", "matches(string, string) -> bool", regexes::matches),
    ("matches_string", "string.matches(string) -> bool", regexes::matches),
];

pub(super) const STRINGS: &[Row] = &[
    ("string_char_at_int", "string.charAt(int) -> string", char_at),
    ("string_index_of_string", "string.indexOf(string) -> int", index_of),
    ("string_index_of_string_int", "string.indexOf(string, int) -> int", index_of),
    ("string_last_index_of_string", "string.lastIndexOf(string) -> int", last_index_of),
    ("string_last_index_of_string_int", "string.lastIndexOf(string, int) -> int", last_index_of),
    ("string_lower_ascii", "string.lowerAscii() -> string", lower),
    ("string_replace_string_string", "string.replace(string, string) -> string", replace),
    ("string_replace_string_string_int", "string.replace(string, string, int) -> string", replace),
    ("string_split_string", "string.split(string) -> list(string)", split),
    ("string_split_string_int", "string.split(string, int) -> list(string)", split),
    ("string_substring_int", "string.substring(int) -> string", substring),
    ("string_substring_int_int", "string.substring(int, int) -> string", substring),
    ("string_trim", "string.trim() -> string", trim),
    ("string_upper_ascii", "string.upperAscii() -> string", upper),
    ("strings_quote", "strings.quote(string) -> string", quote),
    ("list_join", "list(string).join() -> string", join),
    ("list_join_string", "list(string).join(string) -> string", join),
];

pub(super) const JSON_PATCH: &[Row] =
    &[("string_jsonpatch_escapeKey_string", "jsonpatch.escapeKey(string) -> string", escape_key)];

fn out_of_range<T>(index: i64) -> Result<T, Fault> {
    fault(format!("index out of range: {index}"))
}

/// The offset in bytes of a code point, the end included.
fn offset(text: &str, index: i64) -> Result<usize, Fault> {
    let wanted = usize::try_from(index).or_else(|_| out_of_range(index))?;
    let mut offsets = text.char_indices().map(|(offset, _)| offset).chain([text.len()]);
    offsets.nth(wanted).map_or_else(|| out_of_range(index), Ok)
}

fn contains<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(text(arguments, 0)?.contains(text(arguments, 1)?)))
}

fn ends_with<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(text(arguments, 0)?.ends_with(text(arguments, 1)?)))
}

fn starts_with<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(text(arguments, 0)?.starts_with(text(arguments, 1)?)))
}

fn char_at<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let (text, index) = (text(arguments, 0)?, int(arguments, 1)?);
    let at = offset(text, index)?;
    Ok(Value::text(text[at..].chars().take(1).collect::<String>()))
}

fn count(text: &str) -> i64 {
    text.chars().count() as i64
}

fn index_of<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let (text, wanted) = (text(arguments, 0)?, text(arguments, 1)?);
    let from = if arguments.len() > 2 { int(arguments, 2)? } else { 0 };
    let begin = offset(text, from)?;
    Ok(Value::Int(text[begin..].find(wanted).map_or(-1, |at| from + count(&text[begin..begin + at]))))
}

fn last_index_of<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let (text, wanted) = (text(arguments, 0)?, text(arguments, 1)?);
    if arguments.len() < 3 {
        return Ok(Value::Int(text.rfind(wanted).map_or(-1, |at| count(&text[..at]))));
    }
    let from = int(arguments, 2)?;
    let begin = offset(text, from)?;
    // A match may begin at the place, and end beyond it.
    let end = text.len().min(begin + wanted.len());
    let end = (end..=text.len()).find(|&end| text.is_char_boundary(end)).unwrap_or(text.len());
    let found = text[..end].rmatch_indices(wanted).map(|(at, _)| at).find(|&at| at <= begin);
    Ok(Value::Int(found.map_or(-1, |at| count(&text[..at]))))
}

fn lower<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::text(text(arguments, 0)?.to_ascii_lowercase()))
}

fn upper<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::text(text(arguments, 0)?.to_ascii_uppercase()))
}

fn trim<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::text(text(arguments, 0)?.trim()))
}

fn replace<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let (text, old, new) = (text(arguments, 0)?, text(arguments, 1)?, text(arguments, 2)?);
    let limit = if arguments.len() > 3 { int(arguments, 3)? } else { -1 };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let found = if old.is_empty() { count(text) as usize + 1 } else { text.len() / old.len() };
    bounded(text.len().saturating_add(found.min(limit).saturating_mul(new.len())))?;
    Ok(Value::text(text.replacen(old, new, limit)))
}

fn split<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let (text, separator) = (text(arguments, 0)?, text(arguments, 1)?);
    let limit = if arguments.len() > 2 { int(arguments, 2)? } else { -1 };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    caller.work.spend(text.len())?;
    let parts: Vec<&str> = match limit {
        0 => Vec::new(),
        _ if separator.is_empty() => letters(text, limit),
        limit => text.splitn(limit, separator).collect(),
    };
    Ok(Value::list(parts.into_iter().map(Value::text).collect()))
}

/// The letters of a text, the last of which takes what is beyond the limit.
fn letters(text: &str, limit: usize) -> Vec<&str> {
    let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).take(limit).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().zip(ends).map(|(&begin, end)| &text[begin..end]).collect()
}

fn substring<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let (text, start) = (text(arguments, 0)?, int(arguments, 1)?);
    let begin = offset(text, start)?;
    if arguments.len() < 3 {
        return Ok(Value::text(&text[begin..]));
    }
    let end = int(arguments, 2)?;
    if start > end {
        return fault(format!("invalid substring range. start: {start}, end: {end}"));
    }
    Ok(Value::text(&text[begin..offset(text, end)?]))
}

fn join<'a>(caller: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let Some(Value::List(list)) = arguments.first() else { return no_such_overload() };
    let separator = if arguments.len() > 1 { text(arguments, 1)? } else { "" };
    caller.work.spend(list.len())?;
    let mut joined = String::new();
    for (index, element) in list.iter().enumerate() {
        let element = element?;
        let part = element.as_str().ok_or(Fault::NoSuchOverload)?;
        bounded(joined.len() + separator.len() + part.len())?;
        if index > 0 {
            joined.push_str(separator);
        }
        joined.push_str(part);
    }
    Ok(Value::text(joined))
}

/// `strings.quote`: the text as a literal.
fn quote<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let mut quoted = String::from("\"");
    for letter in text(arguments, 0)?.chars() {
        match letter {
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0c' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\x0b' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    Ok(Value::text(quoted))
}

/// A key as part of a JSON pointer.
fn escape_key<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::text(text(arguments, 0)?.replace('~', "~0").replace('/', "~1")))
}
