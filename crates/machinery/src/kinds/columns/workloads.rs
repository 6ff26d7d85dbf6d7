//! The cells of what makes pods.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    AGE_COLUMN, Column, age, age_of, column, count, items, labels, number, selector_text, shown, switch,
    text, wide,
};
use crate::{object, selector::LabelSelector, time};

pub(in crate::kinds) const DEPLOYMENT: &[Column] = &[
    column("Ready", "string", "Number of the pod with ready state"),
    column(
        "Up-to-date",
        "string",
        "Total number of non-terminated pods targeted by this deployment that have the desired template spec.",
    ),
    column(
        "Available",
        "string",
        "Total number of available pods (ready for at least minReadySeconds) targeted by this deployment.",
    ),
    AGE_COLUMN,
    wide("Containers", "Names of each container in the template."),
    wide("Images", "Images referenced by each container in the template."),
    wide("Selector", "Label selector for pods."),
];

pub(in crate::kinds) const REPLICA_SET: &[Column] = &[
    column("Desired", "integer", "Replicas is the number of desired replicas."),
    column("Current", "integer", "Replicas is the most recently observed number of replicas."),
    column(
        "Ready",
        "integer",
        "readyReplicas is the number of pods targeted by this ReplicaSet with a Ready Condition.",
    ),
    AGE_COLUMN,
    wide("Containers", "Names of each container in the template."),
    wide("Images", "Images referenced by each container in the template."),
    wide("Selector", "Selector is a label query over pods that should match the replica count."),
];

pub(in crate::kinds) const CONTROLLER_REVISION: &[Column] = &[
    column("Controller", "string", "Controller of the object"),
    column("Revision", "string", "Revision indicates the revision of the state represented by Data."),
    AGE_COLUMN,
];

const CONTAINERS: Column = wide("Containers", "Names of each container in the template.");
const IMAGES: Column = wide("Images", "Images referenced by each container in the template.");

pub(in crate::kinds) const POD_TEMPLATE: &[Column] = &[
    text("Containers", "Names of each container in the template."),
    text("Images", "Images referenced by each container in the template."),
    text("Pod Labels", "The labels for the pod template."),
];

pub(in crate::kinds) const REPLICATION_CONTROLLER: &[Column] = &[
    count("Desired", "Replicas is the number of desired replicas."),
    count("Current", "Replicas is the most recently observed number of replicas."),
    count("Ready", "The number of ready replicas for this replication controller."),
    AGE_COLUMN,
    CONTAINERS,
    IMAGES,
    wide("Selector", "Selector is a label query over pods that should match the Replicas count."),
];

pub(in crate::kinds) const STATEFUL_SET: &[Column] =
    &[text("Ready", "Number of the pod with ready state"), AGE_COLUMN, CONTAINERS, IMAGES];

pub(in crate::kinds) const DAEMON_SET: &[Column] = &[
    count("Desired", "The total number of nodes that should be running the daemon pod."),
    count("Current", "The number of nodes that run at least one daemon pod and are supposed to."),
    count("Ready", "The number of nodes that should run the daemon pod and have one with a Ready condition."),
    count("Up-to-date", "The total number of nodes that run the updated daemon pod."),
    count("Available", "The number of nodes that should run the daemon pod and have one that is available."),
    text(
        "Node Selector",
        "Selector which must match a node's labels for the pod to be scheduled on that node.",
    ),
    AGE_COLUMN,
    CONTAINERS,
    IMAGES,
    wide("Selector", "A label query over pods that are managed by the daemon set."),
];

pub(in crate::kinds) const JOB: &[Column] = &[
    text("Status", "Status of the job."),
    text("Completions", "The number of pods which reached phase Succeeded."),
    text("Duration", "Time required to complete the job."),
    AGE_COLUMN,
    CONTAINERS,
    IMAGES,
    wide("Selector", "A label query over pods that should match the pod count."),
];

pub(in crate::kinds) const CRON_JOB: &[Column] = &[
    text("Schedule", "The schedule in Cron format, see https://en.wikipedia.org/wiki/Cron."),
    text("Timezone", "The time zone name for the given schedule."),
    column("Suspend", "boolean", "Whether subsequent executions are suspended."),
    count("Active", "A list of pointers to currently running jobs."),
    text("Last Schedule", "When the job was last successfully scheduled."),
    AGE_COLUMN,
    CONTAINERS,
    IMAGES,
    wide("Selector", "A label query over pods that should match the pod count."),
];

fn containers(object: &Value, field: &str) -> Value {
    containers_at(object, &["spec", "template", "spec", "containers"], field)
}

fn containers_at(object: &Value, path: &[&str], field: &str) -> Value {
    let values: Vec<&str> =
        items(object, path).iter().filter_map(|container| container[field].as_str()).collect();
    json!(values.join(","))
}

fn selector(object: &Value) -> Value {
    json!(
        LabelSelector::from_value(object::at(object, &["spec", "selector"])).unwrap_or_default().to_string()
    )
}

