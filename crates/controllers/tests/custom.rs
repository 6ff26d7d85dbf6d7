//! Kinds that definitions add while the controllers run: owners, dependents and quotas know them as they know all others.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use k8s_openapi::api::core::v1::{ConfigMap, ResourceQuota};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use support::{Cluster, gone, when, within};

const NAME: &str = "widgets.example.com";

fn definitions(cluster: &Cluster) -> Api<CustomResourceDefinition> {
    Api::all(cluster.client.clone())
}

/// Defines widgets, in a version, and waits until they are served.
async fn define(cluster: &Cluster, version: &str) {
    let definition = serde_json::from_value(json!({
        "metadata": { "name": NAME },
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": { "plural": "widgets", "kind": "Widget" },
            "versions": [{ "name": version, "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } } }],
        },
    }));
    definitions(cluster).create(&PostParams::default(), &definition.unwrap()).await.unwrap();
    when(&definitions(cluster), NAME, "it is served", |definition| {
        let conditions = definition.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Established" && one.status == "True"))
    })
    .await;
}

fn resource(version: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", version, "Widget"))
}

fn widgets(cluster: &Cluster, version: &str) -> Api<DynamicObject> {
    Api::default_namespaced_with(cluster.client.clone(), &resource(version))
}

async fn widget(cluster: &Cluster, version: &str, name: &str, metadata: Value) -> DynamicObject {
    let mut widget = DynamicObject::new(name, &resource(version)).data(json!({}));
    widget.metadata = serde_json::from_value(metadata).unwrap();
    widget.metadata.name = Some(name.to_owned());
    widgets(cluster, version).create(&PostParams::default(), &widget).await.unwrap()
}

/// Waits until an object is gone, which the watch of a custom kind tells.
async fn widget_gone(cluster: &Cluster, version: &str, name: &str) {
    within("the end of a widget", async {
        while widgets(cluster, version).get_opt(name).await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The metadata of an object that a widget owns.
fn owned(name: &str, owner: &DynamicObject) -> Value {
    let types = owner.types.as_ref().unwrap();
    json!({ "name": name, "ownerReferences": [{ "apiVersion": types.api_version, "kind": types.kind,
        "name": owner.name_any(), "uid": owner.metadata.uid, "blockOwnerDeletion": true }] })
}

async fn map(cluster: &Cluster, metadata: Value) -> ConfigMap {
    cluster.create(json!({ "metadata": metadata })).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_of_a_new_kind_take_their_dependents_along() {
    let cluster = support::cluster().await;
    let maps: Api<ConfigMap> = cluster.api();
    define(&cluster, "v1").await;
    let owner = widget(&cluster, "v1", "owner", json!({})).await;
    map(&cluster, owned("dependent", &owner)).await;
    widget(&cluster, "v1", "part", owned("part", &owner)).await;
    widgets(&cluster, "v1").delete("owner", &DeleteParams::background()).await.unwrap();
    gone(&maps, "dependent").await;
    widget_gone(&cluster, "v1", "part").await;

    // And what others own goes with them.
    let owner = map(&cluster, json!({ "name": "owner" })).await;
    let reference =
        json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid }]);
    widget(&cluster, "v1", "part", json!({ "ownerReferences": reference })).await;
    maps.delete("owner", &DeleteParams::default()).await.unwrap();
    widget_gone(&cluster, "v1", "part").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_of_a_new_kind_wait_for_their_dependents_where_that_is_asked_for() {
    let cluster = support::cluster().await;
    let maps: Api<ConfigMap> = cluster.api();
    define(&cluster, "v1").await;
    let owner = widget(&cluster, "v1", "owner", json!({})).await;
    let mut held = owned("held", &owner);
    held["finalizers"] = json!(["example.com/hold"]);
    map(&cluster, held.clone()).await;
    held["name"] = json!("held-too");
    widget(&cluster, "v1", "held-too", held).await;
    widgets(&cluster, "v1").delete("owner", &DeleteParams::foreground()).await.unwrap();
    when(&maps, "held", "it is on its way out", |map| map.metadata.deletion_timestamp.is_some()).await;
    within("the widget on its way out", async {
        while widgets(&cluster, "v1").get("held-too").await.unwrap().metadata.deletion_timestamp.is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(widgets(&cluster, "v1").get("owner").await.unwrap().finalizers(), ["foregroundDeletion"]);
    let release = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    maps.patch("held", &PatchParams::default(), &release).await.unwrap();
    widgets(&cluster, "v1").patch("held-too", &PatchParams::default(), &release).await.unwrap();
    widget_gone(&cluster, "v1", "owner").await;
    assert_eq!(
        widgets(&cluster, "v1").get_opt("held-too").await.unwrap().map(|widget| widget.name_any()),
        None
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_kind_owned_goes_when_the_kind_does() {
    let mut cluster = support::cluster().await;
    let maps: Api<ConfigMap> = cluster.api();
    define(&cluster, "v1").await;
    for round in ["first", "second"] {
        let owner = widget(&cluster, "v1", "owner", json!({})).await;
        map(&cluster, owned(round, &owner)).await;
        definitions(&cluster).delete(NAME, &DeleteParams::default()).await.unwrap();
        gone(&maps, round).await;
        gone(&definitions(&cluster), NAME).await;
        // A kind that comes back is followed again.
        define(&cluster, "v1").await;
    }
    // A kind that was there at the start is no other.
    cluster.stop_controllers().await;
    let owner = widget(&cluster, "v1", "owner", json!({})).await;
    map(&cluster, owned("third", &owner)).await;
    cluster.start_controllers();
    widgets(&cluster, "v1").delete("owner", &DeleteParams::background()).await.unwrap();
    gone(&maps, "third").await;
    let owner = widget(&cluster, "v1", "owner", json!({})).await;
    map(&cluster, owned("fourth", &owner)).await;
    definitions(&cluster).delete(NAME, &DeleteParams::default()).await.unwrap();
    gone(&maps, "fourth").await;
    gone(&definitions(&cluster), NAME).await;
    define(&cluster, "v2").await;
    let owner = widget(&cluster, "v2", "owner", json!({})).await;
    map(&cluster, owned("fifth", &owner)).await;
    widgets(&cluster, "v2").delete("owner", &DeleteParams::background()).await.unwrap();
    gone(&maps, "fifth").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_of_a_kind_that_nobody_knew_are_looked_for_when_it_is_defined() {
    let cluster = support::cluster().await;
    let maps: Api<ConfigMap> = cluster.api();
    let mut owner = DynamicObject::new("owner", &resource("v1"));
    owner.metadata.uid = Some("no-such-uid".to_owned());
    map(&cluster, owned("dependent", &owner)).await;
    // When this one is gone, the other has been looked at, and was left.
    let absent =
        json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "no-such-uid-either" }]);
    map(&cluster, json!({ "name": "lost", "ownerReferences": absent })).await;
    gone(&maps, "lost").await;
    assert!(maps.get_opt("dependent").await.unwrap().is_some());
    define(&cluster, "v1").await;
    gone(&maps, "dependent").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_count_objects_of_a_new_kind() {
    let cluster = support::cluster().await;
    let hard = json!({ "count/widgets.example.com": "2" });
    cluster.create::<ResourceQuota>(json!({ "metadata": { "name": "q" }, "spec": { "hard": hard } })).await;
    let used = async |expected: &str| {
        when(&cluster.api::<ResourceQuota>(), "q", expected, |quota| {
            let used = quota.status.as_ref().and_then(|status| status.used.as_ref());
            used.and_then(|used| used.get("count/widgets.example.com"))
                .is_some_and(|amount| amount.0 == expected)
        })
        .await;
    };
    define(&cluster, "v1").await;
    used("0").await;
    widget(&cluster, "v1", "one", json!({})).await;
    widget(&cluster, "v1", "two", json!({})).await;
    used("2").await;
    let three = DynamicObject::new("three", &resource("v1")).data(json!({}));
    let refused =
        widgets(&cluster, "v1").create(&PostParams::default(), &three).await.unwrap_err().to_string();
    assert!(refused.contains("exceeded quota: q"), "{refused}");
    widgets(&cluster, "v1").delete("one", &DeleteParams::default()).await.unwrap();
    used("1").await;
    // Nothing is left of a kind that is gone, and of one that comes back there is nothing yet.
    definitions(&cluster).delete(NAME, &DeleteParams::default()).await.unwrap();
    used("0").await;
    gone(&definitions(&cluster), NAME).await;
    define(&cluster, "v2").await;
    widget(&cluster, "v2", "one", json!({})).await;
    used("1").await;
    widgets(&cluster, "v2").delete("one", &DeleteParams::default()).await.unwrap();
    used("0").await;
}
