//! Jobs, and CronJobs, which make them.

mod indexes;
mod schedule;
mod status;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    drop_status,
    field::Field,
    fill::{default_text, default_value},
    pod,
};
use crate::{FieldErrors, names, object};

pub(super) use status::validate_part as validate_job_part;

const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
const NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

const MOST_PARALLEL: i64 = 100_000;
const MOST_FAILED_INDEXES: i64 = 100_000;
const MANY_COMPLETIONS: i64 = 100_000;
const PARALLEL_OF_MANY: i64 = 10_000;
const FAILED_OF_MANY: i64 = 10_000;
const MOST_RULES: usize = 20;
const MOST_CODES: usize = 255;
const MOST_INDEX_BYTES: usize = 64 * 1024;

pub(super) fn default_job(job: &mut Value) {
    let Some(spec) = job.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    if let Some(template) = spec.get_mut("template") {
        pod::default_template(template);
    }
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        spec["completions"] = json!(1);
    }
    default_value(spec, "parallelism", json!(1));
    let tries = if spec["backoffLimitPerIndex"].is_null() { 6 } else { i32::MAX };
    default_value(spec, "backoffLimit", json!(tries));
    default_value(spec, "completionMode", json!("NonIndexed"));
    default_value(spec, "suspend", json!(false));
    default_value(spec, "manualSelector", json!(false));
    let replaced = if spec["podFailurePolicy"].is_null() { "TerminatingOrFailed" } else { "Failed" };
    default_value(spec, "podReplacementPolicy", json!(replaced));
    default_patterns(spec);
    let labels = object::at(spec, &["template", "metadata", "labels"]).clone();
    if labels.is_object() {
        default_value(&mut job["metadata"], "labels", labels);
    }
}

fn default_patterns(spec: &mut Value) {
    let Some(policy) = spec.get_mut("podFailurePolicy") else { return };
    for rule in object::items_mut(policy, "rules") {
        for pattern in object::items_mut(rule, "onPodConditions") {
            default_text(pattern, "status", "True");
        }
    }
}

pub(super) fn default_cron_job(job: &mut Value) {
    let Some(spec) = job.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    default_text(spec, "concurrencyPolicy", "Allow");
    default_value(spec, "suspend", json!(false));
    default_value(spec, "successfulJobsHistoryLimit", json!(3));
    default_value(spec, "failedJobsHistoryLimit", json!(1));
    if let Some(inner) = spec.get_mut("jobTemplate").and_then(|template| template.get_mut("spec")) {
        if let Some(template) = inner.get_mut("template") {
            pod::default_template(template);
        }
        default_patterns(inner);
    }
}

/// Gives the pods of a new job labels that nobody else's have, and selects by them.
pub(super) fn prepare_job(job: &mut Value) {
    drop_status(job);
    if job["spec"]["manualSelector"] == true || !job["spec"].is_object() {
        return;
    }
    let (uid, name) = (object::meta(job, "uid").to_owned(), object::name(job).to_owned());
    let spec = &mut job["spec"];
    if spec["template"].is_object() {
        let metadata = object::child(&mut spec["template"], "metadata");
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if labels.is_object() {
            for (keys, text) in [(UID_LABELS, &uid), (NAME_LABELS, &name)] {
                for key in keys {
                    default_value(labels, key, json!(text));
                }
            }
        }
    }
    object::child(spec, "selector");
    object::child(&mut spec["selector"], "matchLabels").entry(UID_LABELS[0]).or_insert_with(|| json!(uid));
}

pub(super) fn validate_job(job: &Value, errors: &mut FieldErrors) {
    let root = Field::root(job);
    let spec = root.get("spec");
    generated_selector(&root, errors);
    validate_spec(&spec, errors);
    let selector = spec.get("selector");
    if selector.is_set() {
        selector.selector(errors);
    } else {
        selector.required("", errors);
    }
    let template = spec.get("template");
    if selector.read_selector().is_some_and(|selector| !selector.matches_object(template.value())) {
        template.at(&["metadata", "labels"]).invalid("`selector` does not match template `labels`", errors);
    }
    let completions = spec.get("completions").number().unwrap_or(0);
    if spec.get("completionMode").text() == "Indexed" && completions > 0 {
        let host = format!("{}-{}", object::name(job), completions - 1);
        if !names::label(&host).is_empty() {
            root.at(&["metadata", "name"])
                .invalid(format!("will not able to create pod with invalid DNS label: {host}"), errors);
        }
    }
}

