//! How long it takes; run with `cargo test --release -p dray-apiserver --bench measure -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::Bytes;
use dray_apiserver::{ApiServer, Config, User};
use http::Request;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tower_service::Service as _;

const COUNT: usize = 5000;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// The value of a field of a kubeconfig, decoded.
fn field(kubeconfig: &str, name: &str) -> Vec<u8> {
    let line = kubeconfig.lines().find(|line| line.trim_start().trim_start_matches("- ").starts_with(name));
    let text = line.unwrap().split_once(": ").unwrap().1.trim().trim_matches('"');
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn list_of_pods() {
    let directory = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = ApiServer::open(Config {
        data_dir: directory.path().to_owned(),
        service_cidr: "10.43.0.0/16".into(),
        advertise_address: address,
        names: Vec::new(),
        node_connector: None,
        extensions: Vec::new(),
    })
    .await
    .unwrap();
    let mut service = server.service(User::component("test"));
    let environment: Vec<_> = (0..18)
        .map(|number| json!({ "name": format!("VARIABLE_{number}"), "value": "some value" }))
        .collect();
    let pod = json!({
        "metadata": { "generateName": "pod-", "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "c", "image": "registry.example.com/web:1", "env": environment }] },
    })
    .to_string();
    let made = (0..COUNT).map(|_| {
        let request =
            Request::post("/api/v1/namespaces/default/pods").body(Full::new(Bytes::from(pod.clone())));
        service.call(request.unwrap())
    });
    for answer in futures_util::future::join_all(made).await {
        assert_eq!(answer.unwrap().status(), 201);
    }
    let path = "/api/v1/pods";
    let mut times = Vec::new();
    let mut size = 0;
    for _ in 0..40 {
        let start = Instant::now();
        let mut body =
            service.call(Request::get(path).body(Empty::<Bytes>::new()).unwrap()).await.unwrap().into_body();
        size = 0;
        while let Some(frame) = body.frame().await {
            size += frame.unwrap().into_data().unwrap().len();
        }
        times.push(start.elapsed());
    }
    println!("{COUNT} pods, {size} bytes, in process: median {:?}", median(times));

    let url = format!("https://{address}");
    let kubeconfig = server.kubeconfig(&url);
    let serving = server.clone();
    tokio::spawn(async move { serving.serve(listener, std::future::pending()).await });
    let pem = |name: &str| x509_parser::pem::parse_x509_pem(&field(&kubeconfig, name)).unwrap().1.contents;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pem("certificate-authority-data").into()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(pem("client-key-data")).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![pem("client-certificate-data").into()], key)
        .unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let stream = connector.connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut times = Vec::new();
    let mut single = Vec::new();
    for _ in 0..40 {
        sender.ready().await.unwrap();
        let start = Instant::now();
        let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new()).unwrap();
        let mut body = sender.send_request(request).await.unwrap().into_body();
        let mut got = 0;
        while let Some(frame) = body.frame().await {
            got += frame.unwrap().into_data().unwrap().len();
        }
        times.push(start.elapsed());
        assert_eq!(got, size);
    }
    for _ in 0..200 {
        sender.ready().await.unwrap();
        let start = Instant::now();
        let request = Request::get("/api/v1/namespaces/default").header("host", "localhost");
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        answer.into_body().collect().await.unwrap();
        single.push(start.elapsed());
    }
    println!("over TLS: list median {:?}, get median {:?}", median(times), median(single));
}
