//! CronJobs against the real API server, in the same process. None waits for a minute to pass: a CronJob is told that it last
//! ran long ago.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use support::{Cluster, gone, merge, when, when_all};

/// A time so many minutes ago, in whole minutes, and the schedule that names it in each hour.
fn ago(minutes: i64) -> (Timestamp, String) {
    let time = Timestamp::from_second((Timestamp::now().as_second() / 60 - minutes) * 60).unwrap();
    (time, format!("{} * * * *", time.to_zoned(TimeZone::UTC).minute()))
}

fn job_name(name: &str, time: Timestamp) -> String {
    format!("{name}-{}", time.as_second() / 60)
}

/// A CronJob that last ran half an hour ago.
async fn create(cluster: &Cluster, name: &str, schedule: &str, change: Value) {
    let pod = json!({ "restartPolicy": "Never", "containers": [{ "name": "c", "image": "work:1" }] });
    let mut cron = json!({
        "metadata": { "name": name },
        "spec": {
            "schedule": schedule, "suspend": true, "timeZone": "Etc/UTC",
            "jobTemplate": { "metadata": { "labels": { "cron": name } }, "spec": { "template": { "spec": pod } } },
        },
    });
    merge(&mut cron["spec"], change);
    let _: CronJob = cluster.create(cron).await;
    let last = Timestamp::now() - Duration::from_secs(1800);
    let status = Patch::Merge(
        json!({ "status": { "lastScheduleTime": Timestamp::from_second(last.as_second()).unwrap() } }),
    );
    cluster.api::<CronJob>().patch_status(name, &PatchParams::default(), &status).await.unwrap();
    patch(cluster, name, json!({ "suspend": false })).await;
}

async fn patch(cluster: &Cluster, name: &str, spec: Value) {
    let patch = Patch::Merge(json!({ "spec": spec }));
    cluster.api::<CronJob>().patch(name, &PatchParams::default(), &patch).await.unwrap();
}

