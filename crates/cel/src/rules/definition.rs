//! The rules of a definition judged before any object is: what they are made of, whether they compile, and what their worst
//! cases cost together.

use std::sync::Arc;

use serde_json::Value as Json;

use super::{
    DEEPEST, Reason, Rule, TYPE_NAME, Violation, child,
    compile::{Compiled, compile},
    field_path::field_path,
    tree::has_rules,
};
use crate::{
    cost::{STATIC_PER_DEFINITION, STATIC_PER_RULE},
    schema::{Declared, additional, escape, limit, says},
};

const ADVICE: &str = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and \
strings are declared)";

/// Everything that is wrong with the rules of a schema, which stands at `path` in its definition.
pub fn check(schema: &Json, path: &str, minor: u32) -> Vec<Violation> {
    if !has_rules(schema, 0) {
        return Vec::new();
    }
    let mut checker = Checker { minor, total: 0, expensive: Vec::new(), violations: Vec::new() };
    let place = Place { cardinality: Some(1), uncorrelatable: None, depth: 0 };
    let declared = Declared::from_schema(schema, true, TYPE_NAME).map(Arc::new);
    checker.schema(schema, path, declared, &place);
    if checker.total > STATIC_PER_DEFINITION {
        for (_, path) in std::mem::take(&mut checker.expensive) {
            let message =
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            checker.say(path, Reason::Forbidden, None, message);
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        let message = too_expensive(what, checker.total, STATIC_PER_DEFINITION);
        checker.say(path.to_owned(), Reason::Forbidden, None, message);
    }
    checker.violations
}

/// Where in the schema one is.
#[derive(Clone)]
struct Place {
    /// How often such data can be in an object; nothing where it is not bounded.
    cardinality: Option<u64>,
    /// The outermost part whose old data cannot be told from its new.
    uncorrelatable: Option<String>,
    depth: usize,
}

impl Place {
    fn below(&self, schema: &Json) -> Place {
        let elements = match schema.get("type").and_then(Json::as_str) {
            Some("object") if schema.get("additionalProperties").is_some() => limit(schema, "maxProperties"),
            Some("array") => limit(schema, "maxItems"),
            _ => Some(1),
        };
        let cardinality =
            self.cardinality.zip(elements).map(|(outer, elements)| outer.saturating_mul(elements));
        Place { cardinality, uncorrelatable: self.uncorrelatable.clone(), depth: self.depth + 1 }
    }

    fn uncorrelatable(mut self, path: &str) -> Place {
        self.uncorrelatable.get_or_insert_with(|| path.to_owned());
        self
    }
}

struct Checker {
    minor: u32,
    total: u64,
    /// The most expensive rules and where they are.
    expensive: Vec<(u64, String)>,
    violations: Vec<Violation>,
}

impl Checker {
    fn say(&mut self, path: String, reason: Reason, value: Option<Json>, message: impl Into<String>) {
        self.violations.push(Violation { path, reason, value, message: message.into() });
    }

    fn schema(&mut self, schema: &Json, path: &str, declared: Option<Arc<Declared>>, place: &Place) {
        if place.depth == DEEPEST {
            return;
        }
        let below = place.below(schema);
        let item = || declared.as_ref().and_then(|declared| declared.item().cloned()).map(Arc::new);
        if let Some(values) = additional(schema) {
            self.schema(values, &child(path, "additionalProperties"), item(), &below);
        }
        let map_type = schema.get("x-kubernetes-map-type").and_then(Json::as_str);
        for (name, property) in schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
            let inner = match map_type {
                None | Some("granular" | "atomic") => below.clone(),
                Some(_) => below.clone().uncorrelatable(path),
            };
            let of = escape(name).and_then(|name| {
                declared.as_ref()?.object()?.fields.get(&name).map(|field| field.declared.clone())
            });
            let of = of.or_else(|| {
                Declared::from_schema(property, says(property, "x-kubernetes-embedded-resource"), TYPE_NAME)
                    .map(Arc::new)
            });
            self.schema(property, &format!("{}[{name}]", child(path, "properties")), of, &inner);
        }
        if let Some(items) = schema.get("items") {
            let is_map = schema.get("x-kubernetes-list-type").is_some_and(|kind| kind == "map");
            let inner = if is_map { below } else { below.uncorrelatable(path) };
            self.schema(items, &child(path, "items"), item(), &inner);
        }
        self.rules(schema, path, declared.as_deref(), place);
    }

    fn rules(&mut self, schema: &Json, path: &str, declared: Option<&Declared>, place: &Place) {
        let rules = Rule::of(schema);
        if rules.is_empty() {
            return;
        }
        let at = |index: usize, field: &str| {
            format!("{}[{index}].{field}", child(path, "x-kubernetes-validations"))
        };
        let before = self.violations.len();
        for (index, rule) in rules.iter().enumerate() {
            for (field, reason, value, message) in wrong_form(rule, schema) {
                self.say(at(index, field), reason, value, message);
            }
        }
        if self.violations.len() > before {
            return;
        }
        let Some(declared) = declared else {
            let message = "internal error: failed to retrieve type information for x-kubernetes-validations";
            self.say(child(path, "x-kubernetes-validations"), Reason::Internal, None, message);
            return;
        };
        let written = schema.get("x-kubernetes-validations");
        for (index, compiled) in compile(rules, schema, declared, self.minor).iter().enumerate() {
            let value = || written.and_then(|rules| rules.get(index)).cloned();
            let times = place.cardinality.unwrap_or(compiled.cardinality);
            self.cost(at(index, "rule"), "estimated rule cost", compiled.most.saturating_mul(times));
            if let Some(Err(why)) = &compiled.program {
                self.say(at(index, "rule"), Reason::Invalid, value(), why.clone());
            }
            match &compiled.message {
                Some(Err(why)) => {
                    self.say(at(index, "messageExpression"), Reason::Invalid, value(), why.clone())
                }
                Some(Ok(_)) => {
                    self.cost(
                        at(index, "messageExpression"),
                        "estimated messageExpression cost",
                        compiled.message_most,
                    );
                }
                None => {}
            }
            self.transition(compiled, place, |field| at(index, field));
        }
    }

    /// Adds a worst case to the total, and refuses it where it is too much by itself.
    fn cost(&mut self, path: String, what: &str, cost: u64) {
        if cost > STATIC_PER_RULE {
            self.say(path.clone(), Reason::Forbidden, None, too_expensive(what, cost, STATIC_PER_RULE));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= STATIC_PER_DEFINITION / 100 {
            self.expensive.push((cost, path));
            self.expensive.sort_by(|(one, _), (two, _)| two.cmp(one));
            self.expensive.truncate(4);
        }
    }

    fn transition(&mut self, compiled: &Compiled, place: &Place, at: impl Fn(&str) -> String) {
        let rule = &compiled.rule;
        if !compiled.uses_old_self {
            if let Some(optional) = rule.optional_old_self {
                let message = "may not be set if oldSelf is not used in rule";
                self.say(at("optionalOldSelf"), Reason::Invalid, Some(Json::from(optional)), message);
            }
        } else if let Some(within) = &place.uncorrelatable {
            let message =
                format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {within}");
            self.say(at("rule"), Reason::Invalid, Some(Json::from(rule.rule.as_str())), message);
        }
    }
}

type Wrong = (&'static str, Reason, Option<Json>, String);

/// What is wrong with a rule before it is compiled.
fn wrong_form(rule: &Rule, schema: &Json) -> Vec<Wrong> {
    let broken = |text: &str| text.contains(['\n', '\r']);
    let invalid = |field, value: &str, message: &str| {
        (field, Reason::Invalid, Some(Json::from(value)), message.to_owned())
    };
    let required = |field, message: &str| (field, Reason::Required, None, message.to_owned());
    let (text, message) = (rule.rule.trim(), rule.message.trim());
    let mut wrong = Vec::new();
    if text.is_empty() {
        wrong.push(required("rule", "rule is not specified"));
    } else if !rule.message.is_empty() && message.is_empty() {
        wrong.push(invalid("message", &rule.message, "must be non-empty if specified"));
    } else if broken(message) {
        wrong.push(invalid("message", &rule.message, "must not contain line breaks"));
    } else if broken(text) && message.is_empty() {
        wrong.push(required("message", "message must be specified if rule contains line breaks"));
    }
    if !rule.message_expression.is_empty() && rule.message_expression.trim().is_empty() {
        wrong.push(required("messageExpression", "messageExpression must be non-empty if specified"));
    }
    const REASONS: [&str; 4] =
        ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    if let Some(reason) = rule.reason.as_deref().filter(|reason| !REASONS.contains(reason)) {
        let supported: Vec<String> = REASONS.iter().map(|reason| format!("{reason:?}")).collect();
        let message = format!("supported values: {}", supported.join(", "));
        wrong.push(("reason", Reason::NotSupported, Some(Json::from(reason)), message));
    }
    if !rule.field_path.is_empty() {
        if rule.field_path.trim().is_empty() {
            wrong.push(invalid("fieldPath", &rule.field_path, "must be non-empty if specified"));
        }
        if broken(&rule.field_path) {
            wrong.push(invalid("fieldPath", &rule.field_path, "must not contain line breaks"));
        }
        if field_path(&rule.field_path, schema).is_err() {
            wrong.push(invalid("fieldPath", &rule.field_path, "must be a valid path"));
        }
    }
    wrong
}

fn too_expensive(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        factor if factor > 100.0 => "more than 100x".to_owned(),
        factor if factor < 1.5 => format!("{factor:.6}x"),
        factor => format!("{factor:.1}x"),
    };
    format!("{what} exceeds budget by factor of {factor} {ADVICE}")
}
