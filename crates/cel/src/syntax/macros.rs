//! Macros: calls that become comprehensions before anything else looks at them.
//!
//! Each is a row of a table: its name, whether it is called on something, and how many arguments it takes.

use std::sync::Arc;

use super::{
    ACCUMULATOR, UNUSED,
    ast::{Entry, Fold, Id, Literal, Node},
    operator,
    parser::{Dialect, Parser, Stop},
};

/// Why a macro cannot be expanded: the argument to blame, and the message; or the parser has to stop.
enum Refusal {
    Argument(Id, String),
    Stop,
}

impl From<Stop> for Refusal {
    fn from(_: Stop) -> Refusal {
        Refusal::Stop
    }
}

type Expanded = Result<Id, Refusal>;
type Expand = fn(&mut Expansion<'_, '_>, &[Id]) -> Expanded;

struct Row {
    name: &'static str,
    /// Whether it is called on something.
    method: bool,
    arguments: usize,
    enabled: fn(Dialect) -> bool,
    expand: Expand,
}

const fn row(name: &'static str, arguments: usize, enabled: fn(Dialect) -> bool, expand: Expand) -> Row {
    Row { name, method: true, arguments, enabled, expand }
}

const fn always(_: Dialect) -> bool {
    true
}

const fn two(dialect: Dialect) -> bool {
    dialect.two_variables
}

const fn optional(dialect: Dialect) -> bool {
    dialect.optional
}

const fn sorting(dialect: Dialect) -> bool {
    dialect.sort_by
}

const fn binding(dialect: Dialect) -> bool {
    dialect.bind
}

const MACROS: [Row; 22] = [
    Row {
        name: "has",
        method: false,
        arguments: 1,
        enabled: always,
        expand: |it, arguments| it.has(arguments),
    },
    row("all", 2, always, |it, arguments| it.all(arguments)),
    row("exists", 2, always, |it, arguments| it.exists(arguments)),
    row("exists_one", 2, always, |it, arguments| it.exists_one(arguments)),
    row("existsOne", 2, always, |it, arguments| it.exists_one(arguments)),
    row("map", 2, always, |it, arguments| it.list(arguments, NOT_IDENTIFIER)),
    row("map", 3, always, |it, arguments| it.list(arguments, NOT_IDENTIFIER)),
    row("filter", 2, always, |it, arguments| it.filter(arguments)),
    row("all", 3, two, |it, arguments| it.all(arguments)),
    row("exists", 3, two, |it, arguments| it.exists(arguments)),
    row("exists_one", 3, two, |it, arguments| it.exists_one(arguments)),
    row("existsOne", 3, two, |it, arguments| it.exists_one(arguments)),
    row("transformList", 3, two, |it, arguments| it.two_variables(arguments, Expansion::appended)),
    row("transformList", 4, two, |it, arguments| it.two_variables(arguments, Expansion::appended)),
    row("transformMap", 3, two, |it, arguments| it.two_variables(arguments, Expansion::inserted)),
    row("transformMap", 4, two, |it, arguments| it.two_variables(arguments, Expansion::inserted)),
    row("transformMapEntry", 3, two, |it, arguments| it.two_variables(arguments, Expansion::merged)),
    row("transformMapEntry", 4, two, |it, arguments| it.two_variables(arguments, Expansion::merged)),
    row("optMap", 2, optional, |it, arguments| it.optional(arguments, "optMap", true)),
    row("optFlatMap", 2, optional, |it, arguments| it.optional(arguments, "optFlatMap", false)),
    row("sortBy", 2, sorting, |it, arguments| it.sort_by(arguments)),
    row(BIND, 3, binding, |it, arguments| it.bind(arguments)),
];

/// The one macro that is called on a namespace, `cel`.
const BIND: &str = "bind";

const NOT_NAME: &str = "argument must be a simple name";
const NOT_IDENTIFIER: &str = "argument is not an identifier";

/// A call, or what it becomes.
pub(super) fn call(
    parser: &mut Parser<'_>,
    function: &str,
    target: Option<Id>,
    arguments: Vec<Id>,
    at: u32,
) -> Result<Id, Stop> {
    let on_namespace = target.and_then(|target| parser.ident_of(target)).is_some_and(|name| &*name == "cel");
    let found = MACROS.iter().find(|row| {
        row.name == function
            && row.method == target.is_some()
            && row.arguments == arguments.len()
            && (row.enabled)(parser.dialect)
            && (row.name != BIND || on_namespace)
    });
    let Some(row) = found else {
        return parser.add(Node::Call { function: function.into(), target, arguments }, Some(at));
    };
    let mut expansion = Expansion { parser, target, at };
    match (row.expand)(&mut expansion, &arguments) {
        Ok(id) => Ok(id),
        Err(Refusal::Stop) => Err(Stop),
        Err(Refusal::Argument(id, message)) => {
            let place = parser.ast.at(id);
            parser.report(place, message);
            parser.add(Node::Literal(Literal::Null), Some(at))
        }
    }
}

struct Expansion<'p, 'a> {
    parser: &'p mut Parser<'a>,
    target: Option<Id>,
    at: u32,
}

