//! Containers: their defaults and their rules, shared by pods and by templates.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::{FieldErrors, names, object, quantity::Quantity};

/// Sets a text where there is none.
pub(super) fn default_text(value: &mut Value, field: &str, text: &str) {
    if value.is_object() && value[field].as_str().is_none_or(str::is_empty) {
        value[field] = json!(text);
    }
}

/// Sets a value where there is none.
pub(super) fn default_value(value: &mut Value, field: &str, default: Value) {
    if value.is_object() && value[field].is_null() {
        value[field] = default;
    }
}

/// The tag of an image's name decides how it is pulled: `latest` and none mean always.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        _ => "IfNotPresent",
    }
}

pub(super) fn defaults(container: &mut Value) {
    if !container.is_object() {
        return;
    }
    let policy = pull_policy(object::text(container, &["image"]));
    default_text(container, "imagePullPolicy", policy);
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    default_value(container, "resources", json!({}));
    for port in object::items_mut(container, "ports") {
        default_text(port, "protocol", "TCP");
    }
    for variable in object::items_mut(container, "env") {
        let source = variable.get_mut("valueFrom").and_then(|source| source.get_mut("fieldRef"));
        if let Some(reference) = source {
            default_text(reference, "apiVersion", "v1");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).filter(|probe| probe.is_object()) {
            default_probe(probe);
        }
    }
    if let Some(lifecycle) = container.get_mut("lifecycle").and_then(Value::as_object_mut) {
        for hook in lifecycle.values_mut() {
            default_action(hook);
        }
    }
    requests_from_limits(container);
}

fn default_action(action: &mut Value) {
    if let Some(get) = action.get_mut("httpGet").filter(|get| get.is_object()) {
        default_text(get, "path", "/");
        default_text(get, "scheme", "HTTP");
    }
    if let Some(grpc) = action.get_mut("grpc").filter(|grpc| grpc.is_object()) {
        default_value(grpc, "service", json!(""));
    }
}

fn default_probe(probe: &mut Value) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe[field].as_i64().unwrap_or(0) == 0 {
            probe[field] = json!(value);
        }
    }
    default_action(probe);
}

/// What is limited but not requested is requested up to its limit.
fn requests_from_limits(container: &mut Value) {
    let Some(limits) = object::at(container, &["resources", "limits"]).as_object().cloned() else { return };
    let requests = object::child(&mut container["resources"], "requests");
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
    if requests.is_empty() {
        object::remove(&mut container["resources"], "requests");
    }
}

pub(super) fn canonical_resources(resources: &mut Value) {
    for field in ["limits", "requests"] {
        for (_, value) in resources.get_mut(field).and_then(Value::as_object_mut).into_iter().flatten() {
            canonical(value);
        }
    }
}

/// Writes a quantity in its canonical form, where it is one.
pub(super) fn canonical(value: &mut Value) {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return,
    };
    if let Ok(quantity) = text.parse::<Quantity>() {
        *value = json!(quantity.to_string());
    }
}

/// What a list of containers is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Main,
    Init,
}

pub(super) struct Context<'a> {
    pub(super) volumes: &'a HashSet<&'a str>,
    pub(super) names: HashSet<String>,
}

pub(super) fn validate(
    container: &Value,
    path: &str,
    role: Role,
    context: &mut Context<'_>,
    errors: &mut FieldErrors,
) {
    let name = object::text(container, &["name"]);
    if name.is_empty() {
        errors.required(format!("{path}.name"), "");
    } else {
        for wrong in names::label(name) {
            errors.invalid(format!("{path}.name"), name, wrong);
        }
        if !context.names.insert(name.to_owned()) {
            errors.duplicate(format!("{path}.name"), name);
        }
    }
    let image = object::text(container, &["image"]);
    if image.is_empty() {
        errors.required(format!("{path}.image"), "");
    } else if image.trim() != image {
        errors.invalid(format!("{path}.image"), image, "must not have leading or trailing whitespace");
    }
    let policy = object::text(container, &["imagePullPolicy"]);
    if !matches!(policy, "" | "Always" | "IfNotPresent" | "Never") {
        errors.not_supported(format!("{path}.imagePullPolicy"), policy, &["Always", "IfNotPresent", "Never"]);
    }
    let message = object::text(container, &["terminationMessagePolicy"]);
    if !matches!(message, "" | "File" | "FallbackToLogsOnError") {
        errors.not_supported(
            format!("{path}.terminationMessagePolicy"),
            message,
            &["FallbackToLogsOnError", "File"],
        );
    }
    ports(container, path, errors);
    environment(container, path, errors);
    mounts(container, path, context.volumes, errors);
    resources(&container["resources"], &format!("{path}.resources"), errors);
    let sidecar = container["restartPolicy"] == "Always";
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if !container[probe].is_object() {
            continue;
        }
        let path = format!("{path}.{probe}");
        if role == Role::Init && !sidecar {
            errors.forbidden(path, "must not be set for init containers without restartPolicy=Always");
        } else {
            validate_probe(&container[probe], &path, probe != "readinessProbe", errors);
        }
    }
    if let Some(hooks) = container["lifecycle"].as_object() {
        if role == Role::Init && !sidecar {
            errors.forbidden(
                format!("{path}.lifecycle"),
                "must not be set for init containers without restartPolicy=Always",
            );
        }
        for (name, hook) in hooks.iter().filter(|(_, hook)| hook.is_object()) {
            validate_action(hook, &format!("{path}.lifecycle.{name}"), errors);
        }
    }
}

