//! Which requests webhooks and policies are about: their rules, scopes and selectors, and the form of a request that they
//! see.

use dray_access::MASTERS;
use dray_machinery::{Kind, Status, Subresource, kinds, object, selector::LabelSelector};
use serde_json::{Value, json};

use super::{Admission, Operation};
use crate::{
    custom::Custom,
    subresources::{scale, scale_of},
};

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

    fn is_version_of(self, other: Form) -> bool {
        (self.resource.group, self.resource.version) == (other.resource.group, other.resource.version)
    }
}

/// An object of a built-in kind of one form in another.
fn convert(mut object: Value, from: Form, to: Form) -> Value {
    if let Some(alias) = &from.resource.stored_as {
        (alias.to_stored)(&mut object);
    }
    if let Some(alias) = &to.resource.stored_as {
        (alias.from_stored)(&mut object);
    }
    object
}

/// Objects of a request of one form in another. A null stays one.
pub(super) async fn in_form(
    admission: &Admission<'_>,
    mut objects: Vec<Value>,
    from: Form,
    to: Form,
) -> Result<Vec<Value>, Status> {
    if from.is_version_of(to) || from.part.is_some_and(|part| part.kind().is_some()) {
        return Ok(objects);
    }
    let there: Vec<usize> = (0..objects.len()).filter(|at| !objects[*at].is_null()).collect();
    let taken: Vec<Value> = there.iter().map(|at| objects[*at].take()).collect();
    let made = match &admission.request().custom {
        Some(custom) => admission.inner.in_version(custom, to.resource.version, taken).await?,
        None => taken.into_iter().map(|object| convert(object, from, to)).collect(),
    };
    for (at, object) in there.into_iter().zip(made) {
        objects[at] = object;
    }
    Ok(objects)
}

/// One object of a request of one form in another.
pub(super) async fn one_in_form(
    admission: &Admission<'_>,
    object: Value,
    from: Form,
    to: Form,
) -> Result<Value, Status> {
    let made = in_form(admission, vec![object], from, to).await?;
    made.into_iter().next().ok_or_else(|| Status::internal("an object was lost on its way"))
}

/// The object of a request and what it was before, in the forms that have been asked for: a webhook that converts is asked
/// once.
#[derive(Default)]
pub(super) struct Shown(Vec<(Form, Value, Value)>);

impl Shown {
    pub(super) async fn get(
        &mut self,
        admission: &Admission<'_>,
        subject: &Subject,
        form: Form,
    ) -> Result<(Value, Value), Status> {
        if let Some((_, object, old)) = self.0.iter().find(|(known, ..)| known.is_version_of(form)) {
            return Ok((object.clone(), old.clone()));
        }
        let both = vec![subject.object.clone(), subject.old.clone()];
        let mut made = in_form(admission, both, subject.form, form).await?.into_iter();
        let mut next = || made.next().unwrap_or_default();
        let (object, old) = (next(), next());
        self.0.push((form, object.clone(), old.clone()));
        Ok((object, old))
    }
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
    /// The definition of its kind, where that is not built in.
    custom: Option<Custom>,
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
        Some(Subresource::Scale) => {
            let shown = |object: &Value| scale_of(request, object).unwrap_or_else(|_| scale(object));
            (object, old) = (shown(&object), shown(&old));
        }
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
        custom: request.custom.clone(),
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

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

fn named(items: &[Value], name: &str) -> bool {
    items.iter().any(|item| item == "*" || item == name)
}

impl Subject {
    /// Writes what was made of the request's object back into the object that it is about.
    pub(super) fn take_back(&self, object: &mut Value, shown: Value) {
        match self.form.part {
            Some(Subresource::Scale) => {
                let replicas = shown["spec"]["replicas"].as_i64().unwrap_or(0);
                match &self.custom {
                    Some(custom) => custom.set_scale(object, replicas),
                    None => {
                        object::child(object, "spec").insert("replicas".into(), json!(replicas));
                    }
                }
            }
            Some(Subresource::Binding) => {
                let node = object::text(&shown, &["target", "name"]);
                object::child(object, "spec").insert("nodeName".into(), json!(node));
            }
            _ => *object = shown,
        }
    }

    /// The other forms of the same objects. Those of a definition come in its order; whether they are served does not matter.
    fn equivalents(&self) -> Vec<Form> {
        let Form { resource: own, part } = self.form;
        let is_other = |other: &Kind| {
            (other.group, other.version) != (own.group, own.version)
                && part.is_none_or(|part| other.has(part))
        };
        let rows: Vec<&'static Kind> = match &self.custom {
            Some(custom) => custom.definition.versions.iter().map(|version| version.kind).collect(),
            None => {
                let storage = own.storage();
                kinds::all().iter().filter(|other| other.storage() == storage).collect()
            }
        };
        rows.into_iter().filter(|row| is_other(row)).map(|resource| Form { resource, part }).collect()
    }

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
        let equivalents = self.equivalents();
        rules.iter().find_map(|rule| equivalents.iter().copied().find(|form| self.is_meant(rule, *form)))
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
            custom: None,
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
        let subject = subject("deployments", Some(Subresource::Scale), "UPDATE");
        assert_eq!(subject.form.kind(), ("autoscaling", "v1", "Scale"));
        let mut deployment = json!({ "spec": { "replicas": 1, "paused": true } });
        subject.take_back(&mut deployment, json!({ "spec": { "replicas": 3 } }));
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
