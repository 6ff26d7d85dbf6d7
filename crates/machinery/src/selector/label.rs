//! Label selectors, both as texts of a query ("a=b,c in (d,e),!f") and as objects (`matchLabels`).

use std::fmt;

use serde_json::{Map, Value};

use crate::names;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    Absent,
    GreaterThan(i64),
    LessThan(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
    /// Written with `=`: only matters to how it is printed.
    equality: bool,
}

/// A set of requirements, all of which must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Reads the text of a query.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<LabelSelector, String> {
        let mut requirements = Vec::new();
        for part in split(text)? {
            requirements.push(requirement(part.trim())?);
        }
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// The selector of an object (`metav1.LabelSelector`). A missing one selects nothing, an empty one all.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn from_value(value: &Value) -> Result<LabelSelector, String> {
        let Some(object) = value.as_object() else {
            return Ok(LabelSelector { requirements: Vec::new(), nothing: true });
        };
        let mut selector = match object.get("matchLabels") {
            Some(Value::Object(labels)) => LabelSelector::from_labels(labels),
            _ => LabelSelector::default(),
        };
        for expression in object.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let key = expression["key"].as_str().unwrap_or_default().to_owned();
            let values: Vec<String> = expression["values"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|value| value.as_str().map(ToOwned::to_owned))
                .collect();
            let operator = match expression["operator"].as_str().unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::Absent,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            selector.requirements.push(Requirement { key, operator, values, equality: false });
        }
        Ok(selector)
    }

    /// The selector of a plain map of labels, as of a Service.
    pub fn from_labels(labels: &Map<String, Value>) -> LabelSelector {
        let requirements = labels
            .iter()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::In,
                values: vec![value.as_str().unwrap_or_default().to_owned()],
                equality: true,
            })
            .collect();
        LabelSelector { requirements, nothing: false }
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether labels, given by their values, are selected.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing
            && self.requirements.iter().all(|requirement| {
                let value = label(&requirement.key);
                let listed = |value: &str| requirement.values.iter().any(|other| other == value);
                match requirement.operator {
                    Operator::In => value.is_some_and(listed),
                    Operator::NotIn => value.is_none_or(|value| !listed(value)),
                    Operator::Exists => value.is_some(),
                    Operator::Absent => value.is_none(),
                    Operator::GreaterThan(bound) => {
                        value.and_then(|value| value.parse::<i64>().ok()).is_some_and(|value| value > bound)
                    }
                    Operator::LessThan(bound) => {
                        value.and_then(|value| value.parse::<i64>().ok()).is_some_and(|value| value < bound)
                    }
                }
            })
    }

    /// Whether an object's labels are selected.
    pub fn matches_object(&self, object: &Value) -> bool {
        let labels = crate::object::meta_map(object, "labels");
        self.matches(|key| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nothing {
            return f.write_str("<none>");
        }
        let mut requirements: Vec<&Requirement> = self.requirements.iter().collect();
        requirements.sort_by(|left, right| left.key.cmp(&right.key));
        for (index, requirement) in requirements.into_iter().enumerate() {
            let Requirement { key, operator, values, equality } = requirement;
            if index > 0 {
                f.write_str(",")?;
            }
            match operator {
                Operator::In if *equality => write!(f, "{key}={}", values.join(","))?,
                Operator::NotIn if *equality => write!(f, "{key}!={}", values.join(","))?,
                Operator::In => write!(f, "{key} in ({})", values.join(","))?,
                Operator::NotIn => write!(f, "{key} notin ({})", values.join(","))?,
                Operator::Exists => write!(f, "{key}")?,
                Operator::Absent => write!(f, "!{key}")?,
                Operator::GreaterThan(bound) => write!(f, "{key}>{bound}")?,
                Operator::LessThan(bound) => write!(f, "{key}<{bound}")?,
            }
        }
        Ok(())
    }
}

