//! What `kubectl get` prints: the columns of each kind and their cells, as the reference's printers.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{object, selector::LabelSelector, time};

/// A column after the name.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// OpenAPI type of the cells.
    pub kind: &'static str,
    /// What it means.
    pub description: &'static str,
    /// 0 when always shown, 1 only in wide output.
    pub priority: u8,
}

const fn column(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column { name, kind, description, priority: 0 }
}

const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", description, priority: 1 }
}

const AGE_COLUMN: Column = column(
    "Age",
    "string",
    "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed \
     to be set in happens-before order across separate operations. Clients may not set this value. It is represented \
     in RFC3339 form and is in UTC.",
);

pub(super) const AGE: &[Column] = &[AGE_COLUMN];

pub(super) const POD: &[Column] = &[
    column("Ready", "string", "The aggregate readiness state of this pod for accepting traffic."),
    column("Status", "string", "The aggregate status of the containers in this pod."),
    column(
        "Restarts",
        "string",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    ),
    AGE_COLUMN,
    wide(
        "IP",
        "podIP address allocated to the pod. Routable at least within the cluster. Empty if not yet allocated.",
    ),
    wide("Node", "NodeName indicates in which node this pod is scheduled."),
    wide("Nominated Node", "nominatedNodeName is set only when this pod preempts other pods on the node."),
    wide("Readiness Gates", "If specified, all readiness gates will be evaluated for pod readiness."),
];

pub(super) const DEPLOYMENT: &[Column] = &[
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

pub(super) const REPLICA_SET: &[Column] = &[
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

pub(super) const SERVICE: &[Column] = &[
    column("Type", "string", "type determines how the Service is exposed."),
    column("Cluster-IP", "string", "clusterIP is the IP address of the service."),
    column(
        "External-IP",
        "string",
        "externalIPs is a list of IP addresses for which nodes in the cluster will also accept traffic for this service.",
    ),
    column("Port(s)", "string", "The list of ports that are exposed by this service."),
    AGE_COLUMN,
    wide("Selector", "Route service traffic to pods with label keys and values matching this selector."),
];

pub(super) const NODE: &[Column] = &[
    column("Status", "string", "The status of the node"),
    column("Roles", "string", "The roles of the node"),
    AGE_COLUMN,
    column("Version", "string", "Kubelet Version reported by the node."),
    wide("Internal-IP", "List of addresses reachable to the node."),
    wide("External-IP", "List of addresses reachable to the node."),
    wide("OS-Image", "OS Image reported by the node from /etc/os-release."),
    wide("Kernel-Version", "Kernel Version reported by the node from 'uname -r'."),
    wide("Container-Runtime", "ContainerRuntime Version reported by the node through runtime remote API."),
];

pub(super) const NAMESPACE: &[Column] =
    &[column("Status", "string", "The status of the namespace"), AGE_COLUMN];
pub(super) const CONFIG_MAP: &[Column] =
    &[column("Data", "string", "Data contains the configuration data."), AGE_COLUMN];
pub(super) const SECRET: &[Column] = &[
    column("Type", "string", "Used to facilitate programmatic handling of secret data."),
    column("Data", "string", "Data contains the secret data."),
    AGE_COLUMN,
];
pub(super) const SERVICE_ACCOUNT: &[Column] = &[
    column(
        "Secrets",
        "string",
        "Secrets is a list of the secrets in the same namespace that pods running using this ServiceAccount are allowed to use.",
    ),
    AGE_COLUMN,
];
pub(super) const ENDPOINTS: &[Column] =
    &[column("Endpoints", "string", "The set of all endpoints is the union of all subsets."), AGE_COLUMN];
pub(super) const ENDPOINT_SLICE: &[Column] = &[
    column(
        "AddressType",
        "string",
        "addressType specifies the type of address carried by this EndpointSlice.",
    ),
    column(
        "Ports",
        "string",
        "ports specifies the list of network ports exposed by each endpoint in this slice.",
    ),
    column("Endpoints", "string", "endpoints is a list of unique endpoints in this slice."),
    AGE_COLUMN,
];
pub(super) const LEASE: &[Column] = &[
    column("Holder", "string", "holderIdentity contains the identity of the holder of a current lease."),
    AGE_COLUMN,
];
pub(super) const CONTROLLER_REVISION: &[Column] = &[
    column("Controller", "string", "Controller of the object"),
    column("Revision", "string", "Revision indicates the revision of the state represented by Data."),
    AGE_COLUMN,
];
/// The first column of events is not their name: [`event`] leaves it out.
pub(super) const EVENT: &[Column] = &[
    column("Last Seen", "string", "The time at which the most recent occurrence of this event was recorded."),
    column("Type", "string", "Type of this event (Normal, Warning), new types could be added in the future"),
    column(
        "Reason",
        "string",
        "This should be a short, machine understandable string that gives the reason for the transition into the object's current status.",
    ),
    column("Object", "string", "The object that this event is about."),
    wide(
        "Subobject",
        "If referring to a piece of an object instead of an entire object, this string should contain a valid JSON/Go field access statement.",
    ),
    wide("Source", "The component reporting this event. Should be a short machine understandable string."),
    column("Message", "string", "A human-readable description of the status of this operation."),
    wide(
        "First Seen",
        "The time at which the event was first recorded. (Time of server receipt is in TypeMeta.)",
    ),
    wide("Count", "The number of times this event has occurred."),
    Column {
        name: "Name",
        kind: "string",
        description: "Name must be unique within a namespace.",
        priority: 1,
    },
];

fn age_of(text: &str, now: Timestamp) -> String {
    time::parse(text).map_or_else(|| "<unknown>".into(), |from| time::age(from, now))
}

fn age(object: &Value, now: Timestamp) -> Value {
    json!(age_of(object::meta(object, "creationTimestamp"), now))
}

fn or(text: &str, other: &str) -> Value {
    json!(if text.is_empty() { other } else { text })
}

fn items<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    object::at(object, path).as_array().map_or(&[], Vec::as_slice)
}

fn number(object: &Value, path: &[&str]) -> i64 {
    object::at(object, path).as_i64().unwrap_or(0)
}

pub(super) fn name_and_age(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(object)), age(object, now)]
}

