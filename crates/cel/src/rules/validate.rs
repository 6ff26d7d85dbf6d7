//! Objects judged by the rules of their schema.

use std::collections::BTreeMap;

use serde_json::{Map as JsonMap, Value as Json};

use super::{OLD_SELF, Reason, SELF, Validator, Violation, child, compile::Compiled, tree::Node};
use crate::{
    cost::PER_CALL,
    program::Activation,
    value::{Fault, Value},
};

/// The longest message that an expression may make, in bytes.
const LONGEST_MESSAGE: usize = 5 * 1024;

impl Validator {
    /// Judges an object, and takes what that cost off the budget. Where it is used up, the judgement says so and nothing
    /// further is looked at; the budget is then below zero.
    ///
    /// `old` is what the object was before, if it was there. What was wrong then and has not changed is no violation now,
    /// unless the rule speaks of the change: such violations are given as warnings.
    pub fn validate(&self, object: &Json, old: Option<&Json>, budget: &mut i64) -> Judgement {
        let mut judge = Judge { budget: *budget, judgement: Judgement::default() };
        let before = Before::root(object, old);
        // What happens when the budget is used up has been said.
        let _ = judge.node(&self.0, "", object, before);
        *budget = judge.budget;
        judge.judgement
    }
}

/// What is wrong with an object.
#[derive(Debug, Default)]
pub struct Judgement {
    /// What must not be.
    pub violations: Vec<Violation>,
    /// What was like that before and has not changed.
    pub warnings: Vec<Violation>,
}

/// What a value was before, as far as one can tell.
#[derive(Clone, Copy)]
struct Before<'a> {
    old: Option<&'a Json>,
    /// What says that nothing has changed: the value itself, or the nearest one around it that can be told, before and
    /// now.
    witness: Option<(&'a Json, &'a Json)>,
    /// The nearest one around it.
    around: Option<(&'a Json, &'a Json)>,
    is_root: bool,
}

impl<'a> Before<'a> {
    fn root(now: &'a Json, old: Option<&'a Json>) -> Before<'a> {
        Before { old, witness: old.map(|old| (old, now)), around: None, is_root: true }
    }

    fn below(self, now: &'a Json, old: Option<&'a Json>) -> Before<'a> {
        let around = self.witness;
        Before { old, witness: old.map(|old| (old, now)).or(around), around, is_root: false }
    }

    fn is_unchanged(self) -> bool {
        self.witness.is_some_and(|(old, now)| old == now)
    }
}

/// No further rule is run.
struct Stop;

struct Judge {
    budget: i64,
    judgement: Judgement,
}

impl Judge {
    fn say(&mut self, path: &str, reason: Reason, value: Option<Json>, message: impl Into<String>) {
        let violation = Violation { path: path.to_owned(), reason, value, message: message.into() };
        self.judgement.violations.push(violation);
    }

    fn stop(&mut self) -> Stop {
        self.budget = -1;
        Stop
    }

    /// Takes a cost off the budget, if it is there.
    fn spend(&mut self, cost: u64) -> bool {
        match i64::try_from(cost).ok().filter(|cost| *cost <= self.budget) {
            Some(cost) => {
                self.budget -= cost;
                true
            }
            None => false,
        }
    }

