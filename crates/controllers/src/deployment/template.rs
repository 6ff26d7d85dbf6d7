//! Pod templates of a Deployment and of its ReplicaSets: which are the same, and what they are called.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;

use crate::short_name::short_name;

/// The label that keeps the pods of a Deployment's ReplicaSets apart.
pub(super) const HASH: &str = "pod-template-hash";

/// Whether a set makes the pods that its Deployment asks for.
pub(super) fn is_current(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let wanted = deployment.spec.as_ref().map(|spec| &spec.template);
    let made = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    match (wanted, made) {
        (Some(wanted), Some(made)) => without_hash(wanted) == without_hash(made),
        _ => false,
    }
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(metadata) = &mut template.metadata {
        if let Some(labels) = &mut metadata.labels {
            labels.remove(HASH);
        }
        if metadata.labels.as_ref().is_some_and(|labels| labels.is_empty()) {
            metadata.labels = None;
        }
        // Sets may have been made by those who write it, and by those who do not.
        metadata.creation_timestamp = None;
    }
    template
}

/// A short name for a template; another one for each count of collisions.
pub(super) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    // The order of fields is fixed.
    short_name(&serde_json::to_vec(&without_hash(template)).unwrap_or_default(), collisions)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hash_depends_on_the_template_and_the_collisions_only() {
        let template = |image: &str, labels: serde_json::Value| -> PodTemplateSpec {
            serde_json::from_value(json!({
                "metadata": { "labels": labels },
                "spec": { "containers": [{ "name": "c", "image": image }] },
            }))
            .unwrap()
        };
        let one = template("web:1", json!({ "app": "web" }));
        let labeled = template("web:1", json!({ "app": "web", HASH: "x" }));
        let other = template("web:2", json!({ "app": "web" }));
        assert_eq!(hash(&one, 0), hash(&labeled, 0));
        assert_ne!(hash(&one, 0), hash(&other, 0));
        assert_ne!(hash(&one, 0), hash(&one, 1));
    }
}