pub(super) fn pod(pod: &Value, now: Timestamp) -> Vec<Value> {
    let state = PodState::of(pod);
    let restarts = match state.last_restart {
        Some(at) if state.restarts > 0 => format!("{} ({} ago)", state.restarts, time::age(at, now)),
        _ => state.restarts.to_string(),
    };
    let addresses = items(pod, &["status", "podIPs"]);
    let address = match addresses.first() {
        Some(first) => first["ip"].as_str().unwrap_or_default(),
        None => object::text(pod, &["status", "podIP"]),
    };
    let gates = items(pod, &["spec", "readinessGates"]);
    let passed = gates
        .iter()
        .filter(|gate| {
            items(pod, &["status", "conditions"])
                .iter()
                .any(|condition| condition["type"] == gate["conditionType"] && condition["status"] == "True")
        })
        .count();
    vec![
        json!(object::name(pod)),
        json!(format!("{}/{}", state.ready, state.total)),
        json!(state.reason),
        json!(restarts),
        age(pod, now),
        or(address, "<none>"),
        or(object::text(pod, &["spec", "nodeName"]), "<none>"),
        or(object::text(pod, &["status", "nominatedNodeName"]), "<none>"),
        if gates.is_empty() { json!("<none>") } else { json!(format!("{passed}/{}", gates.len())) },
    ]
}