pub(in crate::kinds) fn deployment(deployment: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        json!(object::name(deployment)),
        json!(format!(
            "{}/{}",
            number(deployment, &["status", "readyReplicas"]),
            number(deployment, &["spec", "replicas"])
        )),
        json!(number(deployment, &["status", "updatedReplicas"])),
        json!(number(deployment, &["status", "availableReplicas"])),
        age(deployment, now),
        containers(deployment, "name"),
        containers(deployment, "image"),
        selector(deployment),
    ]
}

pub(in crate::kinds) fn replica_set(set: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        json!(object::name(set)),
        json!(number(set, &["spec", "replicas"])),
        json!(number(set, &["status", "replicas"])),
        json!(number(set, &["status", "readyReplicas"])),
        age(set, now),
        containers(set, "name"),
        containers(set, "image"),
        selector(set),
    ]
}

pub(in crate::kinds) fn pod_template(template: &Value, _now: Timestamp) -> Vec<Value> {
    let path = ["template", "spec", "containers"];
    vec![
        json!(object::name(template)),
        containers_at(template, &path, "name"),
        containers_at(template, &path, "image"),
        labels(object::at(template, &["template", "metadata", "labels"])),
    ]
}

pub(in crate::kinds) fn replication_controller(controller: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = replica_set(controller, now);
    cells.pop();
    cells.push(labels(object::at(controller, &["spec", "selector"])));
    cells
}

pub(in crate::kinds) fn stateful_set(set: &Value, now: Timestamp) -> Vec<Value> {
    let ready = number(set, &["status", "readyReplicas"]);
    vec![
        json!(object::name(set)),
        json!(format!("{ready}/{}", number(set, &["spec", "replicas"]))),
        age(set, now),
        containers(set, "name"),
        containers(set, "image"),
    ]
}

pub(in crate::kinds) fn daemon_set(set: &Value, now: Timestamp) -> Vec<Value> {
    let status = |field: &str| json!(number(set, &["status", field]));
    vec![
        json!(object::name(set)),
        status("desiredNumberScheduled"),
        status("currentNumberScheduled"),
        status("numberReady"),
        status("updatedNumberScheduled"),
        status("numberAvailable"),
        labels(object::at(set, &["spec", "template", "spec", "nodeSelector"])),
        age(set, now),
        containers(set, "name"),
        containers(set, "image"),
        selector_text(object::at(set, &["spec", "selector"])),
    ]
}

fn job_state(job: &Value) -> &'static str {
    let holds = |kind: &str| {
        items(job, &["status", "conditions"])
            .iter()
            .any(|condition| condition["type"] == kind && condition["status"] == "True")
    };
    match () {
        () if holds("Complete") => "Complete",
        () if holds("Failed") => "Failed",
        () if object::is_terminating(job) => "Terminating",
        () if holds("Suspended") => "Suspended",
        () if holds("FailureTarget") => "FailureTarget",
        () if holds("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

pub(in crate::kinds) fn job(job: &Value, now: Timestamp) -> Vec<Value> {
    let succeeded = number(job, &["status", "succeeded"]);
    let completions = match (job["spec"]["completions"].as_i64(), number(job, &["spec", "parallelism"])) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let end = time::parse(object::text(job, &["status", "completionTime"])).unwrap_or(now);
    let duration = time::parse(object::text(job, &["status", "startTime"]))
        .map_or_else(String::new, |start| time::age(start, end));
    vec![
        json!(object::name(job)),
        json!(job_state(job)),
        json!(completions),
        json!(duration),
        age(job, now),
        containers(job, "name"),
        containers(job, "image"),
        selector_text(object::at(job, &["spec", "selector"])),
    ]
}

pub(in crate::kinds) fn cron_job(job: &Value, now: Timestamp) -> Vec<Value> {
    let last = match object::text(job, &["status", "lastScheduleTime"]) {
        "" => "<none>".to_owned(),
        last => age_of(last, now),
    };
    let path = ["spec", "jobTemplate", "spec", "template", "spec", "containers"];
    vec![
        json!(object::name(job)),
        json!(object::text(job, &["spec", "schedule"])),
        json!(shown(&job["spec"]["timeZone"], "<none>")),
        json!(switch(&job["spec"]["suspend"])),
        json!(items(job, &["status", "active"]).len()),
        json!(last),
        age(job, now),
        containers_at(job, &path, "name"),
        containers_at(job, &path, "image"),
        selector_text(object::at(job, &["spec", "jobTemplate", "spec", "selector"])),
    ]
}

pub(in crate::kinds) fn controller_revision(revision: &Value, now: Timestamp) -> Vec<Value> {
    let owner =
        object::meta_list(revision, "ownerReferences").iter().find(|owner| owner["controller"] == true);
    let controller = owner.map_or_else(
        || "<none>".into(),
        |owner| {
            let kind = owner["kind"].as_str().unwrap_or_default().to_lowercase();
            let group = owner["apiVersion"].as_str().and_then(|version| version.split_once('/'));
            let kind = group.map_or_else(|| kind.clone(), |(group, _)| format!("{kind}.{group}"));
            format!("{kind}/{}", owner["name"].as_str().unwrap_or_default())
        },
    );
    vec![
        json!(object::name(revision)),
        json!(controller),
        json!(number(revision, &["revision"])),
        age(revision, now),
    ]
}
