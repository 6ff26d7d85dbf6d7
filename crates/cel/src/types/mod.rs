//! The types of the language, as the checker knows them and as messages show them.

pub(crate) mod signature;
pub(crate) mod unify;

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{schema::Declared, syntax::is_reserved};

/// A type.
///
/// Types are compared by structure, objects by name.
#[derive(Debug, Clone)]
pub enum Type {
    /// Nothing is known before evaluation.
    Dyn,
    /// The expression is wrong, and an issue says why.
    Error,
    /// The type of `null`.
    Null,
    /// `true` and `false`.
    Bool,
    /// 64 bits, signed.
    Int,
    /// 64 bits, unsigned.
    Uint,
    /// IEEE 754, 64 bits.
    Double,
    /// Text.
    String,
    /// Octets.
    Bytes,
    /// A span of time.
    Duration,
    /// A point in time.
    Timestamp,
    /// A list of one type.
    List(Arc<Type>),
    /// A map of keys of one type to values of one type.
    Map(Arc<(Type, Type)>),
    /// The type of types; which one, if it is known.
    Type(Option<Arc<Type>>),
    /// A value that may be absent.
    Optional(Arc<Type>),
    /// What only functions look into: `kubernetes.URL` and the like.
    Opaque(&'static str),
    /// An object with fields.
    Object(Arc<ObjectType>),
    /// What a signature leaves open, or what the checker has not found yet.
    Parameter(u32),
}

/// An object's name and fields.
#[derive(Debug)]
pub struct ObjectType {
    /// The full name.
    pub name: String,
    /// The fields by their names in expressions, which are escaped.
    pub fields: BTreeMap<String, ObjectField>,
    /// Whether there may be others, of which nothing is known.
    pub open: bool,
}

impl ObjectType {
    /// A field that is known. A word that the language keeps for itself can be written as it is after a dot.
    pub(crate) fn known(&self, name: &str) -> Option<&ObjectField> {
        self.fields
            .get(name)
            .or_else(|| if is_reserved(name) { self.fields.get(&format!("__{name}__")) } else { None })
    }

    /// The type of a field, if there can be one of this name.
    pub(crate) fn field(&self, name: &str) -> Option<Type> {
        match self.known(name) {
            Some(field) => Some(field.declared.cel_type()),
            None => self.open.then_some(Type::Dyn),
        }
    }
}

/// A field of an object.
#[derive(Debug, Clone)]
pub struct ObjectField {
    /// The name in JSON.
    pub json_name: String,
    /// What it holds, and how it is read from JSON.
    pub declared: Arc<Declared>,
}

impl Type {
    /// A list of this type.
    pub fn list(of: Type) -> Type {
        Type::List(Arc::new(of))
    }

    /// A map.
    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new((key, value)))
    }

    /// An optional of this type.
    pub fn optional(of: Type) -> Type {
        Type::Optional(Arc::new(of))
    }

    /// The types that this one is made of.
    pub(crate) fn parameters(&self) -> Vec<&Type> {
        match self {
            Type::List(of) | Type::Optional(of) | Type::Type(Some(of)) => vec![of],
            Type::Map(of) => vec![&of.0, &of.1],
            _ => Vec::new(),
        }
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }

    /// The type inside an optional, and whether there was one.
    pub(crate) fn unwrap_optional(&self) -> (&Type, bool) {
        match self {
            Type::Optional(of) => (of, true),
            other => (other, false),
        }
    }

    /// Whether the type has more than so many parts.
    pub(crate) fn is_larger_than(&self, limit: &mut usize) -> bool {
        if *limit == 0 {
            return true;
        }
        *limit -= 1;
        self.parameters().into_iter().any(|of| of.is_larger_than(limit))
    }

    /// The name at run time, without what the type is made of.
    pub(crate) fn name(&self) -> &str {
        match self {
            Type::Dyn => "dyn",
            Type::Error => "error",
            Type::Null => "null_type",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Duration => "google.protobuf.Duration",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::List(_) => "list",
            Type::Map(_) => "map",
            Type::Type(_) => "type",
            Type::Optional(_) => "optional_type",
            Type::Opaque(name) => name,
            Type::Object(object) => &object.name,
            Type::Parameter(_) => "",
        }
    }
}

impl PartialEq for Type {
    fn eq(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::List(one), Type::List(two)) | (Type::Optional(one), Type::Optional(two)) => one == two,
            (Type::Map(one), Type::Map(two)) => one == two,
            (Type::Type(one), Type::Type(two)) => one == two,
            (Type::Opaque(one), Type::Opaque(two)) => one == two,
            (Type::Object(one), Type::Object(two)) => one.name == two.name,
            (Type::Parameter(one), Type::Parameter(two)) => one == two,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl fmt::Display for Type {
    /// As in cel-go's messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Error => f.write_str("!error!"),
            Type::Null => f.write_str("null"),
            Type::Duration => f.write_str("duration"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Parameter(number) => write!(f, "_var{number}"),
            Type::Map(of) => write!(f, "map({}, {})", of.0, of.1),
            Type::List(of) | Type::Optional(of) | Type::Type(Some(of)) => write!(f, "{}({of})", self.name()),
            other => f.write_str(other.name()),
        }
    }
}
