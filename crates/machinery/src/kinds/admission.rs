//! What may change or refuse requests: webhooks, and policies with their bindings. Whether an expression can be
//! evaluated is for who evaluates it to say.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    field::Field,
    fill::{default_object, default_text, default_value},
};
use crate::{FieldErrors, names, object};

const FAILURE: &[&str] = &["Fail", "Ignore"];
const MATCH: &[&str] = &["Equivalent", "Exact"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const REINVOCATION: &[&str] = &["IfNeeded", "Never"];
const MOST_CONDITIONS: usize = 64;
const MOST_ANNOTATIONS: usize = 20;
const LONGEST_ANNOTATION: usize = 5 * 1024;
const NEITHER: &str = "validations or auditAnnotations must contain at least one item";

pub(super) fn default_webhooks(configuration: &mut Value) {
    for hook in object::items_mut(configuration, "webhooks") {
        default_text(hook, "failurePolicy", "Fail");
        default_text(hook, "matchPolicy", "Equivalent");
        for field in ["namespaceSelector", "objectSelector"] {
            default_value(hook, field, json!({}));
        }
        default_value(hook, "timeoutSeconds", json!(10));
        default_scopes(hook, "rules");
        if let Some(service) = hook.get_mut("clientConfig").and_then(|config| config.get_mut("service")) {
            default_value(service, "port", json!(443));
        }
    }
}

pub(super) fn default_mutating_webhooks(configuration: &mut Value) {
    default_webhooks(configuration);
    for hook in object::items_mut(configuration, "webhooks") {
        default_text(hook, "reinvocationPolicy", "Never");
    }
}

fn default_scopes(part: &mut Value, list: &str) {
    for rule in object::items_mut(part, list) {
        default_text(rule, "scope", "*");
    }
}

fn default_resources(resources: &mut Value) {
    default_text(resources, "matchPolicy", "Equivalent");
    for field in ["namespaceSelector", "objectSelector"] {
        default_value(resources, field, json!({}));
    }
    default_scopes(resources, "resourceRules");
    default_scopes(resources, "excludeResourceRules");
}

pub(super) fn default_policy(policy: &mut Value) {
    let Some(spec) = policy.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    default_text(spec, "failurePolicy", "Fail");
    if spec["matchConstraints"].is_object() {
        default_resources(default_object(spec, "matchConstraints"));
    }
}

pub(super) fn default_binding(binding: &mut Value) {
    if let Some(resources) = binding.get_mut("spec").and_then(|spec| spec.get_mut("matchResources")) {
        default_resources(resources);
    }
}

pub(super) fn validate_webhooks(configuration: &Value, errors: &mut FieldErrors) {
    let hooks = Field::root(configuration).get("webhooks");
    for hook in hooks.items() {
        hook.get("name").needs_name(names::fully_qualified, errors);
        for rule in hook.get("rules").items() {
            validate_rule(&rule, errors);
        }
        hook.get("failurePolicy").one_of(FAILURE, errors);
        hook.get("matchPolicy").one_of(MATCH, errors);
        let effects = hook.get("sideEffects");
        if effects.is_set() {
            effects.one_of(&["None", "NoneOnDryRun"], errors);
        } else {
            effects.required("must specify one of None, NoneOnDryRun", errors);
        }
        let seconds = hook.get("timeoutSeconds");
        if seconds.number().is_some_and(|seconds| !(1..=30).contains(&seconds)) {
            seconds.invalid("the timeout value must be between 1 and 30 seconds", errors);
        }
        hook.get("namespaceSelector").selector(errors);
        hook.get("objectSelector").selector(errors);
        hook.get("reinvocationPolicy").one_of(REINVOCATION, errors);
        validate_client(&hook.get("clientConfig"), errors);
        validate_conditions(&hook.get("matchConditions"), errors);
        validate_versions(&hook.get("admissionReviewVersions"), errors);
    }
    hooks.unique("name", errors);
}

/// Where a webhook is: a URL or a Service.
pub(super) fn validate_client(client: &Field<'_>, errors: &mut FieldErrors) {
    let (url, service) = (client.get("url"), client.get("service"));
    match (url.is_set(), service.is_set()) {
        (false, false) | (true, true) => client.required("exactly one of url or service is required", errors),
        (true, false) => {
            let text = url.text();
            let Some(rest) = text.strip_prefix("https://") else {
                return url.invalid(
                    "'https' is the only allowed URL scheme; desired format: https://host[/path]",
                    errors,
                );
            };
            if rest.is_empty() || rest.starts_with('/') {
                url.invalid("host must be specified; desired format: https://host[/path]", errors);
            }
            for (sign, what) in
                [('@', "user information is"), ('#', "fragments are"), ('?', "query parameters are")]
            {
                if rest.contains(sign) {
                    url.invalid(format!("{what} not permitted in the URL"), errors);
                }
            }
        }
        (false, true) => {
            service.get("name").needed(errors);
            service.get("namespace").needed(errors);
            let port = service.get("port");
            if port.number().is_some_and(|port| names::port_number(port).is_some()) {
                port.invalid("port is not valid: must be between 1 and 65535, inclusive", errors);
            }
            validate_path(&service.get("path"), errors);
        }
    }
}

/// The path of a service; an empty one is its root.
fn validate_path(path: &Field<'_>, errors: &mut FieldErrors) {
    if matches!(path.text(), "" | "/") {
        return;
    }
    let Some(rest) = path.text().strip_prefix('/') else {
        path.invalid("must start with a '/'", errors);
        return;
    };
    for (number, segment) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if segment.is_empty() {
            path.invalid(format!("segment[{number}] may not be empty"), errors);
        }
        for reason in names::subdomain(segment).into_iter().filter(|_| !segment.is_empty()) {
            path.invalid(format!("segment[{number}]: {reason}"), errors);
        }
    }
}