/// A selector that nobody wrote is the one that the server makes.
fn generated_selector(job: &Field<'_>, errors: &mut FieldErrors) {
    let spec = job.get("spec");
    if spec.get("manualSelector").is_true() || !spec.get("selector").is_set() {
        return;
    }
    let (uid, name) = (object::meta(job.value(), "uid"), object::name(job.value()));
    let metadata = spec.at(&["template", "metadata"]);
    let labels = metadata.get("labels");
    let expected = |key: &str| match key {
        key if UID_LABELS.contains(&key) => Some(uid),
        key if NAME_LABELS.contains(&key) => Some(name),
        _ => None,
    };
    for key in [UID_LABELS[1], NAME_LABELS[1], UID_LABELS[0], NAME_LABELS[0]] {
        let (found, wanted) = (labels.get(key), expected(key).unwrap_or_default());
        let path = format!("{}[{key}]", labels.path());
        if !found.is_set() {
            errors.required(path, format!("must be '{wanted}'"));
        } else if found.text() != wanted {
            errors.invalid(path, found.text(), format!("must be '{wanted}'"));
        }
    }
    if spec.get("selector").read_selector().is_some_and(|selector| !selector.matches(expected)) {
        spec.get("selector").invalid("`selector` not auto-generated", errors);
    }
}

fn validate_spec(spec: &Field<'_>, errors: &mut FieldErrors) {
    spec.none_negative(
        &[
            "parallelism",
            "completions",
            "activeDeadlineSeconds",
            "backoffLimit",
            "ttlSecondsAfterFinished",
            "backoffLimitPerIndex",
            "maxFailedIndexes",
        ],
        errors,
    );
    if spec.get("maxFailedIndexes").is_set() && !spec.get("backoffLimitPerIndex").is_set() {
        spec.get("backoffLimitPerIndex").required("when maxFailedIndexes is specified", errors);
    }
    let manager = spec.get("managedBy");
    if manager.is_set() {
        manager.domain_path(errors);
        manager.longest(63, errors);
    }
    completion(spec, errors);
    let failure = spec.get("podFailurePolicy");
    if failure.is_set() {
        failure_policy(spec, &failure, errors);
    }
    let success = spec.get("successPolicy");
    if success.is_set() {
        if spec.get("completionMode").text() == "Indexed" {
            success_policy(spec, &success, errors);
        } else {
            success.invalid("requires indexed completion mode", errors);
        }
    }
    let replaced: &[&str] = if failure.is_set() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    spec.get("podReplacementPolicy").one_of(replaced, errors);
    pod::validate_template(&spec.get("template"), errors);
    let restart = spec.at(&["template", "spec", "restartPolicy"]);
    match restart.text() {
        "Always" | "" => restart.required("valid values: \"OnFailure\", \"Never\"", errors),
        "Never" => {}
        "OnFailure" => {
            if failure.is_set() {
                restart.invalid("only \"Never\" is supported when podFailurePolicy is specified", errors);
            }
        }
        _ => restart.unsupported(&["OnFailure", "Never"], errors),
    }
}

fn completion(spec: &Field<'_>, errors: &mut FieldErrors) {
    let field = |name: &str| spec.get(name);
    field("completionMode").one_of(&["NonIndexed", "Indexed"], errors);
    let (completions, parallelism) = (field("completions"), field("parallelism"));
    let (tries, failed) = (field("backoffLimitPerIndex"), field("maxFailedIndexes"));
    let above = |field: &Field<'_>, bound: i64| field.number().is_some_and(|number| number > bound);
    if field("completionMode").text() != "Indexed" {
        for field in [tries, failed] {
            if field.is_set() {
                field.invalid("requires indexed completion mode", errors);
            }
        }
        return;
    }
    if !completions.is_set() {
        completions.required("when completion mode is Indexed", errors);
    }
    if above(&parallelism, MOST_PARALLEL) {
        let wrong = format!("must be less than or equal to {MOST_PARALLEL} when completion mode is Indexed");
        parallelism.invalid(wrong, errors);
    }
    if completions.number().is_some_and(|completions| above(&failed, completions)) {
        failed.invalid("must be less than or equal to completions", errors);
    }
    if above(&failed, MOST_FAILED_INDEXES) {
        failed.invalid(format!("must be less than or equal to {MOST_FAILED_INDEXES}"), errors);
    }
    if above(&completions, MANY_COMPLETIONS) && tries.is_set() {
        if !failed.is_set() {
            failed
                .required(format!("must be specified when completions is above {MANY_COMPLETIONS}"), errors);
        }
        for (field, bound) in [(parallelism, PARALLEL_OF_MANY), (failed, FAILED_OF_MANY)] {
            if above(&field, bound) {
                let wrong = format!(
                    "must be less than or equal to {bound} when completions are above {MANY_COMPLETIONS} and used with \
                     backoff limit per index"
                );
                field.invalid(wrong, errors);
            }
        }
    }
}

