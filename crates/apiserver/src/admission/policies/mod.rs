//! Policies of the cluster's own: expressions that change objects or refuse them, put in force by bindings, which may give
//! them parameters.

mod compiled;
mod mutating;
mod params;
mod status;
mod types;
mod validating;

use std::{collections::HashMap, sync::Arc};

use dray_access::Attributes;
use dray_machinery::{FieldErrors, Status, kinds, object};
use parking_lot::Mutex;
use serde_json::Value;

use super::{
    Admission, Operation, expressions,
    matching::{Form, Subject},
};
use compiled::Compiled;

pub(super) use mutating::mutate;
pub(super) use validating::validate;

const GROUP: &str = "admissionregistration.k8s.io";
/// The most policies that are kept compiled.
const KEPT: usize = 1024;

/// Policies that have been compiled, by their uid, with the version that was.
#[derive(Default)]
pub(crate) struct Policies(Mutex<HashMap<String, (String, Arc<Compiled>)>>);

impl Policies {
    fn compiled(&self, policy: &Value) -> Arc<Compiled> {
        let (uid, version) = (object::meta(policy, "uid"), object::meta(policy, "resourceVersion"));
        if let Some((known, compiled)) = self.0.lock().get(uid)
            && known == version
        {
            return compiled.clone();
        }
        let compiled = Arc::new(Compiled::new(policy));
        let mut kept = self.0.lock();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(uid.to_owned(), (version.to_owned(), compiled.clone()));
        compiled
    }
}

/// The names of the two resources of one kind of policy.
struct Resources {
    policies: &'static str,
    bindings: &'static str,
}

/// A policy that is to be evaluated, once for each of its parameters.
struct Invocation {
    policy: Value,
    binding: Value,
    compiled: Arc<Compiled>,
    form: Form,
    /// Null where the binding names none.
    params: Value,
}

/// Why a policy could not be put to use.
struct Misconfigured {
    policy: Value,
    /// Null where it is the policy's own fault.
    binding: Value,
    message: String,
}

fn ignores_failures(policy: &Value) -> bool {
    policy["spec"]["failurePolicy"] == "Ignore"
}

/// The policies that are about a request, and those that would be if they could.
async fn invocations(
    admission: &Admission<'_>,
    subject: &Subject,
    resources: &Resources,
) -> Result<(Vec<Invocation>, Vec<Misconfigured>), Status> {
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    let snapshot = &admission.snapshot;
    if snapshot.count(resources.policies) == 0 || snapshot.count(resources.bindings) == 0 {
        return Ok((found, wrong));
    }
    let bindings = admission.all(resources.bindings, "")?;
    for policy in admission.all(resources.policies, "")? {
        let name = object::name(&policy);
        let bindings: Vec<&Value> =
            bindings.iter().filter(|binding| binding["spec"]["policyName"] == name).collect();
        if bindings.is_empty() {
            continue;
        }
        let mut fails = |binding: &Value, message: String| {
            if !ignores_failures(&policy) {
                wrong.push(Misconfigured { policy: policy.clone(), binding: binding.clone(), message });
            }
        };
        let form =
            match subject.matches(admission, &policy["spec"]["matchConstraints"], "resourceRules", true) {
                Ok(Some(form)) => form,
                Ok(None) => continue,
                Err(status) => {
                    fails(&Value::Null, format!("failed to configure policy: {status}"));
                    continue;
                }
            };
        let compiled = admission.inner.policies.compiled(&policy);
        for binding in bindings {
            let resources = &binding["spec"]["matchResources"];
            let params = match subject.matches(admission, resources, "resourceRules", true) {
                Ok(None) => continue,
                Ok(Some(_)) => params::of(admission, &policy, binding, &subject.namespace).await,
                Err(status) => Err(status.to_string()),
            };
            match params {
                Ok(all) => found.extend(all.into_iter().map(|params| Invocation {
                    policy: policy.clone(),
                    binding: binding.clone(),
                    compiled: compiled.clone(),
                    form,
                    params,
                })),
                Err(why) => fails(binding, format!("failed to configure binding: {why}")),
            }
        }
    }
    Ok((found, wrong))
}

