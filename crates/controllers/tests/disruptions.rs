//! Budgets and evictions against the real API server, in the same process.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use support::{Cluster, is_rolled_out, make_ready, when, when_all};

async fn budget(cluster: &Cluster, name: &str, spec: Value) {
    let mut whole = json!({ "selector": { "matchLabels": { "app": "web" } } });
    support::merge(&mut whole, spec);
    cluster.create::<PodDisruptionBudget>(json!({ "metadata": { "name": name }, "spec": whole })).await;
}

/// The budget's status when it tells expected, healthy, desired and allowed as this.
async fn counted(cluster: &Cluster, name: &str, expected: [i32; 4]) -> PodDisruptionBudgetStatus {
    let budgets = cluster.api::<PodDisruptionBudget>();
    let what = format!("{expected:?}");
    let budget = when(&budgets, name, &what, |budget| {
        budget.status.as_ref().is_some_and(|status| {
            let found = [
                status.expected_pods.unwrap_or(0),
                status.current_healthy.unwrap_or(0),
                status.desired_healthy.unwrap_or(0),
                status.disruptions_allowed.unwrap_or(0),
            ];
            found == expected && status.observed_generation == budget.metadata.generation
        })
    });
    budget.await.status.unwrap()
}

fn reason(status: &PodDisruptionBudgetStatus) -> (String, String) {
    let condition = &status.conditions.as_ref().unwrap()[0];
    assert_eq!(condition.type_, "DisruptionAllowed");
    (condition.status.clone(), condition.reason.clone())
}

async fn evict(cluster: &Cluster, name: &str) -> Result<(), kube::core::Status> {
    match cluster.pods().evict(name, &EvictParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(*status),
        Err(error) => panic!("{error}"),
    }
}

async fn names(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.pods().list(&ListParams::default()).await.unwrap();
    pods.iter().map(|pod| pod.name_any()).collect()
}