struct PodState {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl PodState {
    /// The rules of `printPod` in the reference's internal printers.
    fn of(pod: &Value) -> PodState {
        let spec_containers = items(pod, &["spec", "containers"]);
        let init_containers = items(pod, &["spec", "initContainers"]);
        let phase = object::text(pod, &["status", "phase"]);
        let mut reason = match object::text(pod, &["status", "reason"]) {
            "" => phase.to_owned(),
            reason => reason.to_owned(),
        };
        for condition in items(pod, &["status", "conditions"]) {
            if condition["type"] == "PodScheduled" && condition["reason"] == "SchedulingGated" {
                reason = "SchedulingGated".into();
            }
        }
        let restartable = |name: &Value| {
            init_containers
                .iter()
                .any(|container| container["name"] == *name && container["restartPolicy"] == "Always")
        };
        let mut total = spec_containers.len();
        let (mut ready, mut restarts, mut last) = (0, 0, None);
        let (mut sidecar_restarts, mut sidecar_last) = (0, None);
        let mut initializing = false;
        for (index, status) in items(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
            restarts += number(status, &["restartCount"]);
            last = last.max(ended(status));
            if restartable(&status["name"]) {
                sidecar_restarts += number(status, &["restartCount"]);
                sidecar_last = sidecar_last.max(ended(status));
            }
            let terminated = object::at(status, &["state", "terminated"]);
            let waiting = object::text(status, &["state", "waiting", "reason"]);
            if initializing {
                continue;
            }
            if terminated.is_object() && number(terminated, &["exitCode"]) == 0 {
                continue;
            }
            if restartable(&status["name"]) && status["started"] == true {
                if status["ready"] == true {
                    ready += 1;
                }
                continue;
            }
            reason = if terminated.is_object() {
                format!("Init:{}", terminated_reason(terminated))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", init_containers.len())
            };
            initializing = true;
        }
        total += init_containers.iter().filter(|container| container["restartPolicy"] == "Always").count();
        let initialized = items(pod, &["status", "conditions"])
            .iter()
            .any(|condition| condition["type"] == "Initialized" && condition["status"] == "True");
        if !initializing || initialized {
            restarts = sidecar_restarts;
            last = sidecar_last;
            let mut running = false;
            for status in items(pod, &["status", "containerStatuses"]).iter().rev() {
                restarts += number(status, &["restartCount"]);
                last = last.max(ended(status));
                let waiting = object::text(status, &["state", "waiting", "reason"]);
                let terminated = object::at(status, &["state", "terminated"]);
                if !waiting.is_empty() {
                    reason = waiting.to_owned();
                } else if terminated.is_object() {
                    reason = terminated_reason(terminated);
                } else if status["ready"] == true && status["state"]["running"].is_object() {
                    running = true;
                    ready += 1;
                }
            }
            if reason == "Completed" && running {
                let pod_ready = items(pod, &["status", "conditions"])
                    .iter()
                    .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
                reason = if pod_ready { "Running".into() } else { "NotReady".into() };
            }
        }
        if object::is_terminating(pod) {
            if object::text(pod, &["status", "reason"]) == "NodeLost" {
                reason = "Unknown".into();
            } else if !matches!(phase, "Failed" | "Succeeded") {
                reason = "Terminating".into();
            }
        }
        PodState { reason, ready, total, restarts, last_restart: last }
    }
}

fn ended(status: &Value) -> Option<Timestamp> {
    time::parse(object::text(status, &["lastState", "terminated", "finishedAt"]))
}

fn terminated_reason(terminated: &Value) -> String {
    let reason = object::text(terminated, &["reason"]);
    if !reason.is_empty() {
        reason.to_owned()
    } else if number(terminated, &["signal"]) != 0 {
        format!("Signal:{}", number(terminated, &["signal"]))
    } else {
        format!("ExitCode:{}", number(terminated, &["exitCode"]))
    }
}

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

pub(super) fn deployment(deployment: &Value, now: Timestamp) -> Vec<Value> {
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

pub(super) fn replica_set(set: &Value, now: Timestamp) -> Vec<Value> {
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

pub(super) fn service(service: &Value, now: Timestamp) -> Vec<Value> {
    let kind = object::text(service, &["spec", "type"]);
    let external: Vec<&str> =
        items(service, &["spec", "externalIPs"]).iter().filter_map(Value::as_str).collect();
    let balanced: Vec<&str> = items(service, &["status", "loadBalancer", "ingress"])
        .iter()
        .filter_map(|ingress| ingress["ip"].as_str().or(ingress["hostname"].as_str()))
        .collect();
    let external = match kind {
        "ExternalName" => object::text(service, &["spec", "externalName"]).to_owned(),
        "LoadBalancer" if balanced.is_empty() && external.is_empty() => "<pending>".into(),
        "LoadBalancer" => [balanced, external].concat().join(","),
        _ if external.is_empty() => "<none>".into(),
        _ => external.join(","),
    };
    let ports: Vec<String> = items(service, &["spec", "ports"])
        .iter()
        .map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            match number(port, &["nodePort"]) {
                0 => format!("{}/{protocol}", port["port"]),
                node => format!("{}:{node}/{protocol}", port["port"]),
            }
        })
        .collect();
    let labels = object::at(service, &["spec", "selector"]).as_object();
    let selector = labels.map(|labels| LabelSelector::from_labels(labels).to_string()).unwrap_or_default();
    vec![
        json!(object::name(service)),
        json!(kind),
        or(object::text(service, &["spec", "clusterIP"]), "<none>"),
        json!(external),
        or(&ports.join(","), "<none>"),
        age(service, now),
        or(&selector, "<none>"),
    ]
}

pub(super) fn node(node: &Value, now: Timestamp) -> Vec<Value> {
    let mut status: Vec<&str> = items(node, &["status", "conditions"])
        .iter()
        .filter(|condition| condition["type"] == "Ready")
        .map(|condition| if condition["status"] == "True" { "Ready" } else { "NotReady" })
        .collect();
    if status.is_empty() {
        status.push("Unknown");
    }
    if object::at(node, &["spec", "unschedulable"]) == true {
        status.push("SchedulingDisabled");
    }
    let mut roles: Vec<&str> = object::meta_map(node, "labels")
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| {
            key.strip_prefix("node-role.kubernetes.io/")
                .or_else(|| (key == "kubernetes.io/role").then(|| value.as_str()).flatten())
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    let address = |kind: &str| {
        let found = items(node, &["status", "addresses"]).iter().find(|address| address["type"] == kind);
        or(found.and_then(|address| address["address"].as_str()).unwrap_or_default(), "<none>")
    };
    let info = |field: &str| or(object::text(node, &["status", "nodeInfo", field]), "<unknown>");
    vec![
        json!(object::name(node)),
        json!(status.join(",")),
        or(&roles.join(","), "<none>"),
        age(node, now),
        json!(object::text(node, &["status", "nodeInfo", "kubeletVersion"])),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

pub(super) fn namespace(namespace: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        json!(object::name(namespace)),
        json!(object::text(namespace, &["status", "phase"])),
        age(namespace, now),
    ]
}

fn size(object: &Value, field: &str) -> usize {
    object[field].as_object().map_or(0, serde_json::Map::len)
}

pub(super) fn config_map(map: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(map)), json!(size(map, "data") + size(map, "binaryData")), age(map, now)]
}

pub(super) fn secret(secret: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        json!(object::name(secret)),
        json!(object::text(secret, &["type"])),
        json!(size(secret, "data")),
        age(secret, now),
    ]
}

