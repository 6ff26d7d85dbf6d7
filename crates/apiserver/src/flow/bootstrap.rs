//! The schemas and levels that every cluster begins with: those that must be, and those that the reference suggests.

use serde_json::{Value, json};

const VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
/// Objects that say so follow the server's own idea of them.
pub(crate) const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

fn made(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "kind": kind, "apiVersion": VERSION, "spec": spec,
        "metadata": { "name": name, "annotations": { AUTOUPDATE: "true" } },
    })
}

/// A level with so many shares, of which others may borrow some, and queues.
fn level(name: &str, shares: u32, lendable: u32, queues: u32, hand: u32) -> Value {
    let queuing = json!({ "queues": queues, "handSize": hand, "queueLengthLimit": 50 });
    let limited = json!({
        "nominalConcurrencyShares": shares, "lendablePercent": lendable,
        "limitResponse": { "type": "Queue", "queuing": queuing },
    });
    made("PriorityLevelConfiguration", name, json!({ "type": "Limited", "limited": limited }))
}

fn groups(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({ "kind": "Group", "group": { "name": name } })).collect()
}

fn user(name: &str) -> Value {
    json!({ "kind": "User", "user": { "name": name } })
}

fn system_accounts() -> Value {
    json!({ "kind": "ServiceAccount", "serviceAccount": { "namespace": "kube-system", "name": "*" } })
}

fn resources(verbs: &[&str], group: &str, resources: &[&str], cluster: bool) -> Value {
    json!({
        "verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"], "clusterScope": cluster,
    })
}

fn schema(name: &str, level: &str, precedence: u32, by: &str, rules: Value) -> Value {
    let mut spec = json!({
        "priorityLevelConfiguration": { "name": level }, "matchingPrecedence": precedence, "rules": [rules],
    });
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({ "type": by });
    }
    made("FlowSchema", name, spec)
}

/// Rules about everything that some do.
fn everything(subjects: Vec<Value>) -> Value {
    json!({
        "subjects": subjects, "resourceRules": [resources(&["*"], "*", &["*"], true)],
        "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }],
    })
}

const EVERYBODY: &[&str] = &["system:unauthenticated", "system:authenticated"];

/// What there must be.
pub(crate) fn mandatory() -> Vec<Value> {
    let exempt = json!({ "nominalConcurrencyShares": 0, "lendablePercent": 0 });
    let last = json!({
        "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": { "type": "Reject" },
    });
    vec![
        made("PriorityLevelConfiguration", "exempt", json!({ "type": "Exempt", "exempt": exempt })),
        made("PriorityLevelConfiguration", "catch-all", json!({ "type": "Limited", "limited": last })),
        schema("exempt", "exempt", 1, "", everything(groups(&["system:masters"]))),
        schema("catch-all", "catch-all", 10_000, "ByUser", everything(groups(EVERYBODY))),
    ]
}

/// What there is unless somebody changes it.
pub(crate) fn suggested() -> Vec<Value> {
    let nodes = || groups(&["system:nodes"]);
    let leases = |verbs: &[&str]| resources(verbs, "coordination.k8s.io", &["leases"], false);
    let (manager, scheduler) = ("system:kube-controller-manager", "system:kube-scheduler");
    let probes = json!({
        "subjects": groups(EVERYBODY),
        "nonResourceRules": [{ "verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"] }],
    });
    let election = json!({
        "subjects": [user(manager), user(scheduler), system_accounts()],
        "resourceRules": [leases(&["get", "create", "update"])],
    });
    let node_high = json!({
        "subjects": nodes(),
        "resourceRules": [resources(&["*"], "", &["nodes", "nodes/status"], true), leases(&["*"])],
    });
    vec![
        level("system", 30, 33, 64, 6),
        level("node-high", 40, 25, 64, 6),
        level("leader-election", 10, 0, 16, 4),
        level("workload-high", 40, 50, 128, 6),
        level("workload-low", 100, 90, 128, 6),
        level("global-default", 20, 50, 128, 6),
        schema("probes", "exempt", 2, "", probes),
        schema("system-leader-election", "leader-election", 100, "ByUser", election),
        schema("system-node-high", "node-high", 400, "ByUser", node_high),
        schema("system-nodes", "system", 500, "ByUser", everything(nodes())),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            "ByNamespace",
            everything(vec![user(manager)]),
        ),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", everything(vec![user(scheduler)])),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            everything(vec![system_accounts()]),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            "ByUser",
            everything(groups(&["system:serviceaccounts"])),
        ),
        schema("global-default", "global-default", 9900, "ByUser", everything(groups(EVERYBODY))),
    ]
}
