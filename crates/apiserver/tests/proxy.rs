//! The way through to pods, Services and nodes, with servers of the test at the other end and the real kubectl at this.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "support/peer.rs"]
mod peer;

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Command,
    sync::Arc,
};

use bytes::Bytes;
use dray_apiserver::{ApiServer, Config, NodeConnector, NodeStream, User};
use futures_util::{SinkExt as _, StreamExt as _, future::BoxFuture};
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};
use tower_service::Service as _;

/// An address of a pod's: users are not led to the loopback address.
const POD: &str = "10.88.0.1";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";

/// Runs a test where the pod's address is this machine's.
fn run(test: impl Future<Output = ()>) {
    dray_testkit::isolate();
    let status = Command::new("ip").args(["address", "add", &format!("{POD}/32"), "dev", "lo"]).status();
    assert!(status.unwrap().success());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

/// Node agents that say what they are asked.
struct Agents;

impl NodeConnector for Agents {
    fn connect<'a>(&'a self, node: &'a str) -> BoxFuture<'a, io::Result<Box<dyn NodeStream>>> {
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let node = node.to_owned();
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let said = format!("{node} {}", request.uri());
                async move { Ok::<_, io::Error>(Response::new(peer::full(said))) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service),
            );
            Ok(Box::new(ours) as Box<dyn NodeStream>)
        })
    }
}

struct Cluster {
    server: ApiServer,
    directory: tempfile::TempDir,
    address: SocketAddr,
}

async fn cluster() -> Cluster {
    let directory = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = ApiServer::open(Config {
        data_dir: directory.path().to_owned(),
        service_cidr: "10.43.0.0/16".into(),
        advertise_address: address,
        names: Vec::new(),
        node_connector: Some(Arc::new(Agents)),
        extensions: Vec::new(),
    })
    .await
    .unwrap();
    server.write_kubeconfig(&directory.path().join("kubeconfig"), &format!("https://{address}")).unwrap();
    let listening = server.clone();
    tokio::spawn(async move { listening.serve(listener, std::future::pending()).await });
    Cluster { server, directory, address }
}

impl Cluster {
    async fn send(&self, user: User, request: Request<peer::Body>) -> Response<Bytes> {
        let answer = self.server.service(user).call(request).await.unwrap();
        let (head, body) = answer.into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }

