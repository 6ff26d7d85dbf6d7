//! What pods and containers ask for and may use.

use serde_json::{Value, json};

use crate::{FieldErrors, kinds::field::Field, names, object, quantity::Quantity};

/// Requests what is limited and not requested.
pub(super) fn requests_from_limits(part: &mut Value) {
    let Some(limits) = object::at(part, &["resources", "limits"]).as_object().cloned() else { return };
    let requests = object::child(&mut part["resources"], "requests");
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
    if requests.is_empty() {
        object::remove(&mut part["resources"], "requests");
    }
}

fn is_standard(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

/// Whether what is requested is all that can be used.
fn is_fixed(name: &str) -> bool {
    name.contains('/') || name.starts_with("hugepages-")
}

/// Checks limits and requests of a container.
pub(in crate::kinds) fn of_container(resources: &Field<'_>, claims: &[&str], errors: &mut FieldErrors) {
    amounts(resources, "must be a standard resource for containers", is_standard, errors);
    let list = resources.get("claims");
    for claim in list.items() {
        let name = claim.get("name");
        name.needed(errors);
        if !name.is_empty() && !claims.contains(&name.text()) {
            name.not_found(errors);
        }
    }
    let mut seen: Vec<&Value> = Vec::new();
    for claim in list.items() {
        if seen.contains(&claim.value()) {
            claim.duplicate(errors);
        }
        seen.push(claim.value());
    }
}

fn amounts(resources: &Field<'_>, standard: &str, known: fn(&str) -> bool, errors: &mut FieldErrors) {
    let (limits, requests) = (resources.get("limits"), resources.get("requests"));
    for list in [&limits, &requests] {
        for (name, amount) in list.entries() {
            for wrong in names::qualified(name) {
                errors.invalid(amount.path(), name, wrong);
            }
            if !name.contains('/') && !known(name) {
                errors.invalid(amount.path(), name, standard);
            }
            if amount.quantity().is_none() {
                amount.invalid(crate::quantity::NotAQuantity.to_string(), errors);
            }
            amount.quantity_not_negative(errors);
            if is_fixed(name) && amount.quantity().is_some_and(|amount| amount.millis() % 1000 != 0) {
                amount.invalid("must be an integer", errors);
            }
        }
    }
    for (name, request) in requests.entries() {
        let Some(wanted) = request.quantity() else { continue };
        let limit = limits.get(name);
        match limit.quantity() {
            Some(limit) if is_fixed(name) && wanted != limit => {
                request.invalid(format!("must be equal to {name} limit of {limit}"), errors);
            }
            Some(limit) if wanted > limit => {
                request.invalid(format!("must be less than or equal to {name} limit of {limit}"), errors);
            }
            Some(_) => {}
            None => {
                if is_fixed(name) {
                    errors.required(
                        format!("{}[{name}]", limits.path()),
                        "Limit must be set for non overcommitable resources",
                    );
                }
            }
        }
    }
}

/// Checks what a pod as a whole asks for: at least what its containers ask for together.
pub(super) fn of_pod(spec: &Field<'_>, errors: &mut FieldErrors) {
    let resources = spec.get("resources");
    if !resources.is_set() {
        return;
    }
    let known = |name: &str| matches!(name, "cpu" | "memory") || name.starts_with("hugepages-");
    for list in ["limits", "requests"] {
        for (name, amount) in resources.get(list).entries() {
            if name.contains('/') || name == "ephemeral-storage" {
                amount.unsupported_name(name, &["cpu", "hugepages-", "memory"], errors);
            }
        }
    }
    amounts(&resources, "must be a standard resource for pods", known, errors);
    if !resources.get("claims").is_empty() {
        resources.get("claims").forbidden("claims may not be set for Resources at pod-level", errors);
    }
    for (name, request) in resources.get("requests").entries() {
        let parts = spec
            .get("containers")
            .items()
            .filter_map(|one| one.at(&["resources", "requests", name]).quantity());
        let total = parts.fold(Quantity::from_units(0), |total, part| total.plus(part));
        if request.quantity().is_some_and(|request| request < total) {
            request.invalid(
                format!("must be greater than or equal to aggregate container requests of {total}"),
                errors,
            );
        }
    }
    for (name, limit) in resources.get("limits").entries() {
        let Some(most) = limit.quantity() else { continue };
        for one in spec.get("containers").items() {
            let own = one.at(&["resources", "limits"]);
            let amount = Field::new(own.get(name).value(), format!("{}[{name}]", own.path()));
            if amount.quantity().is_some_and(|amount| amount > most) {
                amount.invalid(format!("must be less than or equal to pod limits of {most}"), errors);
            }
        }
    }
}

/// The quality of service that a pod's requests and limits mean.
pub(in crate::kinds) fn quality(pod: &Value) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    let spec = &pod["spec"];
    let mut parts: Vec<&Value> = Vec::new();
    if spec["resources"].is_object() {
        parts.push(spec);
    } else {
        for field in ["containers", "initContainers"] {
            parts.extend(spec[field].as_array().into_iter().flatten());
        }
    }
    for part in parts {
        let resources = &part["resources"];
        for resource in ["cpu", "memory"] {
            let set = |side: &str| {
                let value = &resources[side][resource];
                (!value.is_null() && *value != json!("0") && *value != 0).then(|| value.clone())
            };
            let (limit, request) = (set("limits"), set("requests"));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
