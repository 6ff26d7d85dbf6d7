//! The `filters` parameter: a JSON object of names to values, in either of its two forms.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::query::Query;

/// Filters by name; values of one name are alternatives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads the parameter; a name that is not in `known` is an error, as with Docker.
    pub(crate) fn parse(query: &Query, known: &[&str]) -> Result<Self> {
        let Some(text) = query.non_empty("filters") else { return Ok(Self::default()) };
        let invalid = || ApiError::bad_request("invalid filter");
        let value: Value = serde_json::from_str(text).map_err(|_| invalid())?;
        let mut filters = BTreeMap::new();
        for (name, values) in value.as_object().ok_or_else(invalid)? {
            if !known.contains(&name.as_str()) {
                return Err(ApiError::bad_request(format!("invalid filter '{name}'")));
            }
            let values = match values {
                // {"label": ["a", "b"]}
                Value::Array(list) => list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
                // {"label": {"a": true}}
                Value::Object(set) => set
                    .iter()
                    .filter(|(_, on)| **on == Value::Bool(true))
                    .map(|(name, _)| name.clone())
                    .collect(),
                _ => return Err(invalid()),
            };
            filters.insert(name.clone(), values);
        }
        Ok(Self(filters))
    }

    pub(crate) fn values(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether no filter of this name is set, or one of its values suits.
    pub(crate) fn any(&self, name: &str, suits: impl Fn(&str) -> bool) -> bool {
        let values = self.values(name);
        values.is_empty() || values.iter().any(|value| suits(value))
    }

    /// Whether every label filter (`name` or `name=value`) suits.
    pub(crate) fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let suits = |filter: &String| match filter.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|present| present == value),
            None => labels.contains_key(filter),
        };
        self.values("label").iter().all(suits) && !self.values("label!").iter().any(suits)
    }

    /// The time of the filter `until`: a time, or a span before now as Go writes it (`24h`, `1h30m`).
    pub(crate) fn until(&self) -> Result<Option<Timestamp>> {
        let text = match self.values("until") {
            [] => return Ok(None),
            [text] => text,
            _ => return Err(ApiError::bad_request("more than one until filter specified")),
        };
        if let Some(span) = dray_build::parse_duration(text) {
            return Ok(Some(Timestamp::now() - span));
        }
        let invalid = || ApiError::bad_request(format!("invalid filter 'until={text}'"));
        crate::logs::parse_time(text).map(Some).ok_or_else(invalid)
    }

    /// A single boolean filter.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.values(name).first().map(|value| matches!(value.as_str(), "1" | "true"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_is_a_time_or_a_span() {
        let filters = |value: &str| {
            let text = format!("filters={{\"until\":[\"{value}\"]}}");
            Filters::parse(&Query::parse(Some(&text)).unwrap(), &["until"]).unwrap()
        };
        assert!(filters("24h").until().unwrap().unwrap() < Timestamp::now());
        assert!(filters("99999999999999999999999h").until().is_err());
        assert_eq!(filters("1000").until().unwrap().unwrap().as_second(), 1000);
        assert!(filters("bogus").until().is_err());
        assert_eq!(Filters::default().until().unwrap(), None);
    }
}
