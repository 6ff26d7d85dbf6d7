//! Which requests come first: FlowSchemas and PriorityLevelConfigurations.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Subresource,
    field::Field,
    fill::{default_object, default_value},
};
use crate::{FieldErrors, names, object};

const LAST_PRECEDENCE: i64 = 10_000;
const MOST_QUEUES: i64 = 10_000_000;
const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
/// The bits of entropy that a hand of queues may take.
const MOST_BITS: f64 = 60.0;

pub(super) fn default_schema(schema: &mut Value) {
    if let Some(spec) = schema.get_mut("spec")
        && spec["matchingPrecedence"].as_i64().unwrap_or(0) == 0
    {
        object::remove(spec, "matchingPrecedence");
        default_value(spec, "matchingPrecedence", json!(1000));
    }
}

pub(super) fn default_level(level: &mut Value) {
    let Some(spec) = level.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    match object::text(spec, &["type"]) {
        "Exempt" => {
            let exempt = default_object(spec, "exempt");
            default_value(exempt, "nominalConcurrencyShares", json!(0));
            default_value(exempt, "lendablePercent", json!(0));
        }
        "Limited" if spec["limited"].is_object() => {
            let limited = &mut spec["limited"];
            default_value(limited, "nominalConcurrencyShares", json!(30));
            default_value(limited, "lendablePercent", json!(0));
            if let Some(queuing) =
                limited.get_mut("limitResponse").and_then(|response| response.get_mut("queuing"))
            {
                for (field, number) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
                    if queuing[field].as_i64().unwrap_or(0) == 0 {
                        object::remove(queuing, field);
                        default_value(queuing, field, json!(number));
                    }
                }
            }
        }
        _ => {}
    }
}

pub(super) fn validate_schema(schema: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(schema).get("spec");
    let precedence = spec.get("matchingPrecedence");
    match precedence.number().unwrap_or(0) {
        ..=0 => precedence.invalid("must be a positive value", errors),
        1 if object::name(schema) != "exempt" => {
            precedence.invalid("only the schema named 'exempt' may have matchingPrecedence 1", errors);
        }
        number if number > LAST_PRECEDENCE => {
            precedence.invalid(format!("must not be greater than {LAST_PRECEDENCE}"), errors);
        }
        _ => {}
    }
    let method = spec.get("distinguisherMethod");
    if method.is_set() && !matches!(method.get("type").text(), "ByNamespace" | "ByUser") {
        method.get("type").unsupported(&["ByNamespace", "ByUser"], errors);
    }
    let level = spec.at(&["priorityLevelConfiguration", "name"]);
    if level.is_empty() {
        level.required("must reference a priority level", errors);
    } else {
        level.ruled(names::subdomain, errors);
    }
    for rule in spec.get("rules").items() {
        let subjects = rule.get("subjects");
        if subjects.is_empty() {
            subjects.required("subjects must contain at least one value", errors);
        }
        for subject in subjects.items() {
            validate_subject(&subject, errors);
        }
        let (resources, others) = (rule.get("resourceRules"), rule.get("nonResourceRules"));
        if resources.is_empty() && others.is_empty() {
            rule.required("at least one of resourceRules and nonResourceRules has to be non-empty", errors);
        }
        for rule in resources.items() {
            validate_resource_rule(&rule, errors);
        }
        for rule in others.items() {
            validate_other_rule(&rule, errors);
        }
    }
    conditions(schema, errors);
}

