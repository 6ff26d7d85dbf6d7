//! DELETE: at once, with time to end, or after finalizers.

use dray_machinery::{FieldErrors, Kind, Status, object, time};
use dray_store::Error;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    admission::{Admission, IMMORTAL, Operation},
    custom, decode,
    read::{check_preconditions, list_value},
    respond::{self, Answer},
    server::Inner,
    write::{Change, is_finished, store_failure, stored_text},
};

/// What a delete asks for: `metav1.DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub(crate) grace: Option<i64>,
    propagation: Option<Propagation>,
    pub(crate) preconditions: Value,
    pub(crate) dry: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Propagation {
    Background,
    Foreground,
    Orphan,
}

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

impl Options {
    fn read(change: &Change<'_>) -> Result<Options, Status> {
        let body =
            if change.body.is_empty() { Value::Null } else { decode::object(change.headers, change.body)? };
        let kind = object::text(&body, &["kind"]);
        if !matches!(kind, "" | "DeleteOptions") {
            return Err(Status::bad_request(format!(
                "decoded object cannot be converted to DeleteOptions: {kind}"
            )));
        }
        let mut options = Options::from_value(&body)?;
        let query = &change.request.query;
        if let Some(grace) = query.number("gracePeriodSeconds")? {
            options.grace = Some(grace as i64);
        }
        if !query.get("propagationPolicy").is_empty() {
            options.propagation = propagation(query.get("propagationPolicy"))?;
        }
        options.dry |= change.request.dry_run()?;
        Ok(options)
    }

    pub(crate) fn from_value(body: &Value) -> Result<Options, Status> {
        let mut options = Options {
            grace: body["gracePeriodSeconds"].as_i64(),
            propagation: propagation(object::text(body, &["propagationPolicy"]))?,
            preconditions: body["preconditions"].clone(),
            dry: body["dryRun"].as_array().is_some_and(|all| all.iter().any(|one| one == "All")),
        };
        if let Some(orphan) = body["orphanDependents"].as_bool() {
            options.propagation = Some(if orphan { Propagation::Orphan } else { Propagation::Background });
        }
        Ok(options)
    }

    /// Whether only one version of the object may be deleted.
    pub(crate) fn names_version(&self) -> bool {
        self.preconditions["resourceVersion"].is_string()
    }

    /// The same, but of one version of the object only.
    pub(crate) fn of_version(&self, version: &str) -> Options {
        let mut options = self.clone();
        if !options.preconditions.is_object() {
            options.preconditions = json!({});
        }
        options.preconditions["resourceVersion"] = json!(version);
        options
    }
}

fn propagation(text: &str) -> Result<Option<Propagation>, Status> {
    Ok(Some(match text {
        "" => return Ok(None),
        "Background" => Propagation::Background,
        "Foreground" => Propagation::Foreground,
        "Orphan" => Propagation::Orphan,
        other => {
            let mut errors = FieldErrors::default();
            errors.not_supported("propagationPolicy", other, &["Background", "Foreground", "Orphan"]);
            return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", errors.as_slice()));
        }
    }))
}

/// What became of an object that was to be deleted.
enum Gone {
    /// It is no more.
    Yes(Value),
    /// It is on its way out.
    NotYet(Value),
}

impl Inner {
    /// DELETE of one object.
    pub(crate) async fn delete(&self, change: &Change<'_>) -> Result<Answer, Status> {
        let options = Options::read(change)?;
        self.delete_with(change, &options).await
    }

    pub(crate) async fn delete_with(&self, change: &Change<'_>, options: &Options) -> Result<Answer, Status> {
        let request = change.request;
        let kind = request.kind;
        if kind.kind == "Namespace" && IMMORTAL.contains(&request.name.as_str()) {
            return Err(Status::forbidden(
                "",
                "namespaces",
                &request.name,
                "this namespace may not be deleted",
            ));
        }
        match self.delete_object(change, options).await? {
            Gone::Yes(object) => {
                let uid = object::meta(&object, "uid");
                let status = Status::success(kind.group, kind.plural, &request.name, uid);
                Ok(respond::value(StatusCode::OK, change.accept.encoding, &status))
            }
            Gone::NotYet(object) => {
                respond::stored(StatusCode::OK, request, change.accept, &stored_text(kind, &object))
            }
        }
    }