fn validate_versions(versions: &Field<'_>, errors: &mut FieldErrors) {
    if versions.is_empty() {
        return versions.required("must specify one of v1, v1beta1", errors);
    }
    let mut seen = BTreeSet::new();
    for version in versions.items() {
        if seen.insert(version.text()) {
            version.ruled(names::label_1035, errors);
        } else {
            version.invalid("duplicate version", errors);
        }
    }
    if !seen.contains("v1") && !seen.contains("v1beta1") {
        versions.invalid("must include at least one of v1, v1beta1", errors);
    }
}

/// A list that names all by "*" names nothing else.
fn all_or_some(list: &Field<'_>, what: &str, errors: &mut FieldErrors) {
    list.needed(errors);
    if list.count() > 1 && list.texts().contains(&"*") {
        list.invalid(format!("if '*' is present, must not specify other {what}"), errors);
    }
}

fn validate_rule(rule: &Field<'_>, errors: &mut FieldErrors) {
    let operations = rule.get("operations");
    all_or_some(&operations, "operations", errors);
    for operation in operations.items() {
        operation.one_of(OPERATIONS, errors);
    }
    all_or_some(&rule.get("apiGroups"), "API groups", errors);
    all_or_some(&rule.get("apiVersions"), "API versions", errors);
    for version in rule.get("apiVersions").items() {
        version.needed(errors);
    }
    validate_resources(&rule.get("resources"), errors);
    rule.get("scope").one_of(SCOPES, errors);
    let resource_names = rule.get("resourceNames");
    for name in resource_names.items() {
        name.ruled(names::path_segment, errors);
    }
    resource_names.unique("", errors);
}

