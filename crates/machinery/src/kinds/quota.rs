//! Bounds on what a namespace, a pod, a container or a claim may use.

use serde_json::{Value, json};

use super::{
    Subresource,
    field::{Field, IMMUTABLE, quantity},
};
use crate::{FieldErrors, names, object};

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

/// What a quota may count beside resources of other groups.
const COUNTED: &[&str] = &[
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

/// What a best-effort pod uses: itself.
const BEST_EFFORT: &[&str] = &["pods"];
const COMPUTE: &[&str] = &[
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "pods",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

fn is_whole(name: &str) -> bool {
    COUNTED.contains(&name)
        && !name.ends_with("cpu")
        && !name.ends_with("memory")
        && !name.ends_with("storage")
        || name.starts_with("count/")
}

fn amounts(list: &Field<'_>, errors: &mut FieldErrors) {
    for (name, amount) in list.entries() {
        for wrong in names::qualified(name) {
            errors.invalid(amount.path(), name, wrong);
        }
        let known = name.contains('/')
            || COUNTED.contains(&name)
            || ["hugepages-", "requests.hugepages-"].iter().any(|prefix| name.starts_with(prefix));
        if !known {
            errors.invalid(amount.path(), name, "must be a standard resource for quota");
        }
        amount.quantity_not_negative(errors);
        if is_whole(name) && amount.quantity().is_some_and(|amount| amount.millis() % 1000 != 0) {
            amount.invalid("must be an integer", errors);
        }
    }
}

pub(super) fn validate_resource_quota(quota: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(quota).get("spec");
    amounts(&spec.get("hard"), errors);
    let scopes = spec.get("scopes");
    let hard: Vec<&str> = spec.get("hard").entries().map(|(name, _)| name).collect();
    for scope in scopes.texts() {
        let bound = match scope {
            "BestEffort" => BEST_EFFORT,
            "NotBestEffort" | "Terminating" | "NotTerminating" | "PriorityClass" => COMPUTE,
            _ if SCOPES.contains(&scope) => continue,
            _ => {
                errors.invalid(scopes.path(), json!(scopes.value()), "unsupported scope");
                continue;
            }
        };
        if hard.iter().any(|name| COUNTED.contains(name) && !bound.contains(name)) {
            errors.invalid(scopes.path(), json!(scopes.value()), "unsupported scope applied to resource");
        }
    }
    let all = scopes.texts();
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| all.contains(scope)) {
            errors.invalid(scopes.path(), json!(scopes.value()), "conflicting scopes");
        }
    }
    for expression in spec.at(&["scopeSelector", "matchExpressions"]).items() {
        let (name, operator, values) =
            (expression.get("scopeName"), expression.get("operator"), expression.get("values"));
        if !SCOPES.contains(&name.text()) {
            name.invalid("unsupported scope", errors);
        }
        if !matches!(name.text(), "PriorityClass" | "VolumeAttributesClass") && operator.text() != "Exists" {
            operator.invalid("must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, \
                 ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort \
                 or ResourceQuotaScopeCrossNamespacePodAffinity", errors);
        }
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                values.required(
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                    errors,
                );
            }
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    values.invalid(
                        "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
                        errors,
                    );
                }
            }
            _ => operator.invalid("not a valid selector operator", errors),
        }
    }
}

pub(super) fn validate_resource_quota_update(quota: &Value, old: &Value, errors: &mut FieldErrors) {
    let scopes = |quota: &Value| {
        let mut scopes: Vec<String> = object::at(quota, &["spec", "scopes"])
            .as_array()
            .into_iter()
            .flatten()
            .map(ToString::to_string)
            .collect();
        scopes.sort();
        scopes.dedup();
        scopes
    };
    if scopes(quota) != scopes(old) {
        errors.invalid("spec.scopes", quota["spec"]["scopes"].clone(), IMMUTABLE);
    }
}

pub(super) fn validate_resource_quota_part(
    part: Subresource,
    quota: &Value,
    _old: &Value,
    errors: &mut FieldErrors,
) {
    if part == Subresource::Status {
        let status = Field::root(quota).get("status");
        amounts(&status.get("hard"), errors);
        amounts(&status.get("used"), errors);
    }
}

