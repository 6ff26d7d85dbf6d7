//! What pods use: themselves, and what their containers ask for while they have not ended.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::Amounts;
use crate::{object, quantity::Quantity, time};

const COUNTED: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
/// A quota of one of these has every container say it.
const SAID: &[&str] = &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const REQUESTS: &str = "requests.";
const HUGE_PAGES: &str = "hugepages-";

/// Whether a resource is one of somebody's own, as "example.com/gpu".
fn is_extended(resource: &str) -> bool {
    let native = !resource.contains('/') || resource.contains("kubernetes.io/");
    !native && !resource.starts_with(REQUESTS)
}

pub(super) fn is_counted_by(resource: &str) -> bool {
    COUNTED.contains(&resource)
        || resource.starts_with(HUGE_PAGES)
        || resource
            .strip_prefix(REQUESTS)
            .is_some_and(|rest| rest.starts_with(HUGE_PAGES) || is_extended(rest))
}

/// Whether a pod no longer uses what it asked for.
fn has_ended(pod: &Value) -> bool {
    if matches!(object::text(pod, &["status", "phase"]), "Failed" | "Succeeded") {
        return true;
    }
    // One that does not get away in its time, as on a lost node, holds nothing back from others.
    let grace = pod["metadata"]["deletionGracePeriodSeconds"].as_i64();
    let deleted = time::parse(object::meta(pod, "deletionTimestamp"));
    deleted.zip(grace).is_some_and(|(at, grace)| {
        at.checked_add(SignedDuration::from_secs(grace)).is_ok_and(|end| end < Timestamp::now())
    })
}

pub(super) fn usage(pod: &Value) -> Amounts {
    if has_ended(pod) {
        return Amounts::default();
    }
    of_resources(&requests(pod), &limits(pod))
}

/// Requests and limits under the names that quotas have for them.
fn of_resources(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut amounts = Amounts::of_one("pods");
    for resource in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(request) = requests.get(resource) {
            amounts.set(resource, request);
            amounts.set(&format!("{REQUESTS}{resource}"), request);
        }
        if let Some(limit) = limits.get(resource) {
            amounts.set(&format!("limits.{resource}"), limit);
        }
    }
    for (resource, request) in requests.entries() {
        if resource.starts_with(HUGE_PAGES) {
            amounts.set(resource, request);
        }
        if resource.starts_with(HUGE_PAGES) || is_extended(resource) {
            amounts.set(&format!("{REQUESTS}{resource}"), request);
        }
    }
    amounts
}

fn containers<'a>(pod: &'a Value, field: &str) -> &'a [Value] {
    pod["spec"][field].as_array().map_or(&[], Vec::as_slice)
}

/// The status of a container of a pod's.
fn status<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let all = ["containerStatuses", "initContainerStatuses"].iter();
    let mut all = all.flat_map(|field| pod["status"][*field].as_array().into_iter().flatten());
    all.find(|status| status["name"] == name).unwrap_or(&Value::Null)
}

/// What the containers of a pod ask for together: those that run side by side, or the most that is needed before.
fn total(pod: &Value, of: impl Fn(&Value) -> Amounts) -> Amounts {
    let mut together = Amounts::default();
    containers(pod, "containers").iter().for_each(|container| together.add(&of(container)));
    let (mut sidecars, mut before) = (Amounts::default(), Amounts::default());
    for container in containers(pod, "initContainers") {
        let mut needed = of(container);
        if container["restartPolicy"] == "Always" {
            together.add(&needed);
            sidecars.add(&needed);
            needed = sidecars.clone();
        } else {
            needed.add(&sidecars);
        }
        before.raise(&needed);
    }
    together.raise(&before);
    together
}

/// The pod's own figures stand in the place of its containers'.
fn set_for_pod(amounts: &mut Amounts, own: &Value) {
    let own = Amounts::read(own);
    for (resource, amount) in own.entries() {
        if matches!(resource, "cpu" | "memory") || resource.starts_with(HUGE_PAGES) {
            amounts.set(resource, amount);
        }
    }
}