    async fn ask(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Response<Bytes> {
        let request = Request::builder().method(method).uri(path).header(header::HOST, "api:6443");
        self.send(User::component("test"), request.body(peer::full(body)).unwrap()).await
    }

    async fn make(&self, path: &str, object: &Value) {
        let made = self.ask(Method::POST, path, object.to_string()).await;
        assert_eq!(made.status(), 201, "{:?}", made.body());
    }

    /// A pod that runs at an address, as its node says.
    async fn pod(&self, name: &str, address: &str, port: u16) {
        let containers = json!([{ "name": "c", "image": "i", "ports": [{ "containerPort": port }] }]);
        self.make(PODS, &json!({ "metadata": { "name": name }, "spec": { "containers": containers } })).await;
        let path = format!("{PODS}/{name}/status");
        let request = Request::patch(&path).header(header::CONTENT_TYPE, "application/merge-patch+json");
        let status = json!({ "status": { "podIP": address, "podIPs": [{ "ip": address }] } }).to_string();
        let changed = self.send(User::component("test"), request.body(peer::full(status)).unwrap()).await;
        assert_eq!(changed.status(), 200, "{:?}", changed.body());
    }

    /// A Service whose port 80, "web", is a pod's.
    async fn service(&self, name: &str, pod: &str, address: &str, port: u16) {
        let ports = json!([{ "name": "web", "port": 80 }, { "name": "other", "port": 81 }]);
        self.make(SERVICES, &json!({ "metadata": { "name": name }, "spec": { "ports": ports } })).await;
        let labels = json!({ "kubernetes.io/service-name": name });
        let target = json!({ "kind": "Pod", "namespace": "default", "name": pod });
        let slice = json!({
            "metadata": { "name": name, "labels": labels }, "addressType": "IPv4",
            "endpoints": [{ "addresses": [address], "targetRef": target }],
            "ports": [{ "name": "web", "port": port }],
        });
        self.make("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await;
    }

    async fn kubectl(&self, arguments: &[&str]) -> (String, String) {
        let program = std::env::var_os("KUBECTL").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from);
        let mut command = tokio::process::Command::new(program);
        let directory = self.directory.path();
        command.args(arguments).env("KUBECONFIG", directory.join("kubeconfig")).env("HOME", directory);
        let output = command.output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    }
}

/// Says what it was asked.
async fn echo(request: Request<Incoming>) -> Response<peer::Body> {
    let (head, body) = request.into_parts();
    let headers: Value =
        head.headers.iter().map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap()))).collect();
    let body = body.collect().await.unwrap().to_bytes();
    let said = json!({
        "method": head.method.as_str(), "target": head.uri.to_string(), "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .header("access-control-allow-origin", "*")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("x-own", "2")
        .body(peer::full(said.to_string()))
        .unwrap()
}

fn pod_address() -> IpAddr {
    POD.parse().unwrap()
}

#[test]
fn every_verb_goes_through_with_all_that_it_says_but_who_asks() {
    run(async {
        let cluster = cluster().await;
        let port = peer::serve_at(pod_address(), None, echo).await.port();
        cluster.pod("web", POD, port).await;
        cluster.service("web", "web", POD, port).await;
        let places = [format!("{PODS}/web"), format!("{PODS}/web:{port}"), format!("{SERVICES}/web:web")];
        for place in places.iter().chain([&format!("{SERVICES}/http:web:80")]) {
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"] {
                let path = format!("{place}/proxy/a%20b/?c=d%2Fe&watch=true");
                let request = Request::builder()
                    .method(method)
                    .uri(&path)
                    .header(header::HOST, "api:6443")
                    .header(header::AUTHORIZATION, "Bearer secret")
                    .header("x-remote-user", "admin")
                    .header("x-own", "1")
                    .body(peer::full(if method == "GET" { "" } else { "sent" }))
                    .unwrap();
                let answer = cluster.send(User::component("test"), request).await;
                assert_eq!(answer.status(), 200, "{method} {path}: {:?}", answer.body());
                assert_eq!(answer.headers()["x-own"], "2");
                for name in ["x-hop", "access-control-allow-origin"] {
                    assert!(!answer.headers().contains_key(name), "{name}");
                }
                if method == "HEAD" {
                    assert!(answer.body().is_empty());
                    continue;
                }
                let said: Value = serde_json::from_slice(answer.body()).unwrap();
                assert_eq!(
                    (&said["method"], &said["target"]),
                    (&json!(method), &json!("/a%20b/?c=d%2Fe&watch=true"))
                );
                assert_eq!(said["body"], if method == "GET" { "" } else { "sent" });
                let headers = &said["headers"];
                assert_eq!(headers["x-forwarded-uri"], format!("{place}/proxy/a%20b/"));
                assert_eq!((&headers["x-own"], &headers["host"]), (&json!("1"), &json!("api:6443")));
                assert!(
                    headers["authorization"].is_null() && headers["x-remote-user"].is_null(),
                    "{headers}"
                );
            }
        }
        let answer = cluster.ask(Method::GET, &format!("{PODS}/web/proxy?a=b"), "").await;
        assert_eq!(answer.status(), 301);
        assert_eq!(answer.headers()[header::LOCATION], format!("{PODS}/web/proxy/?a=b"));
        let answer = cluster.ask(Method::POST, &format!("{PODS}/web/proxy"), "").await;
        assert_eq!(serde_json::from_slice::<Value>(answer.body()).unwrap()["target"], "/");
        let path = format!("{PODS}/web/proxy/from/kubectl");
        let (said, failed) = cluster.kubectl(&["get", "--raw", &path]).await;
        let said: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}{failed}"));
        assert_eq!(
            (&said["target"], &said["headers"]["x-forwarded-for"]),
            (&json!("/from/kubectl"), &json!("127.0.0.1"))
        );
        assert_eq!(said["headers"]["host"], cluster.address.to_string());
        let nothing: Vec<&String> =
            said["headers"].as_object().unwrap().keys().filter(|name| name.contains("auth")).collect();
        assert_eq!(nothing, Vec::<&String>::new());
    });
}

