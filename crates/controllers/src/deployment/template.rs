//! Pod templates of a Deployment and of its ReplicaSets: which are the same, and what they are called.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;

/// The label that keeps the pods of a Deployment's ReplicaSets apart.
pub(super) const HASH: &str = "pod-template-hash";

/// The letters of names: no vowels, so that no words come out.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

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
    // FNV-1a over the JSON text, whose order of fields is fixed.
    let text = serde_json::to_vec(&without_hash(template)).unwrap_or_default();
    let collisions = if collisions == 0 { Vec::new() } else { collisions.to_le_bytes().to_vec() };
    let sum = text
        .iter()
        .chain(&collisions)
        .fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    sum.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
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
