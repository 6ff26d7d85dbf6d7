//! `/stats/summary`: what the node and its pods use, as the kubelet's `stats/v1alpha1` has it.

use http::{HeaderValue, Response, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::query::Query;
use super::{Body, full};
use crate::context::Context;
use crate::error::blocking;
use crate::usage::{self, ContainerUsage, MemoryUsage, PodUsage};
use crate::{machine, volume};

fn seconds(at: Timestamp) -> String {
    format!("{:.0}", at)
}

fn cpu(read: Timestamp, used: std::time::Duration) -> Value {
    let nanoseconds = u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
    json!({ "time": seconds(read), "usageCoreNanoSeconds": nanoseconds })
}

fn memory(read: Timestamp, memory: &MemoryUsage) -> Value {
    let mut found = json!({
        "time": seconds(read), "usageBytes": memory.used, "workingSetBytes": memory.working_set,
        "rssBytes": memory.anonymous, "pageFaults": memory.faults, "majorPageFaults": memory.major_faults,
    });
    if let Some(limit) = memory.limit {
        found["availableBytes"] = json!(limit.saturating_sub(memory.working_set));
    }
    found
}

fn network(pod: &PodUsage) -> Value {
    let interface = |one: &dray_engine::InterfaceCounters| {
        json!({
            "name": one.name, "rxBytes": one.received[0], "rxErrors": one.received[2],
            "txBytes": one.sent[0], "txErrors": one.sent[2],
        })
    };
    let all: Vec<Value> = pod.interfaces.iter().map(interface).collect();
    let mut found = all.iter().find(|one| one["name"] == "eth0").or(all.first()).cloned().unwrap_or_default();
    if !found.is_null() {
        found["time"] = json!(seconds(pod.read()));
        found["interfaces"] = json!(all);
    }
    found
}

fn container(one: &ContainerUsage) -> Value {
    json!({
        "name": one.name, "startTime": one.started.map(seconds), "cpu": cpu(one.read, one.cpu),
        "memory": memory(one.read, &one.memory),
    })
}

fn file_system(of: Option<volume::FileSystem>) -> Value {
    let Some(of) = of else { return Value::Null };
    json!({
        "time": seconds(Timestamp::now()), "availableBytes": of.available, "capacityBytes": of.capacity,
        "usedBytes": of.used, "inodesFree": of.inodes_free, "inodes": of.inodes,
        "inodesUsed": of.inodes.saturating_sub(of.inodes_free),
    })
}

/// All that is known; with `only_cpu_and_memory=true` no more than that.
pub(super) async fn answer(context: &Context, query: &Query) -> Response<Body> {
    let all = !query.flag("only_cpu_and_memory");
    let node = usage::node(context);
    let mut of_node = json!({
        "nodeName": context.config.name, "startTime": seconds(machine::started()),
        "cpu": cpu(node.read, node.cpu), "memory": memory(node.read, &node.memory),
    });
    of_node["memory"]["availableBytes"] = json!(node.available);
    let mut pods = Vec::new();
    for pod in usage::pods(context).await {
        let mut told = json!({
            "podRef": { "name": pod.name, "namespace": pod.namespace, "uid": pod.uid },
            "startTime": pod.started().map(seconds),
            "containers": pod.containers.iter().map(container).collect::<Vec<_>>(),
            "cpu": cpu(pod.read(), pod.cpu()), "memory": memory(pod.read(), &pod.memory()),
            "process_stats": { "process_count": pod.containers.iter().map(|one| one.processes).sum::<u64>() },
        });
        if all {
            told["network"] = network(&pod);
            let directory = context.pod_directory(&pod.uid);
            let measured = blocking(move || Ok(volume::measure(&directory))).await.unwrap_or_default();
            let mut volumes = Vec::new();
            for (name, of) in measured {
                let mut volume = file_system(Some(of));
                volume["name"] = json!(name);
                volumes.push(volume);
            }
            told["volume"] = json!(volumes);
        }
        pods.push(told);
    }
    if all {
        let directory = context.config.state_dir.clone();
        let of = blocking(move || Ok(volume::file_system(&directory))).await.unwrap_or_default();
        of_node["fs"] = file_system(of);
        of_node["runtime"] = json!({ "imageFs": file_system(of) });
    }
    let mut response = Response::new(full(json!({ "node": of_node, "pods": pods }).to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
