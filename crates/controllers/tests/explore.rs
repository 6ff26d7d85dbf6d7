#![allow(missing_docs, clippy::unwrap_used)]
use dray_apiserver::{ApiServer, Config, Identity};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::*;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore]
async fn serve() {
    let path = std::path::PathBuf::from("/tmp/h2-serve");
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:16443").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = ApiServer::open(Config {
        data_dir: path.clone(),
        service_cidr: "10.43.0.0/16".into(),
        advertise_address: address,
        names: Vec::new(),
        node_connector: None,
    })
    .await
    .unwrap();
    server.write_kubeconfig(&path.join("kubeconfig"), &format!("https://{address}")).unwrap();
    let client = |name: &str| Client::new(server.service(Identity::component(name)), "default");
    let c = client("system:kube-controller-manager");
    let s = client("system:kube-scheduler");
    let config = dray_controllers::Config { authority: Some(server.authority().to_owned()) };
    tokio::spawn(async move { dray_controllers::run(c, config, std::future::pending()).await.unwrap() });
    tokio::spawn(async move { dray_scheduler::run(s, std::future::pending()).await.unwrap() });
    let client = client("system:node:one");
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "one", "labels": {"kubernetes.io/hostname": "one", "node-role.kubernetes.io/control-plane": ""}},
      "status": {"capacity": {"cpu": "8", "memory": "16Gi", "pods": "6110", "ephemeral-storage": "100Gi"}, "allocatable": {"cpu": "800", "memory": "1600Gi", "pods": "6110"},
       "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "one"}],
       "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian", "kernelVersion": "6", "containerRuntimeVersion": "dray://1", "architecture":"amd64","bootID":"x","kubeProxyVersion":"","machineID":"x","operatingSystem":"linux","systemUUID":"x"},
       "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ok"}]}})).unwrap();
    Api::<Node>::all(client.clone()).create(&PostParams::default(), &node).await.unwrap();
    let s2 = server.clone();
    tokio::spawn(async move { s2.serve(listener, std::future::pending()).await });
    if std::env::var_os("AGENT").is_some() {
        tokio::spawn({
            let client = client.clone();
            async move {
                let all = Api::<Pod>::all(client.clone());
                let mut events = all.watch(&WatchParams::default(), "0").await.unwrap().boxed();
                while let Some(event) = events.next().await {
                    let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event.unwrap() else {
                        continue;
                    };
                    if pod.spec.as_ref().unwrap().node_name.is_none() {
                        continue;
                    }
                    let pods = Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap());
                    if pod.metadata.deletion_timestamp.is_some() {
                        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
                        let _ = pods.delete(&pod.name_any(), &now).await;
                    } else if pod.status.as_ref().unwrap().phase.as_deref() == Some("Pending") {
                        let now =
                            k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now());
                        let statuses: Vec<_> = pod.spec.as_ref().unwrap().containers.iter().map(|c| json!({"name": c.name, "ready": true, "restartCount": 0, "image": c.image, "imageID": "sha256:1", "containerID": "dray://1", "started": true, "state": {"running": {"startedAt": now}}})).collect();
                        let status = json!({ "status": { "phase": "Running", "podIP": "10.42.0.7", "podIPs": [{"ip": "10.42.0.7"}], "hostIP": "10.0.0.1", "startTime": now, "containerStatuses": statuses, "conditions": [
                    { "type": "Ready", "status": "True", "lastTransitionTime": now }, {"type": "Initialized", "status": "True"}, {"type":"ContainersReady","status":"True"}, {"type":"PodScheduled","status":"True"}] } });
                        let _ = pods
                            .patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(status))
                            .await;
                    }
                }
            }
        });
    }
    println!("serving");
    tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
}
