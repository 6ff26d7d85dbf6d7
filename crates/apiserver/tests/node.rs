//! The way through to a node agent, with the real kubectl: logs and exec.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{io, path::PathBuf, process::Output, sync::Arc};

use bytes::Bytes;
use dray_apiserver::{ApiServer, Config, NodeConnector, NodeStream, User};
use futures_util::{SinkExt as _, future::BoxFuture};
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::PostParams};
use serde_json::json;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

/// An agent that tells what it was asked, and speaks the channels of exec.
struct Agent;

impl NodeConnector for Agent {
    fn connect<'a>(&'a self, node: &'a str) -> BoxFuture<'a, io::Result<Box<dyn NodeStream>>> {
        Box::pin(async move {
            if node != "node-1" {
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "no such node"));
            }
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(theirs), service_fn(answer))
                    .with_upgrades(),
            );
            Ok(Box::new(ours) as Box<dyn NodeStream>)
        })
    }
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, io::Error> {
    let asked = request.uri().to_string();
    let Some(key) = request.headers().get("sec-websocket-key").cloned() else {
        return Ok(Response::new(Full::from(format!("asked {asked}\n"))));
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let stream = TokioIo::new(upgrade.await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        let frame = |channel: u8, text: &str| Message::binary([&[channel], text.as_bytes()].concat());
        socket.send(frame(1, &format!("ran {asked}\n"))).await.unwrap();
        socket.send(frame(3, &json!({ "metadata": {}, "status": "Success" }).to_string())).await.unwrap();
        let end = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        socket.close(Some(end)).await.unwrap();
    });
    Ok(Response::builder()
        .status(101)
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "Upgrade")
        .header("sec-websocket-accept", derive_accept_key(key.as_bytes()))
        .header("sec-websocket-protocol", "v5.channel.k8s.io")
        .body(Full::default())
        .unwrap())
}

async fn kubectl(directory: &std::path::Path, arguments: &[&str]) -> Output {
    let program = std::env::var_os("KUBECTL").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from);
    let mut command = std::process::Command::new(program);
    command.args(arguments).env("KUBECONFIG", directory.join("kubeconfig")).env("HOME", directory);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_and_exec_reach_the_agent() {
    let directory = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = ApiServer::open(Config {
        data_dir: directory.path().to_owned(),
        service_cidr: "10.43.0.0/16".into(),
        advertise_address: address,
        names: Vec::new(),
        node_connector: Some(Arc::new(Agent)),
        extensions: Vec::new(),
    })
    .await
    .unwrap();
    server.write_kubeconfig(&directory.path().join("kubeconfig"), &format!("https://{address}")).unwrap();
    let pods: Api<Pod> =
        Api::default_namespaced(Client::new(server.service(User::component("test")), "default"));
    for (name, node) in [("web", "node-1"), ("lost", "node-2")] {
        let pod = json!({ "metadata": { "name": name }, "spec": { "nodeName": node,
            "containers": [{ "name": "c", "image": "i" }] } });
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }
    tokio::spawn(async move { server.serve(listener, std::future::pending()).await });

    let logs = kubectl(directory.path(), &["logs", "web", "--tail=5"]).await;
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "asked /containerLogs/default/web/c?tailLines=5\n");

    let exec = kubectl(directory.path(), &["exec", "web", "--", "echo", "a b"]).await;
    assert!(exec.status.success(), "{}", String::from_utf8_lossy(&exec.stderr));
    assert_eq!(
        String::from_utf8_lossy(&exec.stdout),
        "ran /exec/default/web/c?output=1&error=1&command=echo&command=a%20b\n"
    );

    let lost = kubectl(directory.path(), &["logs", "lost"]).await;
    assert!(String::from_utf8_lossy(&lost.stderr).contains("error dialing backend: no such node"));
    let wrong = kubectl(directory.path(), &["logs", "web", "-c", "x"]).await;
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("container x is not valid for pod web"));
}