/// What the containers of a pod ask for together, or the pod as a whole.
pub(super) fn requests(pod: &Value) -> Amounts {
    let mut amounts = total(pod, |container| {
        let mut asked = Amounts::read(&container["resources"]["requests"]);
        // While a pod is resized it has the more of what it had and what it wants.
        let status = status(pod, object::text(container, &["name"]));
        asked.raise(&Amounts::read(&status["resources"]["requests"]));
        asked.raise(&Amounts::read(&status["allocatedResources"]));
        asked
    });
    set_for_pod(&mut amounts, &pod["spec"]["resources"]["requests"]);
    amounts.add(&Amounts::read(&pod["spec"]["overhead"]));
    amounts
}

fn limits(pod: &Value) -> Amounts {
    let mut amounts = total(pod, |container| {
        let mut limits = Amounts::read(&container["resources"]["limits"]);
        let status = status(pod, object::text(container, &["name"]));
        limits.raise(&Amounts::read(&status["resources"]["limits"]));
        limits
    });
    set_for_pod(&mut amounts, &pod["spec"]["resources"]["limits"]);
    let limited: BTreeSet<String> = amounts.names().map(str::to_owned).collect();
    amounts.add(&Amounts::read(&pod["spec"]["overhead"]).only(|name| limited.contains(name)));
    amounts
}

pub(super) fn unspecified<'r>(resources: impl Iterator<Item = &'r str>, pod: &Value) -> Option<String> {
    let required: BTreeSet<&str> = resources.filter(|resource| SAID.contains(resource)).collect();
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in containers(pod, "containers").iter().chain(containers(pod, "initContainers")) {
        let resources = &container["resources"];
        let said = of_resources(&Amounts::read(&resources["requests"]), &Amounts::read(&resources["limits"]));
        for resource in required.iter().filter(|resource| said.get(resource).is_none()) {
            missing.entry(resource).or_default().insert(object::text(container, &["name"]));
        }
    }
    if missing.is_empty() {
        return None;
    }
    let told: Vec<String> = missing
        .into_iter()
        .map(|(resource, names)| {
            format!("{resource} for: {}", names.into_iter().collect::<Vec<_>>().join(","))
        })
        .collect();
    Some(format!("must specify {}", told.join("; ")))
}

pub(super) fn is_in_scope(scope: &str, pod: &Value) -> bool {
    let terminating = || pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    match scope {
        "Terminating" => terminating(),
        "NotTerminating" => !terminating(),
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "CrossNamespacePodAffinity" => looks_elsewhere(pod),
        _ => false,
    }
}

/// Whether no container asks for anything.
fn is_best_effort(pod: &Value) -> bool {
    let zero = Quantity::from_units(0);
    let asks = |part: &Value| {
        ["requests", "limits"].iter().any(|field| {
            let amounts = Amounts::read(&part["resources"][*field]);
            ["cpu", "memory"].iter().any(|name| amounts.get(name).is_some_and(|amount| amount > zero))
        })
    };
    !asks(&pod["spec"])
        && !containers(pod, "containers").iter().chain(containers(pod, "initContainers")).any(asks)
}

