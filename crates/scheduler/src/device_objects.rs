//! Claims, classes and slices of devices as the API has them, read into what the scheduler keeps of them, and what is
//! written when a claim gets its devices.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::api::resource::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value as Json, json};

use crate::ask::Ask;
use crate::device_selectors::{DeviceSelector, Fact as DeviceFact, Facts};
use crate::devices::{
    Allocation, Alternative, Constraint, Device, DeviceClaim, DeviceClass, DeviceName, Devices, Given, Held,
    Reach, Slice,
};
use crate::objects::Fact;
use crate::selector::{NodeTerm, Tolerance};
use crate::volumes::ClaimKey;

/// Keeps a claim while it has devices.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

fn selectors(all: Option<Vec<api::DeviceSelector>>) -> Vec<DeviceSelector> {
    let expressions = all.into_iter().flatten().filter_map(|one| one.cel);
    expressions.map(|cel| DeviceSelector::new(&cel.expression)).collect()
}

fn terms(selector: &NodeSelector) -> Vec<NodeTerm> {
    selector.node_selector_terms.iter().map(NodeTerm::new).collect()
}

fn tolerances(all: Option<Vec<api::DeviceToleration>>) -> Vec<Tolerance> {
    let read = |one: api::DeviceToleration| {
        Tolerance::new(&k8s_openapi::api::core::v1::Toleration {
            key: one.key,
            operator: one.operator,
            value: one.value,
            effect: one.effect,
            toleration_seconds: None,
        })
    };
    all.into_iter().flatten().filter_map(read).collect()
}

fn least(capacity: Option<api::CapacityRequirements>) -> Vec<(String, String)> {
    let requests = capacity.and_then(|all| all.requests).unwrap_or_default();
    requests.into_iter().map(|(name, quantity)| (name, quantity.0)).collect()
}

fn count(mode: Option<&str>, count: Option<i64>) -> Option<usize> {
    (mode != Some("All")).then(|| usize::try_from(count.unwrap_or(1)).unwrap_or(usize::MAX))
}

fn alternatives(request: api::DeviceRequest) -> (String, Vec<Alternative>) {
    let name = request.name;
    if let Some(exactly) = request.exactly {
        let only = Alternative {
            name: name.clone(),
            class: exactly.device_class_name,
            selectors: selectors(exactly.selectors),
            count: count(exactly.allocation_mode.as_deref(), exactly.count),
            admin: exactly.admin_access == Some(true),
            tolerances: tolerances(exactly.tolerations),
            least: least(exactly.capacity),
        };
        return (name, vec![only]);
    }
    let ways = request.first_available.into_iter().flatten().map(|one| Alternative {
        name: format!("{name}/{}", one.name),
        class: one.device_class_name,
        selectors: selectors(one.selectors),
        count: count(one.allocation_mode.as_deref(), one.count),
        admin: false,
        tolerances: tolerances(one.tolerations),
        least: least(one.capacity),
    });
    let ways = ways.collect();
    (name, ways)
}

fn constraints(all: Option<Vec<api::DeviceConstraint>>) -> Vec<Constraint> {
    let read = |one: api::DeviceConstraint| {
        let (attribute, distinct) = match (one.match_attribute, one.distinct_attribute) {
            (Some(attribute), _) => (attribute, false),
            (None, Some(attribute)) => (attribute, true),
            (None, None) => return None,
        };
        Some(Constraint { attribute, distinct, requests: one.requests.unwrap_or_default() })
    };
    all.into_iter().flatten().filter_map(read).collect()
}

fn configurations<T: serde::Serialize>(all: Option<Vec<T>>, source: &str) -> Vec<Json> {
    let read = |one: T| {
        let mut json = serde_json::to_value(one).ok()?;
        json.as_object_mut()?.insert("source".to_owned(), source.into());
        Some(json)
    };
    all.into_iter().flatten().filter_map(read).collect()
}

fn held(allocation: api::AllocationResult) -> Held {
    let results = allocation.devices.and_then(|devices| devices.results).unwrap_or_default();
    let own = results.into_iter().filter(|one| one.admin_access != Some(true));
    Held {
        devices: own
            .map(|one| DeviceName { driver: one.driver, pool: one.pool, device: one.device })
            .collect(),
        nodes: allocation.node_selector.as_ref().map(terms),
    }
}

pub(crate) fn claim(object: api::ResourceClaim) -> Fact {
    let metadata = object.metadata;
    let devices = object.spec.devices.unwrap_or_default();
    let status = object.status.unwrap_or_default();
    let consumers = status.reserved_for.unwrap_or_default();
    let owners = metadata.owner_references.iter().flatten();
    Fact::DeviceClaim(Box::new(DeviceClaim {
        owner: owners.filter(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone()).next(),
        deleted: metadata.deletion_timestamp.is_some(),
        version: metadata.resource_version.unwrap_or_default(),
        finalizers: metadata.finalizers.unwrap_or_default(),
        requests: devices.requests.into_iter().flatten().map(alternatives).collect(),
        constraints: constraints(devices.constraints),
        configurations: configurations(devices.config, "FromClaim"),
        allocation: status.allocation.map(held),
        users: consumers.iter().map(|one| one.uid.clone()).collect(),
        consumers: consumers.iter().filter_map(|one| serde_json::to_value(one).ok()).collect(),
    }))
}

pub(crate) fn class(object: api::DeviceClass) -> Fact {
    Fact::DeviceClass(DeviceClass {
        selectors: selectors(object.spec.selectors),
        configurations: configurations(object.spec.config, "FromClass"),
    })
}