/// Splits at commas outside of parentheses.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_u32, 0);
    for (index, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => {
                depth = depth.checked_sub(1).ok_or("found ')', expected: '(' before it".to_owned())?;
            }
            ',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    if depth != 0 {
        return Err("found '', expected: ',' or ')'".into());
    }
    if !text[start..].trim().is_empty() {
        parts.push(&text[start..]);
    } else if !parts.is_empty() {
        return Err("found '', expected: identifier after ','".into());
    }
    Ok(parts)
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let made = |key: &str, operator, values: Vec<String>, equality| {
        let key = key.trim();
        if let Some(wrong) = names::qualified(key).first() {
            return Err(format!("key: Invalid value: {key:?}: {wrong}"));
        }
        for value in &values {
            if let Some(wrong) = names::label_value(value).first() {
                return Err(format!("values[0][{key}]: Invalid value: {value:?}: {wrong}"));
            }
        }
        Ok(Requirement { key: key.to_owned(), operator, values, equality })
    };
    if let Some(key) = text.strip_prefix('!') {
        return made(key, Operator::Absent, Vec::new(), false);
    }
    if let Some(open) = text.find('(') {
        let inner = text[open + 1..].strip_suffix(')').ok_or("found '', expected: ')'")?;
        let values = inner.split(',').map(|value| value.trim().to_owned()).collect();
        let head = text[..open].trim_end();
        let (key, word) =
            head.rsplit_once(char::is_whitespace).ok_or(format!("unable to parse requirement: {text:?}"))?;
        return match word {
            "in" => made(key, Operator::In, values, false),
            "notin" => made(key, Operator::NotIn, values, false),
            other => Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        };
    }
    for (sign, negated) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((key, value)) = text.split_once(sign) {
            let operator = if negated { Operator::NotIn } else { Operator::In };
            return made(key, operator, vec![value.trim().to_owned()], true);
        }
    }
    for (sign, greater) in [(">", true), ("<", false)] {
        if let Some((key, value)) = text.split_once(sign) {
            let bound = value
                .trim()
                .parse()
                .map_err(|_| "for 'Gt', 'Lt' operators, the value must be an integer".to_owned())?;
            let operator = if greater { Operator::GreaterThan(bound) } else { Operator::LessThan(bound) };
            return made(key, operator, Vec::new(), false);
        }
    }
    made(text, Operator::Exists, Vec::new(), false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(selector: &str, labels: &[(&str, &str)], expected: bool) {
        let parsed = LabelSelector::parse(selector).unwrap();
        let found = |key: &str| labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        assert_eq!(parsed.matches(found), expected, "{selector} on {labels:?}");
    }

    #[test]
    fn selects() {
        check("", &[], true);
        check("a=b", &[("a", "b")], true);
        check("a==b,c!=d", &[("a", "b")], true);
        check("a=b,c!=d", &[("a", "b"), ("c", "d")], false);
        check("a in (x, y)", &[("a", "y")], true);
        check("a notin (x,y),!z", &[("a", "q")], true);
        check("a", &[("a", "")], true);
        check("!a", &[("a", "")], false);
        check("a>3", &[("a", "4")], true);
        check("a<3", &[("a", "4")], false);
    }

    #[test]
    fn refuses_nonsense() {
        for bad in ["a in (b", "a b", "a=b c", "=x", "a in", "a)", "a=b,"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn objects_become_texts() {
        let selector = LabelSelector::from_value(&json!({
            "matchLabels": { "app": "web" },
            "matchExpressions": [{ "key": "tier", "operator": "In", "values": ["a", "b"] }],
        }))
        .unwrap();
        assert_eq!(selector.to_string(), "app=web,tier in (a,b)");
        assert_eq!(LabelSelector::parse("app=web,tier in (a,b)").unwrap(), selector);
        assert!(!LabelSelector::from_value(&Value::Null).unwrap().matches(|_| None));
    }
}
