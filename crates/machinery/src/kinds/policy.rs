//! PodDisruptionBudgets.

use serde_json::Value;

use super::{Subresource, field::Field};
use crate::{FieldErrors, names};

pub(super) fn validate(budget: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(budget).get("spec");
    let (least, most) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
    if least.is_set() && most.is_set() {
        spec.invalid("minAvailable and maxUnavailable cannot be both set", errors);
    }
    for share in [least, most] {
        share.share(errors);
        share.at_most_whole(errors);
    }
    spec.get("selector").selector(errors);
    spec.get("unhealthyPodEvictionPolicy").one_of(&["AlwaysAllow", "IfHealthyBudget"], errors);
}

pub(super) fn validate_part(part: Subresource, budget: &Value, _old: &Value, errors: &mut FieldErrors) {
    if part != Subresource::Status {
        return;
    }
    let status = Field::root(budget).get("status");
    for condition in status.get("conditions").items() {
        condition.get("type").needs_name(names::qualified, errors);
        condition.get("status").needs_one_of(&["False", "True", "Unknown"], errors);
        condition.get("observedGeneration").not_negative(errors);
        condition.get("lastTransitionTime").needed(errors);
        condition.get("reason").needed(errors);
    }
    status.none_negative(&["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"], errors);
}
