//! Webhooks: programs of others that are asked what to change, one after the other, and whether to refuse, all at once.

use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use dray_machinery::{Status, object, patch, schema};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{
    Admission,
    expressions::{self, Facts},
    matching::{self, Form, Shown, Subject},
    rounds::Rounds,
};

const MUTATING: &str = "admissionregistration.k8s.io/mutatingwebhookconfigurations";
const VALIDATING: &str = "admissionregistration.k8s.io/validatingwebhookconfigurations";
const VERSION: &str = "admission.k8s.io/v1";
/// Versions of the reviews that are spoken. The older has the same fields.
const VERSIONS: &[&str] = &["v1", "v1beta1"];
/// The most warnings of one answer that are passed on, and the most characters of each.
const WARNINGS: usize = 32;
const WARNING_LENGTH: usize = 1024;

/// What of an object's metadata only the server says.
const KEPT: &[&str] =
    &["name", "namespace", "uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"];

/// Why a webhook does not let a request pass.
enum Refusal {
    /// It gave no answer that means anything. Its failure policy says what follows.
    Failed(String),
    /// It says no, or what it wants cannot be.
    Denied(Status),
}

/// A webhook that is to be asked.
struct Invocation {
    hook: Value,
    /// Tells webhooks of all configurations apart.
    identity: String,
    form: Form,
    /// The object in that form, and what it was before.
    object: Value,
    old: Value,
}

/// The webhooks of the configurations, in the order of their names.
fn hooks(admission: &Admission<'_>, resource: &str) -> Result<Vec<(String, Value)>, Status> {
    let mut hooks = Vec::new();
    for configuration in admission.all(resource, "")? {
        let name = object::name(&configuration).to_owned();
        for hook in configuration["webhooks"].as_array().into_iter().flatten() {
            hooks.push((format!("{name}/{}", object::text(hook, &["name"])), hook.clone()));
        }
    }
    Ok(hooks)
}

fn name(hook: &Value) -> &str {
    object::text(hook, &["name"])
}

fn ignores_failures(hook: &Value) -> bool {
    hook["failurePolicy"] == "Ignore"
}

/// Whether a webhook is to be asked about a request, and in which form.
async fn invocation(
    admission: &Admission<'_>,
    subject: &Subject,
    shown: &mut Shown,
    (identity, hook): (String, Value),
) -> Result<Option<Invocation>, Status> {
    let Some(form) = subject.matches(admission, &hook, "rules", false)? else { return Ok(None) };
    let (object, old) = shown.get(admission, subject, form).await?;
    let invocation = Invocation { hook, identity, form, object, old };
    Ok(if is_wanted(admission, subject, &invocation)? { Some(invocation) } else { None })
}

/// Whether a webhook's conditions hold.
fn is_wanted(admission: &Admission<'_>, subject: &Subject, invocation: &Invocation) -> Result<bool, Status> {
    let conditions = &invocation.hook["matchConditions"];
    if conditions.as_array().is_none_or(Vec::is_empty) {
        return Ok(true);
    }
    let Invocation { form, object, old, .. } = invocation;
    let facts = Facts::new(admission, subject, *form, object.clone(), old.clone())?;
    let holds = expressions::conditions_hold(
        &admission.inner.programs,
        conditions,
        &facts.activation(None),
        ignores_failures(&invocation.hook),
    );
    holds.map_err(|why| admission.forbidden(why))
}

