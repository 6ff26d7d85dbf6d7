//! The API through `kube::Client` in the same process: what controllers see.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::time::Duration;

use dray_apiserver::{ApiServer, Config, User};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, Pod, Service},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;

struct Cluster {
    server: ApiServer,
    client: Client,
    directory: tempfile::TempDir,
}

fn config(directory: &std::path::Path) -> Config {
    Config {
        data_dir: directory.to_owned(),
        service_cidr: "10.43.0.0/16".into(),
        advertise_address: "192.0.2.1:6443".parse().unwrap(),
        names: Vec::new(),
        node_connector: None,
        extensions: Vec::new(),
    }
}

async fn cluster() -> Cluster {
    let directory = tempfile::tempdir().unwrap();
    let server = ApiServer::open(config(directory.path())).await.unwrap();
    let client = Client::new(server.service(User::component("test")), "default");
    Cluster { server, client, directory }
}

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "c", "image": "web:1" }] },
    }))
    .unwrap()
}

#[tokio::test]
async fn objects_are_created_read_changed_and_deleted() {
    let cluster = cluster().await;
    let pods: Api<Pod> = Api::default_namespaced(cluster.client.clone());
    let made = pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    assert!(made.metadata.uid.is_some() && made.metadata.resource_version.is_some());
    let spec = made.spec.unwrap();
    assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    assert_eq!(spec.service_account_name.as_deref(), Some("default"));
    assert_eq!(made.status.unwrap().phase.as_deref(), Some("Pending"));

    let again = pods.create(&PostParams::default(), &pod("a")).await.unwrap_err();
    let kube::Error::Api(status) = again else { panic!("{again}") };
    assert_eq!((status.code, status.message.as_str()), (409, "pods \"a\" already exists"));

    let patch = Patch::Merge(json!({ "metadata": { "labels": { "x": "y" } } }));
    let patched = pods.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(patched.metadata.labels.unwrap().len(), 2);

    let status = Patch::Merge(json!({ "status": { "phase": "Running", "podIP": "10.42.0.2" } }));
    let running = pods.patch_status("a", &PatchParams::default(), &status).await.unwrap();
    assert_eq!(running.status.unwrap().phase.as_deref(), Some("Running"));

    let list =
        pods.list(&ListParams::default().labels("app=web").fields("status.phase=Running")).await.unwrap();
    assert_eq!(list.items.len(), 1);
    assert!(pods.list(&ListParams::default().fields("status.phase=Failed")).await.unwrap().items.is_empty());

    // No node runs it: it goes at once.
    let gone = pods.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(gone.is_right());
    assert!(pods.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn a_stale_version_is_refused() {
    let cluster = cluster().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    let first: ConfigMap =
        serde_json::from_value(json!({ "metadata": { "name": "a" }, "data": { "k": "1" } })).unwrap();
    let mut one = maps.create(&PostParams::default(), &first).await.unwrap();
    let mut other = one.clone();
    one.data.as_mut().unwrap().insert("k".into(), "2".into());
    maps.replace("a", &PostParams::default(), &one).await.unwrap();
    other.data.as_mut().unwrap().insert("k".into(), "3".into());
    let kube::Error::Api(status) = maps.replace("a", &PostParams::default(), &other).await.unwrap_err()
    else {
        panic!("not an API error")
    };
    assert_eq!(status.code, 409);
    assert_eq!(
        status.message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to \
         the latest version and try again"
    );
}

#[tokio::test]
async fn watches_tell_what_happens() {
    let cluster = cluster().await;
    let pods: Api<Pod> = Api::default_namespaced(cluster.client.clone());
    let list = pods.list(&ListParams::default()).await.unwrap();
    let version = list.metadata.resource_version.unwrap();
    let mut events =
        pods.watch(&WatchParams::default().labels("app=web").timeout(20), &version).await.unwrap().boxed();
    pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    let patch = Patch::Merge(json!({ "metadata": { "labels": { "app": "other" } } }));
    pods.patch("a", &PatchParams::default(), &patch).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match events.try_next().await.unwrap().unwrap() {
            WatchEvent::Added(pod) => seen.push(("added", pod.metadata.labels.unwrap()["app"].clone())),
            WatchEvent::Deleted(pod) => seen.push(("deleted", pod.metadata.labels.unwrap()["app"].clone())),
            WatchEvent::Bookmark(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, [("added", "web".to_owned()), ("deleted", "web".to_owned())]);
}

#[tokio::test]
async fn streaming_lists_end_with_a_bookmark() {
    let cluster = cluster().await;
    let pods: Api<Pod> = Api::default_namespaced(cluster.client.clone());
    for name in ["a", "b"] {
        pods.create(&PostParams::default(), &pod(name)).await.unwrap();
    }
    let config = kube::runtime::watcher::Config::default().streaming_lists();
    let mut events = kube::runtime::watcher(pods.clone(), config).boxed();
    let mut names = Vec::new();
    loop {
        use kube::runtime::watcher::Event;
        match tokio::time::timeout(Duration::from_secs(10), events.try_next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
        {
            Event::InitApply(pod) => names.push(pod.metadata.name.unwrap()),
            Event::InitDone => break,
            _ => {}
        }
    }
    assert_eq!(names, ["a", "b"]);
}

#[tokio::test]
async fn a_restarted_server_has_everything_again() {
    let cluster = cluster().await;
    let services: Api<Service> = Api::default_namespaced(cluster.client.clone());
    let wanted: Service = serde_json::from_value(json!({
        "metadata": { "name": "web" },
        "spec": { "type": "NodePort", "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
    }))
    .unwrap();
    let made = services.create(&PostParams::default(), &wanted).await.unwrap();
    let address = made.spec.as_ref().unwrap().cluster_ip.clone();
    assert!(address.as_ref().unwrap().starts_with("10.43."));
    let Cluster { server, client, directory } = cluster;
    drop((services, client));
    server.close().await;
    let server = ApiServer::open(config(directory.path())).await.unwrap();
    let client = Client::new(server.service(User::component("test")), "default");
    let services: Api<Service> = Api::default_namespaced(client);
    let found = services.get("web").await.unwrap();
    assert_eq!(found.metadata.resource_version, made.metadata.resource_version);
    let kubernetes = services.get("kubernetes").await.unwrap().spec.unwrap();
    assert_eq!(kubernetes.cluster_ip.as_deref(), Some("10.43.0.1"));
    // What is taken stays taken.
    let mut second = wanted.clone();
    second.metadata.name = Some("other".into());
    second.spec.as_mut().unwrap().cluster_ip = address;
    let refused = services.create(&PostParams::default(), &second).await.unwrap_err();
    assert!(refused.to_string().contains("provided IP is already allocated"), "{refused}");
}

#[tokio::test]
async fn pods_end_in_their_time_and_finalizers_hold() {
    let cluster = cluster().await;
    let pods: Api<Pod> = Api::default_namespaced(cluster.client.clone());
    let mut bound = pod("a");
    bound.spec.as_mut().unwrap().node_name = Some("node".into());
    bound.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    pods.create(&PostParams::default(), &bound).await.unwrap();
    let left = pods.delete("a", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(left.metadata.deletion_grace_period_seconds, Some(30));
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    assert!(pods.delete("a", &now).await.unwrap().is_left());
    let patch = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    pods.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert!(pods.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn namespaces_go_in_two_steps() {
    let cluster = cluster().await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let wanted: Namespace = serde_json::from_value(json!({ "metadata": { "name": "n" } })).unwrap();
    namespaces.create(&PostParams::default(), &wanted).await.unwrap();
    let refused = namespaces.delete("default", &DeleteParams::default()).await.unwrap_err();
    assert!(refused.to_string().contains("this namespace may not be deleted"));
    let left = namespaces.delete("n", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(left.status.unwrap().phase.as_deref(), Some("Terminating"));
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "n");
    let map: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "a" } })).unwrap();
    let refused = maps.create(&PostParams::default(), &map).await.unwrap_err();
    assert!(refused.to_string().contains("because it is being terminated"), "{refused}");
    let request = http::Request::put("/api/v1/namespaces/n/finalize")
        .body(serde_json::to_vec(&json!({ "metadata": { "name": "n" }, "spec": {} })).unwrap())
        .unwrap();
    cluster.client.request_text(request).await.unwrap();
    assert!(namespaces.get_opt("n").await.unwrap().is_none());
}

#[tokio::test]
async fn deployments_scale_and_are_checked() {
    let cluster = cluster().await;
    let deployments: Api<Deployment> = Api::default_namespaced(cluster.client.clone());
    let wanted: Deployment = serde_json::from_value(json!({
        "metadata": { "name": "web" },
        "spec": { "selector": { "matchLabels": { "app": "web" } }, "template": {
            "metadata": { "labels": { "app": "web" } },
            "spec": { "containers": [{ "name": "c", "image": "web" }] } } },
    }))
    .unwrap();
    let made = deployments.create(&PostParams::default(), &wanted).await.unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    let patch = Patch::Merge(json!({ "spec": { "replicas": 3 } }));
    let scale = deployments.patch_scale("web", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(3));
    let now = deployments.get("web").await.unwrap();
    assert_eq!(now.metadata.generation, Some(2));
    let status = Patch::Merge(
        json!({ "status": { "replicas": 3, "observedGeneration": 2 }, "spec": { "replicas": 9 } }),
    );
    let now = deployments.patch_status("web", &PatchParams::default(), &status).await.unwrap();
    assert_eq!((now.metadata.generation, now.spec.unwrap().replicas), (Some(2), Some(3)));
    let mut bad = wanted;
    bad.metadata.name = Some("bad".into());
    bad.spec.as_mut().unwrap().selector.match_labels = Some([("x".to_owned(), "y".to_owned())].into());
    let kube::Error::Api(status) = deployments.create(&PostParams::default(), &bad).await.unwrap_err() else {
        panic!("not an API error")
    };
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    assert!(
        status
            .message
            .starts_with("Deployment.apps \"bad\" is invalid: spec.template.metadata.labels: Invalid value")
    );
}

#[tokio::test]
async fn a_change_is_done_to_its_end() {
    let cluster = cluster().await;
    let services: Api<Service> = Api::default_namespaced(cluster.client.clone());
    let wanted = |name: &str| json!({ "metadata": { "name": name }, "spec": { "clusterIP": "10.43.0.77", "ports": [{ "port": 80 }] } });
    let request = http::Request::post("/api/v1/namespaces/default/services")
        .body(http_body_util::Full::new(bytes::Bytes::from(wanted("a").to_string())))
        .unwrap();
    let mut service = cluster.server.service(User::component("test"));
    // Whoever asked goes away while the change is under way.
    let gone = tower_service::Service::call(&mut service, request).now_or_never();
    assert!(gone.is_none());
    let parameters = WatchParams::default().fields("metadata.name=a").timeout(20);
    let mut events = services.watch(&parameters, "0").await.unwrap().boxed();
    assert!(matches!(events.try_next().await.unwrap().unwrap(), WatchEvent::Added(_)));
    let second: Service = serde_json::from_value(wanted("b")).unwrap();
    let refused = services.create(&PostParams::default(), &second).await.unwrap_err();
    assert!(refused.to_string().contains("provided IP is already allocated"), "{refused}");
}

#[tokio::test]
async fn the_cluster_keeps_its_own_service() {
    let cluster = cluster().await;
    let services: Api<Service> = Api::default_namespaced(cluster.client.clone());
    let parameters = WatchParams::default().fields("metadata.name=kubernetes").timeout(20);
    let mut events = services.watch(&parameters, "0").await.unwrap().boxed();
    let mut uids = Vec::new();
    while uids.len() < 2 {
        if let WatchEvent::Added(service) = events.try_next().await.unwrap().unwrap() {
            uids.push(service.metadata.uid.unwrap());
            assert_eq!(service.spec.unwrap().cluster_ip.as_deref(), Some("10.43.0.1"));
            if uids.len() == 1 {
                services.delete("kubernetes", &DeleteParams::default()).await.unwrap();
            }
        }
    }
    assert_ne!(uids[0], uids[1]);
}

#[tokio::test]
async fn fields_set_twice_are_named() {
    let cluster = cluster().await;
    let body = br#"{"metadata":{"name":"a"},"data":{"k":"1","k":"2"}}"#.to_vec();
    let request = http::Request::post("/api/v1/namespaces/default/configmaps?fieldValidation=Strict")
        .body(body)
        .unwrap();
    let refused = cluster.client.request_text(request).await.unwrap_err();
    assert!(refused.to_string().contains("strict decoding error: duplicate field \"data.k\""), "{refused}");
}
