//! The worst case of an expression, from the sizes that its schema allows.
//!
//! It follows cel-go's estimate step by step, where that surprises too: definitions that one server takes, the other
//! should take.

use super::{LIST, MAP, OBJECT, Range, SELECT, calls};
use crate::{
    check::{Checked, Reference},
    schema::Declared,
    syntax::{
        UNUSED,
        ast::{Fold, Id, Literal, Node},
    },
    types::Type,
};

/// Where a value comes from in the declared data.
#[derive(Debug, Clone, Copy)]
pub(super) enum Path<'s> {
    /// From no variable.
    None,
    /// From a place whose declaration may be known.
    At(Option<&'s Declared>),
}

/// One step of a path.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step<'n> {
    Field(&'n str),
    Element,
    Key,
    Unknown,
}

/// The sizes of what is inside a list or map that the expression makes.
#[derive(Debug, Clone, Copy)]
struct Entries {
    is_list: bool,
    key: Range,
    value: Range,
}

impl Entries {
    fn or(self, other: Entries) -> Entries {
        Entries { key: self.key.or(other.key), value: self.value.or(other.value), ..self }
    }
}

/// A value, as the estimates of functions see it.
#[derive(Debug, Clone)]
pub(super) struct Operand<'s> {
    pub(super) id: Option<Id>,
    pub(super) path: Path<'s>,
    pub(super) of: Type,
    /// The size that the expression itself shows.
    pub(super) size: Option<Range>,
}

/// What a call costs, and how large its result is.
pub(super) struct Estimate {
    pub(super) cost: Range,
    pub(super) size: Option<Range>,
}

struct Local<'s> {
    name: String,
    path: Path<'s>,
    size: Option<Range>,
    entries: Option<Entries>,
}

pub(super) struct Estimator<'c, 's> {
    pub(super) checked: &'c Checked,
    root: Option<&'s Declared>,
    paths: Vec<Path<'s>>,
    sizes: Vec<Option<Range>>,
    entries: Vec<Option<Entries>>,
    locals: Vec<Local<'s>>,
}

/// The least and the most that an evaluation costs, with variables of this declaration.
pub(crate) fn estimate(checked: &Checked, root: Option<&Declared>) -> Range {
    let count = checked.ast.len();
    let mut estimator = Estimator {
        checked,
        root,
        paths: vec![Path::None; count],
        sizes: vec![None; count],
        entries: vec![None; count],
        locals: Vec::new(),
    };
    estimator.cost(checked.ast.root)
}

fn is_scalar(of: &Type) -> bool {
    match of {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        Type::Optional(of) => is_scalar(of),
        _ => false,
    }
}

