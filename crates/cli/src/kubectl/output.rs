//! Objects as people and scripts want to see them.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::{Error, Result};

/// How objects are printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// The server's rows; wide ones with all columns.
    Table {
        wide: bool,
    },
    Json,
    Yaml,
    Name,
    JsonPath(Vec<Piece>),
}

/// A part of a JSONPath template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    Path(Vec<Step>),
}

/// A step into an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Field(String),
    Index(i64),
    All,
}

impl Output {
    /// Reads the value of `-o`.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self> {
        Ok(match text {
            None | Some("") => Self::Table { wide: false },
            Some("wide") => Self::Table { wide: true },
            Some("json") => Self::Json,
            Some("yaml") => Self::Yaml,
            Some("name") => Self::Name,
            Some(text) => match text.strip_prefix("jsonpath=") {
                Some(template) => Self::JsonPath(template_of(template)?),
                None => {
                    let why = format!(
                        "unable to match a printer suitable for {text:?}; use json, yaml, name, wide or jsonpath="
                    );
                    return Err(Error::invalid("output format", why));
                }
            },
        })
    }

    /// Prints one object or a list.
    pub(crate) fn print(&self, value: &Value, label: &str) -> Result<()> {
        let text = match self {
            Self::Json | Self::Table { .. } => {
                let text = serde_json::to_string_pretty(value).map_err(|source| Error::Answer { source })?;
                format!("{text}\n")
            }
            Self::Yaml => yaml(value)?,
            Self::Name => format!("{label}/{}\n", value["metadata"]["name"].as_str().unwrap_or_default()),
            Self::JsonPath(pieces) => pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Text(text) => text.clone(),
                    Piece::Path(steps) => found(value, steps),
                })
                .collect(),
        };
        say(&text)
    }
}

/// Writes to standard output, without a newline of its own.
pub(crate) fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::io("write to", "the output"))
}

pub(crate) fn yaml(value: &Value) -> Result<String> {
    serde_yaml_ng::to_string(value)
        .map_err(|error| Error::Failed { message: format!("cannot write YAML: {error}") })
}

/// Several objects as one list.
pub(crate) fn list(items: Vec<Value>) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "" }, "items": items })
}

fn template_of(template: &str) -> Result<Vec<Piece>> {
    let bad = |why: &str| Error::invalid("jsonpath", format!("{why} in {template:?}"));
    let template = template.trim_matches('\'');
    if !template.contains('{') {
        return Ok(vec![Piece::Path(steps(template).ok_or_else(|| bad("a path is not understood"))?)]);
    }
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        if start > 0 {
            pieces.push(Piece::Text(rest[..start].to_owned()));
        }
        let end = rest[start..].find('}').ok_or_else(|| bad("a brace is not closed"))? + start;
        let inner = rest[start + 1..end].trim();
        if let Some(text) = inner.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            pieces.push(Piece::Text(text.replace("\\n", "\n").replace("\\t", "\t")));
        } else {
            let steps = steps(inner).ok_or_else(|| bad(&format!("{{{inner}}} is not understood")))?;
            pieces.push(Piece::Path(steps));
        }
        rest = &rest[end + 1..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

/// `.a.b[0]['c.d'][*]` with `\.` for a point in a name.
fn steps(path: &str) -> Option<Vec<Step>> {
    let path = path.strip_prefix('$').unwrap_or(path);
    let mut steps = Vec::new();
    let mut characters = path.chars().peekable();
    while let Some(&first) = characters.peek() {
        match first {
            '.' => {
                characters.next();
            }
            '[' => {
                characters.next();
                let inner: String = characters.by_ref().take_while(|&c| c != ']').collect();
                let name = inner.strip_prefix('\'').and_then(|name| name.strip_suffix('\''));
                steps.push(match (inner.as_str(), name) {
                    ("*", _) => Step::All,
                    (_, Some(name)) => Step::Field(name.to_owned()),
                    _ => Step::Index(inner.parse().ok()?),
                });
            }
            _ => {
                let mut name = String::new();
                while let Some(&next) = characters.peek() {
                    if next == '.' || next == '[' {
                        break;
                    }
                    characters.next();
                    if next == '\\' {
                        name.extend(characters.next());
                    } else if "?()@ ".contains(next) {
                        return None;
                    } else {
                        name.push(next);
                    }
                }
                steps.push(if name == "*" { Step::All } else { Step::Field(name) });
            }
        }
    }
    Some(steps)
}

fn found(value: &Value, steps: &[Step]) -> String {
    let mut values = vec![value];
    for step in steps {
        values = values
            .into_iter()
            .flat_map(|value| -> Vec<&Value> {
                match step {
                    Step::Field(name) => value.get(name).into_iter().collect(),
                    Step::All => match value {
                        Value::Array(items) => items.iter().collect(),
                        Value::Object(fields) => fields.values().collect(),
                        _ => Vec::new(),
                    },
                    Step::Index(index) => {
                        let length = value.as_array().map_or(0, Vec::len);
                        let place = if *index < 0 {
                            length.checked_add_signed(*index as isize)
                        } else {
                            usize::try_from(*index).ok()
                        };
                        place.and_then(|place| value.get(place)).into_iter().collect()
                    }
                }
            })
            .collect();
    }
    let texts: Vec<String> = values
        .into_iter()
        .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        .collect();
    texts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_fields_items_and_all() {
        let value = json!({
            "items": [{ "metadata": { "name": "a", "labels": { "x.y/z": "1" } } }, { "metadata": { "name": "b" } }],
        });
        let fill = |template: &str| {
            let Output::JsonPath(pieces) = Output::parse(Some(&format!("jsonpath={template}"))).unwrap()
            else {
                panic!("a JSONPath");
            };
            pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Text(text) => text.clone(),
                    Piece::Path(steps) => found(&value, steps),
                })
                .collect::<String>()
        };
        assert_eq!(fill("{.items[*].metadata.name}"), "a b");
        assert_eq!(fill("{.items[-1].metadata.name}{\"\\n\"}"), "b\n");
        assert_eq!(fill(r"{.items[0].metadata.labels.x\.y/z}"), "1");
        assert_eq!(fill("x={.nothing}"), "x=");
        assert!(Output::parse(Some("jsonpath={.items[?(@.a)]}")).is_err());
        assert!(Output::parse(Some("pretty")).is_err());
    }
}
