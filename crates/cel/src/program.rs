//! From an expression to its value: what callers use.

use std::collections::BTreeSet;

use crate::{
    check::{Checked, Reference, check, validate},
    cost::{self, Range},
    environment::Environment,
    evaluate::Evaluator,
    functions::{Caller, conversions::is_conversion, regexes::Patterns},
    schema::Declared,
    source::{Error, Issues, Source},
    syntax::{
        ast::{Id, Literal, Node},
        operator, parse,
    },
    types::Type,
    value::{Fault, Key, Map, Value, Work},
};

/// Where an evaluation finds its variables.
pub trait Variables<'a> {
    /// The value of a variable, or why it has none; nothing where there is no such variable.
    fn variable(&self, name: &str) -> Option<Result<Value<'a>, Fault>>;
}

/// Variables that are known.
#[derive(Debug, Clone, Default)]
pub struct Activation<'a> {
    variables: Vec<(String, Result<Value<'a>, Fault>)>,
}

impl<'a> Activation<'a> {
    /// No variables.
    pub fn new() -> Self {
        Activation::default()
    }

    /// With a variable.
    #[must_use]
    pub fn with(self, name: &str, value: Value<'a>) -> Self {
        self.with_outcome(name, Ok(value))
    }

    /// With a variable that may have no value: whoever asks for it gets the fault.
    #[must_use]
    pub fn with_outcome(mut self, name: &str, value: Result<Value<'a>, Fault>) -> Self {
        self.variables.push((name.to_owned(), value));
        self
    }
}

impl<'a> Variables<'a> for Activation<'a> {
    fn variable(&self, name: &str) -> Option<Result<Value<'a>, Fault>> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }
}

/// What an evaluation gave, and what it cost.
#[derive(Debug, Clone)]
pub struct Evaluation<'a> {
    /// The value, or why there is none.
    pub value: Result<Value<'a>, Fault>,
    /// The cost.
    pub cost: u64,
}

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    pub(crate) checked: Checked,
    /// What is known without evaluation, by node.
    constants: Vec<Option<Value<'static>>>,
    pub(crate) patterns: Patterns,
}

impl Program {
    /// Compiles an expression.
    ///
    /// # Errors
    /// Everything that is wrong with it, as cel-go would say it.
    pub fn compile(expression: &str, environment: &Environment) -> Result<Program, Error> {
        let source = Source::new(expression);
        let ast = parse(&source, environment.dialect).map_err(Error::Compilation)?;
        let checked = check(ast, &source, environment).map_err(Error::Compilation)?;
        let wrong = validate(&checked, &source, environment);
        if !wrong.is_empty() {
            return Err(Error::Compilation(Issues(wrong)));
        }
        Program::plan(checked).map_err(Error::Instantiation)
    }

    /// The type of the value.
    pub fn result(&self) -> &Type {
        self.checked.result()
    }

    /// The variables of the environment that the expression looks at.
    pub fn variables(&self) -> BTreeSet<String> {
        let ids = 0..self.checked.ast.len() as Id;
        let named = ids.filter_map(|id| match (self.checked.ast.node(id), self.checked.reference(id)) {
            (Node::Ident(name), Reference::Variable) => Some(name.trim_start_matches('.').to_owned()),
            _ => None,
        });
        named.collect()
    }

