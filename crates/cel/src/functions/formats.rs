//! Formats with names: what a text has to look like, and what is wrong with it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use dray_machinery::names;

use super::{Caller, Row, text, url::Url};
use crate::value::{
    Hidden, Opaque, Outcome, Value, no_such_overload,
    time::{parse_date, parse_timestamp},
};

/// The functions of the formats themselves.
pub(super) const FORMATS: &[Row] = &[
    ("format-validate", "kubernetes.NamedFormat.validate(string) -> optional(list(string))", validate),
    ("format-named", "format.named(string) -> optional(kubernetes.NamedFormat)", named),
    ("format.dns1123Label", "format.dns1123Label() -> kubernetes.NamedFormat", |_, _| constant(0)),
    ("format.dns1123Subdomain", "format.dns1123Subdomain() -> kubernetes.NamedFormat", |_, _| constant(1)),
    ("format.dns1035Label", "format.dns1035Label() -> kubernetes.NamedFormat", |_, _| constant(2)),
    ("format.qualifiedName", "format.qualifiedName() -> kubernetes.NamedFormat", |_, _| constant(3)),
    ("format.dns1123LabelPrefix", "format.dns1123LabelPrefix() -> kubernetes.NamedFormat", |_, _| {
        constant(4)
    }),
    ("format.dns1123SubdomainPrefix", "format.dns1123SubdomainPrefix() -> kubernetes.NamedFormat", |_, _| {
        constant(5)
    }),
    ("format.dns1035LabelPrefix", "format.dns1035LabelPrefix() -> kubernetes.NamedFormat", |_, _| {
        constant(6)
    }),
    ("format.labelValue", "format.labelValue() -> kubernetes.NamedFormat", |_, _| constant(7)),
    ("format.uri", "format.uri() -> kubernetes.NamedFormat", |_, _| constant(8)),
    ("format.uuid", "format.uuid() -> kubernetes.NamedFormat", |_, _| constant(9)),
    ("format.byte", "format.byte() -> kubernetes.NamedFormat", |_, _| constant(10)),
    ("format.date", "format.date() -> kubernetes.NamedFormat", |_, _| constant(11)),
    ("format.datetime", "format.datetime() -> kubernetes.NamedFormat", |_, _| constant(12)),
];

/// A format.
#[derive(Debug)]
pub(crate) struct Format {
    name: &'static str,
    /// The length of the pattern that the reference counts its cost by.
    pub(crate) pattern_length: u64,
    wrong: fn(&str) -> Vec<String>,
}

const fn format(name: &'static str, pattern_length: u64, wrong: fn(&str) -> Vec<String>) -> Format {
    Format { name, pattern_length, wrong }
}

static NAMED: [Format; 13] = [
    format("dns1123Label", 30, names::label),
    format("dns1123Subdomain", 60, names::subdomain),
    format("dns1035Label", 30, names::label_1035),
    format("qualifiedName", 60, names::qualified),
    format("dns1123LabelPrefix", 30, |text| names::label(&completed(text))),
    format("dns1123SubdomainPrefix", 60, |text| names::subdomain(&completed(text))),
    format("dns1035LabelPrefix", 30, |text| names::label_1035(&completed(text))),
    format("labelValue", 40, names::label_value),
    format("uri", 1_103, |text| Url::parse(text).err().into_iter().collect()),
    format("uuid", 86, |text| unless(is_uuid(text), "does not match the UUID format")),
    format("byte", 84, |text| unless(STANDARD.decode(text).is_ok(), "invalid base64")),
    format("date", 71, |text| unless(parse_date(text).is_some(), "invalid date")),
    format("datetime", 71, |text| unless(parse_timestamp(text).is_some(), "invalid datetime")),
];

fn unless(fine: bool, message: &str) -> Vec<String> {
    if fine { Vec::new() } else { vec![message.to_owned()] }
}

/// A prefix as a name that may begin with it: a dash at its end would not be the end.
fn completed(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => text.to_owned(),
    }
}

fn is_uuid(text: &str) -> bool {
    let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if text.len() == 32 {
        return hex(text);
    }
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]) && parts.into_iter().all(hex)
}

fn constant<'a>(index: usize) -> Outcome<'a> {
    Ok(Value::hidden(Opaque::Format(&NAMED[index])))
}

fn named<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let name = text(arguments, 0)?;
    let found = NAMED.iter().find(|format| format.name == name);
    Ok(found.map_or(Value::NONE, |format| Value::some(Value::hidden(Opaque::Format(format)))))
}

fn validate<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    let Some(Value::Hidden(Hidden(Opaque::Format(format)))) = arguments.first() else {
        return no_such_overload();
    };
    let wrong = (format.wrong)(text(arguments, 1)?);
    if wrong.is_empty() {
        return Ok(Value::NONE);
    }
    Ok(Value::some(Value::list(wrong.into_iter().map(Value::text).collect())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::functions::overloads;

    #[test]
    fn every_format_has_its_function() {
        for (index, format) in NAMED.iter().enumerate() {
            let name = format!("format.{}", format.name);
            assert!(overloads(&name).is_some(), "{name}");
            assert_eq!(FORMATS[index + 2].0, name);
        }
    }
}
