//! The cluster's names, as the Kubernetes DNS specification asks for them, from objects as the API has them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use dray_network::names::{Answer, Question, RecordData, RecordKind, Zone};
use dray_proxy::{Cluster, ClusterZone, ServiceName};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::RwLock;
use serde_json::{Value, json};

fn service(name: &str, spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec})).unwrap()
}

fn slice(service: &str, name: &str, endpoints: Value, port: u16) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    }))
    .unwrap()
}

fn cluster() -> Arc<RwLock<Cluster>> {
    let mut cluster = Cluster::new();
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]);
    cluster.apply_service(&service("web", json!({"clusterIP": "10.43.0.80", "ports": ports})));
    cluster.apply_service(&service("db", json!({"clusterIP": "None", "ports": ports})));
    cluster.apply_service(&service("empty", json!({"clusterIP": "None", "ports": ports})));
    let external = json!({"type": "ExternalName", "externalName": "example.com."});
    cluster.apply_service(&service("away", external));
    let endpoints = json!([
        {"addresses": ["10.42.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
        {"addresses": ["10.42.0.6"], "conditions": {}},
        {"addresses": ["10.42.0.7"], "conditions": {"ready": false, "serving": false}},
    ]);
    cluster.apply_slice(&slice("db", "db-1", endpoints, 8080));
    Arc::new(RwLock::new(cluster))
}

fn zone() -> ClusterZone {
    let networks = ["10.43.0.0/16", "10.42.0.0/24"].map(|text| text.parse().unwrap());
    ClusterZone::new(cluster(), "cluster.local", networks.to_vec(), None)
}

fn ask(zone: &ClusterZone, name: &str, kind: RecordKind) -> Vec<String> {
    match zone.answer(&Question { name: name.to_owned(), kind, client: ([127, 0, 0, 1], 1).into() }) {
        Answer::Records { answers, .. } => {
            let mut texts: Vec<_> = answers
                .into_iter()
                .map(|record| match record.data {
                    RecordData::Address(address) => address.to_string(),
                    RecordData::Pointer(name) | RecordData::Alias(name) | RecordData::Text(name) => name,
                    RecordData::Service { port, target, weight, .. } => format!("{weight} {port} {target}"),
                })
                .collect();
            texts.sort();
            texts
        }
        other => vec![format!("{other:?}")],
    }
}

fn check(name: &str, kind: RecordKind, expected: &[&str]) {
    assert_eq!(ask(&zone(), name, kind), expected, "{name} {kind:?}");
}

#[test]
fn services_have_addresses() {
    check("web.shop.svc.cluster.local", RecordKind::A, &["10.43.0.80"]);
    check("web.shop.svc.cluster.local", RecordKind::Aaaa, &[]);
    check("web.shop.svc.cluster.local", RecordKind::Txt, &[]);
    check("nothing.shop.svc.cluster.local", RecordKind::A, &["NoSuchName"]);
    check("web.other.svc.cluster.local", RecordKind::A, &["NoSuchName"]);
    check("away.shop.svc.cluster.local", RecordKind::A, &["example.com"]);
}

#[test]
fn headless_services_have_the_addresses_of_ready_endpoints() {
    check("db.shop.svc.cluster.local", RecordKind::A, &["10.42.0.5", "10.42.0.6"]);
    check("db-0.db.shop.svc.cluster.local", RecordKind::A, &["10.42.0.5"]);
    check("10-42-0-6.db.shop.svc.cluster.local", RecordKind::A, &["10.42.0.6"]);
    check("10-42-0-7.db.shop.svc.cluster.local", RecordKind::A, &["NoSuchName"]);
    check("empty.shop.svc.cluster.local", RecordKind::A, &[]);
}

#[test]
fn ports_have_service_records() {
    let target = "100 80 web.shop.svc.cluster.local";
    check("_http._tcp.web.shop.svc.cluster.local", RecordKind::Srv, &[target]);
    check("_http._udp.web.shop.svc.cluster.local", RecordKind::Srv, &["NoSuchName"]);
    check("_nothing._tcp.web.shop.svc.cluster.local", RecordKind::Srv, &["NoSuchName"]);
    check(
        "_http._tcp.db.shop.svc.cluster.local",
        RecordKind::Srv,
        &["50 8080 10-42-0-6.db.shop.svc.cluster.local", "50 8080 db-0.db.shop.svc.cluster.local"],
    );
    check("_http._tcp.empty.shop.svc.cluster.local", RecordKind::Srv, &[]);
}

#[test]
fn addresses_have_names() {
    check("80.0.43.10.in-addr.arpa", RecordKind::Ptr, &["web.shop.svc.cluster.local"]);
    check("5.0.42.10.in-addr.arpa", RecordKind::Ptr, &["db-0.db.shop.svc.cluster.local"]);
    check("9.9.43.10.in-addr.arpa", RecordKind::Ptr, &["NoSuchName"]);
    check("1.2.0.192.in-addr.arpa", RecordKind::Ptr, &["Forward"]);
}

#[test]
fn the_rest_of_the_domain() {
    check("10-42-0-9.shop.pod.cluster.local", RecordKind::A, &["10.42.0.9"]);
    check("x-42-0-9.shop.pod.cluster.local", RecordKind::A, &["NoSuchName"]);
    check("dns-version.cluster.local", RecordKind::Txt, &["1.1.0"]);
    for empty in ["cluster.local", "svc.cluster.local", "shop.svc.cluster.local"] {
        check(empty, RecordKind::A, &[]);
    }
    check("other.svc.cluster.local", RecordKind::A, &["NoSuchName"]);
    check("example.com", RecordKind::A, &["Forward"]);
    check("notcluster.local", RecordKind::A, &["Forward"]);
    check("example.com.shop.svc.cluster.local", RecordKind::A, &["NoSuchName"]);
    assert_eq!(zone().apex("x.cluster.local").as_deref(), Some("cluster.local"));
}

#[test]
fn changes_are_told_once_and_replacements_remove() {
    let cluster = cluster();
    let mut cluster = cluster.write();
    let name = |name: &str| ServiceName { namespace: "shop".to_owned(), name: name.to_owned() };
    let changes = cluster.take_changes("here");
    assert_eq!(changes.len(), 4);
    assert_eq!(changes[&name("web")].len(), 1);
    assert!(changes[&name("db")].is_empty() && changes[&name("away")].is_empty());
    assert!(cluster.take_changes("here").is_empty());

    let endpoints = json!([
        {"addresses": ["10.42.0.5"], "nodeName": "here", "conditions": {"ready": true}},
        {"addresses": ["10.42.1.5"], "nodeName": "there", "conditions": {"ready": true}},
    ]);
    let web = slice("web", "web-1", endpoints, 8080);
    cluster.apply_slice(&web);
    cluster.apply_slice(&web);
    let changes = cluster.take_changes("here");
    let port = changes[&name("web")].values().next().unwrap();
    assert_eq!((port.endpoints.len(), port.local_endpoints.len()), (2, 1));

    // The last endpoint is going away and still serves: better than nothing.
    let leaving = json!([{"addresses": ["10.42.0.5"],
        "conditions": {"ready": false, "serving": true, "terminating": true}}]);
    cluster.apply_slice(&slice("web", "web-1", leaving, 8080));
    let changes = cluster.take_changes("here");
    assert_eq!(changes[&name("web")].values().next().unwrap().endpoints.len(), 1);

    cluster.replace_slices(&[]);
    let changes = cluster.take_changes("here");
    assert!(changes[&name("web")].values().next().unwrap().endpoints.is_empty());
    assert_eq!(changes.keys().map(|name| name.name.as_str()).collect::<Vec<_>>(), ["db", "web"]);
    cluster.replace_services(&[]);
    assert_eq!(cluster.take_changes("here").len(), 4);
}