    async fn delete_object(&self, change: &Change<'_>, options: &Options) -> Result<Gone, Status> {
        let request = change.request;
        let kind = request.kind;
        let key = self.key(request, &request.name);
        loop {
            let current = self.store.get(&key).ok_or_else(|| request.not_found())?;
            let old = respond::parse_as(kind, self.entry(request, current.clone()).await?.json())?;
            check_preconditions(request, &old, &options.preconditions)?;
            let admission = Admission::new(self, change, Operation::Delete, &request.name, &old);
            self.judge(&admission, &old).await?;
            let mut new = old.clone();
            mark(kind, options, &mut new);
            if options.dry {
                return Ok(if is_finished(kind, &new) { Gone::Yes(new) } else { Gone::NotYet(new) });
            }
            if is_finished(kind, &new) {
                match self.store.delete(key.clone(), Some(current.revision()), None).await {
                    Ok(_) => {
                        self.release(kind, &old);
                        return Ok(Gone::Yes(old));
                    }
                    Err(Error::Conflict { .. }) => continue,
                    Err(error) => return Err(store_failure(kind, &request.name, error)),
                }
            }
            if new == old {
                return Ok(Gone::NotYet(old));
            }
            let draft = self.draft(request, &new).await?;
            match self.store.update(key.clone(), draft, current.revision()).await {
                Ok(entry) => {
                    let entry = self.entry(request, entry).await?;
                    return Ok(Gone::NotYet(respond::parse_as(kind, entry.json())?));
                }
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(store_failure(kind, &request.name, error)),
            }
        }
    }

    /// DELETE of a collection.
    pub(crate) async fn delete_collection(&self, change: &Change<'_>) -> Result<Answer, Status> {
        let options = Options::read(change)?;
        let kind = change.request.kind;
        let mut deleted = Vec::new();
        for object in self.select(change.request).await? {
            let mut request = change.request.clone();
            request.name = object::name(&object).to_owned();
            if kind.namespaced {
                request.namespace = object::namespace(&object).to_owned();
            }
            let one = Change::new(
                &request,
                change.user,
                change.headers,
                change.body,
                change.accept,
                change.manager.clone(),
            );
            match self.delete_object(&one, &options).await {
                Ok(Gone::Yes(object) | Gone::NotYet(object)) => deleted.push(object),
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status),
            }
        }
        let version = self.store.snapshot().revision().to_string();
        let list = list_value(kind, json!({ "resourceVersion": version }), deleted);
        Ok(respond::value(StatusCode::OK, change.accept.encoding, &list))
    }
}

/// Writes into an object's metadata that it is to go.
fn mark(kind: &Kind, options: &Options, object: &mut Value) {
    if let Some(propagation) = options.propagation {
        set_finalizer(object, ORPHAN, propagation == Propagation::Orphan);
        set_finalizer(object, FOREGROUND, propagation == Propagation::Foreground);
    }
    let grace = if kind.graceful { grace(options, object) } else { 0 };
    let was_terminating = object::is_terminating(object);
    if was_terminating {
        let left = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        // The time to end may only be shortened.
        if kind.graceful && (options.grace.is_some() || left == 0) && grace < left {
            set_deletion(object, grace, true);
        }
        return;
    }
    set_deletion(object, grace, false);
    custom::hold(kind, object);
    if kind.kind == "Namespace" {
        object::child(object, "status").insert("phase".into(), json!("Terminating"));
    }
    if kind.generation {
        let generation = object["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        object::meta_mut(object).insert("generation".into(), json!(generation));
    }
}

fn set_deletion(object: &mut Value, grace: i64, again: bool) {
    let start = if again {
        // What counts is when the delete began.
        let before = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        time::parse(object::meta(object, "deletionTimestamp"))
            .and_then(|at| at.checked_sub(SignedDuration::from_secs(before)).ok())
            .unwrap_or_else(Timestamp::now)
    } else {
        Timestamp::now()
    };
    let at = start.checked_add(SignedDuration::from_secs(grace)).unwrap_or(start);
    let metadata = object::meta_mut(object);
    metadata.insert("deletionTimestamp".into(), json!(time::seconds(at)));
    metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
}

/// How long a pod may take to end: nothing for one that no node runs, or that has ended.
fn grace(options: &Options, pod: &Value) -> i64 {
    let wanted = options
        .grace
        .or_else(|| object::at(pod, &["spec", "terminationGracePeriodSeconds"]).as_i64())
        .unwrap_or(30);
    let wanted = if wanted < 0 { 1 } else { wanted };
    let ended = matches!(object::text(pod, &["status", "phase"]), "Failed" | "Succeeded");
    if object::text(pod, &["spec", "nodeName"]).is_empty() || ended { 0 } else { wanted }
}

fn set_finalizer(object: &mut Value, finalizer: &str, present: bool) {
    let metadata = object::meta_mut(object);
    let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut() {
        list.retain(|other| other != finalizer);
        if present {
            list.push(json!(finalizer));
        }
        if list.is_empty() {
            metadata.remove("finalizers");
        }
    }
}
