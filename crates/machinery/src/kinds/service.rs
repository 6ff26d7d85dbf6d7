//! Services. Their addresses and node ports are given out by the API server, which knows what is taken.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    Subresource, carry_status, discovery,
    field::Field,
    fill::{default_text, default_value},
};
use crate::{FieldErrors, names, object};

pub(super) fn defaults(service: &mut Value) {
    let Some(spec) = service.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    default_text(spec, "type", "ClusterIP");
    default_text(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "None" {
        // Who turns it off need not say so twice.
        object::remove(spec, "sessionAffinityConfig");
    }
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
    let reached = kind == "ClusterIP" && spec["externalIPs"].as_array().is_some_and(|all| !all.is_empty());
    if reached || matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
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
    } else {
        drop_what_belonged(service, old);
    }
}

/// Whether Services of a type have something.
type Has = fn(&Value) -> bool;

fn is_in_cluster(spec: &Value) -> bool {
    matches!(object::text(spec, &["type"]), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn is_outside(spec: &Value) -> bool {
    matches!(object::text(spec, &["type"]), "NodePort" | "LoadBalancer")
}

fn is_balanced(spec: &Value) -> bool {
    spec["type"] == "LoadBalancer"
}

fn has_node_ports(spec: &Value) -> bool {
    spec["type"] == "NodePort" || (is_balanced(spec) && spec["allocateLoadBalancerNodePorts"] != false)
}

fn is_checked(spec: &Value) -> bool {
    is_balanced(spec) && spec["externalTrafficPolicy"] == "Local"
}

/// What only Services of certain types have. Fields of one row are one thing.
const BELONGS: &[(&[&str], Has)] = &[
    (&["clusterIP", "clusterIPs"], is_in_cluster),
    (&["ipFamilies"], is_in_cluster),
    (&["ipFamilyPolicy"], is_in_cluster),
    (&["internalTrafficPolicy"], is_in_cluster),
    (&["healthCheckNodePort"], is_checked),
    (&["externalTrafficPolicy"], is_outside),
    (&["allocateLoadBalancerNodePorts"], is_balanced),
    (&["loadBalancerClass"], is_balanced),
];

/// Who changes the type and nothing else means that what only the old type has goes.
fn drop_what_belonged(service: &mut Value, old: &Value) {
    let old = &old["spec"];
    let Some(spec) = service.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    let ports = |spec: &Value| -> HashSet<i64> {
        let ports = spec["ports"].as_array().into_iter().flatten();
        ports.filter_map(|port| port["nodePort"].as_i64()).filter(|port| *port != 0).collect()
    };
    let goes: Vec<&str> = BELONGS
        .iter()
        .filter(|(fields, has)| {
            has(old) && !has(spec) && fields.iter().all(|field| spec[*field] == old[*field])
        })
        .flat_map(|(fields, _)| fields.iter().copied())
        .collect();
    let ports_go = has_node_ports(old) && !has_node_ports(spec) && ports(spec) == ports(old);
    for field in goes {
        object::remove(spec, field);
    }
    if ports_go {
        for port in object::items_mut(spec, "ports") {
            object::remove(port, "nodePort");
        }
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

const ONLY_BALANCED: &str = "may only be used when `type` is 'LoadBalancer'";
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const LONGEST_AFFINITY: i64 = 86_400;
/// Where nodes answer the API server: nobody else may be sent there from outside.
const NODE_PORT: i64 = 10_250;

pub(super) fn validate(service: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(service).get("spec");
    let kind = spec.get("type").text();
    let headless = spec.get("clusterIP").text() == "None";
    let ports = spec.get("ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        ports.required("", errors);
    }
    match kind {
        "LoadBalancer" => {
            for port in ports.items().filter(|port| port.get("port").number() == Some(NODE_PORT)) {
                errors.invalid(
                    port.path(),
                    NODE_PORT,
                    "may not expose port 10250 externally since it is used by kubelet",
                );
            }
        }
        "ExternalName" => {
            let name = spec.get("externalName");
            let plain = name.text().strip_suffix('.').unwrap_or(name.text());
            name.needed(errors);
            if !name.is_empty() {
                Field::new(&json!(plain), name.path()).ruled(names::subdomain, errors);
            }
        }
        _ => {}
    }
    if matches!(kind, "NodePort" | "LoadBalancer") && headless {
        errors.invalid("spec.clusterIPs[0]", "None", format!("may not be set to 'None' for {kind} services"));
    }
    validate_ports(&ports, kind, errors);
    spec.get("selector").labels(errors);
    affinity(&spec, errors);
    for address in spec.get("externalIPs").items() {
        address.address(errors);
        if let Ok(read) = address.text().parse() {
            discovery::special(&address, read, errors);
        }
    }
    if !TYPES.contains(&kind) {
        spec.get("type").unsupported(TYPES, errors);
    }
    balanced(&spec, kind, errors);
    policies(&spec, kind, errors);
    addresses(&spec, kind, errors);
}

fn validate_ports(ports: &Field<'_>, kind: &str, errors: &mut FieldErrors) {
    let (mut names_seen, mut seen, mut nodes) = (HashSet::new(), HashSet::new(), HashSet::new());
    for port in ports.items() {
        let name = port.get("name");
        if !name.is_empty() {
            name.ruled(names::label, errors);
            if !names_seen.insert(name.text()) {
                name.duplicate(errors);
            }
        } else if ports.count() > 1 {
            name.required("", errors);
        }
        let (outside, protocol) = (port.get("port"), port.get("protocol"));
        outside.port(errors);
        protocol.needs_one_of(&["SCTP", "TCP", "UDP"], errors);
        if port.get("targetPort").is_set() {
            port.get("targetPort").port_or_name(errors);
        }
        port.get("appProtocol").named(names::qualified, errors);
        let number = outside.number().unwrap_or(0);
        if !seen.insert((number, protocol.text())) {
            errors.duplicate(port.path(), json!({ "port": number, "protocol": protocol.text() }));
        }
        let on_nodes = port.get("nodePort").number().unwrap_or(0);
        if on_nodes == 0 {
            continue;
        }
        if !matches!(kind, "NodePort" | "LoadBalancer") {
            port.get("nodePort").forbidden("may not be used when `type` is 'ClusterIP'", errors);
        } else if !nodes.insert((on_nodes, protocol.text())) {
            port.get("nodePort").duplicate(errors);
        }
    }
}

fn affinity(spec: &Field<'_>, errors: &mut FieldErrors) {
    let (kind, config) = (spec.get("sessionAffinity"), spec.get("sessionAffinityConfig"));
    kind.needs_one_of(&["ClientIP", "None"], errors);
    if kind.text() == "ClientIP" {
        let seconds = config.at(&["clientIP", "timeoutSeconds"]);
        if !(1..=LONGEST_AFFINITY).contains(&seconds.number().unwrap_or(0)) {
            seconds.invalid(format!("must be greater than 0 and less than {LONGEST_AFFINITY}"), errors);
        }
    }
}

/// What only Services with a load balancer have.
fn balanced(spec: &Field<'_>, kind: &str, errors: &mut FieldErrors) {
    let (ranges, class) = (spec.get("loadBalancerSourceRanges"), spec.get("loadBalancerClass"));
    if kind == "LoadBalancer" {
        for range in ranges.items() {
            range.range(errors);
        }
        if class.is_set() {
            class.ruled(names::qualified, errors);
        }
        return;
    }
    for field in [&ranges, &class, &spec.get("allocateLoadBalancerNodePorts")] {
        if field.is_set() {
            field.forbidden(ONLY_BALANCED, errors);
        }
    }
}

fn policies(spec: &Field<'_>, kind: &str, errors: &mut FieldErrors) {
    let (outside, inside) = (spec.get("externalTrafficPolicy"), spec.get("internalTrafficPolicy"));
    let reachable = matches!(kind, "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && !spec.get("externalIPs").is_empty());
    if reachable {
        outside.needs_one_of(&["Cluster", "Local"], errors);
    } else if !outside.is_empty() {
        outside.invalid("may only be set for externally-accessible services", errors);
    }
    let health = spec.get("healthCheckNodePort");
    if health.number().unwrap_or(0) != 0 && (kind != "LoadBalancer" || outside.text() != "Local") {
        health.invalid(
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            errors,
        );
    }
    inside.one_of(&["Cluster", "Local"], errors);
    spec.get("trafficDistribution").one_of(&["PreferClose", "PreferSameNode", "PreferSameZone"], errors);
}

fn addresses(spec: &Field<'_>, kind: &str, errors: &mut FieldErrors) {
    let (all, first) = (spec.get("clusterIPs"), spec.get("clusterIP"));
    let (families, policy) = (spec.get("ipFamilies"), spec.get("ipFamilyPolicy"));
    if kind == "ExternalName" {
        for field in [&all, &families, &policy] {
            if !field.is_empty() {
                field.forbidden("may not be set for ExternalName services", errors);
            }
        }
        return;
    }
    policy.one_of(&["PreferDualStack", "RequireDualStack", "SingleStack"], errors);
    for family in families.items() {
        family.one_of(&["IPv4", "IPv6"], errors);
    }
    families.unique("", errors);
    if all.count() > 2 {
        all.invalid("may only hold up to 2 values", errors);
    }
    if !all.is_empty() && all.texts()[0] != first.text() {
        all.invalid("first value must match `clusterIP`", errors);
    }
    let listed: Vec<Field<'_>> = if all.is_empty() {
        vec![Field::new(first.value(), "spec.clusterIPs[0]")]
    } else {
        all.items().collect()
    };
    for address in listed {
        if !matches!(address.text(), "" | "None") {
            address.address(errors);
        }
    }
}

pub(super) fn validate_update(service: &Value, old: &Value, errors: &mut FieldErrors) {
    let (spec, was) = (Field::root(service).get("spec"), Field::root(old).get("spec"));
    let (class, before) = (spec.get("loadBalancerClass"), was.get("loadBalancerClass"));
    let balanced = |spec: &Field<'_>| spec.get("type").text() == "LoadBalancer";
    if balanced(&spec) && balanced(&was) && class.value() != before.value() {
        class.invalid("may not change once set", errors);
    }
    let external = |spec: &Field<'_>| spec.get("type").text() == "ExternalName";
    if external(&spec) || external(&was) {
        return;
    }
    let (new, before) = (spec.get("clusterIP"), was.get("clusterIP"));
    if before.value().is_string() && new.value() != before.value() {
        errors.invalid("spec.clusterIPs[0]", json!([new.value()]), "may not change once set");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belonged_to_the_old_type_goes_with_it() {
        let old = json!({ "spec": {
            "type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 31000, "allocateLoadBalancerNodePorts": true, "loadBalancerClass": "a.com/b",
            "ports": [{ "port": 80, "protocol": "TCP", "nodePort": 30000 }],
        } });
        let changed = |change: Value| {
            let mut new = old.clone();
            crate::patch::merge(&mut new["spec"], &change);
            prepare_update(&mut new, &old);
            new["spec"].clone()
        };
        let plain = json!([{ "port": 80, "protocol": "TCP" }]);
        assert_eq!(
            changed(json!({ "type": "ExternalName", "externalName": "a.com" })),
            json!({ "type": "ExternalName", "externalName": "a.com", "ports": plain })
        );
        assert_eq!(
            changed(json!({ "type": "ClusterIP" })),
            json!({
                "type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster", "ports": plain,
            })
        );
        // What was changed along with the type is meant.
        let ports = json!([{ "port": 80, "protocol": "TCP", "nodePort": 30001 }]);
        let kept =
            changed(json!({ "type": "ClusterIP", "externalTrafficPolicy": "Cluster", "ports": ports }));
        assert_eq!((&kept["externalTrafficPolicy"], &kept["ports"]), (&json!("Cluster"), &ports));
        assert_eq!(changed(json!({}))["healthCheckNodePort"], 31000);
    }
}
