//! Autoscalers against the real API server, with metrics that a server of the test's own tells through it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../../apiserver/tests/support/peer.rs"]
mod peer;
mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use http::{Request, Response, header};
use hyper::body::Incoming;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler as Older;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use support::{Cluster, is_rolled_out, when};

const GROUPS: &[(&str, &str)] = &[
    ("metrics.k8s.io", "v1beta1"),
    ("custom.metrics.k8s.io", "v1beta2"),
    ("external.metrics.k8s.io", "v1beta1"),
];

/// What is told, by path, and what was asked.
#[derive(Clone, Default)]
struct Told {
    answers: Arc<Mutex<HashMap<String, Value>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Told {
    fn tell(&self, path: &str, items: Value) {
        self.answers.lock().unwrap().insert(path.to_owned(), json!({ "metadata": {}, "items": items }));
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<peer::Body> {
        let path = request.uri().path();
        self.asked.lock().unwrap().push(request.uri().to_string());
        let is_group = |(group, version): &&(&str, &str)| path == format!("/apis/{group}/{version}");
        let answer = match GROUPS.iter().find(is_group) {
            Some((group, version)) => Some(json!({
                "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{group}/{version}"),
                "resources": [],
            })),
            None => self.answers.lock().unwrap().get(path).cloned(),
        };
        let code = if answer.is_some() { 200 } else { 404 };
        let body = answer.unwrap_or_else(|| json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "message": "nothing is told",
        }));
        let answer = Response::builder().status(code).header(header::CONTENT_TYPE, "application/json");
        answer.body(peer::full(body.to_string())).unwrap()
    }
}

/// Registers a server of metrics.
async fn metrics(cluster: &Cluster) -> Told {
    let told = Told::default();
    let tls = peer::tls(&["metrics.default.svc"], None);
    let answering = told.clone();
    let address = peer::serve(Some(&tls), move |request| {
        let answer = answering.answer(&request);
        async move { answer }
    })
    .await;
    let port = address.port();
    let service = json!({ "metadata": { "name": "metrics" },
        "spec": { "type": "ExternalName", "externalName": "localhost", "ports": [{ "port": port }] } });
    cluster.create::<Service>(service).await;
    let registered: Api<APIService> = Api::all(cluster.client.clone());
    for (group, version) in GROUPS {
        let name = format!("{version}.{group}");
        let service: APIService = serde_json::from_value(json!({
            "metadata": { "name": name },
            "spec": {
                "group": group, "version": version, "groupPriorityMinimum": 100, "versionPriority": 100,
                "service": { "namespace": "default", "name": "metrics", "port": port }, "caBundle": tls.bundle,
            },
        }))
        .unwrap();
        registered.create(&PostParams::default(), &service).await.unwrap();
        when(&registered, &name, "it is served", |service| {
            let conditions = service.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions.into_iter().flatten().any(|one| one.type_ == "Available" && one.status == "True")
        })
        .await;
    }
    told
}

async fn scaler(cluster: &Cluster, target: &str, spec: Value) {
    let mut whole = json!({
        "maxReplicas": 20,
        "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": target },
    });
    support::merge(&mut whole, spec);
    cluster.create::<HorizontalPodAutoscaler>(json!({ "metadata": { "name": target }, "spec": whole })).await;
}

/// A Deployment of so many pods that run.
async fn running(cluster: &Cluster, name: &str, replicas: i32) -> Vec<String> {
    let resources = json!({ "requests": { "cpu": "100m", "memory": "100Mi" } });
    let mut template = support::template(name, "web:1");
    template["spec"]["containers"][0]["resources"] = resources;
    cluster.deployment(name, json!({ "replicas": replicas, "template": template })).await;
    when(&cluster.deployments(), name, "all pods", is_rolled_out).await;
    let selected = ListParams::default().labels(&format!("app={name}"));
    cluster.pods().list(&selected).await.unwrap().iter().map(|pod| pod.name_any()).collect()
}

async fn scaled(cluster: &Cluster, name: &str, replicas: i32) {
    when(&cluster.deployments(), name, &format!("{replicas} pods"), |deployment: &Deployment| {
        deployment.spec.as_ref().unwrap().replicas == Some(replicas)
    })
    .await;
}

