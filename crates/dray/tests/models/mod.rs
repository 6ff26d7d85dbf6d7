//! Which fields of a model an answer lacks, and which it has that the model lacks. A model's own deserialization tells the
//! names of its fields; this deserializer notes them on its way through a document.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde::de::value::{MapDeserializer, StrDeserializer};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Error, Value};

/// What differs, as paths: `State.Health`, `Mounts[].Type`, `Networks.*.MacAddress`.
#[derive(Debug, Default)]
pub(crate) struct Differences {
    /// Fields of the model that the answer has nowhere.
    pub(crate) absent: BTreeSet<String>,
    /// Fields of the answer that the model has not.
    pub(crate) unknown: BTreeSet<String>,
    /// Fields of the model that the answer has somewhere.
    present: BTreeSet<String>,
}

/// Reads a document as a model.
pub(crate) fn compare<T: for<'de> Deserialize<'de>>(document: &Value) -> Result<(T, Differences), String> {
    let found = RefCell::new(Differences::default());
    let node = Node { value: document, path: String::new(), found: &found };
    let read = T::deserialize(node).map_err(|error| error.to_string())?;
    let mut found = found.into_inner();
    found.absent.retain(|path| !found.present.contains(path));
    Ok((read, found))
}

#[derive(Clone)]
struct Node<'a> {
    value: &'a Value,
    path: String,
    found: &'a RefCell<Differences>,
}

impl<'a> Node<'a> {
    fn field(&self, name: &str, value: &'a Value) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Self { value, path, found: self.found }
    }
}

impl<'de, 'a: 'de> IntoDeserializer<'de, Error> for Node<'a> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// The entries of a map whose keys are names that the user chose.
struct Entries<'a> {
    node: Node<'a>,
    left: serde_json::map::Iter<'a>,
    value: Option<&'a Value>,
}

impl<'de, 'a: 'de> MapAccess<'de> for Entries<'a> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.left.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(StrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let value = self.value.take().expect("a key came before");
        seed.deserialize(self.node.field("*", value))
    }
}

struct Items<'a> {
    node: Node<'a>,
    left: std::slice::Iter<'a, Value>,
}

impl<'de, 'a: 'de> SeqAccess<'de> for Items<'a> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(value) = self.left.next() else { return Ok(None) };
        seed.deserialize(Node { value, path: format!("{}[]", self.node.path), found: self.node.found })
            .map(Some)
    }
}

impl<'de, 'a: 'de> Deserializer<'de> for Node<'a> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Array(items) => visitor.visit_seq(Items { left: items.iter(), node: self }),
            Value::Object(map) => visitor.visit_map(Entries { left: map.iter(), value: None, node: self }),
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Value::Object(map) = self.value else { return self.value.deserialize_any(visitor) };
        {
            let mut found = self.found.borrow_mut();
            let path = |name: &str| self.field(name, self.value).path;
            for name in fields {
                let has = if map.contains_key(*name) { &mut found.present } else { &mut found.absent };
                has.insert(path(name));
            }
            let unknown = map.keys().filter(|name| !fields.contains(&name.as_str()));
            found.unknown.extend(unknown.map(|name| path(name)));
        }
        let entries = map.iter().map(|(name, value)| (name.as_str(), self.field(name, value)));
        let place = self.path.clone();
        visitor.visit_map(MapDeserializer::new(entries)).map_err(|error: Error| {
            if place.is_empty() { error } else { serde::de::Error::custom(format!("{place}: {error}")) }
        })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value.deserialize_enum(name, variants, visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}
