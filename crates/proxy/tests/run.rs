//! The whole proxy against an API that answers watches as the real one does.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../network/tests/support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use bytes::Bytes;
use dray_network::firewall::Firewall;
use dray_network::names::Resolvers;
use dray_proxy::{ProxyConfig, run};
use dray_testkit::eventually;
use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use kube::client::Body;
use serde_json::{Value, json};
use support::{Host, ask, bridge, net, serve, v4};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(10);

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "shop", "name": "web", "resourceVersion": "5"},
        "spec": {"clusterIP": "10.43.0.80", "ports": [{"name": "", "port": 80, "protocol": "TCP"}]},
    })
}

fn slice(address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "shop", "name": "web-1", "resourceVersion": "6",
            "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    })
}

fn line(kind: &str, object: Value) -> Bytes {
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

/// The end of the initial events.
fn bookmark(api_version: &str, kind: &str) -> Bytes {
    let annotations = json!({"k8s.io/initial-events-end": "true"});
    let metadata = json!({"resourceVersion": "7", "annotations": annotations});
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
    if kind == "EndpointSlice" {
        object["addressType"] = json!("IPv4");
        object["endpoints"] = json!([]);
    }
    line("BOOKMARK", object)
}

/// A client of an API with one Service, whose slices are what the test sends.
fn client(slices: mpsc::Receiver<Bytes>) -> kube::Client {
    let slices = std::sync::Mutex::new(Some(slices));
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let uri = request.uri().to_string();
        assert!(uri.contains("sendInitialEvents=true"), "{uri}");
        let waiting = || stream::pending::<Bytes>().boxed();
        let lines = if uri.contains("/endpointslices") {
            let slices = slices.lock().unwrap().take();
            let first = stream::iter([bookmark("discovery.k8s.io/v1", "EndpointSlice")]);
            let rest = slices.map_or_else(waiting, |slices| {
                stream::unfold(slices, async |mut slices| Some((slices.recv().await?, slices))).boxed()
            });
            first.chain(rest).boxed()
        } else {
            let first = [line("ADDED", service()), bookmark("v1", "Service")];
            stream::iter(first).chain(waiting()).boxed()
        };
        let body = StreamBody::new(lines.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))));
        async move { Ok::<_, Infallible>(http::Response::new(body)) }
    });
    kube::Client::new(service, "default")
}

/// The address that the cluster's name server gives for the Service, if it does.
fn resolve() -> Option<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["web", "shop", "svc", "cluster", "local"] {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    socket.send_to(&query, (v4("10.43.0.10"), 53)).ok()?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).ok()?;
    // The address ends the one record there is.
    (answer[7] == 1).then(|| answer[length - 4..length].to_vec())
}

#[test]
fn services_and_names_follow_the_watch() {
    let host = Host::new();
    host.add_bridge("pods", "10.42.0.1/24");
    let one = host.add_container("one", "pods", "10.42.0.2/24");
    let two = host.add_container("two", "pods", "10.42.0.3/24");
    serve(Some(&one), 8080);
    let firewall = Firewall::open("dray-test").unwrap();
    firewall.add_bridge(&bridge("pods", "10.42.0.0/24")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (sender, receiver) = mpsc::channel(4);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let config = ProxyConfig {
        table: "dray-services".to_owned(),
        node_name: "here".to_owned(),
        service_network: net("10.43.0.0/16"),
        pod_network: net("10.42.0.0/24"),
        pod_bridge: "pods".to_owned(),
        name_address: v4("10.43.0.10"),
        domain: "cluster.local".to_owned(),
        resolvers: Resolvers::None,
        fallback: None,
    };
    let running =
        runtime.spawn(async move { run(client(receiver), config, async { drop(stopped.await) }).await });
    let address = eventually("the name", PATIENCE, resolve);
    assert_eq!(address, [10, 43, 0, 80]);
    let cluster = (v4("10.43.0.80"), 80);
    assert!(ask(Some(&two), cluster).is_err());
    sender.blocking_send(line("ADDED", slice("10.42.0.2"))).unwrap();
    let seen = eventually("the endpoint", PATIENCE, || ask(Some(&two), cluster).ok());
    assert_eq!(seen, "10.42.0.3");
    sender.blocking_send(line("DELETED", slice("10.42.0.2"))).unwrap();
    eventually("no endpoint", PATIENCE, || ask(Some(&two), cluster).err());
    stop.send(()).unwrap();
    runtime.block_on(running).unwrap().unwrap();
}
