//! Maps: the objects of JSON, whose fields a declaration may name, and maps that an expression made.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map as JsonMap, Value as Json};

use super::{Fault, Key, Text, Value, Work, equal};
use crate::{schema::Declared, types::Type};

/// A map.
#[derive(Debug, Clone)]
pub enum Map<'a> {
    /// Part of an object, with the declaration of the map or the object.
    Json(&'a JsonMap<String, Json>, Option<&'a Declared>),
    /// Made by an expression.
    Owned(Entries<'a>),
}

/// The entries of a map that an expression made.
#[derive(Debug, Clone, Default)]
pub struct Entries<'a>(pub(crate) Arc<BTreeMap<Key<'a>, Value<'a>>>);

impl<'a> Map<'a> {
    /// A map of entries.
    pub(crate) fn owned(entries: BTreeMap<Key<'a>, Value<'a>>) -> Map<'a> {
        Map::Owned(Entries(Arc::new(entries)))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        match self {
            Map::Json(object, _) => object.len(),
            Map::Owned(entries) => entries.0.len(),
        }
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn kind(&self) -> Type {
        match self {
            Map::Json(_, Some(declared)) if declared.object().is_some() => declared.cel_type(),
            _ => Type::map(Type::Dyn, Type::Dyn),
        }
    }

    /// The value of a key, or of a field by its name in expressions.
    pub fn field(&self, name: &str) -> Option<Result<Value<'a>, Fault>> {
        match self {
            Map::Json(object, declared) => {
                let declared = match declared {
                    None => None,
                    Some(declared) => match declared.object() {
                        Some(of) => {
                            let field = of.known(name)?;
                            // A field that is null is as good as absent; an entry of a map is not.
                            let value = object.get(&field.json_name).filter(|value| !value.is_null())?;
                            return Some(Value::read(value, Some(&field.declared)));
                        }
                        None => Some(declared.item()?),
                    },
                };
                object.get(name).map(|value| Value::read(value, declared))
            }
            Map::Owned(entries) => entries.0.get(&Key::String(Text::Borrowed(name))).cloned().map(Ok),
        }
    }

    pub(crate) fn get(&self, key: &Key<'a>) -> Option<Result<Value<'a>, Fault>> {
        match (self, key) {
            (Map::Json(..), Key::String(name)) => self.field(name),
            (Map::Json(..), _) => None,
            (Map::Owned(entries), key) => entries.0.get(key).cloned().map(Ok),
        }
    }

    /// The keys, in order.
    pub(crate) fn keys(&self) -> Vec<Key<'a>> {
        match self {
            Map::Json(object, declared) => {
                let object: &'a JsonMap<String, Json> = object;
                match declared.and_then(|declared| declared.object()) {
                    Some(of) => {
                        let is_there = |name: &str| object.get(name).is_some_and(|value| !value.is_null());
                        let known = of.fields.iter().filter(|(_, field)| is_there(&field.json_name));
                        known.map(|(name, _)| Key::String(Text::Borrowed(name))).collect()
                    }
                    None => object.keys().map(|name| Key::String(Text::Borrowed(name))).collect(),
                }
            }
            Map::Owned(entries) => entries.0.keys().cloned().collect(),
        }
    }

    /// The keys and their values, in order.
    pub fn entries(&self) -> impl Iterator<Item = (Value<'a>, Result<Value<'a>, Fault>)> + '_ {
        self.keys().into_iter().filter_map(|key| self.get(&key).map(|value| (key.value(), value)))
    }

    pub(crate) fn equals(&self, other: &Map<'a>, work: &mut Work) -> Result<bool, Fault> {
        if self.len() != other.len() {
            return Ok(false);
        }
        let keys = self.keys();
        work.spend(keys.len())?;
        for key in &keys {
            let same = match (self.get(key).transpose()?, other.get(key).transpose()?) {
                (Some(one), Some(two)) => equal(&one, &two, work)?,
                _ => false,
            };
            if !same {
                return Ok(false);
            }
        }
        match (self, other) {
            // What no declaration names is compared as it stands.
            (Map::Json(one, _), Map::Json(two, _)) if keys.len() < one.len() => Ok(one == two),
            _ => Ok(keys.len() == self.len()),
        }
    }
}
