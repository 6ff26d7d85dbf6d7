//! Names, fields, indices, and conditionals between them.

use super::{Evaluator, Slot};
use crate::{
    check::Reference,
    syntax::{
        ast::{Id, Literal, Node},
        operator,
    },
    value::{Fault, Key, List, Outcome, Text, Value, fault, no_such_key, no_such_overload, numbers},
};

impl<'a> Evaluator<'_, 'a> {
    /// A whole attribute.
    pub(super) fn attribute(&mut self, id: Id) -> Outcome<'a> {
        let is_test = matches!(self.node(id), Node::Select { test: true, .. });
        if !is_test && !self.is_rooted_in_conditional(id) {
            self.charge(1)?;
        }
        self.resolve(id)
    }

    fn is_attribute(&self, id: Id) -> bool {
        if self.program.constant(id).is_some() {
            return false;
        }
        match self.node(id) {
            Node::Ident(_) => matches!(self.reference(id), Reference::Variable),
            Node::Select { .. } => true,
            Node::Call { function, .. } => matches!(
                &**function,
                operator::INDEX
                    | operator::OPTIONAL_INDEX
                    | operator::OPTIONAL_SELECT
                    | operator::CONDITIONAL
            ),
            _ => false,
        }
    }

    /// Whether the steps of an attribute begin at a conditional, which costs nothing itself.
    fn is_rooted_in_conditional(&self, mut id: Id) -> bool {
        loop {
            id = match self.node(id) {
                Node::Select { operand, .. } => *operand,
                Node::Call { function, arguments, .. } => match (&**function, arguments.first()) {
                    (operator::CONDITIONAL, _) => return true,
                    (operator::INDEX | operator::OPTIONAL_INDEX | operator::OPTIONAL_SELECT, Some(first)) => {
                        *first
                    }
                    _ => return false,
                },
                _ => return false,
            };
        }
    }

    /// What the steps of an attribute begin at: part of the same attribute, or a value of its own.
    fn base(&mut self, id: Id) -> Outcome<'a> {
        if self.is_attribute(id) { self.resolve(id) } else { self.evaluate(id) }
    }

    /// An attribute without what its root costs.
    pub(super) fn resolve(&mut self, id: Id) -> Outcome<'a> {
        match self.node(id) {
            Node::Ident(name) => self.variable(name),
            Node::Select { operand, field, test } => {
                let of = self.base(*operand)?;
                self.charge(1)?;
                if *test {
                    return self.has(&of, field);
                }
                match of {
                    Value::Optional(None) => Ok(Value::NONE),
                    Value::Optional(Some(of)) if matches!(*of, Value::Map(_) | Value::Object(_)) => {
                        Ok(self.field(&of, field).transpose()?.map_or(Value::NONE, Value::some))
                    }
                    of => self.field(&of, field).unwrap_or_else(|| no_such_key(field)),
                }
            }
            Node::Call { function, arguments, .. } => match (&**function, arguments.as_slice()) {
                (operator::CONDITIONAL, [condition, truthy, falsy]) => match self.evaluate(*condition)? {
                    Value::Bool(true) => self.base(*truthy),
                    Value::Bool(false) => self.base(*falsy),
                    _ => no_such_overload(),
                },
                (operator::INDEX, [of, index]) => self.index(*of, *index, false),
                (operator::OPTIONAL_INDEX, [of, index]) => self.index(*of, *index, true),
                (operator::OPTIONAL_SELECT, [of, field]) => {
                    let Node::Literal(Literal::String(field)) = self.node(*field) else {
                        return no_such_overload();
                    };
                    let of = self.base(*of)?;
                    let of = match of {
                        Value::Optional(None) => return Ok(Value::NONE),
                        Value::Optional(Some(of)) => (*of).clone(),
                        of => of,
                    };
                    match self.field(&of, field).transpose()? {
                        None => Ok(Value::NONE),
                        Some(found) => {
                            self.charge(1)?;
                            Ok(Value::some(found))
                        }
                    }
                }
                _ => no_such_overload(),
            },
            _ => no_such_overload(),
        }
    }

    fn variable(&mut self, name: &str) -> Outcome<'a> {
        if let Some(index) = self.scopes.iter().rposition(|(local, _)| **local == *name) {
            let bound = match &self.scopes[index].1 {
                Slot::Value(value) => return value.clone(),
                Slot::Bound(bound) => *bound,
            };
            // What is bound sees only what was there when it was bound.
            let inner = self.scopes.split_off(index);
            let value = self.evaluate(bound);
            self.scopes.extend(inner);
            self.scopes[index].1 = Slot::Value(value.clone());
            return value;
        }
        match self.variables.variable(name.strip_prefix('.').unwrap_or(name)) {
            Some(value) => value,
            None => fault(format!("no such attribute(s): {name}")),
        }
    }

    /// A field, if it is there.
    fn field(&self, of: &Value<'a>, field: &str) -> Option<Outcome<'a>> {
        match of {
            Value::Map(map) => map.field(field),
            Value::Object(instance) => {
                let json_name = instance.of.fields.get(field).map_or(field, |field| &field.json_name);
                let found = instance.fields.iter().find(|(name, _)| name == json_name);
                found.map(|(_, value)| Ok(value.clone()))
            }
            _ => None,
        }
    }

    fn has(&self, of: &Value<'a>, field: &str) -> Outcome<'a> {
        let found = match of {
            Value::Optional(None) => None,
            Value::Optional(Some(of)) => self.field(of, field),
            of => self.field(of, field),
        };
        // What cannot be read is there, and wrong.
        Ok(Value::Bool(found.transpose()?.is_some()))
    }

    fn index(&mut self, of: Id, index: Id, optional: bool) -> Outcome<'a> {
        let of = self.base(of)?;
        let index = self.base(index)?;
        if !optional {
            self.charge(1)?;
        }
        let (of, optional_base) = match of {
            Value::Optional(None) => return Ok(Value::NONE),
            Value::Optional(Some(of)) => ((*of).clone(), true),
            of => (of, false),
        };
        let found = match &of {
            Value::List(list) => element(list, &index)?,
            Value::Map(map) => Key::lookup(&index).and_then(|key| map.get(&key)),
            Value::Object(_) => index.as_str().and_then(|field| self.field(&of, field)),
            _ if optional => None,
            _ => return no_such_overload(),
        };
        match found.transpose()? {
            Some(found) if optional => {
                self.charge(1)?;
                Ok(Value::some(found))
            }
            Some(found) if optional_base => Ok(Value::some(found)),
            Some(found) => Ok(found),
            None if optional || optional_base => Ok(Value::NONE),
            None => match (&of, Key::lookup(&index)) {
                (Value::List(_), Some(index)) => fault(format!("index out of bounds: {index}")),
                (_, Some(key)) => no_such_key(key),
                _ => no_such_overload(),
            },
        }
    }
}

/// An element of a list, if it is there. Whole numbers of any type are indices.
fn element<'a>(list: &List<'a>, index: &Value<'a>) -> Result<Option<Outcome<'a>>, Fault> {
    let index = match index {
        Value::Int(index) => usize::try_from(*index).ok(),
        Value::Uint(index) => usize::try_from(*index).ok(),
        Value::Double(index) => numbers::as_int(*index).and_then(|index| usize::try_from(index).ok()),
        Value::String(Text::Borrowed(_) | Text::Shared(_)) => {
            return fault("unsupported index type 'string' in list");
        }
        _ => return no_such_overload(),
    };
    Ok(index.and_then(|index| list.get(index)))
}