/// Asks a webhook; gives the response of its review.
async fn ask(
    admission: &Admission<'_>,
    subject: &Subject,
    invocation: &Invocation,
    mutating: bool,
) -> Result<Value, Refusal> {
    let hook = &invocation.hook;
    if admission.request().dry_run().map_err(Refusal::Denied)?
        && !matches!(object::text(hook, &["sideEffects"]), "None" | "NoneOnDryRun")
    {
        let why = format!("admission webhook {:?} does not support dry run", name(hook));
        return Err(Refusal::Denied(Status::bad_request(why)));
    }
    let mut versions = hook["admissionReviewVersions"].as_array().into_iter().flatten();
    let version = versions.find_map(|version| VERSIONS.iter().find(|known| *version == **known));
    let Some(version) = version else {
        let why = "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
        return Err(Refusal::Failed(why.to_owned()));
    };
    let version = format!("{}{version}", VERSION.trim_end_matches("v1"));
    let (object, old) = (invocation.object.clone(), invocation.old.clone());
    let facts = Facts::new(admission, subject, invocation.form, object, old).map_err(Refusal::Denied)?;
    let uid = uuid::Uuid::new_v4().to_string();
    let mut request = facts.request;
    request["uid"] = json!(uid);
    request["object"] = facts.object;
    request["oldObject"] = facts.old;
    let review = json!({ "kind": "AdmissionReview", "apiVersion": version, "request": request });
    let patience = Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30));
    let answer = admission
        .inner
        .call_webhook(&hook["clientConfig"], Bytes::from(review.to_string()), patience)
        .await
        .map_err(|why| Refusal::Failed(format!("failed to call webhook: {why}")))?;
    verify(&answer, &version, &uid, mutating)
        .map_err(|why| Refusal::Failed(format!("received invalid webhook response: {why}")))?;
    let response = &answer["response"];
    for warning in response["warnings"].as_array().into_iter().flatten().take(WARNINGS) {
        if let Some(text) = warning.as_str() {
            admission.warn(text.chars().take(WARNING_LENGTH).collect());
        }
    }
    if response["allowed"] != true {
        return Err(Refusal::Denied(denied(name(hook), &response["status"])));
    }
    Ok(response.clone())
}

/// What is wrong with an answer.
fn verify(answer: &Value, version: &str, uid: &str, mutating: bool) -> Result<(), String> {
    let response = &answer["response"];
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    let given = object::text(response, &["uid"]);
    if given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    let kind = |version: &str, kind: &str| format!("{version}, Kind={kind}");
    let found = kind(object::text(answer, &["apiVersion"]), object::text(answer, &["kind"]));
    let expected = kind(version, "AdmissionReview");
    if found != expected {
        return Err(format!("expected webhook response of {expected}, got {found}"));
    }
    let patch = !object::text(response, &["patch"]).is_empty();
    let kind = response.get("patchType").filter(|kind| !kind.is_null());
    match (mutating, patch, kind) {
        (false, true, _) => Err("validating webhook may not return response.patch".to_owned()),
        (false, _, Some(_)) => Err("validating webhook may not return response.patchType".to_owned()),
        (true, true, None) => Err("webhook returned response.patch but not response.patchType".to_owned()),
        (true, false, Some(_)) => {
            Err("webhook returned response.patchType but not response.patch".to_owned())
        }
        (true, true, Some(kind)) if kind != "JSONPatch" => {
            Err(format!("webhook returned invalid response.patchType of {kind}"))
        }
        _ => Ok(()),
    }
}

/// A webhook's refusal, in the form that clients get.
fn denied(name: &str, status: &Value) -> Status {
    let by = format!("admission webhook {name:?} denied the request");
    let (message, reason) = (object::text(status, &["message"]), object::text(status, &["reason"]));
    let message = match (message, reason) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    Status::told(status, 400, message)
}

