//! What keeps a number of pods: Deployments, ReplicaSets and their older form, StatefulSets, DaemonSets; their
//! revisions, and templates of pods on their own.

use serde_json::{Value, json};

use super::{
    Subresource, carry_status, drop_status,
    field::{Field, IMMUTABLE},
    fill::{default_object, default_text, default_value},
    pod, volume,
};
use crate::{FieldErrors, object};

/// Where the generation of a DaemonSet's template is kept.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn spec_of(object: &mut Value) -> Option<&mut Value> {
    object.get_mut("spec").filter(|spec| spec.is_object())
}

fn default_template(spec: &mut Value) {
    if let Some(template) = spec.get_mut("template") {
        pod::default_template(template);
    }
}

pub(super) fn default_deployment(deployment: &mut Value) {
    let Some(spec) = spec_of(deployment) else { return };
    default_template(spec);
    default_value(spec, "replicas", json!(1));
    default_value(spec, "revisionHistoryLimit", json!(10));
    default_value(spec, "progressDeadlineSeconds", json!(600));
    let strategy = default_object(spec, "strategy");
    default_text(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = default_object(strategy, "rollingUpdate");
        default_value(rolling, "maxUnavailable", json!("25%"));
        default_value(rolling, "maxSurge", json!("25%"));
    }
}

pub(super) fn default_replica_set(set: &mut Value) {
    let Some(spec) = spec_of(set) else { return };
    default_template(spec);
    default_value(spec, "replicas", json!(1));
}

/// The labels of the template are the selector, and the controller's own labels, where these are left out.
pub(super) fn default_replication_controller(controller: &mut Value) {
    let Some(spec) = spec_of(controller) else { return };
    default_template(spec);
    default_value(spec, "replicas", json!(1));
    let labels = object::at(spec, &["template", "metadata", "labels"]).clone();
    if labels.as_object().is_none_or(serde_json::Map::is_empty) {
        return;
    }
    if spec["selector"].as_object().is_none_or(serde_json::Map::is_empty) {
        spec["selector"] = labels.clone();
    }
    default_value(&mut controller["metadata"], "labels", labels);
}

pub(super) fn default_pod_template(template: &mut Value) {
    if let Some(template) = template.get_mut("template") {
        pod::default_template(template);
    }
}

pub(super) fn default_stateful_set(set: &mut Value) {
    let Some(spec) = spec_of(set) else { return };
    default_template(spec);
    default_text(spec, "podManagementPolicy", "OrderedReady");
    let strategy = default_object(spec, "updateStrategy");
    default_text(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        default_value(default_object(strategy, "rollingUpdate"), "partition", json!(0));
    }
    let retention = default_object(spec, "persistentVolumeClaimRetentionPolicy");
    default_text(retention, "whenDeleted", "Retain");
    default_text(retention, "whenScaled", "Retain");
    default_value(spec, "replicas", json!(1));
    default_value(spec, "revisionHistoryLimit", json!(10));
    for claim in object::items_mut(spec, "volumeClaimTemplates") {
        if claim.is_object() {
            claim["apiVersion"] = json!("v1");
            claim["kind"] = json!("PersistentVolumeClaim");
            volume::default_claim(claim);
        }
    }
}

pub(super) fn default_daemon_set(set: &mut Value) {
    let Some(spec) = spec_of(set) else { return };
    default_template(spec);
    let strategy = default_object(spec, "updateStrategy");
    default_text(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = default_object(strategy, "rollingUpdate");
        default_value(rolling, "maxUnavailable", json!(1));
        default_value(rolling, "maxSurge", json!(0));
    }
    default_value(spec, "revisionHistoryLimit", json!(10));
}

fn template_generation(set: &mut Value, generation: i64) {
    let annotations = default_object(&mut set["metadata"], "annotations");
    annotations[TEMPLATE_GENERATION] = json!(generation.to_string());
}

pub(super) fn prepare_daemon_set(set: &mut Value) {
    drop_status(set);
    template_generation(set, 1);
}

/// A change of the template raises its generation, whatever the client says of it.
pub(super) fn prepare_daemon_set_update(set: &mut Value, old: &Value) {
    carry_status(set, old);
    let mut complete = set.clone();
    default_daemon_set(&mut complete);
    let before = object::at(old, &["metadata", "annotations", TEMPLATE_GENERATION]).as_str();
    let before: i64 = before.and_then(|text| text.parse().ok()).unwrap_or(0);
    let changed = complete["spec"]["template"] != old["spec"]["template"];
    template_generation(set, before.saturating_add(i64::from(changed)));
}

