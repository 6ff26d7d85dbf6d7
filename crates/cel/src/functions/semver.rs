//! Semantic versions, in their strict form and, if asked for, from looser ones.

use std::{cmp::Ordering, sync::Arc};

use super::{Caller, Row, text};
use crate::value::{Fault, Hidden, Opaque, Outcome, Value, fault, no_such_overload};

pub(super) const SEMVER: &[Row] = &[
    ("string_to_semver", "semver(string) -> kubernetes.Semver", semver),
    ("string_bool_to_semver", "semver(string, bool) -> kubernetes.Semver", semver),
    ("is_semver_string", "isSemver(string) -> bool", is_semver),
    ("is_semver_string_bool", "isSemver(string, bool) -> bool", is_semver),
    (
        "semver_is_greater_than",
        "kubernetes.Semver.isGreaterThan(kubernetes.Semver) -> bool",
        |_, arguments| compared(arguments, |order| Value::Bool(order.is_gt())),
    ),
    ("semver_is_less_than", "kubernetes.Semver.isLessThan(kubernetes.Semver) -> bool", |_, arguments| {
        compared(arguments, |order| Value::Bool(order.is_lt()))
    }),
    ("semver_compare_to", "kubernetes.Semver.compareTo(kubernetes.Semver) -> int", |_, arguments| {
        compared(arguments, |order| Value::Int(order as i64))
    }),
    ("semver_major", "kubernetes.Semver.major() -> int", |_, arguments| part(arguments, 0)),
    ("semver_minor", "kubernetes.Semver.minor() -> int", |_, arguments| part(arguments, 1)),
    ("semver_patch", "kubernetes.Semver.patch() -> int", |_, arguments| part(arguments, 2)),
];

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Text(String),
}

/// A semantic version. What follows a plus sign does not count.
#[derive(Debug)]
pub(crate) struct Version {
    numbers: [u64; 3],
    before: Vec<Identifier>,
}

impl Version {
    pub(crate) fn parse(text: &str) -> Option<Version> {
        let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
        if build.is_some_and(|build| !build.split('.').all(is_identifier)) {
            return None;
        }
        let (core, before) = text.split_once('-').map_or((text, None), |(core, before)| (core, Some(before)));
        let mut parts = core.split('.');
        let mut numbers = [0; 3];
        for number in &mut numbers {
            *number = strict_number(parts.next()?)?;
        }
        if parts.next().is_some() {
            return None;
        }
        let identifier = |text: &str| {
            if !is_identifier(text) {
                None
            } else if text.bytes().all(|byte| byte.is_ascii_digit()) {
                strict_number(text).map(Identifier::Number)
            } else {
                Some(Identifier::Text(text.to_owned()))
            }
        };
        let before = before.map(|before| before.split('.').map(identifier).collect::<Option<Vec<_>>>());
        Some(Version { numbers, before: before.unwrap_or_else(|| Some(Vec::new()))? })
    }

    /// From a looser form: with a `v` before it, with parts missing, with zeros before its numbers.
    fn normalize(text: &str) -> Option<Version> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let end = text.find(['+', '-']).unwrap_or(text.len());
        let (core, rest) = text.split_at(end);
        let mut parts: Vec<String> = core
            .split('.')
            .map(|part| {
                let stripped = part.trim_start_matches('0');
                let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
                match stripped {
                    "" if is_number => "0".to_owned(),
                    stripped if is_number => stripped.to_owned(),
                    _ => part.to_owned(),
                }
            })
            .collect();
        while parts.len() < 3 {
            parts.push("0".to_owned());
        }
        Version::parse(&format!("{}{rest}", parts.join(".")))
    }

    pub(crate) fn cmp_precedence(&self, other: &Version) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| {
            match (self.before.is_empty(), other.before.is_empty()) {
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                _ => self.before.cmp(&other.before),
            }
        })
    }
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// A number without zeros before it.
fn strict_number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok())?
}

fn parse(arguments: &[Value<'_>]) -> Result<Option<Version>, Fault> {
    let text = text(arguments, 0)?;
    Ok(match arguments.get(1) {
        Some(Value::Bool(true)) => Version::normalize(text),
        _ => Version::parse(text),
    })
}

fn semver<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    match parse(arguments)? {
        Some(version) => Ok(Value::hidden(Opaque::Semver(Arc::new(version)))),
        None => fault(format!("Invalid semantic version {:?}", text(arguments, 0)?)),
    }
}

fn is_semver<'a>(_: &mut Caller<'_>, arguments: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(parse(arguments)?.is_some()))
}

fn version<'v>(arguments: &'v [Value<'_>], index: usize) -> Result<&'v Version, Fault> {
    match arguments.get(index) {
        Some(Value::Hidden(Hidden(Opaque::Semver(version)))) => Ok(version),
        _ => no_such_overload(),
    }
}

fn compared<'a>(arguments: &[Value<'a>], of: fn(Ordering) -> Value<'static>) -> Outcome<'a> {
    Ok(of(version(arguments, 0)?.cmp_precedence(version(arguments, 1)?)))
}

fn part<'a>(arguments: &[Value<'a>], index: usize) -> Outcome<'a> {
    let number = version(arguments, 0)?.numbers[index];
    Ok(Value::Int(i64::try_from(number).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precedence() {
        let rising = [
            "1.0.0-1",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-rc.1",
            "1.0.0",
            "1.0.1",
            "1.10.0",
            "2.0.0",
        ];
        for pair in rising.windows(2) {
            let (one, two) = (Version::parse(pair[0]).unwrap(), Version::parse(pair[1]).unwrap());
            assert_eq!(one.cmp_precedence(&two), Ordering::Less, "{pair:?}");
        }
        for wrong in ["", "1", "1.0", "v1.0.0", "01.0.0", "1.0.0-", "1.0.0-01", "1.0.0+", "1.0.0.0", "1.0.x"]
        {
            assert!(Version::parse(wrong).is_none(), "{wrong}");
        }
        for (loose, strict) in
            [("v1.0", "1.0.0"), ("01.02.03", "1.2.3"), ("1-rc", "1.0.0-rc"), ("1.0.0+b", "1.0.0")]
        {
            let (loose, strict) = (Version::normalize(loose).unwrap(), Version::parse(strict).unwrap());
            assert_eq!(loose.cmp_precedence(&strict), Ordering::Equal);
        }
        assert!(Version::normalize("1.x").is_none());
    }
}
