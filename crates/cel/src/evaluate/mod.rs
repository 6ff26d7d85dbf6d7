//! The evaluator: walks the tree, counts what it costs, and stops where that is too much.
//!
//! A chain of names, fields and indices is one attribute, which costs one for its root and one for each step; the
//! arms of a conditional are attributes of its own. That is how the reference counts, and its numbers are part of what
//! rules rely on.

mod attributes;
mod folds;

use std::sync::Arc;

use crate::{
    check::Reference,
    cost::{self, LIST, MAP, OBJECT},
    functions::{Caller, regexes::Patterns},
    program::{Program, Variables},
    syntax::{
        ACCUMULATOR,
        ast::{Entry, Field, Id, Node},
        operator,
    },
    value::{Entries, Fault, Instance, Key, List, Map, Outcome, Value, Work, equal, fault, no_such_overload},
};

/// What a name stands for inside of a comprehension.
enum Slot<'a> {
    Value(Outcome<'a>),
    /// The expression of a name that is bound, which is evaluated when somebody asks.
    Bound(Id),
}

pub(crate) struct Evaluator<'p, 'a> {
    program: &'p Program,
    variables: &'p dyn Variables<'a>,
    scopes: Vec<(Arc<str>, Slot<'a>)>,
    pub(crate) cost: u64,
    limit: u64,
    work: Work,
    patterns: Patterns,
}

impl<'p, 'a> Evaluator<'p, 'a> {
    pub(crate) fn new(program: &'p Program, variables: &'p dyn Variables<'a>, limit: u64) -> Self {
        Evaluator {
            program,
            variables,
            scopes: Vec::new(),
            cost: 0,
            limit,
            work: Work::within(limit),
            patterns: program.patterns.clone(),
        }
    }