/// The selector is there, selects something, and selects what the template makes.
fn selector_and_template(spec: &Field<'_>, kind: &str, errors: &mut FieldErrors) {
    let selector = spec.get("selector");
    if selector.is_set() {
        selector.selector(errors);
        if selector.selects_all() {
            selector.invalid(format!("empty selector is invalid for {kind}"), errors);
        }
    } else {
        selector.required("", errors);
    }
    let Some(read) = selector.read_selector() else {
        return selector.invalid("invalid label selector", errors);
    };
    let template = spec.get("template");
    if selector.is_set() && !selector.selects_all() && !read.matches_object(template.value()) {
        template.at(&["metadata", "labels"]).invalid("`selector` does not match template `labels`", errors);
    }
}

/// Pods that are kept running begin again, and have no end.
fn runs_forever(template: &Field<'_>, kind: &str, errors: &mut FieldErrors) {
    let policy = template.at(&["spec", "restartPolicy"]);
    if matches!(policy.text(), "OnFailure" | "Never") {
        policy.unsupported(&["Always"], errors);
    }
    let deadline = template.at(&["spec", "activeDeadlineSeconds"]);
    if deadline.is_set() {
        deadline.forbidden(format!("activeDeadlineSeconds in {kind} is not Supported"), errors);
    }
}

fn replica_template(spec: &Field<'_>, errors: &mut FieldErrors) {
    let template = spec.get("template");
    pod::validate_template(&template, errors);
    runs_forever(&template, "ReplicaSet", errors);
}

pub(super) fn validate_deployment(deployment: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(deployment).get("spec");
    spec.get("replicas").not_negative(errors);
    selector_and_template(&spec, "deployment", errors);
    replica_template(&spec, errors);
    let strategy = spec.get("strategy");
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "Recreate" if rolling.is_set() => {
            rolling.forbidden("may not be specified when strategy `type` is 'Recreate'", errors);
        }
        "Recreate" => {}
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            unavailable.share(errors);
            surge.share(errors);
            if unavailable.share_number() == 0 && surge.share_number() == 0 {
                unavailable.invalid("may not be 0 when `maxSurge` is 0", errors);
            }
            unavailable.at_most_whole(errors);
        }
        _ => strategy.get("type").unsupported(&["Recreate", "RollingUpdate"], errors),
    }
    spec.none_negative(&["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"], errors);
    let deadline = spec.get("progressDeadlineSeconds");
    if deadline.number().is_some_and(|seconds| seconds <= spec.get("minReadySeconds").number().unwrap_or(0)) {
        deadline.invalid("must be greater than minReadySeconds", errors);
    }
}

pub(super) fn validate_replica_set(set: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(set).get("spec");
    spec.none_negative(&["replicas", "minReadySeconds"], errors);
    selector_and_template(&spec, "ReplicaSet", errors);
    replica_template(&spec, errors);
}

pub(super) fn validate_replication_controller(controller: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(controller).get("spec");
    spec.none_negative(&["minReadySeconds", "replicas"], errors);
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    if selector.is_empty() {
        selector.required("", errors);
    }
    if !template.is_set() {
        return template.required("", errors);
    }
    let labels = template.at(&["metadata", "labels"]);
    if selector.entries().any(|(key, value)| labels.value()[key] != *value.value()) {
        labels.invalid("`selector` does not match template `labels`", errors);
    }
    pod::validate_template(&template, errors);
    runs_forever(&template, "ReplicationController", errors);
}

pub(super) fn validate_pod_template(template: &Value, errors: &mut FieldErrors) {
    pod::validate_template(&Field::root(template).get("template"), errors);
}

const SET_UPDATE: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
const SET_MUTABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

pub(super) fn validate_stateful_set(set: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(set).get("spec");
    let management = spec.get("podManagementPolicy");
    if !matches!(management.text(), "OrderedReady" | "Parallel") {
        management.invalid("must be 'OrderedReady' or 'Parallel'", errors);
    }
    let strategy = spec.get("updateStrategy");
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "OnDelete" => {
            if rolling.is_set() {
                rolling.invalid("only allowed for updateStrategy 'RollingUpdate'", errors);
            }
        }
        "RollingUpdate" => {
            rolling.get("partition").not_negative(errors);
            let unavailable = rolling.get("maxUnavailable");
            unavailable.share(errors);
            if unavailable.is_set() && unavailable.share_number() == 0 {
                unavailable.invalid("cannot be 0", errors);
            }
            unavailable.at_most_whole(errors);
        }
        _ => strategy.invalid("must be 'RollingUpdate' or 'OnDelete'", errors),
    }
    let retention = spec.get("persistentVolumeClaimRetentionPolicy");
    for when in ["whenDeleted", "whenScaled"] {
        retention.get(when).one_of(&["Retain", "Delete"], errors);
    }
    spec.none_negative(&["replicas", "minReadySeconds"], errors);
    Field::new(spec.at(&["ordinals", "start"]).value(), "spec.ordinals.start").not_negative(errors);
    selector_and_template(&spec, "statefulset", errors);
    let template = spec.get("template");
    pod::validate_template_of_set(&template, errors);
    runs_forever(&template, "StatefulSet", errors);
}

