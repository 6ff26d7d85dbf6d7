//! What is said about a device, and expressions that choose devices by it. It must not know who has a device.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use dray_cel::{Activation, Environment, NEWEST, Program, Type, Value};
use serde_json::Value as Json;

use crate::quantity;

/// What an evaluation may cost, as in the reference.
const LIMIT: u64 = 1_000_000;

/// The value of an attribute or a capacity.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fact {
    Plain(Json),
    Version(Json),
    Quantity(Json),
}

/// What is said about a device.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    driver: String,
    /// By domain and name, each as JSON text.
    attributes: BTreeMap<String, BTreeMap<String, Fact>>,
    capacity: BTreeMap<String, BTreeMap<String, Fact>>,
    texts: BTreeMap<String, Json>,
}

impl Facts {
    /// Names without a domain are of the driver's.
    pub(crate) fn new(
        driver: &str,
        attributes: impl Iterator<Item = (String, Fact)>,
        capacity: impl Iterator<Item = (String, Fact)>,
    ) -> Facts {
        let mut facts = Facts { driver: driver.to_owned(), ..Facts::default() };
        for (name, fact) in attributes {
            let (domain, name) = facts.split(&name);
            facts.attributes.entry(domain).or_default().insert(name, fact);
        }
        for (name, fact) in capacity {
            let (domain, name) = facts.split(&name);
            facts.capacity.entry(domain).or_default().insert(name, fact);
        }
        let maps = facts.attributes.iter().chain(&facts.capacity);
        let names = maps.flat_map(|(domain, all)| all.keys().chain(std::iter::once(domain)));
        let fixed = ["driver", "attributes", "capacity"].iter().map(|text| (*text).to_owned());
        let texts = names.cloned().chain(fixed).chain(std::iter::once(facts.driver.clone()));
        facts.texts = texts.map(|text| (text.clone(), Json::String(text))).collect();
        facts
    }

    fn split(&self, name: &str) -> (String, String) {
        match name.split_once('/') {
            Some((domain, name)) => (domain.to_owned(), name.to_owned()),
            None => (self.driver.clone(), name.to_owned()),
        }
    }

    /// An attribute, by its full name.
    pub(crate) fn attribute(&self, name: &str) -> Option<&Fact> {
        let (domain, name) = self.split(name);
        self.attributes.get(&domain)?.get(&name)
    }

    /// Whether the device has at least so much of its capacities.
    pub(crate) fn has_at_least(&self, least: &[(String, String)]) -> bool {
        least.iter().all(|(name, amount)| {
            let (domain, name) = self.split(name);
            let own = self.capacity.get(&domain).and_then(|all| all.get(&name));
            let has = match own {
                Some(Fact::Quantity(Json::String(text))) => quantity::thousandths(text),
                _ => return false,
            };
            has >= quantity::thousandths(amount)
        })
    }

    fn text<'a>(&'a self, text: &str) -> Value<'a> {
        self.texts.get(text).map_or(Value::Null, Value::from_json)
    }

    /// Maps by domain; those that an expression looks into are there, if need be empty.
    fn maps<'a>(
        &'a self,
        all: &'a BTreeMap<String, BTreeMap<String, Fact>>,
        asked: &'a [Json],
    ) -> Option<Value<'a>> {
        let mut domains = Vec::new();
        for domain in
            asked.iter().filter(|domain| domain.as_str().is_some_and(|name| !all.contains_key(name)))
        {
            domains.push((Value::from_json(domain), Value::map_of([]).ok()?));
        }
        for (domain, facts) in all {
            let mut entries = Vec::new();
            for (name, fact) in facts {
                entries.push((self.text(name), value(fact)?));
            }
            domains.push((self.text(domain), Value::map_of(entries).ok()?));
        }
        Value::map_of(domains).ok()
    }

    /// The device as expressions see it.
    fn value<'a>(&'a self, asked: &'a [Json]) -> Option<Value<'a>> {
        let entries = [
            (self.text("driver"), self.text(&self.driver)),
            (self.text("attributes"), self.maps(&self.attributes, asked)?),
            (self.text("capacity"), self.maps(&self.capacity, asked)?),
        ];
        Value::map_of(entries).ok()
    }
}

