//! Addresses and node ports of Services. What is taken is what the stored Services hold: nothing else is kept.

use std::{collections::HashSet, net::Ipv4Addr};

use dray_machinery::{FieldErrors, Kind, Status, object};
use dray_store::Snapshot;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{Error, server::Inner};

/// The range of node ports.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// A range of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    base: u32,
    size: u32,
}

impl Range {
    pub(crate) fn parse(text: &str) -> Result<Range, Error> {
        let bad = || Error::ServiceRange { range: text.to_owned() };
        let (address, length) = text.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let length: u32 = length.parse().map_err(|_| bad())?;
        if !(8..=28).contains(&length) {
            return Err(bad());
        }
        let size = 1_u32 << (32 - length);
        Ok(Range { base: u32::from(address) & !(size - 1), size })
    }

    /// The address at an offset.
    pub(crate) fn at(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base + offset)
    }

    fn contains(&self, address: Ipv4Addr) -> bool {
        (self.base + 1..self.base + self.size - 1).contains(&u32::from(address))
    }
}

/// What is taken.
pub(crate) struct Allocator {
    range: Range,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    addresses: HashSet<Ipv4Addr>,
    ports: HashSet<(u16, String)>,
    next: u32,
    next_port: u16,
}

/// Addresses and ports that are held for a change until it is stored. Dropped, they are free again.
pub(crate) struct Claims<'a> {
    allocator: &'a Allocator,
    address: Option<Ipv4Addr>,
    ports: Vec<(u16, String)>,
}

impl Claims<'_> {
    pub(crate) fn none(inner: &Inner) -> Claims<'_> {
        Claims { allocator: &inner.allocator, address: None, ports: Vec::new() }
    }

    /// The change is stored: they stay taken.
    pub(crate) fn keep(mut self) {
        self.address = None;
        self.ports.clear();
    }
}

impl Drop for Claims<'_> {
    fn drop(&mut self) {
        if self.address.is_none() && self.ports.is_empty() {
            return;
        }
        let mut taken = self.allocator.taken.lock();
        if let Some(address) = self.address {
            taken.addresses.remove(&address);
        }
        for port in &self.ports {
            taken.ports.remove(port);
        }
    }
}

impl Allocator {
    pub(crate) fn new(range: Range, snapshot: &Snapshot) -> Allocator {
        let mut taken = Taken { next: 16, next_port: *NODE_PORTS.start(), ..Taken::default() };
        for (_, entry) in snapshot.range("core/services", "", None) {
            if let Ok(service) = serde_json::from_slice::<Value>(entry.json()) {
                if let Some(address) = address(&service) {
                    taken.addresses.insert(address);
                }
                for port in node_ports(&service) {
                    taken.ports.insert(port);
                }
            }
        }
        Allocator { range, taken: Mutex::new(taken) }
    }
}

fn address(service: &Value) -> Option<Ipv4Addr> {
    object::text(service, &["spec", "clusterIP"]).parse().ok()
}

fn node_ports(service: &Value) -> Vec<(u16, String)> {
    let ports = object::at(service, &["spec", "ports"]).as_array();
    ports
        .into_iter()
        .flatten()
        .filter_map(|port| {
            let number = u16::try_from(port["nodePort"].as_i64()?).ok().filter(|port| *port != 0)?;
            Some((number, object::text(port, &["protocol"]).to_owned()))
        })
        .collect()
}

