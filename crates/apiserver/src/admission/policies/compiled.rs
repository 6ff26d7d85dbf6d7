//! A policy, compiled, and one evaluation of it.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
};

use dray_cel::{
    Activation, Environment, Fault, Program, Type, Value as CelValue, Variables,
    admission::Admission as Features, cost,
};
use dray_machinery::object;
use serde_json::Value;

use crate::admission::expressions::{self, MINOR};

const VARIABLES: &str = "variables.";

/// An expression, and what it became.
pub(super) struct Expression {
    /// Where it is in the policy.
    path: String,
    pub(super) text: String,
    program: Result<Program, String>,
    /// The variables that have to be known for it, those that others need first.
    needs: Vec<usize>,
}

struct Variable {
    name: String,
    expression: Expression,
}

/// A rule that objects have to keep.
pub(super) struct Validation {
    pub(super) expression: Expression,
    pub(super) message: Option<Expression>,
}

/// How an object is changed.
pub(super) struct Mutation {
    /// Whether the expression makes a configuration to be applied, and not a patch.
    pub(super) applies: bool,
    pub(super) expression: Expression,
}

/// A policy.
#[derive(Default)]
pub(super) struct Compiled {
    variables: Vec<Variable>,
    conditions: Vec<Expression>,
    pub(super) validations: Vec<Validation>,
    /// Keys of annotations of the audit log, and their values.
    pub(super) annotations: Vec<(String, Expression)>,
    pub(super) mutations: Vec<Mutation>,
}

/// What is wrong with an expression.
pub(super) struct Wrong {
    pub(super) path: String,
    pub(super) expression: String,
    pub(super) why: String,
}

fn items<'a>(spec: &'a Value, field: &str) -> impl Iterator<Item = (usize, &'a Value)> + use<'a> {
    spec[field].as_array().into_iter().flatten().enumerate()
}

impl Compiled {
    pub(super) fn new(policy: &Value) -> Compiled {
        let spec = &policy["spec"];
        let features = Features {
            params: spec["paramKind"].is_object(),
            authorizer: true,
            patches: spec["mutations"].is_array(),
        };
        let mut environment = Environment::admission(MINOR, features);
        // Messages are for whoever is refused, and tell nothing of who may do what.
        let mut plain = Environment::admission(MINOR, Features { authorizer: false, ..features });
        let mut policy = Compiled::default();
        for (index, variable) in items(spec, "variables") {
            let name = object::text(variable, &["name"]).to_owned();
            let path = format!("spec.variables[{index}].expression");
            let text = object::text(variable, &["expression"]);
            let expression = policy.expression(path, text, &environment, &[]);
            let of = expression.program.as_ref().map_or(Type::Dyn, |program| program.result().clone());
            environment = environment.with_variable(&format!("{VARIABLES}{name}"), of.clone());
            plain = plain.with_variable(&format!("{VARIABLES}{name}"), of);
            policy.variables.push(Variable { name, expression });
        }
        for (index, condition) in items(spec, "matchConditions") {
            let path = format!("spec.matchConditions[{index}].expression");
            let text = object::text(condition, &["expression"]);
            let condition = policy.expression(path, text, &environment, &["bool"]);
            policy.conditions.push(condition);
        }
        for (index, validation) in items(spec, "validations") {
            let path = |field: &str| format!("spec.validations[{index}].{field}");
            let text = object::text(validation, &["expression"]);
            let expression = policy.expression(path("expression"), text, &environment, &["bool"]);
            let text = object::text(validation, &["messageExpression"]);
            let message = (!text.is_empty())
                .then(|| policy.expression(path("messageExpression"), text, &plain, &["string"]));
            policy.validations.push(Validation { expression, message });
        }
        for (index, annotation) in items(spec, "auditAnnotations") {
            let path = format!("spec.auditAnnotations[{index}].valueExpression");
            let text = object::text(annotation, &["valueExpression"]);
            let value = policy.expression(path, text, &environment, &["string", "null"]);
            policy.annotations.push((object::text(annotation, &["key"]).to_owned(), value));
        }
        for (index, mutation) in items(spec, "mutations") {
            let applies = mutation["patchType"] == "ApplyConfiguration";
            let (part, of) =
                if applies { ("applyConfiguration", "Object") } else { ("jsonPatch", "list(JSONPatch)") };
            let path = format!("spec.mutations[{index}].{part}.expression");
            let text = object::text(mutation, &[part, "expression"]);
            let expression = policy.expression(path, text, &environment, &[of]);
            policy.mutations.push(Mutation { applies, expression });
        }
        policy
    }

    fn expression(&self, path: String, text: &str, environment: &Environment, types: &[&str]) -> Expression {
        let program = if types.is_empty() {
            Program::compile(text, environment).map_err(|error| error.to_string())
        } else {
            expressions::compile(text, environment, types)
        };
        let mut needs = BTreeSet::new();
        for name in program.as_ref().map(Program::variables).unwrap_or_default() {
            let name = name.strip_prefix(VARIABLES);
            // Of two variables of one name the last is meant.
            if let Some(at) = self.variables.iter().rposition(|known| Some(known.name.as_str()) == name) {
                needs.extend(&self.variables[at].expression.needs);
                needs.insert(at);
            }
        }
        Expression { path, text: text.trim().to_owned(), program, needs: needs.into_iter().collect() }
    }

    /// All expressions that could not be compiled.
    pub(super) fn wrong(&self) -> Vec<Wrong> {
        let variables = self.variables.iter().map(|variable| &variable.expression);
        let validations =
            self.validations.iter().flat_map(|one| [&one.expression].into_iter().chain(&one.message));
        let annotations = self.annotations.iter().map(|(_, value)| value);
        let mutations = self.mutations.iter().map(|mutation| &mutation.expression);
        let all = variables.chain(&self.conditions).chain(validations).chain(annotations).chain(mutations);
        all.filter_map(|expression| {
            let why = expression.program.as_ref().err()?.clone();
            Some(Wrong { path: expression.path.clone(), expression: expression.text.clone(), why })
        })
        .collect()
    }
}

/// One evaluation of a policy: what it sees, what its variables have become, and what it may still cost.
pub(super) struct Scope<'a> {
    facts: Activation<'a>,
    policy: &'a Compiled,
    known: RefCell<BTreeMap<usize, Result<CelValue<'a>, Fault>>>,
    left: Cell<u64>,
}