/// Status and reason of a condition.
fn condition(scaler: &HorizontalPodAutoscaler, kind: &str) -> (String, String) {
    let conditions = scaler.status.as_ref().and_then(|status| status.conditions.as_ref());
    let found = conditions.into_iter().flatten().find(|condition| condition.type_ == kind);
    found.map_or_else(Default::default, |one| (one.status.clone(), one.reason.clone().unwrap_or_default()))
}

async fn when_said(cluster: &Cluster, name: &str, kind: &str, said: (&str, &str)) -> HorizontalPodAutoscaler {
    let expected = (said.0.to_owned(), said.1.to_owned());
    when(&cluster.api(), name, &format!("{kind} {said:?}"), |scaler| condition(scaler, kind) == expected)
        .await
}

fn usage(pods: &[String], container: &str, usage: Value) -> Value {
    let item = |pod: &String| {
        json!({ "metadata": { "name": pod, "namespace": "default" }, "timestamp": Timestamp::now(), "window": "30s",
            "containers": [{ "name": container, "usage": usage }] })
    };
    pods.iter().map(item).collect()
}

const RESOURCE: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods";
const CUSTOM: &str = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_use_brings_more_pods() {
    let cluster = support::cluster().await;
    cluster.run_pods();
    let told = metrics(&cluster).await;
    let pods = running(&cluster, "web", 2).await;
    told.tell(RESOURCE, usage(&pods, "c", json!({ "cpu": "200m", "memory": "50Mi" })));
    let cpu = json!({ "type": "Resource", "resource": { "name": "cpu",
        "target": { "type": "Utilization", "averageUtilization": 50 } } });
    scaler(&cluster, "web", json!({ "metrics": [cpu] })).await;
    // Four times as many would be needed; it doubles, or becomes four, at once.
    scaled(&cluster, "web", 4).await;
    let said = "New size: 4; reason: cpu resource utilization (percentage of request) above target";
    cluster.event("SuccessfulRescale", said).await;
    let scaler = when_said(&cluster, "web", "AbleToScale", ("True", "SucceededRescale")).await;
    assert_eq!(condition(&scaler, "ScalingActive"), ("True".to_owned(), "ValidMetricFound".to_owned()));
    assert_eq!(condition(&scaler, "ScalingLimited"), ("True".to_owned(), "ScaleUpLimit".to_owned()));
    let status = scaler.status.unwrap();
    assert_eq!((status.current_replicas, status.desired_replicas), (Some(2), 4));
    assert!(status.last_scale_time.is_some());
    let current = status.current_metrics.unwrap().remove(0).resource.unwrap().current;
    assert_eq!(current.average_utilization, Some(200));
    assert_eq!(current.average_value.unwrap().0, "200m");
    // The older version shows it, too.
    let older = cluster.api::<Older>().get("web").await.unwrap().status.unwrap();
    assert_eq!((older.current_cpu_utilization_percentage, older.desired_replicas), (Some(200), 4));
    assert!(told.asked.lock().unwrap().iter().any(|asked| asked.contains("labelSelector=app%3Dweb")));

    // They idle now, but a moment ago more were needed: none goes yet.
    when(&cluster.deployments(), "web", "all pods", is_rolled_out).await;
    let pods: Vec<String> =
        cluster.pods().list(&ListParams::default()).await.unwrap().iter().map(|pod| pod.name_any()).collect();
    told.tell(RESOURCE, usage(&pods, "c", json!({ "cpu": "10m" })));
    let most = Patch::Merge(json!({ "spec": { "maxReplicas": 4 } }));
    cluster.api::<HorizontalPodAutoscaler>().patch("web", &PatchParams::default(), &most).await.unwrap();
    let scaler = when_said(&cluster, "web", "AbleToScale", ("True", "ScaleDownStabilized")).await;
    assert_eq!(condition(&scaler, "ScalingLimited"), ("True".to_owned(), "TooManyReplicas".to_owned()));
    let status = scaler.status.unwrap();
    assert_eq!((status.current_replicas, status.desired_replicas), (Some(4), 4));
    let current = status.current_metrics.unwrap().remove(0).resource.unwrap().current;
    assert_eq!(current.average_utilization, Some(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_of_all_sources_count() {
    let cluster = support::cluster().await;
    cluster.run_pods();
    let told = metrics(&cluster).await;
    let value = |name: &str, value: &str| json!({ "describedObject": { "name": name }, "metric": { "name": "hits" }, "timestamp": Timestamp::now(), "value": value });
    let average = json!({ "type": "AverageValue", "averageValue": "10" });

    let pods = running(&cluster, "pods", 2).await;
    let all: Value = pods.iter().map(|pod| value(pod, "20")).collect();
    told.tell(&format!("{CUSTOM}/pods/*/hits"), all);
    let metric = json!({ "type": "Pods", "pods": { "metric": { "name": "hits" }, "target": average } });
    scaler(&cluster, "pods", json!({ "metrics": [metric] })).await;
    scaled(&cluster, "pods", 4).await;
    cluster.event("SuccessfulRescale", "New size: 4; reason: pods metric hits above target").await;

    running(&cluster, "object", 1).await;
    told.tell(&format!("{CUSTOM}/ingresses.networking.k8s.io/front/hits"), json!([value("front", "30")]));
    let metric = json!({ "type": "Object", "object": {
        "describedObject": { "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "front" },
        "metric": { "name": "hits", "selector": { "matchLabels": { "verb": "GET" } } },
        "target": { "type": "Value", "value": "10" } } });
    scaler(&cluster, "object", json!({ "metrics": [metric] })).await;
    scaled(&cluster, "object", 3).await;
    assert!(told.asked.lock().unwrap().iter().any(|asked| asked.contains("metricLabelSelector=verb%3DGET")));

    running(&cluster, "external", 1).await;
    let queues = "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/queue";
    told.tell(
        queues,
        json!([{ "metricName": "queue", "value": "30" }, { "metricName": "queue", "value": "20" }]),
    );
    let metric =
        json!({ "type": "External", "external": { "metric": { "name": "queue" }, "target": average } });
    scaler(&cluster, "external", json!({ "metrics": [metric], "maxReplicas": 3 })).await;
    scaled(&cluster, "external", 3).await;
    let scaler_now = when_said(&cluster, "external", "ScalingLimited", ("True", "TooManyReplicas")).await;
    let current = scaler_now.status.unwrap().current_metrics.unwrap().remove(0).external.unwrap().current;
    assert_eq!(current.average_value.unwrap().0, "50");

    let pods = running(&cluster, "container", 2).await;
    told.tell(RESOURCE, usage(&pods, "c", json!({ "memory": "200Mi" })));
    let metric = json!({ "type": "ContainerResource", "containerResource": { "name": "memory", "container": "c",
        "target": { "type": "AverageValue", "averageValue": "100Mi" } } });
    // One metric that nobody tells does not keep the others from adding.
    let lacking =
        json!({ "type": "External", "external": { "metric": { "name": "none" }, "target": average } });
    scaler(&cluster, "container", json!({ "metrics": [lacking, metric] })).await;
    scaled(&cluster, "container", 4).await;
    cluster.event("FailedGetExternalMetric", "nothing is told").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_an_autoscaler_from_acting_is_said() {
    let cluster = support::cluster().await;
    cluster.run_pods();
    scaler(&cluster, "gone", json!({})).await;
    let words = "deployments.apps \"gone\" not found";
    cluster.event("FailedGetScale", words).await;
    when_said(&cluster, "gone", "AbleToScale", ("False", "FailedGetScale")).await;

    cluster.deployment("none", json!({ "replicas": 0 })).await;
    scaler(&cluster, "none", json!({})).await;
    when_said(&cluster, "none", "ScalingActive", ("False", "ScalingDisabled")).await;

    // Nobody serves metrics.
    running(&cluster, "web", 1).await;
    scaler(&cluster, "web", json!({})).await;
    let scaler_now = when_said(&cluster, "web", "ScalingActive", ("False", "FailedGetResourceMetric")).await;
    assert_eq!(condition(&scaler_now, "AbleToScale"), ("True".to_owned(), "SucceededGetScale".to_owned()));
    cluster.event("FailedComputeMetricsReplicas", "invalid metrics (1 invalid out of 1)").await;

    // Bounds hold without metrics.
    running(&cluster, "few", 1).await;
    scaler(&cluster, "few", json!({ "minReplicas": 3 })).await;
    scaled(&cluster, "few", 3).await;
    cluster.event("SuccessfulRescale", "Current number of replicas below Spec.MinReplicas").await;

    // Two that are about the same pods would pull at them.
    let target =
        json!({ "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" } });
    scaler(&cluster, "second", target).await;
    when_said(&cluster, "second", "ScalingActive", ("False", "AmbiguousSelector")).await;
}