    fn charge(&mut self, cost: u64) -> Result<(), Fault> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(Fault::CostExceeded) } else { Ok(()) }
    }

    fn node(&self, id: Id) -> &'p Node {
        self.program.checked.ast.node(id)
    }

    fn reference(&self, id: Id) -> &'p Reference {
        self.program.checked.reference(id)
    }

    pub(crate) fn evaluate(&mut self, id: Id) -> Outcome<'a> {
        if let Some(constant) = self.program.constant(id) {
            return Ok(constant.clone());
        }
        match self.node(id) {
            Node::Literal(_) => no_such_overload(),
            Node::Ident(_) | Node::Select { .. } => self.attribute(id),
            Node::Call { function, target, arguments } => self.call(id, function, *target, arguments),
            Node::List(elements) => self.list(elements),
            Node::Map(entries) => self.map(entries),
            Node::Struct { fields, .. } => self.object(id, fields),
            Node::Fold(fold) => self.fold(fold),
        }
    }

    fn call(&mut self, id: Id, function: &str, target: Option<Id>, arguments: &[Id]) -> Outcome<'a> {
        match (function, target, arguments) {
            (operator::CONDITIONAL, ..) => self.resolve(id),
            (operator::INDEX | operator::OPTIONAL_INDEX | operator::OPTIONAL_SELECT, ..) => {
                self.attribute(id)
            }
            (operator::AND, None, [one, two]) => self.logic(*one, *two, false),
            (operator::OR, None, [one, two]) => self.logic(*one, *two, true),
            (operator::EQUALS | operator::NOT_EQUALS, None, operands) => {
                self.equality(id, operands, function)
            }
            (operator::NOT_STRICTLY_FALSE, None, [argument]) => {
                let value = match self.evaluate(*argument) {
                    Err(Fault::CostExceeded) => return Err(Fault::CostExceeded),
                    Ok(Value::Bool(value)) => value,
                    _ => true,
                };
                self.charge(1)?;
                Ok(Value::Bool(value))
            }
            ("or" | "orValue", Some(target), [other]) => self.or(function, target, *other),
            (operator::ADD | "cel.@mapInsert", None, [first, rest @ ..]) if matches!(self.node(*first), Node::Ident(name) if &**name == ACCUMULATOR) => {
                self.accumulate(id, rest)
            }
            (operator::IN, None, [wanted, list]) if self.program.is_set(id, *list) => {
                // Membership in a set that is known costs nothing but what is looked for.
                let values = [self.evaluate(*wanted)?, self.evaluate(*list)?];
                self.apply(id, &values).map(|(value, _)| value)
            }
            _ => {
                let ids: Vec<Id> = target.iter().chain(arguments).copied().collect();
                let values = self.arguments(id, &ids)?;
                self.charged(id, &values)
            }
        }
    }

    /// The values of a call's arguments. Where one has none, the call costs what it would have, if all of them were asked
    /// for: up to two always are.
    fn arguments(&mut self, id: Id, arguments: &[Id]) -> Result<Vec<Value<'a>>, Fault> {
        let mut values = Vec::with_capacity(arguments.len());
        let mut failed = None;
        for argument in arguments {
            match self.evaluate(*argument) {
                Ok(value) => values.push(value),
                Err(Fault::CostExceeded) => return Err(Fault::CostExceeded),
                Err(fault) => {
                    failed = failed.or(Some(fault));
                    values.push(Value::Null);
                    if arguments.len() > 2 {
                        break;
                    }
                }
            }
        }
        let Some(fault) = failed else { return Ok(values) };
        if values.len() == arguments.len()
            && let Reference::Function(name, overloads) = self.reference(id)
        {
            let only = if let [only] = overloads.as_slice() { Some(only.id) } else { None };
            let cost = cost::runtime::call(name, only, &values, &Value::Null, &mut self.work)?;
            self.charge(cost)?;
        }
        Err(fault)
    }

    /// Calls a function, and charges for it.
    fn charged(&mut self, id: Id, values: &[Value<'a>]) -> Outcome<'a> {
        let (result, overload) = self.apply(id, values)?;
        let Reference::Function(name, _) = self.reference(id) else { return no_such_overload() };
        let cost = cost::runtime::call(name, overload, values, &result, &mut self.work)?;
        self.charge(cost)?;
        Ok(result)
    }

    /// Calls the overload that takes these values; its name, if only one could be meant.
    fn apply(&mut self, id: Id, values: &[Value<'a>]) -> Result<(Value<'a>, Option<&'static str>), Fault> {
        let Reference::Function(_, overloads) = self.reference(id) else { return no_such_overload() };
        let only = if let [only] = overloads.as_slice() { Some(only.id) } else { None };
        let Some(overload) = overloads.iter().find(|overload| overload.takes(values)) else {
            return no_such_overload();
        };
        let remaining = self.limit.saturating_sub(self.cost);
        let mut caller = Caller { work: &mut self.work, remaining, patterns: &mut self.patterns };
        Ok(((overload.call)(&mut caller, values)?, only))
    }

    /// `&&` and `||`: what decides, decides, whatever is wrong with the other side.
    fn logic(&mut self, one: Id, two: Id, decisive: bool) -> Outcome<'a> {
        let mut failed = None;
        for side in [one, two] {
            match self.evaluate(side) {
                Ok(Value::Bool(value)) if value == decisive => return Ok(Value::Bool(decisive)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => failed = failed.or(Some(Fault::NoSuchOverload)),
                Err(Fault::CostExceeded) => return Err(Fault::CostExceeded),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(Value::Bool(!decisive)), Err)
    }

    fn equality(&mut self, id: Id, operands: &[Id], function: &str) -> Outcome<'a> {
        let values = self.arguments(id, operands)?;
        let [one, two] = values.as_slice() else { return no_such_overload() };
        let same = equal(one, two, &mut self.work)?;
        let result = Value::Bool(same == (function == operator::EQUALS));
        let overload = if function == operator::EQUALS { "equals" } else { "not_equals" };
        let cost = cost::runtime::call(function, Some(overload), &values, &result, &mut self.work)?;
        self.charge(cost)?;
        Ok(result)
    }

    fn or(&mut self, function: &str, target: Id, other: Id) -> Outcome<'a> {
        match self.evaluate(target)? {
            Value::Optional(None) => self.evaluate(other),
            found @ Value::Optional(_) if function == "or" => Ok(found),
            Value::Optional(Some(value)) => Ok((*value).clone()),
            _ => no_such_overload(),
        }
    }

    fn list(&mut self, elements: &[(Id, bool)]) -> Outcome<'a> {
        let mut found = Vec::with_capacity(elements.len());
        for (element, optional) in elements {
            match (self.evaluate(*element)?, optional) {
                (value, false) => found.push(value),
                (Value::Optional(value), true) => found.extend(value.map(|value| (*value).clone())),
                (_, true) => {
                    return fault("cannot initialize optional list element from non-optional value");
                }
            }
        }
        self.charge(LIST)?;
        Ok(Value::list(found))
    }

    fn map(&mut self, entries: &[Entry]) -> Outcome<'a> {
        let mut found = std::collections::BTreeMap::new();
        for entry in entries {
            let key = Key::new(&self.evaluate(entry.key)?)?;
            match (self.evaluate(entry.value)?, entry.optional) {
                (value, false) => {
                    found.insert(key, value);
                }
                (Value::Optional(Some(value)), true) => {
                    found.insert(key, (*value).clone());
                }
                (Value::Optional(None), true) => {}
                (_, true) => {
                    return fault(format!(
                        "cannot initialize optional entry '{key}' from non-optional value"
                    ));
                }
            }
        }
        self.charge(MAP)?;
        Ok(Value::Map(Map::owned(found)))
    }

    fn object(&mut self, id: Id, fields: &[Field]) -> Outcome<'a> {
        let Reference::Object(of) = self.reference(id) else { return no_such_overload() };
        let mut found = Vec::with_capacity(fields.len());
        for field in fields {
            let json_name =
                of.fields.get(&*field.name).map_or(&*field.name, |field| &field.json_name).to_owned();
            match (self.evaluate(field.value)?, field.optional) {
                (value, false) => found.push((json_name, value)),
                (Value::Optional(value), true) => {
                    found.extend(value.map(|value| (json_name, (*value).clone())))
                }
                (_, true) => {
                    let name = &field.name;
                    return fault(format!(
                        "cannot initialize optional entry '{name}' from non-optional value"
                    ));
                }
            }
        }
        self.charge(OBJECT)?;
        Ok(Value::Object(Arc::new(Instance { of: of.clone(), fields: found })))
    }

    /// Adds to what a comprehension gathers, in place: nobody else holds it.
    fn accumulate(&mut self, id: Id, rest: &[Id]) -> Outcome<'a> {
        let mut values = vec![Value::Null];
        for argument in rest {
            values.push(self.evaluate(*argument)?);
        }
        self.charge(1)?;
        let slot = self.scopes.iter_mut().rev().find(|(name, _)| &**name == ACCUMULATOR);
        let Some((_, Slot::Value(slot))) = slot else { return no_such_overload() };
        let gathered = std::mem::replace(slot, Ok(Value::Null))?;
        match (gathered, &values[1..]) {
            (Value::List(List::Owned(mut list)), [Value::List(List::Owned(more))]) => {
                self.work.spend(more.len())?;
                Arc::make_mut(&mut list).extend(more.iter().cloned());
                // Making one list of two costs one, however long they are.
                self.charge(1)?;
                Ok(Value::List(List::Owned(list)))
            }
            (Value::Map(Map::Owned(Entries(entries))), new) => {
                let made = crate::functions::insert_in_place(Entries(entries), new, &mut self.work)?;
                self.charge(1)?;
                Ok(made)
            }
            (gathered, _) => {
                values[0] = gathered;
                self.charged(id, &values)
            }
        }
    }
}