fn reach(name: Option<String>, selector: Option<&NodeSelector>, all: Option<bool>) -> Option<Reach> {
    match (name, selector, all) {
        (Some(name), ..) => Some(Reach::Node(name)),
        (None, Some(selector), _) => Some(Reach::Terms(terms(selector))),
        (None, None, Some(true)) => Some(Reach::Everywhere),
        _ => None,
    }
}

fn attribute(one: api::DeviceAttribute) -> Option<DeviceFact> {
    let plain = one.bool.map(Json::from).or(one.int.map(Json::from)).or(one.string.map(Json::from));
    let version = one.version.map(|text| DeviceFact::Version(text.into()));
    let list = one.bools.map(Json::from).or(one.ints.map(Json::from)).or(one.strings.map(Json::from));
    plain.map(DeviceFact::Plain).or(version).or(list.map(DeviceFact::Plain))
}

pub(crate) fn slice(object: api::ResourceSlice) -> Fact {
    let spec = object.spec;
    let (driver, pool) = (spec.driver, spec.pool);
    let common = reach(spec.node_name, spec.node_selector.as_ref(), spec.all_nodes);
    let read = |device: api::Device| {
        // Parts of devices share counters, which are not kept: such a device is nobody's.
        if device.consumes_counters.is_some_and(|all| !all.is_empty()) {
            return None;
        }
        let own = reach(device.node_name, device.node_selector.as_ref(), device.all_nodes);
        let attributes = device.attributes.into_iter().flatten();
        let attributes = attributes.filter_map(|(name, one)| Some((name, attribute(one)?)));
        let capacity = device.capacity.into_iter().flatten();
        let capacity = capacity.map(|(name, one)| (name, DeviceFact::Quantity(one.value.0.into())));
        let taints = device.taints.into_iter().flatten();
        Some(Device {
            facts: Facts::new(&driver, attributes, capacity),
            reach: own.or_else(|| common.clone())?,
            taints: taints.map(|one| (one.key, one.value.unwrap_or_default(), one.effect)).collect(),
            name: DeviceName { driver: driver.clone(), pool: pool.name.clone(), device: device.name },
        })
    };
    Fact::DeviceSlice(Box::new(Slice {
        devices: spec.devices.into_iter().flatten().filter_map(read).collect(),
        generation: pool.generation,
        parts: pool.resource_slice_count,
        pool: pool.name.clone(),
        driver: driver.clone(),
    }))
}

/// What is written of a claim: first its finalizers, if one is missing, then its status.
#[derive(Debug)]
pub(crate) struct ClaimWrite {
    pub(crate) key: ClaimKey,
    pub(crate) version: String,
    pub(crate) finalizers: Option<Vec<String>>,
    pub(crate) status: Json,
}

/// What is to be written so that the claims of a pod have their devices, and know the pod.
pub(crate) fn writes(devices: &Devices, allocation: &Allocation, ask: &Ask, node: &str) -> Vec<ClaimWrite> {
    let mut writes = Vec::new();
    let consumers = |claim: &DeviceClaim| {
        let own = json!({ "resource": "pods", "name": ask.pod.name(), "uid": ask.uid() });
        claim.consumers.iter().cloned().chain(std::iter::once(own)).collect::<Vec<Json>>()
    };
    for (key, given) in &allocation.claims {
        let Some(claim) = devices.claims.get(key) else { continue };
        let result = |one: &Given| {
            let device = &one.device;
            let mut result = json!({ "request": one.request, "driver": device.driver, "pool": device.pool,
                "device": device.device });
            if one.admin {
                result["adminAccess"] = true.into();
            }
            result
        };
        let mut status = json!({
            "allocation": {
                "devices": { "results": given.iter().map(result).collect::<Vec<Json>>(),
                    "config": all_configurations(devices, claim, given) },
                "allocationTimestamp": Time(Timestamp::now()),
            },
            "reservedFor": consumers(claim),
        });
        if allocation.local {
            status["allocation"]["nodeSelector"] = json!({ "nodeSelectorTerms": [{ "matchFields": [
                { "key": "metadata.name", "operator": "In", "values": [node] }] }] });
        }
        let mut finalizers = claim.finalizers.clone();
        let protected = finalizers.iter().any(|one| one == FINALIZER);
        finalizers.push(FINALIZER.to_owned());
        writes.push(ClaimWrite {
            key: key.clone(),
            version: claim.version.clone(),
            finalizers: (!protected).then_some(finalizers),
            status,
        });
    }
    for key in &allocation.shared {
        let Some(claim) = devices.claims.get(key) else { continue };
        if claim.users.iter().any(|uid| uid == ask.uid()) {
            continue;
        }
        let (version, status) = (claim.version.clone(), json!({ "reservedFor": consumers(claim) }));
        writes.push(ClaimWrite { key: key.clone(), version, finalizers: None, status });
    }
    writes
}

/// What classes and the claim say to the drivers.
fn all_configurations(devices: &Devices, claim: &DeviceClaim, given: &[Given]) -> Vec<Json> {
    let mut all = Vec::new();
    for (name, ways) in &claim.requests {
        let is_used = |way: &&Alternative| given.iter().any(|one| one.request == way.name);
        let Some(way) = ways.iter().find(is_used) else { continue };
        let Some(class) = devices.classes.get(&way.class) else { continue };
        for configuration in &class.configurations {
            let mut configuration = configuration.clone();
            configuration["requests"] = json!([if ways.len() > 1 { &way.name } else { name }]);
            all.push(configuration);
        }
    }
    all.extend(claim.configurations.iter().cloned());
    all
}