impl<'a> Variables<'a> for Scope<'a> {
    fn variable(&self, name: &str) -> Option<Result<CelValue<'a>, Fault>> {
        let Some(name) = name.strip_prefix(VARIABLES) else { return self.facts.variable(name) };
        let at = self.policy.variables.iter().rposition(|variable| variable.name == name)?;
        self.known.borrow().get(&at).cloned()
    }
}

impl<'a> Scope<'a> {
    pub(super) fn new(policy: &'a Compiled, facts: Activation<'a>) -> Scope<'a> {
        Scope { facts, policy, known: RefCell::default(), left: Cell::new(cost::PER_OBJECT) }
    }

    /// The value of an expression, or why it has none.
    pub(super) fn evaluate(&self, expression: &Expression) -> Result<CelValue<'a>, String> {
        for at in &expression.needs {
            if self.known.borrow().contains_key(at) {
                continue;
            }
            let variable = &self.policy.variables[*at].expression;
            // Only who looks at a variable hears what is wrong with it.
            let value = match &variable.program {
                Ok(program) => self.run(program),
                Err(why) => Err(Fault::Failed(format!("composited variable fails to compile: {why}").into())),
            };
            self.known.borrow_mut().insert(*at, value);
        }
        let program = expression.program.as_ref().map_err(|why| format!("compilation error: {why}"))?;
        self.run(program).map_err(|fault| match fault {
            Fault::CostExceeded if self.left.get() == 0 => {
                "validation failed due to running out of cost budget, no further validation rules will be run"
                    .to_owned()
            }
            fault => expressions::told(&expression.text, &fault),
        })
    }

    fn run(&self, program: &Program) -> Result<CelValue<'a>, Fault> {
        let left = self.left.get();
        let evaluation = program.evaluate(self, left.min(cost::PER_CALL));
        self.left.set(left.saturating_sub(evaluation.cost));
        evaluation.value
    }

    /// Whether the policy's match conditions hold.
    pub(super) fn holds(&self, ignores_failures: bool) -> Result<bool, String> {
        let conditions = self.policy.conditions.iter().map(|condition| match self.evaluate(condition)? {
            CelValue::Bool(holds) => Ok(holds),
            other => Err(format!("expression '{}' is no bool but {}", condition.text, other.kind())),
        });
        expressions::all_hold(conditions, ignores_failures)
    }
}
