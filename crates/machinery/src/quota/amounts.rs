//! Amounts of resources by name, and what is done with them.

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value};

use crate::quantity::Quantity;

/// So much of each resource. What is not named is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amounts(BTreeMap<String, Quantity>);

impl Amounts {
    /// Reads a list of an object, as `status.hard`; what is no quantity is left out.
    pub fn read(list: &Value) -> Amounts {
        let entries = list.as_object().into_iter().flatten();
        Amounts(entries.filter_map(|(name, amount)| Some((name.clone(), quantity(amount)?))).collect())
    }

    /// The list as objects have it.
    pub fn to_value(&self) -> Value {
        let fields: Map<String, Value> =
            self.0.iter().map(|(name, amount)| (name.clone(), Value::String(amount.to_string()))).collect();
        Value::Object(fields)
    }

    pub(super) fn of_one(name: &str) -> Amounts {
        let mut amounts = Amounts::default();
        amounts.count(name, 1);
        amounts
    }

    /// Sets a resource to a whole number.
    pub(super) fn count(&mut self, name: &str, number: i64) {
        self.set(name, Quantity::from_units(number));
    }

    /// Sets a resource.
    pub fn set(&mut self, name: &str, amount: Quantity) {
        self.0.insert(name.to_owned(), amount);
    }

    /// How much of a resource, where it is named.
    pub fn get(&self, name: &str) -> Option<Quantity> {
        self.0.get(name).copied()
    }

    /// The resources.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The resources by name, and how much of each.
    pub fn entries(&self) -> impl Iterator<Item = (&str, Quantity)> {
        self.0.iter().map(|(name, amount)| (name.as_str(), *amount))
    }

    /// Whether none is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Both together.
    pub fn add(&mut self, other: &Amounts) {
        for (name, amount) in &other.0 {
            let sum = self.0.get(name).map_or(*amount, |before| before.plus(*amount));
            self.0.insert(name.clone(), sum);
        }
    }

    /// This without the other, which may leave less than nothing.
    pub fn subtract(&mut self, other: &Amounts) {
        for (name, amount) in &other.0 {
            let before = self.0.get(name).copied().unwrap_or_else(|| Quantity::from_units(0));
            self.0.insert(name.clone(), before.minus(*amount));
        }
    }

    /// The larger of both, each resource for itself.
    pub(super) fn raise(&mut self, other: &Amounts) {
        for (name, amount) in &other.0 {
            let larger = self.0.get(name).is_none_or(|before| before < amount);
            if larger {
                self.0.insert(name.clone(), *amount);
            }
        }
    }

    /// Only some of the resources.
    #[must_use]
    pub fn only(&self, wanted: impl Fn(&str) -> bool) -> Amounts {
        let kept = self.0.iter().filter(|(name, _)| wanted(name));
        Amounts(kept.map(|(name, amount)| (name.clone(), *amount)).collect())
    }

    /// Without those of which there is none.
    #[must_use]
    pub fn without_zeros(self) -> Amounts {
        let zero = Quantity::from_units(0);
        Amounts(self.0.into_iter().filter(|(_, amount)| *amount != zero).collect())
    }

    /// The resources of which there is less than nothing.
    pub fn negative(&self) -> Vec<&str> {
        self.0.iter().filter(|(_, amount)| amount.is_negative()).map(|(name, _)| name.as_str()).collect()
    }

    /// The resources of which there is more than `limits` has, where that names them.
    pub fn beyond(&self, limits: &Amounts) -> Vec<String> {
        let beyond = |name: &str, amount: &Quantity| limits.0.get(name).is_some_and(|limit| limit < amount);
        self.0.iter().filter(|(name, amount)| beyond(name, amount)).map(|(name, _)| name.clone()).collect()
    }
}

/// Reads a quantity, which may be written as a number.
fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

impl fmt::Display for Amounts {
    /// "cpu=1,memory=2Gi".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, amount)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{name}={amount}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn amounts_are_added_and_compared_by_name() {
        let mut used = Amounts::read(&json!({ "cpu": "500m", "pods": 2, "bad": "x" }));
        assert_eq!(used.to_string(), "cpu=500m,pods=2");
        let more = Amounts::read(&json!({ "cpu": "600m", "memory": "1Gi" }));
        used.add(&more);
        assert_eq!(used.to_value(), json!({ "cpu": "1100m", "memory": "1Gi", "pods": "2" }));
        let hard = Amounts::read(&json!({ "cpu": "1", "pods": "2" }));
        assert_eq!(used.beyond(&hard), ["cpu"]);
        used.subtract(&Amounts::read(&json!({ "cpu": "1100m", "pods": "3" })));
        assert_eq!(used.negative(), ["pods"]);
        assert_eq!(used.without_zeros().to_string(), "memory=1Gi,pods=-1");
    }

    proptest! {
        #[test]
        fn what_is_added_and_taken_away_changes_nothing(
            a in prop::collection::btree_map("[a-c]", 0_i64..1000, 0..4),
            b in prop::collection::btree_map("[a-c]", 0_i64..1000, 0..4),
        ) {
            let of = |map: &BTreeMap<String, i64>| {
                let mut amounts = Amounts::default();
                map.iter().for_each(|(name, number)| amounts.count(name, *number));
                amounts
            };
            let (a, b) = (of(&a), of(&b));
            let mut both = a.clone();
            both.add(&b);
            both.subtract(&b);
            prop_assert_eq!(both.without_zeros(), a.without_zeros());
        }
    }
}
