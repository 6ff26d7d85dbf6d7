//! The cells of what bounds, scales and orders pods and requests.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE_COLUMN, Column, age, column, count, items, number, shown, text};
use crate::object;

pub(in crate::kinds) const POD_DISRUPTION_BUDGET: &[Column] = &[
    text("Min Available", "The minimum number of pods that must be available."),
    text("Max Unavailable", "The maximum number of pods that may be unavailable."),
    count("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time."),
    AGE_COLUMN,
];

pub(in crate::kinds) const HORIZONTAL_POD_AUTOSCALER: &[Column] = &[
    text("Reference", "The target resource to scale."),
    text("Targets", "The metrics that the desired replica count is calculated from."),
    text("MinPods", "The lower limit for the number of replicas to which the autoscaler can scale down."),
    text("MaxPods", "The upper limit for the number of replicas to which the autoscaler can scale up."),
    text("Replicas", "The current number of replicas of pods that are managed by this autoscaler."),
    AGE_COLUMN,
];

pub(in crate::kinds) const RESOURCE_QUOTA: &[Column] = &[
    text("Request", "Request represents a minimum amount of cpu/memory that a container may consume."),
    text(
        "Limit",
        "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
    ),
    AGE_COLUMN,
];

pub(in crate::kinds) const PRIORITY_CLASS: &[Column] = &[
    count("Value", "The actual priority that pods receive when they have the name of this class."),
    column("Global-Default", "boolean", "Whether pods without a class get this one."),
    AGE_COLUMN,
    text("PreemptionPolicy", "Whether pods of this class may preempt others."),
];

pub(in crate::kinds) const FLOW_SCHEMA: &[Column] = &[
    text("PriorityLevel", "The name of the priority level that is referenced."),
    text("MatchingPrecedence", "Which of the schemas that match a request is chosen: the lowest."),
    text("DistinguisherMethod", "How the flow of a request is computed."),
    AGE_COLUMN,
    text("MissingPL", "references a broken or non-existent PriorityLevelConfiguration"),
];

pub(in crate::kinds) const PRIORITY_LEVEL: &[Column] = &[
    text("Type", "Whether requests of this level are limited."),
    text("NominalConcurrencyShares", "The level's share of the seats."),
    text("Queues", "The number of queues of the level."),
    text("HandSize", "How many queues are dealt to a flow."),
    text("QueueLengthLimit", "How many requests may wait in a queue."),
    AGE_COLUMN,
];

pub(in crate::kinds) fn pod_disruption_budget(budget: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        json!(object::name(budget)),
        json!(shown(&budget["spec"]["minAvailable"], "N/A")),
        json!(shown(&budget["spec"]["maxUnavailable"], "N/A")),
        json!(number(budget, &["status", "disruptionsAllowed"])),
        age(budget, now),
    ]
}

/// One metric, as what it is and what it should be.
fn metric(spec: &Value, status: &Value) -> String {
    let (field, named) = match object::text(spec, &["type"]) {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".into(),
    };
    let (target, current) = (&spec[field]["target"], &status[field]["current"]);
    let percent =
        |value: &Value, none: &str| value.as_i64().map_or(none.to_owned(), |share| format!("{share}%"));
    let pair = if target["averageValue"].is_null() {
        if named {
            let wanted = percent(&target["averageUtilization"], "<auto>");
            format!("{}/{wanted}", percent(&current["averageUtilization"], "<unknown>"))
        } else {
            format!("{}/{}", shown(&current["value"], "<unknown>"), shown(&target["value"], "<nil>"))
        }
    } else {
        let suffix = if matches!(field, "external" | "object") { " (avg)" } else { "" };
        format!(
            "{}/{}{suffix}",
            shown(&current["averageValue"], "<unknown>"),
            shown(&target["averageValue"], "<nil>")
        )
    };
    if named { format!("{}: {pair}", object::text(spec, &[field, "name"])) } else { pair }
}

pub(in crate::kinds) fn horizontal_pod_autoscaler(scaler: &Value, now: Timestamp) -> Vec<Value> {
    let target = &scaler["spec"]["scaleTargetRef"];
    let statuses = items(scaler, &["status", "currentMetrics"]);
    let metrics: Vec<String> = items(scaler, &["spec", "metrics"])
        .iter()
        .enumerate()
        .map(|(index, spec)| metric(spec, statuses.get(index).unwrap_or(&Value::Null)))
        .collect();
    let metrics = match metrics.len() {
        0 => "<none>".into(),
        1 | 2 => metrics.join(", "),
        all => format!("{} + {} more...", metrics[..2].join(", "), all - 2),
    };
    vec![
        json!(object::name(scaler)),
        json!(format!("{}/{}", object::text(target, &["kind"]), object::text(target, &["name"]))),
        json!(metrics),
        json!(shown(&scaler["spec"]["minReplicas"], "<unset>")),
        json!(number(scaler, &["spec", "maxReplicas"])),
        json!(number(scaler, &["status", "currentReplicas"])),
        age(scaler, now),
    ]
}

pub(in crate::kinds) fn horizontal_pod_autoscaler_v1(scaler: &Value, now: Timestamp) -> Vec<Value> {
    let mut stored = scaler.clone();
    crate::kinds::autoscaling::to_v2(&mut stored);
    horizontal_pod_autoscaler(&stored, now)
}

pub(in crate::kinds) fn resource_quota(quota: &Value, now: Timestamp) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in object::at(quota, &["status", "hard"]).as_object().into_iter().flatten() {
        let used = object::at(quota, &["status", "used", name]);
        let text = format!("{name}: {}/{}", shown(used, "0"), shown(hard, "0"));
        if name.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
    }
    requests.sort();
    limits.sort();
    vec![json!(object::name(quota)), json!(requests.join(", ")), json!(limits.join(", ")), age(quota, now)]
}

pub(in crate::kinds) fn priority_class(class: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        json!(object::name(class)),
        json!(number(class, &["value"])),
        json!(class["globalDefault"] == true),
        age(class, now),
        json!(object::text(class, &["preemptionPolicy"])),
    ]
}

pub(in crate::kinds) fn flow_schema(schema: &Value, now: Timestamp) -> Vec<Value> {
    let dangling = items(schema, &["status", "conditions"])
        .iter()
        .find(|condition| condition["type"] == "Dangling")
        .map_or("?", |condition| condition["status"].as_str().unwrap_or_default());
    vec![
        json!(object::name(schema)),
        json!(object::text(schema, &["spec", "priorityLevelConfiguration", "name"])),
        json!(number(schema, &["spec", "matchingPrecedence"])),
        json!(shown(object::at(schema, &["spec", "distinguisherMethod", "type"]), "<none>")),
        age(schema, now),
        json!(dangling),
    ]
}

pub(in crate::kinds) fn priority_level(level: &Value, now: Timestamp) -> Vec<Value> {
    let limited = &level["spec"]["limited"];
    let queuing = object::at(limited, &["limitResponse", "queuing"]);
    let cell = |value: &Value| if value.is_null() { json!("<none>") } else { value.clone() };
    vec![
        json!(object::name(level)),
        json!(object::text(level, &["spec", "type"])),
        cell(&limited["nominalConcurrencyShares"]),
        cell(&queuing["queues"]),
        cell(&queuing["handSize"]),
        cell(&queuing["queueLengthLimit"]),
        age(level, now),
    ]
}
