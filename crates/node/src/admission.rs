//! Which pods the node takes in, and what they hold of it.
//!
//! The scheduler has looked already, but perhaps at a picture that was old, and pods that name their node themselves were
//! never looked at. Who is not taken in has failed, in the kubelet's words; nothing of it is made.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use dray_machinery::quantity::Quantity;
use dray_machinery::quota::pod_requests;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::machine::Capacity;
use crate::quantity;

/// Resources that are counted in thousandths; all others in whole units.
const CPU: &str = "cpu";
const PODS: &str = "pods";

/// A port of the host that a pod wants.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HostPort {
    protocol: String,
    /// None means all addresses.
    address: Option<IpAddr>,
    port: i32,
}

impl HostPort {
    fn all(pod: &Pod) -> Vec<HostPort> {
        let Some(spec) = &pod.spec else { return Vec::new() };
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        containers
            .flat_map(|container| container.ports.iter().flatten())
            .filter_map(|port| {
                let address = port.host_ip.as_deref().and_then(|address| address.parse::<IpAddr>().ok());
                Some(HostPort {
                    protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                    address: address.filter(|address| !address.is_unspecified()),
                    port: port.host_port.filter(|port| *port > 0)?,
                })
            })
            .collect()
    }

    fn conflicts(&self, other: &HostPort) -> bool {
        let meets = match (self.address, other.address) {
            (Some(one), Some(two)) => one == two,
            _ => true,
        };
        self.port == other.port && self.protocol == other.protocol && meets
    }
}

/// What a pod holds.
#[derive(Debug, Default)]
struct Share {
    requests: BTreeMap<String, Quantity>,
    ports: Vec<HostPort>,
}

impl Share {
    fn of(pod: &Pod) -> Share {
        let requests = serde_json::to_value(pod).map(|pod| pod_requests(&pod)).unwrap_or_default();
        let requests = requests.entries().map(|(name, amount)| (name.to_owned(), amount));
        Share { requests: requests.collect(), ports: HostPort::all(pod) }
    }
}

/// Why a pod is not taken in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Rejection {
    fn predicate(name: &str, why: &str) -> Rejection {
        Rejection { reason: name.to_owned(), message: format!("Predicate {name} failed: {why}") }
    }

    fn lack(resource: &str, requested: i64, used: i64, capacity: i64) -> Rejection {
        Rejection {
            reason: format!("OutOf{resource}"),
            message: format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            ),
        }
    }
}

/// Kernel settings that change nothing beyond a pod, as the reference lists them. Others might.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Whether a pod may have the kernel settings that it asks for: those that are its own.
fn check_sysctls(pod: &Pod) -> Result<(), Rejection> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let sysctls = spec.security_context.as_ref().and_then(|context| context.sysctls.as_ref());
    for sysctl in sysctls.into_iter().flatten() {
        let name = sysctl.name.replace('/', ".");
        let forbidden = |why: &str| Rejection {
            reason: "SysctlForbidden".to_owned(),
            message: format!("forbidden sysctl: {:?} {why}", sysctl.name),
        };
        if !SAFE_SYSCTLS.contains(&name.as_str()) {
            return Err(forbidden("not allowlisted"));
        }
        if name.starts_with("net.") && spec.host_network == Some(true) {
            return Err(forbidden("not allowed with host net enabled"));
        }
        if name.starts_with("kernel.") && spec.host_ipc == Some(true) {
            return Err(forbidden("not allowed with host ipc enabled"));
        }
    }
    Ok(())
}

type Shares = Arc<Mutex<HashMap<String, Share>>>;

/// The place of one pod. It is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    shares: Shares,
    uid: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shares.lock().remove(&self.uid);
    }
}

/// What the node has, and who holds what of it.
#[derive(Debug)]
pub(crate) struct Admission {
    capacity: BTreeMap<String, Quantity>,
    shares: Shares,
}

impl Admission {
    pub(crate) fn new(capacity: &Capacity) -> Admission {
        let capacity =
            capacity.iter().filter_map(|(name, amount)| Some((name.clone(), quantity::parse(amount)?)));
        Admission { capacity: capacity.collect(), shares: Shares::default() }
    }

    /// Counts a pod that is here already, whether there is room for it or not.
    pub(crate) fn keep(&self, uid: &str, pod: &Pod) -> Place {
        self.shares.lock().insert(uid.to_owned(), Share::of(pod));
        Place { shares: Arc::clone(&self.shares), uid: uid.to_owned() }
    }

    /// Takes a new pod in, if there is room for it.
    pub(crate) fn admit(&self, uid: &str, pod: &Pod) -> Result<Place, Rejection> {
        check_sysctls(pod)?;
        let share = Share::of(pod);
        let mut shares = self.shares.lock();
        self.check(&shares, &share)?;
        shares.insert(uid.to_owned(), share);
        Ok(Place { shares: Arc::clone(&self.shares), uid: uid.to_owned() })
    }

    /// Frees the place of a pod whose object is gone: it is being killed, and nobody waits for it.
    pub(crate) fn release(&self, uid: &str) {
        self.shares.lock().remove(uid);
    }

