//! The annotations by which revisions are counted and sizes remembered.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::ResourceExt as _;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MOST: &str = "deployment.kubernetes.io/max-replicas";

/// What a set does not take over from its Deployment.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    HISTORY,
    DESIRED,
    MOST,
];

pub(super) type Annotations = BTreeMap<String, String>;

/// A set's revision; 0 for none.
pub(super) fn revision(set: &ReplicaSet) -> i64 {
    number(set, REVISION).unwrap_or(0)
}

/// How many pods the Deployment wanted when the set was last scaled.
pub(super) fn desired(set: &ReplicaSet) -> Option<i32> {
    number(set, DESIRED)
}

/// How many pods the Deployment allowed at most when the set was last scaled.
pub(super) fn most(set: &ReplicaSet) -> Option<i32> {
    number(set, MOST)
}

fn number<N: std::str::FromStr>(set: &ReplicaSet, key: &str) -> Option<N> {
    set.annotations().get(key)?.parse().ok()
}

/// What the annotations of a Deployment's newest set are to be.
pub(super) fn of_new_set(deployment: &Deployment, before: &Annotations, revision: i64) -> Annotations {
    let mut annotations = before.clone();
    for (key, value) in deployment.annotations() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let old = before.get(REVISION).cloned();
    let old_number = old.as_ref().and_then(|old| old.parse().ok()).unwrap_or(0);
    if old_number < revision {
        annotations.insert(REVISION.to_owned(), revision.to_string());
        // A set that comes back keeps the numbers that it had.
        if let Some(old) = old.filter(|_| old_number != 0) {
            let history = annotations.entry(HISTORY.to_owned()).or_default();
            if !history.is_empty() {
                history.push(',');
            }
            history.push_str(&old);
        }
    }
    annotations
}

/// Remembers for which size of the Deployment a set was scaled.
pub(super) fn set_sizes(annotations: &mut Annotations, desired: i32, most: i32) {
    annotations.insert(DESIRED.to_owned(), desired.to_string());
    annotations.insert(MOST.to_owned(), most.to_string());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_set_that_comes_back_gets_a_new_number_and_keeps_the_old_ones() {
        let deployment: Deployment = serde_json::from_value(json!({ "metadata": { "annotations": {
            "a": "b", REVISION: "7", "kubectl.kubernetes.io/last-applied-configuration": "{}" } } }))
        .unwrap();
        let before =
            Annotations::from([(REVISION.to_owned(), "2".to_owned()), (HISTORY.to_owned(), "1".to_owned())]);
        let after = of_new_set(&deployment, &before, 4);
        let expected = [("a", "b"), (REVISION, "4"), (HISTORY, "1,2")];
        assert_eq!(after, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        assert_eq!(of_new_set(&deployment, &after, 4), after);
    }
}