/// One of a few words, all of which are named where none is given.
fn one_word(field: &Field<'_>, known: &[&str], errors: &mut FieldErrors) {
    if field.is_empty() {
        let quoted: Vec<String> = known.iter().map(|word| format!("{word:?}")).collect();
        field.required(format!("valid values: [{}]", quoted.join(" ")), errors);
    } else {
        field.one_of(known, errors);
    }
}

fn failure_policy(spec: &Field<'_>, policy: &Field<'_>, errors: &mut FieldErrors) {
    let rules = policy.get("rules");
    rules.most(MOST_RULES, errors);
    let mut containers = BTreeSet::new();
    for list in ["containers", "initContainers"] {
        containers.extend(spec.at(&["template", "spec", list]).items().map(|one| one.get("name").text()));
    }
    for rule in rules.items() {
        let action = rule.get("action");
        if action.text() == "FailIndex" {
            if !spec.get("backoffLimitPerIndex").is_set() {
                action.invalid("requires the backoffLimitPerIndex to be set", errors);
            }
        } else {
            one_word(&action, &["Count", "FailIndex", "FailJob", "Ignore"], errors);
        }
        let (codes, conditions) = (rule.get("onExitCodes"), rule.get("onPodConditions"));
        if codes.is_set() {
            exit_codes(&codes, &containers, errors);
        }
        conditions.most(MOST_RULES, errors);
        for pattern in conditions.items() {
            pattern.get("type").ruled(names::qualified, errors);
            one_word(&pattern.get("status"), &["False", "True", "Unknown"], errors);
        }
        if codes.is_set() && !conditions.is_empty() {
            errors.invalid_without_value(
                rule.path(),
                "specifying both OnExitCodes and OnPodConditions is not supported",
            );
        }
        if !codes.is_set() && conditions.is_empty() {
            errors.invalid_without_value(
                rule.path(),
                "specifying one of OnExitCodes and OnPodConditions is required",
            );
        }
    }
}

fn exit_codes(codes: &Field<'_>, containers: &BTreeSet<&str>, errors: &mut FieldErrors) {
    one_word(&codes.get("operator"), &["In", "NotIn"], errors);
    let container = codes.get("containerName");
    if container.is_set() && !containers.contains(container.text()) {
        container.invalid("must be one of the container or initContainer names in the pod template", errors);
    }
    let values = codes.get("values");
    if values.is_empty() {
        values.invalid("at least one value is required", errors);
    }
    values.most(MOST_CODES, errors);
    let mut last = i64::MIN;
    let (mut seen, mut ordered) = (BTreeSet::new(), true);
    for value in values.items() {
        let code = value.number().unwrap_or(0);
        if code == 0 && codes.get("operator").text() == "In" {
            value.invalid("must not be 0 for the In operator", errors);
        }
        if !seen.insert(code) {
            value.duplicate(errors);
        }
        ordered &= code >= last;
        last = code;
    }
    if !ordered {
        values.invalid("must be ordered", errors);
    }
}

fn success_policy(spec: &Field<'_>, policy: &Field<'_>, errors: &mut FieldErrors) {
    let rules = policy.get("rules");
    if rules.is_empty() {
        rules.required("at least one rules must be specified when the successPolicy is specified", errors);
    }
    rules.most(MOST_RULES, errors);
    let completions = spec.get("completions").number().unwrap_or(0);
    for rule in rules.items() {
        let (wanted, among) = (rule.get("succeededCount"), rule.get("succeededIndexes"));
        if !wanted.is_set() && !among.is_set() {
            rule.required("at least one of succeededCount or succeededIndexes must be specified", errors);
        }
        let mut total = 0;
        if among.is_set() {
            among.longest(MOST_INDEX_BYTES, errors);
            match indexes::parse(among.text(), completions) {
                Ok(found) => total = indexes::count(&found),
                Err(wrong) => among.invalid(format!("error parsing succeededIndexes: {wrong}"), errors),
            }
        }
        wanted.not_negative(errors);
        let Some(number) = wanted.number() else { continue };
        if number > completions {
            let wrong =
                format!("must be less than or equal to {completions} (the number of specified completions)");
            wanted.invalid(wrong, errors);
        }
        if among.is_set() && number > total {
            let wrong = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            wanted.invalid(wrong, errors);
        }
    }
}

