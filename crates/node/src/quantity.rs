//! Amounts of resources of lists, as numbers.

use std::collections::BTreeMap;

use dray_machinery::quantity::Quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// An amount; none when it is no quantity.
pub(crate) fn parse(text: &Text) -> Option<Quantity> {
    text.0.parse().ok()
}

/// A resource of a list in thousandths of its unit; none when it is not in it.
pub(crate) fn milli_of(list: Option<&BTreeMap<String, Text>>, name: &str) -> Option<i64> {
    Some(parse(list?.get(name)?)?.millis())
}

/// A resource of a list in whole units; none when it is not in it.
pub(crate) fn units_of(list: Option<&BTreeMap<String, Text>>, name: &str) -> Option<i64> {
    Some(parse(list?.get(name)?)?.units())
}
