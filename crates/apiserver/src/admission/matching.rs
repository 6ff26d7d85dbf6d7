//! Which requests webhooks and policies are about: their rules, scopes and selectors, and the form of a request that they
//! see.

use dray_access::MASTERS;
use dray_machinery::{Kind, Status, Subresource, kinds, object, selector::LabelSelector};
use serde_json::{Value, json};

use super::{Admission, Operation};
use crate::subresources::scale;

/// A form in which a request can be seen: a resource in a version, or a part of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub(super) resource: &'static Kind,
    pub(super) part: Option<Subresource>,
}

impl Form {
    /// Group, version and kind of the object.
    pub(super) fn kind(self) -> (&'static str, &'static str, &'static str) {
        let own = (self.resource.group, self.resource.version, self.resource.kind);
        self.part.and_then(Subresource::kind).unwrap_or(own)
    }

    /// The name of the object's schema.
    pub(super) fn schema(self) -> &'static str {
        match self.kind() {
            ("autoscaling", "v1", "Scale") => "io.k8s.api.autoscaling.v1.Scale",
            ("", "v1", "Binding") => "io.k8s.api.core.v1.Binding",
            _ => self.resource.schema,
        }
    }

    pub(super) fn part_name(self) -> &'static str {
        self.part.map_or("", Subresource::as_str)
    }

    pub(super) fn kind_value(self) -> Value {
        let (group, version, kind) = self.kind();
        json!({ "group": group, "version": version, "kind": kind })
    }

    pub(super) fn resource_value(self) -> Value {
        let Kind { group, version, plural, .. } = *self.resource;
        json!({ "group": group, "version": version, "resource": plural })
    }

    /// The other forms of the same objects.
    fn equivalents(self) -> impl Iterator<Item = Form> {
        let (storage, own) = (self.resource.storage(), self.resource);
        let others = kinds::all().iter().filter(move |other| {
            other.storage() == storage && (other.group, other.version) != (own.group, own.version)
        });
        let others = others.filter(move |other| self.part.is_none_or(|part| other.has(part)));
        others.map(move |resource| Form { resource, part: self.part })
    }
}

/// An object of one form in another.
pub(super) fn convert(mut object: Value, from: Form, to: Form) -> Value {
    let same = (from.resource.group, from.resource.version) == (to.resource.group, to.resource.version);
    if same || object.is_null() || from.part.is_some_and(|part| part.kind().is_some()) {
        return object;
    }
    if let Some(alias) = &from.resource.stored_as {
        (alias.to_stored)(&mut object);
    }
    if let Some(alias) = &to.resource.stored_as {
        (alias.from_stored)(&mut object);
    }
    object
}

/// A request as webhooks and policies see it.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) form: Form,
    pub(super) operation: &'static str,
    /// The namespace, which of a namespace is the namespace itself.
    pub(super) namespace: String,
    pub(super) name: String,
    /// Null for a delete.
    pub(super) object: Value,
    /// Null for what is new.
    pub(super) old: Value,
}

/// The server as a user.
const SERVER: &str = "system:apiserver";

