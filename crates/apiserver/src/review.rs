//! Questions: who one is, and what one or somebody else may do. They are answered by the rules of access that
//! requests go by, and never kept.

use dray_machinery::{FieldErrors, Status, object};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    request::{Identity, is_master},
    respond::{self, Answer},
    write::{Change, read_object},
};

/// Answers a question.
pub(crate) fn answer(method: &Method, identity: &Identity, change: &Change<'_>) -> Result<Answer, Status> {
    if *method != Method::POST || !change.request.name.is_empty() {
        return Err(Status::method_not_allowed());
    }
    let kind = change.request.kind;
    let mut review = read_object(change)?;
    let mut errors = FieldErrors::default();
    review["status"] = match kind.kind {
        "SelfSubjectReview" => {
            json!({ "userInfo": { "username": identity.user, "groups": identity.groups } })
        }
        // No token is known here: connections are authenticated by certificates.
        "TokenReview" => {
            if object::text(&review, &["spec", "token"]).is_empty() {
                return Err(Status::bad_request("token is required for TokenReview in authentication"));
            }
            json!({ "authenticated": false, "user": {} })
        }
        "SelfSubjectRulesReview" => {
            if object::text(&review, &["spec", "namespace"]).is_empty() {
                errors.required("spec.namespace", "");
            }
            rules(identity)
        }
        "SelfSubjectAccessReview" => {
            check_attributes(&review, &mut errors);
            access(is_master(&identity.groups))
        }
        // "SubjectAccessReview" and "LocalSubjectAccessReview".
        _ => {
            check_attributes(&review, &mut errors);
            let spec = &review["spec"];
            let groups: Vec<&str> =
                spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            if object::text(spec, &["user"]).is_empty() && groups.is_empty() {
                errors.required("spec.user", "at least one of user or group must be specified");
            }
            let asked = object::text(spec, &["resourceAttributes", "namespace"]);
            if kind.namespaced && asked != change.request.namespace {
                errors.invalid("spec.resourceAttributes.namespace", asked, "must match metadata.namespace");
            }
            access(is_master(&groups))
        }
    };
    if !errors.is_empty() {
        return Err(Status::invalid(kind.group, kind.kind, "", errors.as_slice()));
    }
    Ok(respond::value(StatusCode::CREATED, change.accept.encoding, &review))
}

fn access(allowed: bool) -> Value {
    json!({ "allowed": allowed })
}

/// What someone may do, as rules.
fn rules(identity: &Identity) -> Value {
    let mut resources = vec![json!({
        "apiGroups": ["authentication.k8s.io", "authorization.k8s.io"], "verbs": ["create"],
        "resources": ["selfsubjectreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews"],
    })];
    let mut others = Vec::new();
    if is_master(&identity.groups) {
        resources.insert(0, json!({ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }));
        others.push(json!({ "nonResourceURLs": ["*"], "verbs": ["*"] }));
    }
    json!({ "resourceRules": resources, "nonResourceRules": others, "incomplete": false })
}

fn check_attributes(review: &Value, errors: &mut FieldErrors) {
    let spec = &review["spec"];
    if spec["resourceAttributes"].is_object() == spec["nonResourceAttributes"].is_object() {
        errors.invalid(
            "spec.resourceAttributes",
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        );
    }
}
