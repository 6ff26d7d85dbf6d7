//! Reads the Protobuf form of objects, which typed Go clients send, by the schemas' field numbers.
//!
//! Go writes fields that are no pointers even when they are zero; JSON leaves them out. What is zero is therefore
//! left out here too, but for the fields in which the reference's types tell zero from nothing.

use base64::Engine as _;
use serde_json::{Map, Value, json};

use crate::{
    schema::{self, Schema},
    time,
};

const MAGIC: &[u8] = b"k8s\0";
const DEPTH: usize = 64;

/// Pointers to integers and booleans among the kinds' fields: zero and false mean something.
const POINTERS: &[&str] = &[
    "activeDeadlineSeconds",
    "allocateLoadBalancerNodePorts",
    "allowPrivilegeEscalation",
    "automountServiceAccountToken",
    "blockOwnerDeletion",
    "controller",
    "defaultMode",
    "deletionGracePeriodSeconds",
    "enableServiceLinks",
    "expirationSeconds",
    "fsGroup",
    "gracePeriodSeconds",
    "hostProcess",
    "hostUsers",
    "immutable",
    "leaseDurationSeconds",
    "leaseTransitions",
    "mode",
    "optional",
    "orphanDependents",
    "port",
    "priority",
    "privileged",
    "progressDeadlineSeconds",
    "readOnlyRootFilesystem",
    "ready",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "serving",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "started",
    "terminating",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
];

/// Not an object in Protobuf form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the protobuf form of the object is damaged")]
pub struct Damaged;

/// Reads an object in its envelope. `schema` is the definition that its kind has, when it is none of the table.
///
/// # Errors
/// `Damaged` for anything that is no envelope, or no message by the schema.
pub fn decode(bytes: &[u8]) -> Result<Value, Damaged> {
    let mut envelope = Reader(bytes.strip_prefix(MAGIC).ok_or(Damaged)?);
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    while let Some((tag, field)) = envelope.next()? {
        match (tag, field) {
            (1, Field::Bytes(bytes)) => {
                let mut meta = Reader(bytes);
                while let Some((tag, field)) = meta.next()? {
                    match (tag, field) {
                        (1, Field::Bytes(bytes)) => version = text(bytes)?,
                        (2, Field::Bytes(bytes)) => kind = text(bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Field::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let schema = definition(&version, &kind).and_then(|name| schema::find(&name)).ok_or(Damaged)?;
    let mut object = message(raw, schema, 0)?;
    object.insert("apiVersion".into(), json!(version));
    object.insert("kind".into(), json!(kind));
    Ok(Value::Object(object))
}

/// The name of the definition of a kind.
fn definition(api_version: &str, kind: &str) -> Option<String> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if let Some(row) = crate::kinds::find_version(group, version, kind) {
        return Some(row.schema.to_owned());
    }
    if kind == "DeleteOptions" {
        return Some("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions".into());
    }
    // What subresources take: definitions name a group by its first word.
    let short = if group.is_empty() { "core" } else { group.split('.').next()? };
    Some(format!("io.k8s.api.{short}.{version}.{kind}"))
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, Damaged> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(Damaged)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Damaged)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Damaged> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(Damaged)?;
        self.0 = rest;
        Ok(head)
    }

    fn next(&mut self) -> Result<Option<(u32, Field<'a>)>, Damaged> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).map_err(|_| Damaged)?;
        let field = match key & 7 {
            0 => Field::Number(self.varint()?),
            1 => Field::Number(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| Damaged)?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Damaged)?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Number(u64::from(u32::from_le_bytes(self.take(4)?.try_into().map_err(|_| Damaged)?))),
            _ => return Err(Damaged),
        };
        Ok(Some((tag, field)))
    }
}

fn text(bytes: &[u8]) -> Result<String, Damaged> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Damaged)
}

fn message(bytes: &[u8], schema: &'static Schema, depth: usize) -> Result<Map<String, Value>, Damaged> {
    let mut object = Map::new();
    fill(&mut object, bytes, schema, &[], depth)?;
    Ok(object)
}