/// Kinds that nobody may change or refuse but the server: whoever could would lock everybody out.
const EXEMPT: &[&str] = &[
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

/// What a request is to webhooks and policies; none for one that is not shown to them.
pub(super) fn subject(admission: &Admission<'_>, object: &Value) -> Option<Subject> {
    let request = admission.request();
    let kind = request.kind;
    // What the server makes for itself it makes before anybody could answer.
    let user = admission.user();
    if user.name == SERVER && user.is_in(MASTERS) {
        return None;
    }
    if kind.group == "admissionregistration.k8s.io" && EXEMPT.contains(&kind.kind) {
        return None;
    }
    let form = Form { resource: kind, part: request.subresource };
    let (mut operation, mut object, mut old) = match admission.operation {
        Operation::Create => ("CREATE", object.clone(), Value::Null),
        Operation::Update => ("UPDATE", object.clone(), admission.old.clone()),
        Operation::Delete => ("DELETE", Value::Null, object.clone()),
        Operation::Connect => ("CONNECT", object.clone(), Value::Null),
    };
    match request.subresource {
        Some(Subresource::Scale) => (object, old) = (scale(&object), scale(&old)),
        Some(Subresource::Binding) => (operation, object, old) = ("CREATE", binding(&object), Value::Null),
        _ => {}
    }
    let is_namespace = kind.group.is_empty() && kind.plural == "namespaces";
    let namespace = if is_namespace { admission.name } else { request.namespace.as_str() };
    Some(Subject {
        form,
        operation,
        namespace: namespace.to_owned(),
        name: admission.name.to_owned(),
        object,
        old,
    })
}

/// What a pod's object says of where it goes, as the binding that was sent.
fn binding(pod: &Value) -> Value {
    let node = object::text(pod, &["spec", "nodeName"]);
    json!({
        "kind": "Binding", "apiVersion": "v1",
        "metadata": { "name": object::name(pod), "namespace": object::namespace(pod) },
        "target": { "kind": "Node", "name": node },
    })
}

/// Writes what was made of a request's object back into the object that it is about.
pub(super) fn take_back(form: Form, object: &mut Value, shown: Value) {
    match form.part {
        Some(Subresource::Scale) => {
            let replicas = shown["spec"]["replicas"].as_i64().unwrap_or(0);
            object::child(object, "spec").insert("replicas".into(), json!(replicas));
        }
        Some(Subresource::Binding) => {
            let node = object::text(&shown, &["target", "name"]);
            object::child(object, "spec").insert("nodeName".into(), json!(node));
        }
        _ => *object = shown,
    }
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

fn named(items: &[Value], name: &str) -> bool {
    items.iter().any(|item| item == "*" || item == name)
}

impl Subject {
    /// Whether a rule is about the request, seen in a form.
    fn is_meant(&self, rule: &Value, form: Form) -> bool {
        let kind = form.resource;
        let clustered = !kind.namespaced;
        let in_scope = match object::text(rule, &["scope"]) {
            "Namespaced" => !clustered,
            "Cluster" => clustered,
            _ => true,
        };
        let names = list(rule, "resourceNames");
        in_scope
            && named(list(rule, "operations"), self.operation)
            && named(list(rule, "apiGroups"), kind.group)
            && named(list(rule, "apiVersions"), kind.version)
            && (names.is_empty() || names.iter().any(|name| *name == *self.name))
            && list(rule, "resources").iter().filter_map(Value::as_str).any(|resource| {
                let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
                (resource == "*" || resource == kind.plural) && (part == "*" || part == form.part_name())
            })
    }

    /// The form in which rules are about the request.
    fn meant(&self, rules: &[Value], equivalent: bool) -> Option<Form> {
        if rules.iter().any(|rule| self.is_meant(rule, self.form)) {
            return Some(self.form);
        }
        if !equivalent {
            return None;
        }
        rules.iter().find_map(|rule| self.form.equivalents().find(|form| self.is_meant(rule, *form)))
    }

    /// The form in which a webhook, or the `matchConstraints` or `matchResources` of a policy, are about the request;
    /// none where they are not. `rules` names the list of rules; where it is empty and may be, everything is meant.
    pub(super) fn matches(
        &self,
        admission: &Admission<'_>,
        who: &Value,
        rules: &str,
        empty_is_all: bool,
    ) -> Result<Option<Form>, Status> {
        let in_namespace = self.namespace_matches(admission, &who["namespaceSelector"]);
        if matches!(in_namespace, Ok(false)) || !self.object_matches(&who["objectSelector"])? {
            return Ok(None);
        }
        // Webhooks and policies whose policy is not said are of the newest kind.
        let equivalent = object::text(who, &["matchPolicy"]) != "Exact";
        if self.meant(list(who, "excludeResourceRules"), equivalent).is_some() {
            return Ok(None);
        }
        let rules = list(who, rules);
        let form =
            if rules.is_empty() && empty_is_all { Some(self.form) } else { self.meant(rules, equivalent) };
        // What went wrong only matters to those who are meant.
        match form {
            Some(form) => in_namespace.map(|_| Some(form)),
            None => Ok(None),
        }
    }

    fn namespace_matches(&self, admission: &Admission<'_>, selector: &Value) -> Result<bool, Status> {
        if self.namespace.is_empty() || is_everything(selector) {
            return Ok(true);
        }
        let selector = LabelSelector::from_value(selector).map_err(Status::internal)?;
        let is_namespace = self.form.resource.group.is_empty() && self.form.resource.plural == "namespaces";
        if is_namespace && self.operation != "DELETE" {
            return Ok(selector.matches_object(&self.object));
        }
        let namespace = admission.stored("core/namespaces", &self.namespace)?;
        let namespace = namespace.ok_or_else(|| Status::not_found("", "namespaces", &self.namespace))?;
        Ok(selector.matches_object(&namespace))
    }

    fn object_matches(&self, selector: &Value) -> Result<bool, Status> {
        if is_everything(selector) {
            return Ok(true);
        }
        let selector = LabelSelector::from_value(selector).map_err(Status::internal)?;
        let matches = |object: &Value| object.is_object() && selector.matches_object(object);
        Ok(matches(&self.object) || matches(&self.old))
    }
}

fn is_everything(selector: &Value) -> bool {
    let empty = |field: &str| match &selector[field] {
        Value::Object(labels) => labels.is_empty(),
        Value::Array(expressions) => expressions.is_empty(),
        _ => true,
    };
    empty("matchLabels") && empty("matchExpressions")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(plural: &str, part: Option<Subresource>, operation: &'static str) -> Subject {
        let resource = kinds::all().iter().find(|kind| kind.plural == plural).unwrap();
        Subject {
            form: Form { resource, part },
            operation,
            namespace: "default".into(),
            name: "web".into(),
            object: json!({ "metadata": { "labels": { "app": "web" } } }),
            old: Value::Null,
        }
    }

    fn rule(groups: &str, versions: &str, resources: &[&str], operations: &[&str], scope: &str) -> Value {
        json!({ "apiGroups": [groups], "apiVersions": [versions], "resources": resources, "operations": operations,
            "scope": scope })
    }

    #[test]
    fn rules_mean_requests() {
        let deployment = subject("deployments", None, "CREATE");
        let status = subject("deployments", Some(Subresource::Status), "UPDATE");
        let node = subject("nodes", None, "UPDATE");
        for (subject, rule, expected) in [
            (&deployment, rule("apps", "v1", &["deployments"], &["CREATE"], "*"), true),
            (&deployment, rule("*", "*", &["*"], &["*"], "Namespaced"), true),
            (&deployment, rule("*", "*", &["*"], &["*"], "Cluster"), false),
            (&deployment, rule("apps", "v1", &["deployments"], &["UPDATE", "DELETE"], "*"), false),
            (&deployment, rule("", "v1", &["deployments"], &["*"], "*"), false),
            (&deployment, rule("apps", "v1", &["deployments/*"], &["*"], "*"), true),
            (&deployment, rule("apps", "v1", &["deployments/status"], &["*"], "*"), false),
            (&status, rule("apps", "v1", &["deployments"], &["*"], "*"), false),
            (&status, rule("apps", "v1", &["deployments/*"], &["*"], "*"), true),
            (&status, rule("apps", "v1", &["*/status"], &["*"], "*"), true),
            (&node, rule("*", "*", &["*/*"], &["*"], "Cluster"), true),
        ] {
            assert_eq!(subject.is_meant(&rule, subject.form), expected, "{rule}");
        }
    }

    #[test]
    fn equivalent_forms_are_meant_too() {
        let scaler = kinds::find("autoscaling", "v2", "horizontalpodautoscalers").unwrap();
        let mut subject = subject("pods", None, "CREATE");
        subject.form = Form { resource: scaler, part: None };
        let rules = [rule("autoscaling", "v1", &["horizontalpodautoscalers"], &["*"], "*")];
        assert!(subject.meant(&rules, false).is_none());
        let form = subject.meant(&rules, true).unwrap();
        assert_eq!(form.kind(), ("autoscaling", "v1", "HorizontalPodAutoscaler"));
        let object = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": "a" },
            "spec": { "maxReplicas": 3, "metrics": [{ "type": "Resource", "resource":
                { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 80 } } }] },
        });
        let shown = convert(object.clone(), subject.form, form);
        assert_eq!(shown["spec"]["targetCPUUtilizationPercentage"], 80);
        assert_eq!(convert(shown, form, subject.form), object);
    }

    #[test]
    fn parts_are_seen_in_their_own_form() {
        let form = subject("deployments", Some(Subresource::Scale), "UPDATE").form;
        assert_eq!(form.kind(), ("autoscaling", "v1", "Scale"));
        let mut deployment = json!({ "spec": { "replicas": 1, "paused": true } });
        take_back(form, &mut deployment, json!({ "spec": { "replicas": 3 } }));
        assert_eq!(deployment, json!({ "spec": { "replicas": 3, "paused": true } }));
    }

    #[test]
    fn objects_are_selected_by_what_they_are_or_were() {
        let mut one = subject("pods", None, "UPDATE");
        let selector = json!({ "matchLabels": { "app": "web" } });
        assert!(one.object_matches(&selector).unwrap());
        std::mem::swap(&mut one.object, &mut one.old);
        assert!(one.object_matches(&selector).unwrap());
        assert!(!one.object_matches(&json!({ "matchLabels": { "app": "db" } })).unwrap());
        assert!(one.object_matches(&json!({})).unwrap() && one.object_matches(&Value::Null).unwrap());
    }
}