fn validate_subject(subject: &Field<'_>, errors: &mut FieldErrors) {
    const PARTS: [(&str, &str); 3] =
        [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = subject.get("kind");
    if !PARTS.iter().any(|(name, _)| *name == kind.text()) {
        return kind.unsupported(&["Group", "ServiceAccount", "User"], errors);
    }
    for (name, part) in PARTS {
        let part_field = subject.get(part);
        if name != kind.text() {
            if part_field.is_set() {
                part_field
                    .forbidden(format!("{part} is forbidden when subject kind is not '{name}'"), errors);
            }
            continue;
        }
        if !part_field.is_set() {
            part_field.required(format!("{part} is required when subject kind is '{name}'"), errors);
            continue;
        }
        let named = part_field.get("name");
        named.needed(errors);
        if part == "serviceAccount" {
            if named.text() != "*" {
                named.named(names::subdomain, errors);
            }
            let namespace = part_field.get("namespace");
            if namespace.is_empty() {
                namespace.required("must specify namespace for service account", errors);
            } else {
                namespace.ruled(names::label, errors);
            }
        }
    }
}

/// A list that names all by "*" names nothing else.
fn all_or_some(list: &Field<'_>, missing: &str, what: &str, errors: &mut FieldErrors) -> bool {
    let all = list.texts().contains(&"*");
    if list.is_empty() {
        list.required(missing, errors);
    } else if all && list.count() > 1 {
        list.invalid(format!("if '*' is present, must not specify other {what}"), errors);
    }
    all
}

fn verbs(list: &Field<'_>, errors: &mut FieldErrors) {
    let all = all_or_some(list, "verbs must contain at least one value", "verbs", errors);
    if !all && list.texts().iter().any(|verb| !VERBS.contains(verb)) {
        list.unsupported(VERBS, errors);
    }
}

fn validate_resource_rule(rule: &Field<'_>, errors: &mut FieldErrors) {
    verbs(&rule.get("verbs"), errors);
    all_or_some(
        &rule.get("apiGroups"),
        "resource rules must supply at least one api group",
        "api groups",
        errors,
    );
    all_or_some(
        &rule.get("resources"),
        "resource rules must supply at least one resource",
        "resources",
        errors,
    );
    let namespaces = rule.get("namespaces");
    if namespaces.is_empty() {
        if !rule.get("clusterScope").is_true() {
            namespaces.required(
                "resource rules that are not cluster scoped must supply at least one namespace",
                errors,
            );
        }
    } else if !all_or_some(&namespaces, "", "namespaces", errors) {
        for namespace in namespaces.items() {
            for wrong in names::label(namespace.text()) {
                let wrong = format!("each member of this list must be '*' or a DNS-1123 label; {wrong}");
                namespace.invalid(wrong, errors);
            }
        }
    }
}

fn validate_other_rule(rule: &Field<'_>, errors: &mut FieldErrors) {
    verbs(&rule.get("verbs"), errors);
    let urls = rule.get("nonResourceURLs");
    let all =
        all_or_some(&urls, "nonResourceURLs must contain at least one value", "non-resource URLs", errors);
    if all {
        return;
    }
    for url in urls.items() {
        let text = url.text();
        let why = if text.is_empty() {
            "must not be empty"
        } else if text == "/" {
            continue;
        } else if !text.starts_with('/') {
            "must start with slash"
        } else if text.contains(' ') {
            "must not contain white-space"
        } else if text.contains("//") {
            "must not contain double slash"
        } else if text.trim_end_matches('*').contains('*') || text.ends_with("**") {
            "wildcard can only do suffix matching"
        } else if text.ends_with('*') && !text.ends_with("/*") {
            "wildcard can only follow a slash"
        } else {
            continue;
        };
        url.invalid(why, errors);
    }
}

fn conditions(object: &Value, errors: &mut FieldErrors) {
    let conditions = Field::root(object).at(&["status", "conditions"]);
    let mut seen = BTreeSet::new();
    for condition in conditions.items() {
        let kind = condition.get("type");
        if !seen.insert(kind.text()) {
            kind.duplicate(errors);
        }
        if kind.is_empty() {
            kind.required("must not be empty", errors);
        }
    }
}

pub(super) fn validate_level(level: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(level).get("spec");
    let (kind, exempt, limited) = (spec.get("type"), spec.get("exempt"), spec.get("limited"));
    if (object::name(level) == "exempt") != (kind.text() == "Exempt") {
        kind.invalid("type must be 'Exempt' if and only if name is 'exempt'", errors);
    }
    match kind.text() {
        "Exempt" => {
            if limited.is_set() {
                limited.forbidden("must be nil if the type is not Limited", errors);
            }
            shares(&exempt, errors);
        }
        "Limited" => {
            if exempt.is_set() {
                exempt.forbidden("must be nil if the type is Limited", errors);
            }
            if limited.is_set() {
                validate_limited(&limited, errors);
            } else {
                limited.required("must not be empty when type is Limited", errors);
            }
        }
        _ => kind.unsupported(&["Exempt", "Limited"], errors),
    }
    conditions(level, errors);
}

fn shares(part: &Field<'_>, errors: &mut FieldErrors) {
    let shares = part.get("nominalConcurrencyShares");
    if shares.number().is_some_and(|shares| shares < 0) {
        shares.invalid("must be a non-negative integer", errors);
    }
    let lent = part.get("lendablePercent");
    if lent.number().is_some_and(|share| !(0..=100).contains(&share)) {
        lent.invalid("must be between 0 and 100, inclusive", errors);
    }
}

fn validate_limited(limited: &Field<'_>, errors: &mut FieldErrors) {
    shares(limited, errors);
    let borrowed = limited.get("borrowingLimitPercent");
    if borrowed.number().is_some_and(|share| share < 0) {
        borrowed.invalid("if specified, must be a non-negative integer", errors);
    }
    let response = limited.get("limitResponse");
    let (kind, queuing) = (response.get("type"), response.get("queuing"));
    match kind.text() {
        "Reject" => {
            if queuing.is_set() {
                queuing.forbidden("must be nil if limited.limitResponse.type is not Limited", errors);
            }
        }
        "Queue" if !queuing.is_set() => {
            queuing.required("must not be empty if limited.limitResponse.type is Limited", errors);
        }
        "Queue" => validate_queuing(&queuing, errors),
        _ => kind.unsupported(&["Queue", "Reject"], errors),
    }
}

fn validate_queuing(queuing: &Field<'_>, errors: &mut FieldErrors) {
    let (length, queues, hand) =
        (queuing.get("queueLengthLimit"), queuing.get("queues"), queuing.get("handSize"));
    if length.number().unwrap_or(0) <= 0 {
        length.invalid("must be positive", errors);
    }
    let (all, dealt) = (queues.number().unwrap_or(0), hand.number().unwrap_or(0));
    if all <= 0 {
        queues.invalid("must be positive", errors);
    } else if all > MOST_QUEUES {
        queues.invalid(format!("must not be greater than {MOST_QUEUES}"), errors);
    }
    if dealt <= 0 {
        hand.invalid("must be positive", errors);
    } else if dealt > all {
        hand.invalid(format!("should not be greater than queues ({all})"), errors);
    } else {
        let bits = (all as f64).log2() * dealt as f64;
        if bits > MOST_BITS {
            let detail = format!(
                "required entropy bits of deckSize {all} and handSize {dealt} should not be greater than 60"
            );
            hand.invalid(detail, errors);
        }
    }
}

pub(super) fn validate_part(part: Subresource, object: &Value, _old: &Value, errors: &mut FieldErrors) {
    if part == Subresource::Status {
        conditions(object, errors);
    }
}