/// What is left out follows from what is there: the default from the maximum, and the request from both.
pub(super) fn default_limit_range(range: &mut Value) {
    let Some(spec) = range.get_mut("spec") else { return };
    for item in object::items_mut(spec, "limits") {
        if item["type"] != "Container" {
            continue;
        }
        for (target, source) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")]
        {
            let from = item[source].as_object().cloned().unwrap_or_default();
            let into = object::child(item, target);
            for (name, amount) in from {
                into.entry(name).or_insert(amount);
            }
            if into.is_empty() {
                object::remove(item, target);
            }
        }
    }
}

pub(super) fn validate_limit_range(range: &Value, errors: &mut FieldErrors) {
    let mut seen = Vec::new();
    for item in Field::root(range).at(&["spec", "limits"]).items() {
        let kind = item.get("type");
        kind.ruled(names::qualified, errors);
        if seen.contains(&kind.text()) {
            kind.duplicate(errors);
        }
        seen.push(kind.text());
        let lists = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
        let mut keys: Vec<&str> = Vec::new();
        for list in lists {
            for (name, amount) in item.get(list).entries() {
                resource_name(name, kind.text(), &amount, errors);
                if !keys.contains(&name) {
                    keys.push(name);
                }
            }
        }
        match kind.text() {
            "Pod" => {
                for list in ["default", "defaultRequest"] {
                    if !item.get(list).is_empty() {
                        item.get(list).forbidden("may not be specified when `type` is 'Pod'", errors);
                    }
                }
            }
            "PersistentVolumeClaim" => {
                let bounded = ["min", "max"].iter().any(|list| item.get(list).get("storage").is_set());
                if !bounded {
                    errors.required(
                        format!("{}.limits", item.path()),
                        "either minimum or maximum storage value is required, but neither was provided",
                    );
                }
            }
            _ => {}
        }
        for key in keys {
            compare(&item, key, errors);
        }
    }
}

fn resource_name(name: &str, kind: &str, amount: &Field<'_>, errors: &mut FieldErrors) {
    for wrong in names::qualified(name) {
        errors.invalid(amount.path(), name, wrong);
    }
    let standard =
        matches!(name, "cpu" | "memory" | "ephemeral-storage" | "storage") || name.starts_with("hugepages-");
    if matches!(kind, "Pod" | "Container") && !name.contains('/') && (!standard || name == "storage") {
        errors.invalid(amount.path(), name, "must be a standard limit type or fully qualified");
    }
}

/// Which amount is wrong where one is above another, and what both are called.
type Order = (&'static str, (&'static str, &'static str), (&'static str, &'static str));

const ORDER: &[Order] = &[
    ("min", ("min", "min"), ("max", "max")),
    ("defaultRequest", ("min", "min"), ("defaultRequest", "default request")),
    ("defaultRequest", ("defaultRequest", "default request"), ("max", "max")),
    ("defaultRequest", ("defaultRequest", "default request"), ("default", "default limit")),
    ("default", ("min", "min"), ("default", "default")),
    ("default", ("default", "default"), ("max", "max")),
];

/// The amounts of one resource are in order: least, request, default, most.
fn compare(item: &Field<'_>, key: &str, errors: &mut FieldErrors) {
    let amount = |list: &str| quantity(&item.value()[list][key]);
    let shown = |list: &str| item.value()[list][key].clone();
    let text = |list: &str| shown(list).as_str().map_or_else(|| shown(list).to_string(), ToOwned::to_owned);
    for (at, (low, low_name), (high, high_name)) in ORDER {
        let (Some(less), Some(more)) = (amount(low), amount(high)) else { continue };
        if less > more {
            let detail =
                format!("{low_name} value {} is greater than {high_name} value {}", text(low), text(high));
            errors.invalid(format!("{}.{at}[{key}]", item.path()), shown(at), detail);
        }
    }
    let ratio = format!("{}.maxLimitRequestRatio[{key}]", item.path());
    let Some(most) = amount("maxLimitRequestRatio") else { return };
    if most.millis() < 1000 {
        errors.invalid(
            ratio,
            shown("maxLimitRequestRatio"),
            format!("ratio {} is less than 1", text("maxLimitRequestRatio")),
        );
        return;
    }
    if let (Some(low), Some(high)) = (amount("min"), amount("max"))
        && low.millis() > 0
        && i128::from(most.millis()) * i128::from(low.millis()) > i128::from(high.millis()) * 1000
    {
        let share = high.millis() as f64 / low.millis() as f64;
        errors.invalid(
            ratio,
            shown("maxLimitRequestRatio"),
            format!("ratio {} is greater than max/min = {share:.6}", text("maxLimitRequestRatio")),
        );
    }
}