/// Has the webhooks change an object.
pub(super) async fn mutate(
    admission: &Admission<'_>,
    object: &mut Value,
    rounds: &mut Rounds,
) -> Result<(), Status> {
    if admission.snapshot.count(MUTATING) == 0 {
        return Ok(());
    }
    let hooks = hooks(admission, MUTATING)?;
    let second = rounds.is_second;
    rounds.webhooks.begin(second, object);
    for (identity, hook) in hooks {
        if !rounds.webhooks.is_due(second, &identity) {
            continue;
        }
        let Some(subject) = matching::subject(admission, object) else { return Ok(()) };
        let mut shown = Shown::default();
        let invocation = invocation(admission, &subject, &mut shown, (identity, hook)).await?;
        let Some(invocation) = invocation else { continue };
        let hook = &invocation.hook;
        let changed = match ask(admission, &subject, &invocation, true).await {
            Ok(response) => apply(admission, &subject, &invocation, &response).await,
            Err(refusal) => Err(refusal),
        };
        match changed {
            Ok(Some(changed)) => {
                subject.take_back(object, changed);
                rounds.webhooks.changed();
                rounds.needs_second = true;
            }
            Ok(None) => {}
            Err(refusal) => pass_or_fail(hook, refusal)?,
        }
        if hook["reinvocationPolicy"] == "IfNeeded" {
            rounds.webhooks.asked(invocation.identity);
        }
    }
    rounds.webhooks.end(object);
    Ok(())
}

/// What a failure of a webhook means to the request.
fn pass_or_fail(hook: &Value, refusal: Refusal) -> Result<(), Status> {
    match refusal {
        Refusal::Denied(status) => Err(status),
        Refusal::Failed(why) => {
            let told = format!("failed calling webhook {:?}: {why}", name(hook));
            tracing::warn!(%told, "a webhook failed");
            if ignores_failures(hook) { Ok(()) } else { Err(Status::internal(told)) }
        }
    }
}

/// What a webhook makes of the object; none where it changes nothing.
async fn apply(
    admission: &Admission<'_>,
    subject: &Subject,
    invocation: &Invocation,
    response: &Value,
) -> Result<Option<Value>, Refusal> {
    let undecodable = |why: &dyn std::fmt::Display| {
        Refusal::Failed(format!("received undecodable patch in webhook response: {why}"))
    };
    let encoded = object::text(response, &["patch"]);
    if encoded.is_empty() {
        return Ok(None);
    }
    let text =
        base64::engine::general_purpose::STANDARD.decode(encoded).map_err(|error| undecodable(&error))?;
    let operations: Value = serde_json::from_slice(&text).map_err(|error| undecodable(&error))?;
    match operations.as_array().map(Vec::len) {
        None => return Err(undecodable(&"it is no list of operations")),
        Some(0) => return Ok(None),
        Some(_) => {}
    }
    let internal = |why: &dyn std::fmt::Display| Refusal::Denied(Status::internal(why));
    if subject.object.is_null() {
        let name = name(&invocation.hook);
        return Err(internal(&format_args!(
            "admission webhook {name:?} attempted to modify the object, which is not supported for this operation"
        )));
    }
    let (shown, form) = (&invocation.object, invocation.form);
    let patched = patch::json(shown, &operations).map_err(|status| internal(&status))?;
    let patched = settle(admission, shown, patched, form).map_err(Refusal::Denied)?;
    if patched == *shown {
        return Ok(None);
    }
    let patched = matching::one_in_form(admission, patched, form, subject.form);
    let patched = patched.await.map_err(Refusal::Denied)?;
    Ok((patched != subject.object).then_some(patched))
}

/// An object after somebody from outside has changed it: read by its schema, with what may be left out, and with what
/// only the server says as it was.
pub(super) fn settle(
    admission: &Admission<'_>,
    before: &Value,
    mut after: Value,
    form: Form,
) -> Result<Value, Status> {
    // What is sent to talk to a container has no metadata.
    let is_known = before["metadata"].is_object();
    if !after.is_object() || (is_known && !after["metadata"].is_object()) {
        return Err(Status::internal("the changed object is no object"));
    }
    let custom = admission.request().custom.as_ref();
    let custom = &custom.and_then(|custom| custom.other(form.resource.version));
    // A custom kind may have fields that can be null.
    if custom.is_none() {
        object::prune_nulls(&mut after);
    }
    for field in ["kind", "apiVersion"] {
        after[field] = before[field].clone();
    }
    let kept: &[&str] = if is_known { KEPT } else { &[] };
    for field in kept {
        match before["metadata"].get(field) {
            Some(value) => after["metadata"][*field] = value.clone(),
            None => object::remove(&mut after["metadata"], field),
        }
    }
    let own = form.part.and_then(dray_machinery::Subresource::kind).is_none();
    if own {
        let conformed = match (custom, schema::find(form.resource.schema)) {
            (Some(custom), _) => custom.conform(&mut after).map(drop),
            (None, Some(schema)) => schema::conform(&mut after, schema).map(drop),
            (None, None) => Ok(()),
        };
        conformed.map_err(|wrong| {
            Status::internal(format_args!(
                "{} in version {:?} cannot be handled as a {}: {wrong}",
                form.resource.kind, form.resource.version, form.resource.kind
            ))
        })?;
        if admission.request().subresource.is_none() {
            match custom {
                Some(custom) => custom.default(&mut after),
                None => (form.resource.defaults)(&mut after),
            }
        }
    }
    Ok(after)
}

