//! Comprehensions.

use super::{Evaluator, Slot};
use crate::{
    syntax::{
        UNUSED,
        ast::{Fold, Id},
    },
    value::{Fault, Key, List, Map, Outcome, Value, no_such_overload},
};

/// What a comprehension goes through.
enum Range<'a> {
    List(List<'a>),
    Map(Map<'a>, Vec<Key<'a>>),
}

impl<'a> Range<'a> {
    fn len(&self) -> usize {
        match self {
            Range::List(list) => list.len(),
            Range::Map(_, keys) => keys.len(),
        }
    }

    /// The values of one variable, or of two.
    fn at(&self, index: usize, two: bool) -> (Outcome<'a>, Option<Outcome<'a>>) {
        const GONE: Fault = Fault::NoSuchOverload;
        match self {
            Range::List(list) => {
                let element = list.get(index).unwrap_or(Err(GONE));
                if two { (Ok(Value::Int(index as i64)), Some(element)) } else { (element, None) }
            }
            Range::Map(map, keys) => {
                let key = &keys[index];
                let value = two.then(|| map.get(key).unwrap_or(Err(GONE)));
                (Ok(key.value()), value)
            }
        }
    }
}

impl<'a> Evaluator<'_, 'a> {
    pub(super) fn fold(&mut self, fold: &Fold) -> Outcome<'a> {
        let outer = self.scopes.len();
        let result = if &*fold.variable == UNUSED { self.bind(fold) } else { self.go_through(fold) };
        self.scopes.truncate(outer);
        result
    }

    /// A name for a value, which is evaluated when it is asked for.
    fn bind(&mut self, fold: &Fold) -> Outcome<'a> {
        self.scopes.push((fold.accumulator.clone(), Slot::Bound(fold.init)));
        self.evaluate(fold.result)
    }

    fn go_through(&mut self, fold: &Fold) -> Outcome<'a> {
        let range = match self.evaluate(fold.range)? {
            Value::List(list) => Range::List(list),
            Value::Map(map) => {
                let keys = map.keys();
                Range::Map(map, keys)
            }
            _ => return no_such_overload(),
        };
        let init = self.evaluate(fold.init);
        let slot = self.scopes.len();
        self.scopes.push((fold.accumulator.clone(), Slot::Value(init)));
        let always = matches!(self.program.constant(fold.condition), Some(Value::Bool(true)));
        for index in 0..range.len() {
            let (first, second) = range.at(index, fold.second.is_some());
            self.scopes.push((fold.variable.clone(), Slot::Value(first)));
            if let (Some(name), Some(second)) = (&fold.second, second) {
                self.scopes.push((name.clone(), Slot::Value(second)));
            }
            if !always && self.is_false(fold.condition)? {
                self.scopes.truncate(slot + 1);
                break;
            }
            let step = self.evaluate(fold.step);
            self.scopes.truncate(slot + 1);
            match step {
                // No later step can mend what is wrong, where all of them are taken.
                Err(error) if always || error == Fault::CostExceeded => return Err(error),
                step => self.scopes[slot].1 = Slot::Value(step),
            }
        }
        self.evaluate(fold.result)
    }

    fn is_false(&mut self, condition: Id) -> Result<bool, Fault> {
        match self.evaluate(condition) {
            Ok(Value::Bool(value)) => Ok(!value),
            Err(Fault::CostExceeded) => Err(Fault::CostExceeded),
            _ => Ok(false),
        }
    }
}
