//! The cells of what makes pods.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE_COLUMN, Column, age, column, items, number, wide};
use crate::{object, selector::LabelSelector};

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

fn containers(object: &Value, field: &str) -> Value {
    let values: Vec<&str> = items(object, &["spec", "template", "spec", "containers"])
        .iter()
        .filter_map(|container| container[field].as_str())
        .collect();
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
