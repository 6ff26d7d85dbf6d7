//! What a pod asks for and what a node has.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::model::{Container, Pod};
use crate::quantity::{thousandths, units};

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
    /// overhead of its sandbox. Init containers that go on running count with those that come after them.
    pub(crate) fn of_pod(pod: &Pod) -> Resources {
        let of = |container: &Container| Resources::new(container.resources.requests.as_ref());
        let mut total = Resources::default();
        for container in &pod.spec.containers {
            total.add(&of(container));
        }
        let mut running = Resources::default();
        let mut starting = Resources::default();
        for container in &pod.spec.init_containers {
            let own = of(container);
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
        let whole = pod.spec.resources.requests.as_ref();
        let given = Resources::new(whole);
        for name in whole.into_iter().flat_map(|whole| whole.keys()) {
            match name.as_str() {
                "cpu" => total.cpu = given.cpu,
                "memory" => total.memory = given.memory,
                _ => {}
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
        let resources = Resources::of_pod(&pod);
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
}
