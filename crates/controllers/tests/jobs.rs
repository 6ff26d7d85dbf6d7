//! Jobs against the real API server, in the same process.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use futures_util::StreamExt as _;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{Cluster, end_pod, gone, make_ready, merge, when, when_all};

const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const TRACKING: &str = "batch.kubernetes.io/job-tracking";

async fn create(cluster: &Cluster, name: &str, change: Value) -> Job {
    let mut job = json!({
        "metadata": { "name": name },
        "spec": {
            "completions": 3, "parallelism": 2,
            "template": { "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "work:1" }] } },
        },
    });
    merge(&mut job["spec"], change);
    cluster.create(job).await
}

async fn patch(cluster: &Cluster, name: &str, spec: Value) {
    let patch = Patch::Merge(json!({ "spec": spec }));
    cluster.api::<Job>().patch(name, &PatchParams::default(), &patch).await.unwrap();
}

fn status(job: &Job) -> JobStatus {
    job.status.clone().unwrap_or_default()
}

/// The kinds and reasons of the conditions that hold.
fn conditions(job: &Job) -> Vec<(String, String)> {
    let conditions = status(job).conditions.unwrap_or_default().into_iter();
    conditions
        .filter(|condition| condition.status == "True")
        .map(|condition| (condition.type_, condition.reason.unwrap_or_default()))
        .collect()
}

fn is(job: &Job, kind: &str) -> bool {
    conditions(job).iter().any(|(known, _)| known == kind)
}

/// The Job when it has ended.
async fn ended(cluster: &Cluster, name: &str) -> Job {
    when(&cluster.api::<Job>(), name, "the end", |job| is(job, "Complete") || is(job, "Failed")).await
}

fn index(pod: &Pod) -> i32 {
    pod.annotations()[INDEX].parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_until_enough_have_succeeded() {
    let cluster = support::cluster().await;
    create(&cluster, "work", json!({})).await;
    let pods = when_all(&cluster.pods(), "two pods", |pods| pods.len() == 2).await;
    for pod in &pods {
        assert!(pod.name_any().starts_with("work-"));
        assert_eq!(pod.finalizers(), [TRACKING]);
        assert_eq!(pod.labels()["batch.kubernetes.io/job-name"], "work");
    }
    let begun = when(&cluster.api::<Job>(), "work", "two active", |job| status(job).active == Some(2)).await;
    assert_eq!((status(&begun).ready, status(&begun).terminating), (Some(0), Some(0)));
    assert!(status(&begun).start_time.is_some());
    make_ready(&cluster.pods(), &pods[0].name_any(), "10.0.0.9", true).await.unwrap();
    when(&cluster.api::<Job>(), "work", "one ready", |job| status(job).ready == Some(1)).await;
    end_pod(&cluster.pods(), &pods[0].name_any(), 0).await.unwrap();
    cluster.run_pods_until(|_| Some(0));
    let job = ended(&cluster, "work").await;
    let reason = "CompletionsReached".to_owned();
    assert_eq!(
        conditions(&job),
        [("SuccessCriteriaMet".to_owned(), reason.clone()), ("Complete".to_owned(), reason)]
    );
    let status = status(&job);
    assert_eq!(
        (status.succeeded, status.failed, status.active, status.ready),
        (Some(3), None, None, Some(0))
    );
    assert!(status.completion_time >= status.start_time);
    let pods =
        when_all(&cluster.pods(), "pods let go", |pods| pods.iter().all(|pod| pod.finalizers().is_empty()))
            .await;
    assert_eq!(pods.len(), 3);
    let event = cluster.event("Completed", "Job completed").await;
    assert_eq!(event.source.unwrap().component.as_deref(), Some("job-controller"));
    cluster.event("SuccessfulCreate", "Created pod: work-").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_index_succeeds_once() {
    let cluster = support::cluster().await;
    let seen = Mutex::new(HashSet::new());
    // The third fails the first time.
    cluster.run_pods_until(move |pod| Some(i32::from(index(pod) == 2 && seen.lock().insert(2))));
    create(&cluster, "work", json!({ "completionMode": "Indexed", "completions": 5, "parallelism": 5 }))
        .await;
    let job = ended(&cluster, "work").await;
    let status = status(&job);
    assert_eq!((status.succeeded, status.failed), (Some(5), Some(1)));
    assert_eq!(status.completed_indexes.as_deref(), Some("0-4"));
    let mut pods = cluster.pods().list(&ListParams::default()).await.unwrap().items;
    assert_eq!(pods.len(), 6);
    pods.sort_by_key(index);
    for pod in &pods {
        let index = index(pod);
        assert_eq!(pod.labels()[INDEX], index.to_string());
        assert!(pod.name_any().starts_with(&format!("work-{index}-")));
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(spec.hostname.as_ref().unwrap(), &format!("work-{index}"));
        assert_eq!(spec.containers[0].env.as_ref().unwrap()[0].name, "JOB_COMPLETION_INDEX");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_ends_as_its_policies_say() {
    let cluster = support::cluster().await;
    // What is in a pod's image is the code it ends with; of an index, one digit each.
    cluster.run_pods_until(|pod| {
        let image = pod.spec.as_ref()?.containers[0].image.clone()?;
        let codes = image.strip_prefix("exit:")?;
        let index = pod.annotations().get(INDEX).map_or(0, |index| index.parse().unwrap());
        codes.chars().nth(index).filter(|code| *code != 'x')?.to_digit(10).map(|code| code as i32)
    });
    let codes = |codes: &str| json!({ "spec": { "containers": [{ "name": "c", "image": format!("exit:{codes}") }] } });
    let indexed = |number: i32, rest: Value| {
        let mut spec = json!({ "completionMode": "Indexed", "completions": number, "parallelism": number });
        merge(&mut spec, rest);
        spec
    };
    let rule = |action: &str, code: i32| json!({ "rules": [{ "action": action, "onExitCodes": { "operator": "In", "values": [code] } }] });
    let cases = [
        (
            "limit",
            "1",
            json!({ "backoffLimit": 1, "parallelism": 1 }),
            "Failed",
            "BackoffLimitExceeded",
            json!({ "failed": 2 }),
        ),
        (
            "rule",
            "7",
            json!({ "parallelism": 1, "podFailurePolicy": rule("FailJob", 7) }),
            "Failed",
            "PodFailurePolicy",
            json!({ "failed": 1 }),
        ),
        (
            "indexes",
            "010",
            indexed(3, json!({ "backoffLimitPerIndex": 1 })),
            "Failed",
            "FailedIndexes",
            json!({ "failed": 2, "succeeded": 2, "completedIndexes": "0,2", "failedIndexes": "1" }),
        ),
        (
            "at-once",
            "030",
            indexed(3, json!({ "backoffLimitPerIndex": 5, "podFailurePolicy": rule("FailIndex", 3) })),
            "Failed",
            "FailedIndexes",
            json!({ "failed": 1, "succeeded": 2, "completedIndexes": "0,2", "failedIndexes": "1" }),
        ),
        (
            "most",
            "x11",
            indexed(3, json!({ "backoffLimitPerIndex": 0, "maxFailedIndexes": 1 })),
            "Failed",
            "MaxFailedIndexesExceeded",
            json!({ "failed": 3 }),
        ),
        (
            "enough",
            "00xx",
            indexed(4, json!({ "successPolicy": { "rules": [{ "succeededCount": 2 }] } })),
            "Complete",
            "SuccessPolicy",
            json!({ "succeeded": 2, "completedIndexes": "0,1" }),
        ),
        ("nothing", "0", json!({ "completions": 0 }), "Complete", "CompletionsReached", json!({})),
        (
            "queue",
            "0",
            json!({ "completions": null, "parallelism": 3 }),
            "Complete",
            "CompletionsReached",
            json!({ "succeeded": 3 }),
        ),
    ];
    for (name, code, change, ..) in &cases {
        let mut spec = change.clone();
        spec["template"] = codes(code);
        create(&cluster, name, spec).await;
    }
    for (name, _, _, kind, reason, expected) in &cases {
        let job = ended(&cluster, name).await;
        let last = conditions(&job).pop().unwrap();
        assert_eq!((last.0.as_str(), last.1.as_str()), (*kind, *reason), "{name}");
        let status = serde_json::to_value(status(&job)).unwrap();
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(&status[field], value, "{name} {field}: {status}");
        }
    }
    // The pod of index 0 is deleted with the Job: whether its index is told too, is a question of what was seen first.
    let most = status(&ended(&cluster, "most").await).failed_indexes.clone().unwrap();
    assert!(["1,2", "0-2"].contains(&most.as_str()), "{most}");
    cluster.event("BackoffLimitExceeded", "Job has reached the specified backoff limit").await;
    cluster.event("PodFailurePolicy", "failed with exit code 7 matching FailJob rule at index 0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_that_is_ignored_is_not_counted() {
    let cluster = support::cluster().await;
    let rules = json!([{ "action": "Ignore", "onExitCodes": { "operator": "In", "values": [9] } }]);
    let tries = Arc::new(AtomicI32::new(0));
    // The first three do not count, and one failure would be too many.
    cluster.run_pods_until({
        let tries = tries.clone();
        move |_| Some(if tries.fetch_add(1, Ordering::Relaxed) < 3 { 9 } else { 0 })
    });
    let spec = json!({ "completions": 1, "parallelism": 1, "backoffLimit": 0, "podFailurePolicy": { "rules": rules } });
    create(&cluster, "work", spec).await;
    let job = ended(&cluster, "work").await;
    assert!(is(&job, "Complete"));
    assert_eq!((status(&job).failed, status(&job).succeeded), (None, Some(1)));
    assert_eq!(tries.load(Ordering::Relaxed), 4);
}

/// The version of the first object that the watch of a kind brings and that is so.
async fn first_version<K>(api: Api<K>, is_so: impl Fn(&K) -> bool) -> u64
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + kube::Resource,
{
    let mut events = api.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    loop {
        let (WatchEvent::Added(object) | WatchEvent::Modified(object)) =
            events.next().await.unwrap().unwrap()
        else {
            continue;
        };
        if is_so(&object) {
            return object.meta().resource_version.as_ref().unwrap().parse().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_in_place_count_as_failures() {
    let cluster = support::cluster().await;
    // How it ends is written down before its pods go: nothing tells of it after that.
    let decided = tokio::spawn(first_version(cluster.api::<Job>(), |job| is(job, "FailureTarget")));
    let deleted =
        tokio::spawn(first_version(cluster.pods(), |pod| pod.metadata.deletion_timestamp.is_some()));
    let template = json!({ "spec": { "restartPolicy": "OnFailure" } });
    create(
        &cluster,
        "work",
        json!({ "completions": 1, "parallelism": 1, "backoffLimit": 2, "template": template }),
    )
    .await;
    let pod = when_all(&cluster.pods(), "a pod", |pods| pods.len() == 1).await.remove(0);
    let status = json!({ "status": { "phase": "Running", "containerStatuses": [{
        "name": "c", "image": "i", "imageID": "i", "ready": true, "restartCount": 2, "state": {},
    }] } });
    cluster
        .pods()
        .patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
    cluster.run_pods();
    let job = ended(&cluster, "work").await;
    assert_eq!(conditions(&job).pop().unwrap().1, "BackoffLimitExceeded");
    let (decided, deleted) = (decided.await.unwrap(), deleted.await.unwrap());
    assert!(decided < deleted, "{decided} {deleted}");
    gone(&cluster.pods(), &pod.name_any()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_has_a_deadline_and_a_time_to_be_kept() {
    let cluster = support::cluster().await;
    cluster.run_pods();
    create(&cluster, "slow", json!({ "activeDeadlineSeconds": 1 })).await;
    create(&cluster, "kept", json!({ "activeDeadlineSeconds": 1, "ttlSecondsAfterFinished": 1 })).await;
    let job = ended(&cluster, "slow").await;
    let reason = "DeadlineExceeded".to_owned();
    assert_eq!(
        conditions(&job),
        [("FailureTarget".to_owned(), reason.clone()), ("Failed".to_owned(), reason)]
    );
    assert_eq!(
        (status(&job).failed, status(&job).active, status(&job).terminating),
        (Some(2), None, Some(0))
    );
    ended(&cluster, "kept").await;
    gone(&cluster.api::<Job>(), "kept").await;
    when_all(&cluster.pods(), "no pods", <[Pod]>::is_empty).await;
    cluster.event("SuccessfulDelete", "Deleted pod: slow-").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_job_has_no_pods_and_begins_anew() {
    let cluster = support::cluster().await;
    cluster.run_pods();
    create(&cluster, "work", json!({ "suspend": true })).await;
    let jobs = cluster.api::<Job>();
    let job = when(&jobs, "work", "the suspension", |job| is(job, "Suspended")).await;
    assert!(status(&job).start_time.is_none());
    patch(&cluster, "work", json!({ "suspend": false })).await;
    let job = when(&jobs, "work", "two pods", |job| status(job).ready == Some(2)).await;
    assert!(!is(&job, "Suspended") && status(&job).start_time.is_some());
    patch(&cluster, "work", json!({ "suspend": true })).await;
    let is_still = |job: &Job| is(job, "Suspended") && status(job).terminating == Some(0);
    when(&jobs, "work", "the suspension", is_still).await;
    when_all(&cluster.pods(), "no pods", <[Pod]>::is_empty).await;
    cluster.event("Suspended", "Job suspended").await;
    cluster.event("Resumed", "Job resumed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_takes_orphans_lets_go_what_it_does_not_select_and_takes_its_pods_along() {
    let cluster = support::cluster().await;
    cluster.run_pods();
    let job = create(&cluster, "work", json!({})).await;
    let mut pods = when_all(&cluster.pods(), "two pods", |pods| pods.len() == 2).await;
    let pod = pods.remove(0).name_any();
    let change = |metadata: Value| {
        let (pods, pod) = (cluster.pods(), pod.clone());
        async move {
            let patch = Patch::Merge(json!({ "metadata": metadata }));
            pods.patch(&pod, &PatchParams::default(), &patch).await.unwrap();
        }
    };
    change(json!({ "ownerReferences": null, "finalizers": null })).await;
    let is_taken = |pod: &Pod| {
        pod.finalizers() == [TRACKING]
            && pod.owner_references().iter().any(|owner| Some(&owner.uid) == job.metadata.uid.as_ref())
    };
    when(&cluster.pods(), &pod, "an owner", is_taken).await;
    change(json!({ "labels": null })).await;
    let is_free = |pod: &Pod| pod.owner_references().is_empty() && pod.finalizers().is_empty();
    when(&cluster.pods(), &pod, "no owner", is_free).await;
    when_all(&cluster.pods(), "a third pod", |pods| pods.len() == 3).await;
    cluster.api::<Job>().delete("work", &DeleteParams::background()).await.unwrap();
    when_all(&cluster.pods(), "the one that is free", |pods| pods.len() == 1 && pods[0].name_any() == pod)
        .await;
    create(&cluster, "next", json!({})).await;
    when(&cluster.api::<Job>(), "next", "two pods", |job| status(job).ready == Some(2)).await;
    cluster.api::<Job>().delete("next", &DeleteParams::foreground()).await.unwrap();
    gone(&cluster.api::<Job>(), "next").await;
    assert_eq!(cluster.pods().list(&ListParams::default()).await.unwrap().items.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_that_begin_again_count_nothing_twice() {
    let mut cluster = support::cluster().await;
    create(&cluster, "work", json!({ "completions": 20, "parallelism": 10 })).await;
    let pods = when_all(&cluster.pods(), "ten pods", |pods| pods.len() == 10).await;
    cluster.stop_controllers().await;
    for (number, pod) in pods.iter().enumerate() {
        end_pod(&cluster.pods(), &pod.name_any(), i32::from(number < 3)).await.unwrap();
    }
    cluster.start_controllers();
    let counted =
        when(&cluster.api::<Job>(), "work", "the count", |job| status(job).succeeded == Some(7)).await;
    assert_eq!(status(&counted).failed, Some(3));
    cluster.stop_controllers().await;
    cluster.run_pods_until(|_| Some(0));
    cluster.start_controllers();
    let job = ended(&cluster, "work").await;
    assert_eq!((status(&job).succeeded, status(&job).failed), (Some(20), Some(3)));
    assert_eq!(cluster.pods().list(&ListParams::default()).await.unwrap().items.len(), 23);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_ends_may_be_waited_for_before_it_is_replaced() {
    let cluster = support::cluster().await;
    let spec = |policy: &str| json!({ "completions": 1, "parallelism": 1, "podReplacementPolicy": policy });
    create(&cluster, "patient", spec("Failed")).await;
    create(&cluster, "hasty", spec("TerminatingOrFailed")).await;
    let pods = when_all(&cluster.pods(), "two pods", |pods| pods.len() == 2).await;
    // A node's agent has seen them, so that deletion takes its time.
    for pod in &pods {
        let bound = Api::<Pod>::default_namespaced(cluster.client.clone());
        make_ready(&bound, &pod.name_any(), "10.0.0.9", true).await.unwrap();
        cluster.pods().delete(&pod.name_any(), &DeleteParams::default()).await.unwrap();
    }
    let jobs = cluster.api::<Job>();
    when(&jobs, "hasty", "the count", |job| status(job).failed == Some(1)).await;
    let waiting = when(&jobs, "patient", "the wait", |job| status(job).terminating == Some(1)).await;
    assert_eq!((status(&waiting).active, status(&waiting).failed), (None, None));
    cluster.run_pods();
    when(&jobs, "patient", "the replacement", |job| {
        status(job).ready == Some(1) && status(job).failed == Some(1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_indexed_job_grows_and_shrinks_and_anothers_is_left_alone() {
    let cluster = support::cluster().await;
    cluster.run_pods_until(|pod| pod.name_any().starts_with("done-2-").then_some(0));
    create(&cluster, "others", json!({ "managedBy": "example.com/queue" })).await;
    create(&cluster, "work", json!({ "completionMode": "Indexed", "completions": 2, "parallelism": 2 }))
        .await;
    let jobs = cluster.api::<Job>();
    for size in [2, 5, 3] {
        patch(&cluster, "work", json!({ "completions": size, "parallelism": size })).await;
        when(&jobs, "work", "its size", |job| {
            status(job).ready == Some(size) && status(job).active == Some(size)
        })
        .await;
        let pods = when_all(&cluster.pods(), "its pods", |pods| pods.len() == size as usize).await;
        let indexes: HashSet<i32> = pods.iter().map(index).collect();
        assert_eq!(indexes, (0..size).collect());
    }
    let spec = json!({ "completionMode": "Indexed", "completions": 3, "parallelism": 3 });
    create(&cluster, "done", spec).await;
    when(&jobs, "done", "one done", |job| status(job).completed_indexes.as_deref() == Some("2")).await;
    patch(&cluster, "done", json!({ "completions": 2, "parallelism": 2 })).await;
    let small = |job: &Job| status(job).completed_indexes.is_none() && status(job).succeeded.is_none();
    when(&jobs, "done", "nothing done", small).await;
    assert_eq!(status(&jobs.get("others").await.unwrap()), JobStatus::default());
}