/// The names that a comprehension goes through its range with.
struct Variables {
    first: Arc<str>,
    second: Option<Arc<str>>,
}

impl Expansion<'_, '_> {
    fn add(&mut self, node: Node) -> Expanded {
        Ok(self.parser.add(node, Some(self.at))?)
    }

    fn ident(&mut self, name: &str) -> Expanded {
        self.add(Node::Ident(name.into()))
    }

    fn accumulator(&mut self) -> Expanded {
        self.ident(ACCUMULATOR)
    }

    fn literal(&mut self, literal: Literal) -> Expanded {
        self.add(Node::Literal(literal))
    }

    fn call(&mut self, function: &str, arguments: Vec<Id>) -> Expanded {
        self.add(Node::Call { function: function.into(), target: None, arguments })
    }

    fn method(&mut self, function: &str, target: Id, arguments: Vec<Id>) -> Expanded {
        self.add(Node::Call { function: function.into(), target: Some(target), arguments })
    }

    fn name(&self, argument: Id, message: &str) -> Result<Arc<str>, Refusal> {
        let name = self.parser.ident_of(argument);
        let name = name.filter(|name| !name.starts_with('.'));
        let name = name.ok_or_else(|| Refusal::Argument(argument, message.to_owned()))?;
        if &*name == ACCUMULATOR || &*name == "__result__" {
            let message = "iteration variable overwrites accumulator variable".to_owned();
            return Err(Refusal::Argument(argument, message));
        }
        Ok(name)
    }

    fn fold(&mut self, variables: Variables, parts: [Id; 4]) -> Expanded {
        let [init, condition, step, result] = parts;
        let fold = Fold {
            range: self.target(),
            variable: variables.first,
            second: variables.second,
            accumulator: ACCUMULATOR.into(),
            init,
            condition,
            step,
            result,
        };
        self.add(Node::Fold(Box::new(fold)))
    }

    fn target(&self) -> Id {
        self.target.unwrap_or_default()
    }

    /// The variables and the predicate of a quantifier.
    fn quantifier(&self, arguments: &[Id]) -> Result<(Variables, Id), Refusal> {
        match arguments {
            [variable, predicate] => {
                Ok((Variables { first: self.name(*variable, NOT_NAME)?, second: None }, *predicate))
            }
            [first, second, predicate] => Ok((self.pair(*first, *second)?, *predicate)),
            _ => Err(Refusal::Stop),
        }
    }

    fn pair(&self, first: Id, second: Id) -> Result<Variables, Refusal> {
        let (one, two) = (self.name(first, NOT_NAME)?, self.name(second, NOT_NAME)?);
        if one == two {
            return Err(Refusal::Argument(second, format!("duplicate variable name: {one}")));
        }
        Ok(Variables { first: one, second: Some(two) })
    }

    fn has(&mut self, arguments: &[Id]) -> Expanded {
        match self.parser.ast.node(arguments[0]) {
            Node::Select { operand, field, test: false } => {
                let node = Node::Select { operand: *operand, field: field.clone(), test: true };
                self.add(node)
            }
            _ => Err(Refusal::Argument(arguments[0], "invalid argument to has() macro".to_owned())),
        }
    }

    fn all(&mut self, arguments: &[Id]) -> Expanded {
        let (variables, predicate) = self.quantifier(arguments)?;
        let init = self.literal(Literal::Bool(true))?;
        let so_far = self.accumulator()?;
        let condition = self.call(operator::NOT_STRICTLY_FALSE, vec![so_far])?;
        let so_far = self.accumulator()?;
        let step = self.call(operator::AND, vec![so_far, predicate])?;
        let result = self.accumulator()?;
        self.fold(variables, [init, condition, step, result])
    }

    fn exists(&mut self, arguments: &[Id]) -> Expanded {
        let (variables, predicate) = self.quantifier(arguments)?;
        let init = self.literal(Literal::Bool(false))?;
        let so_far = self.accumulator()?;
        let none = self.call(operator::NOT, vec![so_far])?;
        let condition = self.call(operator::NOT_STRICTLY_FALSE, vec![none])?;
        let so_far = self.accumulator()?;
        let step = self.call(operator::OR, vec![so_far, predicate])?;
        let result = self.accumulator()?;
        self.fold(variables, [init, condition, step, result])
    }

    fn exists_one(&mut self, arguments: &[Id]) -> Expanded {
        let (variables, predicate) = self.quantifier(arguments)?;
        let init = self.literal(Literal::Int(0))?;
        let condition = self.literal(Literal::Bool(true))?;
        let (count, one) = (self.accumulator()?, self.literal(Literal::Int(1))?);
        let more = self.call(operator::ADD, vec![count, one])?;
        let step = self.only_if(Some(predicate), more)?;
        let (count, one) = (self.accumulator()?, self.literal(Literal::Int(1))?);
        let result = self.call(operator::EQUALS, vec![count, one])?;
        self.fold(variables, [init, condition, step, result])
    }

    /// A step that leaves the accumulator alone where the filter says so.
    fn only_if(&mut self, filter: Option<Id>, step: Id) -> Expanded {
        let Some(filter) = filter else { return Ok(step) };
        let unchanged = self.accumulator()?;
        self.call(operator::CONDITIONAL, vec![filter, step, unchanged])
    }