    fn check(&self, shares: &HashMap<String, Share>, wanted: &Share) -> Result<(), Rejection> {
        let count = i64::try_from(shares.len()).unwrap_or(i64::MAX);
        if let Some(most) = self.capacity.get(PODS).map(Quantity::units).filter(|most| count >= *most) {
            return Err(Rejection::lack(PODS, 1, count, most));
        }
        let zero = Quantity::from_units(0);
        for (resource, amount) in wanted.requests.iter().filter(|(_, amount)| **amount > zero) {
            // What the node knows nothing of was for others to judge.
            let Some(capacity) = self.capacity.get(resource) else { continue };
            let taken = shares.values().filter_map(|share| share.requests.get(resource));
            let used = taken.fold(zero, |sum, share| sum.plus(*share));
            if used.plus(*amount) > *capacity {
                let counted = if resource == CPU { Quantity::millis } else { Quantity::units };
                return Err(Rejection::lack(resource, counted(amount), counted(&used), counted(capacity)));
            }
        }
        let mut taken = shares.values().flat_map(|share| &share.ports);
        if taken.any(|taken| wanted.ports.iter().any(|port| port.conflicts(taken))) {
            let why = "node(s) didn't have free ports for the requested pod ports";
            return Err(Rejection::predicate("NodePorts", why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
    use serde_json::{Value, json};

    use super::*;

    fn pod(container: Value) -> Pod {
        let mut container = container;
        container["name"] = json!("c");
        serde_json::from_value(json!({ "metadata": {}, "spec": { "containers": [container] } })).unwrap()
    }

    fn admission() -> Admission {
        let capacity = [("cpu", "2"), ("memory", "1Gi"), ("pods", "3")];
        Admission::new(&capacity.map(|(name, amount)| (name.to_owned(), Text(amount.to_owned()))).into())
    }

    fn asks(resource: &str, amount: &str) -> Pod {
        pod(json!({ "resources": { "requests": { resource: amount } } }))
    }

    fn listens(port: i32, address: &str, protocol: &str) -> Pod {
        let port = json!({ "containerPort": 80, "hostPort": port, "hostIP": address, "protocol": protocol });
        pod(json!({ "ports": [port] }))
    }

    #[test]
    fn a_port_of_the_host_has_one_holder() {
        let admission = admission();
        let first = admission.admit("1", &listens(8080, "127.0.0.1", "TCP")).unwrap();
        let message =
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        for (port, address, protocol, fits) in [
            (8080, "127.0.0.1", "TCP", false),
            (8080, "0.0.0.0", "TCP", false),
            (8080, "127.0.0.2", "TCP", true),
            (8080, "127.0.0.1", "UDP", true),
            (8081, "127.0.0.1", "TCP", true),
        ] {
            match admission.admit("2", &listens(port, address, protocol)) {
                Ok(_) => assert!(fits, "{port} {address} {protocol}"),
                Err(rejection) => {
                    assert!(!fits, "{port} {address} {protocol}");
                    let expected = Rejection { reason: "NodePorts".to_owned(), message: message.to_owned() };
                    assert_eq!(rejection, expected);
                }
            }
        }
        drop(first);
        admission.admit("2", &listens(8080, "", "TCP")).unwrap();
    }

    #[test]
    fn settings_that_are_not_the_pods_own_are_refused() {
        let admission = admission();
        for (name, spec, why) in [
            ("kernel.shm_rmid_forced", json!({}), None),
            ("net/ipv4/tcp_syncookies", json!({}), None),
            ("net.ipv4.ip_forward", json!({}), Some("not allowlisted")),
            ("vm.swappiness", json!({}), Some("not allowlisted")),
            ("net.ipv4.tcp_rmem", json!({ "hostNetwork": true }), Some("not allowed with host net enabled")),
            ("kernel.shm_rmid_forced", json!({ "hostIPC": true }), Some("not allowed with host ipc enabled")),
        ] {
            let mut spec = spec;
            spec["containers"] = json!([{ "name": "c" }]);
            spec["securityContext"] = json!({ "sysctls": [{ "name": name, "value": "1" }] });
            let pod = serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap();
            let rejection = admission.admit("1", &pod).err();
            let expected = why.map(|why| format!("forbidden sysctl: {name:?} {why}"));
            assert_eq!(rejection.map(|rejection| rejection.message), expected);
        }
    }

    #[test]
    fn what_is_not_there_cannot_be_had() {
        let admission = admission();
        let _first = admission.admit("1", &asks("cpu", "1500m")).unwrap();
        let rejection = admission.admit("2", &asks("cpu", "501m")).unwrap_err();
        assert_eq!(rejection.reason, "OutOfcpu");
        let told = "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000";
        assert_eq!(rejection.message, told);
        let _second = admission.admit("2", &asks("cpu", "500m")).unwrap();
        let rejection = admission.admit("3", &asks("memory", "2Gi")).unwrap_err();
        assert_eq!(rejection.reason, "OutOfmemory");
        let _third = admission.admit("3", &asks("example.com/unknown", "7")).unwrap();
        let rejection = admission.admit("4", &pod(json!({}))).unwrap_err();
        let told = "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3";
        assert_eq!((rejection.reason.as_str(), rejection.message.as_str()), ("OutOfpods", told));
        // One that was here before is not asked.
        let _kept = admission.keep("4", &asks("cpu", "100"));
    }
}