pub(super) fn validate_stateful_set_update(set: &Value, old: &Value, errors: &mut FieldErrors) {
    let mut unchanged = set["spec"].clone();
    for field in SET_MUTABLE {
        object::copy_field(&old["spec"], &mut unchanged, field);
    }
    if unchanged != old["spec"] {
        errors.forbidden("spec", SET_UPDATE);
    }
}

pub(super) fn validate_daemon_set(set: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(set).get("spec");
    selector_and_template(&spec, "daemonset", errors);
    let template = spec.get("template");
    pod::validate_template(&template, errors);
    runs_forever(&template, "DaemonSet", errors);
    spec.get("minReadySeconds").not_negative(errors);
    let strategy = spec.get("updateStrategy");
    match strategy.get("type").text() {
        "OnDelete" => {}
        "RollingUpdate" => {
            let rolling = strategy.get("rollingUpdate");
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            for share in [&unavailable, &surge] {
                share.share(errors);
            }
            for share in [&unavailable, &surge] {
                share.at_most_whole(errors);
            }
            match (unavailable.share_number() != 0, surge.share_number() != 0) {
                (true, true) => surge.invalid("may not be set when maxUnavailable is non-zero", errors),
                (false, false) => unavailable.required("cannot be 0 when maxSurge is 0", errors),
                _ => {}
            }
        }
        _ => strategy.unsupported(&["RollingUpdate", "OnDelete"], errors),
    }
    spec.get("revisionHistoryLimit").not_negative(errors);
}

pub(super) fn validate_selector_unchanged(object: &Value, old: &Value, errors: &mut FieldErrors) {
    Field::root(object)
        .at(&["spec", "selector"])
        .unchanged(&Field::root(old).at(&["spec", "selector"]), errors);
}

pub(super) fn validate_controller_revision(revision: &Value, errors: &mut FieldErrors) {
    let revision = Field::root(revision);
    if !revision.get("data").is_set() {
        revision.get("data").required("data is mandatory", errors);
    }
    revision.get("revision").not_negative(errors);
}

pub(super) fn validate_controller_revision_update(revision: &Value, old: &Value, errors: &mut FieldErrors) {
    if revision["data"] != old["data"] {
        errors.invalid("data", revision["data"].clone(), IMMUTABLE);
    }
}

/// A count of collisions only grows.
fn collisions(status: &Field<'_>, old: &Value, errors: &mut FieldErrors) {
    let (new, old) = (status.get("collisionCount"), old["status"]["collisionCount"].as_i64());
    if old.is_some_and(|old| new.number().unwrap_or(0) < old) {
        errors.invalid(new.path(), new.number().unwrap_or(0), "cannot be decremented");
    }
}

/// The status of everything that keeps a number of replicas.
pub(super) fn validate_replicas_part(
    part: Subresource,
    object: &Value,
    old: &Value,
    errors: &mut FieldErrors,
) {
    if part != Subresource::Status {
        return;
    }
    let status = Field::root(object).get("status");
    status.none_negative(
        &[
            "observedGeneration",
            "replicas",
            "fullyLabeledReplicas",
            "updatedReplicas",
            "currentReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "collisionCount",
        ],
        errors,
    );
    let number = |name: &str| status.get(name).number().unwrap_or(0);
    for name in
        ["fullyLabeledReplicas", "updatedReplicas", "currentReplicas", "readyReplicas", "availableReplicas"]
    {
        if number(name) > number("replicas") {
            status.get(name).invalid("cannot be greater than status.replicas", errors);
        }
    }
    if number("availableReplicas") > number("readyReplicas") {
        status.get("availableReplicas").invalid("cannot be greater than readyReplicas", errors);
    }
    collisions(&status, old, errors);
}

pub(super) fn validate_daemon_set_part(
    part: Subresource,
    set: &Value,
    old: &Value,
    errors: &mut FieldErrors,
) {
    if part != Subresource::Status {
        return;
    }
    let status = Field::root(set).get("status");
    status.none_negative(
        &[
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ],
        errors,
    );
    collisions(&status, old, errors);
}