pub(super) fn service_account(account: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(account)), json!(items(account, &["secrets"]).len()), age(account, now)]
}

/// Joins at most `limit` texts and says how many more there are.
fn shortened(texts: &[String], limit: usize) -> String {
    if texts.len() <= limit {
        return texts.join(",");
    }
    format!("{} + {} more...", texts[..limit].join(","), texts.len() - limit)
}

pub(super) fn endpoints(endpoints: &Value, now: Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in items(endpoints, &["subsets"]) {
        let ports = items(subset, &["ports"]);
        for address in items(subset, &["addresses"]) {
            let ip = address["ip"].as_str().unwrap_or_default();
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            all.extend(ports.iter().map(|port| format!("{ip}:{}", port["port"])));
        }
    }
    vec![json!(object::name(endpoints)), or(&shortened(&all, 3), "<none>"), age(endpoints, now)]
}

pub(super) fn endpoint_slice(slice: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = items(slice, &["ports"])
        .iter()
        .map(|port| port["port"].as_i64().map_or_else(|| "*".into(), |port| port.to_string()))
        .collect();
    let addresses: Vec<String> = items(slice, &["endpoints"])
        .iter()
        .flat_map(|endpoint| items(endpoint, &["addresses"]))
        .filter_map(|address| address.as_str().map(ToOwned::to_owned))
        .collect();
    vec![
        json!(object::name(slice)),
        json!(object::text(slice, &["addressType"])),
        or(&shortened(&ports, 3), "<unset>"),
        or(&shortened(&addresses, 3), "<unset>"),
        age(slice, now),
    ]
}