/// Reads the fields whose path on the wire begins with `prefix`.
fn fill(
    object: &mut Map<String, Value>,
    bytes: &[u8],
    schema: &'static Schema,
    prefix: &[u32],
    depth: usize,
) -> Result<(), Damaged> {
    if depth > DEPTH {
        return Err(Damaged);
    }
    let mut reader = Reader(bytes);
    while let Some((tag, field)) = reader.next()? {
        let path = [prefix, &[tag]].concat();
        if let Some((name, schema)) = schema.wired(&path) {
            add(object, name, schema, &field, depth)?;
        } else if let Field::Bytes(bytes) = field
            && prefix.is_empty()
            && schema.wired_below(tag)
        {
            fill(object, bytes, schema, &path, depth + 1)?;
        }
    }
    Ok(())
}

fn add(
    object: &mut Map<String, Value>,
    name: &str,
    schema: &'static Schema,
    field: &Field<'_>,
    depth: usize,
) -> Result<(), Damaged> {
    if let Some(items) = schema.items() {
        let list = object.entry(name).or_insert_with(|| json!([]));
        if let (Some(list), Some(value)) = (list.as_array_mut(), value(items, field, depth)?) {
            list.push(value);
        }
        return Ok(());
    }
    if let Some(values) = schema.values() {
        let Field::Bytes(bytes) = field else { return Err(Damaged) };
        let (mut key, mut inner) = (String::new(), None);
        let mut entry = Reader(bytes);
        while let Some((tag, field)) = entry.next()? {
            match (tag, &field) {
                (1, Field::Bytes(bytes)) => key = text(bytes)?,
                (2, field) => inner = value(values, field, depth)?,
                _ => {}
            }
        }
        let map = object.entry(name).or_insert_with(|| json!({}));
        map[key.as_str()] = inner.unwrap_or_else(|| json!(""));
        return Ok(());
    }
    let Some(value) = value(schema, field, depth)? else { return Ok(()) };
    let zero = match &value {
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0) && !POINTERS.contains(&name),
        Value::Bool(yes) => !yes && !POINTERS.contains(&name),
        _ => false,
    };
    if !zero {
        object.insert(name.to_owned(), value);
    }
    Ok(())
}

fn value(schema: &'static Schema, field: &Field<'_>, depth: usize) -> Result<Option<Value>, Damaged> {
    Ok(Some(match (schema.short_name(), field) {
        ("Time" | "MicroTime", Field::Bytes(bytes)) => match instant(bytes)? {
            Some(at) if schema.short_name() == "Time" => json!(time::seconds(at)),
            Some(at) => json!(time::micros(at)),
            None => return Ok(None),
        },
        ("Quantity", Field::Bytes(bytes)) => {
            let mut reader = Reader(bytes);
            let mut quantity = String::new();
            while let Some((tag, field)) = reader.next()? {
                if let (1, Field::Bytes(bytes)) = (tag, field) {
                    quantity = text(bytes)?;
                }
            }
            json!(quantity)
        }
        ("IntOrString", Field::Bytes(bytes)) => {
            let (mut is_text, mut number, mut word) = (false, 0, String::new());
            let mut reader = Reader(bytes);
            while let Some((tag, field)) = reader.next()? {
                match (tag, field) {
                    (1, Field::Number(kind)) => is_text = kind != 0,
                    (2, Field::Number(value)) => number = value as i64,
                    (3, Field::Bytes(bytes)) => word = text(bytes)?,
                    _ => {}
                }
            }
            if is_text { json!(word) } else { json!(number) }
        }
        ("FieldsV1" | "RawExtension" | "JSON", Field::Bytes(bytes)) => {
            let mut reader = Reader(bytes);
            let mut raw = Value::Null;
            while let Some((tag, field)) = reader.next()? {
                if let (1, Field::Bytes(bytes)) = (tag, field) {
                    raw = serde_json::from_slice(bytes).map_err(|_| Damaged)?;
                }
            }
            if raw.is_null() {
                return Ok(None);
            }
            raw
        }
        (name, Field::Bytes(bytes)) if name.starts_with("JSONSchemaPropsOr") => {
            return alternative(name, bytes, depth);
        }
        (_, field) => match (schema.kind(), field) {
            ("string", Field::Bytes(bytes)) if schema.format() == "byte" => {
                json!(base64::engine::general_purpose::STANDARD.encode(bytes))
            }
            ("string", Field::Bytes(bytes)) => json!(text(bytes)?),
            ("boolean", Field::Number(number)) => json!(*number != 0),
            ("integer", Field::Number(number)) => json!(*number as i64),
            ("number", Field::Number(number)) => json!(f64::from_bits(*number)),
            ("object", Field::Bytes(bytes)) => Value::Object(message(bytes, schema, depth + 1)?),
            _ => return Err(Damaged),
        },
    }))
}

