//! The columns that a definition says are printed, and their cells.

use dray_machinery::{object, time};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::jsonpath::Path;

/// A column after the name.
#[derive(Debug)]
struct Column {
    heading: Value,
    kind: String,
    /// None where the path is none.
    path: Option<Path>,
}

/// The columns of a version.
#[derive(Debug)]
pub(crate) struct Columns(Vec<Column>);

/// What is printed where a definition says nothing.
fn age() -> Value {
    json!({
        "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
        "description": "CreationTimestamp is a timestamp representing the server time when this object was created. It is \
            not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It \
            is represented in RFC3339 form and is in UTC.",
    })
}

impl Columns {
    /// Reads `additionalPrinterColumns`.
    pub(crate) fn read(columns: &Value) -> Columns {
        let given = columns.as_array().filter(|columns| !columns.is_empty()).cloned();
        let columns = given.unwrap_or_else(|| vec![age()]);
        Columns(columns.iter().map(Column::read).collect())
    }

    /// The headings, without that of the name.
    pub(crate) fn headings(&self) -> impl Iterator<Item = Value> {
        self.0.iter().map(|column| column.heading.clone())
    }

    /// The cells of an object, the name first.
    pub(crate) fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let name = json!(object::name(object));
        std::iter::once(name).chain(self.0.iter().map(|column| column.cell(object, now))).collect()
    }
}

impl Column {
    fn read(column: &Value) -> Column {
        let text = |name: &str| object::text(column, &[name]);
        let path = text("jsonPath");
        let description = match text("description") {
            "" => format!("Custom resource definition column (in JSONPath format): {path}"),
            given => given.to_owned(),
        };
        Column {
            heading: json!({
                "name": text("name"), "type": text("type"), "format": text("format"), "description": description,
                "priority": column["priority"].as_i64().unwrap_or(0),
            }),
            kind: text("type").to_owned(),
            path: Path::parse(path).ok(),
        }
    }

    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found = self.path.as_ref().and_then(|path| path.first(object));
        let Some(value) = found else { return Value::Null };
        match (self.kind.as_str(), value) {
            ("string", Value::String(text)) => json!(text),
            ("string", Value::Null) => json!("<nil>"),
            ("string", other) => json!(other.to_string()),
            ("integer", Value::Number(number)) => {
                let whole = number.as_i64().or_else(|| number.as_f64().map(|number| number as i64));
                json!(whole)
            }
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
            ("date", Value::String(text)) => match time::parse(text) {
                Some(at) => json!(time::age(at, now)),
                None => json!("<invalid>"),
            },
            _ => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_of_their_type() {
        let columns = Columns::read(&json!([
            { "name": "Text", "type": "string", "jsonPath": ".spec.a" },
            { "name": "Count", "type": "integer", "jsonPath": ".spec.n", "priority": 1 },
            { "name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status" },
            { "name": "On", "type": "boolean", "jsonPath": ".spec.on" },
            { "name": "Since", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
            { "name": "Bad", "type": "integer", "jsonPath": ".spec.a" },
            { "name": "All", "type": "string", "jsonPath": ".spec" },
        ]));
        let now: Timestamp = "2024-01-01T00:05:00Z".parse().unwrap();
        let object = json!({ "metadata": { "name": "x", "creationTimestamp": "2024-01-01T00:00:00Z" },
            "spec": { "a": "b", "n": 2.0, "on": true },
            "status": { "conditions": [{ "type": "Other", "status": "1" }, { "type": "Ready", "status": "True" }] } });
        let all = object["spec"].to_string();
        assert_eq!(
            columns.cells(&object, now),
            [
                json!("x"),
                json!("b"),
                json!(2),
                json!("True"),
                json!(true),
                json!("5m"),
                Value::Null,
                json!(all)
            ]
        );
        let empty = columns.cells(&json!({ "metadata": { "name": "y" } }), now);
        assert_eq!(empty[1..], vec![Value::Null; 7]);
        assert_eq!(columns.headings().nth(1).unwrap()["priority"], 1);
        let usual: Vec<Value> = Columns::read(&Value::Null).headings().collect();
        assert_eq!((usual.len(), &usual[0]["name"]), (1, &json!("Age")));
    }
}
