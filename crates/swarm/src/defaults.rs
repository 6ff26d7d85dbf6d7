//! What a request leaves out.

use serde_json::{Value, json};

/// Lays `over` on `base`, objects into objects; nulls are left out.
pub(crate) fn overlay(base: &mut Value, over: &Value) {
    match (base, over) {
        (_, Value::Null) => {}
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over.iter().filter(|(_, value)| !value.is_null()) {
                overlay(base.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// The specification of a swarm.
pub(crate) fn cluster(given: &Value) -> Value {
    let mut spec = json!({
        "Name": "default",
        "Labels": {},
        "Orchestration": { "TaskHistoryRetentionLimit": 5 },
        "Raft": {
            "SnapshotInterval": 10_000, "KeepOldSnapshots": 0, "LogEntriesForSlowFollowers": 500,
            "ElectionTick": 10, "HeartbeatTick": 1,
        },
        "Dispatcher": { "HeartbeatPeriod": 5_000_000_000_u64 },
        "CAConfig": { "NodeCertExpiry": 7_776_000_000_000_000_u64 },
        "TaskDefaults": {},
        "EncryptionConfig": { "AutoLockManagers": false },
    });
    overlay(&mut spec, given);
    spec
}

/// The specification of a service as it is kept.
pub(crate) fn service(given: &Value) -> Value {
    let mut spec = json!({
        "Name": "",
        "Labels": {},
        "TaskTemplate": {
            "ContainerSpec": { "Isolation": "default" },
            "Resources": {},
            "Placement": {},
            "ForceUpdate": 0,
            "Runtime": "container",
        },
        "EndpointSpec": { "Mode": "vip" },
    });
    overlay(&mut spec, given);
    let modes = ["Replicated", "Global", "ReplicatedJob", "GlobalJob"];
    if !modes.iter().any(|mode| spec["Mode"].get(mode).is_some_and(|value| !value.is_null())) {
        spec["Mode"] = json!({ "Replicated": { "Replicas": 1 } });
    }
    if let Some(replicated) = spec["Mode"]["Replicated"].as_object_mut() {
        replicated.entry("Replicas").or_insert(json!(1));
    }
    if spec["Mode"].get("Replicated").is_some_and(Value::is_null)
        && let Some(mode) = spec["Mode"].as_object_mut()
    {
        mode.remove("Replicated");
    }
    for port in spec["EndpointSpec"]["Ports"].as_array_mut().into_iter().flatten() {
        let mut whole = json!({ "Protocol": "tcp", "PublishMode": "ingress" });
        overlay(&mut whole, port);
        *port = whole;
    }
    spec
}

/// The same with what the reference shows for `insertDefaults`.
pub(crate) fn shown(spec: &Value) -> Value {
    let update = json!({
        "Parallelism": 1, "Delay": 0, "FailureAction": "pause", "Monitor": 5_000_000_000_u64, "MaxFailureRatio": 0,
        "Order": "stop-first",
    });
    let mut whole = json!({
        "TaskTemplate": {
            "ContainerSpec": { "StopGracePeriod": 10_000_000_000_u64, "DNSConfig": {} },
            "RestartPolicy": { "Condition": "any", "Delay": 5_000_000_000_u64, "MaxAttempts": 0 },
        },
        "UpdateConfig": update,
        "RollbackConfig": update,
    });
    overlay(&mut whole, spec);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_or_null_has_its_default() {
        for given in [json!(null), json!({}), json!({ "Raft": null, "Labels": null })] {
            let spec = cluster(&given);
            assert_eq!(spec["Orchestration"]["TaskHistoryRetentionLimit"], 5, "{given}");
            assert_eq!(spec["Raft"]["ElectionTick"], 10, "{given}");
        }
        assert_eq!(cluster(&json!({ "Raft": { "ElectionTick": 3 } }))["Raft"]["HeartbeatTick"], 1);
        let spec = service(&json!({ "Name": "web", "EndpointSpec": { "Ports": [{ "TargetPort": 80 }] } }));
        assert_eq!(spec["Mode"], json!({ "Replicated": { "Replicas": 1 } }));
        assert_eq!(
            spec["EndpointSpec"]["Ports"],
            json!([{ "Protocol": "tcp", "PublishMode": "ingress", "TargetPort": 80 }])
        );
        let jobs = service(&json!({ "Mode": { "Replicated": null, "GlobalJob": {} } }));
        assert_eq!(jobs["Mode"], json!({ "GlobalJob": {} }));
    }
}
