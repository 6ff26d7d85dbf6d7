//! Endpoints of Services against the real API server, in the same process.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use support::{Cluster, make_ready, template, when, when_all};

async fn pod(cluster: &Cluster, name: &str) {
    let mut pod = template("web", "web:1");
    pod["metadata"]["name"] = json!(name);
    pod["spec"]["nodeName"] = json!("one");
    cluster.create::<Pod>(pod).await;
}

async fn service(cluster: &Cluster, change: Value) -> Service {
    let mut service = json!({
        "metadata": { "name": "web", "labels": { "team": "a" } },
        "spec": { "selector": { "app": "web" }, "ports": [{ "name": "http", "port": 80, "targetPort": "http" }] },
    });
    support::merge(&mut service, change);
    cluster.create(service).await
}

/// The slices of the Service, when they are as they should be.
async fn slices(
    cluster: &Cluster,
    what: &str,
    check: impl Fn(&[EndpointSlice]) -> bool,
) -> Vec<EndpointSlice> {
    let mine = |slice: &EndpointSlice| {
        slice.labels().get("kubernetes.io/service-name").map(String::as_str) == Some("web")
    };
    let all = when_all(&cluster.api::<EndpointSlice>(), what, |all| {
        let mine: Vec<_> = all.iter().filter(|slice| mine(slice)).cloned().collect();
        check(&mine)
    })
    .await;
    all.into_iter().filter(mine).collect()
}

