//! What a pod asks for and what a node has.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::model::{Container, ContainerStatus, Pod};
use crate::quantity::{thousandths, units};

/// What a container without requests counts as when nodes are compared, as in the reference.
const DEFAULT_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

pub(crate) type Quantities = BTreeMap<String, Quantity>;

/// Amounts of resources. Pods are counted apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    /// In thousandths of a processor.
    pub(crate) cpu: i64,
    /// In bytes.
    pub(crate) memory: i64,
    /// In bytes.
    pub(crate) ephemeral: i64,
    /// By name; only what a pod can ask for and is not one of the above.
    pub(crate) extended: BTreeMap<String, i64>,
}

impl Resources {
    pub(crate) fn new(quantities: Option<&Quantities>) -> Resources {
        let mut resources = Resources::default();
        for (name, quantity) in quantities.into_iter().flatten() {
            match name.as_str() {
                "cpu" => resources.cpu = thousandths(&quantity.0),
                "memory" => resources.memory = units(&quantity.0),
                "ephemeral-storage" => resources.ephemeral = units(&quantity.0),
                "pods" => {}
                other => {
                    resources.extended.insert(other.to_owned(), units(&quantity.0));
                }
            }
        }
        resources
    }

    pub(crate) fn add(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_add);
    }

    pub(crate) fn subtract(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_sub);
        self.extended.retain(|_, amount| *amount != 0);
    }

    fn at_least(&mut self, other: &Resources) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Resources, with: fn(i64, i64) -> i64) {
        self.cpu = with(self.cpu, other.cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral = with(self.ephemeral, other.ephemeral);
        for (name, amount) in &other.extended {
            let own = self.extended.entry(name.clone()).or_default();
            *own = with(*own, *amount);
        }
    }

    /// What a pod asks for: of its containers together, or of one init container where that is more, and the
    /// overhead of its sandbox. Init containers that go on running count with those that come after them. With
    /// `defaults` a container that does not speak of processors or memory counts as if it asked for a little.
    pub(crate) fn of_pod(pod: &Pod, defaults: bool) -> Resources {
        let infeasible =
            pod.status.conditions.iter().any(|one| {
                one.kind == "PodResizePending" && one.status == "True" && one.reason == "Infeasible"
            });
        let whole = pod.spec.resources.requests.as_ref();
        let defaults = defaults && whole.is_none();
        let of = |container: &Container, statuses: &[ContainerStatus]| {
            let mut own = Resources::new(container.resources.requests.as_ref());
            if let Some(status) = statuses.iter().find(|status| status.name == container.name) {
                let mut given = Resources::new(status.resources.requests.as_ref());
                given.at_least(&Resources::new(status.allocated_resources.as_ref()));
                // What cannot be is not waited for.
                if infeasible && status.allocated_resources.is_some() {
                    own = given
                } else {
                    own.at_least(&given)
                }
            }
            let says =
                |name: &str| container.resources.requests.as_ref().is_some_and(|all| all.contains_key(name));
            if defaults && !says("cpu") {
                own.cpu = own.cpu.max(DEFAULT_CPU);
            }
            if defaults && !says("memory") {
                own.memory = own.memory.max(DEFAULT_MEMORY);
            }
            own
        };
        let mut total = Resources::default();
        for container in &pod.spec.containers {
            total.add(&of(container, &pod.status.container_statuses));
        }
        let mut running = Resources::default();
        let mut starting = Resources::default();
        for container in &pod.spec.init_containers {
            let own = of(container, &pod.status.init_container_statuses);
            if container.restart_policy == "Always" {
                running.add(&own);
                total.add(&own);
                starting.at_least(&running);
            } else {
                let mut now = own;
                now.add(&running);
                starting.at_least(&now);
            }
        }
        total.at_least(&starting);
        // What is said for the pod as a whole counts instead.
        if whole.is_some() {
            let mut given = Resources::new(whole);
            let mut has = Resources::new(pod.status.resources.requests.as_ref());
            has.at_least(&Resources::new(pod.status.allocated_resources.as_ref()));
            if infeasible && pod.status.allocated_resources.is_some() {
                given = has
            } else {
                given.at_least(&has)
            }
            for name in whole.into_iter().flat_map(|whole| whole.keys()) {
                match name.as_str() {
                    "cpu" => total.cpu = given.cpu,
                    "memory" => total.memory = given.memory,
                    huge if huge.starts_with("hugepages-") => {
                        let amount = given.extended.get(huge).copied().unwrap_or_default();
                        total.extended.insert(huge.to_owned(), amount);
                    }
                    _ => {}
                }
            }
        }
        total.add(&Resources::new(Some(&pod.spec.overhead)));
        total
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(spec: Value, cpu: i64, memory: i64) {
        let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap();
        let resources = Resources::of_pod(&pod, false);
        assert_eq!((resources.cpu, resources.memory), (cpu, memory));
    }

    #[test]
    fn a_pod_asks_for_the_most_that_it_needs_at_one_time() {
        let ask = |cpu: &str| json!({ "resources": { "requests": { "cpu": cpu, "memory": "1Ki" } } });
        let stays =
            |cpu: &str| json!({ "restartPolicy": "Always", "resources": { "requests": { "cpu": cpu } } });
        check(json!({ "containers": [ask("1"), ask("500m")] }), 1500, 2048);
        check(json!({ "containers": [ask("1")], "initContainers": [ask("3"), ask("2")] }), 3000, 1024);
        check(json!({ "containers": [ask("1")], "initContainers": [stays("1"), ask("2")] }), 3000, 1024);
        check(json!({ "containers": [ask("1")], "overhead": { "cpu": "250m" } }), 1250, 1024);
        check(json!({ "containers": [ask("1")], "resources": { "requests": { "cpu": "4" } } }), 4000, 1024);
        check(json!({ "containers": [{}] }), 0, 0);
    }

    #[test]
    fn a_container_that_is_resized_takes_the_more_of_both_sizes() {
        let resized = |reason: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {},
                "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": "4" } } }] },
                "status": {
                    "conditions": [{ "type": "PodResizePending", "status": "True", "reason": reason }],
                    "containerStatuses": [{ "name": "c", "resources": { "requests": { "cpu": "2" } },
                        "allocatedResources": { "cpu": "1" } }],
                },
            }))
            .unwrap()
        };
        assert_eq!(Resources::of_pod(&resized("Deferred"), false).cpu, 4000);
        assert_eq!(Resources::of_pod(&resized("Infeasible"), false).cpu, 2000);
    }

    #[test]
    fn containers_that_say_nothing_count_a_little_when_nodes_are_compared() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": { "containers": [{ "resources": { "requests": { "cpu": "1" } } }, {}] },
        }))
        .unwrap();
        let weight = Resources::of_pod(&pod, true);
        assert_eq!((weight.cpu, weight.memory), (1100, 2 * DEFAULT_MEMORY));
        assert_eq!(Resources::of_pod(&pod, false).memory, 0);
    }
}
