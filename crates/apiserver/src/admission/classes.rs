//! Classes that objects name: RuntimeClass gives pods their overhead and place, DefaultIngressClass gives an Ingress its
//! class, and of PriorityClasses one alone is the default.

use dray_machinery::{Status, object};
use serde_json::{Value, json};

use super::{Admission, Operation};

const DEFAULT_INGRESS_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

pub(super) fn set_overhead(admission: &Admission<'_>, pod: &mut Value) -> Result<(), Status> {
    if !admission.creates("", "pods") {
        return Ok(());
    }
    let name = object::text(pod, &["spec", "runtimeClassName"]).to_owned();
    let overhead = object::at(pod, &["spec", "overhead"]).clone();
    let is_set = overhead.as_object().is_some_and(|fields| !fields.is_empty());
    if name.is_empty() {
        return if is_set {
            Err(admission.forbidden(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ))
        } else {
            Ok(())
        };
    }
    let Some(class) = admission.stored("node.k8s.io/runtimeclasses", &name)? else {
        return Err(admission.forbidden(format!("pod rejected: RuntimeClass {name:?} not found")));
    };
    let fixed = class["overhead"]["podFixed"].clone();
    match (fixed.is_object(), is_set) {
        (true, true) if fixed != overhead => {
            return Err(admission
                .forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"));
        }
        (true, _) => pod["spec"]["overhead"] = fixed,
        (false, true) => {
            return Err(admission.forbidden(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ));
        }
        (false, false) => {}
    }
    let scheduling = &class["scheduling"];
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        let selector = &mut pod["spec"]["nodeSelector"];
        if !selector.is_object() {
            *selector = json!({});
        }
        if selector.get(key).is_some_and(|given| given != value) {
            return Err(admission.forbidden(format!(
                "conflict: node selector label {key} of the pod and of its RuntimeClass differ"
            )));
        }
        selector[key] = value.clone();
    }
    for toleration in scheduling["tolerations"].as_array().into_iter().flatten() {
        let tolerations = &mut pod["spec"]["tolerations"];
        if !tolerations.is_array() {
            *tolerations = json!([]);
        }
        if let Some(all) = tolerations.as_array_mut().filter(|all| !all.contains(toleration)) {
            all.push(toleration.clone());
        }
    }
    Ok(())
}

pub(super) fn set_ingress_class(admission: &Admission<'_>, ingress: &mut Value) -> Result<(), Status> {
    if !admission.creates("networking.k8s.io", "ingresses")
        || !object::at(ingress, &["spec", "ingressClassName"]).is_null()
    {
        return Ok(());
    }
    if ingress["metadata"]["annotations"]["kubernetes.io/ingress.class"].is_string() {
        return Ok(());
    }
    let classes = admission.all("networking.k8s.io/ingressclasses", "")?;
    let defaults = classes
        .iter()
        .filter(|class| class["metadata"]["annotations"][DEFAULT_INGRESS_CLASS] == "true")
        .collect::<Vec<_>>();
    // Of several, the newest; of those of one second, the first by name.
    let chosen = defaults.iter().max_by(|a, b| {
        let made = |class: &Value| object::meta(class, "creationTimestamp").to_owned();
        made(a).cmp(&made(b)).then_with(|| object::name(b).cmp(object::name(a)))
    });
    if let Some(class) = chosen
        && ingress["spec"].is_object()
    {
        ingress["spec"]["ingressClassName"] = json!(object::name(class));
    }
    Ok(())
}

pub(super) fn check_priority_class(admission: &Admission<'_>, class: &Value) -> Result<(), Status> {
    if admission.operation == Operation::Delete
        || !admission.is("scheduling.k8s.io", "priorityclasses")
        || class["globalDefault"] != true
    {
        return Ok(());
    }
    let classes = admission.all("scheduling.k8s.io/priorityclasses", "")?;
    let other =
        classes.iter().find(|other| other["globalDefault"] == true && object::name(other) != admission.name);
    match other {
        Some(other) => Err(admission.forbidden(format!(
            "PriorityClass {} is already marked as default. Only one default can exist",
            object::name(other)
        ))),
        None => Ok(()),
    }
}