/// Address, readiness and whether it is going away, of each endpoint.
fn shown(slices: &[EndpointSlice]) -> Vec<(String, bool, bool)> {
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let mut shown: Vec<_> = endpoints
        .map(|endpoint| {
            let conditions = endpoint.conditions.clone().unwrap();
            (endpoint.addresses[0].clone(), conditions.ready.unwrap(), conditions.terminating.unwrap())
        })
        .collect();
    shown.sort();
    shown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_follow_their_pods() {
    let cluster = support::cluster().await;
    let service = service(&cluster, json!({})).await;
    let empty = slices(&cluster, "an empty slice", |slices| slices.len() == 1).await;
    assert!(shown(&empty).is_empty());
    pod(&cluster, "a").await;
    pod(&cluster, "b").await;
    let pods = cluster.pods();
    make_ready(&pods, "a", "10.42.0.2", true).await.unwrap();
    make_ready(&pods, "b", "10.42.0.3", false).await.unwrap();
    let two = slices(&cluster, "two endpoints", |slices| shown(slices).len() == 2).await;
    assert_eq!(shown(&two), [("10.42.0.2".into(), true, false), ("10.42.0.3".into(), false, false)]);
    assert_eq!(two.len(), 1);
    let slice = &two[0];
    assert!(slice.name_any().starts_with("web-"));
    assert_eq!(slice.labels()["endpointslice.kubernetes.io/managed-by"], "endpointslice-controller.k8s.io");
    assert_eq!(slice.labels()["team"], "a");
    assert_eq!(slice.owner_references()[0].uid, service.metadata.uid.unwrap());
    let port = &slice.ports.as_ref().unwrap()[0];
    assert_eq!((port.name.as_deref(), port.port), (Some("http"), Some(8080)));
    let endpoint = &slice.endpoints.as_ref().unwrap()[0];
    assert_eq!(endpoint.node_name.as_deref(), Some("one"));
    assert_eq!(endpoint.target_ref.as_ref().unwrap().kind.as_deref(), Some("Pod"));
    let legacy = when(&cluster.api::<Endpoints>(), "web", "an address", |endpoints| {
        endpoints.subsets.as_ref().is_some_and(|subsets| subsets[0].not_ready_addresses.is_some())
    })
    .await;
    assert_eq!(legacy.subsets.unwrap()[0].addresses.as_ref().unwrap()[0].ip, "10.42.0.2");

    make_ready(&pods, "b", "10.42.0.3", true).await.unwrap();
    slices(&cluster, "both ready", |slices| shown(slices).iter().all(|(_, ready, _)| *ready)).await;
    pods.delete("a", &DeleteParams::default()).await.unwrap();
    slices(&cluster, "one going away", |slices| {
        shown(slices) == [("10.42.0.2".into(), false, true), ("10.42.0.3".into(), true, false)]
    })
    .await;
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    pods.delete("a", &now).await.unwrap();
    slices(&cluster, "one", |slices| shown(slices) == [("10.42.0.3".into(), true, false)]).await;
    let other = Patch::Merge(json!({ "metadata": { "labels": { "app": "other" } } }));
    pods.patch("b", &PatchParams::default(), &other).await.unwrap();
    let none = slices(&cluster, "none", |slices| shown(slices).is_empty()).await;
    assert_eq!(none.len(), 1);
    let services: Api<Service> = cluster.api();
    services.delete("web", &DeleteParams::default()).await.unwrap();
    slices(&cluster, "no slice", <[EndpointSlice]>::is_empty).await;
    support::gone(&cluster.api::<Endpoints>(), "web").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unready_pods_are_published_where_that_is_asked_for() {
    let cluster = support::cluster().await;
    service(&cluster, json!({ "spec": { "clusterIP": "None", "publishNotReadyAddresses": true } })).await;
    pod(&cluster, "a").await;
    make_ready(&cluster.pods(), "a", "10.42.0.2", false).await.unwrap();
    let all = slices(&cluster, "an endpoint", |slices| shown(slices).len() == 1).await;
    assert_eq!(shown(&all), [("10.42.0.2".into(), true, false)]);
    assert_eq!(all[0].labels()["service.kubernetes.io/headless"], "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_endpoints_come_in_portions() {
    let cluster = support::cluster().await;
    cluster.run_pods();
    cluster.deployment("web", json!({ "replicas": 130 })).await;
    service(&cluster, json!({})).await;
    let all = slices(&cluster, "all endpoints", |slices| {
        let shown = shown(slices);
        shown.len() == 130 && shown.iter().all(|(_, ready, _)| *ready)
    })
    .await;
    let mut sizes: Vec<_> = all.iter().map(|slice| slice.endpoints.as_ref().unwrap().len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [30, 100]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_somebody_wrote_are_slices_too() {
    let cluster = support::cluster().await;
    service(&cluster, json!({ "spec": { "selector": null } })).await;
    let endpoints: Api<Endpoints> = cluster.api();
    cluster
        .create::<Endpoints>(json!({
            "metadata": { "name": "web" },
            "subsets": [{
                "addresses": [{ "ip": "192.0.2.1" }], "notReadyAddresses": [{ "ip": "192.0.2.2" }],
                "ports": [{ "name": "http", "port": 8080 }],
            }],
        }))
        .await;
    let both = |slices: &[EndpointSlice]| {
        let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        let mut both: Vec<_> = endpoints
            .map(|endpoint| (endpoint.addresses[0].clone(), endpoint.conditions.as_ref().unwrap().ready))
            .collect();
        both.sort();
        both
    };
    let all = slices(&cluster, "two endpoints", |slices| both(slices).len() == 2).await;
    assert_eq!(both(&all), [("192.0.2.1".into(), Some(true)), ("192.0.2.2".into(), Some(false))]);
    let manager = &all[0].labels()["endpointslice.kubernetes.io/managed-by"];
    assert_eq!(manager, "endpointslicemirroring-controller.k8s.io");
    assert_eq!(all[0].ports.as_ref().unwrap()[0].port, Some(8080));
    let change = json!({ "subsets": [{ "addresses": [{ "ip": "192.0.2.9" }], "ports": [{ "port": 1 }] }] });
    endpoints.patch("web", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
    slices(&cluster, "another", |slices| both(slices) == [("192.0.2.9".into(), Some(true))]).await;
    let services: Api<Service> = cluster.api();
    services.delete("web", &DeleteParams::default()).await.unwrap();
    slices(&cluster, "none", <[EndpointSlice]>::is_empty).await;
    assert!(endpoints.get_opt("web").await.unwrap().is_some());
    service(&cluster, json!({ "spec": { "selector": null } })).await;
    slices(&cluster, "the endpoint", |slices| both(slices).len() == 1).await;
    // With a selector it has the endpoints of pods: none here.
    let selector = Patch::Merge(json!({ "spec": { "selector": { "app": "web" } } }));
    services.patch("web", &PatchParams::default(), &selector).await.unwrap();
    slices(&cluster, "none", |slices| slices.len() == 1 && both(slices).is_empty()).await;
}
