//! Deployments and ReplicaSets against the real API server, in the same process.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use serde_json::json;
use support::{condition, is_rolled_out, make_ready, template, when, when_all};

const REVISION: &str = "deployment.kubernetes.io/revision";

fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().unwrap().replicas.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_becomes_pods_and_tells_how_far_it_is() {
    let cluster = support::cluster().await;
    cluster.deployment("web", json!({})).await;
    let pods = when_all(&cluster.pods(), "three pods", |pods| pods.len() == 3).await;
    let set = &cluster.sets().list(&ListParams::default()).await.unwrap().items[0];
    let hash = &set.labels()["pod-template-hash"];
    assert_eq!(set.name_any(), format!("web-{hash}"));
    assert_eq!(set.annotations()["deployment.kubernetes.io/desired-replicas"], "3");
    assert_eq!(set.annotations()["deployment.kubernetes.io/max-replicas"], "4");
    assert_eq!(set.annotations()[REVISION], "1");
    for pod in &pods {
        assert!(pod.name_any().starts_with(&format!("web-{hash}-")));
        assert_eq!(&pod.labels()["pod-template-hash"], hash);
        let owner = &pod.owner_references()[0];
        assert_eq!((owner.kind.as_str(), owner.controller), ("ReplicaSet", Some(true)));
    }
    let starting = when(&cluster.deployments(), "web", "a count", |deployment| {
        deployment.status.as_ref().is_some_and(|status| status.unavailable_replicas == Some(3))
    })
    .await;
    assert_eq!(condition(&starting, "Available").unwrap().1, "MinimumReplicasUnavailable");
    assert_eq!(condition(&starting, "Progressing").unwrap().0, "True");
    cluster.run_pods();
    let done = when(&cluster.deployments(), "web", "the end of the rollout", is_rolled_out).await;
    assert_eq!(condition(&done, "Available").unwrap().1, "MinimumReplicasAvailable");
    assert_eq!(done.annotations()[REVISION], "1");
    assert_eq!(done.status.unwrap().ready_replicas, Some(3));
    let event = cluster.event("ScalingReplicaSet", "from 0 to 3").await;
    assert_eq!(event.message.unwrap(), format!("Scaled up replica set web-{hash} from 0 to 3"));
    assert_eq!(event.source.unwrap().component.as_deref(), Some("deployment-controller"));
    cluster.event("SuccessfulCreate", "Created pod: web-").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_keeps_its_limits_and_can_be_undone() {
    let cluster = support::cluster().await;
    cluster.deployment("web", json!({ "replicas": 4 })).await;
    cluster.run_pods();
    when(&cluster.deployments(), "web", "the first rollout", is_rolled_out).await;
    // 25 % of 4: one more, and one may be missing.
    let watcher = tokio::spawn({
        let pods = cluster.pods();
        async move {
            let list = pods.list(&ListParams::default()).await.unwrap();
            let mut known: BTreeMap<String, Pod> =
                list.items.into_iter().map(|pod| (pod.name_any(), pod)).collect();
            let version = list.metadata.resource_version.unwrap();
            let mut events = pods.watch(&WatchParams::default(), &version).await.unwrap().boxed();
            let (mut most, mut least) = (0, usize::MAX);
            while let Some(event) = events.next().await {
                match event.unwrap() {
                    WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                        known.insert(pod.name_any(), pod);
                    }
                    WatchEvent::Deleted(pod) => {
                        known.remove(&pod.name_any());
                    }
                    _ => continue,
                }
                let alive = known.values().filter(|pod| pod.metadata.deletion_timestamp.is_none());
                most = most.max(alive.clone().count());
                let ready = alive.clone().filter(|pod| pod.status.as_ref().unwrap().pod_ip.is_some());
                least = least.min(ready.count());
                let new = alive
                    .filter(|pod| {
                        pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("web:2")
                            && pod.status.as_ref().unwrap().pod_ip.is_some()
                    })
                    .count();
                if new == 4 && known.len() == 4 {
                    break;
                }
            }
            (most, least)
        }
    });
    cluster.set_image("web", "web:2").await;
    when(&cluster.deployments(), "web", "the second rollout", |deployment| {
        is_rolled_out(deployment) && deployment.annotations()[REVISION] == "2"
    })
    .await;
    let (most, least) = support::within("the pods", watcher).await.unwrap();
    assert!(most <= 5 && least >= 3, "{most} pods at the most, {least} ready at the least");
    let sets = cluster.sets().list(&ListParams::default()).await.unwrap().items;
    let first = sets.iter().find(|set| set.annotations()[REVISION] == "1").unwrap();
    assert_eq!((sets.len(), replicas(first)), (2, 0));
    // Back, as `kubectl rollout undo` does it.
    cluster.set_image("web", "web:1").await;
    when(&cluster.deployments(), "web", "the way back", |deployment| {
        is_rolled_out(deployment) && deployment.annotations()[REVISION] == "3"
    })
    .await;
    let again = cluster.sets().get(&first.name_any()).await.unwrap();
    assert_eq!(again.annotations()[REVISION], "3");
    assert_eq!(again.annotations()["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(replicas(&again), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recreate_waits_until_the_old_pods_are_gone() {
    let cluster = support::cluster().await;
    cluster.deployment("web", json!({ "replicas": 2, "strategy": { "type": "Recreate" } })).await;
    let pods = cluster.pods();
    let first = when_all(&pods, "two pods", |pods| pods.len() == 2).await;
    for (number, pod) in first.iter().enumerate() {
        // Held back, as by a node that takes its time.
        let hold = json!({ "metadata": { "finalizers": ["example.com/hold"] } });
        let name = pod.name_any();
        pods.patch(&name, &PatchParams::default(), &Patch::Merge(hold)).await.unwrap();
        make_ready(&pods, &name, &format!("10.42.0.{}", number + 2), true).await.unwrap();
    }
    when(&cluster.deployments(), "web", "the first rollout", is_rolled_out).await;
    cluster.set_image("web", "web:2").await;
    when_all(&pods, "the end of the old pods", |pods| {
        pods.iter().all(|pod| pod.metadata.deletion_timestamp.is_some())
    })
    .await;
    when(&cluster.deployments(), "web", "the generation", |deployment| {
        deployment.status.as_ref().unwrap().observed_generation == Some(2)
    })
    .await;
    assert_eq!(pods.list(&ListParams::default()).await.unwrap().items.len(), 2);
    for pod in &first {
        let release = json!({ "metadata": { "finalizers": null } });
        pods.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(release)).await.unwrap();
    }
    when_all(&pods, "new pods", |pods| {
        pods.len() == 2
            && pods
                .iter()
                .all(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("web:2"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_deployment_scales_but_rolls_nothing_out() {
    let cluster = support::cluster().await;
    cluster.deployment("web", json!({})).await;
    cluster.run_pods();
    when(&cluster.deployments(), "web", "the first rollout", is_rolled_out).await;
    cluster.patch("web", json!({ "spec": { "paused": true, "replicas": 5 } })).await;
    cluster.set_image("web", "web:2").await;
    when_all(&cluster.pods(), "five pods", |pods| pods.len() == 5).await;
    let paused = when(&cluster.deployments(), "web", "the pause", |deployment| {
        condition(deployment, "Progressing").is_some_and(|(_, reason)| reason == "DeploymentPaused")
            && deployment.status.as_ref().unwrap().observed_generation == deployment.metadata.generation
    })
    .await;
    assert_eq!(paused.status.unwrap().updated_replicas, None);
    assert_eq!(cluster.sets().list(&ListParams::default()).await.unwrap().items.len(), 1);
    cluster.patch("web", json!({ "spec": { "paused": false } })).await;
    when(&cluster.deployments(), "web", "the rollout", is_rolled_out).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_that_does_not_move_is_said_to_be_stuck() {
    let cluster = support::cluster().await;
    cluster.deployment("web", json!({ "progressDeadlineSeconds": 1 })).await;
    let stuck = when(&cluster.deployments(), "web", "the deadline", |deployment| {
        condition(deployment, "Progressing").is_some_and(|(_, reason)| reason == "ProgressDeadlineExceeded")
    })
    .await;
    assert_eq!(condition(&stuck, "Progressing").unwrap().0, "False");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_so_many_old_sets_are_kept() {
    let cluster = support::cluster().await;
    cluster.deployment("web", json!({ "replicas": 1, "revisionHistoryLimit": 1 })).await;
    cluster.run_pods();
    for revision in 1..=4 {
        if revision > 1 {
            cluster.set_image("web", &format!("web:{revision}")).await;
        }
        when(&cluster.deployments(), "web", "a rollout", |deployment| {
            is_rolled_out(deployment) && deployment.annotations()[REVISION] == revision.to_string()
        })
        .await;
    }
    let left = when_all(&cluster.sets(), "two sets", |sets| sets.len() == 2).await;
    let mut revisions: Vec<_> = left.iter().map(|set| set.annotations()[REVISION].as_str()).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, ["3", "4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sets_take_orphans_and_let_strangers_go() {
    let cluster = support::cluster().await;
    let mut orphan = template("web", "web:1");
    orphan["metadata"]["name"] = json!("orphan");
    cluster.create::<Pod>(orphan).await;
    let set = json!({
        "metadata": { "name": "web" },
        "spec": { "replicas": 2, "selector": { "matchLabels": { "app": "web" } }, "template": template("web", "web:1") },
    });
    let set: ReplicaSet = cluster.create(set).await;
    let pods = cluster.pods();
    let uid = set.metadata.uid.unwrap();
    let owned = |pod: &Pod| pod.owner_references().iter().any(|owner| owner.uid == uid);
    let all = when_all(&pods, "two pods", |pods| pods.len() == 2 && pods.iter().all(owned)).await;
    assert!(all.iter().any(|pod| pod.name_any() == "orphan"));
    let change = Patch::Merge(json!({ "metadata": { "labels": { "app": "other" } } }));
    pods.patch("orphan", &PatchParams::default(), &change).await.unwrap();
    when(&pods, "orphan", "no owner", |pod| pod.owner_references().is_empty()).await;
    when_all(&pods, "a third pod", |pods| pods.len() == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_more_pods_than_wanted() {
    let cluster = support::cluster().await;
    let made = tokio::spawn({
        let pods = cluster.pods();
        async move {
            let mut events = pods.watch(&WatchParams::default(), "0").await.unwrap().boxed();
            let (mut added, mut deleted) = (0, 0);
            while added - deleted != 5 || added < 50 {
                match events.next().await.unwrap().unwrap() {
                    WatchEvent::Added(_) => added += 1,
                    WatchEvent::Deleted(_) => deleted += 1,
                    _ => {}
                }
            }
            (added, deleted)
        }
    });
    cluster.deployment("web", json!({ "replicas": 50 })).await;
    when_all(&cluster.pods(), "fifty pods", |pods| pods.len() == 50).await;
    cluster.patch("web", json!({ "spec": { "replicas": 5 } })).await;
    assert_eq!(support::within("five pods", made).await.unwrap(), (50, 45));
    when(&cluster.deployments(), "web", "the count", |deployment| {
        deployment.status.as_ref().unwrap().replicas == Some(5)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_that_begin_again_go_on() {
    let mut cluster = support::cluster().await;
    cluster.run_pods();
    cluster.deployment("web", json!({})).await;
    cluster.deployment("gone", json!({})).await;
    for name in ["web", "gone"] {
        when(&cluster.deployments(), name, "the rollout", is_rolled_out).await;
    }
    let set = cluster.sets().list(&ListParams::default()).await.unwrap().items.remove(0).name_any();
    cluster.stop_controllers().await;
    cluster.patch("web", json!({ "spec": { "replicas": 5 } })).await;
    cluster.deployments().delete("gone", &DeleteParams::background()).await.unwrap();
    let pods = cluster.pods().list(&ListParams::default()).await.unwrap().items;
    assert_eq!(pods.len(), 6);
    cluster.start_controllers();
    when(&cluster.deployments(), "web", "the rollout", is_rolled_out).await;
    let left = when_all(&cluster.pods(), "the pods of one", |pods| pods.len() == 5).await;
    assert!(left.iter().all(|pod| pod.labels()["app"] == "web"));
    let sets = when_all(&cluster.sets(), "one set", |sets| sets.len() == 1).await;
    assert!(set.starts_with("gone-") || sets[0].name_any() == set);
}
