//! Which pods of a Job have failed, and what its policies make of that.

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, SuccessPolicy,
};

use super::indexes::Indexes;
use crate::model::{ContainerStatus, Pod};

/// What a Job's failure policy says about a pod that has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Ignore,
    Count,
    FailIndex,
    /// With what is told of it.
    FailJob(String),
}

/// Whether a pod is replaced only when it has ended, not as soon as it is on its way out.
pub(super) fn waits_for_end(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

/// Whether a pod counts as failed.
pub(super) fn has_failed(spec: &JobSpec, pod: &Pod) -> bool {
    match pod.status.phase.as_str() {
        "Failed" => true,
        "Succeeded" => false,
        _ => pod.is_terminating() && !waits_for_end(spec),
    }
}

/// What the first rule that fits says; nothing where none does.
pub(super) fn action(spec: &JobSpec, pod: &Pod) -> Option<Action> {
    let rules = &spec.pod_failure_policy.as_ref()?.rules;
    rules.iter().enumerate().find_map(|(number, rule)| {
        let found = if let Some(codes) = &rule.on_exit_codes {
            exit_code(codes, pod).map(|(name, code)| {
                format!("Container {name} for pod {} failed with exit code {code}", path(pod))
            })
        } else {
            let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
            patterns
                .iter()
                .find(|pattern| holds(pattern, pod))
                .map(|pattern| format!("Pod {} has condition {}", path(pod), pattern.type_))
        };
        let found = found?;
        match rule.action.as_str() {
            "Ignore" => Some(Action::Ignore),
            "Count" => Some(Action::Count),
            "FailIndex" if spec.backoff_limit_per_index.is_some() => Some(Action::FailIndex),
            "FailJob" => Some(Action::FailJob(format!("{found} matching FailJob rule at index {number}"))),
            _ => None,
        }
    })
}

/// Whether a failed pod counts.
pub(super) fn counts(spec: &JobSpec, pod: &Pod) -> bool {
    action(spec, pod) != Some(Action::Ignore)
}

fn path(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    format!(
        "{}/{}",
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default()
    )
}

/// The first container whose exit code a requirement is about, and the code.
fn exit_code<'a>(wanted: &PodFailurePolicyOnExitCodesRequirement, pod: &'a Pod) -> Option<(&'a str, i32)> {
    containers(pod).find_map(|container| {
        let code = container.state.terminated.as_ref()?.exit_code;
        let named = wanted.container_name.as_ref().is_none_or(|name| *name == container.name);
        let listed = wanted.values.contains(&code) == (wanted.operator == "In");
        (named && code != 0 && listed).then_some((container.name.as_str(), code))
    })
}

fn holds(pattern: &PodFailurePolicyOnPodConditionsPattern, pod: &Pod) -> bool {
    let wanted = pattern.status.as_deref().unwrap_or("True");
    pod.condition(&pattern.type_).is_some_and(|condition| condition.status == wanted)
}

/// What is told of the containers of a pod, of those that start it too.
pub(super) fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses)
}

