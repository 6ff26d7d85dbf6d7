//! The type checker: gives every node a type and every name a meaning, or says what is wrong.
//!
//! It follows cel-go's, message by message. It evaluates nothing.

mod validate;

use std::sync::Arc;

use crate::{
    environment::Environment,
    functions::Overload,
    source::{Issue, Issues, Offset, Source},
    syntax::{
        ast::{Ast, Entry, Field, Fold, Id, Literal, Node},
        operator,
    },
    types::{
        ObjectType, Type,
        unify::{Bindings, LARGEST, instantiate, most_general},
    },
};
pub(crate) use validate::validate;

/// The most issues that are told.
const MOST_ISSUES: usize = 100;

/// What a node's name means.
#[derive(Debug, Clone, Default)]
pub(crate) enum Reference {
    #[default]
    None,
    /// A variable of the environment or of a comprehension.
    Variable,
    /// A type.
    Type(Type),
    /// A function, and the ways to call it that fit.
    Function(&'static str, Vec<&'static Overload>),
    /// An object to make.
    Object(Arc<ObjectType>),
}

/// A tree whose every node has a type.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) ast: Ast,
    pub(crate) types: Vec<Type>,
    pub(crate) references: Vec<Reference>,
}

impl Checked {
    pub(crate) fn result(&self) -> &Type {
        &self.types[self.ast.root as usize]
    }

    pub(crate) fn type_of(&self, id: Id) -> &Type {
        &self.types[id as usize]
    }

    pub(crate) fn reference(&self, id: Id) -> &Reference {
        &self.references[id as usize]
    }
}

/// Checks a tree.
pub(crate) fn check(ast: Ast, source: &Source, environment: &Environment) -> Result<Checked, Issues> {
    let count = ast.len();
    let root = ast.root;
    let mut checker = Checker {
        ast,
        source,
        environment,
        types: vec![Type::Error; count],
        references: vec![Reference::None; count],
        bindings: Bindings::default(),
        scopes: Vec::new(),
        issues: Vec::new(),
    };
    checker.check(root);
    let Checker { ast, mut types, references, bindings, mut issues, .. } = checker;
    if !issues.is_empty() {
        issues.sort_by_key(|issue| (issue.line, issue.column));
        issues.truncate(MOST_ISSUES);
        return Err(Issues(issues));
    }
    for of in &mut types {
        *of = bindings.resolve(of, true);
    }
    Ok(Checked { ast, types, references })
}

struct Checker<'e> {
    ast: Ast,
    source: &'e Source,
    environment: &'e Environment,
    types: Vec<Type>,
    references: Vec<Reference>,
    bindings: Bindings,
    /// The variables of comprehensions, the innermost last.
    scopes: Vec<(Arc<str>, Type)>,
    issues: Vec<Issue>,
}