/// Pages, and places elsewhere.
async fn pages(request: Request<Incoming>) -> Response<peer::Body> {
    let host = request.headers()[header::HOST].to_str().unwrap().to_owned();
    let answer = Response::builder();
    match request.uri().path() {
        "/moved" => answer.status(302).header(header::LOCATION, format!("http://{host}/there?a=/b")),
        "/elsewhere" => answer.status(302).header(header::LOCATION, "http://example.com/there"),
        "/text" => answer.header(header::CONTENT_TYPE, "text/plain"),
        _ => answer.header(header::CONTENT_TYPE, "text/html; charset=utf-8"),
    }
    .body(peer::full("<a href=\"/rewriteme\">test</a>"))
    .unwrap()
}

#[test]
fn pages_lead_back_through_the_server_and_tls_is_spoken_where_it_is_asked_for() {
    run(async {
        let cluster = cluster().await;
        let tls = peer::tls(&["somebody"], None);
        let port = peer::serve_at(pod_address(), Some(&tls), pages).await.port();
        cluster.pod("web", POD, port).await;
        let place = format!("{PODS}/https:web:{port}/proxy");
        let page = cluster.ask(Method::GET, &format!("{place}/"), "").await;
        assert_eq!(page.body(), format!("<a href=\"{place}/rewriteme\">test</a>").as_bytes());
        assert_eq!(
            cluster.ask(Method::GET, &format!("{place}/text"), "").await.body(),
            "<a href=\"/rewriteme\">test</a>"
        );
        let (said, _) = cluster.kubectl(&["get", "--raw", &format!("{place}/")]).await;
        assert_eq!(said, format!("<a href=\"{place}/rewriteme\">test</a>"));
        let location = async |path: &str| {
            let answer = cluster.ask(Method::GET, &format!("{place}{path}"), "").await;
            assert_eq!(answer.status(), 302);
            answer.headers()[header::LOCATION].to_str().unwrap().to_owned()
        };
        assert_eq!(location("/moved").await, format!("http://api:6443{place}/there?a=/b"));
        assert_eq!(location("/elsewhere").await, "http://example.com/there");
        // Without TLS it is not understood.
        let answer = cluster.ask(Method::GET, &format!("{PODS}/web:{port}/proxy/"), "").await;
        assert_eq!(answer.status(), 503);
    });
}

#[test]
fn nobody_is_led_where_nobody_is_or_may_be() {
    run(async {
        let cluster = cluster().await;
        let open = peer::serve_at("127.0.0.1".parse().unwrap(), None, echo).await.port();
        let closed =
            tokio::net::TcpListener::bind((pod_address(), 0)).await.unwrap().local_addr().unwrap().port();
        cluster.pod("web", POD, closed).await;
        cluster.pod("host", "127.0.0.1", open).await;
        cluster.pod("other", "10.88.0.2", open).await;
        cluster.service("empty", "gone", POD, open).await;
        cluster.service("stolen", "other", POD, open).await;
        let node = json!({ "metadata": { "name": "n1" }, "status": { "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }] } });
        cluster.make("/api/v1/nodes", &node).await;
        let refused =
            format!("error trying to reach service: dial tcp {POD}:{closed}: connect: connection refused");
        let nodes = "/api/v1/nodes";
        for (place, code, message) in [
            (format!("{PODS}/host"), 400, "address not allowed"),
            (format!("{PODS}/none"), 404, "pods \"none\" not found"),
            (format!("{PODS}/ftp:web:80"), 400, "invalid pod request \"ftp:web:80\""),
            (format!("{PODS}/web"), 503, &refused),
            (format!("{SERVICES}/none:web"), 404, "services \"none\" not found"),
            (format!("{SERVICES}/empty:web"), 503, "no endpoints available for service \"empty\""),
            (format!("{SERVICES}/empty:82"), 503, "no service port 82 found for service \"empty\""),
            (format!("{SERVICES}/empty:other"), 503, "no endpoints available for service \"empty\""),
            // An address that is not that of its pod is nobody's to lead to.
            (format!("{SERVICES}/stolen:web"), 503, "no endpoints available for service \"stolen\""),
            (format!("{nodes}/n1:{open}"), 400, "address not allowed"),
            (format!("{nodes}/n2"), 404, "nodes \"n2\" not found"),
        ] {
            let answer = cluster.ask(Method::GET, &format!("{place}/proxy/"), "").await;
            let said: Value = serde_json::from_slice(answer.body()).unwrap();
            assert_eq!((answer.status().as_u16(), &said["message"]), (code, &json!(message)), "{place}");
        }
        let answer = cluster.ask(Method::GET, &format!("{nodes}/n1/proxy/healthz?a=b"), "").await;
        assert_eq!(answer.body(), "n1 /healthz?a=b");
        let somebody = User::authenticated("somebody", []);
        for (method, verb) in
            [("GET", "get"), ("POST", "create"), ("PUT", "update"), ("PATCH", "patch"), ("DELETE", "delete")]
        {
            let request = Request::builder().method(method).uri(format!("{PODS}/web:80/proxy/a"));
            let answer = cluster.send(somebody.clone(), request.body(peer::full("")).unwrap()).await;
            let said: Value = serde_json::from_slice(answer.body()).unwrap();
            let expected = format!(
                "pods \"web:80\" is forbidden: User \"somebody\" cannot {verb} resource \"pods/proxy\" in API group \"\" in the namespace \"default\""
            );
            assert_eq!((answer.status().as_u16(), &said["message"]), (403, &json!(expected)));
        }
    });
}

/// Echoes: each part of the body when it comes, or each message of a WebSocket.
async fn parrot(mut request: Request<Incoming>) -> Response<peer::Body> {
    if let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned() {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let stream = TokioIo::new(upgrade.await.unwrap());
            let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
            while let Some(Ok(message)) = socket.next().await {
                let _ = socket.send(message).await;
            }
        });
        return Response::builder()
            .status(101)
            .header(header::UPGRADE, "websocket")
            .header(header::CONNECTION, "Upgrade")
            .header(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))
            .body(peer::full(""))
            .unwrap();
    }
    let parts = futures_util::stream::unfold(request.into_body(), |mut body| async {
        let part = body.frame().await?.unwrap().into_data().unwrap();
        Some((Ok(Frame::data(part)), body))
    });
    Response::new(StreamBody::new(parts).boxed_unsync())
}