fn validate_resources(resources: &Field<'_>, errors: &mut FieldErrors) {
    resources.needed(errors);
    let (mut whole, mut everywhere) = (BTreeSet::new(), BTreeSet::new());
    let (mut plain, mut all) = (false, false);
    for resource in resources.items() {
        let text = resource.text();
        if text.is_empty() {
            resource.required("", errors);
        }
        all |= text == "*";
        let Some((name, part)) = text.split_once('/') else {
            plain |= text != "*";
            continue;
        };
        if whole.contains(name) {
            resource.invalid(format!("if '{name}/*' is present, must not specify {text}"), errors);
        }
        if everywhere.contains(part) {
            resource.invalid(format!("if '*/{part}' is present, must not specify {text}"), errors);
        }
        if part == "*" {
            whole.insert(name);
        }
        if name == "*" {
            everywhere.insert(part);
        }
    }
    if resources.count() > 1 && resources.texts().contains(&"*/*") {
        resources.invalid("if '*/*' is present, must not specify other resources", errors);
    }
    if all && plain {
        resources.invalid("if '*' is present, must not specify other resources without subresources", errors);
    }
}

fn validate_conditions(conditions: &Field<'_>, errors: &mut FieldErrors) {
    conditions.most(MOST_CONDITIONS, errors);
    for condition in conditions.items() {
        if condition.get("expression").text().trim().is_empty() {
            condition.get("expression").required("", errors);
        }
        condition.get("name").needs_name(names::qualified, errors);
    }
    conditions.unique("name", errors);
}

fn validate_match(resources: &Field<'_>, errors: &mut FieldErrors) {
    resources.get("matchPolicy").needs_one_of(MATCH, errors);
    resources.get("namespaceSelector").selector(errors);
    resources.get("objectSelector").selector(errors);
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in resources.get(list).items() {
            validate_rule(&rule, errors);
        }
    }
}

fn validate_param_kind(kind: &Field<'_>, errors: &mut FieldErrors) {
    let version = kind.get("apiVersion");
    let text = version.text();
    match text.split('/').collect::<Vec<_>>()[..] {
        [""] => version.required("", errors),
        [name] => {
            for wrong in names::label_1035(name) {
                errors.invalid(version.path(), name, wrong);
            }
        }
        [group, name] => {
            for wrong in names::subdomain(group) {
                errors.invalid(version.path(), group, wrong);
            }
            for wrong in names::label_1035(name) {
                errors.invalid(version.path(), name, wrong);
            }
        }
        _ => version.invalid(format!("unexpected GroupVersion string: {text}"), errors),
    }
    let name = kind.get("kind");
    if name.is_empty() {
        name.required("", errors);
    } else {
        for wrong in names::label_1035(&name.text().to_lowercase()) {
            name.invalid(format!("may have mixed case, but should otherwise match: {wrong}"), errors);
        }
    }
}

/// What policies of both kinds say.
fn validate_policy(spec: &Field<'_>, errors: &mut FieldErrors) {
    spec.get("failurePolicy").needs_one_of(FAILURE, errors);
    if spec.get("paramKind").is_set() {
        validate_param_kind(&spec.get("paramKind"), errors);
    }
    let constraints = spec.get("matchConstraints");
    if constraints.is_set() {
        validate_match(&constraints, errors);
        constraints.get("resourceRules").needed(errors);
    } else {
        constraints.required("", errors);
    }
    validate_conditions(&spec.get("matchConditions"), errors);
    for variable in spec.get("variables").items() {
        let (name, expression) = (variable.get("name"), variable.get("expression"));
        if name.text().trim().is_empty() {
            name.required("name is not specified", errors);
        } else if !is_identifier(name.text()) {
            name.invalid("name is not a valid CEL identifier", errors);
        }
        if expression.text().trim().is_empty() {
            expression.required("expression is not specified", errors);
        }
    }
}

fn is_identifier(text: &str) -> bool {
    text.bytes().enumerate().all(|(index, byte)| {
        byte == b'_' || byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit())
    })
}

