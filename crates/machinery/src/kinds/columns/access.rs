//! The cells of bindings of roles and of requests for certificates.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE_COLUMN, Column, age, items, or, text, wide};
use crate::{object, time};

pub(in crate::kinds) const ROLE_BINDING: &[Column] = &[
    text("Role", "The role that is granted."),
    AGE_COLUMN,
    wide("Users", "Users in the roleBinding"),
    wide("Groups", "Groups in the roleBinding"),
    wide("ServiceAccounts", "ServiceAccounts in the roleBinding"),
];

pub(in crate::kinds) const CLUSTER_ROLE_BINDING: &[Column] = &[
    text("Role", "The role that is granted."),
    AGE_COLUMN,
    wide("Users", "Users in the clusterRoleBinding"),
    wide("Groups", "Groups in the clusterRoleBinding"),
    wide("ServiceAccounts", "ServiceAccounts in the clusterRoleBinding"),
];

pub(in crate::kinds) const CERTIFICATE_SIGNING_REQUEST: &[Column] = &[
    AGE_COLUMN,
    text("SignerName", "The signer that is asked."),
    text("Requestor", "The user who made the request."),
    text("RequestedDuration", "For how long the certificate is wanted."),
    text("Condition", "What was decided about the request."),
];

pub(in crate::kinds) fn role_binding(binding: &Value, now: Timestamp) -> Vec<Value> {
    let role = &binding["roleRef"];
    let subjects = |kind: &str| {
        let names: Vec<String> = items(binding, &["subjects"])
            .iter()
            .filter(|subject| subject["kind"] == kind)
            .map(|subject| {
                let name = object::text(subject, &["name"]);
                match object::text(subject, &["namespace"]) {
                    namespace if kind == "ServiceAccount" && !namespace.is_empty() => {
                        format!("{namespace}/{name}")
                    }
                    _ => name.to_owned(),
                }
            })
            .collect();
        json!(names.join(", "))
    };
    vec![
        json!(object::name(binding)),
        json!(format!("{}/{}", object::text(role, &["kind"]), object::text(role, &["name"]))),
        age(binding, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

pub(in crate::kinds) fn certificate_signing_request(request: &Value, now: Timestamp) -> Vec<Value> {
    let conditions = items(request, &["status", "conditions"]);
    let has = |kind: &str| conditions.iter().any(|condition| condition["type"] == kind);
    let mut state = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !object::text(request, &["status", "certificate"]).is_empty() {
        state.push_str(",Issued");
    }
    let seconds = request["spec"]["expirationSeconds"].as_i64();
    let wanted = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    vec![
        json!(object::name(request)),
        age(request, now),
        or(object::text(request, &["spec", "signerName"]), "<none>"),
        json!(object::text(request, &["spec", "username"])),
        json!(wanted.map_or_else(|| "<none>".into(), |wanted| time::age(Timestamp::UNIX_EPOCH, wanted))),
        json!(state),
    ]
}