pub(super) fn lease(lease: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(lease)), json!(object::text(lease, &["spec", "holderIdentity"])), age(lease, now)]
}

pub(super) fn controller_revision(revision: &Value, now: Timestamp) -> Vec<Value> {
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

pub(super) fn event_v1(event: &Value, now: Timestamp) -> Vec<Value> {
    let mut stored = event.clone();
    super::events::to_core(&mut stored);
    self::event(&stored, now)
}

pub(super) fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    let count = event["series"]["count"].as_i64().or(event["count"].as_i64()).unwrap_or(1);
    let when = |fields: &[&[&str]]| {
        let found = fields.iter().map(|path| object::text(event, path)).find(|text| !text.is_empty());
        age_of(found.unwrap_or_default(), now)
    };
    let first = when(&[&["firstTimestamp"], &["eventTime"]]);
    let mut last =
        when(&[&["series", "lastObservedTime"], &["lastTimestamp"], &["firstTimestamp"], &["eventTime"]]);
    if count > 1 && last != first {
        last = format!("{last} (x{count} over {first})");
    }
    let involved = &event["involvedObject"];
    let target = match involved["name"].as_str() {
        Some(name) if !name.is_empty() => {
            format!("{}/{name}", object::text(involved, &["kind"]).to_lowercase())
        }
        _ => object::text(involved, &["kind"]).to_lowercase(),
    };
    let component = match object::text(event, &["source", "component"]) {
        "" => object::text(event, &["reportingComponent"]),
        component => component,
    };
    let source = match object::text(event, &["source", "host"]) {
        "" => component.to_owned(),
        host => format!("{component}, {host}"),
    };
    vec![
        json!(last),
        json!(object::text(event, &["type"])),
        json!(object::text(event, &["reason"])),
        json!(target),
        json!(object::text(involved, &["fieldPath"])),
        json!(source),
        json!(object::text(event, &["message"]).trim()),
        json!(first),
        json!(count),
        json!(object::name(event)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_pod(status: Value, expected: [&str; 3]) {
        let object = json!({ "metadata": { "name": "a" }, "spec": { "containers": [{}] }, "status": status });
        let cells = pod(&object, Timestamp::UNIX_EPOCH);
        assert_eq!([&cells[1], &cells[2], &cells[3]], expected.each_ref().map(|text| json!(text)).each_ref());
    }

    #[test]
    fn pods_read_as_kubectl_prints_them() {
        check_pod(json!({ "phase": "Pending" }), ["0/1", "Pending", "0"]);
        check_pod(
            json!({ "phase": "Running", "containerStatuses": [
                { "ready": true, "restartCount": 0, "state": { "running": {} } }] }),
            ["1/1", "Running", "0"],
        );
        check_pod(
            json!({ "phase": "Running", "containerStatuses": [
                { "ready": false, "restartCount": 2, "state": { "waiting": { "reason": "CrashLoopBackOff" } } }] }),
            ["0/1", "CrashLoopBackOff", "2"],
        );
        check_pod(
            json!({ "phase": "Failed", "containerStatuses": [
                { "restartCount": 0, "state": { "terminated": { "exitCode": 3 } } }] }),
            ["0/1", "ExitCode:3", "0"],
        );
    }
}