fn or_all(text: &str) -> &str {
    if text.is_empty() { "*" } else { text }
}

/// Refuses policies and bindings that would show parameters to who may not read them.
fn check_reader(admission: &Admission<'_>, new: &Value, errors: &mut FieldErrors) -> Result<(), Status> {
    let kind = admission.request().kind.kind;
    let (policies, binding) = match kind {
        "ValidatingAdmissionPolicyBinding" => ("validatingadmissionpolicies", true),
        "MutatingAdmissionPolicyBinding" => ("mutatingadmissionpolicies", true),
        _ => ("", false),
    };
    let spec = &new["spec"];
    let reference = &spec["paramRef"];
    let policy = if binding {
        let name = object::text(spec, &["policyName"]);
        admission.stored(&format!("{GROUP}/{policies}"), name)?.unwrap_or_default()
    } else {
        new.clone()
    };
    let wanted = &policy["spec"]["paramKind"];
    if (binding && !reference.is_object()) || (!binding && !wanted.is_object()) {
        return Ok(());
    }
    let (version, name) = (object::text(wanted, &["apiVersion"]), object::text(wanted, &["kind"]));
    let (group, number) = version.split_once('/').unwrap_or(("", version));
    // Of a policy or a kind that is not there yet nothing is known: it takes the right to read everything.
    let group = if version.is_empty() { "*" } else { group };
    let custom = || Some(admission.inner.custom.table().find_version(group, number, name)?.kind);
    let resource = kinds::find_version(group, number, name).or_else(custom).map_or("*", |kind| kind.plural);
    let named = object::text(reference, &["name"]);
    let asked = Attributes {
        verb: if binding && named.is_empty() { "list" } else { "get" },
        group,
        resource,
        namespace: or_all(object::text(reference, &["namespace"])),
        name: or_all(named),
        ..Attributes::default()
    };
    if admission.may(&asked)? {
        return Ok(());
    }
    let (user, verb) = (&admission.user().name, asked.verb);
    if binding {
        let why =
            format!("user {user} does not have {verb:?} permission on the object referenced by paramRef");
        errors.forbidden("spec.paramRef", why);
    } else {
        errors.forbidden(
            "spec.paramKind",
            format!(
                "user {user} must have {verb:?} permission on all objects of the referenced paramKind (kind={name}, \
                 apiVersion={version})"
            ),
        );
    }
    Ok(())
}

/// Refuses webhooks and policies whose expressions mean nothing, or tell what is not theirs to tell.
pub(super) fn check_expressions(admission: &Admission<'_>, new: &Value) -> Result<(), Status> {
    let kind = admission.request().kind;
    if kind.group != GROUP
        || admission.operation == Operation::Delete
        || admission.request().subresource.is_some()
    {
        return Ok(());
    }
    let same = |part: &str| admission.old.is_object() && admission.old[part] == new[part];
    let mut errors = FieldErrors::default();
    match kind.kind {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" if !same("webhooks") => {
            for (index, hook) in new["webhooks"].as_array().into_iter().flatten().enumerate() {
                let conditions = hook["matchConditions"].as_array().into_iter().flatten();
                for (number, condition) in conditions.enumerate() {
                    let expression = object::text(condition, &["expression"]);
                    if let Err(why) = expressions::condition(expression) {
                        let path = format!("webhooks[{index}].matchConditions[{number}].expression");
                        errors.invalid(path, expression, why);
                    }
                }
            }
        }
        "MutatingAdmissionPolicyBinding" | "ValidatingAdmissionPolicyBinding" if !same("spec") => {
            check_reader(admission, new, &mut errors)?;
        }
        "MutatingAdmissionPolicy" | "ValidatingAdmissionPolicy" if !same("spec") => {
            check_reader(admission, new, &mut errors)?;
            for wrong in Compiled::new(new).wrong() {
                errors.invalid(wrong.path, wrong.expression, wrong.why);
            }
        }
        _ => {}
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(kind.group, kind.kind, admission.name, errors.as_slice()))
    }
}