/// A pod without an owner.
async fn lone(cluster: &Cluster, name: &str) -> Pod {
    cluster
        .create(json!({
            "metadata": { "name": name, "labels": { "app": "web" } },
            "spec": { "nodeName": "n", "containers": [{ "name": "c", "image": "web" }] },
        }))
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_lets_so_many_go_and_no_more() {
    let cluster = support::cluster().await;
    cluster.run_pods();
    cluster.deployment("web", json!({})).await;
    when(&cluster.deployments(), "web", "all pods", is_rolled_out).await;
    budget(&cluster, "web", json!({ "maxUnavailable": "34%" })).await;
    // A third of three is rounded up.
    let status = counted(&cluster, "web", [3, 3, 1, 2]).await;
    assert_eq!(reason(&status), ("True".to_owned(), "SufficientPods".to_owned()));
    let gone = names(&cluster).await[0].clone();
    evict(&cluster, &gone).await.unwrap();
    when_all(&cluster.pods(), "the end of the pod", |pods| pods.iter().all(|pod| pod.name_any() != gone))
        .await;
    // Another comes in its place, and the budget is whole again.
    let status = counted(&cluster, "web", [3, 3, 1, 2]).await;
    assert_eq!(status.disrupted_pods.unwrap_or_default().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_budget_does_not_allow_is_refused_with_its_cause() {
    let cluster = support::cluster().await;
    for name in ["a", "b"] {
        lone(&cluster, name).await;
        make_ready(&cluster.pods(), name, "10.1.1.1", true).await.unwrap();
    }
    budget(&cluster, "least", json!({ "minAvailable": 2 })).await;
    let status = counted(&cluster, "least", [2, 2, 2, 0]).await;
    assert_eq!(reason(&status), ("False".to_owned(), "InsufficientPods".to_owned()));
    let refused = evict(&cluster, "a").await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (429, "TooManyRequests"));
    assert_eq!(refused.message, "Cannot evict pod as it would violate the pod's disruption budget.");
    let cause = &refused.details.unwrap().causes[0];
    assert_eq!(cause.reason, "DisruptionBudget");
    assert_eq!(cause.message, "The disruption budget least needs 2 healthy pods and has 2 currently");

    budget(&cluster, "second", json!({ "minAvailable": 0 })).await;
    counted(&cluster, "second", [2, 2, 0, 2]).await;
    let refused = evict(&cluster, "a").await.unwrap_err();
    assert_eq!(refused.code, 500);
    assert!(refused.message.starts_with("This pod has more than one PodDisruptionBudget"), "{refused:?}");
    cluster.api::<PodDisruptionBudget>().delete("least", &DeleteParams::default()).await.unwrap();

    // To try takes nothing; to do it says on the pod why it goes.
    let dry = EvictParams {
        post_options: PostParams { dry_run: true, ..PostParams::default() },
        ..EvictParams::default()
    };
    cluster.pods().evict("a", &dry).await.unwrap();
    counted(&cluster, "second", [2, 2, 0, 2]).await;
    assert!(cluster.pods().get("a").await.unwrap().metadata.deletion_timestamp.is_none());
    evict(&cluster, "a").await.unwrap();
    let pod = cluster.pods().get("a").await.unwrap();
    assert!(pod.metadata.deletion_timestamp.is_some());
    let conditions = pod.status.unwrap().conditions.unwrap();
    let target = conditions.iter().find(|condition| condition.type_ == "DisruptionTarget").unwrap();
    assert_eq!(target.reason.as_deref(), Some("EvictionByEvictionAPI"));
    counted(&cluster, "second", [2, 1, 0, 1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_do_not_serve_anyway_may_go() {
    let cluster = support::cluster().await;
    for name in ["waits", "ended", "ill"] {
        lone(&cluster, name).await;
    }
    support::end_pod(&cluster.pods(), "ended", 0).await.unwrap();
    make_ready(&cluster.pods(), "ill", "10.1.1.1", false).await.unwrap();
    budget(&cluster, "web", json!({ "minAvailable": 3 })).await;
    counted(&cluster, "web", [3, 0, 3, 0]).await;
    evict(&cluster, "ended").await.unwrap();
    evict(&cluster, "waits").await.unwrap();
    assert_eq!(evict(&cluster, "ill").await.unwrap_err().code, 429);
    let policy = json!({ "spec": { "unhealthyPodEvictionPolicy": "AlwaysAllow" } });
    let patch = Patch::Merge(policy);
    let budgets = cluster.api::<PodDisruptionBudget>();
    budgets.patch("web", &PatchParams::default(), &patch).await.unwrap();
    evict(&cluster, "ill").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_owns_pods_is_asked_for_its_scale() {
    let cluster = support::cluster().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let definition = serde_json::from_value(json!({
        "metadata": { "name": "widgets.example.com" },
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": { "plural": "widgets", "kind": "Widget" },
            "versions": [{ "name": "v1", "served": true, "storage": true,
                "subresources": { "scale": { "specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size" } },
                "schema": { "openAPIV3Schema": { "type": "object", "properties": { "spec": { "type": "object",
                    "properties": { "size": { "type": "integer" } } } } } } }],
        },
    }));
    definitions.create(&PostParams::default(), &definition.unwrap()).await.unwrap();
    when(&definitions, "widgets.example.com", "it is served", |definition| {
        let conditions = definition.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Established" && one.status == "True"))
    })
    .await;
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Widget"));
    let widgets = Api::<DynamicObject>::namespaced_with(cluster.client.clone(), "default", &resource);
    let widget = DynamicObject::new("one", &resource).data(json!({ "spec": { "size": 4 } }));
    let widget = widgets.create(&PostParams::default(), &widget).await.unwrap();
    let owner = |kind: &str, version: &str, uid: &str| json!([{ "apiVersion": version, "kind": kind, "name": "one", "uid": uid, "controller": true }]);
    cluster
        .create::<Pod>(json!({
            "metadata": { "name": "part", "labels": { "app": "web" },
                "ownerReferences": owner("Widget", "example.com/v1", &widget.uid().unwrap()) },
            "spec": { "containers": [{ "name": "c", "image": "web" }] },
        }))
        .await;
    budget(&cluster, "web", json!({ "minAvailable": "50%" })).await;
    counted(&cluster, "web", [4, 0, 2, 0]).await;

    // Where nobody can say how many there should be, none may go.
    let map: ConfigMap = cluster.create(json!({ "metadata": { "name": "one" } })).await;
    cluster
        .create::<Pod>(json!({
            "metadata": { "name": "other", "labels": { "app": "map" },
                "ownerReferences": owner("ConfigMap", "v1", &map.uid().unwrap()) },
            "spec": { "containers": [{ "name": "c", "image": "web" }] },
        }))
        .await;
    budget(&cluster, "map", json!({ "maxUnavailable": 1, "selector": { "matchLabels": { "app": "map" } } }))
        .await;
    cluster
        .event("CalculateExpectedPodCountFailed", "configmaps does not implement the scale subresource")
        .await;
    when(&cluster.api::<PodDisruptionBudget>(), "map", "its failure", |budget| {
        budget.status.as_ref().is_some_and(|status| {
            status.conditions.is_some() && reason(status) == ("False".to_owned(), "SyncFailed".to_owned())
        })
    })
    .await;
}