    fn node<'a>(
        &mut self,
        node: &'a Node,
        path: &str,
        value: &'a Json,
        before: Before<'a>,
    ) -> Result<(), Stop> {
        if value.is_null() {
            return Ok(());
        }
        self.rules(node, path, value, before)?;
        for inner in &node.all_of {
            // Whether this value has changed is not asked there, only whether what is around it has.
            let around = Before { witness: before.around, ..before };
            self.node(inner, path, value, around)?;
        }
        match value {
            Json::Array(elements) => self.elements(node, path, elements, before),
            Json::Object(fields) => self.fields(node, path, fields, before),
            _ => Ok(()),
        }
    }

    fn elements<'a>(
        &mut self,
        node: &'a Node,
        path: &str,
        elements: &'a [Json],
        before: Before<'a>,
    ) -> Result<(), Stop> {
        let Some(items) = &node.items else { return Ok(()) };
        let keyed = node.list_keys.as_ref().zip(before.old.and_then(Json::as_array));
        let old: Option<BTreeMap<String, &Json>> =
            keyed.map(|(keys, old)| old.iter().map(|element| (key_of(keys, element), element)).collect());
        for (index, element) in elements.iter().enumerate() {
            let old = old
                .as_ref()
                .zip(node.list_keys.as_ref())
                .and_then(|(old, keys)| old.get(&key_of(keys, element)).copied());
            self.node(items, &format!("{path}[{index}]"), element, before.below(element, old))?;
        }
        Ok(())
    }

    fn fields<'a>(
        &mut self,
        node: &'a Node,
        path: &str,
        fields: &'a JsonMap<String, Json>,
        before: Before<'a>,
    ) -> Result<(), Stop> {
        let old = before.old.filter(|_| node.is_correlatable);
        for (name, field) in fields {
            let mut inner = before.below(field, old.and_then(|old| old.get(name)));
            if before.is_root && matches!(name.as_str(), "apiVersion" | "kind") {
                (inner.witness, inner.around) = (None, None);
            }
            if let Some(values) = &node.values {
                self.node(values, &format!("{path}[{name}]"), field, inner)?;
            }
            if let Some(of) = node.properties.get(name) {
                self.node(of, &child(path, name), field, inner)?;
            }
        }
        Ok(())
    }

    fn rules<'a>(
        &mut self,
        node: &'a Node,
        path: &str,
        value: &'a Json,
        before: Before<'a>,
    ) -> Result<(), Stop> {
        if node.rules.is_empty() {
            return Ok(());
        }
        let type_name = || Some(Json::from(node.type_name.as_str()));
        if self.budget <= 0 {
            self.say(path, Reason::Invalid, type_name(), OUT_OF_BUDGET);
            return Err(self.stop());
        }
        let now = Value::declared(value, &node.declared);
        let old = before.old.filter(|old| !old.is_null()).map(|old| Value::declared(old, &node.declared));
        for compiled in &node.rules {
            let program = match &compiled.program {
                None => continue,
                Some(Err(why)) => {
                    self.say(path, Reason::Invalid, type_name(), format!("rule compile error: {why}"));
                    continue;
                }
                Some(Ok(program)) => program,
            };
            // A rule about a change needs something that has changed, unless it says that it does not.
            if compiled.uses_old_self && old.is_none() && !compiled.is_optional() {
                continue;
            }
            let mut activation = Activation::new().with_outcome(SELF, now.clone());
            activation = match (&old, compiled.is_optional()) {
                (Some(old), true) => activation.with_outcome(OLD_SELF, old.clone().map(Value::some)),
                (None, true) => activation.with(OLD_SELF, Value::NONE),
                (Some(old), false) => activation.with_outcome(OLD_SELF, old.clone()),
                (None, false) => activation,
            };
            let evaluation = program.evaluate(&activation, PER_CALL);
            if !self.spend(evaluation.cost) {
                self.say(path, Reason::Invalid, type_name(), OUT_OF_BUDGET);
                return Err(self.stop());
            }
            let shown = compiled.rule.shown();
            match evaluation.value {
                Ok(Value::Bool(true)) => {}
                Ok(_) => self.violated(node, compiled, path, value, before, &activation)?,
                Err(Fault::NoSuchOverload) => {
                    let message = format!(
                        "'no such overload': call arguments did not match a supported operator, function or macro \
                         signature for rule: {shown}"
                    );
                    self.say(path, Reason::Invalid, type_name(), message);
                }
                Err(fault @ Fault::CostExceeded) => {
                    let message = format!(
                        "'{fault}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}"
                    );
                    self.say(path, Reason::Invalid, type_name(), message);
                    return Err(self.stop());
                }
                Err(fault) => {
                    self.say(path, Reason::Invalid, type_name(), format!("{fault} evaluating rule: {shown}"));
                }
            }
        }
        Ok(())
    }

    /// A rule that does not hold.
    fn violated<'a>(
        &mut self,
        node: &Node,
        compiled: &Compiled,
        path: &str,
        value: &Json,
        before: Before<'_>,
        activation: &Activation<'a>,
    ) -> Result<(), Stop> {
        let path = match &compiled.field_path {
            Some(below) => child(path, below),
            None => path.to_owned(),
        };
        let made = self.message(compiled, activation);
        let (message, stops) = match made {
            Ok(made) => (made.unwrap_or_else(|| compiled.rule.default_message()), false),
            Err(message) => (message, true),
        };
        let (reason, value) = if stops {
            (Reason::Invalid, Some(Json::from(node.type_name.as_str())))
        } else {
            (compiled.rule.violated(), (!node.is_composite).then(|| value.clone()))
        };
        let violation = Violation { path, reason, value, message };
        if !compiled.uses_old_self && before.is_unchanged() {
            self.judgement.warnings.push(violation);
        } else {
            self.judgement.violations.push(violation);
        }
        if stops { Err(self.stop()) } else { Ok(()) }
    }

    /// The message that an expression makes, if it makes one; what to say where that cost too much.
    fn message(
        &mut self,
        compiled: &Compiled,
        activation: &Activation<'_>,
    ) -> Result<Option<String>, String> {
        let Some(Ok(program)) = &compiled.message else { return Ok(None) };
        let evaluation = program.evaluate(activation, PER_CALL);
        if !self.spend(evaluation.cost) {
            return Err("messageExpression evaluation failed due to running out of cost budget, no further validation \
                        rules will be run"
                .to_owned());
        }
        let message = match evaluation.value {
            Err(Fault::CostExceeded) => {
                return Err(format!(
                    "no further validation rules will be run due to call cost exceeds limit for messageExpression: {:?}",
                    compiled.rule.message_expression
                ));
            }
            Ok(Value::String(message)) => message.trim().to_owned(),
            _ => return Ok(None),
        };
        let fits = !message.is_empty() && message.len() <= LONGEST_MESSAGE && !message.contains('\n');
        Ok(fits.then_some(message))
    }
}

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// The key of an element of a map list, written as JSON.
fn key_of(keys: &[String], element: &Json) -> String {
    let key: Vec<&Json> = keys.iter().map(|key| element.get(key).unwrap_or(&Json::Null)).collect();
    serde_json::to_string(&key).unwrap_or_default()
}