pub(super) fn validate_job_update(job: &Value, old: &Value, errors: &mut FieldErrors) {
    let (spec, was) = (Field::root(job).get("spec"), Field::root(old).get("spec"));
    let (completions, before) = (spec.get("completions"), was.get("completions"));
    if spec.get("completionMode").text() == "Indexed" {
        let moved = completions.is_set() && completions.value() != before.value();
        if moved && completions.value() != spec.get("parallelism").value() {
            completions.invalid("can only be modified in tandem with spec.parallelism", errors);
        }
    } else {
        completions.unchanged(&before, errors);
    }
    spec.get("selector").unchanged(&was.get("selector"), errors);
    template_unchanged(&spec, &was, old, errors);
    spec.all_unchanged(
        &was,
        &["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"],
        errors,
    );
}

/// The template stays, but for where its pods may run while a job is suspended that never began.
fn template_unchanged(spec: &Field<'_>, was: &Field<'_>, old: &Value, errors: &mut FieldErrors) {
    let mut expected = was.get("template").value().clone();
    let waiting = was.get("suspend").is_true() && object::at(old, &["status", "startTime"]).is_null();
    if waiting && expected["spec"].is_object() {
        let new = spec.get("template").value();
        for field in ["nodeSelector", "tolerations", "schedulingGates"] {
            object::copy_field(&new["spec"], &mut expected["spec"], field);
        }
        let nodes = object::at(new, &["spec", "affinity", "nodeAffinity"]);
        if new["spec"]["affinity"].is_null() {
            object::remove(&mut expected["spec"]["affinity"], "nodeAffinity");
            if expected["spec"]["affinity"].as_object().is_none_or(serde_json::Map::is_empty) {
                object::remove(&mut expected["spec"], "affinity");
            }
        } else {
            let affinity = object::child(&mut expected["spec"], "affinity");
            if nodes.is_null() {
                affinity.remove("nodeAffinity");
            } else {
                affinity.insert("nodeAffinity".into(), nodes.clone());
            }
        }
        for field in ["annotations", "labels"] {
            let metadata = object::at(new, &["metadata"]);
            if !expected["metadata"].is_object() {
                expected["metadata"] = json!({});
            }
            object::copy_field(metadata, &mut expected["metadata"], field);
        }
    }
    spec.get("template").unchanged(&Field::root(&expected), errors);
}

pub(super) fn validate_cron_job(job: &Value, errors: &mut FieldErrors) {
    let root = Field::root(job);
    let spec = root.get("spec");
    let (schedule, zone) = (spec.get("schedule"), spec.get("timeZone"));
    if schedule.is_empty() {
        schedule.required("", errors);
    } else {
        if let Err(wrong) = schedule::check(schedule.text()) {
            schedule.invalid(wrong, errors);
        }
        if schedule.text().contains("TZ") {
            schedule.invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead", errors);
        }
    }
    spec.get("startingDeadlineSeconds").not_negative(errors);
    time_zone(&zone, errors);
    spec.get("concurrencyPolicy").needs_one_of(&["Allow", "Forbid", "Replace"], errors);
    let template = spec.at(&["jobTemplate", "spec"]);
    validate_spec(&template, errors);
    if template.get("selector").is_set() {
        template.get("selector").invalid("`selector` will be auto-generated", errors);
    }
    if template.get("manualSelector").is_true() {
        template.get("manualSelector").unsupported(&["nil", "false"], errors);
    }
    spec.none_negative(&["successfulJobsHistoryLimit", "failedJobsHistoryLimit"], errors);
}

/// Jobs are named after it, with eleven letters more.
pub(super) fn validate_new_cron_job(job: &Value, errors: &mut FieldErrors) {
    if object::name(job).len() > names::LABEL_LENGTH - 11 {
        Field::root(job).at(&["metadata", "name"]).invalid("must be no more than 52 characters", errors);
    }
}

fn time_zone(zone: &Field<'_>, errors: &mut FieldErrors) {
    let name = zone.text();
    if !zone.is_set() {
        return;
    }
    if name.is_empty() {
        return zone.invalid("timeZone must be nil or non-empty string", errors);
    }
    let fine = |part: &str| {
        (1..=14).contains(&part.len())
            && !matches!(part, "." | "..")
            && !part.starts_with('-')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte))
    };
    let database = jiff::tz::db();
    if !name.split('/').all(fine) || (!database.is_definitively_empty() && database.get(name).is_err()) {
        return zone.invalid(format!("unknown time zone {name}"), errors);
    }
    if name.eq_ignore_ascii_case("Local") {
        zone.invalid(
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            errors,
        );
    }
}