fn ports(container: &Value, path: &str, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (index, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
        let path = format!("{path}.ports[{index}]");
        let name = object::text(port, &["name"]);
        if !name.is_empty() {
            for wrong in names::port_name(name) {
                errors.invalid(format!("{path}.name"), name, wrong);
            }
            if !seen.insert(name) {
                errors.duplicate(format!("{path}.name"), name);
            }
        }
        match port["containerPort"].as_i64() {
            None | Some(0) => errors.required(format!("{path}.containerPort"), ""),
            Some(number) => {
                if let Some(wrong) = names::port_number(number) {
                    errors.invalid(format!("{path}.containerPort"), number, wrong);
                }
            }
        }
        if let Some(number) = port["hostPort"].as_i64().filter(|port| *port != 0)
            && let Some(wrong) = names::port_number(number)
        {
            errors.invalid(format!("{path}.hostPort"), number, wrong);
        }
        let protocol = object::text(port, &["protocol"]);
        if !matches!(protocol, "" | "TCP" | "UDP" | "SCTP") {
            errors.not_supported(format!("{path}.protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        }
    }
}

fn environment(container: &Value, path: &str, errors: &mut FieldErrors) {
    for (index, variable) in container["env"].as_array().into_iter().flatten().enumerate() {
        let path = format!("{path}.env[{index}]");
        let name = object::text(variable, &["name"]);
        if name.is_empty() {
            errors.required(format!("{path}.name"), "");
        } else {
            for wrong in names::env_name(name) {
                errors.invalid(format!("{path}.name"), name, wrong);
            }
        }
        let Some(sources) = variable["valueFrom"].as_object() else { continue };
        let path = format!("{path}.valueFrom");
        if !object::text(variable, &["value"]).is_empty() {
            errors.invalid(path.as_str(), "", "may not be specified when `value` is not empty");
        }
        match sources.values().filter(|source| source.is_object()).count() {
            0 => errors.invalid(
                path.as_str(),
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            ),
            1 => {}
            _ => errors.invalid(path.as_str(), "", "may not have more than one field specified at a time"),
        }
        for source in ["configMapKeyRef", "secretKeyRef"] {
            if let Some(reference) = sources.get(source).filter(|reference| reference.is_object()) {
                if object::text(reference, &["name"]).is_empty() && reference["optional"] != true {
                    errors.required(format!("{path}.{source}.name"), "");
                }
                if object::text(reference, &["key"]).is_empty() {
                    errors.required(format!("{path}.{source}.key"), "");
                }
            }
        }
    }
}

fn mounts(container: &Value, path: &str, volumes: &HashSet<&str>, errors: &mut FieldErrors) {
    let mut places = HashSet::new();
    for (index, mount) in container["volumeMounts"].as_array().into_iter().flatten().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        let name = object::text(mount, &["name"]);
        if name.is_empty() {
            errors.required(format!("{path}.name"), "");
        } else if !volumes.contains(name) {
            errors.not_found(format!("{path}.name"), name);
        }
        let place = object::text(mount, &["mountPath"]);
        if place.is_empty() {
            errors.required(format!("{path}.mountPath"), "");
        } else if !places.insert(place) {
            errors.invalid(format!("{path}.mountPath"), place, "must be unique");
        }
        for field in ["subPath", "subPathExpr"] {
            let text = object::text(mount, &[field]);
            if text.starts_with('/') {
                errors.invalid(format!("{path}.{field}"), text, "must be a relative path");
            } else if text.split('/').any(|part| part == "..") {
                errors.invalid(format!("{path}.{field}"), text, "must not contain '..'");
            }
        }
    }
}

/// Checks limits and requests.
pub(super) fn resources(resources: &Value, path: &str, errors: &mut FieldErrors) {
    let parse = |value: &Value| match value {
        Value::String(text) => text.parse::<Quantity>().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    };
    for field in ["limits", "requests"] {
        for (name, value) in resources[field].as_object().into_iter().flatten() {
            let path = format!("{path}.{field}[{name}]");
            for wrong in names::qualified(name) {
                errors.invalid(path.as_str(), name.as_str(), wrong);
            }
            let known = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
                || name.starts_with("hugepages-");
            if !name.contains('/') && !known {
                errors.invalid(path.as_str(), name.as_str(), "must be a standard resource for containers");
            }
            match parse(value) {
                None => {
                    errors.invalid(path.as_str(), value.clone(), crate::quantity::NotAQuantity.to_string())
                }
                Some(quantity) if quantity.is_negative() => {
                    errors.invalid(path.as_str(), value.clone(), "must be greater than or equal to 0");
                }
                Some(quantity) if field == "requests" => {
                    if let Some(limit) = resources["limits"].get(name)
                        && parse(limit).is_some_and(|limit| quantity > limit)
                    {
                        errors.invalid(
                            path.as_str(),
                            value.clone(),
                            format!(
                                "must be less than or equal to {name} limit of {}",
                                limit.as_str().unwrap_or_default()
                            ),
                        );
                    }
                }
                Some(_) => {}
            }
        }
    }
}

fn validate_probe(probe: &Value, path: &str, once: bool, errors: &mut FieldErrors) {
    validate_action(probe, path, errors);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        if let Some(number) = probe[field].as_i64().filter(|number| *number < 0) {
            errors.invalid(format!("{path}.{field}"), number, "must be greater than or equal to 0");
        }
    }
    if once && probe["successThreshold"].as_i64().is_some_and(|count| count != 1) {
        errors.invalid(format!("{path}.successThreshold"), probe["successThreshold"].clone(), "must be 1");
    }
}

fn validate_action(action: &Value, path: &str, errors: &mut FieldErrors) {
    let handlers = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let present: Vec<&str> = handlers.into_iter().filter(|handler| action[*handler].is_object()).collect();
    match present.as_slice() {
        [] => errors.required(path, "must specify a handler type"),
        [_] => {}
        [_, others @ ..] => {
            for other in others {
                errors.forbidden(format!("{path}.{other}"), "may not specify more than 1 handler type");
            }
        }
    }
    if action["exec"].is_object()
        && object::at(action, &["exec", "command"]).as_array().is_none_or(Vec::is_empty)
    {
        errors.required(format!("{path}.exec.command"), "");
    }
    for handler in ["httpGet", "tcpSocket"] {
        if !action[handler].is_object() {
            continue;
        }
        let path = format!("{path}.{handler}.port");
        match &action[handler]["port"] {
            Value::Number(number) => {
                if let Some(wrong) = names::port_number(number.as_i64().unwrap_or(0)) {
                    errors.invalid(path, number.as_i64().unwrap_or(0), wrong);
                }
            }
            Value::String(name) => {
                for wrong in names::port_name(name) {
                    errors.invalid(path.as_str(), name.as_str(), wrong);
                }
            }
            _ => errors.invalid(path, 0, "must be between 1 and 65535, inclusive"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_decide_how_they_are_pulled() {
        for (image, policy) in [
            ("web", "Always"),
            ("web:latest", "Always"),
            ("web:1", "IfNotPresent"),
            ("host:5000/web", "Always"),
            ("host:5000/web@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn defaults_leave_no_empty_values() {
        let mut container = json!({ "image": "a:1", "env": [{ "name": "x", "value": "y" },
            { "name": "p", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
            "resources": { "limits": { "cpu": "1" } } });
        defaults(&mut container);
        assert_eq!(container["env"][0], json!({ "name": "x", "value": "y" }));
        assert_eq!(container["env"][1]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
        assert_eq!(container["resources"]["requests"]["cpu"], "1");
    }
}