fn active(cron: &CronJob) -> Vec<String> {
    let active = cron.status.clone().unwrap_or_default().active.unwrap_or_default();
    active.into_iter().filter_map(|job| job.name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_time_that_was_missed_is_made_up_for_and_told_to_the_end() {
    let cluster = support::cluster().await;
    let (time, schedule) = ago(5);
    create(&cluster, "tick", &schedule, json!({})).await;
    let name = job_name("tick", time);
    let crons = cluster.api::<CronJob>();
    let cron = when(&crons, "tick", "a job", |cron| active(cron) == [name.clone()]).await;
    assert_eq!(cron.status.unwrap().last_schedule_time.unwrap().0, time);
    let job = cluster.api::<Job>().get(&name).await.unwrap();
    assert_eq!(job.labels()["cron"], "tick");
    assert_eq!(job.owner_references()[0].kind, "CronJob");
    let told = &job.annotations()["batch.kubernetes.io/cronjob-scheduled-timestamp"];
    assert_eq!(told.parse::<Timestamp>().unwrap(), time);
    cluster.event("SuccessfulCreate", &format!("Created job {name}")).await;
    cluster.run_pods_until(|_| Some(0));
    let is_over = |cron: &CronJob| {
        active(cron).is_empty() && cron.status.as_ref().unwrap().last_successful_time.is_some()
    };
    when(&crons, "tick", "the end", is_over).await;
    let message = format!("Saw completed job: {name}, condition: Complete");
    let event = cluster.event("SawCompletedJob", &message).await;
    assert_eq!(event.source.unwrap().component.as_deref(), Some("cronjob-controller"));
    crons.delete("tick", &DeleteParams::background()).await.unwrap();
    gone(&cluster.api::<Job>(), &name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_still_runs_is_joined_waited_for_or_replaced() {
    let cluster = support::cluster().await;
    cluster.run_pods();
    let ((first, before), (second, after)) = (ago(10), ago(5));
    let crons = cluster.api::<CronJob>();
    for policy in ["Allow", "Forbid", "Replace"] {
        let name = policy.to_lowercase();
        create(&cluster, &name, &before, json!({ "concurrencyPolicy": policy })).await;
        let one = job_name(&name, first);
        when(&crons, &name, "a job", |cron| active(cron) == [one.clone()]).await;
        patch(&cluster, &name, json!({ "schedule": after })).await;
    }
    let (one, two) = (|name: &str| job_name(name, first), |name: &str| job_name(name, second));
    when(&crons, "allow", "two jobs", |cron| active(cron) == [one("allow"), two("allow")]).await;
    when(&crons, "replace", "the other job", |cron| active(cron) == [two("replace")]).await;
    gone(&cluster.api::<Job>(), &one("replace")).await;
    cluster.event("JobAlreadyActive", "Not starting job because prior execution is running").await;
    assert_eq!(active(&crons.get("forbid").await.unwrap()), [one("forbid")]);
    // When the way is free, what is late is made up for.
    cluster.api::<Job>().delete(&one("forbid"), &DeleteParams::background()).await.unwrap();
    when(&crons, "forbid", "the other job", |cron| active(cron) == [two("forbid")]).await;
    cluster.event("MissingJob", &format!("Active job went missing: {}", one("forbid"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_ended_is_kept_as_far_as_is_asked_for() {
    let cluster = support::cluster().await;
    cluster.run_pods_until(|pod| Some(i32::from(pod.name_any().starts_with("bad"))));
    let (time, schedule) = ago(5);
    let once = json!({ "spec": { "backoffLimit": 0 } });
    let none = |limit: &str| json!({ limit: 0, "jobTemplate": once });
    create(&cluster, "good", &schedule, none("successfulJobsHistoryLimit")).await;
    create(&cluster, "bad", &schedule, none("failedJobsHistoryLimit")).await;
    for name in ["good", "bad"] {
        cluster.event("SuccessfulDelete", &format!("Deleted job {}", job_name(name, time))).await;
    }
    create(&cluster, "kept", &schedule, json!({ "jobTemplate": once })).await;
    let crons = cluster.api::<CronJob>();
    when(&crons, "kept", "the end", |cron| cron.status.as_ref().unwrap().last_successful_time.is_some())
        .await;
    let left = when_all(&cluster.api::<Job>(), "one job", |jobs| jobs.len() == 1).await;
    assert_eq!(left[0].name_any(), job_name("kept", time));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_woken_at_its_time() {
    let cluster = support::cluster().await;
    let begin = Timestamp::now();
    create(&cluster, "soon", "0 0 1 1 *", json!({})).await;
    // Of the schedule that is put in the place of the other, nothing is due for two seconds.
    let last = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    let status = Patch::Merge(json!({ "status": { "lastScheduleTime": last } }));
    cluster.api::<CronJob>().patch_status("soon", &PatchParams::default(), &status).await.unwrap();
    patch(&cluster, "soon", json!({ "schedule": "@every 2s" })).await;
    when_all(&cluster.api::<Job>(), "a job", |jobs| jobs.len() == 1).await;
    assert!(Timestamp::now().duration_since(begin) >= jiff::SignedDuration::from_secs(1));
    assert!(
        cluster.api::<Job>().list(&ListParams::default()).await.unwrap().items[0]
            .name_any()
            .starts_with("soon-")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_missed_times_are_worth_a_word() {
    let cluster = support::cluster().await;
    create(&cluster, "late", "0 0 1 1 *", json!({})).await;
    let last = Timestamp::from_second(Timestamp::now().as_second() - 86_400).unwrap();
    let status = Patch::Merge(json!({ "status": { "lastScheduleTime": last } }));
    cluster.api::<CronJob>().patch_status("late", &PatchParams::default(), &status).await.unwrap();
    patch(&cluster, "late", json!({ "schedule": "* * * * *" })).await;
    cluster.event("TooManyMissedTimes", "too many missed start times").await;
    when(&cluster.api::<CronJob>(), "late", "a job", |cron| !active(cron).is_empty()).await;
}
