//! Values while an expression is evaluated.
//!
//! What comes from an object is borrowed: a select reads one field, and a list or a map of JSON stays where it is.
//! A declared type says how JSON is read; without one, as it is written.

mod compare;
mod fault;
mod json;
mod keys;
mod lists;
mod maps;
pub(crate) mod numbers;
pub(crate) mod time;

use std::{fmt, net::IpAddr, ops::Deref, sync::Arc};

use dray_machinery::quantity::Quantity;

pub(crate) use compare::{Work, compare, equal, ordered};
pub use fault::Fault;
pub(crate) use fault::{Outcome, fault, no_such_key, no_such_overload};
pub(crate) use keys::Key;
pub use lists::List;
pub use maps::{Entries, Map};
pub use time::Timestamp;

use crate::{
    functions::{
        authorizer::{Decision, GroupCheck, Handle, PathCheck, ResourceCheck},
        formats::Format,
        network::Network,
        semver::Version,
        url::Url,
    },
    types::{ObjectType, Type},
};

/// Text that is borrowed from an object or made by an expression.
#[derive(Clone)]
pub enum Text<'a> {
    /// Part of what the expression looks at.
    Borrowed(&'a str),
    /// Made by an expression.
    Shared(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// An object that an expression made: `Object{spec: …}`.
#[derive(Debug, Clone)]
pub struct Instance<'a> {
    /// What it is.
    pub of: Arc<ObjectType>,
    /// Its fields that are set, by their names in JSON.
    pub fields: Vec<(String, Value<'a>)>,
}

/// What only functions look into.
#[derive(Debug, Clone)]
pub(crate) enum Opaque {
    Url(Arc<Url>),
    Quantity(Quantity),
    Semver(Arc<Version>),
    Format(&'static Format),
    Address(IpAddr),
    Network(Network),
    Authorizer(Handle),
    PathCheck(Arc<PathCheck>),
    GroupCheck(Arc<GroupCheck>),
    ResourceCheck(Arc<ResourceCheck>),
    Decision(Arc<Decision>),
}

/// A value that functions of the Kubernetes libraries look into, and nobody else.
#[derive(Debug, Clone)]
pub struct Hidden(pub(crate) Opaque);

/// A value.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    /// Nothing.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A signed number.
    Int(i64),
    /// An unsigned number.
    Uint(u64),
    /// A floating-point number.
    Double(f64),
    /// Text.
    String(Text<'a>),
    /// Octets.
    Bytes(Arc<[u8]>),
    /// A span of time, in nanoseconds.
    Duration(i64),
    /// A point in time, between the years 1 and 9999.
    Timestamp(Timestamp),
    /// A list.
    List(List<'a>),
    /// A map.
    Map(Map<'a>),
    /// An object that the expression made.
    Object(Arc<Instance<'a>>),
    /// A type.
    Type(Type),
    /// A value or its absence.
    Optional(Option<Arc<Value<'a>>>),
    /// A quantity, an address, an authorizer and the like.
    Hidden(Hidden),
}

impl<'a> Value<'a> {
    /// Text that an expression made.
    pub(crate) fn text(text: impl Into<Arc<str>>) -> Value<'a> {
        Value::String(Text::Shared(text.into()))
    }

    /// Text that outlives the evaluation.
    pub(crate) fn borrowed(text: &'a str) -> Value<'a> {
        Value::String(Text::Borrowed(text))
    }

    pub(crate) fn list(elements: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List::Owned(Arc::new(elements)))
    }

    /// A map of entries.
    ///
    /// # Errors
    /// Where a key is of a type that keys cannot be of.
    pub fn map_of(entries: impl IntoIterator<Item = (Value<'a>, Value<'a>)>) -> Result<Value<'a>, Fault> {
        let entries: Result<_, Fault> =
            entries.into_iter().map(|(key, value)| Ok((Key::new(&key)?, value))).collect();
        Ok(Value::Map(Map::owned(entries?)))
    }

    pub(crate) fn some(value: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Arc::new(value)))
    }

    pub(crate) const NONE: Value<'a> = Value::Optional(None);

    /// A quantity of a resource.
    pub fn quantity(quantity: Quantity) -> Value<'a> {
        Value::hidden(Opaque::Quantity(quantity))
    }

    pub(crate) fn hidden(of: Opaque) -> Value<'a> {
        Value::Hidden(Hidden(of))
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The type at run time, without what it is made of.
    pub fn kind(&self) -> Type {
        match self {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Uint(_) => Type::Uint,
            Value::Double(_) => Type::Double,
            Value::String(_) => Type::String,
            Value::Bytes(_) => Type::Bytes,
            Value::Duration(_) => Type::Duration,
            Value::Timestamp(_) => Type::Timestamp,
            Value::List(_) => Type::list(Type::Dyn),
            Value::Map(map) => map.kind(),
            Value::Object(instance) => Type::Object(instance.of.clone()),
            Value::Type(_) => Type::Type(None),
            Value::Optional(_) => Type::optional(Type::Dyn),
            Value::Hidden(Hidden(of)) => Type::Opaque(of.name()),
        }
    }

    /// The size as `size()` counts it, where something has one: the unit of costs.
    pub(crate) fn size(&self) -> Option<u64> {
        Some(match self {
            Value::String(text) => text.chars().count() as u64,
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::List(list) => list.len() as u64,
            Value::Map(map) => map.len() as u64,
            Value::Hidden(Hidden(Opaque::Address(IpAddr::V4(_)))) => 4,
            Value::Hidden(Hidden(Opaque::Address(IpAddr::V6(_)))) => 16,
            Value::Hidden(Hidden(Opaque::Network(network))) => u64::from(network.length).div_ceil(8),
            _ => return None,
        })
    }

    /// Whether it is what `optional.ofNonZeroValue` makes nothing of.
    pub(crate) fn is_zero(&self) -> bool {
        match self {
            Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) | Value::Duration(0) => true,
            Value::Double(number) => *number == 0.0,
            Value::Optional(of) => of.is_none(),
            Value::Timestamp(time) => *time == Timestamp::ZERO,
            Value::String(text) => text.is_empty(),
            Value::Bytes(bytes) => bytes.is_empty(),
            Value::List(list) => list.is_empty(),
            Value::Map(map) => map.is_empty(),
            Value::Object(instance) => instance.fields.is_empty(),
            _ => false,
        }
    }
}

impl Opaque {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Opaque::Url(_) => "kubernetes.URL",
            Opaque::Quantity(_) => "kubernetes.Quantity",
            Opaque::Semver(_) => "kubernetes.Semver",
            Opaque::Format(_) => "kubernetes.NamedFormat",
            Opaque::Address(_) => "net.IP",
            Opaque::Network(_) => "net.CIDR",
            Opaque::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Opaque::PathCheck(_) => "kubernetes.authorization.PathCheck",
            Opaque::GroupCheck(_) => "kubernetes.authorization.GroupCheck",
            Opaque::ResourceCheck(_) => "kubernetes.authorization.ResourceCheck",
            Opaque::Decision(_) => "kubernetes.authorization.Decision",
        }
    }
}
