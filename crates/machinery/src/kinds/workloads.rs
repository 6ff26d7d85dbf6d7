//! Deployments and ReplicaSets.

use serde_json::{Value, json};

use super::{
    container::{default_text, default_value},
    template,
};
use crate::{FieldErrors, metadata, object, selector::LabelSelector};

fn default_template(object: &mut Value) {
    if let Some(spec) = object
        .get_mut("spec")
        .and_then(|spec| spec.get_mut("template"))
        .and_then(|template| template.get_mut("spec"))
    {
        template::default_spec(spec);
    }
}

pub(super) fn default_deployment(deployment: &mut Value) {
    default_template(deployment);
    let Some(spec) = deployment.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    default_value(spec, "replicas", json!(1));
    default_value(spec, "revisionHistoryLimit", json!(10));
    default_value(spec, "progressDeadlineSeconds", json!(600));
    if !spec["strategy"].is_object() {
        spec["strategy"] = json!({});
    }
    let strategy = &mut spec["strategy"];
    default_text(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        if !strategy["rollingUpdate"].is_object() {
            strategy["rollingUpdate"] = json!({});
        }
        default_value(&mut strategy["rollingUpdate"], "maxUnavailable", json!("25%"));
        default_value(&mut strategy["rollingUpdate"], "maxSurge", json!("25%"));
    }
}

pub(super) fn default_replica_set(set: &mut Value) {
    default_template(set);
    if let Some(spec) = set.get_mut("spec").filter(|spec| spec.is_object()) {
        default_value(spec, "replicas", json!(1));
    }
}

fn not_negative(object: &Value, field: &str, errors: &mut FieldErrors) {
    if let Some(number) = object["spec"][field].as_i64().filter(|number| *number < 0) {
        errors.invalid(format!("spec.{field}"), number, "must be greater than or equal to 0");
    }
}

fn validate_selector(object: &Value, kind: &str, errors: &mut FieldErrors) {
    let value = object::at(object, &["spec", "selector"]);
    if value.is_null() {
        errors.required("spec.selector", "");
    } else {
        metadata::labels(&value["matchLabels"], "spec.selector.matchLabels", errors);
        if value.as_object().is_some_and(|fields| {
            ["matchLabels", "matchExpressions"].iter().all(|field| match fields.get(*field) {
                Some(Value::Object(labels)) => labels.is_empty(),
                Some(Value::Array(items)) => items.is_empty(),
                _ => true,
            })
        }) {
            errors.invalid("spec.selector", value.clone(), format!("empty selector is invalid for {kind}"));
        }
    }
    match LabelSelector::from_value(value) {
        Err(wrong) => errors.invalid("spec.selector", value.clone(), wrong),
        Ok(selector) => {
            let template = object::at(object, &["spec", "template"]);
            if !value.is_null() && !selector.matches_object(template) {
                errors.invalid(
                    "spec.template.metadata.labels",
                    object::at(template, &["metadata", "labels"]).clone(),
                    "`selector` does not match template `labels`",
                );
            }
        }
    }
}

fn validate_template(object: &Value, errors: &mut FieldErrors) {
    let template = object::at(object, &["spec", "template"]);
    metadata::labels(object::at(template, &["metadata", "labels"]), "spec.template.labels", errors);
    template::validate_spec(&template["spec"], "spec.template.spec", errors);
    let policy = object::text(template, &["spec", "restartPolicy"]);
    if matches!(policy, "OnFailure" | "Never") {
        errors.not_supported("spec.template.spec.restartPolicy", policy, &["Always"]);
    }
    if !object::at(template, &["spec", "activeDeadlineSeconds"]).is_null() {
        errors.forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            "activeDeadlineSeconds in ReplicaSet is not Supported",
        );
    }
}

/// Checks a number or a percentage.
fn validate_share(value: &Value, field: &str, errors: &mut FieldErrors) {
    match value {
        Value::Null => {}
        Value::Number(number) if number.as_i64().is_some_and(|number| number >= 0) => {}
        Value::Number(number) => {
            errors.invalid(field, number.as_i64().unwrap_or(0), "must be greater than or equal to 0")
        }
        Value::String(text) => {
            let digits = text.strip_suffix('%').unwrap_or_default();
            if digits.is_empty() || digits.len() > 9 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                errors.invalid(
                    field,
                    text.as_str(),
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
                     regex used for validation is '[0-9]+%')",
                );
            }
        }
        other => errors.invalid(field, other.clone(), "must be an integer or percentage (e.g '5%%')"),
    }
}

pub(super) fn validate_deployment(deployment: &Value, errors: &mut FieldErrors) {
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        not_negative(deployment, field, errors);
    }
    validate_selector(deployment, "deployment", errors);
    validate_template(deployment, errors);
    let strategy = object::at(deployment, &["spec", "strategy"]);
    match object::text(strategy, &["type"]) {
        "Recreate" => {
            if strategy["rollingUpdate"].is_object() {
                errors.forbidden(
                    "spec.strategy.rollingUpdate",
                    "may not be specified when strategy `type` is 'Recreate'",
                );
            }
        }
        "RollingUpdate" => {
            let rolling = &strategy["rollingUpdate"];
            validate_share(&rolling["maxUnavailable"], "spec.strategy.rollingUpdate.maxUnavailable", errors);
            validate_share(&rolling["maxSurge"], "spec.strategy.rollingUpdate.maxSurge", errors);
            let zero = |value: &Value| *value == 0 || *value == "0%";
            if zero(&rolling["maxUnavailable"]) && zero(&rolling["maxSurge"]) {
                errors.invalid(
                    "spec.strategy.rollingUpdate.maxUnavailable",
                    rolling["maxUnavailable"].clone(),
                    "may not be 0 when `maxSurge` is 0",
                );
            }
        }
        other => errors.not_supported("spec.strategy.type", other, &["Recreate", "RollingUpdate"]),
    }
    let spec = &deployment["spec"];
    if let (Some(ready), Some(deadline)) =
        (spec["minReadySeconds"].as_i64(), spec["progressDeadlineSeconds"].as_i64())
        && deadline <= ready
    {
        errors.invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds");
    }
}

pub(super) fn validate_replica_set(set: &Value, errors: &mut FieldErrors) {
    not_negative(set, "replicas", errors);
    not_negative(set, "minReadySeconds", errors);
    validate_selector(set, "ReplicaSet", errors);
    validate_template(set, errors);
}

pub(super) fn validate_selector_unchanged(object: &Value, old: &Value, errors: &mut FieldErrors) {
    let (new, old) = (&object["spec"]["selector"], &old["spec"]["selector"]);
    if new != old {
        errors.invalid("spec.selector", new.clone(), "field is immutable");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_without_a_fitting_selector_is_refused() {
        let mut deployment = json!({ "spec": { "selector": { "matchLabels": { "app": "a" } },
            "template": { "metadata": { "labels": { "app": "b" } },
            "spec": { "containers": [{ "name": "c", "image": "i" }] } } } });
        default_deployment(&mut deployment);
        assert_eq!(deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
        let mut errors = FieldErrors::default();
        validate_deployment(&deployment, &mut errors);
        assert_eq!(
            errors.as_slice()[0].to_string(),
            "spec.template.metadata.labels: Invalid value: {\"app\":\"b\"}: `selector` does not match template `labels`"
        );
        assert_eq!(errors.as_slice().len(), 1);
    }
}
