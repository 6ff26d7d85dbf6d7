//! Keys of maps. Numbers are one key where they are equal, whatever their types.

use std::{cmp::Ordering, fmt};

use super::{Fault, Text, Value, fault};

/// A key of a map.
#[derive(Debug, Clone)]
pub(crate) enum Key<'a> {
    Bool(bool),
    Int(i64),
    Uint(u64),
    String(Text<'a>),
}

impl<'a> Key<'a> {
    /// The key that a value is, if it can be one.
    pub(crate) fn new(value: &Value<'a>) -> Result<Key<'a>, Fault> {
        Ok(match value {
            Value::Bool(key) => Key::Bool(*key),
            Value::Int(key) => Key::Int(*key),
            Value::Uint(key) => Key::Uint(*key),
            Value::String(key) => Key::String(key.clone()),
            other => return fault(format!("unsupported key type: {}", other.kind().name())),
        })
    }

    /// The key that a value would find: a double finds the whole number that it is equal to.
    pub(crate) fn lookup(value: &Value<'a>) -> Option<Key<'a>> {
        match value {
            Value::Double(number) => super::numbers::as_int(*number).map(Key::Int).or_else(|| {
                let whole = super::numbers::as_uint(*number)?;
                Some(Key::Uint(whole))
            }),
            other => Key::new(other).ok(),
        }
    }

    pub(crate) fn value(&self) -> Value<'a> {
        match self {
            Key::Bool(key) => Value::Bool(*key),
            Key::Int(key) => Value::Int(*key),
            Key::Uint(key) => Value::Uint(*key),
            Key::String(key) => Value::String(key.clone()),
        }
    }

    fn number(&self) -> Option<i128> {
        match self {
            Key::Int(key) => Some(i128::from(*key)),
            Key::Uint(key) => Some(i128::from(*key)),
            _ => None,
        }
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Key::Bool(one), Key::Bool(two)) => one.cmp(two),
            (Key::String(one), Key::String(two)) => (**one).cmp(two),
            (Key::Bool(_), _) | (_, Key::String(_)) => Ordering::Less,
            (_, Key::Bool(_)) | (Key::String(_), _) => Ordering::Greater,
            (one, two) => one.number().cmp(&two.number()),
        }
    }
}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key<'_> {}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Bool(key) => key.fmt(f),
            Key::Int(key) => key.fmt(f),
            Key::Uint(key) => key.fmt(f),
            Key::String(key) => f.write_str(key),
        }
    }
}
