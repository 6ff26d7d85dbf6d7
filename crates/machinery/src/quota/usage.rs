//! What Services and claims use.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Amounts, BY_CLASS, BY_DEVICE_CLASS};
use crate::{object, quantity::Quantity};

/// The most devices that a claim is given when it asks for all.
const ALL_DEVICES: i64 = 32;

pub(super) fn of_service(service: &Value) -> Amounts {
    let spec = &service["spec"];
    let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let all = ports.len();
    let (node_ports, balancers) = match object::text(spec, &["type"]) {
        "NodePort" => (all, 0),
        // Without ports of its own, only those count that were asked for by number.
        "LoadBalancer" if spec["allocateLoadBalancerNodePorts"] == false => {
            (ports.iter().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count(), 1)
        }
        "LoadBalancer" => (all, 1),
        _ => (0, 0),
    };
    let mut amounts = Amounts::of_one("services");
    amounts.count("services.nodeports", i64::try_from(node_ports).unwrap_or(i64::MAX));
    amounts.count("services.loadbalancers", balancers);
    amounts
}

pub(super) fn of_claim(claim: &Value) -> Amounts {
    let old_class = &claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"];
    let class = old_class.as_str().unwrap_or_else(|| object::text(claim, &["spec", "storageClassName"]));
    let asked = Amounts::read(&claim["spec"]["resources"]["requests"]).get("storage");
    let allocated = Amounts::read(&claim["status"]["allocatedResources"]).get("storage");
    let storage = asked.map(|asked| allocated.filter(|allocated| *allocated > asked).unwrap_or(asked));
    let mut amounts = Amounts::of_one("persistentvolumeclaims");
    if let Some(storage) = storage.map(whole) {
        amounts.set("requests.storage", storage);
        if !class.is_empty() {
            amounts.set(&format!("{class}{BY_CLASS}requests.storage"), storage);
        }
    }
    if !class.is_empty() {
        amounts.count(&format!("{class}{BY_CLASS}persistentvolumeclaims"), 1);
    }
    amounts
}

/// Storage counts by whole bytes.
fn whole(storage: Quantity) -> Quantity {
    if storage.whole_units().is_some() { storage } else { Quantity::from_units(storage.units()) }
}

pub(super) fn of_device_claim(claim: &Value) -> Amounts {
    let mut devices: BTreeMap<&str, i64> = BTreeMap::new();
    let number = |request: &Value| match object::text(request, &["allocationMode"]) {
        "All" => ALL_DEVICES,
        _ => request["count"].as_i64().unwrap_or(1).max(0),
    };
    for request in object::at(claim, &["spec", "devices", "requests"]).as_array().into_iter().flatten() {
        // Of alternatives one is taken: the worst of each class counts.
        let mut worst: BTreeMap<&str, i64> = BTreeMap::new();
        let alternatives = request["firstAvailable"].as_array().into_iter().flatten();
        for one in request.get("exactly").into_iter().chain(alternatives) {
            let most = worst.entry(object::text(one, &["deviceClassName"])).or_default();
            *most = (*most).max(number(one));
        }
        for (class, number) in worst {
            let sum = devices.entry(class).or_default();
            *sum = sum.saturating_add(number);
        }
    }
    let mut amounts = Amounts::default();
    for (class, number) in devices.into_iter().filter(|(class, _)| !class.is_empty()) {
        amounts.count(&format!("{class}{BY_DEVICE_CLASS}"), number);
    }
    amounts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(amounts: Amounts, expected: Value) {
        assert_eq!(amounts.to_value(), expected);
    }

    #[test]
    fn services_use_ports() {
        let service = |spec: Value| of_service(&json!({ "spec": spec }));
        let ports = json!([{ "port": 1 }, { "port": 2, "nodePort": 30000 }]);
        let used = |ports: &str, balancers: &str| json!({ "services": "1", "services.nodeports": ports, "services.loadbalancers": balancers });
        check(service(json!({ "type": "ClusterIP", "ports": ports })), used("0", "0"));
        check(service(json!({ "type": "NodePort", "ports": ports })), used("2", "0"));
        check(service(json!({ "type": "LoadBalancer", "ports": ports })), used("2", "1"));
        let few = json!({ "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": ports });
        check(service(few), used("1", "1"));
    }

    #[test]
    fn claims_use_storage_of_their_class() {
        let claim = json!({
            "spec": { "storageClassName": "gold", "resources": { "requests": { "storage": "1500m" } } },
        });
        let expected = json!({
            "persistentvolumeclaims": "1", "requests.storage": "2",
            "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
            "gold.storageclass.storage.k8s.io/requests.storage": "2",
        });
        check(of_claim(&claim), expected);
        let grown = json!({
            "spec": { "resources": { "requests": { "storage": "1Gi" } } },
            "status": { "allocatedResources": { "storage": "2Gi" } },
        });
        check(of_claim(&grown), json!({ "persistentvolumeclaims": "1", "requests.storage": "2Gi" }));
    }

    #[test]
    fn claims_of_devices_count_the_worst() {
        let claim = json!({ "spec": { "devices": { "requests": [
            { "name": "a", "exactly": { "deviceClassName": "gpu", "count": 2 } },
            { "name": "b", "firstAvailable": [
                { "deviceClassName": "gpu" }, { "deviceClassName": "fpga", "allocationMode": "All" }] },
        ] } } });
        let expected = json!({
            "gpu.deviceclass.resource.k8s.io/devices": "3", "fpga.deviceclass.resource.k8s.io/devices": "32",
        });
        check(of_device_claim(&claim), expected);
    }
}
