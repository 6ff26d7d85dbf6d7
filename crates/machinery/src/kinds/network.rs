//! The kinds of `networking.k8s.io`.

use serde_json::{Value, json};

use super::{
    Subresource,
    field::{Field, cidr, prefix},
    fill::{default_text, default_value},
};
use crate::{FieldErrors, names, object};

const INGRESS_CLASS: &str = "kubernetes.io/ingress.class";
const NOT_AN_ADDRESS: &str = "must be a DNS name, not an IP address";

pub(super) fn prepare_ingress(ingress: &mut Value) {
    ingress["status"] = json!({ "loadBalancer": {} });
}

pub(super) fn default_ingress_class(class: &mut Value) {
    if let Some(parameters) = class.get_mut("spec").and_then(|spec| spec.get_mut("parameters")) {
        default_text(parameters, "scope", "Cluster");
    }
}

pub(super) fn default_policy(policy: &mut Value) {
    let Some(spec) = policy.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    default_value(spec, "podSelector", json!({}));
    for list in ["ingress", "egress"] {
        for rule in object::items_mut(spec, list) {
            for port in object::items_mut(rule, "ports") {
                default_text(port, "protocol", "TCP");
            }
        }
    }
    if spec["policyTypes"].as_array().is_none_or(Vec::is_empty) {
        let goes_out = spec["egress"].as_array().is_some_and(|rules| !rules.is_empty());
        spec["policyTypes"] = if goes_out { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    }
}

fn is_address(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
}

fn host(host: &Field<'_>, errors: &mut FieldErrors) {
    let rule = if host.text().contains('*') { names::wildcard_subdomain } else { names::subdomain };
    host.ruled(rule, errors);
}

pub(super) fn validate_ingress(ingress: &Value, errors: &mut FieldErrors) {
    let root = Field::root(ingress);
    let spec = root.get("spec");
    let (rules, backend) = (spec.get("rules"), spec.get("defaultBackend"));
    if rules.is_empty() && !backend.is_set() {
        errors.invalid("spec", rules.value().clone(), "either `defaultBackend` or `rules` must be specified");
    }
    if backend.is_set() {
        validate_backend(&backend, errors);
    }
    for rule in rules.items() {
        let name = rule.get("host");
        if !name.is_empty() {
            if is_address(name.text()) {
                name.invalid(NOT_AN_ADDRESS, errors);
            }
            host(&name, errors);
        }
        let http = rule.get("http");
        if http.is_set() {
            http.get("paths").needed(errors);
            for path in http.get("paths").items() {
                validate_path(&path, errors);
            }
        }
    }
    for tls in spec.get("tls").items() {
        for name in tls.get("hosts").items() {
            host(&name, errors);
        }
        tls.get("secretName").named(names::subdomain, errors);
    }
    let class = spec.get("ingressClassName");
    if class.is_set() {
        class.ruled(names::subdomain, errors);
    }
}

/// The class is named in one way.
pub(super) fn validate_new_ingress(ingress: &Value, errors: &mut FieldErrors) {
    let class = &ingress["spec"]["ingressClassName"];
    let annotation = object::at(ingress, &["metadata", "annotations", INGRESS_CLASS]);
    if class.is_string() && annotation.is_string() && annotation != class {
        errors.invalid(
            format!("annotations.{INGRESS_CLASS}"),
            annotation.clone(),
            "must match `ingressClassName` when both are specified",
        );
    }
}

fn validate_path(path: &Field<'_>, errors: &mut FieldErrors) {
    let (kind, text) = (path.get("pathType"), path.get("path"));
    if !kind.is_set() {
        return kind.required("pathType must be specified", errors);
    }
    let absolute = text.text().starts_with('/');
    match kind.text() {
        "Exact" | "Prefix" => {
            if !absolute {
                errors.invalid(text.path(), text.text(), "must be an absolute path");
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if text.text().contains(bad) {
                    text.invalid(format!("must not contain '{bad}'"), errors);
                }
            }
            for bad in ["/..", "/."] {
                if text.text().ends_with(bad) {
                    text.invalid(format!("cannot end with '{bad}'"), errors);
                }
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !absolute {
                text.invalid("must be an absolute path", errors);
            }
        }
        _ => kind.unsupported(&["Exact", "ImplementationSpecific", "Prefix"], errors),
    }
    validate_backend(&path.get("backend"), errors);
}

fn validate_backend(backend: &Field<'_>, errors: &mut FieldErrors) {
    let (resource, service) = (backend.get("resource"), backend.get("service"));
    match (resource.is_set(), service.is_set()) {
        (true, true) => errors.invalid(backend.path(), "", "cannot set both resource and service backends"),
        (true, false) => validate_reference(&resource, errors),
        (false, false) => errors.invalid(backend.path(), "", "resource or service backend is required"),
        (false, true) => {
            service.get("name").needs_name(names::label_1035, errors);
            let (name, number) = (service.at(&["port", "name"]), service.at(&["port", "number"]));
            match (!name.is_empty(), number.number().unwrap_or(0) != 0) {
                (true, true) => errors.invalid(backend.path(), "", "cannot set both port name & port number"),
                (true, false) => name.ruled(names::port_name, errors),
                (false, true) => number.port(errors),
                (false, false) => backend.required("port name or number is required", errors),
            }
        }
    }
}

fn validate_reference(reference: &Field<'_>, errors: &mut FieldErrors) {
    let group = reference.get("apiGroup");
    if group.is_set() {
        group.ruled(names::subdomain, errors);
    }
    for name in ["kind", "name"] {
        let field = reference.get(name);
        if field.is_empty() {
            field.required(format!("{name} is required"), errors);
        } else {
            field.ruled(names::path_segment, errors);
        }
    }
}

pub(super) fn validate_ingress_part(
    part: Subresource,
    ingress: &Value,
    _old: &Value,
    errors: &mut FieldErrors,
) {
    if part != Subresource::Status {
        return;
    }
    for point in Field::root(ingress).at(&["status", "loadBalancer", "ingress"]).items() {
        let (address, name) = (point.get("ip"), point.get("hostname"));
        if !address.is_empty() {
            address.address(errors);
        }
        if !name.is_empty() {
            name.ruled(names::subdomain, errors);
            if is_address(name.text()) {
                name.invalid(NOT_AN_ADDRESS, errors);
            }
        }
    }
}

pub(super) fn validate_ingress_class(class: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(class).get("spec");
    spec.get("controller").longest(250, errors);
    spec.get("controller").domain_path(errors);
    let parameters = spec.get("parameters");
    if !parameters.is_set() {
        return;
    }
    validate_reference(&parameters, errors);
    let (scope, namespace) = (parameters.get("scope"), parameters.get("namespace"));
    match scope.text() {
        "Namespace" if !namespace.is_set() => {
            namespace.required("`parameters.scope` is set to 'Namespace'", errors);
        }
        "Namespace" => namespace.ruled(names::label, errors),
        "Cluster" => {
            if namespace.is_set() {
                namespace.forbidden("`parameters.scope` is set to 'Cluster'", errors);
            }
        }
        "" => scope.required("", errors),
        _ => scope.unsupported(&["Cluster", "Namespace"], errors),
    }
}

pub(super) fn validate_ingress_class_update(class: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = ["spec", "controller"];
    Field::root(class).at(&path).unchanged(&Field::root(old).at(&path), errors);
}

pub(super) fn validate_policy(policy: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(policy).get("spec");
    spec.get("podSelector").selector(errors);
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get(list).items() {
            for port in rule.get("ports").items() {
                validate_policy_port(&port, errors);
            }
            for peer in rule.get(peers).items() {
                validate_peer(&peer, errors);
            }
        }
    }
    let kinds = spec.get("policyTypes");
    if kinds.count() > 2 {
        return kinds.invalid("may not specify more than two policyTypes", errors);
    }
    for kind in kinds.items() {
        kind.one_of(&["Ingress", "Egress"], errors);
    }
}

fn validate_policy_port(port: &Field<'_>, errors: &mut FieldErrors) {
    port.get("protocol").one_of(&["TCP", "UDP", "SCTP"], errors);
    let (first, last) = (port.get("port"), port.get("endPort"));
    if !first.is_set() {
        if last.is_set() {
            last.invalid("may not be specified when `port` is not specified", errors);
        }
        return;
    }
    match first.number() {
        Some(number) => {
            first.port(errors);
            if let Some(end) = last.number() {
                if end < number {
                    errors.invalid(last.path(), number, "must be greater than or equal to `port`");
                }
                last.port(errors);
            }
        }
        None => {
            if last.is_set() {
                last.invalid("may not be specified when `port` is non-numeric", errors);
            }
            first.ruled(names::port_name, errors);
        }
    }
}

fn validate_peer(peer: &Field<'_>, errors: &mut FieldErrors) {
    let (pods, namespaces, block) =
        (peer.get("podSelector"), peer.get("namespaceSelector"), peer.get("ipBlock"));
    for selector in [&pods, &namespaces] {
        if selector.is_set() {
            selector.selector(errors);
        }
    }
    if block.is_set() {
        validate_block(&block, errors);
    }
    match (pods.is_set() || namespaces.is_set(), block.is_set()) {
        (false, false) => peer.required("must specify a peer", errors),
        (true, true) => peer.forbidden("may not specify both ipBlock and another peer", errors),
        _ => {}
    }
}

fn validate_block(block: &Field<'_>, errors: &mut FieldErrors) {
    let whole = block.get("cidr");
    if whole.is_empty() {
        return whole.required("", errors);
    }
    whole.range(errors);
    let Some((address, bits)) = cidr(whole.text()) else { return };
    for part in block.get("except").items() {
        part.range(errors);
        let Some((inner, inner_bits)) = cidr(part.text()) else { continue };
        let inside = address.is_ipv4() == inner.is_ipv4() && prefix(address, bits) == prefix(inner, bits);
        if !inside || bits >= inner_bits {
            part.invalid("must be a strict subset of `cidr`", errors);
        }
    }
}

pub(super) fn validate_address(address: &Value, errors: &mut FieldErrors) {
    let parent = Field::root(address).at(&["spec", "parentRef"]);
    if !parent.is_set() {
        return parent.required("", errors);
    }
    parent.get("group").named(names::subdomain, errors);
    for name in ["resource", "name"] {
        parent.get(name).needs_name(names::path_segment, errors);
    }
    parent.get("namespace").named(names::path_segment, errors);
}

pub(super) fn validate_address_update(address: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = ["spec", "parentRef"];
    Field::root(address).at(&path).unchanged(&Field::root(old).at(&path), errors);
}

pub(super) fn validate_range(range: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(range).get("spec");
    let ranges = spec.get("cidrs");
    if ranges.is_empty() {
        return ranges.required("at least one CIDR required", errors);
    }
    if ranges.count() > 2 {
        return errors.invalid(ranges.path(), spec.value().clone(), "may only hold up to 2 values");
    }
    let read: Vec<_> = ranges.items().map(|range| cidr(range.text())).collect();
    if let [first, second] = read[..]
        && first.zip(second).is_none_or(|(first, second)| first.0.is_ipv4() == second.0.is_ipv4())
    {
        return errors.invalid(
            ranges.path(),
            spec.value().clone(),
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        );
    }
    for range in ranges.items() {
        range.range(errors);
        let Some((address, bits)) = cidr(range.text()) else { continue };
        let width = if address.is_ipv4() { 32 } else { 128 };
        let host_bits = width - bits;
        let first = prefix(address, bits).checked_shl(u32::from(host_bits)).unwrap_or(0);
        if first != prefix(address, width) || !range.text().starts_with(&address.to_string()) {
            let canonical = if address.is_ipv4() {
                // An address of version 4 has 32 bits.
                std::net::IpAddr::V4(std::net::Ipv4Addr::from_bits(first as u32))
            } else {
                std::net::IpAddr::V6(std::net::Ipv6Addr::from_bits(first))
            };
            range.invalid(format!("must be in canonical form (\"{canonical}/{bits}\")"), errors);
        }
    }
}

pub(super) fn validate_range_update(range: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = ["spec", "cidrs"];
    Field::root(range).at(&path).unchanged(&Field::root(old).at(&path), errors);
}