impl Checker<'_> {
    fn report(&mut self, at: Offset, message: String) {
        if self.issues.len() <= MOST_ISSUES {
            self.issues.push(self.source.issue(at, message));
        }
    }

    fn report_at(&mut self, id: Id, message: String) {
        self.report(self.ast.at(id), message);
    }

    fn type_of(&self, id: Id) -> Type {
        self.types[id as usize].clone()
    }

    fn resolved(&self, id: Id) -> Type {
        self.bindings.resolve(&self.types[id as usize], false)
    }

    fn set(&mut self, id: Id, of: Type) {
        let of = if of.is_larger_than(&mut { LARGEST }) {
            self.report_at(id, "the type of the expression is too large".to_owned());
            Type::Error
        } else {
            of
        };
        self.types[id as usize] = of;
    }

    fn refer(&mut self, id: Id, reference: Reference) {
        self.references[id as usize] = reference;
    }

    fn undeclared(&mut self, id: Id, name: &str) {
        let container = &self.environment.container;
        let message = format!("undeclared reference to '{name}' (in container '{container}')");
        self.report_at(id, message);
        self.set(id, Type::Error);
    }

    fn mismatch(&mut self, id: Id, expected: &Type, found: &Type) {
        let message = format!("expected type '{expected}' but found '{found}'");
        self.report_at(id, message);
    }

    fn check(&mut self, id: Id) {
        match self.ast.node(id).clone() {
            Node::Literal(literal) => {
                self.set(
                    id,
                    match literal {
                        Literal::Null => Type::Null,
                        Literal::Bool(_) => Type::Bool,
                        Literal::Int(_) => Type::Int,
                        Literal::Uint(_) => Type::Uint,
                        Literal::Double(_) => Type::Double,
                        Literal::String(_) => Type::String,
                        Literal::Bytes(_) => Type::Bytes,
                    },
                );
            }
            Node::Ident(name) => {
                if !self.resolve(id, &name) {
                    self.undeclared(id, &name);
                }
            }
            Node::Select { operand, field, test } => self.check_select(id, operand, &field, test),
            Node::Call { function, target, arguments } => self.check_call(id, &function, target, &arguments),
            Node::List(elements) => self.check_list(id, &elements),
            Node::Map(entries) => self.check_map(id, &entries),
            Node::Struct { name, fields } => self.check_object(id, &name, &fields),
            Node::Fold(fold) => self.check_fold(id, &fold),
        }
    }

    /// Gives a name its meaning, if it has one, and puts the whole name into the tree.
    fn resolve(&mut self, id: Id, name: &str) -> bool {
        let local = self.scopes.iter().rev().find(|(local, _)| **local == *name).map(|(_, of)| of.clone());
        if let Some(of) = local {
            self.set(id, of);
            self.refer(id, Reference::Variable);
            return true;
        }
        // What hides a name hides what is below it too.
        let first = name.split('.').next().unwrap_or(name);
        if self.scopes.iter().any(|(local, _)| **local == *first) {
            return false;
        }
        for candidate in self.environment.candidates(name) {
            if let Some(of) = self.environment.variable(&candidate) {
                self.set(id, of.clone());
                self.refer(id, Reference::Variable);
                // The dot stays, so that no local variable hides the name.
                let dot = if name.starts_with('.') { "." } else { "" };
                self.ast.replace(id, Node::Ident(format!("{dot}{candidate}").into()));
                return true;
            }
            if let Some(of) = self.environment.type_named(&candidate) {
                self.set(id, Type::Type(Some(Arc::new(of.clone()))));
                self.refer(id, Reference::Type(of));
                self.ast.replace(id, Node::Ident(candidate.into()));
                return true;
            }
        }
        false
    }

    /// The name that a chain of selections is, if it is one.
    fn qualified(&self, id: Id) -> Option<String> {
        let mut parts = Vec::new();
        let mut at = id;
        loop {
            match self.ast.node(at) {
                Node::Select { operand, field, test: false } => {
                    parts.push(field.clone());
                    at = *operand;
                }
                Node::Ident(name) => {
                    parts.push(name.clone());
                    parts.reverse();
                    return Some(parts.join("."));
                }
                _ => return None,
            }
        }
    }

    fn check_select(&mut self, id: Id, operand: Id, field: &str, test: bool) {
        if !test
            && let Some(name) = self.qualified(id)
            && self.resolve(id, &name)
        {
            return;
        }
        let found = self.select(id, operand, field, false);
        self.set(id, if test { Type::Bool } else { self.bindings.resolve(&found, false) });
    }

    /// The type of a field.
    fn select(&mut self, id: Id, operand: Id, field: &str, optional: bool) -> Type {
        self.check(operand);
        let of = self.resolved(operand);
        let (target, was_optional) = of.unwrap_optional();
        let found = match target {
            Type::Map(of) => of.1.clone(),
            Type::Object(object) => match object.field(field) {
                Some(of) => of,
                None => {
                    self.report_at(id, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Parameter(_) => {
                self.bindings.assign(&Type::Dyn, target);
                Type::Dyn
            }
            target => {
                if !target.is_dyn_or_error() {
                    let message = format!("type '{target}' does not support field selection");
                    self.report_at(id, message);
                }
                Type::Dyn
            }
        };
        if was_optional || optional { Type::optional(found) } else { found }
    }

    fn check_call(&mut self, id: Id, function: &str, target: Option<Id>, arguments: &[Id]) {
        if let (operator::OPTIONAL_SELECT, None, [operand, field]) = (function, target, arguments)
            && let Node::Literal(Literal::String(name)) = self.ast.node(*field).clone()
        {
            let found = self.select(id, *operand, &name, true);
            self.set(*field, Type::String);
            self.set(id, self.bindings.resolve(&found, false));
            if let Some((name, overloads)) = self.environment.function(function) {
                self.refer(id, Reference::Function(name, overloads));
            }
            return;
        }
        for argument in arguments {
            self.check(*argument);
        }
        let Some(target) = target else {
            let found = self
                .environment
                .candidates(function)
                .into_iter()
                .find_map(|name| self.environment.function(&name));
            match found {
                Some((name, overloads)) => self.apply(id, name, &overloads, None, arguments),
                None => self.undeclared(id, function),
            }
            return;
        };
        // What looks like a method of a name can be a function whose name has dots.
        if let Some(prefix) = self.qualified(target) {
            let name = format!("{prefix}.{function}");
            let found = self
                .environment
                .candidates(&name)
                .into_iter()
                .find_map(|name| self.environment.function(&name));
            if let Some((name, overloads)) = found {
                let node = Node::Call { function: name.into(), target: None, arguments: arguments.to_vec() };
                self.ast.replace(id, node);
                self.apply(id, name, &overloads, None, arguments);
                return;
            }
        }
        self.check(target);
        match self.environment.function(function) {
            Some((name, overloads)) => self.apply(id, name, &overloads, Some(target), arguments),
            None => self.undeclared(id, function),
        }
    }

    /// Finds the overloads that fit, and with them the type of a call.
    fn apply(
        &mut self,
        id: Id,
        name: &'static str,
        overloads: &[&'static Overload],
        target: Option<Id>,
        arguments: &[Id],
    ) {
        let given: Vec<Type> =
            target.iter().chain(arguments).map(|argument| self.type_of(*argument)).collect();
        if matches!(name, operator::AND | operator::OR) {
            let mut wrong = false;
            for (argument, of) in arguments.iter().zip(&given) {
                if !self.bindings.assign(of, &Type::Bool) {
                    wrong = true;
                    let of = self.bindings.resolve(of, false);
                    self.mismatch(*argument, &Type::Bool, &of);
                }
            }
            self.set(id, if wrong { Type::Error } else { Type::Bool });
            self.refer(id, Reference::Function(name, overloads.to_vec()));
            return;
        }
        let mut fitting = Vec::new();
        let mut result: Option<Type> = None;
        for overload in overloads {
            let signature = &overload.signature;
            if signature.method != target.is_some() {
                continue;
            }
            let first = self.bindings.fresh_block(signature.open);
            let wanted: Vec<Type> = signature.parameters.iter().map(|of| instantiate(of, first)).collect();
            if !self.bindings.assign_all(&given, &wanted) {
                continue;
            }
            fitting.push(*overload);
            let found = self.bindings.resolve(&instantiate(&signature.result, first), false);
            result = Some(match result {
                None => found,
                Some(Type::Dyn) => Type::Dyn,
                Some(before) if before == found => before,
                Some(_) => Type::Dyn,
            });
        }
        match result {
            Some(of) => {
                self.set(id, of);
                self.refer(id, Reference::Function(name, fitting));
            }
            None => {
                let shown: Vec<String> =
                    given.iter().map(|of| self.bindings.resolve(of, true).to_string()).collect();
                let (on, with) = if target.is_some() {
                    (format!("{}.", shown[0]), &shown[1..])
                } else {
                    (String::new(), &shown[..])
                };
                let message =
                    format!("found no matching overload for '{name}' applied to '{on}({})'", with.join(", "));
                self.report_at(id, message);
                self.set(id, Type::Error);
            }
        }
    }

    /// The more general of two types, dyn where they do not fit.
    fn join(&mut self, before: Option<Type>, of: Type) -> Type {
        match before {
            None => of,
            Some(before) if self.bindings.assign(&before, &of) => most_general(&before, &of).clone(),
            Some(_) => Type::Dyn,
        }
    }

    /// The type of an element or a value that may be left out.
    fn unwrapped(&mut self, id: Id, optional: bool) -> Type {
        let of = self.type_of(id);
        if !optional {
            return of;
        }
        let (inner, was_optional) = of.unwrap_optional();
        if !was_optional && !matches!(inner, Type::Dyn) {
            self.mismatch(id, &Type::optional(inner.clone()), inner);
        }
        inner.clone()
    }

    fn check_list(&mut self, id: Id, elements: &[(Id, bool)]) {
        let mut joined = None;
        for &(element, optional) in elements {
            self.check(element);
            let of = self.unwrapped(element, optional);
            joined = Some(self.join(joined, of));
        }
        let of = joined.unwrap_or_else(|| self.bindings.fresh());
        self.set(id, Type::list(of));
    }

    fn check_map(&mut self, id: Id, entries: &[Entry]) {
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            self.check(entry.key);
            let of = self.type_of(entry.key);
            keys = Some(self.join(keys, of));
            self.check(entry.value);
            let of = self.unwrapped(entry.value, entry.optional);
            values = Some(self.join(values, of));
        }
        let keys = keys.unwrap_or_else(|| self.bindings.fresh());
        let values = values.unwrap_or_else(|| self.bindings.fresh());
        self.set(id, Type::map(keys, values));
    }

    fn check_object(&mut self, id: Id, name: &str, fields: &[Field]) {
        let found =
            self.environment.candidates(name).into_iter().find_map(|name| self.environment.type_named(&name));
        let object = match found {
            Some(Type::Object(object)) => Some(object),
            Some(other) => {
                self.report_at(id, format!("'{other}' is not a message type"));
                None
            }
            None => {
                self.undeclared(id, name);
                return;
            }
        };
        self.set(id, object.clone().map_or(Type::Error, Type::Object));
        for field in fields {
            self.check(field.value);
            let Some(object) = &object else { continue };
            let Some(wanted) = object.field(&field.name) else {
                self.report(field.at, format!("undefined field '{}'", field.name));
                continue;
            };
            let given = self.unwrapped(field.value, field.optional);
            if !self.bindings.assign(&wanted, &given) {
                let given = self.bindings.resolve(&given, false);
                let message = format!(
                    "expected type of field '{}' is '{wanted}' but provided type is '{given}'",
                    field.name
                );
                self.report(field.at, message);
            }
        }
        if let Some(object) = object {
            self.refer(id, Reference::Object(object));
        }
    }

    fn check_fold(&mut self, id: Id, fold: &Fold) {
        self.check(fold.range);
        self.check(fold.init);
        let range = self.resolved(fold.range);
        let two = fold.second.is_some();
        let (first, second) = match &range {
            Type::List(of) if two => (Type::Int, (**of).clone()),
            Type::List(of) => ((**of).clone(), Type::Error),
            Type::Map(of) => (of.0.clone(), of.1.clone()),
            Type::Dyn | Type::Error | Type::Parameter(_) => {
                self.bindings.assign(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.report_at(fold.range, message);
                (Type::Error, Type::Error)
            }
        };
        let gathered = self.type_of(fold.init);
        let outer = self.scopes.len();
        self.scopes.push((fold.accumulator.clone(), gathered.clone()));
        self.scopes.push((fold.variable.clone(), first));
        if let Some(name) = &fold.second {
            self.scopes.push((name.clone(), second));
        }
        self.check(fold.condition);
        self.expect(fold.condition, &Type::Bool);
        self.check(fold.step);
        self.expect(fold.step, &gathered);
        self.scopes.truncate(outer + 1);
        self.check(fold.result);
        self.scopes.truncate(outer);
        let of = self.resolved(fold.result);
        self.set(id, of);
    }

    fn expect(&mut self, id: Id, wanted: &Type) {
        let of = self.type_of(id);
        if !self.bindings.assign(wanted, &of) {
            let (wanted, of) = (self.bindings.resolve(wanted, false), self.bindings.resolve(&of, false));
            self.mismatch(id, &wanted, &of);
        }
    }
}
