//! A value of an object together with its path: what the rules of the kinds are written with.
//!
//! Each check says in the reference's words what is wrong, at the path where it is wrong. It must not know any kind.

use serde_json::Value;

use crate::{FieldErrors, metadata, names, quantity::Quantity, selector::LabelSelector};

/// What an immutable field is refused with.
pub(super) const IMMUTABLE: &str = "field is immutable";
const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const PORT: &str = "must be between 1 and 65535, inclusive";

/// A rule for names: what is wrong with one.
pub(super) type Rule = fn(&str) -> Vec<String>;

/// A value and where it is.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> Field<'a> {
    /// A whole object.
    pub(super) fn root(object: &'a Value) -> Field<'a> {
        Field { value: object, path: String::new() }
    }

    /// A value that is found elsewhere than its path says.
    pub(super) fn new(value: &'a Value, path: impl Into<String>) -> Field<'a> {
        Field { value, path: path.into() }
    }

    /// A field of a structure; `null` where there is none.
    pub(super) fn get(&self, name: &str) -> Field<'a> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Field { value: &self.value[name], path }
    }

    /// A field below fields.
    pub(super) fn at(&self, names: &[&str]) -> Field<'a> {
        names.iter().fold(self.clone(), |field, name| field.get(name))
    }

    /// The items of a list.
    pub(super) fn items(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let path = self.path.clone();
        self.value
            .as_array()
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .enumerate()
            .map(move |(index, value)| Field { value, path: format!("{path}[{index}]") })
    }

    /// The keys and values of a map.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> + use<'a> {
        let path = self.path.clone();
        self.value
            .as_object()
            .into_iter()
            .flatten()
            .map(move |(key, value)| (key.as_str(), Field { value, path: format!("{path}[{key}]") }))
    }

    /// The texts of a list.
    pub(super) fn texts(&self) -> Vec<&'a str> {
        self.value.as_array().into_iter().flatten().map(|item| item.as_str().unwrap_or_default()).collect()
    }

    pub(super) fn value(&self) -> &'a Value {
        self.value
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The text; empty where there is none.
    pub(super) fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    pub(super) fn number(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// The quantity; none where there is none, or where it is none.
    pub(super) fn quantity(&self) -> Option<Quantity> {
        quantity(self.value)
    }

    pub(super) fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    pub(super) fn is_true(&self) -> bool {
        *self.value == true
    }

    /// Whether it is not there, or a text, list or map without anything in it.
    pub(super) fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            _ => false,
        }
    }

    /// How many items a list or map has.
    pub(super) fn count(&self) -> usize {
        match self.value {
            Value::Array(items) => items.len(),
            Value::Object(fields) => fields.len(),
            _ => 0,
        }
    }

    pub(super) fn required(&self, detail: impl Into<String>, errors: &mut FieldErrors) {
        errors.required(&self.path, detail);
    }

    pub(super) fn invalid(&self, detail: impl Into<String>, errors: &mut FieldErrors) {
        errors.invalid(&self.path, self.value.clone(), detail);
    }

    pub(super) fn forbidden(&self, detail: impl Into<String>, errors: &mut FieldErrors) {
        errors.forbidden(&self.path, detail);
    }

    pub(super) fn duplicate(&self, errors: &mut FieldErrors) {
        errors.duplicate(&self.path, self.value.clone());
    }

    pub(super) fn not_found(&self, errors: &mut FieldErrors) {
        errors.not_found(&self.path, self.value.clone());
    }

    /// Its key in a map is not one of these.
    pub(super) fn unsupported_name(&self, name: &str, supported: &[&str], errors: &mut FieldErrors) {
        errors.not_supported(&self.path, name, supported);
    }

    pub(super) fn unsupported(&self, supported: &[&str], errors: &mut FieldErrors) {
        let value = if self.is_set() { self.value.clone() } else { Value::from("") };
        errors.not_supported(&self.path, value, supported);
    }

    /// Where it is set, it is one of these.
    pub(super) fn one_of(&self, supported: &[&str], errors: &mut FieldErrors) {
        if self.is_set() && !supported.contains(&self.text()) {
            self.unsupported(supported, errors);
        }
    }

    /// It is set, and one of these.
    pub(super) fn needs_one_of(&self, supported: &[&str], errors: &mut FieldErrors) {
        if self.is_empty() {
            self.required("", errors);
        } else {
            self.one_of(supported, errors);
        }
    }

    /// It is not empty.
    pub(super) fn needed(&self, errors: &mut FieldErrors) {
        if self.is_empty() {
            self.required("", errors);
        }
    }

    /// Where it is not empty, it is a name by a rule.
    pub(super) fn named(&self, rule: Rule, errors: &mut FieldErrors) {
        if !self.text().is_empty() {
            self.ruled(rule, errors);
        }
    }

    /// It is not empty, and a name by a rule.
    pub(super) fn needs_name(&self, rule: Rule, errors: &mut FieldErrors) {
        if self.text().is_empty() {
            self.required("", errors);
        } else {
            self.ruled(rule, errors);
        }
    }

    /// It keeps a rule, even where it is empty.
    pub(super) fn ruled(&self, rule: Rule, errors: &mut FieldErrors) {
        for wrong in rule(self.text()) {
            errors.invalid(&self.path, self.text(), wrong);
        }
    }

    pub(super) fn not_negative(&self, errors: &mut FieldErrors) {
        if self.number().is_some_and(|number| number < 0) {
            self.invalid(NOT_NEGATIVE, errors);
        }
    }

    /// None of these fields is negative.
    pub(super) fn none_negative(&self, names: &[&str], errors: &mut FieldErrors) {
        for name in names {
            self.get(name).not_negative(errors);
        }
    }

    /// Both inclusive.
    pub(super) fn between(&self, least: i64, most: i64, errors: &mut FieldErrors) {
        if self.number().is_some_and(|number| !(least..=most).contains(&number)) {
            self.invalid(format!("must be between {least} and {most}, inclusive"), errors);
        }
    }

    /// The number of a port.
    pub(super) fn port(&self, errors: &mut FieldErrors) {
        if names::port_number(self.number().unwrap_or(0)).is_some() {
            errors.invalid(&self.path, self.number().unwrap_or(0), PORT);
        }
    }

    /// The number or the name of a port.
    pub(super) fn port_or_name(&self, errors: &mut FieldErrors) {
        if self.value.is_string() { self.ruled(names::port_name, errors) } else { self.port(errors) }
    }

    /// A number or a share of a whole: "25%".
    pub(super) fn share(&self, errors: &mut FieldErrors) {
        match self.value {
            Value::Null => {}
            Value::Number(_) => self.not_negative(errors),
            Value::String(text) if percent(text).is_some() => {}
            Value::String(_) => self.invalid(
                "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
                 regex used for validation is '[0-9]+%')",
                errors,
            ),
            _ => self.invalid("must be an integer or percentage (e.g '5%%')", errors),
        }
    }

    /// The number of a share, of 100 where it is one of a whole.
    pub(super) fn share_number(&self) -> i64 {
        match self.value {
            Value::String(text) => percent(text).unwrap_or(0),
            other => other.as_i64().unwrap_or(0),
        }
    }

    /// A share is not more than the whole.
    pub(super) fn at_most_whole(&self, errors: &mut FieldErrors) {
        if percent(self.text()).is_some_and(|share| share > 100) {
            self.invalid("must not be greater than 100%", errors);
        }
    }

    /// A quantity that is not below zero.
    pub(super) fn quantity_not_negative(&self, errors: &mut FieldErrors) {
        if self.quantity().is_some_and(|quantity| quantity.is_negative()) {
            self.invalid(NOT_NEGATIVE, errors);
        }
    }

    pub(super) fn longest(&self, limit: usize, errors: &mut FieldErrors) {
        if self.text().len() > limit {
            errors.too_long(&self.path, limit);
        }
    }

    pub(super) fn most(&self, limit: usize, errors: &mut FieldErrors) {
        if self.count() > limit {
            errors.too_many(&self.path, self.count(), limit);
        }
    }

    /// No two items of the list have the same value at `name`; empty ones do not count.
    pub(super) fn unique(&self, name: &str, errors: &mut FieldErrors) {
        let mut seen: Vec<&Value> = Vec::new();
        for item in self.items() {
            let item = if name.is_empty() { item } else { item.get(name) };
            if item.is_empty() {
                continue;
            }
            if seen.contains(&item.value) {
                item.duplicate(errors);
            }
            seen.push(item.value);
        }
    }

    /// It is what it was.
    pub(super) fn unchanged(&self, old: &Field<'_>, errors: &mut FieldErrors) {
        if self.value != old.value {
            self.invalid(IMMUTABLE, errors);
        }
    }

    /// These fields are what they were.
    pub(super) fn all_unchanged(&self, old: &Field<'_>, names: &[&str], errors: &mut FieldErrors) {
        for name in names {
            self.get(name).unchanged(&old.get(name), errors);
        }
    }

    /// A map of labels.
    pub(super) fn labels(&self, errors: &mut FieldErrors) {
        metadata::labels(self.value, &self.path, errors);
    }

    /// A label selector, as an object has it.
    pub(super) fn selector(&self, errors: &mut FieldErrors) {
        self.get("matchLabels").labels(errors);
        for expression in self.get("matchExpressions").items() {
            let (operator, values) = (expression.get("operator"), expression.get("values"));
            match operator.text() {
                "In" | "NotIn" if values.is_empty() => {
                    values.required("must be specified when `operator` is 'In' or 'NotIn'", errors);
                }
                "In" | "NotIn" => {}
                "Exists" | "DoesNotExist" => {
                    if !values.is_empty() {
                        values.forbidden(
                            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                            errors,
                        );
                    }
                }
                _ => operator.invalid("not a valid selector operator", errors),
            }
            expression.get("key").ruled(names::qualified, errors);
            for value in values.items() {
                value.ruled(names::label_value, errors);
            }
        }
    }

    /// Whether a label selector has no term; a missing one has none either.
    pub(super) fn selects_all(&self) -> bool {
        self.get("matchLabels").is_empty() && self.get("matchExpressions").is_empty()
    }

    /// The label selector; none where it cannot be read.
    pub(super) fn read_selector(&self) -> Option<LabelSelector> {
        LabelSelector::from_value(self.value).ok()
    }

    /// An address.
    pub(super) fn address(&self, errors: &mut FieldErrors) {
        if self.text().parse::<std::net::IpAddr>().is_err() {
            self.invalid("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)", errors);
        }
    }

    /// A range of addresses.
    pub(super) fn range(&self, errors: &mut FieldErrors) {
        if cidr(self.text()).is_none() {
            self.invalid("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)", errors);
        }
    }

    /// A domain and a path below it: "example.com/path".
    pub(super) fn domain_path(&self, errors: &mut FieldErrors) {
        let text = self.text();
        if text.is_empty() {
            return self.required("", errors);
        }
        let Some((domain, path)) =
            text.split_once('/').filter(|(domain, path)| !domain.is_empty() && !path.is_empty())
        else {
            return self.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")", errors);
        };
        for wrong in names::subdomain(domain) {
            errors.invalid(&self.path, domain, wrong);
        }
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
        if !path.bytes().all(fine) {
            errors.invalid(
                &self.path,
                path,
                "Invalid path (regex used for validation is \
                 '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')",
            );
        }
    }

    /// A path without a way out of where it begins.
    pub(super) fn stays_inside(&self, errors: &mut FieldErrors) {
        if self.text().split('/').any(|part| part == "..") {
            self.invalid("must not contain '..'", errors);
        }
    }

    /// A path that begins nowhere and stays inside.
    pub(super) fn relative(&self, errors: &mut FieldErrors) {
        if self.text().starts_with('/') {
            self.invalid("must be a relative path", errors);
        }
        self.stays_inside(errors);
    }

    /// Permissions of a file.
    pub(super) fn mode(&self, errors: &mut FieldErrors) {
        if self.number().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
            self.invalid("must be a number between 0 and 0777 (octal), both inclusive", errors);
        }
    }
}

