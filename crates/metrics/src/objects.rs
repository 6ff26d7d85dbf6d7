//! The objects of the group: NodeMetrics, PodMetrics, their lists, and the list of what there is.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use crate::sampler::{Pair, Used, between};
use crate::{GROUP, VERSION};

pub(crate) fn api_version() -> String {
    format!("{GROUP}/{VERSION}")
}

/// What the group has.
pub(crate) fn resources() -> Value {
    let resource = |name: &str, kind: &str, namespaced: bool| {
        json!({
            "name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"],
        })
    };
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version(),
        "resources": [resource("nodes", "NodeMetrics", false), resource("pods", "PodMetrics", true)],
    })
}

/// A list of one kind.
pub(crate) fn list(kind: &str, items: &[Value]) -> Value {
    json!({ "kind": format!("{kind}List"), "apiVersion": api_version(), "metadata": {}, "items": items })
}

/// Amounts as the reference's server writes them: billionths of a processor, and kibibytes.
fn usage(used: &Used) -> Value {
    let nanos = (used.cpu * 1e9).round().max(0.0) as u64;
    let kibibytes = (used.memory / 1024.0).round().max(0.0) as u64;
    json!({ "cpu": format!("{nanos}n"), "memory": format!("{kibibytes}Ki") })
}

/// A duration as Go prints it, to the millisecond.
fn window(window: Duration) -> String {
    let (seconds, milliseconds) = (window.as_secs(), window.subsec_millis());
    let minutes = if seconds >= 60 { format!("{}m", seconds / 60) } else { String::new() };
    let fraction = format!(".{milliseconds:03}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{minutes}{}{fraction}s", seconds % 60)
}

fn metrics(kind: &str, of: &ObjectMeta, end: Timestamp, between: Duration) -> Value {
    let mut metadata = json!({ "name": of.name, "creationTimestamp": seconds(Timestamp::now()) });
    if let Some(namespace) = &of.namespace {
        metadata["namespace"] = json!(namespace);
    }
    if let Some(labels) = of.labels.as_ref().filter(|labels| !labels.is_empty()) {
        metadata["labels"] = json!(labels);
    }
    json!({
        "kind": kind, "apiVersion": api_version(), "metadata": metadata,
        "timestamp": seconds(end), "window": window(between),
    })
}

fn seconds(at: Timestamp) -> String {
    format!("{at:.0}")
}

/// What a node used; none where that is not known.
pub(crate) fn of_node(node: &Node, pair: &Pair) -> Option<Value> {
    let used = between(&pair.before.node, &pair.now.node)?;
    let mut found = metrics("NodeMetrics", &node.metadata, used.end, used.window);
    found["usage"] = usage(&used);
    Some(found)
}

/// What a pod used; none where that is not known of one of its containers, or nothing of it runs.
pub(crate) fn of_pod(pod: &Pod, pairs: &BTreeMap<String, Pair>) -> Option<Value> {
    let pair = pairs.get(pod.spec.as_ref()?.node_name.as_deref()?)?;
    let (namespace, name) = (pod.metadata.namespace.clone()?, pod.metadata.name.clone()?);
    let first = (namespace.clone(), name.clone(), String::new());
    let mine =
        pair.now.containers.range(first..).take_while(|(place, _)| place.0 == namespace && place.1 == name);
    let mut containers = Vec::new();
    let (mut end, mut longest) = (Timestamp::MIN, Duration::ZERO);
    for (place, now) in mine {
        let used = between(pair.before.containers.get(place)?, now)?;
        (end, longest) = (end.max(used.end), longest.max(used.window));
        containers.push(json!({ "name": place.2, "usage": usage(&used) }));
    }
    if containers.is_empty() {
        return None;
    }
    let mut found = metrics("PodMetrics", &pod.metadata, end, longest);
    found["containers"] = json!(containers);
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_as_the_reference_does() {
        let used = Used {
            cpu: 0.25,
            memory: 3.0 * 1024.0 * 1024.0,
            end: Timestamp::UNIX_EPOCH,
            window: Duration::from_secs(1),
        };
        assert_eq!(usage(&used), json!({ "cpu": "250000000n", "memory": "3072Ki" }));
        for (milliseconds, expected) in
            [(1000, "1s"), (15_012, "15.012s"), (1500, "1.5s"), (60_000, "1m0s"), (90_250, "1m30.25s")]
        {
            assert_eq!(window(Duration::from_millis(milliseconds)), expected);
        }
    }
}
