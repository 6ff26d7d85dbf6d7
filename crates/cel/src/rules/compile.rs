//! Rules into programs.

use super::{OLD_SELF, Rule, SELF, field_path::field_path};
use crate::{
    environment::Environment,
    program::Program,
    schema::{Declared, cardinality},
    source::Error,
    types::Type,
};
use serde_json::Value as Json;

/// A rule, as far as it can be compiled.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) rule: Rule,
    /// The program; what is wrong with the rule; nothing where it is empty.
    pub(crate) program: Option<Result<Program, String>>,
    pub(crate) message: Option<Result<Program, String>>,
    pub(crate) uses_old_self: bool,
    /// The worst case.
    pub(crate) most: u64,
    /// The worst case of the message.
    pub(crate) message_most: u64,
    /// How often the data can be in one request.
    pub(crate) cardinality: u64,
    /// The path below the value to blame.
    pub(crate) field_path: Option<String>,
}

impl Compiled {
    pub(crate) fn is_optional(&self) -> bool {
        self.rule.optional_old_self == Some(true)
    }
}

/// Compiles the rules of one schema.
pub(crate) fn compile(rules: Vec<Rule>, schema: &Json, declared: &Declared, minor: u32) -> Vec<Compiled> {
    let of = declared.cel_type();
    let base = Environment::kubernetes(minor).with_variable(SELF, of.clone());
    rules
        .into_iter()
        .map(|rule| {
            let old =
                if rule.optional_old_self == Some(true) { Type::optional(of.clone()) } else { of.clone() };
            compile_one(rule, schema, declared, &base.clone().with_variable(OLD_SELF, old))
        })
        .collect()
}

fn compile_one(rule: Rule, schema: &Json, declared: &Declared, environment: &Environment) -> Compiled {
    let mut compiled = Compiled {
        program: None,
        message: None,
        uses_old_self: false,
        most: 0,
        message_most: 0,
        cardinality: cardinality(declared.least_bytes),
        field_path: None,
        rule,
    };
    let rule = &compiled.rule;
    if rule.rule.trim().is_empty() {
        return compiled;
    }
    let program = match Program::compile(&rule.rule, environment) {
        Err(error) => Err(error.to_string()),
        Ok(program) if *program.result() != Type::Bool => {
            Err("cel expression must evaluate to a bool".to_owned())
        }
        Ok(program) => Ok(program),
    };
    let Ok(known) = &program else {
        compiled.program = Some(program);
        return compiled;
    };
    compiled.uses_old_self = known.variables().contains(OLD_SELF);
    compiled.most = known.estimate(Some(declared)).most;
    if !rule.message_expression.is_empty() {
        let message = match Program::compile(&rule.message_expression, environment) {
            Err(Error::Instantiation(why)) => Err(format!("messageExpression instantiation failed: {why}")),
            Err(error) => Err(format!("messageExpression {error}")),
            Ok(message) if *message.result() != Type::String => {
                Err("messageExpression must evaluate to a string".to_owned())
            }
            Ok(message) => {
                compiled.message_most = message.estimate(Some(declared)).most;
                Ok(message)
            }
        };
        compiled.message = Some(message);
    }
    if !rule.field_path.is_empty() {
        compiled.field_path = field_path(&rule.field_path, schema).ok();
    }
    compiled.program = Some(program);
    compiled
}