impl Inner {
    /// Gives a Service the addresses and ports that it needs and does not have.
    pub(crate) fn claim(
        &self,
        kind: &Kind,
        old: Option<&Value>,
        service: &mut Value,
    ) -> Result<Claims<'_>, Status> {
        let mut claims = Claims::none(self);
        if kind.kind != "Service" || !service["spec"].is_object() {
            return Ok(claims);
        }
        let name = object::name(service).to_owned();
        let mut errors = FieldErrors::default();
        let held_address = old.and_then(address);
        let held_ports: HashSet<(u16, String)> =
            old.map(node_ports).unwrap_or_default().into_iter().collect();
        let mut taken = self.allocator.taken.lock();
        let kind_of_service = object::text(service, &["spec", "type"]).to_owned();
        if kind_of_service == "ExternalName" {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                object::remove(&mut service["spec"], field);
            }
        } else {
            if object::text(service, &["spec", "clusterIP"]).is_empty()
                && let Some(first) =
                    object::at(service, &["spec", "clusterIPs"])[0].as_str().map(ToOwned::to_owned)
            {
                service["spec"]["clusterIP"] = json!(first);
            }
            let wanted = object::text(service, &["spec", "clusterIP"]).to_owned();
            if wanted.is_empty() {
                let free = taken
                    .free_address(self.allocator.range)
                    .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?;
                claims.address = Some(free);
                service["spec"]["clusterIP"] = json!(free.to_string());
            } else if let Ok(address) = wanted.parse::<Ipv4Addr>()
                && Some(address) != held_address
            {
                if !self.allocator.range.contains(address) {
                    errors.invalid(
                        "spec.clusterIPs",
                        json!([wanted]),
                        format!(
                            "failed to allocate IP {wanted}: the provided IP ({wanted}) is not in the valid range. The \
                             range of valid IPs is {}",
                            self.config.service_cidr
                        ),
                    );
                } else if taken.addresses.insert(address) {
                    claims.address = Some(address);
                } else {
                    errors.invalid(
                        "spec.clusterIPs",
                        json!([wanted]),
                        format!("failed to allocate IP {wanted}: provided IP is already allocated"),
                    );
                }
            }
            let address = service["spec"]["clusterIP"].clone();
            service["spec"]["clusterIPs"] = json!([address]);
            if service["spec"]["ipFamilies"].is_null() {
                service["spec"]["ipFamilies"] = json!(["IPv4"]);
            }
            if service["spec"]["ipFamilyPolicy"].is_null() {
                service["spec"]["ipFamilyPolicy"] = json!("SingleStack");
            }
        }
        let needs_ports = kind_of_service == "NodePort"
            || (kind_of_service == "LoadBalancer"
                && service["spec"]["allocateLoadBalancerNodePorts"] != false);
        for (index, port) in object::items_mut(&mut service["spec"], "ports").enumerate() {
            let protocol = object::text(port, &["protocol"]).to_owned();
            let number = port["nodePort"].as_i64().unwrap_or(0);
            if number == 0 {
                object::remove(port, "nodePort");
                if needs_ports {
                    let free = taken
                        .free_port(&protocol)
                        .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))?;
                    claims.ports.push((free, protocol));
                    port["nodePort"] = json!(free);
                }
                continue;
            }
            let path = format!("spec.ports[{index}].nodePort");
            match u16::try_from(number) {
                Ok(number) if NODE_PORTS.contains(&number) => {
                    let key = (number, protocol);
                    if held_ports.contains(&key) {
                        continue;
                    }
                    if taken.ports.contains(&key) {
                        errors.invalid(path, number, "provided port is already allocated");
                    } else {
                        taken.ports.insert(key.clone());
                        claims.ports.push(key);
                    }
                }
                _ => errors.invalid(
                    path,
                    number,
                    "provided port is not in the valid range. The range of valid ports is 30000-32767",
                ),
            }
        }
        drop(taken);
        if errors.is_empty() {
            Ok(claims)
        } else {
            Err(Status::invalid(kind.group, kind.kind, &name, errors.as_slice()))
        }
    }

    /// Frees what a Service held before a change and no longer holds.
    pub(crate) fn release_difference(&self, kind: &Kind, old: &Value, new: &Value) {
        if kind.kind != "Service" {
            return;
        }
        let mut taken = self.allocator.taken.lock();
        if let Some(before) = address(old)
            && address(new) != Some(before)
        {
            taken.addresses.remove(&before);
        }
        let kept: HashSet<(u16, String)> = node_ports(new).into_iter().collect();
        for port in node_ports(old) {
            if !kept.contains(&port) {
                taken.ports.remove(&port);
            }
        }
    }

    /// Frees what a deleted Service held.
    pub(crate) fn release(&self, kind: &Kind, service: &Value) {
        if kind.kind != "Service" {
            return;
        }
        let mut taken = self.allocator.taken.lock();
        if let Some(address) = address(service) {
            taken.addresses.remove(&address);
        }
        for port in node_ports(service) {
            taken.ports.remove(&port);
        }
    }
}

impl Taken {
    /// A free address, taken: one after the other, so that a freed one is not given out again at once.
    fn free_address(&mut self, range: Range) -> Option<Ipv4Addr> {
        // The first sixteen are for those that ask for them by number.
        let (first, last) = (if range.size > 64 { 16 } else { 2 }, range.size - 1);
        for _ in first..last {
            let offset = if self.next < first || self.next >= last { first } else { self.next };
            self.next = offset + 1;
            let address = range.at(offset);
            if self.addresses.insert(address) {
                return Some(address);
            }
        }
        None
    }

    fn free_port(&mut self, protocol: &str) -> Option<u16> {
        for _ in NODE_PORTS {
            let port = self.next_port;
            self.next_port = if port == *NODE_PORTS.end() { *NODE_PORTS.start() } else { port + 1 };
            let key = (port, protocol.to_owned());
            if !self.ports.contains(&key) {
                self.ports.insert(key);
                return Some(port);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_out_once_and_the_range_ends() {
        let range = Range::parse("10.43.0.0/28").unwrap();
        let mut taken = Taken::default();
        let mut seen = HashSet::new();
        while let Some(address) = taken.free_address(range) {
            assert!(range.contains(address) && seen.insert(address));
        }
        assert_eq!(seen.len(), 13);
        assert!(Range::parse("10.43.0.0").is_err());
        assert!(Range::parse("::/64").is_err());
    }
}