/// Whether its affinity looks at pods of other namespaces.
fn looks_elsewhere(pod: &Value) -> bool {
    let elsewhere = |term: &Value| {
        term["namespaces"].as_array().is_some_and(|all| !all.is_empty())
            || term["namespaceSelector"].is_object()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|field| {
        let affinity = &pod["spec"]["affinity"][*field];
        let list = |name: &str| affinity[name].as_array().map_or(&[][..], Vec::as_slice);
        list("requiredDuringSchedulingIgnoredDuringExecution").iter().any(elsewhere)
            || list("preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|weighted| elsewhere(&weighted["podAffinityTerm"]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(pod: Value, expected: Value) {
        assert_eq!(usage(&pod).to_value(), expected, "{pod}");
    }

    #[test]
    fn a_pod_uses_what_its_containers_ask_for() {
        let c = |requests: Value, limits: Value| json!({ "name": "c", "resources": { "requests": requests, "limits": limits } });
        check(json!({ "spec": { "containers": [{ "name": "c" }] } }), json!({ "pods": "1" }));
        let two = [
            c(
                json!({ "cpu": "100m", "example.com/gpu": 1, "hugepages-2Mi": "2Mi" }),
                json!({ "memory": "1Gi" }),
            ),
            c(json!({ "cpu": "200m", "ephemeral-storage": "1Gi" }), json!({ "memory": "1Gi", "cpu": "1" })),
        ];
        let expected = json!({
            "pods": "1", "cpu": "300m", "requests.cpu": "300m", "requests.example.com/gpu": "1",
            "hugepages-2Mi": "2Mi", "requests.hugepages-2Mi": "2Mi", "ephemeral-storage": "1Gi",
            "requests.ephemeral-storage": "1Gi", "limits.memory": "2Gi", "limits.cpu": "1",
        });
        check(json!({ "spec": { "containers": two } }), expected);
        // What comes before: alone, or beside a sidecar.
        let one = |cpu: &str| c(json!({ "cpu": cpu }), json!({}));
        let mut sidecar = one("50m");
        sidecar["restartPolicy"] = json!("Always");
        let cpu = |amount: &str| json!({ "pods": "1", "cpu": amount, "requests.cpu": amount });
        check(json!({ "spec": { "initContainers": [one("1")], "containers": [one("100m")] } }), cpu("1"));
        let spec = json!({ "initContainers": [sidecar, one("1")], "containers": [one("100m")] });
        check(json!({ "spec": spec }), cpu("1050m"));
        let spec = json!({ "initContainers": [one("1"), sidecar], "containers": [one("970m")] });
        check(json!({ "spec": spec }), cpu("1020m"));
        // The pod's own figures, and its overhead.
        let spec = json!({ "resources": { "requests": { "cpu": "2" } }, "overhead": { "cpu": "10m" }, "containers": [one("1")] });
        check(json!({ "spec": spec }), cpu("2010m"));
        // While it shrinks it still has what it had.
        let status =
            json!({ "containerStatuses": [{ "name": "c", "resources": { "requests": { "cpu": "3" } } }] });
        check(json!({ "spec": { "containers": [one("1")] }, "status": status }), cpu("3"));
    }

    #[test]
    fn a_pod_that_has_ended_uses_nothing() {
        let spec = json!({ "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1" } } }] });
        check(json!({ "spec": spec, "status": { "phase": "Succeeded" } }), json!({}));
        let gone = json!({ "deletionTimestamp": "2020-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30 });
        check(json!({ "metadata": gone, "spec": spec }), json!({}));
        let going = json!({ "deletionTimestamp": "9000-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30 });
        check(
            json!({ "metadata": going, "spec": spec }),
            json!({ "pods": "1", "cpu": "1", "requests.cpu": "1" }),
        );
    }

    #[test]
    fn containers_have_to_say_what_is_limited() {
        let pod = json!({ "spec": {
            "containers": [{ "name": "b", "resources": { "limits": { "cpu": "1" } } }, { "name": "a" }],
            "initContainers": [{ "name": "i", "resources": { "requests": { "cpu": "1" }, "limits": { "cpu": "1" } } }],
        } });
        let hard = ["pods", "limits.cpu", "requests.cpu", "requests.ephemeral-storage"];
        let told = unspecified(hard.into_iter(), &pod);
        assert_eq!(told.as_deref(), Some("must specify limits.cpu for: a; requests.cpu for: a,b"));
        assert_eq!(unspecified(["pods"].into_iter(), &pod), None);
    }

    #[test]
    fn scopes_look_at_pods() {
        let plain = json!({ "spec": { "containers": [{ "name": "c" }] } });
        assert!(is_in_scope("BestEffort", &plain) && is_in_scope("NotTerminating", &plain));
        let bound = json!({ "spec": {
            "activeDeadlineSeconds": 0, "containers": [{ "name": "c", "resources": { "limits": { "cpu": "1" } } }],
            "affinity": { "podAffinity": { "preferredDuringSchedulingIgnoredDuringExecution":
                [{ "weight": 1, "podAffinityTerm": { "namespaces": ["other"] } }] } },
        } });
        for scope in ["NotBestEffort", "Terminating", "CrossNamespacePodAffinity"] {
            assert!(is_in_scope(scope, &bound), "{scope}");
            assert!(!is_in_scope(scope, &plain), "{scope}");
        }
    }
}