/// Has the webhooks judge an object.
pub(super) async fn validate(admission: &Admission<'_>, object: &Value) -> Result<(), Status> {
    if admission.snapshot.count(VALIDATING) == 0 {
        return Ok(());
    }
    let Some(subject) = matching::subject(admission, object) else { return Ok(()) };
    let (mut invocations, mut shown) = (Vec::new(), Shown::default());
    for hook in hooks(admission, VALIDATING)? {
        invocations.extend(invocation(admission, &subject, &mut shown, hook).await?);
    }
    let asked = invocations.iter().map(|invocation| async {
        match ask(admission, &subject, invocation, false).await {
            Ok(_) => Ok(()),
            Err(refusal) => pass_or_fail(&invocation.hook, refusal),
        }
    });
    join_all(asked).await.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answer: Value, mutating: bool, expected: Result<(), &str>) {
        let found = verify(&answer, "admission.k8s.io/v1", "one", mutating);
        assert_eq!(found, expected.map_err(str::to_owned), "{answer}");
    }

    #[test]
    fn answers_have_to_be_answers() {
        let review = |response: Value| json!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response });
        check(review(json!({ "uid": "one", "allowed": true })), false, Ok(()));
        check(json!({}), false, Err("webhook response was absent"));
        check(json!([1]), false, Err("webhook response was absent"));
        check(review(json!({ "uid": "two" })), false, Err("expected response.uid=\"one\", got \"two\""));
        check(
            json!({ "kind": "Pod", "apiVersion": "v1", "response": { "uid": "one" } }),
            false,
            Err("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got v1, Kind=Pod"),
        );
        let patched = review(json!({ "uid": "one", "patch": "W10=" }));
        check(patched.clone(), false, Err("validating webhook may not return response.patch"));
        check(patched, true, Err("webhook returned response.patch but not response.patchType"));
        let typed = review(json!({ "uid": "one", "patchType": "JSONPatch" }));
        check(typed.clone(), false, Err("validating webhook may not return response.patchType"));
        check(typed, true, Err("webhook returned response.patchType but not response.patch"));
        check(review(json!({ "uid": "one", "patch": "W10=", "patchType": "JSONPatch" })), true, Ok(()));
    }

    #[test]
    fn refusals_are_told_by_whom_they_are() {
        for (status, code, message) in [
            (json!(null), 400, "admission webhook \"w\" denied the request without explanation"),
            (
                json!({ "message": "no", "code": 403, "reason": "Forbidden" }),
                403,
                "admission webhook \"w\" denied the request: no",
            ),
            (
                json!({ "reason": "Tired", "code": 200 }),
                400,
                "admission webhook \"w\" denied the request: Tired",
            ),
        ] {
            let told = denied("w", &status);
            assert_eq!((told.code, told.message.as_str()), (code, message));
            let value = told.to_value();
            assert_eq!(value["reason"], status["reason"]);
            assert_eq!((&value["status"], &value["code"]), (&json!("Failure"), &json!(code)));
        }
    }
}