    fn appended(&mut self, _: &Variables, element: Id) -> Expanded {
        let (so_far, one) = (self.accumulator()?, self.add(Node::List(vec![(element, false)]))?);
        self.call(operator::ADD, vec![so_far, one])
    }

    fn inserted(&mut self, variables: &Variables, value: Id) -> Expanded {
        let (so_far, key) = (self.accumulator()?, self.ident(&variables.first.clone())?);
        self.call("cel.@mapInsert", vec![so_far, key, value])
    }

    fn merged(&mut self, _: &Variables, entries: Id) -> Expanded {
        let so_far = self.accumulator()?;
        self.call("cel.@mapInsert", vec![so_far, entries])
    }

    /// `map`, with a filter or without.
    fn list(&mut self, arguments: &[Id], message: &str) -> Expanded {
        let variables = Variables { first: self.name(arguments[0], message)?, second: None };
        let (filter, element) = match arguments {
            [_, filter, element] => (Some(*filter), *element),
            _ => (None, arguments[1]),
        };
        self.gather(variables, filter, element, Self::appended)
    }

    fn filter(&mut self, arguments: &[Id]) -> Expanded {
        let variables = Variables { first: self.name(arguments[0], NOT_IDENTIFIER)?, second: None };
        self.gather(variables, Some(arguments[1]), arguments[0], Self::appended)
    }

    fn two_variables(
        &mut self,
        arguments: &[Id],
        step: fn(&mut Self, &Variables, Id) -> Expanded,
    ) -> Expanded {
        let variables = self.pair(arguments[0], arguments[1])?;
        let (filter, element) = match arguments {
            [_, _, filter, element] => (Some(*filter), *element),
            _ => (None, arguments[2]),
        };
        self.gather(variables, filter, element, step)
    }

    fn gather(
        &mut self,
        variables: Variables,
        filter: Option<Id>,
        element: Id,
        step: fn(&mut Self, &Variables, Id) -> Expanded,
    ) -> Expanded {
        let step = step(self, &variables, element)?;
        let of_map = matches!(self.parser.ast.node(step), Node::Call { function, .. } if &**function == "cel.@mapInsert");
        let step = self.only_if(filter, step)?;
        let init = self.add(if of_map { Node::Map(Vec::<Entry>::new()) } else { Node::List(Vec::new()) })?;
        let condition = self.literal(Literal::Bool(true))?;
        let result = self.accumulator()?;
        self.fold(variables, [init, condition, step, result])
    }

    /// A comprehension over nothing whose accumulator is the name that is bound.
    fn let_in(&mut self, name: Arc<str>, value: Id, body: Id) -> Expanded {
        let range = self.add(Node::List(Vec::new()))?;
        let condition = self.literal(Literal::Bool(false))?;
        let step = self.ident(&name.clone())?;
        let fold = Fold {
            range,
            variable: UNUSED.into(),
            second: None,
            accumulator: name,
            init: value,
            condition,
            step,
            result: body,
        };
        self.add(Node::Fold(Box::new(fold)))
    }

    fn bind(&mut self, arguments: &[Id]) -> Expanded {
        let name = self.parser.ident_of(arguments[0]).ok_or_else(|| {
            Refusal::Argument(arguments[0], "cel.bind() variable names must be simple identifiers".to_owned())
        })?;
        self.let_in(name, arguments[1], arguments[2])
    }

    fn optional(&mut self, arguments: &[Id], macro_name: &str, wrap: bool) -> Expanded {
        let name = self.parser.ident_of(arguments[0]).ok_or_else(|| {
            let message = format!("{macro_name}() variable name must be a simple identifier");
            Refusal::Argument(arguments[0], message)
        })?;
        let target = self.target();
        let again = self.parser.copy(target)?;
        let present = self.method("hasValue", target, Vec::new())?;
        let value = self.method("value", again, Vec::new())?;
        let mut mapped = self.let_in(name, value, arguments[1])?;
        if wrap {
            let namespace = self.ident("optional")?;
            mapped = self.method("of", namespace, vec![mapped])?;
        }
        let namespace = self.ident("optional")?;
        let none = self.method("none", namespace, Vec::new())?;
        self.call(operator::CONDITIONAL, vec![present, mapped, none])
    }

    fn sort_by(&mut self, arguments: &[Id]) -> Expanded {
        const INPUT: &str = "@__sortBy_input__";
        let target = self.target();
        if matches!(self.parser.ast.node(target), Node::Literal(_) | Node::Map(_) | Node::Struct { .. }) {
            let message =
                "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
            return Err(Refusal::Argument(target, message.to_owned()));
        }
        let input = self.ident(INPUT)?;
        let mut inner = Expansion { parser: self.parser, target: Some(input), at: self.at };
        let keys = inner.list(arguments, NOT_IDENTIFIER)?;
        let input = self.ident(INPUT)?;
        let sorted = self.method("@sortByAssociatedKeys", input, vec![keys])?;
        self.let_in(INPUT.into(), target, sorted)
    }
}
