//! Roles and their bindings.

use serde_json::{Value, json};

use super::{
    field::Field,
    fill::{default_object, default_text},
};
use crate::{FieldErrors, names, object};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn default_binding(binding: &mut Value) {
    default_text(default_object(binding, "roleRef"), "apiGroup", GROUP);
    for subject in object::items_mut(binding, "subjects") {
        if matches!(object::text(subject, &["kind"]), "User" | "Group") {
            default_text(subject, "apiGroup", GROUP);
        }
    }
}

fn validate_rules(role: &Value, namespaced: bool, errors: &mut FieldErrors) {
    for rule in Field::root(role).get("rules").items() {
        let list = |name: &str| rule.get(name);
        if list("verbs").is_empty() {
            list("verbs").required("verbs must contain at least one value", errors);
        }
        let urls = list("nonResourceURLs");
        if !urls.is_empty() {
            if namespaced {
                urls.invalid("namespaced rules cannot apply to non-resource URLs", errors);
            }
            if ["apiGroups", "resources", "resourceNames"].iter().any(|name| !list(name).is_empty()) {
                urls.invalid("rules cannot apply to both regular resources and non-resource URLs", errors);
            }
            continue;
        }
        if list("apiGroups").is_empty() {
            list("apiGroups").required("resource rules must supply at least one api group", errors);
        }
        if list("resources").is_empty() {
            list("resources").required("resource rules must supply at least one resource", errors);
        }
    }
}

pub(super) fn validate_role(role: &Value, errors: &mut FieldErrors) {
    validate_rules(role, true, errors);
}

pub(super) fn validate_cluster_role(role: &Value, errors: &mut FieldErrors) {
    validate_rules(role, false, errors);
    let aggregation = Field::root(role).get("aggregationRule");
    if aggregation.is_set() {
        let selectors = aggregation.get("clusterRoleSelectors");
        if selectors.is_empty() {
            selectors
                .required("at least one clusterRoleSelector required if aggregationRule is non-nil", errors);
        }
        for selector in selectors.items() {
            selector.selector(errors);
        }
    }
}

fn validate_any_binding(binding: &Value, namespaced: bool, errors: &mut FieldErrors) {
    let root = Field::root(binding);
    let role = root.get("roleRef");
    if role.get("apiGroup").text() != GROUP {
        role.get("apiGroup").unsupported(&[GROUP], errors);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&role.get("kind").text()) {
        role.get("kind").unsupported(kinds, errors);
    }
    role.get("name").needs_name(names::path_segment, errors);
    for subject in root.get("subjects").items() {
        let (name, group) = (subject.get("name"), subject.get("apiGroup"));
        name.needed(errors);
        match subject.get("kind").text() {
            "ServiceAccount" => {
                name.named(names::subdomain, errors);
                if !group.is_empty() {
                    group.unsupported(&[""], errors);
                }
                if !namespaced {
                    subject.get("namespace").needed(errors);
                }
            }
            "User" | "Group" => {
                if group.text() != GROUP {
                    group.unsupported(&[GROUP], errors);
                }
            }
            _ => subject.get("kind").unsupported(&["ServiceAccount", "User", "Group"], errors),
        }
    }
}

pub(super) fn validate_binding(binding: &Value, errors: &mut FieldErrors) {
    validate_any_binding(binding, true, errors);
}

pub(super) fn validate_cluster_binding(binding: &Value, errors: &mut FieldErrors) {
    validate_any_binding(binding, false, errors);
}

pub(super) fn validate_binding_update(binding: &Value, old: &Value, errors: &mut FieldErrors) {
    if binding["roleRef"] != old["roleRef"] {
        errors.invalid("roleRef", json!(binding["roleRef"]), "cannot change roleRef");
    }
}
