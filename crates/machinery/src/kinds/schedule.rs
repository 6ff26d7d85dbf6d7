//! Priorities of pods, and leases.

use serde_json::Value;

use super::{field::Field, fill::default_text};
use crate::{FieldErrors, names, object};

/// The highest priority that is not the system's own.
const HIGHEST: i64 = 1_000_000_000;
const SYSTEM: &[(&str, i64)] =
    &[("system-cluster-critical", 2 * HIGHEST), ("system-node-critical", 2 * HIGHEST + 1000)];
const PRIORITIES: &[&str] = &["Never", "PreemptLowerPriority"];

pub(super) fn default_priority_class(class: &mut Value) {
    default_text(class, "preemptionPolicy", "PreemptLowerPriority");
}

pub(super) fn validate_priority_class(class: &Value, errors: &mut FieldErrors) {
    let root = Field::root(class);
    let (name, value) = (object::name(class), root.get("value").number().unwrap_or(0));
    if name.starts_with("system-") {
        let known = SYSTEM.iter().find(|(system, _)| *system == name);
        let why = match known {
            None => Some(format!("{name:?} is not a known system priority class")),
            Some((_, number)) if *number != value => {
                Some(format!("value of system priority class {name:?} must be {number}"))
            }
            Some(_) if root.get("globalDefault").is_true() => {
                Some(format!("globalDefault of system priority class {name:?} must be false"))
            }
            Some(_) => None,
        };
        if let Some(why) = why {
            errors.forbidden(
                "metadata.name",
                format!("priority class names with 'system-' prefix are reserved for system use only. error: {why}"),
            );
        }
    } else if value > HIGHEST {
        errors.forbidden("value", format!("maximum allowed value of a user defined priority is {HIGHEST}"));
    }
    root.get("preemptionPolicy").one_of(PRIORITIES, errors);
}

pub(super) fn validate_priority_class_update(class: &Value, old: &Value, errors: &mut FieldErrors) {
    let number = |class: &Value| class["value"].as_i64().unwrap_or(0);
    if number(class) != number(old) {
        errors.forbidden("value", "may not be changed in an update.");
    }
    let (new, old) = (Field::root(class), Field::root(old));
    new.get("preemptionPolicy").unchanged(&old.get("preemptionPolicy"), errors);
}

pub(super) fn validate_lease(lease: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(lease).get("spec");
    let seconds = spec.get("leaseDurationSeconds");
    if seconds.number().is_some_and(|seconds| seconds <= 0) {
        seconds.invalid("must be greater than 0", errors);
    }
    spec.get("leaseTransitions").not_negative(errors);
    let (strategy, preferred) = (spec.get("strategy"), spec.get("preferredHolder"));
    if strategy.is_set() {
        strategy.ruled(names::qualified, errors);
    }
    if !preferred.is_empty() && strategy.is_empty() {
        preferred.forbidden("may only be specified if `strategy` is defined", errors);
    }
}
