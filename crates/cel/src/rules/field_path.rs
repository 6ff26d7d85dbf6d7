//! The field that a rule blames: `.spec.ports['http']`, through properties and the keys of maps.

use serde_json::Value as Json;

use super::child;
use crate::schema::additional;

/// The path as errors name it, if the schema has such a field.
///
/// # Errors
/// What is wrong with the path.
pub fn field_path(path: &str, schema: &Json) -> Result<String, String> {
    let mut schema = schema;
    let mut found = String::new();
    let mut rest = path;
    while let Some(first) = rest.chars().next() {
        let name = match first {
            '.' => {
                let end = rest[1..].find(['.', '[', ']']).map_or(rest.len(), |end| end + 1);
                let name = rest[1..end].to_owned();
                if name.is_empty() {
                    return Err("unexpected end of JSON path".to_owned());
                }
                rest = &rest[end..];
                name
            }
            '[' => {
                let (name, after) = quoted(&rest[1..])?;
                rest = after.strip_prefix(']').ok_or_else(|| match after.chars().next() {
                    None => "unexpected end of JSON path".to_owned(),
                    Some(_) => format!("expected ] but got {after}"),
                })?;
                name
            }
            _ => return Err(format!("expected [ or . but got: {rest}")),
        };
        if let Some(properties) = schema.get("properties") {
            schema = properties.get(&name).ok_or("does not refer to a valid field")?;
            found = child(&found, &name);
        } else if let Some(values) = additional(schema) {
            schema = values;
            found = format!("{found}[{name}]");
        } else {
            return Err("does not refer to a valid field".to_owned());
        }
    }
    Ok(found)
}

/// A text between single quotation marks, and what follows it.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let inner =
        text.strip_prefix('\'').ok_or_else(|| format!("expected single quoted string but got {text}"))?;
    let mut name = String::new();
    let mut letters = inner.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\'' => return Ok((name, &inner[at + 1..])),
            '\\' => name.push(match letters.next().map(|(_, escaped)| escaped) {
                Some('a') => '\x07',
                Some('b') => '\x08',
                Some('f') => '\x0c',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('v') => '\x0b',
                Some(escaped @ ('\'' | '\\')) => escaped,
                other => {
                    let other = other.map(String::from).unwrap_or_default();
                    return Err(format!("invalid string literal: invalid escape char \\{other}"));
                }
            }),
            letter => name.push(letter),
        }
    }
    Err("unexpected end of JSON path".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths() {
        let schema = json!({"properties": {
            "spec": {"properties": {"a.b": {}, "map": {"additionalProperties": {"properties": {"x": {}}}}}},
        }});
        for (path, found) in [
            (".spec", Ok("spec")),
            (".spec['a.b']", Ok("spec.a.b")),
            (".spec.map['k'].x", Ok("spec.map[k].x")),
            (".spec.map.k", Ok("spec.map[k]")),
            (".spec.none", Err("does not refer to a valid field")),
            (".spec['a.b'].c", Err("does not refer to a valid field")),
            ("spec", Err("expected [ or . but got: spec")),
            (".spec[0]", Err("expected single quoted string but got 0]")),
            (".spec['a", Err("unexpected end of JSON path")),
            (".spec['a'", Err("unexpected end of JSON path")),
            (".spec['\\q']", Err("invalid string literal: invalid escape char \\q")),
            (".", Err("unexpected end of JSON path")),
        ] {
            let found = found.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(field_path(path, &schema), found, "{path}");
        }
    }
}
