//! HorizontalPodAutoscalers, in both of their versions: stored as v2, shown in v1 with annotations for what v1 has
//! no fields for.

use serde_json::{Map, Value, json};

use super::{
    Subresource,
    field::Field,
    fill::{default_text, default_value},
};
use crate::{FieldErrors, names, object};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const DEFAULT_UTILIZATION: i64 = 80;
const LONGEST_WINDOW: i64 = 3600;
const LONGEST_PERIOD: i64 = 1800;

/// The kinds of metrics and the fields that they are in.
const SOURCES: &[(&str, &str)] = &[
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

pub(super) fn defaults(scaler: &mut Value) {
    let Some(spec) = scaler.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    default_value(spec, "minReplicas", json!(1));
    if spec["metrics"].as_array().is_none_or(Vec::is_empty) {
        spec["metrics"] = json!([cpu(&json!(DEFAULT_UTILIZATION))]);
    }
    let Some(behavior) = spec.get_mut("behavior").filter(|behavior| behavior.is_object()) else { return };
    let percent = json!({ "type": "Percent", "value": 100, "periodSeconds": 15 });
    let pods = json!({ "type": "Pods", "value": 4, "periodSeconds": 15 });
    for (field, policies) in [("scaleUp", json!([pods, percent])), ("scaleDown", json!([percent]))] {
        let fresh = behavior[field].is_null();
        if fresh && field == "scaleDown" {
            continue;
        }
        if fresh {
            behavior[field] = json!({});
        }
        let rules = &mut behavior[field];
        default_text(rules, "selectPolicy", "Max");
        default_value(rules, "policies", policies);
        if field == "scaleUp" {
            default_value(rules, "stabilizationWindowSeconds", json!(0));
        }
    }
}

pub(super) fn defaults_v1(scaler: &mut Value) {
    let measured = !object::at(scaler, &["metadata", "annotations", METRICS]).is_null();
    let Some(spec) = scaler.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    default_value(spec, "minReplicas", json!(1));
    if !measured {
        default_value(spec, "targetCPUUtilizationPercentage", json!(DEFAULT_UTILIZATION));
    }
}

fn cpu(utilization: &Value) -> Value {
    let target = json!({ "type": "Utilization", "averageUtilization": utilization });
    json!({ "type": "Resource", "resource": { "name": "cpu", "target": target } })
}

/// Renames fields of one structure into another: what moves, and what it is called there.
fn moved(from: &Value, pairs: &[(&[&str], &[&str])]) -> Value {
    let mut to = json!({});
    for (source, target) in pairs {
        let value = object::at(from, source);
        if !value.is_null() {
            let (last, parents) = target.split_last().unwrap_or((&"", &[]));
            let place = parents.iter().fold(&mut to, |place, name| {
                object::child(place, name);
                &mut place[*name]
            });
            place[*last] = value.clone();
        }
    }
    to
}

/// Where the parts of each source are in v1, and where in v2. `state` is "target" or "current" of v2.
fn layout(source: &str, state: &'static str) -> Vec<(Vec<&'static str>, Vec<&'static str>)> {
    let current = state == "current";
    let name = |target: &'static str, now: &'static str| if current { now } else { target };
    let value = vec![name("targetValue", "currentValue")];
    let average = vec![name("targetAverageValue", "currentAverageValue")];
    let share = vec![name("targetAverageUtilization", "currentAverageUtilization")];
    let mut pairs = Vec::new();
    match source {
        "external" => {
            pairs.push((vec!["metricName"], vec!["metric", "name"]));
            pairs.push((vec!["metricSelector"], vec!["metric", "selector"]));
            pairs.push((value, vec![state, "value"]));
            pairs.push((average, vec![state, "averageValue"]));
        }
        "pods" => {
            pairs.push((vec!["metricName"], vec!["metric", "name"]));
            pairs.push((vec!["selector"], vec!["metric", "selector"]));
            pairs.push((average, vec![state, "averageValue"]));
        }
        "object" => {
            pairs.push((vec!["target"], vec!["describedObject"]));
            pairs.push((vec!["metricName"], vec!["metric", "name"]));
            pairs.push((vec!["selector"], vec!["metric", "selector"]));
            pairs.push((value, vec![state, "value"]));
            pairs.push((vec!["averageValue"], vec![state, "averageValue"]));
        }
        _ => {
            pairs.push((vec!["name"], vec!["name"]));
            pairs.push((vec!["container"], vec!["container"]));
            pairs.push((share, vec![state, "averageUtilization"]));
            pairs.push((average, vec![state, "averageValue"]));
        }
    }
    pairs
}

fn convert_metric(metric: &Value, state: &'static str, to_v2: bool) -> Value {
    let mut converted = json!({ "type": metric["type"] });
    for (_, source) in SOURCES {
        let from = &metric[*source];
        if !from.is_object() {
            continue;
        }
        let pairs = layout(source, state);
        let pairs: Vec<(&[&str], &[&str])> = pairs
            .iter()
            .map(|(old, new)| if to_v2 { (&old[..], &new[..]) } else { (&new[..], &old[..]) })
            .collect();
        let mut made = moved(from, &pairs);
        if to_v2 && state == "target" {
            let target = &made[state];
            let kind = if target["averageUtilization"].is_null() {
                if target["averageValue"].is_null() { "Value" } else { "AverageValue" }
            } else {
                "Utilization"
            };
            made[state]["type"] = json!(kind);
        }
        converted[*source] = made;
    }
    converted
}

/// Takes an annotation away and reads it; what cannot be read counts as not there.
fn take_annotation(scaler: &mut Value, name: &str) -> Option<Value> {
    let annotations = scaler.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()?;
    let text = annotations.remove(name)?;
    if annotations.is_empty() {
        object::meta_mut(scaler).remove("annotations");
    }
    serde_json::from_str(text.as_str()?).ok()
}

fn set_annotation(scaler: &mut Value, name: &str, value: &Value) {
    let metadata = object::meta_mut(scaler);
    let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
    if annotations.is_object() {
        annotations[name] = json!(value.to_string());
    }
}

/// Makes the form of v1 the one of v2.
pub(super) fn to_v2(scaler: &mut Value) {
    scaler["apiVersion"] = json!("autoscaling/v2");
    let list = |value: Option<Value>| match value {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let mut metrics: Vec<Value> = list(take_annotation(scaler, METRICS))
        .iter()
        .map(|metric| convert_metric(metric, "target", true))
        .collect();
    let mut current: Vec<Value> = list(take_annotation(scaler, CURRENT))
        .iter()
        .map(|metric| convert_metric(metric, "current", true))
        .collect();
    let conditions = take_annotation(scaler, CONDITIONS);
    let behavior = take_annotation(scaler, BEHAVIOR);
    if let Some(spec) = scaler.get_mut("spec").and_then(Value::as_object_mut) {
        if let Some(utilization) = spec.remove("targetCPUUtilizationPercentage") {
            metrics.insert(0, cpu(&utilization));
        }
        if !metrics.is_empty() {
            spec.insert("metrics".into(), Value::Array(metrics));
        }
        if let Some(behavior) = behavior.filter(Value::is_object) {
            spec.insert("behavior".into(), behavior);
        }
    }
    if scaler["status"].is_null() && conditions.is_none() && current.is_empty() {
        return;
    }
    let status = object::child(scaler, "status");
    if let Some(utilization) = status.remove("currentCPUUtilizationPercentage") {
        let now = json!({ "averageUtilization": utilization });
        current.insert(0, json!({ "type": "Resource", "resource": { "name": "cpu", "current": now } }));
    }
    if !current.is_empty() {
        status.insert("currentMetrics".into(), Value::Array(current));
    }
    if let Some(conditions) = conditions.filter(Value::is_array) {
        status.insert("conditions".into(), conditions);
    }
}

fn take(from: &mut Value, part: &str, field: &str) -> Option<Value> {
    from.get_mut(part)?.as_object_mut()?.remove(field)
}

/// The first metric of the CPU's utilization, and all others.
fn split(metrics: Option<Value>, state: &'static str) -> (Option<Value>, Vec<Value>) {
    let (mut utilization, mut others) = (None, Vec::new());
    let Some(Value::Array(metrics)) = metrics else { return (None, others) };
    for metric in &metrics {
        let share = object::at(metric, &["resource", state, "averageUtilization"]);
        let is_cpu = metric["type"] == "Resource" && metric["resource"]["name"] == "cpu";
        if utilization.is_none() && is_cpu && !share.is_null() {
            utilization = Some(share.clone());
        } else {
            others.push(convert_metric(metric, state, false));
        }
    }
    (utilization, others)
}

/// Makes the form of v2 the one of v1.
pub(super) fn to_v1(scaler: &mut Value) {
    scaler["apiVersion"] = json!("autoscaling/v1");
    let (target, metrics) = split(take(scaler, "spec", "metrics"), "target");
    let (now, current) = split(take(scaler, "status", "currentMetrics"), "current");
    if let Some(target) = target {
        scaler["spec"]["targetCPUUtilizationPercentage"] = target;
    }
    if let Some(now) = now {
        scaler["status"]["currentCPUUtilizationPercentage"] = now;
    }
    let conditions = take(scaler, "status", "conditions").filter(|conditions| *conditions != json!([]));
    let behavior = take(scaler, "spec", "behavior");
    let lists = [(METRICS, metrics), (CURRENT, current)];
    let lists =
        lists.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| (name, Value::Array(list)));
    let parts = [(CONDITIONS, conditions), (BEHAVIOR, behavior)];
    let parts = parts.into_iter().filter_map(|(name, part)| part.map(|part| (name, part)));
    for (name, value) in lists.chain(parts).collect::<Vec<_>>() {
        set_annotation(scaler, name, &value);
    }
}

pub(super) fn validate_v1(scaler: &Value, errors: &mut FieldErrors) {
    let mut stored = scaler.clone();
    to_v2(&mut stored);
    validate(&stored, errors);
}

pub(super) fn validate(scaler: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(scaler).get("spec");
    let (least, most) = (spec.get("minReplicas"), spec.get("maxReplicas"));
    if least.number().is_some_and(|least| least < 1) {
        least.invalid("must be greater than or equal to 1", errors);
    }
    let bound = most.number().unwrap_or(0);
    if bound < 1 {
        errors.invalid(most.path(), bound, "must be greater than 0");
    }
    if least.number().is_some_and(|least| bound < least) {
        errors.invalid(most.path(), bound, "must be greater than or equal to `minReplicas`");
    }
    reference(&spec.get("scaleTargetRef"), errors);
    for metric in spec.get("metrics").items() {
        validate_metric(&metric, errors);
    }
    for rules in ["scaleUp", "scaleDown"] {
        let rules = spec.get("behavior").get(rules);
        if rules.is_set() {
            validate_rules(&rules, errors);
        }
    }
}

fn reference(reference: &Field<'_>, errors: &mut FieldErrors) {
    reference.get("kind").needs_name(names::path_segment, errors);
    reference.get("name").needs_name(names::path_segment, errors);
}

fn validate_metric(metric: &Field<'_>, errors: &mut FieldErrors) {
    let kind = metric.get("type");
    if kind.is_empty() {
        kind.required("must specify a metric source type", errors);
    }
    let expected = SOURCES.iter().find(|(name, _)| *name == kind.text()).map(|(_, field)| *field);
    if expected.is_none() {
        let known: Vec<&str> = SOURCES.iter().map(|(name, _)| *name).collect();
        kind.unsupported(&known, errors);
    }
    let present: Vec<&str> =
        SOURCES.iter().map(|(_, field)| *field).filter(|field| metric.get(field).is_set()).collect();
    if let Some(first) = present.first() {
        validate_source(&metric.get(first), first, errors);
    }
    if let Some(expected) = expected
        && !present.contains(&expected)
    {
        metric.get(expected).required("must populate information for the given metric source", errors);
    }
    if present.len() != 1 {
        for other in present.iter().filter(|field| Some(**field) != expected) {
            metric.get(other).forbidden("must populate the given metric source only", errors);
        }
    }
}

fn validate_source(source: &Field<'_>, kind: &str, errors: &mut FieldErrors) {
    let target = source.get("target");
    let is = |name: &str| target.get(name).is_set();
    match kind {
        "resource" | "containerResource" => {
            let name = source.get("name");
            if name.is_empty() {
                name.required("must specify a resource name", errors);
            }
            let container = source.get("container");
            if kind == "containerResource" {
                if container.is_empty() {
                    container.required("must specify a container", errors);
                } else {
                    container.ruled(names::label, errors);
                }
            }
        }
        _ => {
            if kind == "object" {
                reference(&source.get("describedObject"), errors);
            }
            let (name, selector) = (source.at(&["metric", "name"]), source.at(&["metric", "selector"]));
            if name.is_empty() {
                name.required("must specify a metric name", errors);
            } else {
                name.ruled(names::path_segment, errors);
            }
            if selector.is_set() {
                selector.selector(errors);
            }
        }
    }
    validate_target(&target, errors);
    let (value, average, share) =
        (target.get("value"), target.get("averageValue"), target.get("averageUtilization"));
    match kind {
        "object" if !is("value") && !is("averageValue") => {
            average.required("must set either a target value or averageValue", errors);
        }
        "external" => match (is("value"), is("averageValue")) {
            (false, false) => {
                average.required("must set either a target value for metric or a per-pod target", errors);
            }
            (true, true) => {
                value.forbidden("may not set both a target value for metric and a per-pod target", errors);
            }
            _ => {}
        },
        "pods" if !is("averageValue") => {
            average.required("must specify a positive target averageValue", errors);
        }
        "resource" | "containerResource" => match (is("averageUtilization"), is("averageValue")) {
            (false, false) => {
                share.required("must set either a target raw value or a target utilization", errors)
            }
            (true, true) => {
                average.forbidden("may not set both a target raw value and a target utilization", errors);
            }
            _ => {}
        },
        _ => {}
    }
}

fn validate_target(target: &Field<'_>, errors: &mut FieldErrors) {
    let kind = target.get("type");
    if kind.is_empty() {
        kind.required("must specify a metric target type", errors);
    }
    if !matches!(kind.text(), "Utilization" | "Value" | "AverageValue") {
        kind.invalid("must be either Utilization, Value, or AverageValue", errors);
    }
    let zero = crate::quantity::Quantity::from_units(0);
    for name in ["value", "averageValue"] {
        if target.get(name).quantity().is_some_and(|quantity| quantity <= zero) {
            target.get(name).invalid("must be positive", errors);
        }
    }
    let share = target.get("averageUtilization");
    if share.number().is_some_and(|share| share < 1) {
        share.invalid("must be greater than 0", errors);
    }
}

fn validate_rules(rules: &Field<'_>, errors: &mut FieldErrors) {
    let window = rules.get("stabilizationWindowSeconds");
    match window.number() {
        Some(seconds) if seconds < 0 => window.invalid("must be greater than or equal to zero", errors),
        Some(seconds) if seconds > LONGEST_WINDOW => {
            window.invalid(format!("must be less than or equal to {LONGEST_WINDOW}"), errors);
        }
        _ => {}
    }
    rules.get("selectPolicy").one_of(&["Disabled", "Max", "Min"], errors);
    let policies = rules.get("policies");
    if policies.is_empty() {
        policies.required("must specify at least one Policy", errors);
    }
    for policy in policies.items() {
        if !matches!(policy.get("type").text(), "Pods" | "Percent") {
            policy.get("type").unsupported(&["Percent", "Pods"], errors);
        }
        for name in ["value", "periodSeconds"] {
            if policy.get(name).number().unwrap_or(0) <= 0 {
                policy.get(name).invalid("must be greater than zero", errors);
            }
        }
        let period = policy.get("periodSeconds");
        if period.number().is_some_and(|seconds| seconds > LONGEST_PERIOD) {
            period.invalid(format!("must be less than or equal to {LONGEST_PERIOD}"), errors);
        }
    }
    let tolerance = rules.get("tolerance");
    tolerance.quantity_not_negative(errors);
}

pub(super) fn validate_part(part: Subresource, scaler: &Value, _old: &Value, errors: &mut FieldErrors) {
    if part == Subresource::Status {
        Field::root(scaler).get("status").none_negative(&["currentReplicas", "desiredReplicas"], errors);
    }
}
