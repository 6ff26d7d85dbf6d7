//! The pods that a Job makes, and what is written on them of their index.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::failure;
use crate::model::Pod;
use crate::pods::of_template;

/// Keeps a pod until the Job has counted it.
pub(super) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label of a pod of an indexed Job.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often the index has failed before this pod.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How often it has failed besides in a way that the failure policy does not count.
const IGNORED: &str = "batch.kubernetes.io/job-index-failure-ignored-count";
/// The variable that tells a container its index.
const VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// As long as a name may be to which the server adds something.
const LONGEST_PREFIX: usize = 58;

/// The index of a pod.
pub(super) fn index(pod: &Pod) -> Option<i32> {
    pod.annotation(INDEX)?.parse().ok().filter(|index| *index >= 0)
}

fn number(pod: &Pod, annotation: &str) -> u32 {
    pod.annotation(annotation).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// How often the index of a pod had failed before, as far as it counts.
pub(super) fn failures_before(pod: &Pod) -> u32 {
    number(pod, FAILURES)
}

/// How often it had failed before at all.
pub(super) fn all_failures_before(pod: &Pod) -> u32 {
    number(pod, FAILURES).saturating_add(number(pod, IGNORED))
}

/// A pod of a Job: of an index, which may be in the place of one that failed.
pub(super) fn new(job: &Job, spec: &JobSpec, index: Option<i32>, failed: Option<&Pod>) -> Value {
    let mut pod = of_template(job, Some(&spec.template));
    let metadata = &mut pod["metadata"];
    let mut finalizers: Vec<String> =
        spec.template.metadata.as_ref().and_then(|metadata| metadata.finalizers.clone()).unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == TRACKING) {
        finalizers.push(TRACKING.to_owned());
    }
    metadata["finalizers"] = json!(finalizers);
    let Some(index) = index else { return pod };
    let text = index.to_string();
    metadata["generateName"] = json!(prefix(&job.name_any(), &text));
    metadata["annotations"][INDEX] = json!(text);
    metadata["labels"][INDEX] = json!(text);
    if spec.backoff_limit_per_index.is_some() {
        let (counted, ignored) = failed.map_or((0, 0), |failed| {
            let counts = failure::counts(spec, failed);
            (number(failed, FAILURES) + u32::from(counts), number(failed, IGNORED) + u32::from(!counts))
        });
        metadata["annotations"][FAILURES] = json!(counted.to_string());
        if ignored > 0 {
            metadata["annotations"][IGNORED] = json!(ignored.to_string());
        }
    }
    pod["spec"]["hostname"] = json!(format!("{}-{text}", job.name_any()));
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            tell_index(container);
        }
    }
    pod
}

/// What the pods of an index are called, without what the server adds.
fn prefix(job: &str, index: &str) -> String {
    let end = format!("-{index}-");
    // Names are ASCII.
    let kept = job.get(..LONGEST_PREFIX.saturating_sub(end.len())).unwrap_or(job);
    format!("{kept}{end}")
}

fn tell_index(container: &mut Value) {
    let variables = &mut container["env"];
    if variables.is_null() {
        *variables = json!([]);
    }
    let Some(variables) = variables.as_array_mut() else { return };
    if variables.iter().all(|variable| variable["name"] != VARIABLE) {
        let field = format!("metadata.labels['{INDEX}']");
        variables.push(json!({ "name": VARIABLE, "valueFrom": { "fieldRef": { "fieldPath": field } } }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(change: Value) -> Job {
        let mut job = json!({
            "metadata": { "name": "work", "uid": "u" },
            "spec": { "template": {
                "metadata": { "labels": { "a": "b" }, "finalizers": ["x/y"] },
                "spec": { "containers": [{ "name": "c", "env": [{ "name": "A", "value": "1" }] }],
                          "initContainers": [{ "name": "i", "env": [{ "name": VARIABLE, "value": "own" }] }] },
            } },
        });
        for (key, value) in change.as_object().unwrap() {
            job["spec"][key] = value.clone();
        }
        serde_json::from_value(job).unwrap()
    }

    #[test]
    fn a_pod_without_an_index_is_the_template_and_the_finalizer() {
        let job = job(json!({}));
        let pod = new(&job, job.spec.as_ref().unwrap(), None, None);
        assert_eq!(pod["metadata"]["finalizers"], json!(["x/y", TRACKING]));
        assert_eq!(pod["metadata"]["generateName"], "work-");
        assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "Job");
        assert_eq!(pod["spec"]["containers"][0]["env"].as_array().unwrap().len(), 1);
        assert!(pod["spec"]["hostname"].is_null());
    }

    #[test]
    fn an_index_is_told_in_every_way() {
        let job = job(json!({ "backoffLimitPerIndex": 3 }));
        let spec = job.spec.as_ref().unwrap();
        let pod = new(&job, spec, Some(7), None);
        let metadata = &pod["metadata"];
        assert_eq!((&metadata["labels"][INDEX], &metadata["labels"]["a"]), (&json!("7"), &json!("b")));
        assert_eq!(
            (&metadata["annotations"][INDEX], &metadata["annotations"][FAILURES]),
            (&json!("7"), &json!("0"))
        );
        assert_eq!(
            (&metadata["generateName"], &pod["spec"]["hostname"]),
            (&json!("work-7-"), &json!("work-7"))
        );
        let told = &pod["spec"]["containers"][0]["env"][1];
        assert_eq!(told["valueFrom"]["fieldRef"]["fieldPath"], format!("metadata.labels['{INDEX}']"));
        assert_eq!(pod["spec"]["initContainers"][0]["env"], json!([{ "name": VARIABLE, "value": "own" }]));
        let failed: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(index(&failed), Some(7));
        let next: Pod = serde_json::from_value(new(&job, spec, Some(7), Some(&failed))).unwrap();
        assert_eq!((failures_before(&next), all_failures_before(&next)), (1, 1));
    }

    #[test]
    fn a_long_name_leaves_room_for_the_index() {
        let long = "a".repeat(63);
        assert_eq!(prefix(&long, "12").len(), LONGEST_PREFIX);
        assert!(prefix(&long, "12").ends_with("a-12-"));
        assert_eq!(prefix("job", "12"), "job-12-");
    }
}