/// Reads a quantity, as text or as number.
pub(super) fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

fn percent(text: &str) -> Option<i64> {
    let digits = text.strip_suffix('%')?;
    let fine = !digits.is_empty() && digits.len() <= 9 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if fine { digits.parse().ok() } else { None }
}

/// Reads a range of addresses: where it begins, and how many bits it fixes.
pub(super) fn cidr(text: &str) -> Option<(std::net::IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let address: std::net::IpAddr = address.parse().ok()?;
    if bits.is_empty() || bits.len() > 3 || !bits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let bits: u8 = bits.parse().ok()?;
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, bits))
}

/// The first `bits` of an address, as a number to compare by.
pub(super) fn prefix(address: std::net::IpAddr, bits: u8) -> u128 {
    let (value, width) = match address {
        std::net::IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        std::net::IpAddr::V6(address) => (address.to_bits(), 128),
    };
    value.checked_shr(width - u32::from(bits).min(width)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(value: Value, test: impl Fn(&Field<'_>, &mut FieldErrors), expected: &[&str]) {
        let mut errors = FieldErrors::default();
        test(&Field::new(&value, "f"), &mut errors);
        let found: Vec<String> = errors.as_slice().iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found} does not begin with {expected}");
        }
    }

    #[test]
    fn selectors_are_checked_term_by_term() {
        check(
            json!({ "matchLabels": { "a": "b c" }, "matchExpressions": [
                { "key": "x", "operator": "In" }, { "key": "x", "operator": "Exists", "values": ["y"] },
                { "key": "", "operator": "Is" }, { "key": "x", "operator": "NotIn", "values": ["-"] },
            ] }),
            |field, errors| field.selector(errors),
            &[
                "f.matchLabels: Invalid value: \"b c\"",
                "f.matchExpressions[0].values: Required value: must be specified when `operator`",
                "f.matchExpressions[1].values: Forbidden: may not be specified when `operator`",
                "f.matchExpressions[2].operator: Invalid value: \"Is\": not a valid selector operator",
                "f.matchExpressions[2].key: Invalid value: \"\": name part must be non-empty",
                "f.matchExpressions[2].key: Invalid value: \"\": name part must consist",
                "f.matchExpressions[3].values[0]: Invalid value: \"-\"",
            ],
        );
    }

    #[test]
    fn shares_and_ranges() {
        check(json!("25%"), |field, errors| field.share(errors), &[]);
        check(
            json!("25"),
            |field, errors| field.share(errors),
            &["f: Invalid value: \"25\": a valid percent"],
        );
        check(json!(-1), |field, errors| field.share(errors), &["f: Invalid value: -1: must be greater"]);
        check(json!("101%"), |field, errors| field.at_most_whole(errors), &["f: Invalid value: \"101%\""]);
        assert_eq!(cidr("10.0.0.0/8").map(|(_, bits)| bits), Some(8));
        assert!(
            ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/+1", "x/8", "::/129"]
                .iter()
                .all(|text| cidr(text).is_none())
        );
        let (address, _) = cidr("10.1.0.0/16").unwrap();
        assert_eq!(prefix(address, 8), 10);
        assert_eq!(prefix(address, 0), 0);
    }
}
