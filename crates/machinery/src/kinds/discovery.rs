//! Where the packets of Services go: Endpoints and EndpointSlices.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::{Value, json};

use super::{
    field::Field,
    fill::{default_text, default_value},
};
use crate::{FieldErrors, names, object};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const MOST_ENDPOINTS: usize = 1000;
const MOST_ADDRESSES: usize = 100;
const MOST_PORTS: usize = 20_000;
const MOST_LABELS: usize = 16;
const MOST_HINTS: usize = 8;

pub(super) fn default_endpoints(endpoints: &mut Value) {
    for subset in object::items_mut(endpoints, "subsets") {
        for port in object::items_mut(subset, "ports") {
            default_text(port, "protocol", "TCP");
        }
    }
}

pub(super) fn default_slice(slice: &mut Value) {
    for port in object::items_mut(slice, "ports") {
        default_text(port, "protocol", "TCP");
        default_value(port, "name", json!(""));
    }
}

pub(super) fn validate_endpoints(endpoints: &Value, errors: &mut FieldErrors) {
    for subset in Field::root(endpoints).get("subsets").items() {
        let (ready, waiting, ports) =
            (subset.get("addresses"), subset.get("notReadyAddresses"), subset.get("ports"));
        if ready.is_empty() && waiting.is_empty() {
            subset.required("must specify `addresses` or `notReadyAddresses`", errors);
        }
        for address in ready.items().chain(waiting.items()) {
            let ip = address.get("ip");
            ip.address(errors);
            if let Ok(read) = ip.text().parse() {
                special(&ip, read, errors);
            }
            address.get("hostname").named(names::label, errors);
            address.get("nodeName").named(names::subdomain, errors);
        }
        for port in ports.items() {
            let name = port.get("name");
            if name.is_empty() {
                if ports.count() > 1 {
                    name.required("", errors);
                }
            } else {
                name.ruled(names::label, errors);
            }
            port.get("port").port(errors);
            port.get("protocol").needs_one_of(PROTOCOLS, errors);
        }
    }
}

/// Addresses that mean this machine, or all of a link, are nobody's.
pub(super) fn special(field: &Field<'_>, address: IpAddr, errors: &mut FieldErrors) {
    if address.is_unspecified() {
        field.invalid(format!("may not be unspecified ({address})"), errors);
    }
    if address.is_loopback() {
        field.invalid("may not be in the loopback range (127.0.0.0/8, ::1/128)", errors);
    }
    let (linked, multicast) = match address {
        IpAddr::V4(address) => {
            (address.is_link_local(), address.is_multicast() && address.octets()[..3] == [224, 0, 0])
        }
        IpAddr::V6(address) => {
            (address.is_unicast_link_local(), address.is_multicast() && address.segments()[0] & 0xf == 2)
        }
    };
    if linked {
        field.invalid("may not be in the link-local range (169.254.0.0/16, fe80::/10)", errors);
    }
    if multicast {
        field.invalid("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)", errors);
    }
}

pub(super) fn validate_slice(slice: &Value, errors: &mut FieldErrors) {
    let root = Field::root(slice);
    root.get("addressType").needs_one_of(&["FQDN", "IPv4", "IPv6"], errors);
    let kind = root.get("addressType").text();
    root.get("endpoints").most(MOST_ENDPOINTS, errors);
    for endpoint in root.get("endpoints").items() {
        validate_endpoint(&endpoint, kind, errors);
    }
    validate_ports(&root.get("ports"), errors);
}

fn validate_endpoint(endpoint: &Field<'_>, kind: &str, errors: &mut FieldErrors) {
    let addresses = endpoint.get("addresses");
    if addresses.is_empty() {
        addresses.required("must contain at least 1 address", errors);
    }
    addresses.most(MOST_ADDRESSES, errors);
    for address in addresses.items() {
        let read: Result<IpAddr, _> = address.text().parse();
        match (kind, read) {
            ("FQDN", _) => address.ruled(names::subdomain, errors),
            ("IPv4" | "IPv6", Err(_)) => address.address(errors),
            ("IPv4", Ok(IpAddr::V6(_))) => address.invalid("must be an IPv4 address", errors),
            ("IPv6", Ok(IpAddr::V4(_))) => address.invalid("must be an IPv6 address", errors),
            ("IPv4" | "IPv6", Ok(read)) => special(&address, read, errors),
            _ => {}
        }
    }
    let node = endpoint.get("nodeName");
    if node.is_set() {
        node.ruled(names::subdomain, errors);
    }
    let topology = endpoint.get("deprecatedTopology");
    topology.labels(errors);
    topology.most(MOST_LABELS, errors);
    endpoint.get("hostname").named(names::label, errors);
    let zones = endpoint.at(&["hints", "forZones"]);
    zones.most(MOST_HINTS, errors);
    zones.unique("name", errors);
    for zone in zones.items() {
        zone.get("name").ruled(names::label_value, errors);
    }
    let nodes = endpoint.at(&["hints", "forNodes"]);
    nodes.most(MOST_HINTS, errors);
    nodes.unique("name", errors);
    for node in nodes.items() {
        node.get("name").ruled(names::subdomain, errors);
    }
}

fn validate_ports(ports: &Field<'_>, errors: &mut FieldErrors) {
    ports.most(MOST_PORTS, errors);
    let mut seen = BTreeSet::new();
    for port in ports.items() {
        let name = port.get("name");
        name.named(names::label, errors);
        if !seen.insert(name.text()) {
            name.duplicate(errors);
        }
        port.get("protocol").needs_one_of(PROTOCOLS, errors);
        if port.get("port").is_set() {
            port.get("port").port(errors);
        }
        port.get("appProtocol").named(names::qualified, errors);
    }
}

pub(super) fn validate_slice_update(slice: &Value, old: &Value, errors: &mut FieldErrors) {
    Field::root(slice).all_unchanged(&Field::root(old), &["addressType"], errors);
}
