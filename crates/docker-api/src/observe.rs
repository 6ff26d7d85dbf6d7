//! Pausing containers, and looking at them: `pause`, `unpause`, `top`, `stats`.

use std::time::Duration;

use dray_engine::Usage;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::Api;
use crate::body::{self, Body};
use crate::duration::rfc3339;
use crate::error::Result;
use crate::query::Query;

/// Time between two readings of a container's usage.
const PERIOD: Duration = Duration::from_secs(1);

pub(crate) async fn pause(api: &Api, id: &str) -> Result<Response<Body>> {
    api.engine.pause(&api.engine.container(id)?).await?;
    Ok(body::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn unpause(api: &Api, id: &str) -> Result<Response<Body>> {
    api.engine.unpause(&api.engine.container(id)?).await?;
    Ok(body::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn stats(api: &Api, id: &str, query: &Query) -> Result<Response<Body>> {
    let container = api.engine.container(id)?;
    let record = container.record();
    let streams = query.get("stream").is_none_or(|_| query.flag("stream"));
    let (name, id) = (format!("/{}", record.name), record.id.to_string());
    let first = api.engine.usage(&container).await?;
    if !streams {
        if query.flag("one-shot") || first.is_none() {
            return body::json(StatusCode::OK, &document(&name, &id, None, first.as_ref()));
        }
        // Two readings tell how much it uses now.
        tokio::time::sleep(PERIOD).await;
        let second = api.engine.usage(&container).await?;
        return body::json(StatusCode::OK, &document(&name, &id, first.as_ref(), second.as_ref()));
    }
    let (sender, response) = body::stream("application/json");
    let engine = api.engine.clone();
    tokio::spawn(async move {
        let (mut before, mut now) = (None, first);
        loop {
            let line = format!("{}\n", document(&name, &id, before.as_ref(), now.as_ref()));
            if sender.send(line.into()).await.is_err() {
                return;
            }
            tokio::select! {
                () = sender.closed() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
            if container.is_removed() {
                return;
            }
            before = now;
            now = match engine.usage(&container).await {
                Ok(usage) => usage,
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "cannot read the usage of a container");
                    return;
                }
            };
        }
    });
    Ok(response)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn cpu(usage: Option<&Usage>) -> Value {
    let Some(usage) = usage else {
        let none = json!({ "total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0 });
        let throttling = json!({ "periods": 0, "throttled_periods": 0, "throttled_time": 0 });
        return json!({ "cpu_usage": none, "throttling_data": throttling });
    };
    let cpu = &usage.statistics.cpu;
    let mut used = json!({
        "total_usage": nanoseconds(cpu.usage),
        "usage_in_kernelmode": nanoseconds(cpu.system),
        "usage_in_usermode": nanoseconds(cpu.user),
    });
    if !usage.statistics.per_cpu.is_empty() {
        used["percpu_usage"] = json!(usage.statistics.per_cpu);
    }
    json!({
        "cpu_usage": used,
        "system_cpu_usage": nanoseconds(usage.host_cpu),
        "online_cpus": std::thread::available_parallelism().map_or(1, usize::from),
        "throttling_data": {
            "periods": cpu.periods,
            "throttled_periods": cpu.throttled_periods,
            "throttled_time": nanoseconds(cpu.throttled),
        },
    })
}

fn memory(usage: &Usage) -> Value {
    let memory = &usage.statistics.memory;
    json!({
        "usage": memory.usage,
        "max_usage": memory.max_usage,
        "failcnt": memory.failures,
        "limit": memory.limit.map_or(usage.host_memory, |limit| limit.min(usage.host_memory)),
        "stats": usage.statistics.memory_details,
    })
}

fn block_io(usage: &Usage) -> Value {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for device in &usage.statistics.io {
        let entry = |op: &str, value: u64| json!({ "major": device.major, "minor": device.minor, "op": op, "value": value });
        bytes.extend([entry("read", device.read_bytes), entry("write", device.write_bytes)]);
        operations.extend([entry("read", device.read_operations), entry("write", device.write_operations)]);
    }
    json!({ "io_service_bytes_recursive": bytes, "io_serviced_recursive": operations })
}

fn networks(usage: &Usage) -> Value {
    let all: Map<String, Value> = usage
        .interfaces
        .iter()
        .map(|interface| {
            let ([rx_bytes, rx_packets, rx_errors, rx_dropped], [tx_bytes, tx_packets, tx_errors, tx_dropped]) =
                (interface.received, interface.sent);
            let counters = json!({
                "rx_bytes": rx_bytes, "rx_packets": rx_packets, "rx_errors": rx_errors, "rx_dropped": rx_dropped,
                "tx_bytes": tx_bytes, "tx_packets": tx_packets, "tx_errors": tx_errors, "tx_dropped": tx_dropped,
            });
            (interface.name.clone(), counters)
        })
        .collect();
    Value::Object(all)
}

fn document(name: &str, id: &str, before: Option<&Usage>, now: Option<&Usage>) -> Value {
    let mut document = json!({
        "read": rfc3339(now.map(|usage| usage.read)),
        "preread": rfc3339(before.map(|usage| usage.read)),
        "os_type": "linux",
        "name": name,
        "id": id,
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": cpu(now),
        "precpu_stats": cpu(before),
        "memory_stats": {},
        "pids_stats": {},
        "blkio_stats": { "io_service_bytes_recursive": null, "io_serviced_recursive": null },
    });
    if let Some(usage) = now {
        let pids = &usage.statistics.pids;
        document["memory_stats"] = memory(usage);
        document["pids_stats"] = json!({ "current": pids.current, "limit": pids.limit.unwrap_or(u64::MAX) });
        document["blkio_stats"] = block_io(usage);
        if !usage.interfaces.is_empty() {
            document["networks"] = networks(usage);
        }
    }
    document
}
