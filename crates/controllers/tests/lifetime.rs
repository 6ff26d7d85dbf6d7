//! Owners, namespaces and what they begin with, against the real API server, in the same process.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use support::{gone, when, when_all};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_go_after_their_owner() {
    let cluster = support::cluster().await;
    cluster.deployment("web", json!({})).await;
    when_all(&cluster.pods(), "three pods", |pods| pods.len() == 3).await;
    cluster.deployments().delete("web", &DeleteParams::background()).await.unwrap();
    when_all(&cluster.sets(), "no sets", <[ReplicaSet]>::is_empty).await;
    when_all(&cluster.pods(), "no pods", <[Pod]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_waits_for_its_dependents_where_that_is_asked_for() {
    let cluster = support::cluster().await;
    cluster.deployment("web", json!({ "replicas": 2 })).await;
    let pods = when_all(&cluster.pods(), "two pods", |pods| pods.len() == 2).await;
    let hold = Patch::Merge(json!({ "metadata": { "finalizers": ["example.com/hold"] } }));
    for pod in &pods {
        cluster.pods().patch(&pod.name_any(), &PatchParams::default(), &hold).await.unwrap();
    }
    cluster.deployments().delete("web", &DeleteParams::foreground()).await.unwrap();
    when_all(&cluster.pods(), "pods on their way out", |pods| {
        pods.iter().all(|pod| pod.metadata.deletion_timestamp.is_some())
    })
    .await;
    let waiting = cluster.deployments().get("web").await.unwrap();
    assert_eq!(waiting.finalizers(), ["foregroundDeletion"]);
    let release = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    for pod in &pods {
        // The collector may have added its own.
        cluster.pods().patch(&pod.name_any(), &PatchParams::default(), &release).await.unwrap();
    }
    gone(&cluster.deployments(), "web").await;
    assert!(cluster.pods().list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_stay() {
    let cluster = support::cluster().await;
    cluster.deployment("web", json!({ "replicas": 2 })).await;
    when_all(&cluster.pods(), "two pods", |pods| pods.len() == 2).await;
    cluster.deployments().delete("web", &DeleteParams::orphan()).await.unwrap();
    gone(&cluster.deployments(), "web").await;
    let sets =
        when_all(&cluster.sets(), "a set of nobody", |sets| sets[0].owner_references().is_empty()).await;
    assert_eq!(sets.len(), 1);
    assert_eq!(cluster.pods().list(&ListParams::default()).await.unwrap().items.len(), 2);
    // A Deployment of the same labels takes the set again.
    let again = cluster.deployment("web", json!({ "replicas": 2 })).await;
    when_all(&cluster.sets(), "the set taken", |sets| {
        sets.len() == 1
            && sets[0].owner_references().first().map(|owner| &owner.uid) == again.metadata.uid.as_ref()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_never_had_its_owner_goes() {
    let cluster = support::cluster().await;
    let owned = |name: &str, owners: serde_json::Value| json!({ "metadata": { "name": name, "ownerReferences": owners } });
    let owner: ConfigMap = cluster.create(json!({ "metadata": { "name": "owner" } })).await;
    let there =
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid });
    let absent = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "no-such-uid" });
    cluster.create::<ConfigMap>(owned("both", json!([there, absent]))).await;
    cluster.create::<ConfigMap>(owned("lost", json!([absent]))).await;
    let maps: Api<ConfigMap> = cluster.api();
    gone(&maps, "lost").await;
    when(&maps, "both", "one owner left", |map| map.owner_references().len() == 1).await;
    // An object of the whole cluster is not collected for an owner that lies in a namespace.
    let node: Node = serde_json::from_value(owned("node", json!([absent]))).unwrap();
    let nodes = Api::<Node>::all(cluster.client.clone());
    nodes.create(&PostParams::default(), &node).await.unwrap();
    cluster.create::<ConfigMap>(owned("lost-too", json!([absent]))).await;
    maps.delete("owner", &DeleteParams::default()).await.unwrap();
    gone(&maps, "both").await;
    gone(&maps, "lost-too").await;
    assert_eq!(nodes.get("node").await.unwrap().owner_references().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_begin_with_an_account_and_end_empty() {
    let cluster = support::cluster().await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let wanted: Namespace = serde_json::from_value(json!({ "metadata": { "name": "shop" } })).unwrap();
    namespaces.create(&PostParams::default(), &wanted).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "shop");
    when(&accounts, "default", "the account", |_| true).await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "shop");
    let map = when(&maps, "kube-root-ca.crt", "the certificate", |_| true).await;
    assert_eq!(map.data.unwrap()["ca.crt"], support::AUTHORITY);
    // What is taken away comes back.
    accounts.delete("default", &DeleteParams::default()).await.unwrap();
    when(&accounts, "default", "the account", |_| true).await;

    let held: ConfigMap = serde_json::from_value(json!({
        "metadata": { "name": "held", "finalizers": ["example.com/hold"] } }))
    .unwrap();
    maps.create(&PostParams::default(), &held).await.unwrap();
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    let waiting = when(&namespaces, "shop", "what is left", |namespace| {
        let conditions = namespace.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|all| {
            all.iter().any(|one| one.type_ == "NamespaceFinalizersRemaining" && one.status == "True")
        })
    })
    .await;
    let conditions = waiting.status.unwrap().conditions.unwrap();
    let message =
        |kind: &str| conditions.iter().find(|one| one.type_ == kind).unwrap().message.clone().unwrap();
    assert_eq!(
        message("NamespaceContentRemaining"),
        "Some resources are remaining: configmaps. has 1 resource instances"
    );
    assert_eq!(
        message("NamespaceFinalizersRemaining"),
        "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
    );
    let release = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    maps.patch("held", &PatchParams::default(), &release).await.unwrap();
    gone(&namespaces, "shop").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_definitions_have_added_goes_with_its_namespace() {
    let cluster = support::cluster().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let definition = serde_json::from_value(json!({
        "metadata": { "name": "widgets.example.com" },
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": { "plural": "widgets", "kind": "Widget" },
            "versions": [{ "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object" } } }],
        },
    }));
    definitions.create(&PostParams::default(), &definition.unwrap()).await.unwrap();
    when(&definitions, "widgets.example.com", "it is served", |definition| {
        let conditions = definition.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Established" && one.status == "True"))
    })
    .await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let shop: Namespace = serde_json::from_value(json!({ "metadata": { "name": "shop" } })).unwrap();
    namespaces.create(&PostParams::default(), &shop).await.unwrap();
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Widget"));
    let widgets = Api::<DynamicObject>::namespaced_with(cluster.client.clone(), "shop", &resource);
    let widget = DynamicObject::new("one", &resource).data(json!({}));
    widgets.create(&PostParams::default(), &widget).await.unwrap();
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    gone(&namespaces, "shop").await;
    assert_eq!(widgets.get_opt("one").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_in_use_stays_until_its_last_pod_is_gone() {
    let cluster = support::cluster().await;
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(cluster.client.clone());
    let claim = serde_json::from_value(json!({
        "metadata": { "name": "data" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
    }));
    claims.create(&PostParams::default(), &claim.unwrap()).await.unwrap();
    let pod = serde_json::from_value(json!({
        "metadata": { "name": "user" },
        "spec": {
            "nodeName": "n1",
            "containers": [{ "name": "c", "image": "web" }],
            "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "data" } }],
        },
    }));
    cluster.pods().create(&PostParams::default(), &pod.unwrap()).await.unwrap();
    let deleted = claims.delete("data", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(deleted.finalizers(), ["kubernetes.io/pvc-protection"]);

    // A volume that no claim has goes at once, and with it all that was asked for before has been looked at.
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    let volume = serde_json::from_value(json!({
        "metadata": { "name": "free" },
        "spec": {
            "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"], "hostPath": { "path": "/tmp/free" },
        },
    }));
    volumes.create(&PostParams::default(), &volume.unwrap()).await.unwrap();
    volumes.delete("free", &DeleteParams::default()).await.unwrap();
    gone(&volumes, "free").await;
    assert!(claims.get("data").await.unwrap().metadata.deletion_timestamp.is_some());

    cluster.pods().delete("user", &DeleteParams::default().grace_period(0)).await.unwrap();
    gone(&claims, "data").await;
}
