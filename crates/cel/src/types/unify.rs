//! Which type fits where, and what that says about the types that are still open.
//!
//! Bindings are kept with a log, so that an overload that does not fit leaves no trace and costs no copy.

use super::Type;

/// What is known of the types that are open.
#[derive(Debug, Default)]
pub(crate) struct Bindings {
    bound: Vec<Option<Type>>,
    log: Vec<(u32, Option<Type>)>,
}

/// How deep types are looked into: beyond it, they count as fitting nowhere.
const DEEPEST: usize = 1_000;

impl Bindings {
    /// A type that nothing is known of.
    pub(crate) fn fresh(&mut self) -> Type {
        self.bound.push(None);
        Type::Parameter((self.bound.len() - 1) as u32)
    }

    /// So many of them, one after the other; the number of the first.
    pub(crate) fn fresh_block(&mut self, count: u32) -> u32 {
        let first = self.bound.len() as u32;
        self.bound.extend((0..count).map(|_| None));
        first
    }

    fn find(&self, of: &Type) -> Option<&Type> {
        match of {
            Type::Parameter(number) => self.bound.get(*number as usize)?.as_ref(),
            _ => None,
        }
    }

    fn bind(&mut self, parameter: &Type, to: Type) {
        if let Type::Parameter(number) = parameter {
            let before = self.bound[*number as usize].replace(to);
            self.log.push((*number, before));
        }
    }

    /// Whether all of `actual` fit into `wanted`. If not, nothing is bound.
    pub(crate) fn assign_all(&mut self, actual: &[Type], wanted: &[Type]) -> bool {
        let mark = self.log.len();
        let fits = actual.len() == wanted.len()
            && actual.iter().zip(wanted).all(|(actual, wanted)| self.fits(actual, wanted, DEEPEST));
        if !fits {
            while self.log.len() > mark {
                if let Some((number, before)) = self.log.pop() {
                    self.bound[number as usize] = before;
                }
            }
        }
        fits
    }

    /// Whether one type fits into another.
    pub(crate) fn assign(&mut self, one: &Type, two: &Type) -> bool {
        self.assign_all(std::slice::from_ref(one), std::slice::from_ref(two))
    }

    fn fits(&mut self, one: &Type, two: &Type, depth: usize) -> bool {
        if depth == 0 {
            return false;
        }
        if matches!(two, Type::Parameter(_)) {
            let (valid, bound) = self.substitutes(one, two, depth);
            if valid {
                return true;
            }
            if bound {
                return false;
            }
        }
        if matches!(one, Type::Parameter(_)) {
            return self.substitutes(two, one, depth).0;
        }
        if one.is_dyn_or_error() || two.is_dyn_or_error() {
            return true;
        }
        match (one, two) {
            (Type::Null, other) | (other, Type::Null) => is_nullable(other),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(one), Type::List(two)) | (Type::Optional(one), Type::Optional(two)) => {
                self.fits(one, two, depth - 1)
            }
            (Type::Map(one), Type::Map(two)) => {
                self.fits(&one.0, &two.0, depth - 1) && self.fits(&one.1, &two.1, depth - 1)
            }
            _ => one == two,
        }
    }

    /// Whether the open type `open` can be `one`, and whether something was known of it before.
    fn substitutes(&mut self, one: &Type, open: &Type, depth: usize) -> (bool, bool) {
        if one == open {
            return (true, true);
        }
        if let Some(known) = self.find(open).cloned() {
            if *one == known {
                return (true, true);
            }
            if self.fits(one, &known, depth - 1) {
                let general = most_general(one, &known).clone();
                if !self.occurs(open, &general, depth) {
                    self.bind(open, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.occurs(open, one, depth) {
            return (false, false);
        }
        self.bind(open, one.clone());
        (true, false)
    }

    /// Whether an open type is part of another, or that other itself.
    fn occurs(&self, open: &Type, within: &Type, depth: usize) -> bool {
        if depth == 0 || open == within {
            return true;
        }
        match self.find(within) {
            Some(known) => self.occurs(open, known, depth - 1),
            None => within.parameters().into_iter().any(|part| self.occurs(open, part, depth - 1)),
        }
    }

    /// The type with everything that is known put in. What is still open becomes dyn, if `close` says so.
    pub(crate) fn resolve(&self, of: &Type, close: bool) -> Type {
        let mut limit = LARGEST;
        self.substitute(of, close, &mut limit)
    }

    fn substitute(&self, of: &Type, close: bool, limit: &mut usize) -> Type {
        if *limit == 0 {
            return Type::Dyn;
        }
        *limit -= 1;
        if let Some(known) = self.find(of) {
            return self.substitute(known, close, limit);
        }
        match of {
            Type::Parameter(_) if close => Type::Dyn,
            Type::List(of) => Type::list(self.substitute(of, close, limit)),
            Type::Optional(of) => Type::optional(self.substitute(of, close, limit)),
            Type::Type(Some(of)) => Type::Type(Some(std::sync::Arc::new(self.substitute(of, close, limit)))),
            Type::Map(of) => {
                let key = self.substitute(&of.0, close, limit);
                Type::map(key, self.substitute(&of.1, close, limit))
            }
            of => of.clone(),
        }
    }
}

/// The most parts of a type. Expressions of people have a dozen; what has more is made to be large.
pub(crate) const LARGEST: usize = 2_000;

/// A type of a signature, whose letters stand for the open types from `first` on.
pub(crate) fn instantiate(of: &Type, first: u32) -> Type {
    match of {
        Type::Parameter(number) => Type::Parameter(number + first),
        Type::List(of) => Type::list(instantiate(of, first)),
        Type::Optional(of) => Type::optional(instantiate(of, first)),
        Type::Type(Some(of)) => Type::Type(Some(std::sync::Arc::new(instantiate(of, first)))),
        Type::Map(of) => Type::map(instantiate(&of.0, first), instantiate(&of.1, first)),
        of => of.clone(),
    }
}

/// What null may be assigned to.
fn is_nullable(of: &Type) -> bool {
    matches!(
        of,
        Type::Null
            | Type::Object(_)
            | Type::Opaque(_)
            | Type::Optional(_)
            | Type::Duration
            | Type::Timestamp
            | Type::Dyn
    )
}

/// The more general of two types that fit.
pub(crate) fn most_general<'a>(one: &'a Type, two: &'a Type) -> &'a Type {
    if is_as_general(one, two) { one } else { two }
}

fn is_as_general(one: &Type, two: &Type) -> bool {
    match (one, two) {
        (Type::Dyn | Type::Parameter(_), _) => true,
        (_, Type::Dyn | Type::Parameter(_)) => false,
        (Type::List(one), Type::List(two)) | (Type::Optional(one), Type::Optional(two)) => {
            is_as_general(one, two)
        }
        (Type::Map(one), Type::Map(two)) => is_as_general(&one.0, &two.0) && is_as_general(&one.1, &two.1),
        (Type::Type(_), Type::Type(_)) => true,
        (one, two) => one == two,
    }
}