impl<'s> Estimator<'_, 's> {
    fn local(&self, name: &str) -> Option<&Local<'s>> {
        self.locals.iter().rev().find(|local| local.name == name)
    }

    fn local_of(&self, id: Id) -> Option<&Local<'s>> {
        match self.checked.ast.node(id) {
            Node::Ident(name) => self.local(name),
            _ => None,
        }
    }

    fn path(&self, id: Id) -> Path<'s> {
        self.local_of(id).map_or(self.paths[id as usize], |local| local.path)
    }

    /// A path with one more step. The first step of all leads to the root, whatever it is called.
    pub(super) fn step(&self, path: Path<'s>, step: Step<'_>) -> Path<'s> {
        match path {
            Path::None => Path::At(self.root),
            Path::At(None) => path,
            Path::At(Some(declared)) => Path::At(match step {
                Step::Field(name) => declared.field(name),
                Step::Element => declared.item(),
                Step::Key => declared.keys(),
                Step::Unknown => None,
            }),
        }
    }

    /// The size that the declaration of a path allows.
    pub(super) fn declared_size(&self, path: Path<'s>) -> Option<Range> {
        match path {
            Path::At(Some(declared)) => Some(Range::upto(declared.most)),
            _ => None,
        }
    }

    fn size(&mut self, id: Id) -> Option<Range> {
        if let Some(known) = self.sizes[id as usize].or_else(|| self.literal_size(id)) {
            return Some(known);
        }
        if let Some(declared) = self.declared_size(self.path(id)) {
            self.sizes[id as usize] = Some(declared);
            return Some(declared);
        }
        if is_scalar(self.checked.type_of(id)) {
            return Some(Range::ONE);
        }
        self.local_of(id).and_then(|local| local.size)
    }

    fn literal_size(&self, id: Id) -> Option<Range> {
        let size = match self.checked.ast.node(id) {
            Node::Literal(Literal::String(text)) => text.chars().count(),
            Node::Literal(Literal::Bytes(bytes)) => bytes.len(),
            Node::Literal(_) => 1,
            Node::List(elements) => elements.len(),
            Node::Map(entries) => entries.len(),
            _ => return None,
        };
        Some(Range::exactly(size as u64))
    }

    fn size_or_any(&mut self, id: Id) -> Range {
        self.size(id).unwrap_or(Range::ANY)
    }

    fn entries(&self, id: Id) -> Option<Entries> {
        self.entries[id as usize].or_else(|| self.local_of(id).and_then(|local| local.entries))
    }

    fn operand(&mut self, id: Id) -> Operand<'s> {
        Operand {
            id: Some(id),
            path: self.path(id),
            of: self.checked.type_of(id).clone(),
            size: self.size(id),
        }
    }

    fn cost(&mut self, id: Id) -> Range {
        match self.checked.ast.node(id) {
            Node::Literal(_) => Range::NONE,
            Node::Ident(name) => {
                self.paths[id as usize] = self.local(name).map_or(Path::At(self.root), |local| local.path);
                Range::exactly(SELECT)
            }
            Node::Select { operand, field, test } => {
                let cost = self.cost(*operand);
                if *test {
                    return cost;
                }
                self.paths[id as usize] = self.step(self.path(*operand), Step::Field(field));
                match self.checked.type_of(*operand) {
                    Type::Map(_) | Type::Object(_) => cost.plus(Range::exactly(SELECT)),
                    _ => cost,
                }
            }
            Node::Call { .. } => self.call(id),
            Node::List(elements) => {
                let mut cost = Range::exactly(LIST);
                let mut inner = if elements.is_empty() { Range::NONE } else { Range::EMPTY };
                for (element, _) in elements {
                    cost = cost.plus(self.cost(*element));
                    inner = inner.or(self.size_or_any(*element));
                }
                let entries = Entries { is_list: true, key: Range::ONE, value: inner };
                self.entries[id as usize] = Some(entries);
                cost
            }
            Node::Map(entries) => {
                let mut cost = Range::exactly(MAP);
                let empty = if entries.is_empty() { Range::NONE } else { Range::EMPTY };
                let (mut keys, mut values) = (empty, empty);
                for entry in entries {
                    cost = cost.plus(self.cost(entry.key)).plus(self.cost(entry.value));
                    keys = keys.or(self.size_or_any(entry.key));
                    values = values.or(self.size_or_any(entry.value));
                }
                self.entries[id as usize] = Some(Entries { is_list: false, key: keys, value: values });
                cost
            }
            Node::Struct { fields, .. } => {
                fields.iter().fold(Range::exactly(OBJECT), |cost, field| cost.plus(self.cost(field.value)))
            }
            Node::Fold(fold) if &*fold.variable == UNUSED => self.bind(id, fold),
            Node::Fold(fold) => self.fold(id, fold),
        }
    }

    fn call(&mut self, id: Id) -> Range {
        let Node::Call { function, target, arguments } = self.checked.ast.node(id) else {
            return Range::NONE;
        };
        if let ("dyn", [argument]) = (&**function, arguments.as_slice()) {
            let cost = self.cost(*argument).plus(Range::ONE);
            self.sizes[id as usize] = self.size(*argument);
            self.entries[id as usize] = self.entries(*argument);
            return cost;
        }
        let mut costs = Vec::with_capacity(arguments.len());
        let mut operands = Vec::with_capacity(arguments.len());
        for argument in arguments {
            costs.push(self.cost(*argument));
            operands.push(self.operand(*argument));
        }
        let Reference::Function(name, overloads) = self.checked.reference(id) else { return Range::NONE };
        let mut cost = Range::NONE;
        let target = target.map(|target| {
            cost = self.cost(target);
            self.operand(target)
        });
        let mut called = Range::EMPTY;
        let mut size: Option<Range> = None;
        for overload in overloads {
            let estimate = self.overload(id, name, overload.id, target.as_ref(), &operands, &costs);
            called = called.or(estimate.cost);
            if let Some(result) = estimate.size {
                size = Some(size.map_or(result, |size| size.or(result)));
            }
            if matches!(overload.id, "index_list" | "index_map")
                && let Some(first) = arguments.first()
            {
                size = self.entries(*first).map(|entries| entries.value);
                self.paths[id as usize] = self.step(self.path(*first), Step::Element);
            }
            if size.is_none() {
                size = self.size(id);
            }
        }
        if size.is_some() {
            self.sizes[id as usize] = size;
        }
        cost.plus(called)
    }

    fn overload(
        &mut self,
        id: Id,
        function: &str,
        overload: &str,
        target: Option<&Operand<'s>>,
        operands: &[Operand<'s>],
        costs: &[Range],
    ) -> Estimate {
        let own = costs.iter().fold(Range::NONE, |sum, cost| sum.plus(*cost));
        if let Some(estimate) = calls::estimate(self, function, overload, target, operands) {
            return Estimate { cost: estimate.cost.plus(own), size: estimate.size };
        }
        match (overload, operands, costs) {
            ("logical_or" | "logical_and", _, [one, two]) => {
                Estimate { cost: Range { least: one.least, most: one.plus(*two).most }, size: None }
            }
            ("conditional", [_, truthy, falsy], [condition, one, two]) => {
                let entries = truthy
                    .id
                    .zip(falsy.id)
                    .and_then(|(one, two)| Some(self.entries(one)?.or(self.entries(two)?)));
                if entries.is_some() {
                    self.entries[id as usize] = entries;
                }
                let size = truthy.size.unwrap_or(Range::ANY).or(falsy.size.unwrap_or(Range::ANY));
                Estimate { cost: condition.plus(one.or(*two)), size: Some(size) }
            }
            ("add_string" | "add_bytes" | "add_list", [one, two], _) => {
                let entries =
                    one.id.zip(two.id).and_then(|(one, two)| Some(self.entries(one)?.or(self.entries(two)?)));
                if entries.is_some() {
                    self.entries[id as usize] = entries;
                }
                let size = one.size.unwrap_or(Range::ANY).plus(two.size.unwrap_or(Range::ANY));
                let cost = if overload == "add_list" { Range::ONE } else { size.scaled(super::LETTER) };
                Estimate { cost: cost.plus(own), size: Some(size) }
            }
            _ => {
                let estimate = calls::standard(overload, target, operands);
                Estimate { cost: estimate.cost.plus(own), size: estimate.size }
            }
        }
    }

    fn bind(&mut self, id: Id, fold: &Fold) -> Range {
        let mut cost = self.cost(fold.range).plus(self.cost(fold.init));
        self.push_accumulator(fold);
        cost = cost.plus(self.cost(fold.result));
        let (size, entries) = (self.size(fold.result), self.entries(fold.result));
        self.locals.pop();
        if size.is_some() {
            self.sizes[id as usize] = size;
        }
        if entries.is_some() {
            self.entries[id as usize] = entries;
        }
        cost
    }

    fn push_accumulator(&mut self, fold: &Fold) {
        let local = Local {
            name: fold.accumulator.to_string(),
            path: self.path(fold.init),
            size: self.size(fold.init),
            entries: self.entries(fold.init),
        };
        self.locals.push(local);
    }

    fn push_variable(&mut self, name: &str, range: Id, step: Step<'_>, size: Option<Range>) {
        let path = self.step(self.path(range), step);
        self.locals.push(Local { name: name.to_owned(), path, size, entries: None });
    }

    fn fold(&mut self, id: Id, fold: &Fold) -> Range {
        let mut cost = self.cost(fold.range).plus(self.cost(fold.init));
        self.push_accumulator(fold);
        let entries = self.entries(fold.range);
        let is_list = match entries {
            Some(entries) => entries.is_list,
            None => matches!(self.checked.type_of(fold.range), Type::List(_)),
        };
        let (key, value) = (entries.map(|entries| entries.key), entries.map(|entries| entries.value));
        match &fold.second {
            None if is_list => self.push_variable(&fold.variable, fold.range, Step::Element, value),
            None => self.push_variable(&fold.variable, fold.range, Step::Key, key),
            Some(second) => {
                let first = if is_list { Step::Unknown } else { Step::Key };
                self.push_variable(&fold.variable, fold.range, first, key);
                self.push_variable(second, fold.range, Step::Element, value);
            }
        }
        let each = self.cost(fold.condition).plus(self.cost(fold.step));
        let step_entries = self.entries(fold.step);
        self.locals.pop();
        if fold.second.is_some() {
            self.locals.pop();
        }
        cost = cost.plus(self.cost(fold.result));
        self.locals.pop();
        let count = self.size_or_any(fold.range);
        match self.checked.ast.node(fold.init) {
            Node::Literal(_) => self.sizes[id as usize] = self.size(fold.init),
            Node::List(_) | Node::Map(_) => {
                self.sizes[id as usize] = Some(count);
                if step_entries.is_some() {
                    self.entries[id as usize] = step_entries;
                }
            }
            _ => {}
        }
        cost.plus(count.times(each))
    }
}