pub(super) fn validate_validating_policy(policy: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(policy).get("spec");
    validate_policy(&spec, errors);
    let (validations, annotations) = (spec.get("validations"), spec.get("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        validations.required(NEITHER, errors);
        annotations.required(NEITHER, errors);
        return;
    }
    for validation in validations.items() {
        let expression = validation.get("expression");
        if expression.text().trim().is_empty() {
            expression.required("expression is not specified", errors);
        }
        let (message, computed) = (validation.get("message"), validation.get("messageExpression"));
        if !computed.is_empty() && computed.text().trim().is_empty() {
            computed.invalid("must be non-empty if specified", errors);
        }
        if !message.is_empty() && message.text().trim().is_empty() {
            message.invalid("message must be non-empty if specified", errors);
        } else if message.text().trim().contains(['\n', '\r']) {
            message.invalid("message must not contain line breaks", errors);
        }
        validation.get("reason").one_of(&["Forbidden", "Invalid", "RequestEntityTooLarge"], errors);
    }
    if annotations.count() > MOST_ANNOTATIONS {
        annotations.invalid(format!("must not have more than {MOST_ANNOTATIONS} auditAnnotations"), errors);
    }
    for annotation in annotations.items() {
        let (key, value) = (annotation.get("key"), annotation.get("valueExpression"));
        let full = format!("{}/{}", object::name(policy), key.text());
        for wrong in names::qualified(&full) {
            errors.invalid(key.path(), full.as_str(), wrong);
        }
        if value.text().trim().is_empty() {
            value.required("valueExpression is not specified", errors);
        } else if value.text().trim().len() > LONGEST_ANNOTATION {
            value.required(format!("must not exceed {LONGEST_ANNOTATION} bytes in length"), errors);
        }
    }
    annotations.unique("key", errors);
}

pub(super) fn validate_mutating_policy(policy: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(policy).get("spec");
    validate_policy(&spec, errors);
    let mutations = spec.get("mutations");
    if mutations.is_empty() {
        mutations.required("mutations must contain at least one item", errors);
    }
    for mutation in mutations.items() {
        let kind = mutation.get("patchType");
        kind.needs_one_of(&["ApplyConfiguration", "JSONPatch"], errors);
        for (name, part) in [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")] {
            let patch = mutation.get(part);
            if kind.text() != name {
                if patch.is_set() {
                    patch.forbidden(
                        format!("{part} is not allowed when patchType is {}", kind.text()),
                        errors,
                    );
                }
            } else if !patch.is_set() {
                patch.required(format!("{part} is required when patchType is {name}"), errors);
            } else if patch.get("expression").text().trim().is_empty() {
                patch.get("expression").required("expression is not specified", errors);
            }
        }
    }
    spec.get("reinvocationPolicy").needs_one_of(REINVOCATION, errors);
}

fn validate_any_binding(spec: &Field<'_>, errors: &mut FieldErrors) {
    let policy = spec.get("policyName");
    policy.needs_name(names::subdomain, errors);
    let reference = spec.get("paramRef");
    if reference.is_set() {
        let (name, selector) = (reference.get("name"), reference.get("selector"));
        match (!name.is_empty(), selector.is_set()) {
            (false, false) => name.required("one of name or selector must be specified", errors),
            (true, true) => name.forbidden("name and selector are mutually exclusive", errors),
            (true, false) => name.ruled(names::path_segment, errors),
            (false, true) => selector.selector(errors),
        }
        reference.get("parameterNotFoundAction").needs_one_of(&["Allow", "Deny"], errors);
    }
    let resources = spec.get("matchResources");
    if resources.is_set() {
        validate_match(&resources, errors);
    }
}

pub(super) fn validate_mutating_binding(binding: &Value, errors: &mut FieldErrors) {
    validate_any_binding(&Field::root(binding).get("spec"), errors);
}

pub(super) fn validate_validating_binding(binding: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(binding).get("spec");
    validate_any_binding(&spec, errors);
    let actions = spec.get("validationActions");
    for action in actions.items() {
        action.one_of(&["Audit", "Deny", "Warn"], errors);
    }
    actions.unique("", errors);
    let all = actions.texts();
    if all.contains(&"Deny") && all.contains(&"Warn") {
        actions.invalid(
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response \
             and headers serves no purpose)",
            errors,
        );
    }
    if actions.is_empty() {
        actions.required("at least one validation action is required", errors);
    }
}