/// Whether the pods that go on in place have been restarted as often as a Job tries.
pub(super) fn restarted_too_often(spec: &JobSpec, pods: &[impl AsRef<Pod>]) -> bool {
    let restarts_in_place =
        spec.template.spec.as_ref().is_some_and(|pod| pod.restart_policy.as_deref() == Some("OnFailure"));
    if !restarts_in_place {
        return false;
    }
    let running = pods
        .iter()
        .map(AsRef::as_ref)
        .filter(|pod| matches!(pod.status.phase.as_str(), "Running" | "Pending"));
    let restarts = running.flat_map(containers).fold(0_i32, |sum, one| sum.saturating_add(one.restart_count));
    let limit = spec.backoff_limit.unwrap_or(6);
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

/// What is told when enough indexes have succeeded for a success policy.
pub(super) fn succeeds(policy: &SuccessPolicy, completions: i32, done: &Indexes) -> Option<String> {
    let fits = policy.rules.iter().position(|rule| {
        let among = rule.succeeded_indexes.as_ref().map(|text| Indexes::parse(text, completions));
        match (among, rule.succeeded_count) {
            (Some(among), count) => among.shared(done) >= count.unwrap_or(among.count()),
            (None, Some(count)) => done.count() >= count,
            (None, None) => false,
        }
    })?;
    Some(format!("Matched rules at index {fits}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn spec(change: Value) -> JobSpec {
        let mut spec = json!({ "template": {}, "backoffLimitPerIndex": 1 });
        for (key, value) in change.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(spec).unwrap()
    }

    fn pod(status: Value) -> Pod {
        let pod = json!({ "metadata": { "namespace": "n", "name": "p" }, "status": status });
        serde_json::from_value(pod).unwrap()
    }

    fn ended(name: &str, code: i32) -> Value {
        json!({ "name": name, "state": { "terminated": { "exitCode": code } } })
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let spec = spec(json!({ "podFailurePolicy": { "rules": [
            { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] },
            { "action": "FailJob", "onExitCodes": { "operator": "In", "values": [1, 42], "containerName": "main" } },
            { "action": "FailIndex", "onExitCodes": { "operator": "In", "values": [7] } },
            { "action": "Count", "onExitCodes": { "operator": "NotIn", "values": [1, 2] } },
            { "action": "FailJob", "onPodConditions": [{ "type": "Broken", "status": "False" }] },
        ] } }));
        let job = |text: &str| Some(Action::FailJob(text.to_owned()));
        let code = "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 1";
        let broken = "Pod n/p has condition Broken matching FailJob rule at index 4";
        let condition = |kind: &str, status: &str| json!([{ "type": kind, "status": status }]);
        for (status, expected) in [
            (json!({ "containerStatuses": [ended("side", 0), ended("main", 42)] }), job(code)),
            (json!({ "containerStatuses": [ended("side", 42)] }), Some(Action::Count)),
            (json!({ "initContainerStatuses": [ended("first", 7)] }), Some(Action::FailIndex)),
            (json!({ "containerStatuses": [ended("main", 2)] }), None),
            (json!({ "containerStatuses": [ended("main", 0)] }), None),
            (
                json!({ "conditions": condition("DisruptionTarget", "True"), "containerStatuses": [ended("main", 42)] }),
                Some(Action::Ignore),
            ),
            (json!({ "conditions": condition("DisruptionTarget", "False") }), None),
            (json!({ "conditions": condition("Broken", "False") }), job(broken)),
        ] {
            assert_eq!(action(&spec, &pod(status.clone())), expected, "{status}");
        }
    }

    #[test]
    fn a_pod_on_its_way_out_has_failed_unless_its_end_is_waited_for() {
        let going = |phase: &str| {
            let mut pod = pod(json!({ "phase": phase }));
            pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
            pod
        };
        let (soon, late) = (spec(json!({})), spec(json!({ "podReplacementPolicy": "Failed" })));
        for (pod, at_once, waiting) in [
            (going("Running"), true, false),
            (going("Failed"), true, true),
            (going("Succeeded"), false, false),
            (pod(json!({ "phase": "Running" })), false, false),
        ] {
            assert_eq!((has_failed(&soon, &pod), has_failed(&late, &pod)), (at_once, waiting));
        }
    }

    #[test]
    fn restarts_in_place_count_together() {
        let limited = |limit: i32, policy: &str| {
            spec(
                json!({ "backoffLimit": limit, "template": { "spec": { "restartPolicy": policy, "containers": [] } } }),
            )
        };
        let restarted = |phase: &str, count: i32| {
            Arc::new(pod(json!({ "phase": phase, "containerStatuses": [{ "restartCount": count }] })))
        };
        let pods = [restarted("Running", 2), restarted("Pending", 1), restarted("Failed", 9)];
        for (limit, policy, expected) in
            [(3, "OnFailure", true), (4, "OnFailure", false), (0, "OnFailure", true), (1, "Never", false)]
        {
            assert_eq!(restarted_too_often(&limited(limit, policy), &pods), expected, "{limit} {policy}");
        }
        assert!(!restarted_too_often(&limited(0, "OnFailure"), &[restarted("Running", 0)]));
    }

    #[test]
    fn success_may_need_certain_indexes_or_a_number_of_them() {
        for (rules, done, expected) in [
            (json!([{ "succeededIndexes": "0-2" }]), "0-2", Some(0)),
            (json!([{ "succeededIndexes": "0-2" }]), "0,2-4", None),
            (json!([{ "succeededIndexes": "0-2", "succeededCount": 2 }]), "0,2-4", Some(0)),
            (json!([{ "succeededIndexes": "7" }, { "succeededCount": 3 }]), "0-2", Some(1)),
            (json!([{ "succeededCount": 4 }]), "0-2", None),
        ] {
            let policy: SuccessPolicy = serde_json::from_value(json!({ "rules": rules })).unwrap();
            let expected = expected.map(|number: i32| format!("Matched rules at index {number}"));
            assert_eq!(succeeds(&policy, 10, &Indexes::parse(done, 10)), expected, "{rules} {done}");
        }
    }
}
