//! The cells of what extends the server, and of devices.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE_COLUMN, Column, age, count, items, or, text};
use crate::{object, selector::LabelSelector};

pub(in crate::kinds) const WEBHOOKS: &[Column] = &[
    count("Webhooks", "Webhooks indicates the number of webhooks registered in this configuration"),
    AGE_COLUMN,
];

const PARAM_KIND: Column =
    text("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy");

pub(in crate::kinds) const VALIDATING_POLICY: &[Column] = &[
    count(
        "Validations",
        "Validations indicates the number of validation rules defined in this configuration",
    ),
    PARAM_KIND,
    AGE_COLUMN,
];

pub(in crate::kinds) const MUTATING_POLICY: &[Column] = &[
    count("Mutations", "Mutation indicates the number of mutations rules defined in this configuration"),
    PARAM_KIND,
    AGE_COLUMN,
];

pub(in crate::kinds) const POLICY_BINDING: &[Column] = &[
    text("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to"),
    text("ParamRef", "ParamRef indicates the param resource which sets the configration param"),
    AGE_COLUMN,
];

pub(in crate::kinds) const API_SERVICE: &[Column] = &[
    text("Service", "The reference to the service that hosts this API endpoint."),
    text("Available", "Whether this service is available."),
    AGE_COLUMN,
];

pub(in crate::kinds) const RESOURCE_CLAIM: &[Column] =
    &[text("State", "A summary of the current state (allocated, pending, reserved, etc.)."), AGE_COLUMN];

pub(in crate::kinds) const RESOURCE_SLICE: &[Column] = &[
    text("Node", "The node which provides the resources in this pool."),
    text("Driver", "The driver providing the capacity information."),
    text("Pool", "The pool that this slice belongs to."),
    AGE_COLUMN,
];

pub(in crate::kinds) const COMPONENT_STATUS: &[Column] = &[
    text("Status", "Status of the component conditions"),
    text("Message", "Message of the component conditions"),
    text("Error", "Error of the component conditions"),
];

pub(in crate::kinds) fn webhooks(configuration: &Value, now: Timestamp) -> Vec<Value> {
    let count = items(configuration, &["webhooks"]).len();
    vec![json!(object::name(configuration)), json!(count), age(configuration, now)]
}

fn policy(policy: &Value, rules: &str, now: Timestamp) -> Vec<Value> {
    let kind = &policy["spec"]["paramKind"];
    let kind = kind
        .is_object()
        .then(|| format!("{}/{}", object::text(kind, &["apiVersion"]), object::text(kind, &["kind"])));
    vec![
        json!(object::name(policy)),
        json!(items(policy, &["spec", rules]).len()),
        json!(kind.unwrap_or_else(|| "<unset>".into())),
        age(policy, now),
    ]
}

pub(in crate::kinds) fn validating_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    policy(object, "validations", now)
}

pub(in crate::kinds) fn mutating_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    policy(object, "mutations", now)
}

pub(in crate::kinds) fn policy_binding(binding: &Value, now: Timestamp) -> Vec<Value> {
    let reference = &binding["spec"]["paramRef"];
    let name = object::text(reference, &["name"]);
    let parameters = if !name.is_empty() {
        match object::text(reference, &["namespace"]) {
            "" => format!("*/{name}"),
            namespace => format!("{namespace}/{name}"),
        }
    } else if reference["selector"].is_object() {
        LabelSelector::from_value(&reference["selector"]).unwrap_or_default().to_string()
    } else {
        "<unset>".into()
    };
    vec![
        json!(object::name(binding)),
        json!(object::text(binding, &["spec", "policyName"])),
        json!(parameters),
        age(binding, now),
    ]
}

pub(in crate::kinds) fn api_service(service: &Value, now: Timestamp) -> Vec<Value> {
    let reference = &service["spec"]["service"];
    let place = if reference.is_object() {
        format!("{}/{}", object::text(reference, &["namespace"]), object::text(reference, &["name"]))
    } else {
        "Local".into()
    };
    let available = items(service, &["status", "conditions"])
        .iter()
        .find(|condition| condition["type"] == "Available")
        .map_or_else(
            || "Unknown".to_owned(),
            |condition| match object::text(condition, &["status"]) {
                "True" => "True".to_owned(),
                status => format!("{status} ({})", object::text(condition, &["reason"])),
            },
        );
    vec![json!(object::name(service)), json!(place), json!(available), age(service, now)]
}

pub(in crate::kinds) fn resource_claim(claim: &Value, now: Timestamp) -> Vec<Value> {
    let mut states = Vec::new();
    let deleted = object::is_terminating(claim);
    if deleted {
        states.push("deleted");
    }
    if object::at(claim, &["status", "allocation"]).is_null() {
        if !deleted {
            states.push("pending");
        }
    } else {
        states.push("allocated");
        if !items(claim, &["status", "reservedFor"]).is_empty() {
            states.push("reserved");
        }
    }
    vec![json!(object::name(claim)), json!(states.join(",")), age(claim, now)]
}

pub(in crate::kinds) fn resource_slice(slice: &Value, now: Timestamp) -> Vec<Value> {
    let spec = |path: &[&str]| json!(object::text(&slice["spec"], path));
    vec![
        json!(object::name(slice)),
        or(object::text(slice, &["spec", "nodeName"]), ""),
        spec(&["driver"]),
        spec(&["pool", "name"]),
        age(slice, now),
    ]
}

pub(in crate::kinds) fn component_status(component: &Value, _now: Timestamp) -> Vec<Value> {
    let healthy = items(component, &["conditions"]).iter().find(|condition| condition["type"] == "Healthy");
    let (status, message, error) = healthy.map_or(("Unknown", "", ""), |condition| {
        let state = if condition["status"] == "True" { "Healthy" } else { "Unhealthy" };
        (state, object::text(condition, &["message"]), object::text(condition, &["error"]))
    });
    vec![json!(object::name(component)), json!(status), json!(message), json!(error)]
}
