//! `--format`: the part of Go's templates that people use in scripts. Fields, `json`, and text between.

use serde_json::Value;

use crate::{Error, Result};

enum Piece {
    Text(String),
    Field { path: Vec<String>, json: bool },
}

/// A template, read.
pub(crate) struct Format {
    pieces: Vec<Piece>,
}

impl Format {
    /// Reads `{{.Name}}`, `{{.State.Status}}`, `{{json .}}`, `{{json .Mounts}}` and text with `\t` and `\n`.
    ///
    /// # Errors
    /// For every other action, so that no script silently gets something else.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text == "json" {
            return Self::parse("{{json .}}");
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find("{{") {
            let (before, action) = rest.split_at(start);
            let end =
                action.find("}}").ok_or_else(|| Error::invalid("--format", "an action is not closed"))?;
            pieces.push(Piece::Text(unescape(before)));
            pieces.push(Self::action(action[2..end].trim())?);
            rest = &action[end + 2..];
        }
        pieces.push(Piece::Text(unescape(rest)));
        Ok(Self { pieces })
    }

    fn action(action: &str) -> Result<Piece> {
        let (json, field) = match action.strip_prefix("json ") {
            Some(field) => (true, field.trim()),
            None => (false, action),
        };
        let path = field
            .strip_prefix('.')
            .filter(|path| path.chars().all(|c| c.is_alphanumeric() || "._".contains(c)))
            .ok_or_else(|| {
                Error::invalid("--format", format!("{{{{{action}}}}} is not understood; use fields and json"))
            })?;
        let path = path.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Ok(Piece::Field { path, json })
    }

    /// Fills the template in.
    pub(crate) fn fill(&self, value: &Value) -> String {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Field { path, json } => {
                    let found = path.iter().fold(value, |value, name| &value[name.as_str()]);
                    match found {
                        Value::String(text) if !json => out.push_str(text),
                        Value::Null if !json => out.push_str("<no value>"),
                        found => out.push_str(&found.to_string()),
                    }
                }
            }
        }
        out
    }
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_and_json_are_filled_in() {
        let value = json!({ "Id": "x", "State": { "ExitCode": 3, "Running": false } });
        let fill = |text| Format::parse(text).unwrap().fill(&value);
        assert_eq!(fill("{{.Id}}\\t{{ .State.ExitCode }}"), "x\t3");
        assert_eq!(fill("{{json .State}}"), r#"{"ExitCode":3,"Running":false}"#);
        assert_eq!(fill("{{.Nothing}}"), "<no value>");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(Format::parse("{{range .Mounts}}x{{end}}").is_err());
        assert!(Format::parse("{{.Id").is_err());
    }
}
