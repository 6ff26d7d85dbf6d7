//! Questions: who one is, and what one or somebody else may do. They are answered by the rules of access that
//! requests go by, and never kept.

use dray_access::{Attributes, MASTERS, Rule, User};
use dray_machinery::{FieldErrors, Status, object};
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::{
    access::Decision,
    authenticate::own_audiences,
    respond::{self, Answer},
    server::Inner,
    write::{Change, read_object},
};

impl Inner {
    /// Answers a question.
    pub(crate) fn review(&self, method: &Method, change: &Change<'_>) -> Result<Answer, Status> {
        if *method != Method::POST || !change.request.name.is_empty() {
            return Err(Status::method_not_allowed());
        }
        let kind = change.request.kind;
        let mut review = read_object(change)?;
        let mut errors = FieldErrors::default();
        let spec = &review["spec"];
        let status = match kind.kind {
            "SelfSubjectReview" => json!({ "userInfo": user_info(change.user) }),
            "TokenReview" => {
                if object::text(spec, &["token"]).is_empty() {
                    return Err(Status::bad_request("token is required for TokenReview in authentication"));
                }
                self.review_token(spec)
            }
            "SelfSubjectRulesReview" => {
                let namespace = object::text(spec, &["namespace"]);
                if namespace.is_empty() {
                    errors.required("spec.namespace", "no namespace on request");
                }
                rules(&self.rules(change.user, namespace)?)
            }
            "SelfSubjectAccessReview" => {
                check_attributes(spec, &mut errors);
                self.review_access(change.user, spec)?
            }
            // "SubjectAccessReview" and "LocalSubjectAccessReview".
            _ => {
                check_attributes(spec, &mut errors);
                let user = subject(spec);
                if user.name.is_empty() && user.groups.is_empty() {
                    errors.required("spec.user", "at least one of user or group must be specified");
                }
                let asked = object::text(spec, &["resourceAttributes", "namespace"]);
                if kind.namespaced && asked != change.request.namespace {
                    errors.invalid(
                        "spec.resourceAttributes.namespace",
                        asked,
                        "must match metadata.namespace",
                    );
                }
                self.review_access(&user, spec)?
            }
        };
        if !errors.is_empty() {
            return Err(Status::invalid(kind.group, kind.kind, "", errors.as_slice()));
        }
        review["status"] = status;
        Ok(respond::value(StatusCode::CREATED, change.accept.encoding, &review))
    }

    fn review_access(&self, user: &User, spec: &Value) -> Result<Value, Status> {
        let text = |path: &[&str]| object::text(spec, path);
        let asked = if spec["nonResourceAttributes"].is_object() {
            Attributes::path(
                text(&["nonResourceAttributes", "verb"]),
                text(&["nonResourceAttributes", "path"]),
            )
        } else {
            let text = |field: &str| text(&["resourceAttributes", field]);
            Attributes {
                verb: text("verb"),
                group: text("group"),
                resource: text("resource"),
                subresource: text("subresource"),
                namespace: text("namespace"),
                name: text("name"),
                fields: object::text(spec, &["resourceAttributes", "fieldSelector", "rawSelector"]),
                path: "",
            }
        };
        let Decision { allowed, reason } = self.access.decide(&self.store, user, &asked)?;
        let mut status = json!({ "allowed": allowed });
        if !reason.is_empty() {
            status["reason"] = json!(reason);
        }
        Ok(status)
    }

    fn review_token(&self, spec: &Value) -> Value {
        let asked = texts(&spec["audiences"]);
        let audiences = if asked.is_empty() { own_audiences() } else { asked };
        match self.prove(object::text(spec, &["token"]), &audiences) {
            Ok(proved) => json!({
                "authenticated": true, "user": user_info(&proved.user), "audiences": proved.audiences,
            }),
            Err(why) => json!({ "user": {}, "error": format!("[invalid bearer token, {why}]") }),
        }
    }

    /// The rules that a user has in a namespace.
    fn rules(&self, user: &User, namespace: &str) -> Result<Vec<Rule>, Status> {
        let mut rules = self.access.policy(&self.store, |policy| policy.rules_of(user, namespace))?;
        if user.is_in(MASTERS) {
            let all = || vec!["*".to_owned()];
            let resources = Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() };
            rules.splice(0..0, [resources, Rule { verbs: all(), urls: all(), ..Rule::default() }]);
        }
        Ok(rules)
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The user that a review is about.
fn subject(spec: &Value) -> User {
    let extra = spec["extra"].as_object().into_iter().flatten();
    User {
        name: object::text(spec, &["user"]).to_owned(),
        uid: object::text(spec, &["uid"]).to_owned(),
        groups: texts(&spec["groups"]),
        extra: extra.map(|(key, values)| (key.clone(), texts(values))).collect(),
    }
}

/// A user as reviews show him.
pub(crate) fn user_info(user: &User) -> Value {
    let mut info = Map::new();
    info.insert("username".to_owned(), json!(user.name));
    if !user.uid.is_empty() {
        info.insert("uid".to_owned(), json!(user.uid));
    }
    if !user.groups.is_empty() {
        info.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        info.insert("extra".to_owned(), json!(user.extra));
    }
    Value::Object(info)
}

/// Rules, as a review shows them.
fn rules(rules: &[Rule]) -> Value {
    let (paths, resources): (Vec<&Rule>, Vec<&Rule>) = rules.iter().partition(|rule| !rule.urls.is_empty());
    let values = |rules: Vec<&Rule>| rules.into_iter().map(Rule::to_value).collect::<Vec<Value>>();
    json!({ "resourceRules": values(resources), "nonResourceRules": values(paths), "incomplete": false })
}

fn check_attributes(spec: &Value, errors: &mut FieldErrors) {
    if spec["resourceAttributes"].is_object() == spec["nonResourceAttributes"].is_object() {
        errors.invalid(
            "spec.resourceAttributes",
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        );
    }
}