#[test]
fn bodies_and_connections_go_through_as_they_come() {
    run(async {
        let cluster = cluster().await;
        let port = peer::serve_at(pod_address(), None, parrot).await.port();
        cluster.pod("web", POD, port).await;
        // More than any object may have, and each part is back before the next is sent.
        let part = Bytes::from(vec![b'x'; 256 * 1024]);
        let (sender, receiver) = mpsc::channel::<Bytes>(1);
        let parts = futures_util::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|part| (Ok(Frame::data(part)), receiver))
        });
        let request = Request::post(format!("{PODS}/web/proxy/"));
        let request = request.body(StreamBody::<_>::new(parts).boxed_unsync() as peer::Body).unwrap();
        let mut answer = None;
        let mut asking = Some(tokio::spawn(cluster.server.service(User::component("test")).call(request)));
        for _ in 0..20 {
            sender.send(part.clone()).await.unwrap();
            if let Some(asking) = asking.take() {
                answer = Some(asking.await.unwrap().unwrap().into_body());
            }
            let mut back = 0;
            while back < part.len() {
                let frame = answer.as_mut().unwrap().frame().await.unwrap();
                back += frame.unwrap().into_data().unwrap().len();
            }
            assert_eq!(back, part.len());
        }
        drop(sender);
        assert!(answer.unwrap().frame().await.is_none());

        let address = cluster.address;
        let stream = connect(&cluster, address).await;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let request = Request::get(format!("{PODS}/web/proxy/socket"))
            .header(header::HOST, address.to_string())
            .header(header::AUTHORIZATION, format!("Bearer {}", token(&cluster).await))
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")
            .body(Full::new(Bytes::new()))
            .unwrap();
        let mut answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 101);
        assert_eq!(answer.headers()[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let stream = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
        for text in ["one", "two"] {
            socket.send(Message::text(text)).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
        }
    });
}

/// A connection of a client without a certificate.
async fn connect(cluster: &Cluster, address: SocketAddr) -> impl NodeStream + 'static {
    use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(cluster.server.authority().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// The token of a service account that may do everything.
async fn token(cluster: &Cluster) -> String {
    let binding = json!({
        "metadata": { "name": "all" }, "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "kind": "ServiceAccount", "namespace": "default", "name": "default" }],
    });
    cluster.make("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let answer = cluster
        .ask(
            Method::POST,
            path,
            "{\"kind\":\"TokenRequest\",\"apiVersion\":\"authentication.k8s.io/v1\",\"spec\":{}}",
        )
        .await;
    let answer: Value = serde_json::from_slice(answer.body()).unwrap();
    answer["status"]["token"].as_str().unwrap().to_owned()
}
