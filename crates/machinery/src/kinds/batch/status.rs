//! What the status of a Job may say, and how it may change.

use serde_json::Value;

use super::indexes;
use crate::{FieldErrors, Subresource, kinds::field::Field, time};

fn holds(job: &Field<'_>, kind: &str) -> bool {
    job.at(&["status", "conditions"])
        .items()
        .any(|condition| condition.get("type").text() == kind && condition.get("status").text() == "True")
}

pub(in crate::kinds) fn validate_part(part: Subresource, job: &Value, old: &Value, errors: &mut FieldErrors) {
    if part != Subresource::Status {
        return;
    }
    let (job, old) = (Field::root(job), Field::root(old));
    let status = job.get("status");
    status.none_negative(&["active", "succeeded", "failed", "ready", "terminating"], errors);
    uncounted(&status, errors);
    conditions(&job, &old, errors);
    times(&job, &old, errors);
    counts(&job, &old, errors);
    sets(&job, errors);
}

fn uncounted(status: &Field<'_>, errors: &mut FieldErrors) {
    let mut seen = Vec::new();
    for list in ["succeeded", "failed"] {
        for uid in status.at(&["uncountedTerminatedPods", list]).items() {
            if uid.is_empty() {
                uid.invalid("must not be empty", errors);
            } else if seen.contains(&uid.text()) {
                uid.duplicate(errors);
            }
            seen.push(uid.text());
        }
    }
}

fn conditions(job: &Field<'_>, old: &Field<'_>, errors: &mut FieldErrors) {
    let is = |kind: &str| holds(job, kind);
    let succeeds = job.at(&["spec", "successPolicy"]).is_set();
    let wrong = [
        (is("Complete") && is("Failed"), "cannot set Complete=True and Failed=true conditions"),
        (is("Complete") && is("FailureTarget"), "cannot set Complete=True and FailureTarget=true conditions"),
        (
            is("Failed") && !is("FailureTarget") && !holds(old, "Failed"),
            "cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            is("Complete") && !is("SuccessCriteriaMet") && !holds(old, "Complete"),
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (
            is("SuccessCriteriaMet") && is("Failed"),
            "cannot set SuccessCriteriaMet=True and Failed=true conditions",
        ),
        (
            is("SuccessCriteriaMet") && is("FailureTarget"),
            "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
        ),
        (
            succeeds && is("Complete") && !is("SuccessCriteriaMet"),
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        ),
        (
            holds(old, "SuccessCriteriaMet") && !is("SuccessCriteriaMet"),
            "cannot disable the SuccessCriteriaMet=True condition",
        ),
        (
            holds(old, "Complete") && !holds(old, "SuccessCriteriaMet") && is("SuccessCriteriaMet"),
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
        ),
    ];
    for (_, text) in wrong.iter().filter(|(wrong, _)| *wrong) {
        errors.invalid_without_value("status.conditions", *text);
    }
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if holds(old, kind) && !is(kind) {
            let text = format!("cannot disable the terminal {kind}=True condition");
            errors.invalid_without_value("status.conditions", text);
        }
    }
}

fn times(job: &Field<'_>, old: &Field<'_>, errors: &mut FieldErrors) {
    let status = job.get("status");
    let (start, end) = (status.get("startTime"), status.get("completionTime"));
    let (started, ended) = (old.at(&["status", "startTime"]), old.at(&["status", "completionTime"]));
    let complete = holds(job, "Complete");
    if end.is_set() && !complete {
        end.invalid("cannot set completionTime when there is no Complete=True condition", errors);
    }
    if !end.is_set() && complete {
        end.required("completionTime is required for Complete jobs", errors);
    }
    if let (Some(start), Some(last)) = (time::parse(start.text()), time::parse(end.text()))
        && last < start
    {
        end.invalid("completionTime cannot be set before startTime", errors);
    }
    if !start.is_set() && (complete || holds(job, "Failed")) {
        start.required("startTime is required for finished job", errors);
    }
    if end.is_set() && ended.is_set() && end.value() != ended.value() {
        end.invalid("completionTime cannot be mutated", errors);
    }
    if started.is_set() && start.value() != started.value() && !job.at(&["spec", "suspend"]).is_true() {
        start.required("startTime cannot be removed for unsuspended job", errors);
    }
}

fn counts(job: &Field<'_>, old: &Field<'_>, errors: &mut FieldErrors) {
    let status = job.get("status");
    let number = |name: &str| status.get(name).number().unwrap_or(0);
    if holds(job, "Complete") || holds(job, "Failed") {
        for name in ["active", "terminating"] {
            if number(name) > 0 {
                status.get(name).invalid(format!("{name}>0 is invalid for finished job"), errors);
            }
        }
        let waiting = status.get("uncountedTerminatedPods");
        if !waiting.get("failed").is_empty() || !waiting.get("succeeded").is_empty() {
            waiting.invalid("uncountedTerminatedPods needs to be empty for finished job", errors);
        }
    }
    if status.get("ready").is_set() && number("ready") > number("active") {
        status.get("ready").invalid("cannot set more ready pods than active", errors);
    }
    // An indexed job whose size is changed may lose indexes that were done.
    let spec = job.get("spec");
    let elastic = spec.get("completionMode").text() == "Indexed"
        && spec.get("completions").value() == spec.get("parallelism").value();
    for name in ["failed", "succeeded"] {
        if name == "succeeded" && elastic {
            continue;
        }
        if number(name) < old.at(&["status", name]).number().unwrap_or(0) {
            errors.invalid(
                status.get(name).path(),
                number(name),
                format!("cannot decrease the {name} counter"),
            );
        }
    }
}

fn sets(job: &Field<'_>, errors: &mut FieldErrors) {
    let (spec, status) = (job.get("spec"), job.get("status"));
    let (complete, failed) = (status.get("completedIndexes"), status.get("failedIndexes"));
    let completions = spec.get("completions").number();
    let mut read = |field: &Field<'_>, name: &str| {
        let completions = completions?;
        let found = indexes::parse(field.text(), completions);
        found.map_err(|wrong| field.invalid(format!("error parsing {name}: {wrong}"), errors)).ok()
    };
    let (one, two) = (read(&complete, "completedIndexes"), read(&failed, "failedIndexes"));
    if spec.get("completionMode").text() != "Indexed" && !complete.is_empty() {
        complete.invalid("cannot set non-empty completedIndexes when non-indexed completion mode", errors);
    }
    if failed.is_set() && !spec.get("backoffLimitPerIndex").is_set() {
        failed.invalid("cannot set non-null failedIndexes when backoffLimitPerIndex is null", errors);
    }
    let shared = one.zip(two).and_then(|(one, two)| indexes::overlap(&one, &two));
    if let Some(index) = shared {
        failed.invalid(format!("failedIndexes and completedIndexes overlap at index: {index}"), errors);
    }
}