/// A schema, or what may stand in its place.
fn alternative(name: &str, bytes: &[u8], depth: usize) -> Result<Option<Value>, Damaged> {
    const PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    let props = schema::find(PROPS).ok_or(Damaged)?;
    let or_bool = name == "JSONSchemaPropsOrBool";
    let (mut one, mut many, mut allows) = (None, Vec::new(), false);
    let mut reader = Reader(bytes);
    while let Some((tag, field)) = reader.next()? {
        match (tag, field) {
            (1, Field::Number(number)) => allows = number != 0,
            (1, Field::Bytes(bytes)) => one = Some(Value::Object(message(bytes, props, depth + 1)?)),
            (2, Field::Bytes(bytes)) if or_bool => {
                one = Some(Value::Object(message(bytes, props, depth + 1)?))
            }
            (2, Field::Bytes(bytes)) if name.ends_with("StringArray") => many.push(json!(text(bytes)?)),
            (2, Field::Bytes(bytes)) => many.push(Value::Object(message(bytes, props, depth + 1)?)),
            _ => {}
        }
    }
    Ok(Some(match one {
        Some(one) => one,
        None if or_bool => json!(allows),
        None => Value::Array(many),
    }))
}

fn instant(bytes: &[u8]) -> Result<Option<jiff::Timestamp>, Damaged> {
    let (mut seconds, mut nanos, mut any) = (0, 0, false);
    let mut reader = Reader(bytes);
    while let Some((tag, field)) = reader.next()? {
        any = true;
        match (tag, field) {
            (1, Field::Number(number)) => seconds = number as i64,
            (2, Field::Number(number)) => nanos = i32::try_from(number).map_err(|_| Damaged)?,
            _ => {}
        }
    }
    if !any {
        return Ok(None);
    }
    jiff::Timestamp::new(seconds, nanos).map(Some).map_err(|_| Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut field = vec![tag << 3 | 2, u8::try_from(content.len()).unwrap()];
        field.extend_from_slice(content);
        field
    }

    fn envelope(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes(1, &meta), bytes(2, raw)].concat()
    }

    #[test]
    fn reads_messages_maps_and_zero_values() {
        let metadata = [bytes(1, b"web"), bytes(2, b""), bytes(8, b"")].concat();
        let entry = [bytes(1, b"k"), bytes(2, b"v")].concat();
        let raw = [bytes(1, &metadata), bytes(2, &entry)].concat();
        assert_eq!(
            decode(&envelope("v1", "ConfigMap", &raw)).unwrap(),
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "web" }, "data": { "k": "v" } })
        );
        // replicas is a pointer: zero counts; minReadySeconds is none.
        let spec = [8, 0, 40, 0];
        let deployment = decode(&envelope("apps/v1", "Deployment", &bytes(2, &spec))).unwrap();
        assert_eq!(deployment["spec"], json!({ "replicas": 0 }));
        assert_eq!(decode(b"k8s\0\xff"), Err(Damaged));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(raw in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&envelope("v1", "Pod", &raw));
        }
    }
}