    /// Evaluates the expression; stops where it costs more than `limit`.
    pub fn evaluate<'a>(&self, variables: &dyn Variables<'a>, limit: u64) -> Evaluation<'a> {
        let mut evaluator = Evaluator::new(self, variables, limit);
        let value = evaluator.evaluate(self.checked.ast.root);
        Evaluation { value, cost: evaluator.cost }
    }

    /// The least and the most that an evaluation can cost, where the variables are declared so. Where nothing is declared,
    /// nothing bounds what they hold.
    pub fn estimate(&self, root: Option<&Declared>) -> Range {
        cost::estimate(&self.checked, root)
    }

    pub(crate) fn constant(&self, id: Id) -> Option<&Value<'static>> {
        self.constants[id as usize].as_ref()
    }

    /// Whether a call asks for membership in a list that is known and whose elements are looked up at once.
    pub(crate) fn is_set(&self, id: Id, list: Id) -> bool {
        let Reference::Function(_, overloads) = self.checked.reference(id) else { return false };
        let is_list = matches!(overloads.as_slice(), [only] if only.id == "in_list");
        let Some(Value::List(list)) = self.constant(list) else { return false };
        is_list
            && list.iter().all(|element| {
                matches!(
                    element,
                    Ok(Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::String(_))
                )
            })
    }

    /// Evaluates once and for all what does not depend on anything, and compiles patterns that are known.
    fn plan(checked: Checked) -> Result<Program, String> {
        let count = checked.ast.len() as Id;
        let constants = vec![None; count as usize];
        let mut program = Program { checked, constants, patterns: Patterns::default() };
        // Children come before their parents.
        for id in 0..count {
            let constant = program.fold(id).map_err(|fault| fault.to_string())?;
            program.constants[id as usize] = constant;
            if let Some(pattern) = program.known_pattern(id) {
                program.patterns.know(&pattern)?;
            }
        }
        Ok(program)
    }

    fn known_pattern(&self, id: Id) -> Option<std::sync::Arc<str>> {
        let Reference::Function("matches" | "find" | "findAll", _) = self.checked.reference(id) else {
            return None;
        };
        let Node::Call { target, arguments, .. } = self.checked.ast.node(id) else { return None };
        let pattern = arguments.get(usize::from(target.is_none()))?;
        match self.checked.ast.node(*pattern) {
            Node::Literal(Literal::String(text)) => Some(text.clone()),
            _ => None,
        }
    }

    /// The value of a node that is constant.
    fn fold(&self, id: Id) -> Result<Option<Value<'static>>, Fault> {
        let known = |id: Id| self.constant(id).cloned();
        Ok(match self.checked.ast.node(id) {
            Node::Literal(literal) => Some(match literal {
                Literal::Null => Value::Null,
                Literal::Bool(value) => Value::Bool(*value),
                Literal::Int(number) => Value::Int(*number),
                Literal::Uint(number) => Value::Uint(*number),
                Literal::Double(number) => Value::Double(*number),
                Literal::String(text) => Value::text(text.clone()),
                Literal::Bytes(bytes) => Value::Bytes(bytes.clone()),
            }),
            Node::Ident(_) => match self.checked.reference(id) {
                Reference::Type(of) => Some(Value::Type(of.clone())),
                _ => None,
            },
            Node::List(elements) if elements.iter().all(|(_, optional)| !optional) => {
                let elements: Option<Vec<_>> = elements.iter().map(|(element, _)| known(*element)).collect();
                elements.map(Value::list)
            }
            Node::Map(entries) if entries.iter().all(|entry| !entry.optional) => {
                let mut found = std::collections::BTreeMap::new();
                for entry in entries {
                    let (Some(key), Some(value)) = (known(entry.key), known(entry.value)) else {
                        return Ok(None);
                    };
                    let Ok(key) = Key::new(&key) else { return Ok(None) };
                    found.insert(key, value);
                }
                Some(Value::Map(Map::owned(found)))
            }
            Node::Call { function, target: None, arguments } => match (&**function, arguments.as_slice()) {
                (operator::IN, [_, list]) => match known(*list) {
                    Some(Value::List(list)) if list.is_empty() && self.is_set(id, arguments[1]) => {
                        Some(Value::Bool(false))
                    }
                    _ => None,
                },
                (name, [argument]) if is_conversion(name) => match known(*argument) {
                    Some(value) => Some(self.convert(id, value)?),
                    None => None,
                },
                _ => None,
            },
            _ => None,
        })
    }

    fn convert(&self, id: Id, value: Value<'static>) -> Result<Value<'static>, Fault> {
        let Reference::Function(_, overloads) = self.checked.reference(id) else {
            return Err(Fault::NoSuchOverload);
        };
        let values = [value];
        let overload =
            overloads.iter().find(|overload| overload.takes(&values)).ok_or(Fault::NoSuchOverload)?;
        let mut patterns = Patterns::default();
        let mut work = Work::default();
        let mut caller = Caller { work: &mut work, remaining: u64::MAX, patterns: &mut patterns };
        (overload.call)(&mut caller, &values)
    }
}
