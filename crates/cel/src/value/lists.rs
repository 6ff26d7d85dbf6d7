//! Lists: those of an object, read as they are looked at, and those that an expression made.

use std::sync::Arc;

use serde_json::Value as Json;

use super::{Fault, Outcome, Value, Work, equal};
use crate::schema::{Declared, ListStyle};

/// A list.
#[derive(Debug, Clone)]
pub enum List<'a> {
    /// Part of an object, with the declaration of the list.
    Json(&'a [Json], Option<&'a Declared>),
    /// Made by an expression.
    Owned(Arc<Vec<Value<'a>>>),
    /// Made of a set or a map list, whose rules go with it.
    Keyed(Arc<Vec<Value<'a>>>, &'a Declared),
}

impl<'a> List<'a> {
    /// How many elements there are.
    pub fn len(&self) -> usize {
        match self {
            List::Json(elements, _) => elements.len(),
            List::Owned(elements) | List::Keyed(elements, _) => elements.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One element, if there is one at this index.
    pub fn get(&self, index: usize) -> Option<Result<Value<'a>, Fault>> {
        match self {
            List::Json(elements, declared) => {
                let item = declared.and_then(Declared::item);
                elements.get(index).map(|element| Value::read(element, item))
            }
            List::Owned(elements) | List::Keyed(elements, _) => elements.get(index).cloned().map(Ok),
        }
    }

    /// The elements, one after the other.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, Fault>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// How elements are told apart, where that is not by their place.
    pub(crate) fn style(&self) -> &'a ListStyle {
        match self {
            List::Json(_, Some(declared)) | List::Keyed(_, declared) => declared.list_style(),
            _ => &ListStyle::Atomic,
        }
    }

    fn declared(&self) -> Option<&'a Declared> {
        match self {
            List::Json(_, declared) => *declared,
            List::Keyed(_, declared) => Some(declared),
            List::Owned(_) => None,
        }
    }

    /// `self + other`: a union of sets, a merge of map lists by their keys, or one after the other.
    pub(crate) fn add(&self, other: &List<'a>, work: &mut Work) -> Outcome<'a> {
        work.spend(self.len() + other.len())?;
        let mut elements: Vec<Value<'a>> = self.iter().collect::<Result<_, _>>()?;
        match self.style() {
            ListStyle::Atomic => {
                elements.extend(other.iter().collect::<Result<Vec<_>, _>>()?);
                return Ok(Value::list(elements));
            }
            style => {
                for element in other.iter() {
                    let element = element?;
                    match find(style, &elements, &element, work)? {
                        Some(index) if matches!(style, ListStyle::Map(_)) => elements[index] = element,
                        Some(_) => {}
                        None => elements.push(element),
                    }
                }
            }
        }
        let elements = Arc::new(elements);
        Ok(Value::List(match self.declared() {
            Some(declared) => List::Keyed(elements, declared),
            None => List::Owned(elements),
        }))
    }

    pub(crate) fn equals(&self, other: &List<'a>, work: &mut Work) -> Result<bool, Fault> {
        if self.len() != other.len() {
            return Ok(false);
        }
        let style = self.style();
        if matches!(style, ListStyle::Atomic) {
            for (one, two) in self.iter().zip(other.iter()) {
                if !equal(&one?, &two?, work)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        let elements: Vec<Value<'a>> = self.iter().collect::<Result<_, _>>()?;
        let mut seen = vec![false; elements.len()];
        for element in other.iter() {
            let element = element?;
            match find(style, &elements, &element, work)? {
                Some(index) if equal(&elements[index], &element, work)? => seen[index] = true,
                _ => return Ok(false),
            }
        }
        Ok(seen.into_iter().all(|seen| seen))
    }

    pub(crate) fn contains(&self, wanted: &Value<'a>, work: &mut Work) -> Result<bool, Fault> {
        for element in self.iter() {
            if equal(&element?, wanted, work)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Where the element with the same key, or the same value in a set, is.
fn find<'a>(
    style: &ListStyle,
    elements: &[Value<'a>],
    wanted: &Value<'a>,
    work: &mut Work,
) -> Result<Option<usize>, Fault> {
    for (index, element) in elements.iter().enumerate() {
        let same = match style {
            ListStyle::Map(keys) => same_keys(keys, element, wanted, work)?,
            _ => equal(element, wanted, work)?,
        };
        if same {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

fn same_keys<'a>(keys: &[String], one: &Value<'a>, two: &Value<'a>, work: &mut Work) -> Result<bool, Fault> {
    let (Value::Map(one), Value::Map(two)) = (one, two) else { return Ok(false) };
    for key in keys {
        let same = match (one.field(key).transpose()?, two.field(key).transpose()?) {
            (None, None) => true,
            (Some(one), Some(two)) => equal(&one, &two, work)?,
            _ => false,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}
