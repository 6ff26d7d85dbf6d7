//! Services. Their addresses and node ports are given out by the API server, which knows what is taken.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    Subresource, carry_status,
    field::Field,
    fill::{default_text, default_value},
};
use crate::{FieldErrors, names, object};

pub(super) fn defaults(service: &mut Value) {
    let Some(spec) = service.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    default_text(spec, "type", "ClusterIP");
    default_text(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" {
        let config = object::child(spec, "sessionAffinityConfig");
        let client = config.entry("clientIP").or_insert_with(|| json!({}));
        if client.is_object() {
            default_value(client, "timeoutSeconds", json!(10800));
        }
    }
    for port in object::items_mut(spec, "ports") {
        default_text(port, "protocol", "TCP");
        let target = &port["targetPort"];
        if target.is_null() || *target == 0 || *target == "" {
            port["targetPort"] = port["port"].clone();
        }
    }
    let kind = object::text(spec, &["type"]).to_owned();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind != "ExternalName" {
        default_text(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default_value(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
}

pub(super) fn prepare_create(service: &mut Value) {
    service["status"] = json!({ "loadBalancer": {} });
}

pub(super) fn prepare_update(service: &mut Value, old: &Value) {
    carry_status(service, old);
    // What was given out stays, when the update does not say otherwise.
    let same_kind = service["spec"]["type"] == old["spec"]["type"];
    let keeps = |spec: &Value| spec["type"] != "ExternalName";
    if keeps(&service["spec"]) && keeps(&old["spec"]) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            let empty = match &service["spec"][field] {
                Value::Null => true,
                Value::String(text) => text.is_empty(),
                Value::Array(items) => items.is_empty(),
                _ => false,
            };
            if empty && let Some(spec) = service.get_mut("spec").filter(|spec| spec.is_object()) {
                object::copy_field(&old["spec"], spec, field);
            }
        }
    }
    if same_kind {
        keep_node_ports(service, old);
    }
}

fn keep_node_ports(service: &mut Value, old: &Value) {
    let known = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
    if !matches!(object::text(service, &["spec", "type"]), "NodePort" | "LoadBalancer") {
        return;
    }
    let Some(spec) = service.get_mut("spec") else { return };
    for port in object::items_mut(spec, "ports") {
        if port["nodePort"].as_i64().unwrap_or(0) != 0 {
            continue;
        }
        let before =
            known.iter().find(|other| other["port"] == port["port"] && other["protocol"] == port["protocol"]);
        if let Some(number) = before.and_then(|before| before.get("nodePort")) {
            port["nodePort"] = number.clone();
        }
    }
}

pub(super) fn validate(service: &Value, errors: &mut FieldErrors) {
    let spec = &service["spec"];
    let kind = object::text(spec, &["type"]);
    let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let headless = spec["clusterIP"] == "None";
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.required("spec.ports", "");
    }
    let (mut names_seen, mut seen, mut nodes) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let name = object::text(port, &["name"]);
        if name.is_empty() {
            if ports.len() > 1 {
                errors.required(format!("{path}.name"), "");
            }
        } else {
            for wrong in names::label(name) {
                errors.invalid(format!("{path}.name"), name, wrong);
            }
            if !names_seen.insert(name) {
                errors.duplicate(format!("{path}.name"), name);
            }
        }
        let number = port["port"].as_i64().unwrap_or(0);
        if let Some(wrong) = names::port_number(number) {
            errors.invalid(format!("{path}.port"), number, wrong);
        }
        let protocol = object::text(port, &["protocol"]);
        if protocol.is_empty() {
            errors.required(format!("{path}.protocol"), "");
        } else if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            errors.not_supported(format!("{path}.protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        }
        match &port["targetPort"] {
            Value::Number(target) => {
                let target = target.as_i64().unwrap_or(0);
                if let Some(wrong) = names::port_number(target) {
                    errors.invalid(format!("{path}.targetPort"), target, wrong);
                }
            }
            Value::String(target) => {
                for wrong in names::port_name(target) {
                    errors.invalid(format!("{path}.targetPort"), target.as_str(), wrong);
                }
            }
            _ => {}
        }
        if !seen.insert((number, protocol)) {
            errors.duplicate(path.as_str(), json!({ "port": number, "protocol": protocol }));
        }
        let node = port["nodePort"].as_i64().unwrap_or(0);
        if node != 0 {
            if !matches!(kind, "NodePort" | "LoadBalancer") {
                errors.forbidden(format!("{path}.nodePort"), "may not be used when `type` is 'ClusterIP'");
            } else if !nodes.insert((node, protocol)) {
                errors.duplicate(format!("{path}.nodePort"), node);
            }
        }
    }
    if !matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName") {
        errors.not_supported("spec.type", kind, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    }
    if kind == "ExternalName" {
        let name = object::text(spec, &["externalName"]);
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.is_empty() {
            errors.required("spec.externalName", "");
        } else {
            for wrong in names::subdomain(name) {
                errors.invalid("spec.externalName", name, wrong);
            }
        }
    }
    if matches!(kind, "NodePort" | "LoadBalancer") && headless {
        errors.invalid("spec.clusterIPs[0]", "None", format!("may not be set to 'None' for {kind} services"));
    }
    let affinity = object::text(spec, &["sessionAffinity"]);
    if !matches!(affinity, "ClientIP" | "None") {
        errors.not_supported("spec.sessionAffinity", affinity, &["ClientIP", "None"]);
    }
    let address = object::text(spec, &["clusterIP"]);
    if !matches!(address, "" | "None") && address.parse::<std::net::IpAddr>().is_err() {
        errors.invalid(
            "spec.clusterIPs[0]",
            address,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        );
    }
    for field in ["externalTrafficPolicy", "internalTrafficPolicy"] {
        let policy = object::text(spec, &[field]);
        if !matches!(policy, "" | "Cluster" | "Local") {
            errors.not_supported(format!("spec.{field}"), policy, &["Cluster", "Local"]);
        }
    }
    crate::metadata::labels(&spec["selector"], "spec.selector", errors);
}

pub(super) fn validate_update(service: &Value, old: &Value, errors: &mut FieldErrors) {
    let external = |object: &Value| object["spec"]["type"] == "ExternalName";
    if external(service) || external(old) {
        return;
    }
    let (new, was) = (&service["spec"]["clusterIP"], &old["spec"]["clusterIP"]);
    if was.is_string() && new != was {
        errors.invalid("spec.clusterIPs[0]", json!([new]), "may not change once set");
    }
}

pub(super) fn validate_part(part: Subresource, service: &Value, _old: &Value, errors: &mut FieldErrors) {
    if part != Subresource::Status {
        return;
    }
    let balanced = Field::root(service).at(&["status", "loadBalancer", "ingress"]);
    for point in balanced.items() {
        let (address, name) = (point.get("ip"), point.get("hostname"));
        if !address.is_empty() {
            address.address(errors);
            point.get("ipMode").one_of(&["Proxy", "VIP"], errors);
        } else if point.get("ipMode").is_set() {
            point.get("ipMode").forbidden("may not be specified when `ip` is not set", errors);
        }
        if !name.is_empty() {
            name.ruled(names::subdomain, errors);
            if name.text().parse::<std::net::IpAddr>().is_ok() {
                name.invalid("must be a DNS name, not an IP address", errors);
            }
        }
    }
}
