//! Reading a few fields of a JSON text without building the rest of it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Reads only the values at some paths: an object that has these and nothing else. What is not there is left out, as
/// is everything of a text that is no JSON object.
pub fn pick(json: &[u8], paths: &[&[&str]]) -> Value {
    let mut reader = serde_json::Deserializer::from_slice(json);
    Picker { paths: paths.to_vec() }.deserialize(&mut reader).unwrap_or_default()
}

/// The text of the field `metadata` of an object.
pub fn metadata(json: &[u8]) -> Option<&str> {
    #[derive(serde::Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    serde_json::from_slice::<Head<'_>>(json).ok().map(|head| head.metadata.get())
}

struct Picker<'p> {
    paths: Vec<&'p [&'p str]>,
}

impl<'de> DeserializeSeed<'de> for Picker<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.paths.iter().any(|path| path.is_empty()) {
            return serde::Deserialize::deserialize(deserializer);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Picker<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut picked = Map::new();
        while let Some(key) = fields.next_key::<std::borrow::Cow<'de, str>>()? {
            let below: Vec<&[&str]> =
                self.paths.iter().filter(|path| path[0] == key).map(|path| &path[1..]).collect();
            if below.is_empty() {
                fields.next_value::<IgnoredAny>()?;
            } else {
                let value = fields.next_value_seed(Picker { paths: below })?;
                picked.insert(key.into_owned(), value);
            }
        }
        Ok(Value::Object(picked))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::object::at;

    #[test]
    fn only_what_is_asked_for_is_read() {
        let text = br#"{"a":{"b":1,"c":[{"b":2}]},"b":[1,"x",null,{}],"d":"e\u0041"}"#;
        assert_eq!(pick(text, &[&["a", "b"], &["d"]]), json!({ "a": { "b": 1 }, "d": "eA" }));
        assert_eq!(pick(text, &[&["a"]]), json!({ "a": { "b": 1, "c": [{ "b": 2 }] } }));
        assert_eq!(pick(text, &[&["b", "x"]]), json!({ "b": null }));
        assert_eq!(pick(b"[1]", &[&["a"]]), Value::Null);
        assert_eq!(pick(b"{\"a\":", &[&["a"]]), Value::Null);
        assert_eq!(metadata(br#"{"kind":"X","metadata":{"name": "a"}}"#), Some(r#"{"name": "a"}"#));
        assert_eq!(metadata(b"{}"), None);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-c\"\\\\]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn reads_what_a_whole_reader_reads(value in value(), path in prop::collection::vec("[a-c]", 1..4)) {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            let picked = pick(value.to_string().as_bytes(), &[&path]);
            prop_assert_eq!(at(&picked, &path), at(&value, &path));
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            pick(text.as_bytes(), &[&["a", "b"]]);
            metadata(text.as_bytes());
        }
    }
}