/// What makes versions and quantities of texts.
fn makers() -> Option<&'static (Program, Program)> {
    static MAKERS: OnceLock<Option<(Program, Program)>> = OnceLock::new();
    let made = MAKERS.get_or_init(|| {
        let environment = Environment::kubernetes(NEWEST).with_variable("text", Type::String);
        let make = |expression: &str| Program::compile(expression, &environment).ok();
        Some((make("semver(text)")?, make("quantity(text)")?))
    });
    made.as_ref()
}

fn value(fact: &Fact) -> Option<Value<'_>> {
    let (program, text) = match fact {
        Fact::Plain(json) => return Some(Value::from_json(json)),
        Fact::Version(text) => (&makers()?.0, text),
        Fact::Quantity(text) => (&makers()?.1, text),
    };
    let variables = Activation::new().with("text", Value::from_json(text));
    program.evaluate(&variables, LIMIT).value.ok()
}

/// An expression that chooses devices. One that is wrong chooses none.
#[derive(Debug, Clone)]
pub(crate) struct DeviceSelector {
    program: Option<Arc<Program>>,
    /// The domains into which it looks.
    domains: Vec<Json>,
}

/// The domains into which an expression looks: `attributes["DOMAIN"]`.
fn domains(expression: &str) -> Vec<Json> {
    let mut domains: Vec<Json> = Vec::new();
    for (at, _) in expression.match_indices('[') {
        let (before, after) = (expression[..at].trim_end(), expression[at + 1..].trim_start());
        let Some(quote) = after.chars().next().filter(|quote| matches!(quote, '"' | '\'')) else { continue };
        let is_map = ["attributes", "capacity"].iter().any(|name| before.ends_with(name));
        if let (true, Some((domain, _))) = (is_map, after[1..].split_once(quote))
            && !domains.iter().any(|known| known == domain)
        {
            domains.push(domain.into());
        }
    }
    domains
}

impl DeviceSelector {
    pub(crate) fn new(expression: &str) -> DeviceSelector {
        let environment = Environment::kubernetes(NEWEST).with_variable("device", Type::Dyn);
        let program = Program::compile(expression, &environment).ok().map(Arc::new);
        DeviceSelector { program, domains: domains(expression) }
    }

    pub(crate) fn takes(&self, facts: &Facts) -> bool {
        let (Some(program), Some(device)) = (&self.program, facts.value(&self.domains)) else { return false };
        let variables = Activation::new().with("device", device);
        matches!(program.evaluate(&variables, LIMIT).value, Ok(Value::Bool(true)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_choose_devices_by_what_is_said_of_them() {
        let attributes = [
            ("model".to_owned(), Fact::Plain(json!("large"))),
            ("other.example.com/cores".to_owned(), Fact::Plain(json!(8))),
            ("version".to_owned(), Fact::Version(json!("1.10.0"))),
        ];
        let capacity = [("memory".to_owned(), Fact::Quantity(json!("40Gi")))];
        let facts = Facts::new("gpu.example.com", attributes.into_iter(), capacity.into_iter());
        let check = |expression: &str, expected: bool| {
            assert_eq!(DeviceSelector::new(expression).takes(&facts), expected, "{expression}");
        };
        check("device.driver == 'gpu.example.com'", true);
        check("device.attributes['gpu.example.com'].model == 'large'", true);
        check("device.attributes['other.example.com'].cores > 8", false);
        check("device.attributes['gpu.example.com'].version.isGreaterThan(semver('1.9.0'))", true);
        check("device.capacity['gpu.example.com'].memory.compareTo(quantity('32Gi')) >= 0", true);
        check("device.attributes['none'].model == 'large'", false);
        check("!('model' in device.attributes['none']) && !has(device.capacity[ \"none\" ].memory)", true);
        check("'none' in device.attributes", false);
        check("device.driver", false);
        check("what is this", false);
        assert!(facts.has_at_least(&[("memory".to_owned(), "40Gi".to_owned())]));
        assert!(!facts.has_at_least(&[("memory".to_owned(), "41Gi".to_owned())]));
        assert!(!facts.has_at_least(&[("other".to_owned(), "1".to_owned())]));
    }
}
