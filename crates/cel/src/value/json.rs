//! JSON into values, as a declaration says, and values into JSON.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map as JsonMap, Number, Value as Json};

use super::{
    Fault, Hidden, List, Map, Opaque, Outcome, Value, Work, fault,
    time::{parse_date, parse_duration, parse_timestamp, write_duration},
};
use crate::schema::{Declared, Kind};

impl<'a> Value<'a> {
    /// Reads JSON without a declaration: as an object of a kind that nothing is known of.
    pub fn from_json(json: &'a Json) -> Value<'a> {
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(whole) => Value::Int(whole),
                None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::borrowed(text),
            Json::Array(elements) => Value::List(List::Json(elements, None)),
            Json::Object(object) => Value::Map(Map::Json(object, None)),
        }
    }

    /// Reads JSON as a declaration says; what does not fit is a fault for whoever looks at it.
    pub fn declared(json: &'a Json, declared: &'a Declared) -> Result<Value<'a>, Fault> {
        Value::read(json, Some(declared))
    }

    pub(crate) fn read(json: &'a Json, declared: Option<&'a Declared>) -> Outcome<'a> {
        let Some(declared) = declared else { return Ok(Value::from_json(json)) };
        match (&declared.kind, json) {
            (Kind::Dyn, json) => Ok(Value::from_json(json)),
            (_, Json::Null) if declared.nullable => Ok(Value::Null),
            (_, Json::Null) => fault("invalid data, got null for schema with nullable=false"),
            (Kind::IntOrString, Json::String(text)) | (Kind::String, Json::String(text)) => {
                Ok(Value::borrowed(text))
            }
            (Kind::IntOrString, json) => match json.as_i64() {
                Some(number) => Ok(Value::Int(number)),
                None => fault("invalid data, expected XIntOrString value to be either a string or integer"),
            },
            (Kind::Bool, Json::Bool(value)) => Ok(Value::Bool(*value)),
            (Kind::Bool, json) => unexpected("bool", json),
            (Kind::Int, json) => match json.as_i64() {
                Some(number) => Ok(Value::Int(number)),
                None => unexpected("int", json),
            },
            (Kind::Double, Json::Number(number)) => Ok(Value::Double(number.as_f64().unwrap_or(f64::NAN))),
            (Kind::Double, json) => unexpected("float", json),
            (Kind::Bytes, Json::String(text)) => match STANDARD.decode(text) {
                Ok(bytes) => Ok(Value::Bytes(bytes.into())),
                Err(error) => fault(format!("Invalid byte formatted string {text}: {error}")),
            },
            (Kind::Duration, Json::String(text)) => match parse_duration(text) {
                Some(nanos) => Ok(Value::Duration(nanos)),
                None => fault(format!("Invalid duration {text}: unable to parse {text} as duration")),
            },
            (Kind::Date, Json::String(text)) => match parse_date(text) {
                Some(time) => Ok(Value::Timestamp(time)),
                None => fault(format!("Invalid date formatted string {text}: cannot parse as date")),
            },
            (Kind::DateTime, Json::String(text)) => match parse_timestamp(text) {
                Some(time) => Ok(Value::Timestamp(time)),
                None => {
                    fault(format!("Invalid date-time formatted string {text}: cannot parse as date-time"))
                }
            },
            (Kind::String | Kind::Bytes | Kind::Duration | Kind::Date | Kind::DateTime, json) => {
                unexpected("string", json)
            }
            (Kind::List { .. }, Json::Array(elements)) => {
                Ok(Value::List(List::Json(elements, Some(declared))))
            }
            (Kind::List { .. }, _) => {
                fault("invalid data, expected an array for the provided schema with type=array")
            }
            (Kind::Map(_) | Kind::Object(_), Json::Object(object)) => {
                Ok(Value::Map(Map::Json(object, Some(declared))))
            }
            (Kind::Map(_) | Kind::Object(_), _) => {
                fault("invalid data, expected a map for the provided schema with type=object")
            }
        }
    }

    /// The value as JSON, for a patch or a variable that is given on.
    ///
    /// # Errors
    /// Where a part has no form in JSON, or the value is too large.
    pub fn to_json(&self) -> Result<Json, Fault> {
        self.write(&mut Work::default())
    }

    fn write(&self, work: &mut Work) -> Result<Json, Fault> {
        work.spend(1)?;
        Ok(match self {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Int(number) => Json::from(*number),
            Value::Uint(number) => Json::from(*number),
            Value::Double(number) => match Number::from_f64(*number) {
                Some(number) => Json::Number(number),
                None => return fault("a number that is none has no form in JSON"),
            },
            Value::String(text) => Json::from(&**text),
            Value::Bytes(bytes) => Json::from(STANDARD.encode(bytes)),
            Value::Duration(nanos) => Json::from(write_duration(*nanos)),
            Value::Timestamp(time) => Json::from(time.to_string()),
            Value::List(List::Json(elements, None)) => Json::from(elements.to_vec()),
            Value::List(list) => {
                let elements: Result<Vec<Json>, Fault> =
                    list.iter().map(|element| element?.write(work)).collect();
                Json::from(elements?)
            }
            // What was read from JSON is JSON, whatever it is called in expressions.
            Value::Map(Map::Json(object, _)) => Json::Object((*object).clone()),
            Value::Map(map) => {
                let mut object = JsonMap::new();
                for key in map.keys() {
                    if let Some(value) = map.get(&key).transpose()? {
                        object.insert(key.to_string(), value.write(work)?);
                    }
                }
                Json::Object(object)
            }
            Value::Object(instance) => {
                let fields: Result<JsonMap<String, Json>, Fault> = instance
                    .fields
                    .iter()
                    .map(|(name, value)| Ok((name.clone(), value.write(work)?)))
                    .collect();
                Json::Object(fields?)
            }
            Value::Optional(Some(value)) => value.write(work)?,
            Value::Optional(None) => Json::Null,
            Value::Type(of) => Json::from(of.name()),
            Value::Hidden(Hidden(Opaque::Quantity(quantity))) => Json::from(quantity.to_string()),
            Value::Hidden(Hidden(Opaque::Address(address))) => Json::from(address.to_string()),
            Value::Hidden(Hidden(Opaque::Network(network))) => Json::from(network.to_string()),
            Value::Hidden(Hidden(of)) => return fault(format!("{} has no form in JSON", of.name())),
        })
    }
}

fn unexpected<'a>(wanted: &str, found: &Json) -> Outcome<'a> {
    let found = match found {
        Json::Null => "<nil>",
        Json::Bool(_) => "bool",
        Json::Number(number) if number.is_i64() => "int64",
        Json::Number(_) => "float64",
        Json::String(_) => "string",
        Json::Array(_) => "[]interface {}",
        Json::Object(_) => "map[string]interface {}",
    };
    fault(format!("invalid data, expected {wanted}, got {found}"))
}
