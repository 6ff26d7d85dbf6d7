//! The subresources that are not simply a part of the object: scale, binding, eviction, finalize.

use dray_machinery::{FieldErrors, Status, Subresource, object, patch, selector::LabelSelector, time};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    decode,
    negotiate::Accept,
    request::ResourceRequest,
    respond::{self, Answer},
    server::Inner,
    write::{Change, Retry},
};

/// The Scale of an object.
pub(crate) fn scale(object: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    // The oldest kind that scales selects by plain labels.
    let selector = &object["spec"]["selector"];
    let plain = selector.as_object().filter(|labels| labels.values().all(Value::is_string));
    let selector = match plain {
        Some(labels) if !labels.is_empty() => LabelSelector::from_labels(labels),
        _ => LabelSelector::from_value(selector).unwrap_or_default(),
    }
    .to_string();
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": {},
        "status": { "replicas": object["status"]["replicas"].as_i64().unwrap_or(0), "selector": selector },
    });
    if let Some(replicas) = object["spec"]["replicas"].as_i64().filter(|replicas| *replicas != 0) {
        scale["spec"]["replicas"] = json!(replicas);
    }
    scale
}

/// The Scale of a request's object.
pub(crate) fn scale_of(request: &ResourceRequest, object: &Value) -> Result<Value, Status> {
    let usual = scale(object);
    let Some(custom) = &request.custom else { return Ok(usual) };
    match custom.scale(object, usual["metadata"].clone()) {
        Some(scale) => scale.map_err(Status::internal),
        None => Ok(usual),
    }
}

impl Inner {
    /// A request for a subresource whose form is not the object's own.
    pub(crate) async fn subresource(
        &self,
        method: &Method,
        subresource: Subresource,
        change: &Change<'_>,
    ) -> Result<Answer, Status> {
        match (subresource, method) {
            (Subresource::Scale, &Method::GET) => self.get_scale(change.request, change.accept).await,
            (Subresource::Scale, &Method::PUT | &Method::PATCH) => self.set_scale(method, change).await,
            (Subresource::Binding, &Method::POST) => self.bind(change).await,
            (Subresource::Eviction, &Method::POST) => self.evict(change).await,
            (Subresource::Finalize, &Method::PUT) => self.finalize(change).await,
            (Subresource::Token, _) => self.request_token(method, change),
            _ => Err(Status::method_not_allowed()),
        }
    }

    async fn get_scale(&self, request: &ResourceRequest, accept: Accept) -> Result<Answer, Status> {
        let entry = self.store.get(&self.key(request, &request.name)).ok_or_else(|| request.not_found())?;
        let object = respond::parse(self.entry(request, entry).await?.json())?;
        Ok(respond::value(StatusCode::OK, accept.encoding, &scale_of(request, &object)?))
    }

    async fn set_scale(&self, method: &Method, change: &Change<'_>) -> Result<Answer, Status> {
        let request = change.request;
        let merge = *method == Method::PATCH;
        let body =
            if merge { decode::json(change.body)? } else { decode::object(change.headers, change.body)? };
        let json_patch = decode::media(change.headers) == "application/json-patch+json";
        let outcome = self
            .modify(change, Retry::Newer, |old| {
                let before = scale_of(request, old)?;
                let wanted = if json_patch {
                    patch::json(&before, &body)?
                } else if merge {
                    let mut wanted = before;
                    patch::merge(&mut wanted, &body);
                    wanted
                } else {
                    body.clone()
                };
                let version = object::meta(&wanted, "resourceVersion");
                if !version.is_empty() && version != object::meta(old, "resourceVersion") {
                    return Err(Status::modified(request.kind.group, request.kind.plural, &request.name));
                }
                let replicas = wanted["spec"]["replicas"].as_i64().unwrap_or(0);
                if replicas < 0 {
                    let mut errors = FieldErrors::default();
                    errors.invalid("spec.replicas", replicas, "must be greater than or equal to 0");
                    return Err(Status::invalid("autoscaling", "Scale", &request.name, errors.as_slice()));
                }
                let mut new = old.clone();
                match &request.custom {
                    Some(custom) => custom.set_scale(&mut new, replicas),
                    None => {
                        object::child(&mut new, "spec").insert("replicas".into(), json!(replicas));
                    }
                }
                Ok(new)
            })
            .await?;
        let object = respond::parse(&outcome.json)?;
        Ok(respond::value(StatusCode::OK, change.accept.encoding, &scale_of(request, &object)?))
    }

    /// Gives a pod to a node.
    async fn bind(&self, change: &Change<'_>) -> Result<Answer, Status> {
        let request = change.request;
        let binding = decode::object(change.headers, change.body)?;
        let node = object::text(&binding, &["target", "name"]).to_owned();
        let kind = object::text(&binding, &["target", "kind"]);
        let mut errors = FieldErrors::default();
        if !matches!(kind, "" | "Node") {
            errors.not_supported("target.kind", kind, &["Node"]);
        }
        if node.is_empty() {
            errors.required("target.name", "");
        }
        if !errors.is_empty() {
            return Err(Status::invalid("", "Binding", &request.name, errors.as_slice()));
        }
        let uid = object::meta(&binding, "uid").to_owned();
        self.modify(change, Retry::Newer, |old| {
            let conflict = |why: String| Status::conflict("", "pods/binding", &request.name, why);
            if !uid.is_empty() && uid != object::meta(old, "uid") {
                return Err(conflict(format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    object::meta(old, "uid")
                )));
            }
            if object::is_terminating(old) {
                return Err(conflict(format!(
                    "pod {} is being deleted, cannot be assigned to a host",
                    request.name
                )));
            }
            let assigned = object::text(old, &["spec", "nodeName"]);
            if !assigned.is_empty() {
                return Err(conflict(format!(
                    "pod {} is already assigned to node {assigned:?}",
                    request.name
                )));
            }
            let mut new = old.clone();
            object::child(&mut new, "spec").insert("nodeName".into(), json!(node));
            let annotations = binding["metadata"]["annotations"].as_object();
            for (key, value) in annotations.into_iter().flatten() {
                object::child(&mut new["metadata"], "annotations").insert(key.clone(), value.clone());
            }
            schedule_condition(&mut new);
            Ok(new)
        })
        .await?;
        let success =
            json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 });
        Ok(respond::value(StatusCode::CREATED, change.accept.encoding, &success))
    }

    /// Takes finalizers of the specification away: how a namespace is let go.
    async fn finalize(&self, change: &Change<'_>) -> Result<Answer, Status> {
        let body = crate::write::read_object(change)?;
        let outcome = self
            .modify(change, Retry::Newer, |old| {
                let version = object::meta(&body, "resourceVersion");
                if !version.is_empty() && version != object::meta(old, "resourceVersion") {
                    return Err(Status::modified("", "namespaces", &change.request.name));
                }
                let mut new = old.clone();
                object::copy_field(&body, &mut new, "spec");
                Ok(new)
            })
            .await?;
        respond::stored(StatusCode::OK, change.request, change.accept, &outcome.json)
    }
}

/// Notes in a pod's status that it was given to a node.
fn schedule_condition(pod: &mut Value) {
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": time::now(),
    });
    let conditions = object::child(pod, "status").entry("conditions").or_insert_with(|| json!([]));
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.retain(|other| other["type"] != "PodScheduled");
        conditions.push(condition);
    }
    object::prune_nulls(pod);
}
