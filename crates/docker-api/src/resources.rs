//! The limits in a request: in `HostConfig` when a container is created, and all of an update's body.

use dray_engine::{BlockLimits, DeviceLimit, Resources};
use serde::Deserialize;
use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::wire::request;

request! {
    ResourcesRequest {
        memory: Option<i64> = "Memory",
        memory_swap: Option<i64> = "MemorySwap",
        memory_reservation: Option<i64> = "MemoryReservation",
        memory_swappiness: Option<i64> = "MemorySwappiness",
        oom_kill_disable: Option<bool> = "OomKillDisable",
        nano_cpus: Option<i64> = "NanoCpus",
        cpu_shares: Option<u64> = "CpuShares",
        cpu_period: Option<u64> = "CpuPeriod",
        cpu_quota: Option<i64> = "CpuQuota",
        cpu_realtime_period: Option<u64> = "CpuRealtimePeriod",
        cpu_realtime_runtime: Option<i64> = "CpuRealtimeRuntime",
        cpuset_cpus: Option<String> = "CpusetCpus",
        cpuset_mems: Option<String> = "CpusetMems",
        pids: Option<i64> = "PidsLimit",
        block_weight: Option<u16> = "BlkioWeight",
        block_weight_devices: Vec<WeightDevice> = "BlkioWeightDevice",
        read_bytes: Vec<ThrottleDevice> = "BlkioDeviceReadBps",
        write_bytes: Vec<ThrottleDevice> = "BlkioDeviceWriteBps",
        read_operations: Vec<ThrottleDevice> = "BlkioDeviceReadIOps",
        write_operations: Vec<ThrottleDevice> = "BlkioDeviceWriteIOps",
    }
}

request! { WeightDevice { path: String = "Path", weight: u64 = "Weight" } }
request! { ThrottleDevice { path: String = "Path", rate: u64 = "Rate" } }

/// The limits of a new container; the request is its `HostConfig`.
pub(crate) fn created(host: &Value) -> Result<Resources> {
    let request = Option::<ResourcesRequest>::deserialize(host)
        .map_err(|error| ApiError::bad_request(format!("invalid JSON: HostConfig: {error}")))?
        .unwrap_or_default();
    let throttle = |devices: Vec<ThrottleDevice>| -> Vec<DeviceLimit> {
        devices.into_iter().map(|device| DeviceLimit { path: device.path, value: device.rate }).collect()
    };
    let weights = request.block_weight_devices.into_iter();
    Ok(Resources {
        memory: request.memory,
        memory_swap: request.memory_swap,
        memory_reservation: request.memory_reservation,
        memory_swappiness: swappiness(request.memory_swappiness)?,
        oom_kill_disable: request.oom_kill_disable.filter(|disable| *disable),
        nano_cpus: request.nano_cpus,
        cpu_shares: request.cpu_shares,
        cpu_period: request.cpu_period,
        cpu_quota: request.cpu_quota,
        cpu_realtime_period: request.cpu_realtime_period.filter(|n| *n > 0),
        cpu_realtime_runtime: request.cpu_realtime_runtime.filter(|n| *n > 0),
        cpuset_cpus: request.cpuset_cpus,
        cpuset_mems: request.cpuset_mems,
        pids: request.pids,
        blkio_weight: request.block_weight,
        block: BlockLimits {
            weight: weights.map(|device| DeviceLimit { path: device.path, value: device.weight }).collect(),
            read_bytes: throttle(request.read_bytes),
            write_bytes: throttle(request.write_bytes),
            read_operations: throttle(request.read_operations),
            write_operations: throttle(request.write_operations),
        },
    })
}

/// The limits that an update gives, where nothing, nought and empty change nothing.
pub(crate) fn updated(body: &Value) -> Result<Resources> {
    let given = created(body)?;
    Ok(Resources {
        memory: given.memory.filter(|n| *n != 0),
        memory_swap: given.memory_swap.filter(|n| *n != 0),
        memory_reservation: given.memory_reservation.filter(|n| *n != 0),
        nano_cpus: given.nano_cpus.filter(|n| *n != 0),
        cpu_shares: given.cpu_shares.filter(|n| *n != 0),
        cpu_period: given.cpu_period.filter(|n| *n != 0),
        cpu_quota: given.cpu_quota.filter(|n| *n != 0),
        cpuset_cpus: given.cpuset_cpus.filter(|text| !text.is_empty()),
        cpuset_mems: given.cpuset_mems.filter(|text| !text.is_empty()),
        pids: given.pids.filter(|n| *n != 0),
        blkio_weight: given.blkio_weight.filter(|n| *n != 0),
        ..given
    })
}

/// -1 stands for the kernel's own.
fn swappiness(given: Option<i64>) -> Result<Option<u64>> {
    match given {
        None | Some(-1) => Ok(None),
        Some(n) => u64::try_from(n).map(Some).map_err(|_| {
            ApiError::bad_request(format!("Invalid value: {n}, valid memory swappiness range is 0-100"))
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_update_changes_what_it_names() {
        let body = json!({
            "Memory": 0, "CpuShares": 7, "CpusetCpus": "", "BlkioDeviceReadBps": [{ "Path": "/dev/x", "Rate": 9 }],
            "CpuRealtimeRuntime": 5, "PidsLimit": null,
        });
        let read_bytes = vec![DeviceLimit { path: "/dev/x".into(), value: 9 }];
        let wanted = Resources {
            cpu_shares: Some(7),
            cpu_realtime_runtime: Some(5),
            block: BlockLimits { read_bytes, ..BlockLimits::default() },
            ..Resources::default()
        };
        assert_eq!(updated(&body).unwrap(), wanted);
        assert_eq!(created(&body).unwrap().memory, Some(0));
        let error = updated(&json!({ "MemorySwappiness": -2 })).unwrap_err();
        assert!(error.message.contains("valid memory swappiness range is 0-100"), "{}", error.message);
    }
}
